//! A pod spec as upstream prints it when it shows what an update changed.
//!
//! Upstream marshals its internal structs, whose fields have Go names and another order than the API,
//! and are all written, empty or not. The order is data (`data/pod_spec_order.txt`): one line a
//! struct, `GoName[/jsonName]:shape`, where a shape is `s` text, `b` bool, `i` number, `q` quantity,
//! `p` anything that is `null` when absent, `*T` a struct or `null`, `=T` a struct, `[T` a list of
//! structs or `null`; `<T` takes in the fields of another line. The JSON name is the Go name with a
//! small first letter unless given.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::{Map, Value};

const ORDER: &str = include_str!("../data/pod_spec_order.txt");

#[derive(Debug, Clone, Copy)]
struct Slot {
    go: &'static str,
    /// The JSON name where it is not the Go name with a small first letter.
    json: Option<&'static str>,
    shape: &'static str,
}

type Table = HashMap<&'static str, Vec<Slot>>;

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Table::new();
        for line in ORDER.lines() {
            let mut words = line.split(' ');
            let Some(name) = words.next() else { continue };
            let mut slots = Vec::new();
            for word in words {
                if let Some(other) = word.strip_prefix('<') {
                    slots.extend(table.get(other).into_iter().flatten().copied());
                } else if let Some((names, shape)) = word.split_once(':') {
                    let (go, json) = names.split_once('/').map_or((names, None), |(go, json)| (go, Some(json)));
                    slots.push(Slot { go, json, shape });
                }
            }
            table.insert(name, slots);
        }
        table
    })
}

/// The lines of a pod spec, indented by one space a level.
pub fn lines(spec: &Value) -> Vec<String> {
    let mut writer = Writer { lines: Vec::new() };
    writer.object("PodSpec", &internal(spec), 0, "", "");
    writer.lines
}

/// The lines of one ephemeral container.
pub fn ephemeral_lines(container: &Value) -> Vec<String> {
    let mut writer = Writer { lines: Vec::new() };
    writer.object("EphemeralContainer", container, 0, "", "");
    writer.lines
}

/// The lines of a claim's spec.
pub fn claim_lines(spec: &Value) -> Vec<String> {
    let mut writer = Writer { lines: Vec::new() };
    writer.object("PersistentVolumeClaimSpec", spec, 0, "", "");
    writer.lines
}

/// A pod spec on one line.
pub fn compact(spec: &Value) -> String {
    lines(spec).iter().map(|line| without_spaces(line.trim_start())).collect()
}

/// A line without the space behind the colon of its key, if it begins with one.
fn without_spaces(line: &str) -> String {
    let mut escaped = false;
    let closing = line.char_indices().skip(1).find(|(_, c)| {
        let closes = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        closes
    });
    match closing.map(|(at, _)| line.split_at(at + 1)) {
        Some((key, rest)) if line.starts_with('"') && rest.starts_with(": ") => format!("{key}:{}", &rest[2..]),
        _ => line.to_owned(),
    }
}

/// Upstream keeps what concerns the host's namespaces in the pod's security context.
fn internal(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let context = super::object_mut(&mut spec, "securityContext").clone();
    let mut context = Value::Object(context);
    for name in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"] {
        if let Some(value) = spec.get(name) {
            context[name] = value.clone();
        }
    }
    spec["securityContext"] = context;
    spec
}

struct Writer {
    lines: Vec<String>,
}

impl Writer {
    fn line(&mut self, depth: usize, text: &str) {
        self.lines.push(format!("{:depth$}{text}", ""));
    }

    /// One struct; `before` goes in front of its brace, `after` behind the closing one.
    fn object(&mut self, name: &str, value: &Value, depth: usize, before: &str, after: &str) {
        let slots = table().get(name).map(Vec::as_slice).unwrap_or_default();
        self.line(depth, &format!("{before}{{"));
        for (i, slot) in slots.iter().enumerate() {
            let comma = if i + 1 < slots.len() { "," } else { "" };
            self.slot(slot, value, depth + 1, comma);
        }
        self.line(depth, &format!("}}{after}"));
    }

    fn slot(&mut self, slot: &Slot, parent: &Value, depth: usize, comma: &str) {
        const NULL: &Value = &Value::Null;
        let value = match slot.json {
            Some(name) => parent.get(name),
            None => parent.get(small_first(slot.go).as_str()),
        };
        let value = value.unwrap_or(NULL);
        let before = format!("\"{}\": ", slot.go);
        let (shape, struct_name) = slot.shape.split_at(1);
        match (shape, value) {
            ("=", value) => self.object(struct_name, value, depth, &before, comma),
            ("*", Value::Object(_)) => self.object(struct_name, value, depth, &before, comma),
            ("[", Value::Array(list)) if !list.is_empty() => {
                self.line(depth, &format!("{before}["));
                for (i, item) in list.iter().enumerate() {
                    self.object(struct_name, item, depth + 1, "", if i + 1 < list.len() { "," } else { "" });
                }
                self.line(depth, &format!("]{comma}"));
            }
            (_, Value::Null) => self.line(depth, &format!("{before}{}{comma}", zero(shape))),
            (_, value) => self.raw(value, depth, &before, comma),
        }
    }

    /// A value without a struct of its own here: as JSON, each part on its line.
    fn raw(&mut self, value: &Value, depth: usize, before: &str, after: &str) {
        match value {
            Value::Array(list) if !list.is_empty() => {
                self.line(depth, &format!("{before}["));
                for (i, item) in list.iter().enumerate() {
                    self.raw(item, depth + 1, "", if i + 1 < list.len() { "," } else { "" });
                }
                self.line(depth, &format!("]{after}"));
            }
            Value::Object(map) if !map.is_empty() => self.raw_object(map, depth, before, after),
            value => self.line(depth, &format!("{before}{}{after}", scalar(value))),
        }
    }

    fn raw_object(&mut self, map: &Map<String, Value>, depth: usize, before: &str, after: &str) {
        self.line(depth, &format!("{before}{{"));
        for (i, (key, value)) in map.iter().enumerate() {
            let comma = if i + 1 < map.len() { "," } else { "" };
            self.raw(value, depth + 1, &format!("{}: ", scalar(&Value::from(key.as_str()))), comma);
        }
        self.line(depth, &format!("}}{after}"));
    }
}

/// What Go writes for a field that was never set.
fn zero(shape: &str) -> &'static str {
    match shape {
        "s" => "\"\"",
        "b" => "false",
        "i" => "0",
        "q" => "\"0\"",
        _ => "null",
    }
}

/// A scalar as Go's encoder writes it, which escapes what HTML might trip over.
fn scalar(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn small_first(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_named_struct_has_a_line() {
        for (name, slots) in table() {
            for slot in slots {
                let (shape, target) = slot.shape.split_at(1);
                assert!("sbiqp*=[".contains(shape), "{name}.{}", slot.go);
                assert!(target.is_empty() || table().contains_key(target), "{name}.{}: {target}", slot.go);
            }
        }
    }

    #[test]
    fn all_fields_are_written() {
        let spec = json!({"containers": [{"name": "c", "args": ["<a>"]}], "hostPID": true});
        let lines = lines(&spec);
        assert_eq!(lines[..3], ["{", " \"Volumes\": null,", " \"InitContainers\": null,"]);
        assert!(lines.contains(&"    \"\\u003ca\\u003e\"".to_owned()));
        assert!(lines.contains(&"  \"HostPID\": true,".to_owned()));
        assert_eq!(lines.last().map(String::as_str), Some("}"));
        let line = compact(&spec);
        assert!(line.starts_with("{\"Volumes\":null,\"InitContainers\":null,"));
        let read: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read["Containers"][0]["Args"], json!(["<a>"]));
        assert_eq!(without_spaces("\"a\\\": b\": {"), "\"a\\\": b\":{");
    }
}

//! Pruning: what a schema does not name is dropped, as if it had never been sent.

use serde_json::Value;

use super::{Schema, is_meta};

/// Upstream stops listing unknown fields here.
const MAX_REPORTED: usize = 100;

/// Drops from a whole object what `schema` does not name, and adds to `unknown` the path of each:
/// `spec.parts[0].bogus`.
pub fn prune(schema: &Schema, object: &mut Value, unknown: &mut Vec<String>) {
    let mut pass = Pass { unknown, path: String::new() };
    pass.value(schema, object, true);
}

struct Pass<'a> {
    unknown: &'a mut Vec<String>,
    path: String,
}

impl Pass<'_> {
    fn value(&mut self, schema: &Schema, value: &mut Value, is_object: bool) {
        match value {
            Value::Object(map) => {
                let gone: Vec<String> =
                    map.keys().filter(|name| !(schema.keeps(name) || is_object && is_meta(name))).cloned().collect();
                for name in gone {
                    map.remove(&name);
                    if self.unknown.len() < MAX_REPORTED {
                        let path = self.below(&name);
                        self.unknown.push(path);
                    }
                }
                for (name, entry) in map.iter_mut() {
                    if is_object && is_meta(name) {
                        continue;
                    }
                    let Some(inner) = schema.entry(name) else { continue };
                    let length = self.path.len();
                    self.path = self.below(name);
                    self.value(inner, entry, inner.embedded);
                    self.path.truncate(length);
                }
            }
            Value::Array(items) => {
                let Some(inner) = &schema.items else { return };
                for (at, item) in items.iter_mut().enumerate() {
                    let length = self.path.len();
                    self.path.push_str(&format!("[{at}]"));
                    self.value(inner, item, inner.embedded);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn below(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

//! The fields that an object has, and whether they fit its type.

use std::collections::HashSet;

use serde_json::map::Entry;
use serde_json::{Map, Value};

use super::set::{self, Below, FieldSet};
use super::shape::{Atom, Entries, Place, Relation, Scalar, element_key, items};

/// The set of an object's fields: its leaves, its list elements and its entries of maps.
pub fn fields_of<'s>(root: impl Into<Place<'s>>, object: &Value) -> Result<FieldSet, String> {
    collect(root.into(), object).map(|(children, _)| FieldSet::from_node(children))
}

/// What the set holds below a value, and whether the value is a leaf.
fn collect(at: Place<'_>, value: &Value) -> Result<(Map<String, Value>, bool), String> {
    let mut children = Map::new();
    match at.atom(Some(value)) {
        Atom::Scalar(_) | Atom::List(Relation::Atomic, _) | Atom::Map { atomic: true, .. } => {
            return Ok((children, true));
        }
        Atom::List(relation, element) => {
            for item in items(Some(value)) {
                let node = |children| set::node(children, true).unwrap_or_default();
                match children.entry(element_key(relation, element, item)?) {
                    Entry::Vacant(slot) => {
                        slot.insert(node(collect(element, item)?.0));
                    }
                    // Doubles are one value together.
                    Entry::Occupied(mut double) => {
                        double.insert(node(Map::new()));
                    }
                }
            }
        }
        Atom::Map { entries, .. } => {
            for (key, value) in value.as_object().into_iter().flatten() {
                let (at, declared) = entries.get(key).unwrap_or((Place::Any, false));
                let (below, is_leaf) = collect(at, value)?;
                let is_empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if let Some(node) = set::node(below, is_leaf || is_empty || !declared) {
                    children.insert(format!("f:{key}"), node);
                }
            }
        }
    }
    Ok((children, false))
}

/// `set` and every declared field that leads to one of its fields. Structs are not in the sets of those
/// who own something in them; for taking fields away they must be.
pub fn with_structs<'s>(root: impl Into<Place<'s>>, set: &FieldSet) -> FieldSet {
    FieldSet::from_node(with_structs_below(Some(root.into()), set.root()))
}

fn with_structs_below(place: Option<Place<'_>>, set: Below<'_>) -> Map<String, Value> {
    let mut out = Map::new();
    // Only places of a declared type lead on, so no value is needed to tell what is there.
    let atom = place.map(|place| place.atom(None));
    for (key, below) in set.children() {
        let (inner, declared) = match (key.strip_prefix("f:"), atom) {
            (Some(name), Some(Atom::Map { entries, .. })) => {
                entries.get(name).map_or((None, false), |(place, declared)| (Some(place), declared))
            }
            (None, Some(Atom::List(_, element))) if key.starts_with("k:") => (Some(element), false),
            _ => (None, false),
        };
        let children = with_structs_below(inner, below);
        let member = below.is_member() || (declared && !children.is_empty());
        if let Some(node) = set::node(children, member) {
            out.insert(key.to_owned(), node);
        }
    }
    out
}

/// Checks that a configuration fits its type. The text is upstream's, which names every fault.
pub fn check<'s>(root: impl Into<Place<'s>>, config: &Value) -> Result<(), String> {
    let mut faults = Faults::default();
    check_place(root.into(), config, &mut Vec::new(), &mut faults);
    match faults.texts.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

/// Upstream lists them all; a patch of a megabyte of faults need not become an answer of many.
const MAX_FAULT_BYTES: usize = 64 << 10;

#[derive(Default)]
struct Faults {
    texts: Vec<String>,
    bytes: usize,
}

/// The keys of a path as a set has them: what they read as is worked out only for a fault.
type Path = Vec<String>;

impl Faults {
    fn add(&mut self, path: &Path, fault: &str) {
        if self.is_full() {
            return;
        }
        let keys: Vec<&str> = path.iter().map(String::as_str).collect();
        let at = set::show(&keys);
        let text = if at.is_empty() { fault.to_owned() } else { format!("{at}: {fault}") };
        self.bytes += text.len();
        self.texts.push(text);
    }

    fn is_full(&self) -> bool {
        self.bytes > MAX_FAULT_BYTES
    }
}

fn check_place(at: Place<'_>, value: &Value, path: &mut Path, faults: &mut Faults) {
    if value.is_null() || faults.is_full() {
        return;
    }
    match (at.atom(Some(value)), value) {
        (Atom::Scalar(scalar), value) => {
            if let Some(fault) = scalar_fault(scalar, value) {
                faults.add(path, &fault);
            }
        }
        (Atom::List(relation, element), Value::Array(list)) => check_list(relation, element, list, path, faults),
        (Atom::Map { entries, .. }, Value::Object(map)) => check_map(entries, map, path, faults),
        (Atom::List(..), other) => faults.add(path, &format!("expected list, got {}", shown(other))),
        (Atom::Map { .. }, other) => faults.add(path, &format!("expected map, got {}", shown(other))),
    }
}

fn check_list(relation: Relation<'_>, element: Place<'_>, list: &[Value], path: &mut Path, faults: &mut Faults) {
    let mut seen = HashSet::new();
    for (index, item) in list.iter().enumerate() {
        let key = match relation {
            Relation::Atomic => format!("i:{index}"),
            _ => match element_key(relation, element, item) {
                Ok(key) => {
                    if !seen.insert(key.clone()) {
                        faults.add(path, &format!("duplicate entries for key {}", set::show(&[&key])));
                    }
                    key
                }
                // What cannot be named cannot be looked into either.
                Err(fault) => return faults.add(path, &format!("element {index}: {fault}")),
            },
        };
        path.push(key);
        check_place(element, item, path, faults);
        path.pop();
    }
}

fn check_map(entries: Entries<'_>, map: &Map<String, Value>, path: &mut Path, faults: &mut Faults) {
    for (key, value) in map {
        path.push(format!("f:{key}"));
        match entries.get(key) {
            Some((at, _)) => check_place(at, value, path, faults),
            None => faults.add(path, "field not declared in schema"),
        }
        path.pop();
        if entries.get(key).is_none() {
            return;
        }
    }
}

fn scalar_fault(scalar: Scalar, value: &Value) -> Option<String> {
    let fits = match scalar {
        Scalar::Text => value.is_string(),
        Scalar::Number => value.is_number(),
        Scalar::Bool => value.is_boolean(),
        Scalar::Any => !value.is_object() && !value.is_array(),
    };
    if fits {
        return None;
    }
    Some(match scalar {
        Scalar::Text => format!("expected string, got {}", wrapped(value)),
        Scalar::Number => format!("expected numeric (int or float), got {}", go_type(value)),
        Scalar::Bool => format!("expected boolean, got {}", wrapped(value)),
        Scalar::Any => format!("expected any scalar, got {}", wrapped(value)),
    })
}

/// A value as upstream's errors show it.
fn wrapped(value: &Value) -> String {
    format!("&value.valueUnstructured{{Value:{}}}", shown(value))
}

fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > MAX_SHOWN_BYTES {
        let end = (0..=MAX_SHOWN_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// How much of a value that does not fit an error shows.
const MAX_SHOWN_BYTES: usize = 1024;

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

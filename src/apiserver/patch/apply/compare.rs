//! What differs between two versions of an object, as sets of fields.

use std::collections::HashMap;

use serde_json::map::Entry;
use serde_json::{Map, Value};

use super::set::{self, FieldSet};
use super::shape::{Atom, Entries, Place, Relation, element_key, items};
use crate::kinds::common::equal;

/// The fields by which a newer version of an object differs from an older one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

impl Comparison {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Leaves out all that lies in these fields.
    pub fn without(mut self, fields: &[&[&str]]) -> Self {
        for set in [&mut self.added, &mut self.modified, &mut self.removed] {
            for field in fields {
                set.remove_tree(field);
            }
        }
        self
    }

    /// What is new or different.
    pub fn changed(&self) -> FieldSet {
        let mut changed = self.added.clone();
        changed.unite(&self.modified);
        changed
    }
}

/// Compares two objects of one type. The error says which list element cannot be told from others.
pub fn compare<'s>(root: impl Into<Place<'s>>, old: &Value, new: &Value) -> Result<Comparison, String> {
    let Found { added, modified, removed } = place(root.into(), Some(old), Some(new))?;
    let set = |node: Option<Value>| node.map(FieldSet::trusted).unwrap_or_default();
    Ok(Comparison { added: set(added), modified: set(modified), removed: set(removed) })
}

/// What was found at one place, as nodes of the three sets.
#[derive(Default)]
struct Found {
    added: Option<Value>,
    modified: Option<Value>,
    removed: Option<Value>,
}

/// What was found below one place. The place itself is in no set: it is there before and after.
#[derive(Default)]
struct Below {
    added: Map<String, Value>,
    modified: Map<String, Value>,
    removed: Map<String, Value>,
}

impl Below {
    fn add(&mut self, key: &str, found: Found) {
        let Found { added, modified, removed } = found;
        let sets = [(&mut self.added, added), (&mut self.modified, modified), (&mut self.removed, removed)];
        for (set, node) in sets {
            if let Some(node) = node {
                set.insert(key.to_owned(), node);
            }
        }
    }

    fn found(self) -> Found {
        let Self { added, modified, removed } = self;
        Found {
            added: set::node(added, false),
            modified: set::node(modified, false),
            removed: set::node(removed, false),
        }
    }
}

fn leaf() -> Option<Value> {
    Some(Value::Object(Map::new()))
}

fn place(at: Place<'_>, old: Option<&Value>, new: Option<&Value>) -> Result<Found, String> {
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (None, Some(added)) => return Ok(Found { added: Some(tree(at, added)?), ..Found::default() }),
        (Some(removed), None) => return Ok(Found { removed: Some(tree(at, removed)?), ..Found::default() }),
        (None, None) => return Ok(Found::default()),
    };
    if matches!(at, Place::Any) && old.is_object() != new.is_object() {
        // Where the value decides what is there, another sort of value is another thing.
        let (added, removed) = (Some(tree(at, new)?), Some(tree(at, old)?));
        return Ok(Found { added, removed, modified: None });
    }
    match at.atom(Some(new)) {
        Atom::List(relation, element) if relation != Relation::Atomic => {
            let (before, after) = (items(Some(old)), items(Some(new)));
            if !before.is_empty() || !after.is_empty() {
                return list(relation, element, before, after);
            }
        }
        Atom::Map { atomic: false, entries } => {
            let (before, after) = (old.as_object(), new.as_object());
            if !before.is_none_or(Map::is_empty) || !after.is_none_or(Map::is_empty) {
                return map(entries, before, after);
            }
        }
        _ => {}
    }
    let modified = if equal(old, new) { None } else { leaf() };
    Ok(Found { modified, ..Found::default() })
}

fn map(
    entries: Entries<'_>,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
) -> Result<Found, String> {
    let mut below = Below::default();
    let mut entry = |key: &str, old: Option<&Value>, new: Option<&Value>| {
        // Most of an object is as it was, and to see that takes no types.
        if old != new {
            let at = entries.get(key).map_or(Place::Any, |(at, _)| at);
            below.add(&format!("f:{key}"), place(at, old, new)?);
        }
        Ok::<(), String>(())
    };
    for (key, value) in old.into_iter().flatten() {
        entry(key, Some(value), new.and_then(|new| new.get(key)))?;
    }
    for (key, value) in new.into_iter().flatten() {
        if old.is_none_or(|old| !old.contains_key(key)) {
            entry(key, None, Some(value))?;
        }
    }
    Ok(below.found())
}

fn list(relation: Relation<'_>, element: Place<'_>, old: &[Value], new: &[Value]) -> Result<Found, String> {
    let mut pairs: HashMap<String, (Vec<&Value>, Vec<&Value>)> = HashMap::new();
    for item in old {
        pairs.entry(element_key(relation, element, item)?).or_default().0.push(item);
    }
    for item in new {
        pairs.entry(element_key(relation, element, item)?).or_default().1.push(item);
    }
    let mut below = Below::default();
    for (key, (old, new)) in pairs {
        below.add(&key, elements(element, &old, &new)?);
    }
    Ok(below.found())
}

/// Elements with the same key. Doubles have no fields of their own: they are one value together.
fn elements(element: Place<'_>, old: &[&Value], new: &[&Value]) -> Result<Found, String> {
    let (one_old, one_new) = (old.first().copied(), new.first().copied());
    match (old.len(), new.len()) {
        (0 | 1, 0 | 1) => place(element, one_old, one_new),
        (2.., 2..) => {
            let same = old.len() == new.len() && old.iter().zip(new).all(|(a, b)| equal(a, b));
            Ok(Found { modified: if same { None } else { leaf() }, ..Found::default() })
        }
        (2.., _) => Ok(Found { removed: leaf(), ..place(element, None, one_new)? }),
        (_, 2..) => Ok(Found { added: leaf(), ..place(element, one_old, None)? }),
    }
}

/// The node of all that a value has, itself included: what a set holds of something new or gone.
fn tree(at: Place<'_>, value: &Value) -> Result<Value, String> {
    let mut children = Map::new();
    match at.atom(Some(value)) {
        Atom::Scalar(_) | Atom::List(Relation::Atomic, _) | Atom::Map { atomic: true, .. } => {}
        Atom::List(relation, element) => {
            for item in items(Some(value)) {
                match children.entry(element_key(relation, element, item)?) {
                    Entry::Vacant(slot) => {
                        slot.insert(tree(element, item)?);
                    }
                    Entry::Occupied(mut double) => {
                        double.insert(Value::Object(Map::new()));
                    }
                }
            }
        }
        Atom::Map { entries, .. } => {
            for (key, value) in value.as_object().into_iter().flatten() {
                let at = entries.get(key).map_or(Place::Any, |(at, _)| at);
                children.insert(format!("f:{key}"), tree(at, value)?);
            }
        }
    }
    Ok(set::node(children, true).unwrap_or_default())
}

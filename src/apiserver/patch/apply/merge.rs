//! Merging an applied configuration into an object, and taking fields out of one.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::{Map, Value};

use super::set::{Below, FieldSet, Step};
use super::shape::{Atom, Entries, Place, Relation, element_key, items};

/// `live` with everything that `config` says.
pub fn merge<'s>(root: impl Into<Place<'s>>, live: &Value, config: &Value) -> Result<Value, String> {
    Ok(merge_place(root.into(), Some(live), Some(config))?.unwrap_or_else(|| Value::Object(Map::new())))
}

/// `None` is nothing at all: it is left out of the map or list around it.
fn merge_place(place: Place<'_>, live: Option<&Value>, config: Option<&Value>) -> Result<Option<Value>, String> {
    let whole = || Ok(config.or(live).cloned());
    if config.is_none() {
        return whole();
    }
    match place.atom(config.or(live)) {
        Atom::Scalar(_) => whole(),
        Atom::List(relation, element) => {
            let (old, new) = (items(live), items(config));
            if relation == Relation::Atomic || (old.is_empty() && new.is_empty()) {
                return whole();
            }
            let merged = merge_list(relation, element, old, new)?;
            Ok((!merged.is_empty()).then_some(Value::Array(merged)))
        }
        Atom::Map { atomic, entries } => {
            let (old, new) = (live.and_then(Value::as_object), config.and_then(Value::as_object));
            if atomic || (old.is_none_or(Map::is_empty) && new.is_none_or(Map::is_empty)) {
                return whole();
            }
            let merged = merge_map(entries, old, new)?;
            Ok((!merged.is_empty()).then_some(Value::Object(merged)))
        }
    }
}

fn merge_map(
    entries: Entries<'_>,
    live: Option<&Map<String, Value>>,
    config: Option<&Map<String, Value>>,
) -> Result<Map<String, Value>, String> {
    let mut merged = Map::new();
    let mut entry = |key: &str, live: Option<&Value>, config: Option<&Value>| {
        let place = entries.get(key).map_or(Place::Any, |(place, _)| place);
        if let Some(value) = merge_place(place, live, config)? {
            merged.insert(key.to_owned(), value);
        }
        Ok::<(), String>(())
    };
    for (key, value) in live.into_iter().flatten() {
        entry(key, Some(value), config.and_then(|config| config.get(key)))?;
    }
    for (key, value) in config.into_iter().flatten() {
        if live.is_none_or(|live| !live.contains_key(key)) {
            entry(key, None, Some(value))?;
        }
    }
    Ok(merged)
}

/// The elements of a list by their keys. Of doubles there is no single element to merge with.
struct Index<'a> {
    keys: Vec<String>,
    by_key: HashMap<String, Option<&'a Value>>,
}

impl<'a> Index<'a> {
    fn new(relation: Relation<'_>, element: Place<'_>, list: &'a [Value], allow_doubles: bool) -> Result<Self, String> {
        let mut index = Self { keys: Vec::with_capacity(list.len()), by_key: HashMap::with_capacity(list.len()) };
        for item in list {
            let key = element_key(relation, element, item)?;
            let seen = index.by_key.contains_key(&key);
            if seen && !allow_doubles {
                return Err(format!("duplicate entries for key {}", super::set::show(&[&key])));
            }
            index.by_key.insert(key.clone(), (!seen).then_some(item));
            index.keys.push(key);
        }
        Ok(index)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.by_key.get(key).copied().flatten()
    }

    fn has(&self, key: &str) -> bool {
        self.by_key.contains_key(key)
    }
}

/// Merges element by element. What only the live list has keeps its place among what both have; both
/// come in the order of the configuration, and what only the configuration has follows its neighbours.
fn merge_list(
    relation: Relation<'_>,
    element: Place<'_>,
    live: &[Value],
    config: &[Value],
) -> Result<Vec<Value>, String> {
    let new = Index::new(relation, element, config, false)?;
    let old = Index::new(relation, element, live, true)?;
    let mut shared: VecDeque<&String> = new.keys.iter().filter(|key| old.has(key)).collect();
    let mut next_shared = shared.pop_front();
    let mut taken: HashSet<&str> = HashSet::with_capacity(new.keys.len());
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut at_old, mut at_new) = (0, 0);
    while at_old < old.keys.len() || at_new < new.keys.len() {
        if let (Some(left), Some(right)) = (old.keys.get(at_old), new.keys.get(at_new)) {
            if left == right {
                taken.insert(left);
                out.extend(merge_place(element, old.get(left), new.get(right))?);
                (at_old, at_new) = (at_old + 1, at_new + 1);
                next_shared = shared.pop_front();
                continue;
            }
            if new.has(left) && next_shared.is_some_and(|next| next != left) {
                // Both have it, but its turn is not now.
                at_old += 1;
                continue;
            }
        }
        if let (Some(left), Some(item)) = (old.keys.get(at_old), live.get(at_old)) {
            if !new.has(left) {
                out.extend(merge_place(element, Some(item), None)?);
                at_old += 1;
                continue;
            }
            if taken.contains(left.as_str()) {
                at_old += 1;
            }
        }
        if let Some(right) = new.keys.get(at_new) {
            taken.insert(right);
            out.extend(merge_place(element, old.get(right), new.get(right))?);
            at_new += 1;
            if next_shared == Some(right) {
                next_shared = shared.pop_front();
            }
        }
    }
    Ok(out)
}

/// `object` without the fields of `gone`.
pub fn remove<'s>(root: impl Into<Place<'s>>, object: &Value, gone: &FieldSet) -> Value {
    if gone.is_empty() {
        return object.clone();
    }
    remove_below(root.into(), object, gone.root())
}

/// A list or map that loses everything becomes null, which is as good as absent.
fn remove_below(place: Place<'_>, value: &Value, gone: Below<'_>) -> Value {
    match (place.atom(Some(value)), value) {
        (Atom::Scalar(_), _) => value.clone(),
        (Atom::List(relation, element), Value::Array(list)) if relation != Relation::Atomic => {
            let mut kept = Vec::with_capacity(list.len());
            for item in list {
                // The list has been indexed before, so every element has its key.
                let key = element_key(relation, element, item).unwrap_or_default();
                let gone = gone.below(&Step::Element(&key));
                if gone.is_member() {
                    continue;
                }
                kept.push(if gone.has_children() { remove_below(element, item, gone) } else { item.clone() });
            }
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        (Atom::Map { atomic: false, entries }, Value::Object(map)) => {
            let mut kept = Map::new();
            for (key, value) in map {
                let gone = gone.below(&Step::Field(key));
                if gone.is_member() {
                    continue;
                }
                let place = entries.get(key).map_or(Place::Any, |(place, _)| place);
                let left = if gone.has_children() { remove_below(place, value, gone) } else { value.clone() };
                kept.insert(key.clone(), left);
            }
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        _ => Value::Null,
    }
}

//! Strategic merge patch: a merge that knows the types.
//!
//! Maps merge as in a merge patch. A list merges where its type says so: lists of objects by their
//! merge key, lists of scalars as sets; every other list is replaced. Directives in the patch change
//! that:
//!
//! - `$patch: replace|delete` in an object takes the patch's object, or none, instead of merging;
//!   as an element of a list it replaces the list or deletes the element with that key;
//! - `$retainKeys: [..]` removes the keys of the current object that it does not name;
//! - `$setElementOrder/x: [..]` orders list `x`;
//! - `$deleteFromPrimitiveList/x: [..]` removes scalars from list `x`.
//!
//! Where elements end up in a merged list is part of the contract (users read manifests back, and
//! container order means something): see `order`.

use serde_json::{Map, Value};

use super::{PatchError, go_text};
use crate::kinds::schema::{Field, Shape, Type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

/// Applies `patch`, which must be an object, to an object of type `ty`.
pub fn apply(ty: &'static Type, current: Value, patch: Value) -> Result<Value, PatchError> {
    let (Value::Object(current), Value::Object(patch)) = (current, patch) else {
        return Err(PatchError::BadRequest("a strategic merge patch and its object must be JSON objects".to_owned()));
    };
    merge_map(current, patch, Some(ty)).map(Value::Object)
}

fn malformed(what: &str) -> PatchError {
    PatchError::BadRequest(format!("invalid patch format of {what}"))
}

fn contradiction(text: String) -> PatchError {
    PatchError::Contradiction(text)
}

/// The rules of a list, from its field.
#[derive(Clone, Copy)]
struct Rules {
    merges: bool,
    key: Option<&'static str>,
    /// The type of the elements, where they are messages.
    element: Option<&'static Type>,
}

/// Merges a patch into an object; `ty` is `None` inside what has no type (a map of strings).
fn merge_map(mut current: Object, mut patch: Object, ty: Option<&'static Type>) -> Result<Object, PatchError> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => Err(unknown_directive(directive, &patch)),
        };
    }
    retain_keys(&mut current, &mut patch)?;
    merge_ordered_lists(&mut current, &mut patch, ty)?;
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix(DELETE_FROM) {
            delete_scalars(&mut current, name, value)?;
            continue;
        }
        if key.starts_with("$deleteFromPrimitiveList") {
            return Err(malformed("primitive list"));
        }
        if value.is_null() {
            current.remove(&key);
            continue;
        }
        let merged = match (current.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge_object_field(old, new, ty, &key)?,
            (Some(Value::Array(old)), Value::Array(new)) => Value::Array(merge_list(old, new, list_rules(ty, &key)?)?),
            (_, value @ (Value::Object(_) | Value::Array(_))) => match plain(value) {
                Some(value) => value,
                None => continue,
            },
            (_, value) => value,
        };
        current.insert(key, merged);
    }
    Ok(current)
}

fn unknown_directive(directive: &Value, patch: &Object) -> PatchError {
    let shown = go_text(&Value::Object(patch.clone()));
    contradiction(format!("unknown patch type: {} in map: {shown}", go_text(directive)))
}

fn merge_object_field(old: Object, new: Object, ty: Option<&'static Type>, key: &str) -> Result<Value, PatchError> {
    let field = field(ty, key)?;
    if field.is_some_and(|field| field.merge.strategy.split(',').any(|strategy| strategy == "replace")) {
        return Ok(plain(Value::Object(new)).unwrap_or_else(|| Value::Object(Object::new())));
    }
    let inner = field.and_then(|field| match &field.shape {
        Shape::Message(inner) => Some(inner.get()),
        _ => None,
    });
    merge_map(old, new, inner).map(Value::Object)
}

/// The field of a key; a typed object has no other keys, except when a client makes them up.
fn field(ty: Option<&'static Type>, key: &str) -> Result<Option<&'static Field>, PatchError> {
    let Some(ty) = ty else { return Ok(None) };
    ty.field(key).map(Some).ok_or_else(|| {
        contradiction(format!("unable to find api field in struct {} for the json field {key:?}", ty.short()))
    })
}

fn list_rules(ty: Option<&'static Type>, key: &str) -> Result<Rules, PatchError> {
    let Some(field) = field(ty, key)? else { return Ok(Rules { merges: false, key: None, element: None }) };
    let merges = field.merge.strategy.split(',').any(|strategy| strategy == "merge");
    Ok(Rules { merges, key: field.merge.key, element: field.shape.message() })
}

/// A value of the patch that meets nothing to merge with: directives and nulls go, and so does an object
/// that says it is to be deleted (`None`).
fn plain(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.get(PATCH).and_then(Value::as_str) == Some("delete") {
                return None;
            }
            let kept = map.into_iter().filter(|(key, value)| !is_directive(key) && !value.is_null());
            Some(kept.filter_map(|(key, value)| Some((key, plain(value)?))).collect())
        }
        Value::Array(items) => Some(items.into_iter().filter_map(plain_element).collect()),
        other => Some(other),
    }
}

/// An element of such a list; one that is nothing but a directive to the list leaves no trace.
fn plain_element(value: Value) -> Option<Value> {
    match &value {
        Value::Object(map) if map.len() == 1 && map.contains_key(PATCH) => None,
        _ => plain(value),
    }
}

fn is_directive(key: &str) -> bool {
    key == PATCH || key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_FROM)
}

/// Carries out `$retainKeys`. A patch that sets a key which it does not retain is refused.
fn retain_keys(current: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(kept) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(kept) = kept else { return Err(malformed("retainKeys")) };
    let retains = |key: &str| kept.iter().any(|name| name.as_str() == Some(key));
    if patch.iter().any(|(key, value)| !value.is_null() && !is_directive(key) && !retains(key)) {
        return Err(malformed("retainKeys"));
    }
    current.retain(|key, _| retains(key));
    Ok(())
}

/// Carries out every `$setElementOrder/x`, together with the patch of `x` itself, which is taken out.
fn merge_ordered_lists(current: &mut Object, patch: &mut Object, ty: Option<&'static Type>) -> Result<(), PatchError> {
    if patch.keys().any(|key| key.starts_with("$setElementOrder") && !key.starts_with(SET_ORDER)) {
        return Err(malformed("setElementOrder list"));
    }
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let name = directive[SET_ORDER.len()..].to_owned();
        let order_list = as_list(patch.remove(&directive).unwrap_or(Value::Null), &directive)?;
        let rules = list_rules(ty, &name)?;
        let patch_list = match patch.remove(&name) {
            // A null beside an order deletes the list, as it does alone.
            Some(Value::Null) => {
                patch.insert(name, Value::Null);
                continue;
            }
            Some(list) => Some(as_list(list, &name)?),
            None => None,
        };
        let old = current.remove(&name).map(|list| as_list(list, &name)).transpose()?;
        check_order(patch_list.as_deref().unwrap_or_default(), &order_list, rules.key)?;
        let live = old.clone().unwrap_or_default();
        let merged = match (old, patch_list) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(plain_element).collect(),
            (Some(old), Some(new)) => merge_list(old, new, rules)?,
        };
        let ordered = order(merged, &order_list, &live, rules.key)?;
        current.insert(name, Value::Array(ordered));
    }
    Ok(())
}

fn as_list(value: Value, name: &str) -> Result<Vec<Value>, PatchError> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(contradiction(format!("expected a list for {name}, but received {}", go_text(&other)))),
    }
}

/// The patch list must come in the order that `$setElementOrder` gives, deletions aside.
fn check_order(patch_list: &[Value], order_list: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if patch_list.is_empty() || order_list.is_empty() {
        return Ok(());
    }
    let kept =
        patch_list.iter().filter(|item| key.is_none() || item.get(PATCH).and_then(Value::as_str) != Some("delete"));
    let mut wanted = order_list.iter();
    for item in kept {
        if !wanted.any(|place| same(place, item, key)) {
            return Err(contradiction(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                go_text(&Value::from(patch_list)),
                go_text(&Value::from(order_list))
            )));
        }
    }
    Ok(())
}

/// Carries out `$deleteFromPrimitiveList/name`.
fn delete_scalars(current: &mut Object, name: &str, gone: Value) -> Result<(), PatchError> {
    match (current.get_mut(name), gone) {
        (_, Value::Null) => {
            current.remove(name);
        }
        (Some(Value::Array(list)), Value::Array(gone)) => list.retain(|item| !gone.contains(item)),
        // What is not there need not be deleted.
        _ => {}
    }
    Ok(())
}

fn merge_list(old: Vec<Value>, new: Vec<Value>, rules: Rules) -> Result<Vec<Value>, PatchError> {
    if !rules.merges {
        return Ok(new.into_iter().filter_map(plain_element).collect());
    }
    if old.is_empty() && new.is_empty() {
        return Ok(old);
    }
    if old.iter().chain(&new).any(Value::is_array) {
        return Err(PatchError::BadRequest("lists of lists are not supported".to_owned()));
    }
    let objects = old.iter().chain(&new).filter(|item| item.is_object()).count();
    if objects == 0 {
        return merge_scalars(old, new);
    }
    if objects != old.len() + new.len() {
        return Err(contradiction("list element types are not identical".to_owned()));
    }
    let Some(key) = rules.key else {
        let name = rules.element.map_or("list", Type::short);
        return Err(contradiction(format!("cannot merge lists without merge key for {name}")));
    };
    merge_objects(old, new, key, rules.element)
}

fn merge_scalars(old: Vec<Value>, new: Vec<Value>) -> Result<Vec<Value>, PatchError> {
    let mut merged: Vec<Value> = Vec::with_capacity(old.len() + new.len());
    for item in old.iter().chain(&new) {
        if !merged.contains(item) {
            merged.push(item.clone());
        }
    }
    order(merged, &new, &old, None)
}

fn merge_objects(
    old: Vec<Value>,
    new: Vec<Value>,
    key: &'static str,
    element: Option<&'static Type>,
) -> Result<Vec<Value>, PatchError> {
    let ElementPatches { old, new, replace } = element_directives(old, new, key)?;
    if replace {
        return Ok(new.into_iter().filter_map(plain).collect());
    }
    let mut merged = old;
    let live_len = merged.len();
    let mut patched = Vec::with_capacity(new.len());
    for item in new {
        let value = merge_key(&item, key)?;
        patched.push(Value::Object(Object::from_iter([(key.to_owned(), value.clone())])));
        let at = merged.iter().position(|other| other.get(key) == Some(&value));
        match at.and_then(|at| merged.get_mut(at)) {
            Some(slot) => {
                if let (Value::Object(old), Value::Object(new)) = (slot.take(), item) {
                    *slot = Value::Object(merge_map(old, new, element)?);
                }
            }
            None => merged.extend(plain(item)),
        }
    }
    let live = merged.get(..live_len).unwrap_or_default().to_vec();
    order(merged, &patched, &live, Some(key))
}

struct ElementPatches {
    old: Vec<Value>,
    new: Vec<Value>,
    replace: bool,
}

/// Takes the elements with a `$patch` out of the patch list and carries them out.
fn element_directives(mut old: Vec<Value>, new: Vec<Value>, key: &str) -> Result<ElementPatches, PatchError> {
    let mut kept = Vec::with_capacity(new.len());
    let mut replace = false;
    for item in new {
        match item.get(PATCH) {
            None => kept.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") => {
                    let gone = merge_key(&item, key)?;
                    old.retain(|other| other.get(key) != Some(&gone));
                }
                Some("replace") => replace = true,
                Some("merge") => {
                    return Err(contradiction("merging lists cannot yet be specified in the patch".to_owned()));
                }
                _ => return Err(unknown_directive(directive, item.as_object().unwrap_or(&Object::new()))),
            },
        }
    }
    Ok(ElementPatches { old, new: kept, replace })
}

fn merge_key(item: &Value, key: &str) -> Result<Value, PatchError> {
    item.get(key)
        .cloned()
        .ok_or_else(|| contradiction(format!("map: {} does not contain declared merge key: {key}", go_text(item))))
}

/// Whether two elements are the same one: by merge key, or by value.
fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

fn place(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    list.iter().position(|other| same(other, item, key))
}

/// Orders a merged list: what the patch names comes in the patch's order, the rest keeps the live
/// order, and the two are interleaved by the live order where it knows both. So a new element of the
/// patch goes before the elements that only the server has, unless the elements around it say otherwise.
fn order(
    merged: Vec<Value>,
    patch_order: &[Value],
    live_order: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    if let Some(key) = key {
        for item in patch_order {
            merge_key(item, key)?;
        }
    }
    let (mut patched, mut rest): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(patch_order, item, key).is_some());
    patched.sort_by_key(|item| place(patch_order, item, key));
    rest.sort_by_key(|item| place(live_order, item, key).unwrap_or(usize::MAX));
    let mut ordered = Vec::with_capacity(patched.len() + rest.len());
    let mut rest = rest.into_iter().peekable();
    for item in patched {
        let here = place(live_order, &item, key);
        while let Some(next) = rest.next_if(|next| match (place(live_order, next, key), here) {
            (Some(left), Some(right)) => left < right,
            _ => false,
        }) {
            ordered.push(next);
        }
        ordered.push(item);
    }
    ordered.extend(rest);
    Ok(ordered)
}

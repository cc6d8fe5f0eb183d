//! The smallest JSON merge patch from one state to another.
//!
//! Controllers own the fields they write, so they send what differs and nothing else: a write of the
//! same meaning is no write at all, and somebody else's change to another field is never undone.

use serde::Serialize;
use serde_json::{Map, Value};

/// The merge patch that makes `new` of `old`; `None` when they mean the same.
pub(super) fn merge_patch<T: Serialize>(old: &T, new: &T) -> Option<Value> {
    let to_value = |v: &T| serde_json::to_value(v).expect("Kubernetes types serialise to JSON");
    between(&to_value(old), &to_value(new))
}

fn between(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old_fields), Value::Object(new_fields)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for (name, value) in new_fields {
        let change = match old_fields.get(name) {
            Some(before) => between(before, value),
            None => Some(value.clone()),
        };
        if let Some(change) = change {
            patch.insert(name.clone(), change);
        }
    }
    for name in old_fields.keys().filter(|name| !new_fields.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_holds_only_what_differs() {
        let old = json!({"a": 1, "b": {"c": 1, "d": 2}, "gone": [1], "list": [1]});
        let new = json!({"a": 1, "b": {"c": 1, "d": 3}, "list": [1, 2], "more": true});
        let patch = merge_patch(&old, &new).expect("they differ");
        assert_eq!(patch, json!({"b": {"d": 3}, "gone": null, "list": [1, 2], "more": true}));
        let mut patched = old.clone();
        json_patch::merge(&mut patched, &patch);
        assert_eq!(patched, new);
        assert_eq!(merge_patch(&new, &new), None);
    }
}

//! Defaults: what an absent field means, and what null means where it is not a value.

use serde_json::{Map, Value};

use super::{Schema, is_meta};

/// Fills in the defaults of a whole object, and drops nulls that are no values. Idempotent.
pub fn default(schema: &Schema, object: &mut Value) {
    fill(schema, object, true);
}

fn fill(schema: &Schema, value: &mut Value, is_object: bool) {
    match value {
        Value::Object(map) => {
            for (name, inner) in &schema.properties {
                if is_object && is_meta(name) {
                    continue;
                }
                if let Some(default) = &inner.default
                    && map.get(name).is_none_or(|value| value.is_null() && !inner.nullable)
                {
                    map.insert(name.clone(), default.clone());
                }
            }
            drop_nulls(schema, map, is_object);
            for (name, entry) in map.iter_mut() {
                if is_object && is_meta(name) {
                    continue;
                }
                if let Some(inner) = schema.entry(name) {
                    replace_null(inner, entry);
                    fill(inner, entry, inner.embedded);
                }
            }
        }
        Value::Array(items) => {
            let Some(inner) = &schema.items else { return };
            for item in items {
                replace_null(inner, item);
                fill(inner, item, inner.embedded);
            }
        }
        _ => {}
    }
}

fn replace_null(schema: &Schema, value: &mut Value) {
    if value.is_null()
        && !schema.nullable
        && let Some(default) = &schema.default
    {
        *value = default.clone();
    }
}

/// A null where null is no value is as good as absent; but for elements of lists, which cannot be absent.
fn drop_nulls(schema: &Schema, map: &mut Map<String, Value>, is_object: bool) {
    map.retain(|name, value| {
        let kept = !value.is_null() || (is_object && is_meta(name));
        kept || schema.entry(name).is_none_or(|inner| inner.nullable || inner.default.is_some())
    });
}

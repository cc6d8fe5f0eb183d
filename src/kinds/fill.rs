//! Small hands for defaults: setting what is absent, reaching into objects and lists of objects.

use serde_json::{Map, Value};

/// Sets `name` unless something stands there already.
pub fn set_default(map: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    if map.get(name).is_none_or(Value::is_null) {
        map.insert(name.to_owned(), value.into());
    }
}

/// [`set_default`] for fields whose zero (`""`, `0`) counts as absent.
pub fn set_default_zero(map: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    let absent = map
        .get(name)
        .is_none_or(|current| current.is_null() || current.as_str() == Some("") || current.as_i64() == Some(0));
    if absent {
        map.insert(name.to_owned(), value.into());
    }
}

/// The objects in the list `name`.
pub fn objects<'a>(map: &'a mut Map<String, Value>, name: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// The object `name`, where there is one.
pub fn object<'a>(map: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(name).and_then(Value::as_object_mut)
}

//! Small parts that several kinds share: reading by pointer, defaults, table cells.

use serde_json::Value;

use super::meta;

/// How many entries of a list a table cell shows before it says "+ n more...".
const CELL_ITEMS: usize = 3;

/// The string at a JSON pointer, or "".
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The list at a JSON pointer; empty where there is none.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether a field says the same in both objects.
pub fn same(a: &Value, b: &Value, name: &str) -> bool {
    meta::same(&a[name], &b[name])
}

/// Equality of values: numbers by what they are worth, whatever they were written as.
pub fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((ka, a), (kb, b))| ka == kb && equal(a, b))
        }
        _ => a == b,
    }
}

/// Writes `value` under `name` unless something other than null is there already.
pub fn set_default(object: &mut Value, name: &str, value: impl Into<Value>) {
    if let Value::Object(map) = object
        && map.get(name).is_none_or(Value::is_null)
    {
        map.insert(name.to_owned(), value.into());
    }
}

/// [`set_default`] for strings, where "" means absent, as it does in Go.
pub fn set_default_text(object: &mut Value, name: &str, value: &str) {
    if object.get(name).and_then(Value::as_str) == Some("") {
        object[name] = value.into();
    }
    set_default(object, name, value);
}

/// Writes `value` under `name`, or takes the field away for `None`.
pub fn put(object: &mut Value, name: &str, value: Option<Value>) {
    if let Value::Object(map) = object {
        match value {
            Some(value) => map.insert(name.to_owned(), value),
            None => map.remove(name),
        };
    }
}

/// The values of a cell that shows a few and counts the rest: `a,b,c + 2 more...`.
pub fn some_of(values: &[String], none: &str) -> String {
    let shown = values.iter().take(CELL_ITEMS).map(String::as_str).collect::<Vec<_>>().join(",");
    match values.len().checked_sub(CELL_ITEMS) {
        _ if shown.is_empty() => none.to_owned(),
        None | Some(0) => shown,
        Some(more) => format!("{shown} + {more} more..."),
    }
}

/// `a=b,c=d` of a map of strings, sorted; `<none>` for an empty one.
pub fn pairs(map: Option<&Value>) -> String {
    let mut pairs: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    pairs.sort();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

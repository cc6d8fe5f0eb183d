//! JSON and CEL values, one from the other.

use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::cel::Value;
use kube_cel::cel::objects::{Key, Map, OptionalValue};
use serde_json::Value as Json;

/// A JSON value as CEL sees one that no schema describes: keys as they are, whole numbers are `int`.
pub fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => Value::Int(int),
            (None, Some(uint)) => Value::UInt(uint),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => string(text),
        Json::Array(items) => list(items.iter().map(from_json).collect()),
        Json::Object(fields) => map(fields.iter().map(|(name, value)| (name.as_str(), from_json(value)))),
    }
}

/// An RFC 3339 time.
pub fn timestamp(text: &str) -> Option<Value> {
    converted("timestamp", text)
}

/// A span of so many nanoseconds.
pub fn duration(nanoseconds: i64) -> Value {
    converted("duration", &format!("{nanoseconds}ns")).unwrap_or(Value::Null)
}

/// The bytes of a base64 text.
pub fn bytes(text: &str) -> Option<Value> {
    use base64::Engine as _;
    Some(Value::Bytes(Arc::new(base64::engine::general_purpose::STANDARD.decode(text).ok()?)))
}

/// The value of a type that only the library can make.
fn converted(function: &str, text: &str) -> Option<Value> {
    super::functions::call(function, false, vec![string(text)], &mut super::Budget::default()).ok()
}

pub fn some(value: Value) -> Value {
    Value::Opaque(Arc::new(OptionalValue::of(value)))
}

pub fn none() -> Value {
    Value::Opaque(Arc::new(OptionalValue::none()))
}

pub fn string(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

pub fn list(items: Vec<Value>) -> Value {
    Value::List(Arc::new(items))
}

/// A map with strings as keys.
pub fn map<'a>(entries: impl Iterator<Item = (&'a str, Value)>) -> Value {
    let entries: HashMap<Key, Value> = entries.map(|(name, value)| (Key::from(name), value)).collect();
    Value::Map(Map { map: Arc::new(entries) })
}

/// What an expression came to, as JSON; `None` for what JSON cannot say.
pub fn to_json(value: &Value) -> Option<Json> {
    Some(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::UInt(value) => (*value).into(),
        Value::Float(value) => serde_json::Number::from_f64(*value)?.into(),
        Value::String(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(to_json).collect::<Option<Vec<_>>>()?.into(),
        Value::Map(map) => {
            let mut fields = serde_json::Map::new();
            for (key, value) in sorted(map) {
                fields.insert(key.to_string(), to_json(value)?);
            }
            fields.into()
        }
        Value::Timestamp(time) => time.to_utc().to_rfc3339().replace("+00:00", "Z").into(),
        Value::Duration(span) => format!("{}s", span.num_milliseconds() as f64 / 1000.0).into(),
        Value::Bytes(bytes) => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(bytes.as_slice()).into()
        }
        Value::Opaque(opaque) => to_json(opaque.downcast_ref::<OptionalValue>()?.value()?)?,
        Value::Function(..) => return None,
    })
}

/// The entries of a map in the order of its keys: a map has none of its own, yet the same expression is
/// to give the same answer each time.
pub fn sorted(map: &Map) -> Vec<(&Key, &Value)> {
    let mut entries: Vec<_> = map.map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}

/// The type of a value in CEL's words.
pub fn type_name(value: &Value) -> &str {
    match value {
        Value::Null => "null_type",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::UInt(_) => "uint",
        Value::Float(_) => "double",
        Value::String(_) => "string",
        Value::Bytes(_) => "bytes",
        Value::List(_) => "list",
        Value::Map(_) => "map",
        Value::Timestamp(_) => "google.protobuf.Timestamp",
        Value::Duration(_) => "google.protobuf.Duration",
        Value::Opaque(opaque) => opaque.runtime_type_name(),
        Value::Function(..) => "type",
    }
}

/// How much of a value there is, in elements and bytes, counted up to `limit`.
pub fn weight(value: &Value, limit: u64) -> u64 {
    let mut sum = 1u64;
    match value {
        Value::String(text) => sum += text.len() as u64,
        Value::Bytes(bytes) => sum += bytes.len() as u64,
        Value::List(items) => {
            for item in items.iter() {
                if sum >= limit {
                    break;
                }
                sum += weight(item, limit - sum);
            }
        }
        Value::Map(map) => {
            for (key, item) in map.map.iter() {
                if sum >= limit {
                    break;
                }
                sum += if let Key::String(text) = key { text.len() as u64 } else { 1 };
                sum += weight(item, limit.saturating_sub(sum));
            }
        }
        _ => {}
    }
    sum
}

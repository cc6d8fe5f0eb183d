//! An object without its lists: all that selectors look at, for a fraction of the work.
//!
//! Labels, names and the fields that a kind lets clients select by are single values. What makes an object
//! long are its lists (owners of fields, containers, conditions), and to skip over those costs little.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::encoding;
use crate::kinds::Kind;

/// The outline of a stored object, as `kind` shows it. Lists are there, and empty.
pub fn outline(kind: &dyn Kind, stored: &[u8], revision: u64) -> Result<Value, serde_json::Error> {
    // What is shown in another form than it is stored in is read whole.
    if !encoding::is_shown_as_stored(kind, stored, revision) {
        return encoding::decode(kind, stored, revision);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(stored);
    Outline.deserialize(&mut deserializer)
}

struct Outline;

impl<'de> DeserializeSeed<'de> for Outline {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Outline {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(Vec::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            object.insert(name, fields.next_value_seed(Outline)?);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::pod::Pod;

    #[test]
    fn everything_but_the_items_of_lists_is_there() {
        let object = json!({
            "metadata": { "labels": { "a": "b" }, "managedFields": [{ "manager": "m" }] },
            "spec": { "nodeName": "n", "n": 1, "x": 1.5, "no": null, "yes": true, "containers": [{ "name": "c" }, [1]] },
        });
        let stored = encoding::encode(&Pod, &object);
        let mut expected = object;
        expected["metadata"]["managedFields"] = json!([]);
        expected["spec"]["containers"] = json!([]);
        assert_eq!(outline(&Pod, &stored, 1).expect("an object"), expected);
        assert!(outline(&Pod, b"{", 1).is_err());
    }
}

//! Protobuf request bodies to values, by the field table of [`schema`](crate::kinds::schema).
//!
//! Clients of built-in kinds send objects as `k8s\0` followed by a `runtime.Unknown`, whose `raw` is the
//! object's own message. What is read here has the shape of JSON afterwards; presence and zero values
//! are settled by `conform`, which runs on it like on any other body. Nothing is ever written as
//! protobuf: every such client also accepts JSON.

use base64::Engine as _;
use serde_json::{Map, Value};

use super::json;
use crate::kinds::schema::{Other, Shape, Type, Wire, time};

/// What every body starts with.
const MAGIC: &[u8] = b"k8s\0";

/// No message of the table nests this deep; it bounds the recursion whatever the table holds.
const MAX_DEPTH: usize = 64;

/// The envelope: `runtime.Unknown`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub api_version: String,
    pub kind: String,
    pub raw: &'a [u8],
}

/// Opens the envelope; the errors are upstream's where it has one.
pub fn open(body: &[u8]) -> Result<Envelope<'_>, String> {
    let prefix = body.get(..MAGIC.len());
    if prefix != Some(MAGIC) {
        return Err(format!(
            "provided data does not appear to be a protobuf message, expected prefix {}",
            "[107 56 115 0]"
        ));
    }
    let mut envelope = Envelope::default();
    for record in records(&body[MAGIC.len()..]) {
        match record? {
            (1, Datum::Bytes(meta)) => {
                for record in records(meta) {
                    match record? {
                        (1, Datum::Bytes(text)) => envelope.api_version = utf8(text)?,
                        (2, Datum::Bytes(text)) => envelope.kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Datum::Bytes(raw)) => envelope.raw = raw,
            (3, Datum::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(format!(
                    "content encoding {:?} of the object is not supported",
                    String::from_utf8_lossy(encoding)
                ));
            }
            _ => {}
        }
    }
    Ok(envelope)
}

/// Reads one message of type `ty`.
pub fn message(ty: &'static Type, bytes: &[u8]) -> Result<Value, String> {
    let mut map = Map::new();
    fill(ty, bytes, &mut map, 0)?;
    Ok(Value::Object(map))
}

/// Adds the fields of a message to `map`; numbers that the table does not know are skipped, as
/// protobuf has it.
fn fill(ty: &'static Type, bytes: &[u8], map: &mut Map<String, Value>, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("messages nest too deeply in {}", ty.go));
    }
    for record in records(bytes) {
        let (number, datum) = record?;
        match ty.wire(number) {
            None => {}
            Some(Wire::Inline(inner)) => fill(inner, datum.bytes(ty, number)?, map, depth + 1)?,
            Some(Wire::Field(field)) => {
                let name = field.name;
                let at = || format!("{}.{name}", ty.go);
                let old = map.remove(name);
                let value =
                    field_value(&field.shape, old, datum, depth + 1).map_err(|error| format!("{}: {error}", at()))?;
                map.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// The field's value after one more record of it.
fn field_value(shape: &Shape, old: Option<Value>, datum: Datum<'_>, depth: usize) -> Result<Value, String> {
    match shape {
        Shape::List(inner) => {
            let mut items = match old {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            };
            match (&**inner, datum) {
                (Shape::Bool | Shape::Int32 | Shape::Int64, Datum::Bytes(packed)) => {
                    let mut reader = Reader { bytes: packed };
                    while !reader.bytes.is_empty() {
                        items.push(single(inner, None, Datum::Varint(reader.varint()?), depth)?);
                    }
                }
                (inner, datum) => items.push(single(inner, None, datum, depth)?),
            }
            Ok(Value::Array(items))
        }
        Shape::Map(_, inner) => {
            let mut map = match old {
                Some(Value::Object(map)) => map,
                _ => Map::new(),
            };
            let (key, value) = map_entry(inner, datum.need_bytes()?, depth)?;
            map.insert(key, value);
            Ok(Value::Object(map))
        }
        shape => single(shape, old, datum, depth),
    }
}

fn map_entry(inner: &Shape, bytes: &[u8], depth: usize) -> Result<(String, Value), String> {
    let (mut key, mut value) = (String::new(), None);
    for record in records(bytes) {
        match record? {
            (1, datum) => key = utf8(datum.need_bytes()?)?,
            (2, datum) => value = Some(single(inner, value, datum, depth)?),
            _ => {}
        }
    }
    // An entry without a value has the value's zero.
    let value = match value {
        Some(value) => value,
        None => crate::kinds::schema::conform::zero(inner),
    };
    Ok((key, value))
}

/// One value; `old` is what an earlier record of a message brought, which a later one adds to.
fn single(shape: &Shape, old: Option<Value>, datum: Datum<'_>, depth: usize) -> Result<Value, String> {
    Ok(match shape {
        Shape::String(_) => Value::from(utf8(datum.need_bytes()?)?),
        Shape::Bool => Value::from(datum.need_varint()? != 0),
        // Negative numbers are sign-extended to 64 bits on the wire, whatever the field's size.
        Shape::Int32 => Value::from(datum.need_varint()? as i32),
        Shape::Int64 => Value::from(datum.need_varint()? as i64),
        Shape::Double => match datum {
            Datum::Fixed64(bits) => Value::from(f64::from_bits(bits)),
            _ => return Err("expected a double".to_owned()),
        },
        Shape::Bytes => Value::from(base64::engine::general_purpose::STANDARD.encode(datum.need_bytes()?)),
        Shape::Quantity => quantity(datum.need_bytes()?)?,
        Shape::IntOrString => int_or_string(datum.need_bytes()?)?,
        Shape::Time => timestamp(datum.need_bytes()?, false)?,
        Shape::MicroTime => timestamp(datum.need_bytes()?, true)?,
        Shape::Raw | Shape::FieldsV1 => raw(datum.need_bytes()?)?,
        Shape::Or(inner, other) => either(inner.get(), *other, datum.need_bytes()?, depth)?,
        Shape::Message(inner) => {
            let mut map = match old {
                Some(Value::Object(map)) => map,
                _ => Map::new(),
            };
            fill(inner.get(), datum.need_bytes()?, &mut map, depth)?;
            Value::Object(map)
        }
        // A list inside a map is a message with the one field `items`.
        Shape::List(inner) => {
            let mut items = Vec::new();
            for record in records(datum.need_bytes()?) {
                if let (1, datum) = record? {
                    items.push(single(inner, None, datum, depth)?);
                }
            }
            Value::Array(items)
        }
        Shape::Map(..) => return Err("a map inside a map".to_owned()),
    })
}

/// A message, or what stands in its place. As upstream writes it, the other wins where both are there, but
/// for a boolean.
fn either(ty: &'static Type, other: Other, bytes: &[u8], depth: usize) -> Result<Value, String> {
    let (mut schema, mut several, mut flag) = (None, Vec::new(), false);
    for record in records(bytes) {
        let (number, datum) = record?;
        let read = |datum: Datum<'_>| {
            let mut map = Map::new();
            fill(ty, datum.need_bytes()?, &mut map, depth + 1)?;
            Ok::<_, String>(Value::Object(map))
        };
        match (other, number) {
            (Other::Bool, 1) => flag = datum.need_varint()? != 0,
            (Other::Bool, 2) | (Other::List | Other::Strings, 1) => schema = Some(read(datum)?),
            (Other::List, 2) => several.push(read(datum)?),
            (Other::Strings, 2) => several.push(utf8(datum.need_bytes()?)?.into()),
            _ => {}
        }
    }
    Ok(match (other, schema) {
        (Other::List | Other::Strings, _) if !several.is_empty() => Value::Array(several),
        (_, Some(schema)) => schema,
        (Other::Bool, None) => flag.into(),
        (_, None) => Value::Null,
    })
}

fn quantity(bytes: &[u8]) -> Result<Value, String> {
    let mut text = String::new();
    for record in records(bytes) {
        if let (1, datum) = record? {
            text = utf8(datum.need_bytes()?)?;
        }
    }
    Ok(if text.is_empty() { Value::from("0") } else { Value::from(text) })
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut kind, mut number, mut text) = (0, 0, String::new());
    for record in records(bytes) {
        match record? {
            (1, datum) => kind = datum.need_varint()?,
            (2, datum) => number = datum.need_varint()? as i32,
            (3, datum) => text = utf8(datum.need_bytes()?)?,
            _ => {}
        }
    }
    Ok(if kind == 0 { Value::from(number) } else { Value::from(text) })
}

/// A time without any field is Go's zero time, which JSON writes as null.
fn timestamp(bytes: &[u8], micro: bool) -> Result<Value, String> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    for record in records(bytes) {
        match record? {
            (1, datum) => seconds = datum.need_varint()? as i64,
            (2, datum) => nanos = datum.need_varint()? as i32,
            _ => {}
        }
    }
    let nanos = if micro { nanos } else { 0 };
    let at = jiff::Timestamp::new(seconds, nanos);
    at.map(|at| Value::from(time::write(at, micro))).map_err(|error| format!("{seconds} s is no time: {error}"))
}

fn raw(bytes: &[u8]) -> Result<Value, String> {
    let mut inner: &[u8] = b"";
    for record in records(bytes) {
        if let (1, datum) = record? {
            inner = datum.need_bytes()?;
        }
    }
    if inner.is_empty() {
        return Ok(Value::Null);
    }
    json::parse(inner).map(|parsed| parsed.value)
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    // Go strings hold any bytes, JSON replaces what is not UTF-8; so do we.
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// The payload of one record.
#[derive(Debug, Clone, Copy)]
enum Datum<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Datum<'a> {
    fn need_varint(self) -> Result<u64, String> {
        match self {
            Self::Varint(number) => Ok(number),
            _ => Err("expected a number".to_owned()),
        }
    }

    fn need_bytes(self) -> Result<&'a [u8], String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err("expected bytes".to_owned()),
        }
    }

    fn bytes(self, ty: &Type, number: u32) -> Result<&'a [u8], String> {
        self.need_bytes().map_err(|error| format!("{} field {number}: {error}", ty.go))
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

/// The records of a message, until its end or the first fault.
fn records(bytes: &[u8]) -> impl Iterator<Item = Result<(u32, Datum<'_>), String>> {
    let mut reader = Reader { bytes };
    std::iter::from_fn(move || {
        if reader.bytes.is_empty() {
            return None;
        }
        let record = reader.record();
        if record.is_err() {
            reader.bytes = b"";
        }
        Some(record)
    })
}

impl<'a> Reader<'a> {
    fn record(&mut self) -> Result<(u32, Datum<'a>), String> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| format!("proto: illegal tag {tag}"))?;
        let datum = match tag & 7 {
            0 => Datum::Varint(self.varint()?),
            1 => Datum::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| CUT_SHORT)?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| CUT_SHORT)?;
                Datum::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Datum::Fixed32
            }
            kind => return Err(format!("proto: illegal wireType {kind}")),
        };
        Ok((number, datum))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.take(1)?.first().ok_or(CUT_SHORT)?;
            if shift < 64 {
                value |= u64::from(byte & 0x7f) << shift;
            }
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("proto: integer overflow".to_owned())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let taken = self.bytes.get(..count).ok_or(CUT_SHORT)?;
        self.bytes = &self.bytes[count..];
        Ok(taken)
    }
}

const CUT_SHORT: &str = "unexpected EOF";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::schema::lookup;
    use proptest::prelude::*;
    use serde_json::json;

    fn varint(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number >= 0x80 {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    }

    fn bytes(number: u64, payload: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(payload.len() as u64), payload.to_vec()].concat()
    }

    fn int(number: u64, value: i64) -> Vec<u8> {
        [varint(number << 3), varint(value as u64)].concat()
    }

    #[test]
    fn an_envelope_is_opened() {
        let meta = [bytes(1, b"v1"), bytes(2, b"ConfigMap")].concat();
        let body = [MAGIC.to_vec(), bytes(1, &meta), bytes(2, b"raw"), bytes(3, b""), bytes(4, b"")].concat();
        let envelope = open(&body).unwrap();
        assert_eq!(envelope, Envelope { api_version: "v1".into(), kind: "ConfigMap".into(), raw: b"raw" });
        assert!(open(b"{}").unwrap_err().contains("expected prefix [107 56 115 0]"));
        assert!(open(&[MAGIC, &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat()).is_err());
    }

    #[test]
    fn every_special_shape() {
        let meta =
            [bytes(1, b"p"), bytes(8, &int(1, 1_700_000_000)), bytes(11, &[bytes(1, b"k"), bytes(2, b"v")].concat())];
        let limit = [bytes(1, b"cpu"), bytes(2, &bytes(1, b"500m"))].concat();
        let probe = bytes(1, &bytes(2, &bytes(2, &[int(1, 1), bytes(3, b"http")].concat())));
        let container =
            [bytes(1, b"c"), bytes(3, b"a"), bytes(3, b"b"), bytes(8, &bytes(1, &limit)), bytes(11, &probe)];
        let volume = [bytes(1, b"v"), bytes(2, &bytes(1, &bytes(1, b"/x")))].concat();
        let spec = [bytes(1, &volume), bytes(2, &container.concat()), int(4, -1), int(11, 0)];
        let pod = [bytes(1, &meta.concat()), bytes(2, &spec.concat()), bytes(99, b"?")].concat();
        let value = message(lookup("io.k8s.api.core.v1.Pod").unwrap(), &pod).unwrap();
        let wanted = json!({
            "metadata": {"name": "p", "creationTimestamp": "2023-11-14T22:13:20Z", "labels": {"k": "v"}},
            "spec": {
                "volumes": [{"name": "v", "hostPath": {"path": "/x"}}],
                "containers": [{
                    "name": "c", "command": ["a", "b"], "resources": {"limits": {"cpu": "500m"}},
                    "readinessProbe": {"httpGet": {"port": "http"}},
                }],
                "terminationGracePeriodSeconds": -1, "hostNetwork": false,
            },
        });
        assert_eq!(value, wanted);
    }

    #[test]
    fn a_definition_with_all_that_schemas_may_hold() {
        let string = bytes(5, b"string");
        let entry = |name: &[u8], schema: &[u8]| bytes(29, &[bytes(1, name), bytes(2, schema)].concat());
        let maximum = [varint(9 << 3 | 1), 2.5_f64.to_le_bytes().to_vec()].concat();
        let properties = [
            entry(b"list", &[bytes(5, b"array"), bytes(24, &bytes(1, &string)), bytes(42, b"set")].concat()),
            entry(b"pair", &bytes(24, &[bytes(2, &string), bytes(2, &maximum)].concat())),
            entry(b"map", &bytes(30, &[int(1, 1), bytes(2, &string)].concat())),
            entry(b"open", &bytes(30, &int(1, 1))),
            entry(b"shut", &bytes(30, b"")),
            entry(b"word", &[bytes(8, &bytes(1, b"\"a\"")), bytes(20, &bytes(1, b"\"a\"")), int(38, 1)].concat()),
            bytes(32, &[bytes(1, b"map"), bytes(2, &bytes(2, b"open"))].concat()),
            bytes(44, &[bytes(1, b"self.a"), bytes(2, b"no")].concat()),
        ];
        let version = [bytes(1, b"v1"), int(2, 1), bytes(4, &bytes(1, &properties.concat()))].concat();
        let definition = bytes(2, &[bytes(1, b"example.com"), bytes(7, &version)].concat());
        let ty = lookup("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition");
        let value = message(ty.unwrap(), &definition).unwrap();
        let wanted = json!({
            "properties": {
                "list": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                "pair": {"items": [{"type": "string"}, {"maximum": 2.5}]},
                "map": {"additionalProperties": {"type": "string"}},
                "open": {"additionalProperties": true},
                "shut": {"additionalProperties": false},
                "word": {"default": "a", "enum": ["a"], "x-kubernetes-preserve-unknown-fields": true},
            },
            "dependencies": {"map": ["open"]},
            "x-kubernetes-validations": [{"rule": "self.a", "message": "no"}],
        });
        assert_eq!(value["spec"]["versions"][0]["schema"]["openAPIV3Schema"], wanted);
    }

    #[test]
    fn a_field_of_another_wire_type_is_named() {
        let error = message(lookup("io.k8s.api.core.v1.ConfigMap").unwrap(), &int(1, 5)).unwrap_err();
        assert_eq!(error, "v1.ConfigMap.metadata: expected bytes");
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(body in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..400) {
            let _ = open(&[MAGIC, &body].concat());
            let types = crate::kinds::schema::types();
            let _ = message(&types[at % types.len()], &body);
        }
    }
}

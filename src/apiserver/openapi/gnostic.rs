//! `/openapi/v2` as protobuf, which is the only form that client-go asks for it in: `kubectl apply` of a `List`
//! and `kubectl explain --output=plaintext-openapiv2` read it.
//!
//! The messages are those of gnostic's `OpenAPIv2.proto`, which names each object of a Swagger 2.0 document and
//! numbers its fields. The tables below hold what of them the documents of this server can say; a document is
//! written from its JSON by them. What a schema may say beyond that (`xml`, `discriminator`) is left out.

use serde_json::{Map, Value};

/// An object of the document.
struct Message {
    fields: &'static [(&'static str, u32, Form)],
    /// The number of `vendor_extension`, for names that begin with `x-`; 0 where there are none.
    extensions: u32,
}

/// How a field's value is written. A path of numbers leads through messages that have but one field, which is how
/// gnostic writes what may be one thing or another.
enum Form {
    Text,
    Texts,
    Bool,
    Whole,
    Double,
    /// Any JSON, as text.
    Any,
    Anys,
    Of(&'static [u32], &'static Message),
    Many(&'static [u32], &'static Message),
    /// An object whose names are free: a message with a repeated field of names and values, the number of which comes
    /// first.
    Named(u32, &'static [u32], &'static Message),
    /// `type`: one or several.
    Types,
    /// `additionalProperties`: a schema, or whether there may be any.
    Additional,
    /// Of the body, in the path or in the query.
    Parameters,
}

use Form::{Additional, Any, Anys, Bool, Double, Many, Named, Of, Parameters, Text, Texts, Types, Whole};

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, Of(&[], &INFO)),
        ("paths", 8, Named(2, &[], &PATH_ITEM)),
        ("definitions", 9, Named(1, &[], &SCHEMA)),
    ],
    extensions: 16,
};

static INFO: Message =
    Message { fields: &[("title", 1, Text), ("version", 2, Text), ("description", 3, Text)], extensions: 7 };

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, Of(&[], &OPERATION)),
        ("put", 3, Of(&[], &OPERATION)),
        ("post", 4, Of(&[], &OPERATION)),
        ("delete", 5, Of(&[], &OPERATION)),
        ("options", 6, Of(&[], &OPERATION)),
        ("head", 7, Of(&[], &OPERATION)),
        ("patch", 8, Of(&[], &OPERATION)),
        ("parameters", 9, Parameters),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Texts),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Parameters),
        ("responses", 9, Named(1, &[1], &RESPONSE)),
        ("schemes", 10, Texts),
        ("deprecated", 11, Bool),
    ],
    extensions: 13,
};

static RESPONSE: Message =
    Message { fields: &[("description", 1, Text), ("schema", 2, Of(&[1], &SCHEMA))], extensions: 5 };

static BODY: Message = Message {
    fields: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Bool),
        ("schema", 5, Of(&[], &SCHEMA)),
    ],
    extensions: 6,
};

static IN_QUERY: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("format", 7, Text),
        ("uniqueItems", 20, Bool),
    ],
    extensions: 23,
};

static IN_PATH: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("uniqueItems", 19, Bool),
    ],
    extensions: 22,
};

static EXTERNAL: Message = Message { fields: &[("description", 1, Text), ("url", 2, Text)], extensions: 3 };

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Double),
        ("maximum", 7, Double),
        ("exclusiveMaximum", 8, Bool),
        ("minimum", 9, Double),
        ("exclusiveMinimum", 10, Bool),
        ("maxLength", 11, Whole),
        ("minLength", 12, Whole),
        ("pattern", 13, Text),
        ("maxItems", 14, Whole),
        ("minItems", 15, Whole),
        ("uniqueItems", 16, Bool),
        ("maxProperties", 17, Whole),
        ("minProperties", 18, Whole),
        ("required", 19, Texts),
        ("enum", 20, Anys),
        ("additionalProperties", 21, Additional),
        ("type", 22, Types),
        ("items", 23, Of(&[1], &SCHEMA)),
        ("allOf", 24, Many(&[], &SCHEMA)),
        ("properties", 25, Named(1, &[], &SCHEMA)),
        ("readOnly", 27, Bool),
        ("externalDocs", 29, Of(&[], &EXTERNAL)),
        ("example", 30, Any),
    ],
    extensions: 31,
};

/// The document as protobuf.
pub fn encode(document: &Value) -> Vec<u8> {
    document.as_object().map(|document| message(&DOCUMENT, document)).unwrap_or_default()
}

fn message(of: &Message, object: &Map<String, Value>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in object {
        if let Some((_, number, form)) = of.fields.iter().find(|(known, ..)| known == name) {
            field(&mut out, *number, form, value);
        } else if name.starts_with("x-") && of.extensions > 0 {
            bytes(&mut out, of.extensions, &named(name, &any(value)));
        }
    }
    out
}

fn field(out: &mut Vec<u8>, number: u32, form: &Form, value: &Value) {
    match (form, value) {
        (Text, Value::String(text)) => bytes(out, number, text.as_bytes()),
        (Bool, Value::Bool(flag)) => varint_field(out, number, u64::from(*flag)),
        (Whole, Value::Number(count)) => varint_field(out, number, count.as_u64().unwrap_or_default()),
        (Double, Value::Number(amount)) => {
            key(out, number, FIXED64);
            out.extend(amount.as_f64().unwrap_or_default().to_le_bytes());
        }
        (Any, value) => bytes(out, number, &any(value)),
        (Anys, Value::Array(items)) => items.iter().for_each(|item| bytes(out, number, &any(item))),
        (Texts, Value::Array(items)) => {
            items.iter().filter_map(Value::as_str).for_each(|text| bytes(out, number, text.as_bytes()));
        }
        (Of(path, of), Value::Object(object)) => bytes(out, number, &within(path, message(of, object))),
        (Many(path, of), Value::Array(items)) => {
            let objects = items.iter().filter_map(Value::as_object);
            objects.for_each(|object| bytes(out, number, &within(path, message(of, object))));
        }
        (Named(inner, path, of), Value::Object(entries)) => {
            let mut all = Vec::new();
            for (name, entry) in entries {
                if let Value::Object(object) = entry {
                    bytes(&mut all, *inner, &named(name, &within(path, message(of, object))));
                }
            }
            bytes(out, number, &all);
        }
        (Types, Value::String(_)) => bytes(out, number, &one(&Text, value)),
        (Types, Value::Array(_)) => bytes(out, number, &one(&Texts, value)),
        (Additional, Value::Object(_)) => bytes(out, number, &one(&Of(&[], &SCHEMA), value)),
        (Additional, Value::Bool(flag)) => {
            let mut inner = Vec::new();
            varint_field(&mut inner, 2, u64::from(*flag));
            bytes(out, number, &inner);
        }
        (Parameters, Value::Array(items)) => {
            for parameter in items.iter().filter_map(Value::as_object) {
                let (path, of): (&[u32], _) = match parameter.get("in").and_then(Value::as_str) {
                    Some("body") => (&[1, 1], &BODY),
                    Some("path") => (&[1, 2, 4], &IN_PATH),
                    _ => (&[1, 2, 3], &IN_QUERY),
                };
                bytes(out, number, &within(path, message(of, parameter)));
            }
        }
        // A value of another type than the document's format has there cannot be said.
        _ => {}
    }
}

/// A message whose first field is the value.
fn one(form: &Form, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    field(&mut out, 1, form, value);
    out
}

/// A message inside those that the path leads through.
fn within(path: &[u32], message: Vec<u8>) -> Vec<u8> {
    path.iter().rev().fold(message, |inner, number| {
        let mut outer = Vec::with_capacity(inner.len() + 8);
        bytes(&mut outer, *number, &inner);
        outer
    })
}

/// `NamedAny`, `NamedSchema` and their like.
fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + value.len() + 12);
    bytes(&mut out, 1, name.as_bytes());
    bytes(&mut out, 2, value);
    out
}

/// `Any`, by its field `yaml`; JSON is YAML.
fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 2, value.to_string().as_bytes());
    out
}

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

fn key(out: &mut Vec<u8>, number: u32, wire: u32) {
    varint(out, u64::from(number << 3 | wire));
}

fn bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    key(out, number, BYTES);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    key(out, number, VARINT);
    varint(out, value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// By hand, after the `.proto` file: before each message its key and its length. Names are in order, so that the
    /// bytes are the same whether a map of JSON keeps an order or not.
    #[test]
    fn a_document_is_written_by_the_numbers_of_its_fields() {
        let cases: [(Value, &[&[u8]]); 3] = [
            (json!({"swagger": "2.0"}), &[b"\x0a\x032.0"]),
            (
                json!({"definitions": {"d": {"additionalProperties": {"$ref": "#/d"}, "type": "object", "x-a": [1]}}}),
                &[
                    b"\x4a\x2b\x0a\x29\x0a\x01d\x12\x24", // an entry of name "d"
                    b"\xaa\x01\x07\x0a\x05\x0a\x03#/d",   // additionalProperties: a schema with a $ref
                    b"\xb2\x01\x08\x0a\x06object",        // type
                    b"\xfa\x01\x0c\x0a\x03x-a\x12\x05\x12\x03[1]",
                ],
            ),
            (
                json!({"paths": {"/p": {"parameters": [{"in": "path", "name": "n", "required": true, "type": "string"}]}}}),
                &[
                    b"\x42\x23\x12\x21\x0a\x02/p\x12\x1b", // an entry of name "/p"
                    b"\x4a\x19\x0a\x17\x12\x15\x22\x13",   // a parameter, not of the body, in the path
                    b"\x12\x04path\x22\x01n\x08\x01\x2a\x06string",
                ],
            ),
        ];
        for (document, expected) in cases {
            assert_eq!(encode(&document), expected.concat(), "{document}");
        }
    }

    #[test]
    fn what_the_format_cannot_say_is_left_out() {
        let odd = json!({"swagger": 2, "info": [], "definitions": {"d": true}, "unknown": {}});
        assert_eq!(encode(&odd), b"\x4a\x00");
        assert_eq!(encode(&json!([])), b"");
    }
}

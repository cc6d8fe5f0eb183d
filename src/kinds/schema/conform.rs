//! From any JSON value to what upstream would hold, and write, for it.
//!
//! Upstream decodes into Go structs and encodes them again; what a client reads back is that round
//! trip. Here it is one pass over the value: unknown fields are dropped and reported, types are
//! checked, quantities and times get their canonical text, and each field appears or not as its Go
//! declaration has it ([`Presence`]).
//!
//! A value of the wrong type does not end the pass, because upstream's does not either: it reports the
//! first. Text that a field's own parser refuses (quantity, time) ends it, and is what gets reported.

use base64::Engine as _;
use serde_json::{Map, Value};

use super::{Field, Presence, Shape, Type, quantity, time};

/// Why a value cannot be decoded into its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// A JSON value of another type than the field's.
    Type {
        /// What was found: `string`, `number 1.5`, `object`, …
        found: String,
        /// The Go struct and the path of the field, without indices; none for the object itself.
        field: Option<(&'static str, String)>,
        /// The Go type of the field.
        wanted: String,
        /// What sort of type that is, as Go's reflection names it.
        sort: &'static str,
    },
    /// The field's own parser refused the text; its words.
    Text(String),
}

impl std::fmt::Display for Mismatch {
    /// The text of Go's JSON decoder.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Type { found, field: Some((owner, path)), wanted, .. } => {
                write!(f, "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {wanted}")
            }
            Self::Type { found, field: None, wanted, .. } => {
                write!(f, "json: cannot unmarshal {found} into Go value of type {wanted}")
            }
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Mismatch {
    /// The text of upstream's other decoder, which reads maps instead of JSON; strategic merge uses it.
    pub fn converter_text(&self) -> String {
        let Self::Type { found, sort, .. } = self else { return self.to_string() };
        let found = match found.split(' ').next().unwrap_or_default() {
            "object" => "map",
            "array" => "slice",
            "number" if found.contains('.') => "float64",
            "number" => "int64",
            other => other,
        };
        match *sort {
            "struct" => format!("cannot restore struct from: {found}"),
            "map" | "slice" => format!("cannot restore {sort} from {found}"),
            _ => format!("unrecognized type: {sort}"),
        }
    }
}

/// Upstream stops listing strict errors here.
const MAX_STRICT_ERRORS: usize = 100;

/// Makes `value` what a Go struct of type `ty` would be written as. Unknown fields are removed, and
/// reported in `strict` with upstream's words (`unknown field "spec.foo"`).
pub fn conform(ty: &'static Type, value: &mut Value, strict: &mut Vec<String>) -> Result<(), Mismatch> {
    let mut pass = Pass { strict, soft: None, path: Vec::new(), owner: None };
    pass.message(ty, value)?;
    pass.soft.map_or(Ok(()), Err)
}

/// A value of one shape outside of any message: what a map patch brings, a default, a test.
pub fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::String(_) => Value::from(""),
        Shape::Bool => Value::from(false),
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => Value::from(0),
        Shape::Quantity => Value::from("0"),
        Shape::Message(inner) => {
            let mut value = Value::Object(Map::new());
            // An empty object has no field that could be of a wrong type.
            let _ = conform(inner.get(), &mut value, &mut Vec::new());
            value
        }
        _ => Value::Null,
    }
}

enum Step {
    Field(&'static str),
    Index(usize),
    Key(String),
}

struct Pass<'a> {
    strict: &'a mut Vec<String>,
    /// The first value of a wrong type.
    soft: Option<Mismatch>,
    path: Vec<Step>,
    /// The Go name of the innermost struct.
    owner: Option<&'static str>,
}

impl Pass<'_> {
    fn message(&mut self, ty: &'static Type, value: &mut Value) -> Result<(), Mismatch> {
        let Value::Object(map) = value else {
            self.wrong(value, ty.go.to_owned(), "struct");
            return Ok(());
        };
        let outer = self.owner.replace(ty.short());
        self.drop_unknown(ty, map);
        for field in &ty.fields {
            match map.get_mut(field.name) {
                None | Some(Value::Null) => set_absent(field, map),
                Some(value) => {
                    self.path.push(Step::Field(field.name));
                    self.value(&field.shape, value)?;
                    self.path.pop();
                    if field.presence == Presence::Plain && is_zero(value) {
                        map.remove(field.name);
                    }
                }
            }
        }
        self.owner = outer;
        Ok(())
    }

    fn drop_unknown(&mut self, ty: &Type, map: &mut Map<String, Value>) {
        let unknown: Vec<String> = map.keys().filter(|key| ty.field(key).is_none()).cloned().collect();
        for key in unknown {
            map.remove(&key);
            if self.strict.len() < MAX_STRICT_ERRORS {
                let path = self.strict_path(&key);
                self.strict.push(format!("unknown field {path:?}"));
            }
        }
    }

    /// A value that is not null, of a field, list element or map entry.
    fn value(&mut self, shape: &Shape, value: &mut Value) -> Result<(), Mismatch> {
        match shape {
            Shape::String(_) if value.is_string() => {}
            Shape::Bool if value.is_boolean() => {}
            Shape::Double if value.is_number() => {}
            Shape::Int32 if value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
            Shape::Int64 if value.as_i64().is_some() => {}
            Shape::String(_) => self.wrong(value, shape.go(), "string"),
            Shape::Bool => self.wrong(value, shape.go(), "bool"),
            Shape::Double => self.wrong(value, shape.go(), "float64"),
            Shape::Int32 => self.wrong(value, shape.go(), "int32"),
            Shape::Int64 => self.wrong(value, shape.go(), "int64"),
            Shape::Bytes => self.bytes(value),
            Shape::Quantity => canonical_quantity(value)?,
            Shape::IntOrString => int_or_string(value)?,
            Shape::Time => canonical_time(value, false)?,
            Shape::MicroTime => canonical_time(value, true)?,
            Shape::Raw | Shape::FieldsV1 | Shape::Or(..) => {}
            Shape::Message(inner) => self.message(inner.get(), value)?,
            Shape::List(inner) => self.list(shape, inner, value)?,
            Shape::Map(_, inner) => self.map(shape, inner, value)?,
        }
        Ok(())
    }

    fn list(&mut self, shape: &Shape, inner: &Shape, value: &mut Value) -> Result<(), Mismatch> {
        let Value::Array(items) = value else {
            self.wrong(value, shape.go(), "slice");
            return Ok(());
        };
        for (at, item) in items.iter_mut().enumerate() {
            if item.is_null() {
                *item = zero(inner);
                continue;
            }
            self.path.push(Step::Index(at));
            self.value(inner, item)?;
            self.path.pop();
        }
        Ok(())
    }

    fn map(&mut self, shape: &Shape, inner: &Shape, value: &mut Value) -> Result<(), Mismatch> {
        let Value::Object(entries) = value else {
            self.wrong(value, shape.go(), "map");
            return Ok(());
        };
        let nested = inner.message().is_some();
        for (key, entry) in entries.iter_mut() {
            if entry.is_null() {
                *entry = zero(inner);
                continue;
            }
            // Only what is inside a message can be unknown, so only there a path will be needed.
            if nested {
                self.path.push(Step::Key(key.clone()));
            }
            self.value(inner, entry)?;
            if nested {
                self.path.pop();
            }
        }
        Ok(())
    }

    fn bytes(&mut self, value: &mut Value) {
        let Some(text) = value.as_str() else {
            self.wrong(value, Shape::Bytes.go(), "slice");
            return;
        };
        match decode_base64(text) {
            // Written again, because the text may hold line breaks, which Go accepts and drops.
            Ok(bytes) => *value = Value::from(base64::engine::general_purpose::STANDARD.encode(bytes)),
            Err(text) => self.soft(Mismatch::Text(text)),
        }
    }

    fn wrong(&mut self, value: &Value, wanted: String, sort: &'static str) {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if matches!(sort, "int32" | "int64") => format!("number {number}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let field = self.owner.map(|owner| (owner, self.json_path()));
        self.soft(Mismatch::Type { found, field, wanted, sort });
    }

    fn soft(&mut self, mismatch: Mismatch) {
        self.soft.get_or_insert(mismatch);
    }

    /// `spec.containers.name`
    fn json_path(&self) -> String {
        let names = self.path.iter().filter_map(|step| match step {
            Step::Field(name) => Some(*name),
            Step::Index(_) | Step::Key(_) => None,
        });
        names.collect::<Vec<_>>().join(".")
    }

    /// `spec.containers[0].name`
    fn strict_path(&self, last: &str) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Index(at) => text.push_str(&format!("[{at}]")),
                Step::Field(name) => join(&mut text, name),
                Step::Key(name) => join(&mut text, name),
            }
        }
        join(&mut text, last);
        text
    }
}

fn join(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

fn set_absent(field: &Field, map: &mut Map<String, Value>) {
    let written = match (field.presence, &field.shape) {
        (Presence::Plain | Presence::Pointer, _) => None,
        (Presence::Nullable, _) => Some(Value::Null),
        // The one such field is a Service's targetPort, and its default never leaves it zero.
        (Presence::Value, Shape::IntOrString) => None,
        (Presence::Always | Presence::Value, shape) => Some(zero(shape)),
    };
    match written {
        Some(value) => map.insert(field.name.to_owned(), value),
        None => map.remove(field.name),
    };
}

/// What `omitempty` leaves out.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn canonical_quantity(value: &mut Value) -> Result<(), Mismatch> {
    let text = match &*value {
        Value::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    };
    let quantity = quantity::parse(&text).map_err(|error| Mismatch::Text(error.to_string()))?;
    *value = Value::from(quantity.to_string());
    Ok(())
}

fn int_or_string(value: &Value) -> Result<(), Mismatch> {
    let found = match value {
        Value::String(_) => return Ok(()),
        Value::Number(number) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => return Ok(()),
        Value::Number(number) => format!("number {number}"),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
        Value::Bool(_) | Value::Null => "bool".to_owned(),
    };
    Err(Mismatch::Text(format!("json: cannot unmarshal {found} into Go value of type int32")))
}

fn canonical_time(value: &mut Value, micro: bool) -> Result<(), Mismatch> {
    let text = match &*value {
        Value::String(text) => text,
        other => {
            let found = match other {
                Value::Number(_) => "number",
                Value::Bool(_) => "bool",
                Value::Array(_) => "array",
                _ => "object",
            };
            return Err(Mismatch::Text(format!("json: cannot unmarshal {found} into Go value of type string")));
        }
    };
    *value = Value::from(time::canonical(text, micro).map_err(Mismatch::Text)?);
    Ok(())
}

/// Standard base64 as Go decodes it: line breaks are skipped, the error names the offset.
fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    let kept: Vec<u8> = text.bytes().filter(|b| !matches!(b, b'\n' | b'\r')).collect();
    base64::engine::general_purpose::STANDARD.decode(&kept).map_err(|error| {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            // Go names the start of a group that is cut short, and the end where padding is.
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                if kept.ends_with(b"=") {
                    kept.len()
                } else {
                    kept.len() - kept.len() % 4
                }
            }
        };
        format!("illegal base64 data at input byte {at}")
    })
}

#[cfg(test)]
mod tests;

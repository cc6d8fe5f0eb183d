//! A cursor over a JSON object that knows its path, and the errors that name it.
//!
//! The texts are upstream's (`k8s.io/apimachinery/pkg/util/validation/field`), because clients match
//! on them and users know them.

use std::fmt;

use serde_json::Value;

/// What is wrong with a field; upstream's `field.ErrorType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

impl Reason {
    /// The `reason` of the cause in a Status.
    pub fn cause(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One field's error.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    pub reason: Reason,
    /// Upstream's notation: `spec.containers[0].name`, `metadata.labels[a]`.
    pub path: String,
    /// The offending value, where the text shows one.
    pub value: Shown,
    pub detail: String,
}

/// How an error shows the offending value.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// As JSON; strings in Go's quotes, and an absent value as `null`.
    Json(Value),
    /// As it stands here. Upstream marshals its own structs, whose fields have another order and
    /// other names than the object's JSON.
    Text(String),
    /// Not at all.
    Nothing,
}

impl FieldError {
    /// The text without the path: what a cause's `message` holds.
    pub fn body(&self) -> String {
        let mut text = self.reason.words().to_owned();
        let shows_value =
            !matches!(self.reason, Reason::Required | Reason::Forbidden | Reason::TooLong | Reason::Internal);
        if shows_value && self.value != Shown::Nothing {
            text.push_str(": ");
            match &self.value {
                Shown::Json(Value::String(value)) => text.push_str(&quote(value)),
                Shown::Json(value) => text.push_str(&value.to_string()),
                Shown::Text(value) => text.push_str(value),
                Shown::Nothing => {}
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

/// A string in double quotes as Go's `%q` writes it.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if (c as u32) < 0x80 && c.is_control() => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// The errors of one object, in the order in which upstream finds them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Errors(pub Vec<FieldError>);

impl Errors {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn extend(&mut self, other: Errors) {
        self.0.extend(other.0);
    }

    /// Adds an error as it is; the other methods are short for it.
    pub fn push(&mut self, reason: Reason, path: impl Into<String>, value: Option<Value>, detail: impl Into<String>) {
        let value = Shown::Json(value.unwrap_or(Value::Null));
        self.0.push(FieldError { reason, path: path.into(), value, detail: detail.into() });
    }

    /// [`Errors::push`] with a value that is shown as the given text.
    pub fn push_text(
        &mut self,
        reason: Reason,
        path: impl Into<String>,
        shown: impl Into<String>,
        detail: impl Into<String>,
    ) {
        self.0.push(FieldError { reason, path: path.into(), value: Shown::Text(shown.into()), detail: detail.into() });
    }

    /// `invalid` that does not show the value, because it is too large to be of use.
    pub fn omitted(&mut self, path: impl Into<String>, detail: impl Into<String>) {
        let (reason, path, detail) = (Reason::Invalid, path.into(), detail.into());
        self.0.push(FieldError { reason, path, value: Shown::Nothing, detail });
    }

    /// One `invalid` for each message.
    pub fn invalid_each(&mut self, at: &Field<'_>, messages: Vec<String>) {
        for message in messages {
            self.invalid(at, message);
        }
    }

    pub fn required(&mut self, at: &Field<'_>, detail: impl Into<String>) {
        self.push(Reason::Required, &at.path, None, detail);
    }

    pub fn invalid(&mut self, at: &Field<'_>, detail: impl Into<String>) {
        self.push(Reason::Invalid, &at.path, Some(at.value.clone()), detail);
    }

    /// `invalid` for a string field, absence of which upstream cannot tell from "".
    pub fn invalid_str(&mut self, at: &Field<'_>, detail: impl Into<String>) {
        self.push(Reason::Invalid, &at.path, Some(at.str_value()), detail);
    }

    /// `invalid` that shows another value than the field's own (upstream shows "" for an absent string).
    pub fn invalid_value(&mut self, at: &Field<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(Reason::Invalid, &at.path, Some(value.into()), detail);
    }

    /// The supported values are listed in the order given: upstream sorts where it keeps a set, and
    /// does not where it keeps a list.
    pub fn not_supported(&mut self, at: &Field<'_>, supported: &[&str]) {
        let value = if at.value.is_null() { Value::from("") } else { at.value.clone() };
        self.push(Reason::NotSupported, &at.path, Some(value), supported_values(supported));
    }

    pub fn duplicate(&mut self, at: &Field<'_>) {
        self.push(Reason::Duplicate, &at.path, Some(at.value.clone()), "");
    }

    pub fn forbidden(&mut self, at: &Field<'_>, detail: impl Into<String>) {
        self.push(Reason::Forbidden, &at.path, None, detail);
    }

    pub fn too_long(&mut self, at: &Field<'_>, max_bytes: usize) {
        self.push(Reason::TooLong, &at.path, None, format!("may not be more than {max_bytes} bytes"));
    }

    pub fn too_many(&mut self, at: &Field<'_>, actual: usize, max: usize) {
        let items = if max == 1 { "item" } else { "items" };
        self.push(Reason::TooMany, &at.path, Some(actual.into()), format!("must have at most {max} {items}"));
    }

    pub fn not_found(&mut self, at: &Field<'_>) {
        self.push(Reason::NotFound, &at.path, Some(at.value.clone()), "");
    }
}

/// The detail of a `NotSupported` error.
pub fn supported_values(supported: &[&str]) -> String {
    let names: Vec<_> = supported.iter().map(|name| quote(name)).collect();
    format!("supported values: {}", names.join(", "))
}

/// A place in an object: its path and the value there (`Null` where absent).
#[derive(Debug, Clone)]
pub struct Field<'a> {
    pub path: String,
    pub value: &'a Value,
}

const NULL: &Value = &Value::Null;

impl<'a> Field<'a> {
    /// The object itself; children's paths start without a dot.
    pub fn root(value: &'a Value) -> Self {
        Self { path: String::new(), value }
    }

    pub fn new(path: impl Into<String>, value: &'a Value) -> Self {
        Self { path: path.into(), value }
    }

    /// The child `name` of an object.
    pub fn get(&self, name: &str) -> Field<'a> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Field { path, value: self.value.get(name).unwrap_or(NULL) }
    }

    /// The value under `key` of a map: `metadata.labels[key]`.
    pub fn key(&self, key: &str) -> Field<'a> {
        Field { path: format!("{}[{key}]", self.path), value: self.value.get(key).unwrap_or(NULL) }
    }

    /// The element `i` of a list.
    pub fn index(&self, i: usize) -> Field<'a> {
        Field { path: format!("{}[{i}]", self.path), value: self.value.get(i).unwrap_or(NULL) }
    }

    /// The elements of a list; none where there is no list.
    pub fn items(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let path = self.path.clone();
        let list: &'a [Value] = self.value.as_array().map_or(&[], Vec::as_slice);
        list.iter().enumerate().map(move |(i, value)| Field { path: format!("{path}[{i}]"), value })
    }

    /// The entries of a map, with `path[key]` paths.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> + use<'a> {
        let path = self.path.clone();
        self.value
            .as_object()
            .into_iter()
            .flatten()
            .map(move |(key, value)| (key.as_str(), Field { path: format!("{path}[{key}]"), value }))
    }

    pub fn exists(&self) -> bool {
        !self.value.is_null()
    }

    /// The string here, or "".
    pub fn str(&self) -> &'a str {
        self.value.as_str().unwrap_or("")
    }

    /// The string here as a list of errors shows it: an absent string is `""`.
    pub fn str_value(&self) -> Value {
        Value::from(self.str())
    }

    pub fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub fn bool(&self) -> bool {
        self.value.as_bool().unwrap_or(false)
    }

    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            Value::String(text) => text.len(),
            _ => 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

//! Request bodies to objects, objects to response bodies.
//!
//! A body is JSON, YAML or protobuf; afterwards it is one JSON value that has the form upstream would
//! write ([`crate::kinds::schema::conform`]). What is answered is JSON (or YAML for who asks): every client that sends
//! protobuf accepts JSON too, so nothing is encoded as protobuf.
//!
//! The texts of the errors are upstream's, and so is what makes an error at all: unknown and duplicate
//! fields are ignored, warned of or refused as the request's `fieldValidation` says; values of a wrong
//! type are always refused. The size of a body is limited before it gets here.

pub mod json;
pub mod negotiate;
pub mod protobuf;
pub mod yaml;

use serde_json::Value;

use crate::kinds::model::Model;
use crate::kinds::schema::{self, Type};
use crate::kinds::{KINDS, Kind, KindInfo};

pub use negotiate::{Accept, Representation, negotiate};

/// The `fieldValidation` of a request. Absent means `Warn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    /// The query parameter's value; `None` where it is not one of upstream's.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// In the form upstream writes, with `apiVersion` and `kind` set.
    pub object: Value,
    /// Texts for `Warning: 299` headers.
    pub warnings: Vec<String>,
}

/// Why a body cannot be decoded. `Display` is the `message` of the Status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// 415 UnsupportedMediaType.
    #[error("the body of the request was in an unknown format - accepted media types include: {0}")]
    UnsupportedMediaType(String),
    /// 400 BadRequest.
    #[error("{0}")]
    BadRequest(String),
}

impl DecodeError {
    pub fn code(&self) -> u16 {
        match self {
            Self::UnsupportedMediaType(_) => 415,
            Self::BadRequest(_) => 400,
        }
    }

    /// The `reason` of the Status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnsupportedMediaType(_) => "UnsupportedMediaType",
            Self::BadRequest(_) => "BadRequest",
        }
    }
}

/// What a body must hold.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub model: Model,
}

impl<'a> Expected<'a> {
    /// The object of a kind's own endpoint; `None` where the kind's type is not in the table.
    pub fn of(info: &'a KindInfo) -> Option<Self> {
        let model = schema::lookup(info.schema)?.into();
        Some(Self { group: info.group, version: info.version, kind: info.kind, model })
    }

    /// The object of a kind's own endpoint, custom resources included.
    pub fn of_kind(kind: &'a dyn Kind) -> Option<Self> {
        let info = kind.info();
        Some(Self { group: info.group, version: info.version, kind: info.kind, model: kind.model()? })
    }

    /// The object of a subresource such as `bindings` or `scale`, by its OpenAPI name.
    pub fn named(group: &'a str, version: &'a str, kind: &'a str, schema_name: &str) -> Option<Self> {
        Some(Self { group, version, kind, model: schema::lookup(schema_name)?.into() })
    }

    /// `apps/v1`, or `v1` for core.
    pub fn api_version(&self) -> String {
        join_group(self.group, self.version)
    }
}

/// `apps/v1`, or `v1` for core.
pub fn join_group(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Decodes the body of a create or update of `info`'s kind.
pub fn decode(
    body: &[u8],
    content_type: Option<&str>,
    info: &KindInfo,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let expected = Expected::of(info)
        .ok_or_else(|| DecodeError::BadRequest(format!("no type is known for {} {}", info.group, info.kind)))?;
    decode_as(body, content_type, &expected, validation)
}

/// Decodes a body that must hold what `expected` says; `apiVersion` and `kind` may be absent.
pub fn decode_as(
    body: &[u8],
    content_type: Option<&str>,
    expected: &Expected<'_>,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let read = read(body, content_type, expected)?;
    let (group, version) = split_group(&read.api_version);
    let kind = if read.kind.is_empty() { expected.kind } else { &read.kind };
    let defaulted = read.api_version.is_empty();
    let (group, version) = if defaulted { (expected.group, expected.version) } else { (group, version) };
    if kind != expected.kind {
        return Err(other_kind(kind, group, version, expected));
    }
    if (group, version) != (expected.group, expected.version) {
        return Err(DecodeError::BadRequest(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            join_group(group, version),
            expected.api_version()
        )));
    }
    finish(read, expected, validation)
}

/// Decodes the options that a DELETE may carry in its body; an empty body is `None`. Clients name
/// various group versions there, and upstream takes any.
pub fn decode_options(body: &[u8], content_type: Option<&str>) -> Result<Option<Value>, DecodeError> {
    if body.is_empty() {
        return Ok(None);
    }
    let expected = Expected::named("", "v1", "DeleteOptions", "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")
        .ok_or_else(|| DecodeError::BadRequest("no type is known for DeleteOptions".to_owned()))?;
    let read = read(body, content_type, &expected)?;
    if !read.kind.is_empty() && read.kind != expected.kind {
        let (group, version) = split_group(&read.api_version);
        return Err(other_kind(&read.kind, group, version, &expected));
    }
    finish(read, &expected, FieldValidation::Ignore).map(|decoded| Some(decoded.object))
}

/// A body that has been parsed but not yet typed.
struct Read {
    value: Value,
    api_version: String,
    kind: String,
    /// Duplicate keys, as strict decoding reports them.
    strict: Vec<String>,
}

fn read(body: &[u8], content_type: Option<&str>, expected: &Expected<'_>) -> Result<Read, DecodeError> {
    let media = content_type.unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "" | "application/json" => read_json(body, expected),
        "application/yaml" => read_yaml(body, expected),
        "application/vnd.kubernetes.protobuf" => match expected.model.table() {
            Some(ty) => read_protobuf(body, expected, ty),
            // Custom resources have no numbers for their fields.
            None => Err(DecodeError::UnsupportedMediaType("application/json, application/yaml".to_owned())),
        },
        _ => Err(DecodeError::UnsupportedMediaType(
            "application/json, application/yaml, application/vnd.kubernetes.protobuf".to_owned(),
        )),
    }
}

fn read_json(body: &[u8], expected: &Expected<'_>) -> Result<Read, DecodeError> {
    let parsed = json::parse(body).map_err(|error| {
        unrecognized(expected, body, &format!("couldn't get version/kind; json parse error: {error}"))
    })?;
    typed(parsed.value, parsed.duplicates, body, expected)
}

fn read_yaml(body: &[u8], expected: &Expected<'_>) -> Result<Read, DecodeError> {
    let parsed = yaml::parse(body)
        .map_err(|error| unrecognized(expected, body, &format!("error converting YAML to JSON: {error}")))?;
    let strict = match parsed.duplicates.as_slice() {
        [] => Vec::new(),
        lines => vec![format!("yaml: unmarshal errors:\n  {}", lines.join("\n  "))],
    };
    typed(parsed.value, strict, body, expected)
}

/// Finds `apiVersion` and `kind`, which must be strings, in a parsed document.
fn typed(value: Value, strict: Vec<String>, body: &[u8], expected: &Expected<'_>) -> Result<Read, DecodeError> {
    let no_meta = |found: &str, place: &str| {
        let text =
            format!("couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go {place}");
        unrecognized(expected, body, &text)
    };
    let found = type_name(&value);
    let text = |name: &str| match value.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(no_meta(type_name(other), &format!("struct field .{name} of type string"))),
    };
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    match value {
        Value::Object(_) => Ok(Read { value, api_version, kind, strict }),
        // `null` decodes into nothing at all, like an empty object.
        Value::Null => Ok(Read { value: Value::Object(serde_json::Map::new()), api_version, kind, strict }),
        _ => {
            let meta = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
            Err(no_meta(found, &format!("value of type {meta}")))
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn read_protobuf(body: &[u8], expected: &Expected<'_>, ty: &'static Type) -> Result<Read, DecodeError> {
    let envelope = protobuf::open(body).map_err(|error| unrecognized(expected, body, &error))?;
    // The raw bytes only make sense as their own kind; `decode_as` refuses another kind by its name.
    let own = envelope.kind.is_empty() || envelope.kind == expected.kind;
    let value = if own { protobuf::message(ty, envelope.raw) } else { Ok(Value::Null) };
    let value = value.map_err(|error| cannot_be_handled(expected, &error))?;
    Ok(Read { value, api_version: envelope.api_version, kind: envelope.kind, strict: Vec::new() })
}

/// Types the value, and reports what is unknown or doubled as `validation` says.
fn finish(read: Read, expected: &Expected<'_>, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let Read { value: mut object, mut strict, .. } = read;
    expected
        .model
        .conform(&mut object, &mut strict)
        .map_err(|error| cannot_be_handled(expected, &error.to_string()))?;
    let warnings = match validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => strict,
        FieldValidation::Strict if strict.is_empty() => Vec::new(),
        FieldValidation::Strict => {
            return Err(cannot_be_handled(expected, &format!("strict decoding error: {}", strict.join(", "))));
        }
    };
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), Value::from(expected.api_version()));
        map.insert("kind".to_owned(), Value::from(expected.kind));
    }
    Ok(Decoded { object, warnings })
}

fn split_group(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

fn cannot_be_handled(expected: &Expected<'_>, error: &str) -> DecodeError {
    let (kind, version) = (expected.kind, expected.version);
    DecodeError::BadRequest(format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}"))
}

/// The body holds another kind than the endpoint's.
fn other_kind(kind: &str, group: &str, version: &str, expected: &Expected<'_>) -> DecodeError {
    let known = KINDS.iter().map(|kind| kind.info());
    let known = known.into_iter().any(|info| (info.group, info.version, info.kind) == (group, version, kind));
    let error = if known {
        let internal = match expected.group.split('.').next() {
            None | Some("" | "events") => "core",
            Some(group) => group,
        };
        format!("converting ({version}.{kind}) to ({internal}.{}): unknown conversion", expected.kind)
    } else {
        let api_version = join_group(group, version);
        format!(
            "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        )
    };
    let wanted = expected.kind;
    DecodeError::BadRequest(format!("{kind} in version {version:?} cannot be handled as a {wanted}: {error}"))
}

/// The body could not even be asked for its kind.
fn unrecognized(expected: &Expected<'_>, body: &[u8], error: &str) -> DecodeError {
    let kind = expected.kind;
    let shown = summary(body);
    DecodeError::BadRequest(format!("the object provided is unrecognized (must be of type {kind}): {error} ({shown})"))
}

/// The beginning of a body: as text if it looks like JSON, else in hexadecimal.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let (start, more) = (&body[..body.len().min(SHOWN)], if body.len() > SHOWN { " ..." } else { "" });
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => format!("{}{more}", start.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

#[cfg(test)]
mod tests;

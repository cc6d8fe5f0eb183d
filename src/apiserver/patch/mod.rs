//! The three patches: JSON patch, merge patch, strategic merge patch. And [`mod@apply`], which is a patch
//! only by its verb.
//!
//! A patch is applied to the object as a client would read it, and the result is typed like a request
//! body. The edge cases are those of the libraries that upstream uses, because clients have come to
//! depend on them; where a standard and upstream differ (a JSON patch may `replace` a key that is not
//! there), upstream wins.

pub mod apply;
pub mod json;
pub mod merge;
pub mod strategic;

use std::fmt::Write as _;

use serde_json::Value;

use super::codec::{Expected, FieldValidation, join_group, json as text};
use crate::kinds::schema::conform::Mismatch;
use crate::kinds::{KINDS, KindInfo};

/// What a PATCH request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
}

/// A patched object, typed and canonical.
#[derive(Debug, Clone, PartialEq)]
pub struct Patched {
    pub object: Value,
    /// Texts for `Warning: 299` headers.
    pub warnings: Vec<String>,
}

/// Why a patch cannot be applied. `Display` is the `message` of the Status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// 415: the content type is no patch type at all; `details` is an empty object.
    #[error("415: Unsupported Media Type")]
    NoPatchType,
    /// 415: a patch type, but not one that this kind takes.
    #[error("the body of the request was in an unknown format - accepted media types include: {0}")]
    Unsupported(String),
    /// 400 BadRequest.
    #[error("{0}")]
    BadRequest(String),
    /// 413 RequestEntityTooLarge.
    #[error("{0}")]
    TooLarge(String),
    /// 422 Invalid with empty `details`: the patch is well-formed and does not apply. The reason is for
    /// the log; upstream does not tell it either.
    #[error("the server rejected our request due to an error in our request")]
    DoesNotApply(String),
    /// 422 Invalid with one cause at field `patch`; `details` have neither kind nor name.
    #[error(" \"\" is invalid: patch: Invalid value: {}: {detail}", Value::from(.value.as_str()))]
    Invalid {
        /// The patched object, or the patch, as text.
        value: String,
        detail: String,
    },
    /// 500 without a reason: a strategic merge patch that contradicts itself.
    #[error("{0}")]
    Contradiction(String),
}

impl PatchError {
    pub fn code(&self) -> u16 {
        match self {
            Self::NoPatchType | Self::Unsupported(_) => 415,
            Self::BadRequest(_) => 400,
            Self::TooLarge(_) => 413,
            Self::DoesNotApply(_) | Self::Invalid { .. } => 422,
            Self::Contradiction(_) => 500,
        }
    }

    /// The `reason` of the Status; empty for none.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoPatchType | Self::Unsupported(_) => "UnsupportedMediaType",
            Self::BadRequest(_) => "BadRequest",
            Self::TooLarge(_) => "RequestEntityTooLarge",
            Self::DoesNotApply(_) | Self::Invalid { .. } => "Invalid",
            Self::Contradiction(_) => "",
        }
    }

    /// The message of the one cause (field `patch`, reason `FieldValueInvalid`).
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::Invalid { value, detail } => {
                Some(format!("Invalid value: {}: {detail}", Value::from(value.as_str())))
            }
            _ => None,
        }
    }

    /// Whether the Status has `details` (which may be empty) at all.
    pub fn has_details(&self) -> bool {
        matches!(self, Self::NoPatchType | Self::DoesNotApply(_) | Self::Invalid { .. })
    }
}

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// Whether a request's content type is that of server-side apply.
pub fn is_apply(content_type: Option<&str>) -> bool {
    let media = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case(APPLY_PATCH)
}

impl PatchType {
    /// From the request's content type; `strategic` is false for custom resources.
    pub fn from_content_type(content_type: Option<&str>, strategic: bool) -> Result<Self, PatchError> {
        let media = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        match media.to_ascii_lowercase().as_str() {
            JSON_PATCH => Ok(Self::Json),
            MERGE_PATCH => Ok(Self::Merge),
            STRATEGIC_MERGE_PATCH if strategic => Ok(Self::Strategic),
            STRATEGIC_MERGE_PATCH => Err(unsupported()),
            _ => Err(PatchError::NoPatchType),
        }
    }
}

/// What a custom resource answers to a strategic merge patch: its schema has no strategies.
fn unsupported() -> PatchError {
    PatchError::Unsupported([JSON_PATCH, MERGE_PATCH, APPLY_PATCH].join(", "))
}

/// Applies a patch to an object of `info`'s kind.
pub fn apply(
    info: &KindInfo,
    current: &Value,
    patch_type: PatchType,
    patch: &[u8],
    validation: FieldValidation,
) -> Result<Patched, PatchError> {
    let expected = Expected::of(info)
        .ok_or_else(|| PatchError::BadRequest(format!("no type is known for {} {}", info.group, info.kind)))?;
    apply_as(&expected, current, patch_type, patch, validation)
}

/// Applies a patch to an object that is not a kind's own, such as a Scale.
pub fn apply_as(
    expected: &Expected<'_>,
    current: &Value,
    patch_type: PatchType,
    patch: &[u8],
    validation: FieldValidation,
) -> Result<Patched, PatchError> {
    match patch_type {
        PatchType::Json => {
            let (operations, strict) = json::parse(patch)?;
            let object = json::apply(current.clone(), operations).map_err(PatchError::DoesNotApply)?;
            typed(expected, object, strict, validation, Value::to_string, Mismatch::to_string)
        }
        PatchType::Merge => {
            let (patch, strict) = read_map(patch)
                .map_err(|error| format!("error decoding patch: {error}"))
                .map_err(PatchError::BadRequest)?;
            let mut object = current.clone();
            merge::apply(&mut object, patch);
            typed(expected, object, strict, validation, Value::to_string, Mismatch::to_string)
        }
        PatchType::Strategic => {
            let (patch, strict) = read_map(patch).map_err(PatchError::BadRequest)?;
            let shown = go_text(&patch);
            let Some(ty) = expected.model.table() else { return Err(unsupported()) };
            let object = strategic::apply(ty, current.clone(), patch)?;
            typed(expected, object, strict, validation, |_| shown.clone(), Mismatch::converter_text)
        }
    }
}

/// A patch that must be a JSON object, and its duplicate keys.
fn read_map(patch: &[u8]) -> Result<(Value, Vec<String>), String> {
    let parsed = text::parse(patch)?;
    let found = match &parsed.value {
        Value::Object(_) => return Ok((parsed.value, parsed.duplicates)),
        Value::Null => return Ok((Value::Object(serde_json::Map::new()), Vec::new())),
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
    };
    Err(format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"))
}

/// Types the patched object. `shown` is the value that an error shows, `words` how it names a mismatch.
fn typed(
    expected: &Expected<'_>,
    mut object: Value,
    mut strict: Vec<String>,
    validation: FieldValidation,
    shown: impl Fn(&Value) -> String,
    words: impl Fn(&Mismatch) -> String,
) -> Result<Patched, PatchError> {
    let before = shown(&object);
    let invalid = |detail: String| PatchError::Invalid { value: before.clone(), detail };
    claim(expected, &object, &words).map_err(|error| match error {
        Claim::Unreadable(detail) => invalid(detail),
        Claim::Another(message) => PatchError::BadRequest(message),
    })?;
    expected.model.conform(&mut object, &mut strict).map_err(|mismatch| invalid(words(&mismatch)))?;
    let api_version = expected.api_version();
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), Value::from(api_version));
        map.insert("kind".to_owned(), Value::from(expected.kind));
    }
    match validation {
        FieldValidation::Ignore => Ok(Patched { object, warnings: Vec::new() }),
        FieldValidation::Warn => Ok(Patched { object, warnings: strict }),
        FieldValidation::Strict if strict.is_empty() => Ok(Patched { object, warnings: Vec::new() }),
        FieldValidation::Strict => Err(invalid(format!("strict decoding error: {}", strict.join(", ")))),
    }
}

/// Why the patched object is not of the kind that was patched.
enum Claim {
    /// It cannot even be read as what it says it is.
    Unreadable(String),
    Another(String),
}

/// Checks what the patched object says it is: upstream decodes it as that, whatever it was before.
fn claim(expected: &Expected<'_>, object: &Value, words: impl Fn(&Mismatch) -> String) -> Result<(), Claim> {
    let own = expected.api_version();
    let said = |field: &str| object.get(field).and_then(Value::as_str);
    let (version, kind) = (said("apiVersion").unwrap_or(&own), said("kind").unwrap_or(expected.kind));
    if (version, kind) == (own.as_str(), expected.kind) {
        return Ok(());
    }
    let infos = KINDS.iter().map(|kind| kind.info());
    let found = infos.filter(|info| info.kind == kind).find(|info| join_group(info.group, info.version) == version);
    let Some(other) = found.and_then(Expected::of) else {
        return Err(Claim::Unreadable(format!(
            "no kind {kind:?} is registered for version {version:?} in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\""
        )));
    };
    other
        .model
        .conform(&mut object.clone(), &mut Vec::new())
        .map_err(|mismatch| Claim::Unreadable(words(&mismatch)))?;
    Err(Claim::Another(format!("a patch cannot make a {} in {own} a {kind} in {version}", expected.kind)))
}

/// A value as Go's `%v` prints it; upstream's errors show patches that way.
fn go_text(value: &Value) -> String {
    let mut text = String::new();
    write_go(value, &mut text);
    text
}

fn write_go(value: &Value, text: &mut String) {
    // Writing to a string cannot fail.
    match value {
        Value::Null => text.push_str("<nil>"),
        Value::String(string) => text.push_str(string),
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                text.push_str(if at > 0 { " " } else { "" });
                write_go(item, text);
            }
            text.push(']');
        }
        Value::Object(map) => {
            text.push_str("map[");
            for (at, (key, item)) in map.iter().enumerate() {
                let _ = write!(text, "{}{key}:", if at > 0 { " " } else { "" });
                write_go(item, text);
            }
            text.push(']');
        }
        other => {
            let _ = write!(text, "{other}");
        }
    }
}

#[cfg(test)]
mod tests;

//! PATCH with a configuration to apply: the object becomes what its managers say together.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;

use super::Call;
use super::update::check_place;
use crate::apiserver::admission::author::Author;
use crate::apiserver::codec::{Expected, FieldValidation, yaml};
use crate::apiserver::options::WriteOptions;
use crate::apiserver::patch::apply::versions::{Alike, Versions};
use crate::apiserver::patch::apply::{self, ApplyError, Writer};
use crate::apiserver::registry::Written;
use crate::apiserver::registry::owners::Owner;
use crate::apiserver::reply::Look;
use crate::apiserver::status::{ApiError, Cause, Details};
use crate::apiserver::{body, hooks};
use crate::kinds::meta as kmeta;
use crate::kinds::time;

/// How often an object that comes and goes is tried again.
const ATTEMPTS: usize = 8;

pub async fn apply(call: &Call, body: Body) -> Result<Response, ApiError> {
    let look = Look::of_objects(&call.headers, &call.query)?;
    let options = WriteOptions::of_apply(&call.query)?;
    let expected = Expected::of_kind(call.kind).ok_or_else(|| body::unknown_type(call.kind))?;
    let config = Config::read(body, &expected, &options).await?;
    let written = write(call, &config, &options).await?;
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut warnings = config.warnings;
    warnings.extend(written.warnings);
    look.object(call.kind, code, &written.stored, &warnings)
}

/// Updates the object, or makes it where it is not there.
async fn write(call: &Call, config: &Config<'_>, options: &WriteOptions) -> Result<Written, ApiError> {
    let registry = &call.server.registry;
    let reset = call.kind.reset_fields(&call.target.subresource);
    let versions = registry.versions(call.kind);
    let applied = |old: &Value| {
        let mut new = config.apply_across(old, options, &call.target.subresource, reset, &versions)?;
        check_place(call, &mut new)?;
        call.guard(&new, Some(old))?;
        Ok(new)
    };
    let author = Author { owner: Owner::Told, ..call.author(options) };
    let mut attempts = 0;
    while attempts < ATTEMPTS {
        let result = registry.update(call.place(), call.lane(), &author, &applied).await;
        // It may have failed for want of something that is known now.
        if result.is_err() && versions.find_out(registry, call.kind).await? {
            continue;
        }
        match result {
            Err(error) if error.reason() == "NotFound" && call.target.subresource.is_empty() => {}
            result => return result,
        }
        attempts += 1;
        call.may_create()?;
        if registry.definitions.current().is_terminating(call.kind) {
            return Err(call.place().not_found());
        }
        let mut object = applied(&config.expected.model.empty())?;
        call.sign_as_requester(&mut object);
        let uid = kmeta::text(&object, "uid");
        if !uid.is_empty() {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(ApiError::conflict(call.kind.info(), &call.target.name, why));
        }
        let made = registry.create(call.kind, &call.target.namespace, object, &author).await;
        match made {
            Err(error) if error.reason() == "AlreadyExists" => {}
            Ok(made) => {
                if !options.dry_run {
                    hooks::created(&call.server, call.kind, &made.stored).await;
                }
                return Ok(made);
            }
            refused => return refused,
        }
    }
    Err(call.place().stale())
}

/// A configuration as it was sent.
pub struct Config<'a> {
    value: Value,
    expected: &'a Expected<'a>,
    pub warnings: Vec<String>,
}

impl<'a> Config<'a> {
    /// Reads YAML or JSON that says which type it is of.
    pub async fn read(body: Body, expected: &'a Expected<'a>, options: &WriteOptions) -> Result<Self, ApiError> {
        let bytes = body::read(body).await?;
        let bad = |error: String| ApiError::bad_request(format!("error decoding YAML: {error}"));
        let parsed = yaml::parse(&bytes).map_err(|error| bad(format!("error converting YAML to JSON: {error}")))?;
        let value = match parsed.value {
            Value::Null => Value::Object(serde_json::Map::new()),
            value @ Value::Object(_) => value,
            other => {
                let found = if other.is_array() { "array" } else { "value" };
                return Err(bad(format!(
                    "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
                )));
            }
        };
        let doubles = match parsed.duplicates.as_slice() {
            [] => Vec::new(),
            lines => vec![format!("yaml: unmarshal errors:\n  {}", lines.join("\n  "))],
        };
        let said = apply::group_version_kind(&value);
        if value["apiVersion"].as_str() != Some(&expected.api_version())
            || value["kind"].as_str() != Some(expected.kind)
        {
            return Err(ApiError::bad_request(format!("invalid object type: {said}")));
        }
        let warnings = match options.field_validation {
            FieldValidation::Ignore => Vec::new(),
            FieldValidation::Strict if !doubles.is_empty() => {
                return Err(ApiError::bad_request(format!("error strict decoding YAML: {}", doubles.join(", "))));
            }
            FieldValidation::Warn | FieldValidation::Strict => doubles,
        };
        Ok(Self { value, expected, warnings })
    }

    /// Applies it to an object of its type.
    pub fn apply(
        &self,
        old: &Value,
        options: &WriteOptions,
        subresource: &str,
        reset: &[&[&str]],
    ) -> Result<Value, ApiError> {
        self.apply_across(old, options, subresource, reset, &Alike)
    }

    /// The same to an object that has other versions.
    fn apply_across(
        &self,
        old: &Value,
        options: &WriteOptions,
        subresource: &str,
        reset: &[&[&str]],
        versions: &dyn Versions,
    ) -> Result<Value, ApiError> {
        let (version, now) = (self.expected.api_version(), time::write(Timestamp::now()));
        let manager = &options.field_manager;
        let writer = Writer { manager, api_version: &version, subresource, reset, now: &now };
        apply::apply_across(&self.expected.model, old, &self.value, &writer, options.force, versions).map_err(refused)
    }
}

fn refused(error: ApplyError) -> ApiError {
    let message = error.to_string();
    match error {
        ApplyError::BadRequest(_) => ApiError::bad_request(message),
        ApplyError::Failed(_) | ApplyError::Unconverted => ApiError::new(500, "", message),
        ApplyError::Conflict(conflicts) => {
            let causes = conflicts
                .listed
                .into_iter()
                .map(|conflict| Cause {
                    reason: "FieldManagerConflict".into(),
                    message: format!("conflict with {}", conflict.manager),
                    field: conflict.field,
                })
                .collect();
            ApiError::new(409, "Conflict", message).with_details(Details { causes, ..Details::default() })
        }
    }
}

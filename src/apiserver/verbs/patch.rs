//! PATCH: computed from the object as it is, again if somebody else was quicker.

use std::sync::Mutex;

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use serde_json::Value;

use super::Call;
use super::update::check_place;
use crate::apiserver::body;
use crate::apiserver::options::WriteOptions;
use crate::apiserver::reply::{self, Representation};
use crate::apiserver::status::ApiError;

pub async fn patch(call: &Call, body: Body) -> Result<Response, ApiError> {
    let shape = Representation::negotiate(&call.headers)?;
    let options = WriteOptions::from_query(&call.query, "PatchOptions")?;
    let patch = Patch::read(call, &options, body).await?;
    let change = |old: &Value| patch.apply(call, old);
    let written = call.server.registry.update(call.place(), call.lane(), options.dry_run, &change).await?;
    let mut warnings = patch.take_warnings();
    warnings.extend(written.warnings);
    reply::object(call.kind, &shape, StatusCode::OK, &written.stored, &warnings)
}

/// A patch as it was sent.
pub struct Patch {
    bytes: bytes::Bytes,
    content_type: String,
    /// What the last application had to say.
    warnings: Mutex<Vec<String>>,
}

impl Patch {
    pub async fn read(call: &Call, _options: &WriteOptions, body: Body) -> Result<Self, ApiError> {
        let content_type = body::content_type(&call.headers).unwrap_or_default();
        let content_type = content_type.split(';').next().unwrap_or_default().trim().to_owned();
        Ok(Self { bytes: body::read(body).await?, content_type, warnings: Mutex::default() })
    }

    /// The patched object, which must still be the same object.
    pub fn apply(&self, call: &Call, old: &Value) -> Result<Value, ApiError> {
        let mut new = self.apply_plain(old)?;
        check_place(call, &mut new)?;
        Ok(new)
    }

    /// The patched value, whatever it is.
    pub fn apply_plain(&self, old: &Value) -> Result<Value, ApiError> {
        let patch: Value =
            serde_json::from_slice(&self.bytes).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let mut new = old.clone();
        match self.content_type.as_str() {
            "application/json-patch+json" => {
                let patch: json_patch::Patch =
                    serde_json::from_value(patch).map_err(|error| ApiError::bad_request(error.to_string()))?;
                json_patch::patch(&mut new, &patch).map_err(|error| ApiError::bad_request(error.to_string()))?;
            }
            _ => json_patch::merge(&mut new, &patch),
        }
        Ok(new)
    }

    pub fn take_warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut *warnings)
    }
}

//! PATCH: computed from the object as it is, again if somebody else was quicker.

use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use serde_json::Value;

use super::Call;
use super::update::check_place;
use crate::apiserver::body;
use crate::apiserver::codec::{Expected, FieldValidation};
use crate::apiserver::options::WriteOptions;
use crate::apiserver::patch::{self, PatchError, PatchType};
use crate::apiserver::reply::Look;
use crate::apiserver::status::{ApiError, Cause, Details};

pub async fn patch(call: &Call, body: Body) -> Result<Response, ApiError> {
    let look = Look::of_objects(&call.headers, &call.query)?;
    let options = WriteOptions::from_query(&call.query, "PatchOptions")?;
    let patch = Patch::read(call, &options, body).await?;
    let change = |old: &Value| patch.apply(call, old);
    let written = call.server.registry.update(call.place(), call.lane(), &call.author(&options), &change).await?;
    let mut warnings = patch.take_warnings();
    warnings.extend(written.warnings);
    look.object(call.kind, StatusCode::OK, &written.stored, &warnings)
}

/// A patch as it was sent.
pub struct Patch {
    bytes: bytes::Bytes,
    kind: PatchType,
    validation: FieldValidation,
    /// What the last application had to say.
    warnings: Mutex<Vec<String>>,
}

impl Patch {
    pub async fn read(call: &Call, options: &WriteOptions, body: Body) -> Result<Self, ApiError> {
        let kind = PatchType::from_content_type(body::content_type(&call.headers), call.kind.custom().is_none())
            .map_err(refused)?;
        let bytes = body::read(body).await?;
        Ok(Self { bytes, kind, validation: options.field_validation, warnings: Mutex::default() })
    }

    /// The patched object, which must still be the same object.
    pub fn apply(&self, call: &Call, old: &Value) -> Result<Value, ApiError> {
        let expected = Expected::of_kind(call.kind).ok_or_else(|| body::unknown_type(call.kind))?;
        let mut new = self.apply_as(&expected, old)?;
        check_place(call, &mut new)?;
        call.guard(&new, Some(old))?;
        Ok(new)
    }

    /// `old`, a value of the expected type, patched.
    pub fn apply_as(&self, expected: &Expected<'_>, old: &Value) -> Result<Value, ApiError> {
        let patched = patch::apply_as(expected, old, self.kind, &self.bytes, self.validation).map_err(refused)?;
        *self.warnings.lock().unwrap_or_else(PoisonError::into_inner) = patched.warnings;
        Ok(patched.object)
    }

    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn refused(error: PatchError) -> ApiError {
    let refusal = ApiError::new(error.code(), error.reason(), error.to_string());
    if !error.has_details() {
        return refusal;
    }
    let cause = |message| Cause { reason: "FieldValueInvalid".into(), message, field: "patch".into() };
    let causes = error.cause().into_iter().map(cause).collect();
    refusal.with_details(Details { causes, ..Details::default() })
}

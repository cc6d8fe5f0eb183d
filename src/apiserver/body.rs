//! Reading request bodies: bounded, then decoded for the kind that the URL names.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use super::options::FieldValidation;
use super::status::ApiError;
use crate::kinds::Kind;

/// The largest body; upstream's limit for JSON.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// The whole body, or 413.
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("Request entity too large: limit is {MAX_BODY_BYTES}");
            Err(ApiError::new(413, "RequestEntityTooLarge", message))
        }
        Err(error) => Err(ApiError::bad_request(format!("the request body could not be read: {error}"))),
    }
}

pub fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
}

/// An object of `kind`, and what to warn of.
pub fn decode(
    bytes: &[u8],
    _content_type: Option<&str>,
    kind: &dyn Kind,
    _validation: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    let mut object: Value = serde_json::from_slice(bytes).map_err(|error| {
        let kind = kind.info().kind;
        ApiError::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {error}"))
    })?;
    if !object.is_object() {
        return Err(ApiError::bad_request("the object provided is no object"));
    }
    object["apiVersion"] = super::registry::encoding::api_version(kind.info()).into();
    object["kind"] = kind.info().kind.into();
    Ok((object, Vec::new()))
}

/// Options sent as a body; `None` when there is no body.
pub fn decode_options(bytes: &[u8], _content_type: Option<&str>, kind: &str) -> Result<Option<Value>, ApiError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(bytes)
        .map(Some)
        .map_err(|error| ApiError::bad_request(format!("{kind} could not be read: {error}")))
}

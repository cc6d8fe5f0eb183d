//! Reading request bodies: bounded, then decoded for the kind that the URL names.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use super::codec::{self, DecodeError, Decoded, Expected, FieldValidation};
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

/// An object of `kind`.
pub async fn object(
    body: Body,
    headers: &HeaderMap,
    kind: &dyn Kind,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let bytes = read(body).await?;
    let expected = Expected::of_kind(kind).ok_or_else(|| unknown_type(kind))?;
    codec::decode_as(&bytes, content_type(headers), &expected, validation).map_err(refused)
}

/// An object of another type than the URL's kind: a Binding, a Scale.
pub async fn expected(
    body: Body,
    headers: &HeaderMap,
    expected: &Expected<'_>,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let bytes = read(body).await?;
    codec::decode_as(&bytes, content_type(headers), expected, validation).map_err(refused)
}

/// The DeleteOptions that a DELETE may carry.
pub async fn delete_options(body: Body, headers: &HeaderMap) -> Result<Option<Value>, ApiError> {
    let bytes = read(body).await?;
    codec::decode_options(&bytes, content_type(headers)).map_err(refused)
}

/// A kind whose type is not in the table: a fault of the program.
pub fn unknown_type(kind: &dyn Kind) -> ApiError {
    ApiError::internal(format!("the type {} is not known", kind.info().kind))
}

fn refused(error: DecodeError) -> ApiError {
    ApiError::new(error.code(), error.reason(), error.to_string())
}

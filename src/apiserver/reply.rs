//! Answers: objects and lists in the representation that the client accepts.
//!
//! JSON is spliced from stored bytes and never parsed; Tables and metadata-only views are made from the
//! decoded objects.

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::registry::encoding::{self, Stored};
use super::status::{ApiError, Details};
use crate::kinds::Kind;

/// Warnings are cut so that they fit into headers: upstream's total.
const MAX_WARNING_BYTES: usize = 4096;

/// How the client wants objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Representation {
    Json,
}

impl Representation {
    pub fn negotiate(_headers: &HeaderMap) -> Result<Self, ApiError> {
        Ok(Self::Json)
    }
}

pub fn json_bytes(code: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub fn json_value(code: StatusCode, value: &Value) -> Response {
    json_bytes(code, value.to_string())
}

/// Adds `Warning: 299 - "…"` headers.
pub fn warn(response: &mut Response, warnings: &[String]) {
    let mut left = MAX_WARNING_BYTES;
    for warning in warnings {
        let text: String = warning.chars().filter(|c| !c.is_control()).collect();
        let value = format!("299 - \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        if value.len() > left {
            break;
        }
        left -= value.len();
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// One object.
pub fn object(
    kind: &dyn Kind,
    shape: &Representation,
    code: StatusCode,
    stored: &Stored,
    warnings: &[String],
) -> Result<Response, ApiError> {
    let mut response = match shape {
        Representation::Json => json_bytes(code, stored.to_json(kind)),
    };
    warn(&mut response, warnings);
    Ok(response)
}

/// What a list says about itself.
#[derive(Debug, Clone, Default)]
pub struct ListMeta {
    pub revision: u64,
    pub continue_token: String,
    pub remaining: Option<usize>,
}

impl ListMeta {
    pub fn to_value(&self) -> Value {
        let mut value = json!({"resourceVersion": self.revision.to_string()});
        if !self.continue_token.is_empty() {
            value["continue"] = self.continue_token.as_str().into();
        }
        if let Some(remaining) = self.remaining.filter(|n| *n > 0) {
            value["remainingItemCount"] = remaining.into();
        }
        value
    }
}

/// A list of objects.
pub fn list(kind: &dyn Kind, shape: &Representation, items: &[Stored], meta: &ListMeta) -> Result<Response, ApiError> {
    match shape {
        Representation::Json => Ok(json_bytes(StatusCode::OK, list_bytes(kind, items, meta))),
    }
}

fn list_bytes(kind: &dyn Kind, items: &[Stored], meta: &ListMeta) -> Bytes {
    let info = kind.info();
    let total: usize = items.iter().map(|item| item.bytes.len() + 64).sum();
    let mut out = BytesMut::with_capacity(total + 256);
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        info.kind,
        encoding::api_version(info),
        meta.to_value()
    );
    out.put_slice(head.as_bytes());
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.put_u8(b',');
        }
        encoding::splice(kind, &item.bytes, item.revision, false, &mut out);
    }
    out.put_slice(b"]}");
    out.freeze()
}

/// The Status of a success.
pub fn success(code: StatusCode, details: Option<Details>) -> Response {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if let Some(details) = details {
        status["details"] = details.to_value();
    }
    if code != StatusCode::OK {
        status["code"] = code.as_u16().into();
    }
    json_value(code, &status)
}

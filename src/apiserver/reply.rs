//! Answers: objects and lists in the representation that the client accepts.
//!
//! Plain JSON is spliced from stored bytes and never parsed; everything else (YAML, Tables, metadata
//! alone, indented text for people) is made from the decoded objects.

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::codec::negotiate::{NOT_ACCEPTABLE, Shape};
use super::codec::{Accept, Representation, negotiate};
use super::options::Query;
use super::registry::encoding::{self, Form, Stored};
use super::status::{ApiError, Details};
use super::table::{IncludeObject, View};
use crate::kinds::Kind;

/// Warnings are cut so that they fit into headers: upstream's total.
const MAX_WARNING_BYTES: usize = 4096;
/// These read answers with their eyes.
const HUMAN_AGENTS: &[&str] = &["curl", "Wget", "Mozilla/5.0"];

/// How the client wants objects.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub representation: Representation,
    pub include: IncludeObject,
    /// Plain JSON comes with `managedFields`.
    pub owners: bool,
}

/// A header by which a client says that it has no use for `managedFields`. Our own parts send it.
pub const OMIT_OWNERS: &str = "coracle-omit-managed-fields";
/// A header by which a client says that it looks at metadata only, and takes a custom resource in whatever
/// version it is stored in. Our own parts send it, so that what they do with objects whose kinds they do
/// not know waits for nobody's webhook.
pub const ANY_VERSION: &str = "coracle-any-version";

impl Look {
    /// For endpoints of objects.
    pub fn of_objects(headers: &HeaderMap, query: &Query) -> Result<Self, ApiError> {
        Self::negotiate(headers, query, Accept { tables: true, discovery: false })
    }

    /// For what is neither an object of a kind nor a list of them.
    pub fn plain(headers: &HeaderMap, query: &Query) -> Result<Self, ApiError> {
        Self::negotiate(headers, query, Accept { tables: false, discovery: false })
    }

    pub fn negotiate(headers: &HeaderMap, query: &Query, can: Accept) -> Result<Self, ApiError> {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let mut representation =
            negotiate(accept, can).ok_or_else(|| ApiError::new(406, "NotAcceptable", NOT_ACCEPTABLE))?;
        representation.pretty = wants_pretty(headers, query);
        let include = query.get("includeObject");
        let include = IncludeObject::parse(include)
            .ok_or_else(|| ApiError::bad_request(format!("unrecognized includeObject value: {include:?}")))?;
        Ok(Self { representation, include, owners: !headers.contains_key(OMIT_OWNERS) })
    }

    pub fn view<'a>(&self, kind: &'a dyn Kind) -> View<'a> {
        View { kind, shape: self.representation.shape, include: self.include, now: Timestamp::now() }
    }

    /// Whether stored bytes can be spliced.
    pub fn is_plain_json(&self) -> bool {
        self.representation == Representation::JSON
    }

    /// Whether nothing but metadata is shown.
    pub fn is_metadata(&self) -> bool {
        matches!(self.representation.shape, Shape::Metadata { .. } | Shape::MetadataList { .. })
    }

    /// Any value, with this look's bytes and content type.
    pub fn value(&self, code: StatusCode, value: &Value) -> Response {
        let mut response = Response::new(Body::from(self.representation.encode(value)));
        *response.status_mut() = code;
        let kind = HeaderValue::from_static(self.representation.content_type());
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    /// One object.
    pub fn object(
        &self,
        kind: &dyn Kind,
        code: StatusCode,
        stored: &Stored,
        warnings: &[String],
    ) -> Result<Response, ApiError> {
        let mut response = if self.is_plain_json() {
            json_bytes(code, stored.to_json(kind, self.owners))
        } else {
            let object = encoding::decode(kind, &stored.bytes, stored.revision).map_err(ApiError::internal)?;
            self.value(code, &self.view(kind).object(object))
        };
        warn(&mut response, warnings);
        Ok(response)
    }

    /// A list of objects.
    pub fn list(&self, kind: &dyn Kind, items: &[Stored], meta: &ListMeta) -> Result<Response, ApiError> {
        if self.is_plain_json() {
            return Ok(json_bytes(StatusCode::OK, list_bytes(kind, items, self.owners, meta)));
        }
        let (info, list_kind) = (kind.info(), kind.list_kind());
        let items: Result<Vec<Value>, _> =
            items.iter().map(|item| encoding::decode(kind, &item.bytes, item.revision)).collect();
        let list = json!({
            "kind": list_kind, "apiVersion": encoding::api_version(info),
            "metadata": meta.to_value(), "items": items.map_err(ApiError::internal)?,
        });
        let mut list = self.view(kind).list(list);
        if !names_items(kind) && list["kind"] == *list_kind {
            for item in list["items"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
                item.remove("kind");
                item.remove("apiVersion");
            }
        }
        Ok(self.value(StatusCode::OK, &list))
    }
}

fn wants_pretty(headers: &HeaderMap, query: &Query) -> bool {
    if !query.get("pretty").is_empty() {
        return query.bool("pretty");
    }
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    HUMAN_AGENTS.iter().any(|human| agent.starts_with(human))
}

fn json_bytes(code: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A value as plain JSON, whatever the client prefers.
pub fn json_value(code: StatusCode, value: &Value) -> Response {
    json_bytes(code, value.to_string())
}

/// Adds `Warning: 299 - "…"` headers, each text once.
pub fn warn(response: &mut Response, warnings: &[String]) {
    let mut left = MAX_WARNING_BYTES;
    for (i, warning) in warnings.iter().enumerate() {
        if warnings[..i].contains(warning) {
            continue;
        }
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

/// Items of a typed list do not repeat the list's type; those of a custom kind cannot be told from it.
fn names_items(kind: &dyn Kind) -> bool {
    kind.custom().is_some()
}

fn list_bytes(kind: &dyn Kind, items: &[Stored], owners: bool, meta: &ListMeta) -> Bytes {
    let info = kind.info();
    let total: usize = items.iter().map(|item| item.bytes.len() + 64).sum();
    let mut out = BytesMut::with_capacity(total + 256);
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        kind.list_kind(),
        encoding::api_version(info),
        meta.to_value()
    );
    out.put_slice(head.as_bytes());
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.put_u8(b',');
        }
        encoding::splice(kind, &item.bytes, item.revision, Form { typed: names_items(kind), owners }, &mut out);
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

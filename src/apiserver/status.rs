//! What the API answers when it cannot do what was asked: upstream's `Status` object.
//!
//! Clients branch on `reason` and `details`, people read `message`; both are upstream's, word for word.
//! An [`ApiError`] is made where the cause is known and carried unchanged to the wire: nothing on the
//! way rewrites it. This module knows shapes and texts; it never decides whether something is an error.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::kinds::KindInfo;
use crate::kinds::field::Errors;

/// An answer other than success. Boxed, so that a `Result` stays small on the path where all is well.
#[derive(Debug, Clone)]
pub struct ApiError(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    code: u16,
    /// Empty is upstream's `Unknown`.
    reason: Cow<'static, str>,
    message: String,
    details: Option<Details>,
    /// Continue token of a list that may go on at a newer version.
    continue_token: Option<String>,
    /// Some answers of upstream are plain text, not a Status.
    plain: bool,
}

/// Upstream's `StatusDetails`.
#[derive(Debug, Clone, Default)]
pub struct Details {
    pub name: String,
    pub group: String,
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: u32,
}

/// One of the causes of a refusal; empty strings are left out.
#[derive(Debug, Clone, Default)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

impl ApiError {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        let reason = Cow::Borrowed(reason);
        Self(Box::new(Inner { code, reason, message, details: None, continue_token: None, plain: false }))
    }

    /// What somebody else has told: a reason of any name, and the `details` of a Status.
    pub fn told(code: u16, reason: &str, message: String, details: &Value) -> Self {
        let mut error = Self::new(code, "", message);
        error.0.reason = Cow::Owned(reason.to_owned());
        error.0.details = details.is_object().then(|| Details::from_value(details));
        error
    }

    pub fn with_details(mut self, details: Details) -> Self {
        self.0.details = Some(details);
        self
    }

    /// Tells the client when to try again, in the body and by `Retry-After`.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.0.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    pub fn with_continue(mut self, token: String) -> Self {
        self.0.continue_token = Some(token);
        self
    }

    /// The same answer with something said before its message.
    pub fn prefixed(mut self, before: &str) -> Self {
        self.0.message.insert_str(0, before);
        self
    }

    pub fn code(&self) -> u16 {
        self.0.code
    }

    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// Whatever is our fault.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let cause = Cause { message: message.to_string(), ..Cause::default() };
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
            .with_details(Details { causes: vec![cause], ..Details::default() })
    }

    pub fn not_found(info: &KindInfo, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", qualified(info.plural, info.group)))
            .with_details(details_of(info.plural, info.group, name))
    }

    /// There is no such URL under a group that exists.
    pub fn no_resource() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").with_details(Details::default())
    }

    /// There is no such URL at all.
    pub fn no_path() -> Self {
        let mut error = Self::new(404, "NotFound", "404 page not found\n");
        error.0.plain = true;
        error
    }

    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .with_details(Details::default())
    }

    pub fn already_exists(info: &KindInfo, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", qualified(info.plural, info.group)))
            .with_details(details_of(info.plural, info.group, name))
    }

    /// 409 with `why` after the usual beginning.
    pub fn conflict(info: &KindInfo, name: &str, why: impl std::fmt::Display) -> Self {
        let what = qualified(info.plural, info.group);
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {what} {name:?}: {why}"))
            .with_details(details_of(info.plural, info.group, name))
    }

    /// The compare-and-swap of an update was lost.
    pub fn stale(info: &KindInfo, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(info, name, why)
    }

    pub fn forbidden(info: &KindInfo, name: &str, why: impl std::fmt::Display) -> Self {
        Self::forbidden_named(info.plural, info.group, name, why)
    }

    /// [`Self::forbidden`] for a resource that need not exist.
    pub fn forbidden_named(resource: &str, group: &str, name: &str, why: impl std::fmt::Display) -> Self {
        let what = qualified(resource, group);
        let named = if name.is_empty() { String::new() } else { format!(" {name:?}") };
        Self::new(403, "Forbidden", format!("{what}{named} is forbidden: {why}"))
            .with_details(details_of(resource, group, name))
    }

    /// 422 for an object of `info`'s kind.
    pub fn invalid(info: &KindInfo, name: &str, errors: &Errors) -> Self {
        Self::invalid_kind(info.kind, info.group, name, errors)
    }

    /// 422 for anything that has a kind: options too.
    pub fn invalid_kind(kind: &str, group: &str, name: &str, errors: &Errors) -> Self {
        // The message tells each error once; the causes list all.
        let mut list: Vec<String> = Vec::new();
        for text in errors.0.iter().map(ToString::to_string) {
            if !list.contains(&text) {
                list.push(text);
            }
        }
        let told = match list.as_slice() {
            [one] => one.clone(),
            _ => format!("[{}]", list.join(", ")),
        };
        let causes = errors
            .0
            .iter()
            .map(|e| Cause { reason: e.reason.cause().to_owned(), message: e.body(), field: e.path.clone() })
            .collect();
        Self::new(422, "Invalid", format!("{} {name:?} is invalid: {told}", qualified(kind, group))).with_details(
            Details {
                name: name.to_owned(),
                group: group.to_owned(),
                kind: kind.to_owned(),
                causes,
                ..Details::default()
            },
        )
    }

    /// The revision asked for is gone from the history.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn timeout(message: impl std::fmt::Display, retry_after: u32) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {message}"))
            .with_details(Details { retry_after_seconds: retry_after, ..Details::default() })
    }

    /// The revision asked for has not been made yet.
    pub fn future_version(requested: u64, current: u64) -> Self {
        let cause = Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            ..Cause::default()
        };
        Self::new(504, "Timeout", format!("Timeout: Too large resource version: {requested}, current: {current}"))
            .with_details(Details { causes: vec![cause], retry_after_seconds: 1, ..Details::default() })
    }

    pub fn too_many_requests(message: impl Into<String>) -> Self {
        Self::new(429, "TooManyRequests", message).retry_after(1)
    }

    /// The Status object.
    pub fn to_value(&self) -> Value {
        let inner = &self.0;
        let mut metadata = Map::new();
        if let Some(token) = &inner.continue_token {
            metadata.insert("continue".into(), token.as_str().into());
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": inner.message, "code": inner.code,
        });
        if !inner.reason.is_empty() {
            status["reason"] = (&*inner.reason).into();
        }
        if let Some(details) = &inner.details {
            status["details"] = details.to_value();
        }
        status
    }
}

impl Details {
    fn from_value(value: &Value) -> Self {
        let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let cause = |cause: &Value| Cause {
            reason: text(cause, "reason"),
            message: text(cause, "message"),
            field: text(cause, "field"),
        };
        Self {
            name: text(value, "name"),
            group: text(value, "group"),
            kind: text(value, "kind"),
            uid: text(value, "uid"),
            causes: value["causes"].as_array().into_iter().flatten().map(cause).collect(),
            retry_after_seconds: value["retryAfterSeconds"].as_u64().and_then(|s| u32::try_from(s).ok()).unwrap_or(0),
        }
    }

    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        let texts = [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)];
        for (key, text) in texts {
            if !text.is_empty() {
                map.insert(key.into(), text.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            map.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds > 0 {
            map.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                map.insert(key.into(), text.as_str().into());
            }
        }
        Value::Object(map)
    }
}

/// `deployments.apps`, or just `pods` in the core group.
pub fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

fn details_of(kind: &str, group: &str, name: &str) -> Details {
    Details { name: name.to_owned(), group: group.to_owned(), kind: kind.to_owned(), ..Details::default() }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if self.0.plain {
            let kind = HeaderValue::from_static("text/plain; charset=utf-8");
            return (code, [(header::CONTENT_TYPE, kind)], self.0.message).into_response();
        }
        let body = self.to_value().to_string();
        let json = HeaderValue::from_static("application/json");
        let mut response = (code, [(header::CONTENT_TYPE, json)], body).into_response();
        let wait = self.0.details.as_ref().map_or(0, |d| d.retry_after_seconds);
        if wait > 0 {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::field::Reason;

    #[test]
    fn several_errors_stand_in_brackets_and_each_is_a_cause() {
        let mut errors = Errors::default();
        errors.push(Reason::Required, "metadata.name", None, "name or generateName is required");
        let one = ApiError::invalid_kind("ConfigMap", "", "", &errors);
        assert_eq!(
            one.message(),
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required"
        );
        errors.push(Reason::Forbidden, "spec", None, "no");
        let two = ApiError::invalid_kind("Deployment", "apps", "web", &errors).to_value();
        assert!(two["message"].as_str().is_some_and(|m| m.starts_with("Deployment.apps \"web\" is invalid: [")));
        assert_eq!(two["details"]["causes"][1]["reason"], "FieldValueForbidden");
    }

    #[test]
    fn a_future_version_says_when_to_retry() {
        let error = ApiError::future_version(9, 3);
        assert_eq!(error.to_value()["details"]["retryAfterSeconds"], 1);
        let response = error.into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }
}

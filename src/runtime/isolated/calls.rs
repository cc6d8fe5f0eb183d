//! HTTP calls inside exchanges: to a guest in a worker, and from it to the node's way out.
//!
//! An exchange is a POST of its own to one of the other side's paths, so what was called, and how, goes
//! in headers that no caller can set: they are replaced on the way in and removed on the way out. How a
//! call failed comes back in such headers too, with the words in the body.

use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt, Full};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire::{CallError, HttpBody};

const METHOD: HeaderName = HeaderName::from_static("coracle-method");
const URI: HeaderName = HeaderName::from_static("coracle-uri");
/// Whom an exchange is about, as JSON.
const ABOUT: HeaderName = HeaderName::from_static("coracle-about");
const FAILED: HeaderName = HeaderName::from_static("coracle-failed");
const MILLISECONDS: HeaderName = HeaderName::from_static("coracle-milliseconds");
const OURS: [HeaderName; 5] = [METHOD, URI, ABOUT, FAILED, MILLISECONDS];

/// What one side says of a failure at most.
const MAX_WORDS: usize = 16 << 10;

pub fn full(content: impl Into<Bytes>) -> HttpBody {
    Full::new(content.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A request of ours: `path` is the other side's, `about` says whom it is about.
pub fn exchange(path: &str, about: &impl Serialize, body: HttpBody) -> Request<HttpBody> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = address(path);
    set_json(request.headers_mut(), ABOUT, about);
    request
}

fn address(path: &str) -> Uri {
    // The paths are constants.
    Uri::builder().scheme("http").authority("worker").path_and_query(path).build().unwrap_or_default()
}

/// Headers hold text that is ASCII; JSON can be written so.
fn set_json(headers: &mut HeaderMap, name: HeaderName, value: &impl Serialize) {
    let text = serde_json::to_string(value).unwrap_or_default();
    let ascii: String = text
        .chars()
        .flat_map(|c| {
            let mut units = [0; 2];
            let escaped: Vec<char> = match c {
                ' '..='~' => vec![c],
                _ => c
                    .encode_utf16(&mut units)
                    .iter()
                    .flat_map(|unit| format!("\\u{unit:04x}").chars().collect::<Vec<_>>())
                    .collect(),
            };
            escaped
        })
        .collect();
    if let Ok(value) = HeaderValue::from_str(&ascii) {
        headers.insert(name, value);
    }
}

/// All of a body of at most so many bytes.
pub async fn whole(mut body: HttpBody, most: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        bytes.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
        if bytes.len() > most {
            return Err(format!("more than {most} bytes came"));
        }
    }
    Ok(bytes)
}

/// Whom an exchange is about.
pub fn about<T: DeserializeOwned>(headers: &HeaderMap) -> Result<T, String> {
    let text = headers.get(ABOUT).map(HeaderValue::as_bytes).unwrap_or_default();
    serde_json::from_slice(text).map_err(|error| format!("not a request of this program's version: {error}"))
}

/// Puts a call into an exchange.
pub fn pack(path: &str, about: &impl Serialize, request: Request<HttpBody>) -> Request<HttpBody> {
    let (mut head, body) = request.into_parts();
    OURS.iter().for_each(|name| _ = head.headers.remove(name));
    set_json(&mut head.headers, ABOUT, about);
    if let Ok(method) = HeaderValue::from_str(head.method.as_str()) {
        head.headers.insert(METHOD, method);
    }
    if let Ok(uri) = HeaderValue::from_str(&head.uri.to_string()) {
        head.headers.insert(URI, uri);
    }
    (head.method, head.uri, head.version) = (Method::POST, address(path), Version::HTTP_2);
    head.extensions.clear();
    Request::from_parts(head, body)
}

/// Takes a call out of its exchange.
pub fn unpack(request: Request<HttpBody>) -> Result<Request<HttpBody>, String> {
    let (mut head, body) = request.into_parts();
    let missing = || "the exchange carries no call".to_owned();
    let method = head.headers.get(METHOD).and_then(|value| Method::from_bytes(value.as_bytes()).ok());
    let uri = head.headers.get(URI).and_then(|value| Uri::try_from(value.as_bytes()).ok());
    (head.method, head.uri) = (method.ok_or_else(missing)?, uri.ok_or_else(missing)?);
    head.version = Version::HTTP_11;
    OURS.iter().for_each(|name| _ = head.headers.remove(name));
    Ok(Request::from_parts(head, body))
}

/// A guest's answer, without what only we may say.
pub fn answered(mut response: Response<HttpBody>) -> Response<HttpBody> {
    OURS.iter().for_each(|name| _ = response.headers_mut().remove(name));
    *response.version_mut() = Version::HTTP_2;
    response
}

/// Says how something failed: in one word of ours, and in words.
pub fn failed(kind: &'static str, after: Option<Duration>, words: &str) -> Response<HttpBody> {
    let mut response = Response::new(full(words.to_owned()));
    response.headers_mut().insert(FAILED, HeaderValue::from_static(kind));
    if let Some(after) = after {
        let milliseconds = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        response.headers_mut().insert(MILLISECONDS, HeaderValue::from(milliseconds));
    }
    response
}

/// How something failed on the other side.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: String,
    pub after: Duration,
    pub words: String,
}

/// The answer as it is, or how the other side says that it failed.
pub async fn outcome(mut response: Response<HttpBody>) -> Result<Response<HttpBody>, Failure> {
    let Some(kind) = response.headers_mut().remove(FAILED) else {
        *response.version_mut() = Version::HTTP_11;
        return Ok(response);
    };
    let milliseconds = response.headers().get(MILLISECONDS).and_then(|value| value.to_str().ok()?.parse().ok());
    let words = match whole(response.into_body(), MAX_WORDS).await {
        Ok(words) => String::from_utf8_lossy(&words).into_owned(),
        Err(why) => why,
    };
    let kind = String::from_utf8_lossy(kind.as_bytes()).into_owned();
    Err(Failure { kind, after: Duration::from_millis(milliseconds.unwrap_or(0)), words })
}

/// What a worker says of a call that failed. What was not delivered is still with the node.
pub fn call_failed(error: &CallError) -> Response<HttpBody> {
    match error {
        CallError::Undelivered { reason, .. } => failed("undelivered", None, reason),
        CallError::Overloaded { retry_after } => failed("overloaded", Some(*retry_after), ""),
        CallError::Timeout(after) => failed("timeout", Some(*after), ""),
        CallError::Failed(why) => failed("failed", None, why),
    }
}

/// The same as the node's callers know it; `again` is the request, if it can be handed back whole.
pub fn call_error(failure: Failure, again: Option<Box<Request<HttpBody>>>) -> CallError {
    match (failure.kind.as_str(), again) {
        ("undelivered", Some(request)) => CallError::Undelivered { reason: failure.words, request },
        ("overloaded", _) => CallError::Overloaded { retry_after: failure.after },
        ("timeout", _) => CallError::Timeout(failure.after),
        _ => CallError::Failed(failure.words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_comes_out_as_it_went_in_and_cannot_pretend() {
        let mut request = Request::new(full("body"));
        *request.method_mut() = Method::from_bytes(b"PURGE").expect("a method");
        *request.uri_mut() = "http://cart.shop:8080/a?b=%20c".parse().expect("a URI");
        request.headers_mut().insert("x-own", HeaderValue::from_static("kept"));
        request.headers_mut().insert(ABOUT, HeaderValue::from_static("\"somebody else\""));
        let packed = pack("/call", &"pod ü 🦀", request);
        assert_eq!((packed.method(), packed.uri().path()), (&Method::POST, "/call"));
        assert_eq!(about::<String>(packed.headers()), Ok("pod ü 🦀".to_owned()));
        let out = unpack(packed).expect("a call");
        assert_eq!(
            (out.method().as_str(), out.uri().to_string().as_str()),
            ("PURGE", "http://cart.shop:8080/a?b=%20c")
        );
        assert_eq!(out.headers().len(), 1);
        assert!(unpack(Request::new(full(""))).is_err());
    }

    #[tokio::test]
    async fn failures_come_back_as_they_were_and_a_guest_cannot_fake_one() {
        let second = Duration::from_secs(1);
        let cases = [
            CallError::Overloaded { retry_after: second },
            CallError::Timeout(second),
            CallError::Failed("wasm trap: é".to_owned()),
        ];
        for error in cases {
            let failure = outcome(call_failed(&error)).await.expect_err("a failure");
            assert_eq!(format!("{:?}", call_error(failure, None)), format!("{error:?}"));
        }
        let request = || Box::new(Request::new(full("")));
        let undelivered = CallError::Undelivered { reason: "ended".to_owned(), request: request() };
        let failure = outcome(call_failed(&undelivered)).await.expect_err("a failure");
        assert!(matches!(call_error(failure, Some(request())), CallError::Undelivered { .. }));

        let mut fake = Response::new(full("mine"));
        fake.headers_mut().insert(FAILED, HeaderValue::from_static("overloaded"));
        assert!(outcome(answered(fake)).await.is_ok());
    }
}

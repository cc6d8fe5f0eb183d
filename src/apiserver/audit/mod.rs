//! The audit log: who asked for what, and what became of it, a JSON line an event.
//!
//! The [`policy`] says how much is told of which requests; the [`log`] keeps it. An event is
//! `audit.k8s.io/v1` Event, written at up to three stages: when a request has come in, when a long answer
//! begins, and when it has been answered. Of a request that nothing is told of, only the policy is asked.

pub mod log;
pub mod policy;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::admission::author::Said;
use super::admission::user_info;
use super::auth::User;
use super::body::{self, MAX_BODY_BYTES};
use super::codec::{self, Expected, yaml};
use super::definitions::Table;
use super::options::Query;
use super::target::{self, Target};
use crate::kinds::Kind;
use log::Log;
use policy::{Level, Policy, Stage, Verdict};

const ID: &str = "audit-id";
/// An answer that is larger is not told.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Where a request comes from; an extension that the listener sets.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Writes the audit log.
pub struct Audit {
    policy: Policy,
    log: Log,
}

impl Audit {
    pub fn new(policy: Policy, log: Log) -> Self {
        Self { policy, log }
    }

    /// Waits until all that was told is written.
    pub async fn flush(&self) {
        self.log.flush().await;
    }

    /// What has been asked (`custom` are the kinds that definitions add), if the policy wants something told of it;
    /// the request is given back, with its body read if that is to be told.
    pub async fn begin(
        &self,
        custom: &Table,
        request: Request<Body>,
        said: &Arc<Said>,
    ) -> (Request<Body>, Option<Entry>) {
        let (parts, body) = request.into_parts();
        let (target, kind) = asked(custom, &parts);
        let user = parts.extensions.get::<User>().cloned().unwrap_or_else(User::anonymous);
        let verdict = self.policy.judge(&user, &target);
        if verdict.level == Level::None {
            return (Request::from_parts(parts, body), None);
        }
        let mut entry = Entry {
            base: base(&parts, Some(&user), &target, verdict.level),
            log: self.log.clone(),
            is_long: target.is_long_running(),
            said: said.clone(),
            verdict,
        };
        entry.tell(Stage::RequestReceived).await;
        if entry.verdict.level < Level::Request || entry.is_long {
            return (Request::from_parts(parts, body), Some(entry));
        }
        // A body that is too large is left to be refused by whoever reads it.
        let limited = http_body_util::Limited::new(body, MAX_BODY_BYTES + 1);
        let bytes = limited.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        if let Some(object) = decoded(&bytes, &parts.headers, kind) {
            entry.put("requestObject", object);
        }
        (Request::from_parts(parts, Body::from(bytes)), Some(entry))
    }

    /// A request has been refused at the door: nobody knows who asks, and its body was not looked at.
    pub async fn refused(&self, custom: &Table, parts: &Parts) {
        let (target, _) = asked(custom, parts);
        let nobody = User { name: "".into(), groups: Vec::new(), uid: "".into(), extra: Default::default() };
        let verdict = self.policy.judge(&nobody, &target);
        if verdict.level == Level::None {
            return;
        }
        let mut base = base(parts, None, &target, verdict.level);
        let status = json!({"metadata": {}, "code": 401, "message": "Authentication failed, attempted: bearer"});
        base.insert("responseStatus".to_owned(), status);
        let entry = Entry { base, verdict, log: self.log.clone(), said: Arc::default(), is_long: false };
        // Upstream's stage: what is answered has begun, and nothing is told of its end.
        entry.tell(Stage::ResponseStarted).await;
    }
}

/// What a request is about, and the kind of it.
fn asked(custom: &Table, parts: &Parts) -> (Target, Option<&'static dyn Kind>) {
    let path = parts.uri.path();
    let watching = Query::parse(parts.uri.query()).bool("watch");
    match target::parse(custom, &parts.method, path, watching) {
        Ok((target, kind)) => (target, Some(kind)),
        Err(_) => (Target::plain(&parts.method, path), None),
    }
}

/// The event of a request under way.
pub struct Entry {
    base: Map<String, Value>,
    verdict: Verdict,
    log: Log,
    said: Arc<Said>,
    is_long: bool,
}

impl Entry {
    /// Tells of the answer; one that goes on is told of again when it ends.
    pub async fn end(mut self, mut response: Response) -> Response {
        if let Some(id) = self.base["auditID"].as_str().and_then(|id| HeaderValue::from_str(id).ok()) {
            response.headers_mut().insert(ID, id);
        }
        let code = response.status().as_u16();
        self.base.insert("responseStatus".to_owned(), json!({"metadata": {}, "code": code}));
        let (parts, body) = response.into_parts();
        if self.is_long && parts.status.is_success() || code == 101 {
            self.tell(Stage::ResponseStarted).await;
            let body = Body::new(Told { body, entry: Some(self) });
            return Response::from_parts(parts, body);
        }
        let wants_object = self.verdict.level == Level::RequestResponse;
        let known = body.size_hint().exact().is_some_and(|size| size <= MAX_ANSWER_BYTES as u64);
        let body = if known && (wants_object || !parts.status.is_success()) {
            let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            self.answered(&bytes, wants_object);
            Body::from(bytes)
        } else {
            body
        };
        self.tell(Stage::ResponseComplete).await;
        Response::from_parts(parts, body)
    }

    fn answered(&mut self, bytes: &Bytes, wants_object: bool) {
        let Ok(answer) = serde_json::from_slice::<Value>(bytes) else { return };
        if answer["kind"] == "Status" {
            let mut status = answer.clone();
            if let Some(status) = status.as_object_mut() {
                status.retain(|name, _| !matches!(name.as_str(), "kind" | "apiVersion"));
            }
            self.base.insert("responseStatus".to_owned(), status);
        }
        if wants_object {
            self.put("responseObject", answer);
        }
    }

    fn put(&mut self, name: &str, mut object: Value) {
        if self.verdict.omit_managed_fields {
            let items = object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten();
            items.for_each(omit_managed_fields);
            omit_managed_fields(&mut object);
        }
        self.base.insert(name.to_owned(), object);
    }

    async fn tell(&self, stage: Stage) {
        if !self.verdict.omit_stages.contains(&stage) {
            self.log.line(self.line(stage)).await;
        }
    }

    /// [`Self::tell`] from where nobody can wait.
    fn tell_now(&self, stage: Stage) {
        if !self.verdict.omit_stages.contains(&stage) && !self.log.try_line(self.line(stage)) {
            tracing::warn!("the audit log cannot keep up; the end of a long answer is not told");
        }
    }

    fn line(&self, stage: Stage) -> String {
        let mut event = self.base.clone();
        event.insert("stage".to_owned(), stage.as_str().into());
        event.insert("stageTimestamp".to_owned(), now().into());
        let annotations = self.said.annotations();
        if !annotations.is_empty() {
            event.insert("annotations".to_owned(), json!(annotations));
        }
        if let Some(reference) = event.get_mut("objectRef")
            && reference["name"].is_null()
            && let Some(name) = self.said.object_name()
        {
            reference["name"] = name.into();
        }
        Value::Object(event).to_string()
    }
}

/// A body whose end is told of.
struct Told {
    body: Body,
    entry: Option<Entry>,
}

impl http_body::Body for Told {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            entry.tell_now(Stage::ResponseComplete);
        }
    }
}

fn omit_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// As upstream writes it: with microseconds.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// What is known when a request comes in.
fn base(request: &Parts, user: Option<&User>, target: &Target, level: Level) -> Map<String, Value> {
    let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = header(ID);
    let id = if given.is_empty() { uuid::Uuid::new_v4().to_string() } else { given.chars().take(64).collect() };
    let uri = request.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut event = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": level.as_str(), "auditID": id, "requestURI": uri,
        "verb": target.verb, "user": user.map_or_else(|| json!({}), user_info), "requestReceivedTimestamp": now(),
    });
    if let Some(Peer(peer)) = request.extensions.get::<Peer>() {
        event["sourceIPs"] = json!([peer.ip()]);
    }
    let agent = header(header::USER_AGENT.as_str());
    if !agent.is_empty() {
        event["userAgent"] = agent.into();
    }
    if let Some(user) = impersonated(&request.headers) {
        event["impersonatedUser"] = user;
    }
    if target.is_resource() {
        let texts = [
            ("resource", &target.resource),
            ("namespace", &target.namespace),
            ("name", &target.name),
            ("apiGroup", &target.group),
            ("apiVersion", &target.version),
            ("subresource", &target.subresource),
        ];
        let reference = texts.into_iter().filter(|(_, text)| !text.is_empty());
        event["objectRef"] = reference.map(|(name, text)| (name.to_owned(), Value::from(text.as_str()))).collect();
    }
    match event {
        Value::Object(event) => event,
        _ => Map::new(),
    }
}

/// As whom a request wants to act, whether it may or not.
fn impersonated(headers: &HeaderMap) -> Option<Value> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut user = json!({"username": text(headers.get("impersonate-user")?)});
    let groups: Vec<String> = headers.get_all("impersonate-group").iter().map(text).collect();
    if !groups.is_empty() {
        user["groups"] = groups.into();
    }
    Some(user)
}

/// A body as the object that it holds; `None` for what cannot be read.
fn decoded(bytes: &Bytes, headers: &HeaderMap, kind: Option<&'static dyn Kind>) -> Option<Value> {
    if bytes.is_empty() || bytes.len() > MAX_BODY_BYTES {
        return None;
    }
    match body::content_type(headers).unwrap_or_default() {
        kind if kind.contains("yaml") => yaml::parse(bytes).ok().map(|parsed| parsed.value),
        content @ "application/vnd.kubernetes.protobuf" => {
            let expected = Expected::of_kind(kind?)?;
            codec::decode_as(bytes, Some(content), &expected, codec::FieldValidation::Ignore).ok().map(|it| it.object)
        }
        _ => serde_json::from_slice(bytes).ok(),
    }
}

#[cfg(test)]
mod tests;

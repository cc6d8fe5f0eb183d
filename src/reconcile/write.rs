//! Writes to the API as plain data: what a plan asks for, and how it is carried out.
//!
//! A [`Write`] is a value, so that a pure plan can be compared, replayed against a simulated cluster
//! and cut short at any step. Carrying one out tells the shared stores its result before anybody else
//! can act, and sorts its failure by what to do next ([`WriteError`]).

use std::borrow::Cow;

use http::{Method, Request};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::events::{EventKind, Recorder};
use super::key::ObjectKey;

/// Everything in a path segment but what RFC 3986 leaves alone.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// A resource type as URLs name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ResourceType {
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub plural: Cow<'static, str>,
    pub kind: Cow<'static, str>,
}

impl ResourceType {
    pub fn of<K: Resource<DynamicType = ()>>() -> Self {
        Self { group: K::group(&()), version: K::version(&()), plural: K::plural(&()), kind: K::kind(&()) }
    }

    /// The URL path of the collection; all namespaces when `namespace` is empty.
    pub fn path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", self.group) };
        let scope = if namespace.is_empty() { String::new() } else { format!("/namespaces/{}", escape(namespace)) };
        format!("{root}/{}{scope}/{}", self.version, self.plural)
    }

    /// The URL path of one object.
    pub fn object_path(&self, key: &ObjectKey) -> String {
        format!("{}/{}", self.path(&key.namespace), escape(&key.name))
    }
}

fn escape(segment: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(segment, SEGMENT)
}

/// One request that changes an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    pub resource: ResourceType,
    /// The name is empty when the server is to generate it.
    pub key: ObjectKey,
    pub action: Action,
    /// Told when it succeeded; `{name}` stands for the object's name.
    pub success: Option<Note>,
    /// Told when it failed; `{error}` stands for the reason.
    pub failure: Option<Note>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Create(Value),
    /// PUT of the object or of a subresource. The body's resourceVersion is the precondition.
    Put {
        subresource: &'static str,
        body: Value,
    },
    /// JSON merge patch of the object (empty subresource) or of a subresource. A uid or
    /// resourceVersion in its metadata is the precondition.
    Patch {
        subresource: &'static str,
        body: Value,
    },
    Delete {
        uid: Option<String>,
        version: Option<String>,
        grace_seconds: Option<i64>,
        propagation: Option<&'static str>,
    },
}

/// An event to record.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    pub about: ObjectReference,
    pub kind: EventKind,
    pub reason: &'static str,
    pub message: String,
}

/// An event about an object.
pub fn note<K>(about: &K, kind: EventKind, reason: &'static str, message: impl Into<String>) -> Note
where
    K: Resource<DynamicType = ()>,
{
    Note { about: about.object_ref(&()), kind, reason, message: message.into() }
}

/// Why a write was not done, sorted by what to do next.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The plan was made from something that is no longer so: plan again soon.
    #[error("{what}: the object has changed: {message}")]
    Stale { what: String, message: String },
    /// The namespace is going away, and everything in it: leave it.
    #[error("{what}: the namespace is being terminated")]
    Terminating { what: String },
    /// Anything else: try again, ever more slowly.
    #[error("{what}: {source}")]
    Failed { what: String, source: Box<kube::Error> },
}

impl Write {
    fn new(resource: ResourceType, key: ObjectKey, action: Action) -> Self {
        Self { resource, key, action, success: None, failure: None }
    }

    /// Creates an object; without a name its `generateName` is used.
    pub fn create<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Self {
        Self::new(ResourceType::of::<K>(), ObjectKey::of(object), Action::Create(to_value(object)))
    }

    /// Replaces an object if it is still at the revision that it carries.
    pub fn put<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Self {
        let action = Action::Put { subresource: "", body: to_value(object) };
        Self::new(ResourceType::of::<K>(), ObjectKey::of(object), action)
    }

    /// Replaces a subresource (`status`, `finalize`) if the object is still at the revision it carries.
    pub fn put_subresource<K>(subresource: &'static str, object: &K) -> Self
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let action = Action::Put { subresource, body: to_value(object) };
        Self::new(ResourceType::of::<K>(), ObjectKey::of(object), action)
    }

    /// Merges `body` into an object of this very uid.
    pub fn patch<K: Resource<DynamicType = ()>>(object: &K, subresource: &'static str, mut body: Value) -> Self {
        if let (Some(uid), Value::Object(body)) = (&object.meta().uid, &mut body) {
            let metadata = body.entry("metadata").or_insert_with(|| json!({}));
            if let Value::Object(metadata) = metadata {
                metadata.insert("uid".into(), json!(uid));
            }
        }
        Self::new(ResourceType::of::<K>(), ObjectKey::of(object), Action::Patch { subresource, body })
    }

    /// Deletes the object of this very uid.
    pub fn delete<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        let uid = object.meta().uid.clone();
        let action = Action::Delete { uid, version: None, grace_seconds: None, propagation: None };
        Self::new(ResourceType::of::<K>(), ObjectKey::of(object), action)
    }

    /// Deletes an object of a kind that is only known at run time.
    pub fn delete_by_key(resource: ResourceType, key: ObjectKey, uid: Option<String>) -> Self {
        Self::new(resource, key, Action::Delete { uid, version: None, grace_seconds: None, propagation: None })
    }

    /// Merges into an object of a kind that is only known at run time.
    pub fn patch_by_key(resource: ResourceType, key: ObjectKey, body: Value) -> Self {
        Self::new(resource, key, Action::Patch { subresource: "", body })
    }

    /// For a deletion: within this time, and in this way.
    pub fn with(mut self, grace: Option<i64>, policy: Option<&'static str>) -> Self {
        if let Action::Delete { grace_seconds, propagation, .. } = &mut self.action {
            (*grace_seconds, *propagation) = (grace, policy);
        }
        self
    }

    /// For a deletion: only if the object is still at this revision.
    pub fn at_version(mut self, at: Option<String>) -> Self {
        if let Action::Delete { version, .. } = &mut self.action {
            *version = at;
        }
        self
    }

    pub fn on_success(mut self, note: Note) -> Self {
        self.success = Some(note);
        self
    }

    pub fn on_failure(mut self, note: Note) -> Self {
        self.failure = Some(note);
        self
    }

    /// Carries the write out and tells the stores and the people.
    pub async fn execute(self, cluster: &Cluster, recorder: &Recorder) -> Result<(), WriteError> {
        let result = self.send(cluster).await;
        match &result {
            Ok(name) => tell(recorder, self.success, "{name}", name),
            Err(WriteError::Terminating { .. }) => {}
            Err(WriteError::Failed { source, .. }) => tell(recorder, self.failure, "{error}", &reason(source)),
            Err(WriteError::Stale { .. }) => {}
        }
        result.map(|_| ())
    }

    /// The name of the object that was written.
    async fn send(&self, cluster: &Cluster) -> Result<String, WriteError> {
        match cluster.client().request::<Value>(self.request()).await {
            Ok(answer) => Ok(self.succeeded(cluster, &answer)),
            Err(kube::Error::Api(status)) => self.refused(cluster, status).await,
            Err(error) => Err(self.failed(error)),
        }
    }

    fn request(&self) -> Request<Vec<u8>> {
        let object = self.resource.object_path(&self.key);
        let at =
            |subresource: &str| if subresource.is_empty() { object.clone() } else { format!("{object}/{subresource}") };
        let (method, path, content, body) = match &self.action {
            Action::Create(body) => {
                (Method::POST, self.resource.path(&self.key.namespace), "application/json", body.to_string())
            }
            Action::Put { subresource, body } => (Method::PUT, at(subresource), "application/json", body.to_string()),
            Action::Patch { subresource, body } => {
                (Method::PATCH, at(subresource), "application/merge-patch+json", body.to_string())
            }
            Action::Delete { uid, version, grace_seconds, propagation } => {
                let body = delete_options(uid.as_deref(), version.as_deref(), *grace_seconds, *propagation);
                (Method::DELETE, object.clone(), "application/json", body.to_string())
            }
        };
        Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, content)
            .body(body.into_bytes())
            .expect("an escaped path and constant headers make a request")
    }

    fn succeeded(&self, cluster: &Cluster, answer: &Value) -> String {
        let (group, plural) = (&self.resource.group, &self.resource.plural);
        let metadata = &answer["metadata"];
        // One that is shown with a mark, but no grace and no finalizers, went in the same request.
        let held = !metadata["finalizers"].is_null() || metadata["deletionGracePeriodSeconds"] != 0;
        if let Action::Delete { uid: Some(uid), .. } = &self.action
            && (answer["kind"] == "Status" || metadata["deletionTimestamp"].is_null() || !held)
        {
            cluster.observe_gone(group, plural, &self.key, uid);
        } else if answer["kind"] == *self.resource.kind {
            cluster.observe(group, plural, answer);
        }
        metadata["name"].as_str().unwrap_or(&self.key.name).to_owned()
    }

    async fn refused(&self, cluster: &Cluster, status: Box<kube::core::Status>) -> Result<String, WriteError> {
        let stale = |message: &str| Err(WriteError::Stale { what: self.what(), message: message.to_owned() });
        match (&self.action, status.code) {
            (Action::Delete { uid: Some(uid), version: None, .. }, 404 | 409) => {
                // Whatever bears the name now, the object that was meant is gone.
                cluster.observe_gone(&self.resource.group, &self.resource.plural, &self.key, uid);
                Ok(self.key.name.to_string())
            }
            (Action::Delete { .. }, 404) => Ok(self.key.name.to_string()),
            (Action::Create(_), 409) if status.reason == "AlreadyExists" => {
                self.read(cluster).await;
                stale(&status.message)
            }
            (Action::Create(_), 403 | 404) if is_terminating(&status) => {
                Err(WriteError::Terminating { what: self.what() })
            }
            (_, 409) | (Action::Put { .. } | Action::Patch { .. }, 404) => stale(&status.message),
            _ => Err(self.failed(kube::Error::Api(status))),
        }
    }

    /// Fetches the object that stands in the way, so that the next plan sees it.
    async fn read(&self, cluster: &Cluster) {
        let request = Request::get(self.resource.object_path(&self.key)).body(Vec::new());
        if let Ok(request) = request
            && let Ok(object) = cluster.client().request::<Value>(request).await
        {
            cluster.observe(&self.resource.group, &self.resource.plural, &object);
        }
    }

    fn failed(&self, error: kube::Error) -> WriteError {
        WriteError::Failed { what: self.what(), source: Box::new(error) }
    }

    fn what(&self) -> String {
        let verb = match &self.action {
            Action::Create(_) => "creating",
            Action::Put { .. } => "updating",
            Action::Patch { .. } => "patching",
            Action::Delete { .. } => "deleting",
        };
        format!("{verb} {} {}", self.resource.plural, self.key)
    }
}

/// The body of a DELETE.
pub fn delete_options(uid: Option<&str>, version: Option<&str>, grace: Option<i64>, policy: Option<&str>) -> Value {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    if let Some(grace) = grace {
        options["gracePeriodSeconds"] = json!(grace);
    }
    if let Some(policy) = policy {
        options["propagationPolicy"] = json!(policy);
    }
    if let Some(uid) = uid {
        options["preconditions"]["uid"] = json!(uid);
    }
    if let Some(version) = version {
        options["preconditions"]["resourceVersion"] = json!(version);
    }
    options
}

fn to_value<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Value {
    let mut value = serde_json::to_value(object).expect("Kubernetes types serialise to JSON");
    value["apiVersion"] = json!(K::api_version(&()));
    value["kind"] = json!(K::kind(&()));
    value
}

fn tell(recorder: &Recorder, note: Option<Note>, placeholder: &str, text: &str) {
    if let Some(note) = note {
        recorder.record_about(note.about, note.kind, note.reason, &note.message.replace(placeholder, text));
    }
}

/// What the server said, or why it could not be asked.
pub fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn is_terminating(status: &kube::core::Status) -> bool {
    let causes = status.details.as_ref().map(|d| d.causes.as_slice()).unwrap_or_default();
    causes.iter().any(|c| c.reason == "NamespaceTerminating")
        || (status.code == 404 && status.details.as_ref().is_some_and(|d| d.kind == "namespaces"))
}

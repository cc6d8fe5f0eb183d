//! The end of a namespace: everything in it is deleted, then it may go.
//!
//! What "everything" is, discovery says, so custom resources go too. Pods go first and have to be gone
//! before the rest follows: what they need is there until they have ended. As long as something is
//! left, the namespace's conditions say what and why. This controller acts on what it reads at that
//! moment rather than on a plan: the contents are of kinds that no shared watch covers.

mod conditions;

use std::collections::BTreeMap;
use std::time::Duration;

use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Client;
use serde_json::{Value, json};

use super::pods::elapsed;
use super::resources::{self, Discovered};
use crate::reconcile::{Cluster, ObjectKey, Queue, Recorder, Shared, Watched, Write, WriteError, delete_options, work};

/// The finalizer that this controller removes.
const FINALIZER: &str = "kubernetes";
/// How soon to look again at what is left; later the longer it takes.
const SOONEST: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_secs(2);
/// Namespaces beside each other: each costs a list of every kind.
const WORKERS: usize = 4;
/// Objects a page when counting what is left.
const PAGE: u32 = 500;

pub(super) fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
}

/// Looks at the namespace of an object that changes.
pub(super) fn follow_content<K: Watched>(queue: &Queue, shared: &Shared<K>) {
    let queue = queue.clone();
    shared.on_change(move |old, new| {
        if let Some(namespace) = new.or(old).and_then(|o| o.meta().namespace.as_deref()) {
            queue.add(ObjectKey::cluster(namespace));
        }
        true
    });
}

/// Runs the controller until its task is aborted.
pub(super) async fn run(cluster: Cluster) {
    let (namespaces, pods) = (cluster.watch::<Namespace>(), cluster.watch::<Pod>());
    let recorder = Recorder::start(cluster.client().clone(), "namespace-controller", "");
    let queue = cluster.queue("namespace");
    queue.follow(&namespaces);
    follow_ended_pods(&queue, &pods, &namespaces);
    namespaces.synced().await;
    let scanned = namespaces.clone();
    let handle = move |key: ObjectKey| {
        let (cluster, recorder, namespace) = (cluster.clone(), recorder.clone(), namespaces.get(&key));
        async move {
            match namespace.filter(|n| !is_active(n) && has_finalizer(n)) {
                Some(namespace) => terminate(&cluster, &recorder, &namespace).await,
                None => Ok(None),
            }
        }
    };
    work("namespace", queue, WORKERS, move || scanned.keys(), handle).await;
}

/// The last pod's end is what a namespace mostly waits for.
fn follow_ended_pods(queue: &Queue, pods: &Shared<Pod>, namespaces: &Shared<Namespace>) {
    let (queue, namespaces) = (queue.clone(), namespaces.clone());
    pods.on_change(move |old, new| {
        if let (Some(pod), None) = (old, new) {
            let key = ObjectKey::cluster(pod.metadata.namespace.as_deref().unwrap_or_default());
            if namespaces.get(&key).is_some_and(|n| !is_active(&n)) {
                queue.add(key);
            }
        }
        true
    });
}

fn has_finalizer(namespace: &Namespace) -> bool {
    namespace.spec.as_ref().and_then(|s| s.finalizers.as_ref()).is_some_and(|f| f.iter().any(|f| f == FINALIZER))
}

/// What is left of the contents, and what went wrong.
#[derive(Debug, Default)]
struct Left {
    /// Objects by `resource.group`.
    objects: BTreeMap<String, usize>,
    /// Objects by the finalizer that holds them.
    finalizers: BTreeMap<String, usize>,
    discovery: Vec<String>,
    failures: Vec<String>,
}

impl Left {
    fn nothing(&self) -> bool {
        self.objects.is_empty() && self.discovery.is_empty() && self.failures.is_empty()
    }
}

async fn terminate(
    cluster: &Cluster,
    recorder: &Recorder,
    namespace: &Namespace,
) -> Result<Option<Duration>, WriteError> {
    let left = empty(cluster.client(), namespace.metadata.name.as_deref().unwrap_or_default()).await;
    if left.nothing() {
        return finalize(cluster, recorder, namespace).await.map(|()| None);
    }
    let now = Timestamp::now();
    if let Some(patch) = conditions::patch(namespace, &left, now) {
        Write::patch(namespace, "status", patch).execute(cluster, recorder).await?;
    }
    let since = namespace.metadata.deletion_timestamp.as_ref().map_or(now, |t| t.0);
    Ok(Some((elapsed(since, now) / 4).clamp(SOONEST, LATEST)))
}

/// Lets the namespace go.
async fn finalize(cluster: &Cluster, recorder: &Recorder, namespace: &Namespace) -> Result<(), WriteError> {
    let mut done = namespace.clone();
    if let Some(finalizers) = done.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
        finalizers.retain(|f| f != FINALIZER);
    }
    Write::put_subresource("finalize", &done).execute(cluster, recorder).await
}

/// Deletes what can be deleted and says what is left.
async fn empty(client: &Client, namespace: &str) -> Left {
    let mut left = Left::default();
    let resources = match resources::discover(client).await {
        Ok((resources, failed)) => {
            left.discovery = failed;
            resources
        }
        Err(error) => {
            left.discovery.push(error.to_string());
            return left;
        }
    };
    let contents: Vec<&Discovered> = resources.iter().filter(|r| r.namespaced && r.can(&["list", "delete"])).collect();
    let is_pods = |r: &&&Discovered| r.resource.group.is_empty() && r.resource.plural == "pods";
    for resource in contents.iter().filter(|r| is_pods(r)) {
        empty_resource(client, namespace, resource, &mut left).await;
    }
    if left.objects.is_empty() {
        for resource in contents.iter().filter(|r| !is_pods(r)) {
            empty_resource(client, namespace, resource, &mut left).await;
        }
    }
    left
}

async fn empty_resource(client: &Client, namespace: &str, resource: &Discovered, left: &mut Left) {
    if let Err(error) = try_empty_resource(client, namespace, resource, left).await {
        left.failures.push(format!("{}: {error}", resource.resource.plural));
    }
}

async fn try_empty_resource(
    client: &Client,
    namespace: &str,
    resource: &Discovered,
    left: &mut Left,
) -> kube::Result<()> {
    let path = resource.resource.path(namespace);
    if list(client, &path).await?.is_empty() {
        return Ok(());
    }
    let options = delete_options(None, None, None, Some("Background"));
    if resource.can(&["deletecollection"]) {
        delete(client, &path, &options).await?;
    } else {
        for object in list(client, &path).await? {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            delete(client, &resource.resource.object_path(&ObjectKey::new(namespace, name)), &options).await?;
        }
    }
    for object in list(client, &path).await? {
        let kind = format!("{}.{}", resource.resource.plural, resource.resource.group);
        *left.objects.entry(kind).or_default() += 1;
        for finalizer in object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            *left.finalizers.entry(finalizer.to_owned()).or_default() += 1;
        }
    }
    Ok(())
}

/// All objects of a collection.
async fn list(client: &Client, path: &str) -> kube::Result<Vec<Value>> {
    let (mut objects, mut more) = (Vec::new(), String::new());
    loop {
        let request = Request::get(format!("{path}?limit={PAGE}{more}")).body(Vec::new());
        let mut page: Value = client.request(request.map_err(kube::Error::HttpError)?).await?;
        if let Value::Array(items) = page["items"].take() {
            objects.extend(items);
        }
        match page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
            Some(token) => {
                let token = percent_encoding::utf8_percent_encode(token, percent_encoding::NON_ALPHANUMERIC);
                more = format!("&continue={token}");
            }
            None => return Ok(objects),
        }
    }
}

/// Deletes an object or a collection; what is gone already is no failure.
async fn delete(client: &Client, path: &str, options: &Value) -> kube::Result<()> {
    let request = Request::delete(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(json!(options).to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    match client.request::<Value>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

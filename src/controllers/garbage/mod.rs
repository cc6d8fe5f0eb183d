//! Garbage collection: what nobody owns any more goes, in the way the deletion of the owner asked for.
//!
//! `graph` knows who owns whom and decides, purely; here are its eyes and hands. The eyes are the
//! shared watches where this process has one, and for all other kinds a watch that keeps metadata
//! only. An owner that the graph has never seen is asked for before anything is deleted because of its
//! absence: a slow watch must not cost anybody an object.

mod graph;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use http::Request;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::ApiResource;
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};

use self::graph::{Decision, Graph, Standing};
use super::resources::{self, Discovered};
use crate::reconcile::{Cluster, ObjectKey, Queue, Recorder, ResourceType, Watched, Write, WriteError, work};

/// Objects beside each other: a Deployment's thousand pods go in a few rounds.
const WORKERS: usize = 64;
/// How often new kinds are looked for.
const DISCOVER_EVERY: Duration = Duration::from_secs(30);
/// After a failed discovery.
const DISCOVER_RETRY: Duration = Duration::from_millis(100);

/// The collector. Keys of its queue are uids, as names in [`ObjectKey`].
#[derive(Clone)]
struct Collector {
    cluster: Cluster,
    recorder: Recorder,
    queue: Queue,
    graph: Arc<Mutex<Graph>>,
    /// Every kind there is, by API group and kind.
    kinds: Arc<Mutex<HashMap<(String, String), Discovered>>>,
}

/// Runs the controller until its task is aborted.
pub(super) async fn run(cluster: Cluster) {
    let recorder = Recorder::start(cluster.client().clone(), "garbage-collector-controller", "");
    let (queue, graph, kinds) = (cluster.queue("garbage_collector_attempt_to_delete"), Arc::default(), Arc::default());
    let collector = Collector { cluster, recorder, queue, graph, kinds };
    let mut watched = collector.follow_shared();
    let mut tasks = JoinSet::new();
    let discovery = collector.clone();
    tasks.spawn(async move {
        let mut dynamic = HashMap::new();
        loop {
            let wait = match discovery.discover(&mut watched, &mut dynamic).await {
                Ok(()) => DISCOVER_EVERY,
                Err(error) => {
                    tracing::debug!(%error, "garbage collection cannot learn the kinds yet");
                    DISCOVER_RETRY
                }
            };
            tokio::time::sleep(wait).await;
        }
    });
    let (queue, graph) = (collector.queue.clone(), collector.graph.clone());
    let all = move || lock(&graph).uids().map(key_of).collect();
    let handle = move |key: ObjectKey| {
        let collector = collector.clone();
        async move { collector.collect(&key.name).await.map(|()| None) }
    };
    work("garbage", queue, WORKERS, all, handle).await;
}

fn key_of(uid: &str) -> ObjectKey {
    ObjectKey::cluster(uid)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector {
    /// Sees through the watches that the other controllers hold anyway. These kinds are known without
    /// discovery, so that they are collected from the first moment.
    fn follow_shared(&self) -> HashSet<ResourceType> {
        let known = [
            self.follow::<Pod>(true),
            self.follow::<ReplicaSet>(true),
            self.follow::<Deployment>(true),
            self.follow::<Service>(true),
            self.follow::<EndpointSlice>(true),
            self.follow::<Endpoints>(true),
            self.follow::<Node>(false),
            self.follow::<Namespace>(false),
        ];
        let mut kinds = lock(&self.kinds);
        for kind in &known {
            kinds.insert(kind.id(), kind.clone());
        }
        known.into_iter().map(|kind| kind.resource).collect()
    }

    fn follow<K: Watched>(&self, namespaced: bool) -> Discovered {
        let (resource, shared) = (Arc::new(ResourceType::of::<K>()), self.cluster.watch::<K>());
        let (collector, listed) = (self.clone(), resource.clone());
        // The listener first: what changes while the present is read is then seen twice, not never.
        shared.on_change(move |old, new| {
            match (old, new) {
                (_, Some(object)) => collector.seen(&listed, object.meta()),
                (Some(object), None) => collector.ended(object.meta()),
                (None, None) => {}
            }
            true
        });
        shared.list().iter().for_each(|object| self.seen(&resource, object.meta()));
        Discovered::known(ResourceType::of::<K>(), namespaced)
    }

    fn seen(&self, resource: &Arc<ResourceType>, meta: &ObjectMeta) {
        let look = lock(&self.graph).seen(resource, meta);
        look.iter().for_each(|uid| self.queue.add(key_of(uid)));
    }

    fn ended(&self, meta: &ObjectMeta) {
        let look = lock(&self.graph).ended(meta.uid.as_deref().unwrap_or_default());
        look.iter().for_each(|uid| self.queue.add(key_of(uid)));
    }

    /// Learns the kinds there are now and begins to watch those that are new.
    async fn discover(
        &self,
        shared: &mut HashSet<ResourceType>,
        dynamic: &mut HashMap<ResourceType, WatchGuard>,
    ) -> kube::Result<()> {
        let (found, failed) = resources::discover(self.cluster.client()).await?;
        lock(&self.kinds).extend(found.iter().map(|kind| (kind.id(), kind.clone())));
        // Events own nothing, and nothing owns them for long; they are most of the traffic.
        let wanted = found.iter().filter(|d| d.can(&["list", "watch", "delete"]) && d.resource.kind != "Event");
        let wanted: HashSet<&ResourceType> = wanted.map(|d| &d.resource).filter(|r| !shared.contains(*r)).collect();
        if failed.is_empty() {
            dynamic.retain(|resource, _| wanted.contains(resource));
        }
        for resource in wanted {
            if !dynamic.contains_key(resource) {
                let task = tokio::spawn(self.clone().watch(resource.clone()));
                dynamic.insert(resource.clone(), WatchGuard(task.abort_handle()));
            }
        }
        Ok(())
    }

    /// Watches a kind that nobody else in this process does.
    async fn watch(self, resource: ResourceType) {
        let api_resource = ApiResource {
            group: resource.group.to_string(),
            version: resource.version.to_string(),
            api_version: api_version(&resource),
            kind: resource.kind.to_string(),
            plural: resource.plural.to_string(),
        };
        let resource = Arc::new(resource);
        let api = Api::<DynamicObject>::all_with(self.cluster.client().clone(), &api_resource);
        let events = watcher(api, watcher::Config::default().streaming_lists()).backoff(Retry::default());
        let mut events = std::pin::pin!(events);
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    listed.extend(object.metadata.uid.clone());
                    self.seen(&resource, &object.metadata);
                }
                Ok(Event::InitDone) => {
                    let look = lock(&self.graph).retain(&resource, &listed);
                    look.iter().for_each(|uid| self.queue.add(key_of(uid)));
                    listed = HashSet::new();
                }
                Ok(Event::Apply(object)) => self.seen(&resource, &object.metadata),
                Ok(Event::Delete(object)) => self.ended(&object.metadata),
                Err(error) => tracing::debug!(kind = %resource.kind, %error, "watch interrupted, trying again"),
            }
        }
    }

    /// Does what the graph decides about one object.
    async fn collect(&self, uid: &str) -> Result<(), WriteError> {
        let strangers = lock(&self.graph).strangers(uid);
        let mut known = HashMap::new();
        for (namespace, owner) in strangers {
            known.insert(owner.uid.clone(), self.ask(&namespace, &owner).await?);
        }
        let decision = lock(&self.graph).decide(uid, &known);
        match decision {
            Decision::Nothing => Ok(()),
            Decision::Look(uids) => {
                uids.iter().for_each(|uid| self.queue.add(key_of(uid)));
                Ok(())
            }
            Decision::Write(writes) => {
                for write in writes {
                    write.execute(&self.cluster, &self.recorder).await?;
                }
                Ok(())
            }
        }
    }

    /// Asks the server whether an owner that no watch has shown exists.
    async fn ask(&self, namespace: &str, owner: &OwnerReference) -> Result<Standing, WriteError> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let kind = lock(&self.kinds).get(&(group.to_owned(), owner.kind.clone())).cloned();
        // A kind that the server does not have (yet) proves nothing about its objects; nor does a
        // reference from outside all namespaces into an unnamed one.
        let Some(kind) = kind.filter(|k| !k.namespaced || !namespace.is_empty()) else { return Ok(Standing::Solid) };
        let namespace = if kind.namespaced { namespace } else { "" };
        let path = kind.resource.object_path(&ObjectKey::new(namespace, owner.name.as_str()));
        let what = format!("looking for the owner {} {}", kind.resource.plural, owner.name);
        let failed = |error| WriteError::Failed { what, source: Box::new(error) };
        let request = match Request::get(path).body(Vec::new()) {
            Ok(request) => request,
            Err(error) => return Err(failed(kube::Error::HttpError(error))),
        };
        match self.cluster.client().request::<Value>(request).await {
            Ok(found) if found["metadata"]["uid"] == json!(owner.uid) => Ok(Standing::of(&found)),
            Ok(_) => Ok(Standing::Absent),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Standing::Absent),
            Err(error) => Err(failed(error)),
        }
    }
}

fn api_version(resource: &ResourceType) -> String {
    if resource.group.is_empty() {
        resource.version.to_string()
    } else {
        format!("{}/{}", resource.group, resource.version)
    }
}

/// Ends a watch with its entry.
struct WatchGuard(AbortHandle);

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ten milliseconds after the first failure, doubled up to a second.
#[derive(Debug, Default)]
struct Retry {
    failures: u32,
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = Duration::from_millis(10 << self.failures.min(7)).min(Duration::from_secs(1));
        self.failures = self.failures.saturating_add(1);
        Some(delay)
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The write that takes the references to some owners out of an object.
fn without_owners(
    resource: &ResourceType,
    key: &ObjectKey,
    version: &str,
    owners: &[OwnerReference],
    gone: &HashSet<&str>,
) -> Write {
    let left: Vec<&OwnerReference> = owners.iter().filter(|o| !gone.contains(o.uid.as_str())).collect();
    let left = if left.is_empty() { json!(null) } else { json!(left) };
    let body = json!({"metadata": {"ownerReferences": left, "resourceVersion": version}});
    Write::patch_by_key(resource.clone(), key.clone(), body)
}

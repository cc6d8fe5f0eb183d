//! The cluster as one process sees it: a client, and at most one watch a kind.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::Value;

use super::figures::WorkQueues;
use super::key::ObjectKey;
use super::queue::Queue;
use super::shared::{Shared, Watched};

/// Which objects of a kind to watch. The default is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Selection {
    /// A label selector, e.g. `app=web`.
    pub labels: Option<String>,
    /// A field selector, e.g. `spec.nodeName=n1`.
    pub fields: Option<String>,
}

impl Selection {
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { labels: None, fields: Some(selector.into()) }
    }

    pub fn labels(selector: impl Into<String>) -> Self {
        Self { labels: Some(selector.into()), fields: None }
    }

    fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}

/// Hands out the shared watches of this process. Clones are handles on the same cluster.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    watches: Mutex<Watches>,
    queues: WorkQueues,
}

#[derive(Default)]
struct Watches {
    /// Values are `Shared<K>` of the key's type.
    shared: HashMap<(TypeId, Selection), Box<dyn Any + Send + Sync>>,
    /// By API group and resource: who wants to hear of own writes.
    observers: HashMap<(String, String), Arc<dyn Observe>>,
}

/// A watch, with its type erased: it takes in the answers to own writes.
trait Observe: Send + Sync {
    fn wrote(&self, object: &Value);
    fn gone(&self, key: &ObjectKey, uid: &str);
}

impl<K: Watched> Observe for Shared<K> {
    fn wrote(&self, object: &Value) {
        // An answer that does not decode will not decode from the watch either, which reports it.
        if let Ok(object) = serde::Deserialize::deserialize(object) {
            self.observe(object);
        }
    }

    fn gone(&self, key: &ObjectKey, uid: &str) {
        self.observe_gone(key, uid);
    }
}

impl Cluster {
    pub fn new(client: Client) -> Self {
        Self::counted(client, WorkQueues::default())
    }

    /// One whose queues are counted there.
    pub fn counted(client: Client, queues: WorkQueues) -> Self {
        Self { inner: Arc::new(Inner { client, watches: Mutex::default(), queues }) }
    }

    /// A new queue for the controller `name`.
    pub fn queue(&self, name: &'static str) -> Queue {
        self.inner.queues.make(name)
    }

    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// The watch of all objects of a kind; the first call starts it. Needs a tokio runtime around it.
    pub fn watch<K: Watched>(&self) -> Shared<K> {
        self.watch_selected(Selection::default())
    }

    /// The watch of the selected objects of a kind, shared with everybody who selects the same.
    pub fn watch_selected<K: Watched>(&self, selection: Selection) -> Shared<K> {
        let mut watches = self.inner.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let id = (TypeId::of::<K>(), selection.clone());
        if let Some(shared) = watches.shared.get(&id).and_then(|s| s.downcast_ref::<Shared<K>>()) {
            return shared.clone();
        }
        let everything = selection.is_everything();
        let config = watcher::Config {
            label_selector: selection.labels,
            field_selector: selection.fields,
            ..watcher::Config::default().streaming_lists()
        };
        let shared = Shared::<K>::start(Api::all(self.inner.client.clone()), config);
        if everything {
            let resource = (K::group(&()).into_owned(), K::plural(&()).into_owned());
            watches.observers.insert(resource, Arc::new(shared.clone()));
        }
        watches.shared.insert(id, Box::new(shared.clone()));
        shared
    }

    /// Takes in the object that the server answered to an own write.
    pub fn observe(&self, group: &str, plural: &str, object: &Value) {
        if let Some(observer) = self.observer(group, plural) {
            observer.wrote(object);
        }
    }

    /// Takes in that the object with this uid is gone for good.
    pub fn observe_gone(&self, group: &str, plural: &str, key: &ObjectKey, uid: &str) {
        if let Some(observer) = self.observer(group, plural) {
            observer.gone(key, uid);
        }
    }

    fn observer(&self, group: &str, plural: &str) -> Option<Arc<dyn Observe>> {
        let watches = self.inner.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.observers.get(&(group.to_owned(), plural.to_owned())).cloned()
    }
}

//! The ConfigMaps and Secrets that this node's pods use, and no others.
//!
//! Each is watched by name while something holds on to it: a node must not be able to read the
//! cluster's secrets, only those of its pods, and a thousand pods of one Deployment share one watch.
//! While the API server is away the last value stands.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::runtime::watcher::watch_object;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How long a container's start waits for the first answer about an object.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// Between attempts of a watch that broke.
const RETRY: Duration = Duration::from_millis(100);
/// Entries of objects that nobody holds are swept when the table has grown by this many.
const SWEEP_EVERY: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    ConfigMap,
    Secret,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::ConfigMap => "ConfigMap",
            Kind::Secret => "Secret",
        })
    }
}

/// Names one object that a pod uses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

/// The values of a ConfigMap or Secret, by key.
pub type Data = BTreeMap<String, Bytes>;

#[derive(Debug, Clone, PartialEq)]
pub enum Lookup {
    /// No answer yet.
    Pending,
    Missing,
    Found(Arc<Data>),
}

/// A watched object; the watch ends with the last holder.
pub struct Tracked {
    latest: watch::Receiver<Lookup>,
    task: AbortHandle,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tracked {
    /// The object as it is last known; waits for the first answer, but not for ever.
    pub async fn get(&self) -> Lookup {
        next_known(&mut self.latest.clone()).await
    }

    /// A reader of its own, for [`next_known`] and for changes after what that returned.
    pub fn reader(&self) -> watch::Receiver<Lookup> {
        self.latest.clone()
    }
}

/// What `reader` knows now, marked as seen; waits for the first answer, but not for ever.
pub async fn next_known(reader: &mut watch::Receiver<Lookup>) -> Lookup {
    let known = reader.wait_for(|lookup| *lookup != Lookup::Pending);
    match tokio::time::timeout(FIRST_ANSWER, known).await {
        Ok(Ok(lookup)) => lookup.clone(),
        Ok(Err(_)) | Err(_) => Lookup::Pending,
    }
}

/// Hands out the watches.
pub struct Objects {
    client: kube::Client,
    tracked: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Name, Weak<Tracked>>,
    added: usize,
}

impl Objects {
    pub fn new(client: kube::Client) -> Objects {
        Objects { client, tracked: Mutex::default() }
    }

    /// The watch of `name`, shared with everybody who uses it.
    pub fn track(&self, name: &Name) -> Arc<Tracked> {
        let mut table = self.tracked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tracked) = table.entries.get(name).and_then(Weak::upgrade) {
            return tracked;
        }
        let tracked = Arc::new(self.start(name));
        table.entries.insert(name.clone(), Arc::downgrade(&tracked));
        table.added += 1;
        if table.added >= SWEEP_EVERY {
            table.added = 0;
            table.entries.retain(|_, tracked| tracked.strong_count() > 0);
        }
        tracked
    }

    fn start(&self, name: &Name) -> Tracked {
        let (sender, latest) = watch::channel(Lookup::Pending);
        let (client, namespace, object) = (self.client.clone(), name.namespace.clone(), name.name.clone());
        let task = match name.kind {
            Kind::ConfigMap => {
                tokio::spawn(follow(Api::<ConfigMap>::namespaced(client, &namespace), object, sender, map_data))
            }
            Kind::Secret => {
                tokio::spawn(follow(Api::<Secret>::namespaced(client, &namespace), object, sender, secret_data))
            }
        };
        Tracked { latest, task: task.abort_handle() }
    }
}

async fn follow<K>(api: Api<K>, name: String, sender: watch::Sender<Lookup>, data: fn(K) -> Data)
where
    K: kube::Resource<DynamicType = ()> + Clone + fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut events = std::pin::pin!(watch_object(api, &name));
    while let Some(event) = events.next().await {
        let lookup = match event {
            Ok(Some(object)) => Lookup::Found(Arc::new(data(object))),
            Ok(None) => Lookup::Missing,
            Err(error) => {
                tracing::debug!(%name, %error, "watch of an object interrupted, trying again");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        sender.send_if_modified(|known| {
            let changed = *known != lookup;
            *known = lookup;
            changed
        });
    }
}

fn map_data(map: ConfigMap) -> Data {
    let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, Bytes::from(value)));
    let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, Bytes::from(value.0)));
    text.chain(binary).collect()
}

fn secret_data(secret: Secret) -> Data {
    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, Bytes::from(value.0))).collect()
}

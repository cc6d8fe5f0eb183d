//! What all pods of a node share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use dashmap::DashMap;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::node::v1::RuntimeClass;
use tokio::sync::{Semaphore, watch};

use super::choose;
use super::config::NodeConfig;
use super::console::Console;
use super::enforce::Enforcer;
use super::fields::{Allocatable, Fields};
use super::images::Images;
use super::ip::Addresses;
use super::logs::{ContainerLog, Logs};
use super::machine::Machine;
use super::objects::Objects;
use super::plan::{Index, Plan};
use super::pod::Note;
use super::recovery::Recovery;
use super::resolver;
use super::routes::Routes;
use super::usage::PodUsage;
use super::volumes::Volumes;
use crate::network::Network;
use crate::reconcile::{EventKind, ObjectKey, Recorder, Shared};
use crate::runtime::{Container, Dns, Runtime};
use crate::wire::Outbound;

/// First starts at the same time. Each may read files and compile; more of them at once would only make
/// each later. Restarts in place are not counted.
const STARTING: usize = 32;
/// Status writes in flight at the same time: enough to keep the server busy, few enough that a thousand
/// pods becoming ready together do not open a thousand connections.
const WRITING: usize = 32;

/// The node, as its pods' workers see it.
pub struct Context {
    pub config: Arc<NodeConfig>,
    pub client: kube::Client,
    pub runtimes: Vec<Arc<dyn Runtime>>,
    pub classes: Shared<RuntimeClass>,
    pub services: Shared<core::Service>,
    pub recorder: Recorder,
    pub images: Images,
    pub objects: Arc<Objects>,
    pub volumes: Arc<Volumes>,
    pub logs: Logs,
    pub addresses: Addresses,
    pub network: Arc<Network>,
    pub outbound: Arc<dyn Outbound>,
    pub routes: Arc<Routes>,
    pub enforcer: Enforcer,
    pub allocatable: Allocatable,
    pub machine: Machine,
    pub starting: Semaphore,
    pub writing: Semaphore,
    pub recovery: Recovery,
    pub register: Register,
}

impl Context {
    pub fn starting() -> Semaphore {
        Semaphore::new(STARTING)
    }

    pub fn writing() -> Semaphore {
        Semaphore::new(WRITING)
    }

    pub fn fields<'a>(&self, pod: &'a core::Pod, pod_ip: IpAddr) -> Fields<'a> {
        Fields { pod, pod_ip, host_ip: self.config.address, allocatable: self.allocatable }
    }

    /// What the pod's processes ask for names.
    pub fn resolver(&self, pod: &core::Pod) -> Dns {
        if !self.runtimes.iter().any(|runtime| runtime.nature().own_network) {
            return Dns::default();
        }
        // systemd-resolved shows the servers behind its own in another file.
        let files = ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"];
        let text = files.iter().find_map(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        let (cluster, domain) = (self.network.dns(), self.config.cluster_domain.as_str());
        resolver::of(pod, &resolver::Sources { cluster, domain, machine: &Dns::parse(&text) })
    }

    /// Whether a container's id is of a runtime that outlives this process.
    pub fn outlives(&self, id: &str) -> bool {
        self.runtimes.iter().any(|runtime| runtime.nature().outlives_process && choose::is_of(id, runtime.name()))
    }

    /// The pod's address is free for others.
    pub fn release_address(&self, uid: &str) {
        self.enforcer.withdraw(uid);
        self.addresses.release(uid);
    }

    /// The pod is over: its runtime is to leave nothing behind.
    pub async fn remove(&self, uid: &str) {
        for runtime in &self.runtimes {
            runtime.remove(uid).await;
        }
    }

    /// Records an event about a pod or one of its containers.
    pub fn tell(&self, pod: &core::Pod, note: &Note) {
        let mut about = kube::Resource::object_ref(pod, &());
        about.field_path = note.index.and_then(|index| field_path(pod, index));
        let kind = if note.warning { EventKind::Warning } else { EventKind::Normal };
        self.recorder.record_about(about, kind, note.reason, &note.message);
    }
}

fn field_path(pod: &core::Pod, index: Index) -> Option<String> {
    let name = &Plan::container(pod, index)?.name;
    let init = pod.spec.as_ref()?.init_containers.as_ref().map_or(0, Vec::len);
    let list = if index < init { "initContainers" } else { "containers" };
    Some(format!("spec.{list}{{{name}}}"))
}

/// The pods of this node by name, for those who ask for their logs and figures or run commands in them.
#[derive(Default)]
pub struct Register {
    pods: DashMap<ObjectKey, Arc<Entry>>,
}

/// One pod's containers, as far as others than its worker see them.
pub struct Entry {
    pub uid: String,
    /// The directory of its logs: `<namespace>_<name>_<uid>`.
    pub log_dir: String,
    /// What its containers have used.
    pub usage: PodUsage,
    /// Why the node lets the pod go, once it does.
    eviction: watch::Sender<Option<String>>,
    lives: Mutex<HashMap<String, Life>>,
    /// Those that have been started. The worker owns them.
    running: Mutex<HashMap<String, Running>>,
}

/// The present or last life of a container.
#[derive(Clone)]
pub struct Life {
    pub run: u32,
    /// `None`: a life of an earlier process, of which only the files are left.
    pub log: Option<Arc<ContainerLog>>,
}

/// A container that has been started.
struct Running {
    container: Weak<dyn Container>,
    console: Weak<Console>,
}

impl Register {
    pub fn add(&self, key: ObjectKey, uid: String) -> Arc<Entry> {
        let log_dir = format!("{}_{}_{uid}", key.namespace, key.name);
        let entry = Arc::new(Entry {
            uid,
            log_dir,
            usage: PodUsage::default(),
            eviction: watch::Sender::new(None),
            lives: Mutex::default(),
            running: Mutex::default(),
        });
        self.pods.insert(key, entry.clone());
        entry
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Entry>> {
        self.pods.get(key).map(|entry| entry.clone())
    }

    /// Looks at each pod. What `look` does must be short: it holds up those who come and go.
    pub fn each(&self, mut look: impl FnMut(&ObjectKey, &Entry)) {
        self.pods.iter().for_each(|entry| look(entry.key(), entry.value()));
    }

    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Forgets the pod, unless another of its name has come meanwhile.
    pub fn remove(&self, key: &ObjectKey, uid: &str) {
        self.pods.remove_if(key, |_, entry| entry.uid == uid);
    }
}

impl Entry {
    /// Lets the pod go, with these words.
    pub fn evict(&self, message: String) {
        self.eviction.send_replace(Some(message));
    }

    pub fn is_evicted(&self) -> bool {
        self.eviction.borrow().is_some()
    }

    /// For the pod's worker.
    pub fn evictions(&self) -> watch::Receiver<Option<String>> {
        self.eviction.subscribe()
    }

    pub fn set(&self, container: &str, life: Life) {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).insert(container.to_owned(), life);
    }

    pub fn started(&self, container: &str, running: &Arc<dyn Container>, console: &Arc<Console>) {
        let running = Running { container: Arc::downgrade(running), console: Arc::downgrade(console) };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(container.to_owned(), running);
    }

    /// The present life of a container.
    pub fn running(&self, container: &str) -> Option<Arc<dyn Container>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(container)?.container.upgrade()
    }

    /// What it says and hears.
    pub fn console(&self, container: &str) -> Option<Arc<Console>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(container)?.console.upgrade()
    }

    pub fn get(&self, container: &str) -> Option<Life> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).get(container).cloned()
    }
}

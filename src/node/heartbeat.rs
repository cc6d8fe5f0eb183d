//! How the cluster knows the node: its Node object, its Lease, its conditions.
//!
//! Three signs of life, from slow to quick: the Node's status (on every change and every five
//! minutes), the Lease (every ten seconds, as upstream does) and the presence stream
//! ([`super::presence`]), whose end is seen at once. What the machine has is read once at start.
//!
//! Registration never deletes: a Node object that is there already keeps its taints, its labels that
//! are not ours and its `unschedulable`. So a restart of the process changes nothing in the cluster.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::config::NodeConfig;
use super::fields::Allocatable;
use super::pressure::Pressure;
use crate::runtime::Health;

/// How often the Lease is renewed; upstream's interval for a lease of 40 s.
const LEASE_RENEWAL: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// How often the status is written although nothing changed.
const STATUS_PERIOD: Duration = Duration::from_secs(300);
/// Between attempts while the API server does not answer.
const RETRY: Duration = Duration::from_millis(200);
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Tells of the node to the API server.
pub(super) struct Heartbeat {
    client: kube::Client,
    config: Arc<NodeConfig>,
    facts: Facts,
    /// The port of the node's own API, as bound.
    port: u16,
    pressure: Mutex<Pressure>,
    /// Of the runtimes that need somebody, by their names.
    health: Mutex<BTreeMap<&'static str, Health>>,
    /// The status is to be written now: the connection to the server has come back, or a condition has
    /// changed.
    due: Notify,
}

/// What the machine has, read once.
#[derive(Debug, Clone)]
struct Facts {
    cpus: usize,
    memory_bytes: u64,
    storage_bytes: u64,
    machine_id: String,
    boot_id: String,
    kernel: String,
    os_image: String,
    /// e.g. `wasmtime://48.0.8`.
    runtime_version: String,
    handlers: Vec<String>,
}

impl Heartbeat {
    pub fn new(
        client: kube::Client,
        config: Arc<NodeConfig>,
        bound: SocketAddr,
        runtime_version: String,
        handlers: Vec<String>,
    ) -> Self {
        let facts = Facts::read(&config, runtime_version, handlers);
        let (pressure, health) = (Mutex::default(), Mutex::default());
        Heartbeat { client, config, facts, port: bound.port(), pressure, health, due: Notify::new() }
    }

    /// What pods may use, all of it: a Wasm host keeps nothing back.
    pub fn allocatable(&self) -> Allocatable {
        Allocatable {
            cpu_millis: self.facts.cpus as u64 * 1000,
            memory_bytes: self.facts.memory_bytes,
            storage_bytes: self.facts.storage_bytes,
        }
    }

    /// Writes `Ready=True` soon: called when a connection to the API server has been made.
    pub fn prompt(&self) {
        self.due.notify_one();
    }

    /// What the machine is short of; a change is written at once.
    pub fn set_pressure(&self, pressure: Pressure) {
        let before = std::mem::replace(&mut *self.pressure.lock().unwrap_or_else(PoisonError::into_inner), pressure);
        if before != pressure {
            self.due.notify_one();
        }
    }

    /// How a runtime does; a change is written at once.
    pub fn set_health(&self, runtime: &'static str, health: Health) {
        let mut known = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert(runtime, health.clone()) != Some(health) {
            self.due.notify_one();
        }
    }

    /// Makes or updates the Node object; retries until the server answers.
    pub async fn register(&self) {
        let mut said = false;
        loop {
            match self.try_register().await {
                Ok(()) => return,
                Err(error) => {
                    if !said {
                        warn!(node = %self.config.name, %error, "cannot register the node yet; trying on");
                        said = true;
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn try_register(&self) -> kube::Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let exists = nodes.get_metadata_opt(&self.config.name).await?.is_some();
        if exists {
            let patch = Patch::Strategic(self.spec_patch());
            nodes.patch(&self.config.name, &PatchParams::default(), &patch).await?;
        } else {
            let node: Node = serde_json::from_value(self.object()).map_err(kube::Error::SerdeError)?;
            match nodes.create(&PostParams::default(), &node).await {
                Ok(_) => info!(node = %self.config.name, "registered"),
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                Err(error) => return Err(error),
            }
        }
        self.write_status().await
    }

    async fn write_status(&self) -> kube::Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let known = nodes.get(&self.config.name).await?.status.and_then(|status| status.conditions);
        let patch = Patch::Strategic(json!({ "status": self.status(&known.unwrap_or_default()) }));
        nodes.patch_status(&self.config.name, &PatchParams::default(), &patch).await.map(drop)
    }

    /// Keeps the status and the Lease fresh until shutdown.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let status = self.clone().run_status(shutdown.clone());
        let lease = self.run_lease(shutdown);
        tokio::join!(status, lease);
    }

    async fn run_status(self: Arc<Self>, shutdown: CancellationToken) {
        let mut wait = STATUS_PERIOD;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.due.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
            wait = match self.write_status().await {
                Ok(()) => STATUS_PERIOD,
                // The Node was deleted under us: an operator's doing, or a store started afresh.
                Err(kube::Error::Api(status)) if status.is_not_found() => {
                    self.register().await;
                    STATUS_PERIOD
                }
                Err(_) => RETRY,
            };
        }
    }

    async fn run_lease(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let wait = match self.renew().await {
                Ok(()) => LEASE_RENEWAL,
                Err(_) => RETRY * 5,
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn renew(&self) -> kube::Result<()> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), LEASE_NAMESPACE);
        let now = micro_time(jiff::Timestamp::now());
        let patch = Patch::Merge(json!({ "spec": {
            "holderIdentity": self.config.name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now,
        }}));
        match leases.patch(&self.config.name, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => self.create_lease(&leases, &now).await,
            Err(error) => Err(error),
        }
    }

    async fn create_lease(&self, leases: &Api<Lease>, now: &str) -> kube::Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let uid = nodes.get_metadata_opt(&self.config.name).await?.and_then(|node| node.metadata.uid);
        // Owned by the Node, so that it goes when the Node goes.
        let owners =
            uid.map(|uid| json!([{ "apiVersion": "v1", "kind": "Node", "name": self.config.name, "uid": uid }]));
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": self.config.name, "namespace": LEASE_NAMESPACE, "ownerReferences": owners },
            "spec": {
                "holderIdentity": self.config.name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now,
            },
        });
        let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
        leases.create(&PostParams::default(), &lease).await.map(drop)
    }

    fn object(&self) -> Value {
        let mut object = self.spec_patch();
        merge(&mut object, json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": self.config.name } }));
        object
    }

    /// What registration asserts on every start: labels and the pod CIDR.
    fn spec_patch(&self) -> Value {
        let cidr = self.config.pod_cidr.to_string();
        json!({
            "metadata": { "labels": self.labels(), "annotations": self.annotations() },
            "spec": { "podCIDR": cidr, "podCIDRs": [cidr] },
        })
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let arch = architecture();
        // `linux` and the machine's architecture, although guests are neither: stock manifests select on
        // them, and a Wasm module runs on every one of them.
        let mut labels: BTreeMap<String, String> = [
            ("kubernetes.io/hostname", self.config.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
            ("coracle.dev/runtime", "wasm"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        labels.extend(self.config.labels.clone());
        labels
    }

    /// Where modules can be put and where Ingress traffic comes in, for tools of the same machine.
    fn annotations(&self) -> BTreeMap<&'static str, String> {
        let images = self.config.images_dirs.first().map(|dir| ("coracle.dev/images", dir.display().to_string()));
        let ingress = self.config.ingress.map(|address| ("coracle.dev/ingress-address", address.to_string()));
        images.into_iter().chain(ingress).collect()
    }

    fn status(&self, known: &[NodeCondition]) -> Value {
        let capacity = json!({
            "cpu": self.facts.cpus.to_string(),
            "memory": format!("{}Ki", self.facts.memory_bytes / 1024),
            "ephemeral-storage": format!("{}Ki", self.facts.storage_bytes / 1024),
            "pods": self.config.max_pods.to_string(),
        });
        let pressure = *self.pressure.lock().unwrap_or_else(PoisonError::into_inner);
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [
                { "type": "InternalIP", "address": self.config.address.to_string() },
                { "type": "Hostname", "address": self.config.name },
            ],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": self.port } },
            "nodeInfo": self.node_info(),
            "runtimeHandlers": self.facts.handlers.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
            "conditions": conditions(known, pressure, &health, jiff::Timestamp::now()),
        })
    }

    fn node_info(&self) -> Value {
        json!({
            "architecture": architecture(), "operatingSystem": "linux",
            "bootID": self.facts.boot_id, "machineID": self.facts.machine_id, "systemUUID": self.facts.machine_id,
            "kernelVersion": self.facts.kernel, "osImage": self.facts.os_image,
            "containerRuntimeVersion": self.facts.runtime_version,
            "kubeletVersion": concat!("v1.36.2+coracle.", env!("CARGO_PKG_VERSION")),
            "kubeProxyVersion": "",
        })
    }
}

/// The conditions of a node that runs, under this pressure and with these runtimes beside its own host. One
/// that is known with the same status keeps the time of its last change.
fn conditions(
    known: &[NodeCondition],
    pressure: Pressure,
    health: &BTreeMap<&str, Health>,
    now: jiff::Timestamp,
) -> Value {
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        let same = known.iter().find(|known| known.type_ == kind && known.status == status);
        let since = same.and_then(|known| known.last_transition_time.as_ref()).map_or(now, |time| time.0);
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": seconds(now), "lastTransitionTime": seconds(since),
        })
    };
    let memory = match pressure.memory {
        true => ("True", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        false => ("False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    };
    let disk = match pressure.disk {
        true => ("True", "KubeletHasDiskPressure", "kubelet has disk pressure"),
        false => ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    };
    let mut conditions = vec![
        condition("MemoryPressure", memory.0, memory.1, memory.2),
        condition("DiskPressure", disk.0, disk.1, disk.2),
        condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        condition("Ready", "True", "KubeletReady", "the Wasm host is ready"),
    ];
    // A node without its engine is ready all the same, for modules; what a problem detector tells of is told.
    let ill = health.iter().find_map(|(runtime, health)| match health {
        Health::Ill(why) => Some((unhealthy(runtime), why)),
        Health::Well | Health::Unknown => None,
    });
    let is_well = health.values().any(|health| *health == Health::Well);
    match ill {
        Some((reason, why)) => conditions.push(condition(UNHEALTHY, "True", &reason, why)),
        None if is_well => conditions.push(condition(UNHEALTHY, "False", HEALTHY.0, HEALTHY.1)),
        None => {}
    }
    Value::Array(conditions)
}

/// The condition that node-problem-detector has for engines, and what it says when nothing is wrong.
const UNHEALTHY: &str = "ContainerRuntimeUnhealthy";
pub(super) const HEALTHY: (&str, &str) =
    ("ContainerRuntimeIsHealthy", "Container runtime on the node is functioning properly");

/// What it says when something is, e.g. `DockerUnhealthy`.
pub(super) fn unhealthy(runtime: &str) -> String {
    let mut letters = runtime.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).chain("Unhealthy".chars()).collect()
}

impl Facts {
    fn read(config: &NodeConfig, runtime_version: String, handlers: Vec<String>) -> Facts {
        let line = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        Facts {
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: memory_bytes(&line("/proc/meminfo")).unwrap_or(1 << 30),
            storage_bytes: storage_bytes(&config.data_dir).unwrap_or(0),
            machine_id: line("/etc/machine-id"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            kernel: line("/proc/sys/kernel/osrelease"),
            os_image: os_image(&line("/etc/os-release")),
            runtime_version,
            handlers,
        }
    }
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn storage_bytes(dir: &std::path::Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    stat.f_blocks.checked_mul(stat.f_frsize)
}

fn os_image(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// Go's name of the machine's architecture, which is Kubernetes's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn seconds(time: jiff::Timestamp) -> String {
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%SZ", time).unwrap_or_default()
}

fn micro_time(time: jiff::Timestamp) -> String {
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%S.%6fZ", time).unwrap_or_default()
}

/// Adds the keys of `from` to `into`, object by object.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes() {
        assert_eq!(memory_bytes("MemTotal:       16384 kB\nMemFree: 1 kB"), Some(16 << 20));
        assert_eq!(memory_bytes("MemFree: 1 kB"), None);
        assert_eq!(memory_bytes("MemTotal: many"), None);
    }

    #[test]
    fn os_release_names_the_system() {
        assert_eq!(os_image("ID=x\nPRETTY_NAME=\"Debian 13\"\n"), "Debian 13");
        assert_eq!(os_image(""), "Linux");
    }

    #[test]
    fn objects_merge_key_by_key() {
        let mut object = json!({ "metadata": { "labels": { "a": "b" } } });
        merge(&mut object, json!({ "metadata": { "name": "n" }, "kind": "Node" }));
        assert_eq!(object, json!({ "metadata": { "labels": { "a": "b" }, "name": "n" }, "kind": "Node" }));
    }

    #[test]
    fn an_engine_that_is_away_is_a_condition_of_a_node_that_is_ready() {
        let told = |health: &[(&'static str, Health)]| {
            let now = jiff::Timestamp::UNIX_EPOCH;
            let all = conditions(&[], Pressure::default(), &health.iter().cloned().collect(), now);
            let of = |kind: &str| {
                let found = all.as_array()?.iter().find(|one| one["type"] == kind)?;
                Some(format!("{} {}: {}", found["status"], found["reason"], found["message"]).replace('"', ""))
            };
            assert!(of("Ready").is_some_and(|text| text.starts_with("True")));
            of(UNHEALTHY)
        };
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[("docker", Health::Unknown)]), None);
        assert_eq!(told(&[("docker", Health::Ill("away".into()))]).as_deref(), Some("True DockerUnhealthy: away"));
        let well = told(&[("docker", Health::Well)]).unwrap_or_default();
        assert!(well.starts_with("False ContainerRuntimeIsHealthy: "), "{well}");
    }
}

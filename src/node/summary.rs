//! Everything on this node at one moment, and the kubelet's `/stats/summary` of it.
//!
//! Memory is what guests hold: the linear memories and tables of live instances. A pod that answers
//! HTTP and has nothing to answer holds no instance, and its working set is truly nothing; what its
//! compiled program takes is the node process's, told under `systemContainers`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::machine::Figures;
use super::server::NodeApi;
use super::usage::ContainerUsage;
use crate::reconcile::ObjectKey;

/// The node and its pods at one moment.
pub struct Snapshot {
    pub node: String,
    pub at: Timestamp,
    pub started_at: SystemTime,
    pub machine: Figures,
    pub cores: u64,
    pub pods: Vec<PodSnapshot>,
}

/// A pod that has not ended and of which a container has been started.
pub struct PodSnapshot {
    pub key: ObjectKey,
    pub uid: String,
    pub qos: String,
    pub started_at: Option<Timestamp>,
    pub containers: Vec<ContainerUsage>,
}

impl PodSnapshot {
    pub fn cpu(&self) -> std::time::Duration {
        self.containers.iter().map(|container| container.cpu).sum()
    }

    pub fn memory_bytes(&self) -> u64 {
        self.containers.iter().map(|container| container.memory_bytes).sum()
    }
}

impl Snapshot {
    pub fn take(api: &NodeApi) -> Self {
        let now = Instant::now();
        let known: HashMap<ObjectKey, Arc<core::Pod>> =
            api.pods.list().into_iter().map(|pod| (ObjectKey::of(&*pod), pod)).collect();
        let mut pods = Vec::new();
        api.context.register.each(|key, entry| {
            let containers = entry.usage.sample(now);
            if !containers.is_empty() {
                let status = known.get(key).and_then(|pod| pod.status.as_ref());
                let qos = status.and_then(|status| status.qos_class.clone());
                pods.push(PodSnapshot {
                    key: key.clone(),
                    uid: entry.uid.clone(),
                    qos: qos.unwrap_or_else(|| "BestEffort".to_owned()),
                    started_at: status.and_then(|status| Some(status.start_time.as_ref()?.0)),
                    containers,
                });
            }
        });
        pods.sort_by(|a, b| (&a.key.namespace, &a.key.name).cmp(&(&b.key.namespace, &b.key.name)));
        Self {
            node: api.context.config.name.clone(),
            at: Timestamp::now(),
            started_at: api.started_at,
            machine: api.context.machine.figures(now),
            cores: api.context.allocatable.cpu_millis / 1000,
            pods,
        }
    }

    /// As `stats.v1alpha1.Summary`.
    pub fn to_summary(&self) -> Value {
        let Figures { memory, disk, process, .. } = &self.machine;
        let time = text(self.at);
        let started = moment(self.started_at);
        let fs = json!({
            "time": time, "availableBytes": disk.available, "capacityBytes": disk.total, "usedBytes": disk.used,
            "inodesFree": disk.inodes_free, "inodes": disk.inodes,
            "inodesUsed": disk.inodes.saturating_sub(disk.inodes_free),
        });
        let node = json!({
            "nodeName": self.node,
            "systemContainers": [{
                "name": "kubelet", "startTime": started,
                "cpu": cpu(&time, process.cpu, process.cpu_nanocores),
                "memory": {
                    "time": time, "usageBytes": process.rss, "workingSetBytes": process.rss, "rssBytes": process.rss,
                },
            }],
            "startTime": started,
            "cpu": with_window(cpu(&time, self.machine.cpu, self.machine.cpu_nanocores), self.machine.window),
            "memory": {
                "time": time, "availableBytes": memory.available(), "usageBytes": memory.usage,
                "workingSetBytes": memory.working_set, "rssBytes": memory.rss,
            },
            "fs": fs,
            "runtime": { "imageFs": fs },
        });
        json!({ "node": node, "pods": self.pods.iter().map(|pod| pod.to_stats(&time)).collect::<Vec<_>>() })
    }
}

impl PodSnapshot {
    fn to_stats(&self, time: &str) -> Value {
        let window = self.containers.iter().map(|container| container.window).max().unwrap_or_default();
        let rate = self.containers.iter().map(|container| container.cpu_nanocores).sum();
        let containers: Vec<Value> = self.containers.iter().map(|container| container.to_stats(time)).collect();
        json!({
            "podRef": { "name": &*self.key.name, "namespace": &*self.key.namespace, "uid": self.uid },
            "startTime": self.started_at.map(text),
            "containers": containers,
            "cpu": with_window(cpu(time, self.cpu(), rate), window),
            "memory": memory(time, self.memory_bytes()),
        })
    }
}

impl ContainerUsage {
    fn to_stats(&self, time: &str) -> Value {
        let mut held = memory(time, self.memory_bytes);
        if let Some(limit) = self.about.memory_limit {
            held["availableBytes"] = limit.saturating_sub(self.memory_bytes).into();
        }
        json!({
            "name": self.about.name, "startTime": moment(self.about.started_at),
            "cpu": cpu(time, self.cpu, self.cpu_nanocores), "memory": held,
        })
    }
}

fn cpu(time: &str, used: std::time::Duration, nanocores: u64) -> Value {
    let nanos = u64::try_from(used.as_nanos()).unwrap_or(u64::MAX);
    json!({ "time": time, "usageNanoCores": nanocores, "usageCoreNanoSeconds": nanos })
}

/// Upstream leaves open what a rate is the average of; here it is told beside it.
fn with_window(mut cpu: Value, window: std::time::Duration) -> Value {
    cpu["usageWindowNanoSeconds"] = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX).into();
    cpu
}

fn memory(time: &str, bytes: u64) -> Value {
    json!({ "time": time, "usageBytes": bytes, "workingSetBytes": bytes, "rssBytes": bytes })
}

fn moment(at: SystemTime) -> String {
    text(Timestamp::try_from(at).unwrap_or_default())
}

fn text(at: Timestamp) -> String {
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%SZ", at).unwrap_or_default()
}

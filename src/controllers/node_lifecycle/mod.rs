//! What follows from a node's health: taints, unready pods, eviction.
//!
//! The API server notices that a node fell silent within half a second and sets its Ready condition;
//! here is what comes of it. The node gets upstream's taints, its pods stop being ready, and each pod
//! is evicted when its toleration of the taint has run out. Two brakes: when most nodes fall silent at
//! once it is rather our own ears, so nobody is evicted; and while no node is ready there is nowhere
//! to go, so pods are not even marked. A node that keeps its connection but stops renewing its Lease
//! is caught here too, slowly.

mod evict;
mod taints;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use serde_json::json;

use super::nodes::{self, Health};
use super::pods::{self, elapsed};
use crate::reconcile::{Cluster, EventKind, Note, ObjectKey, Plan, Queue, Reconciler, Selection, Shared, Write};

/// As upstream: a Lease that is not renewed for so long speaks of a dead node.
const LEASE_GRACE: Duration = Duration::from_secs(40);
/// Beyond this part of the nodes, in percent, silence is nobody's death …
const MOST_PERCENT: usize = 55;
/// … if there are at least this many.
const MOST_FROM: usize = 3;
const LEASES: &str = "kube-node-lease";

/// The controller.
pub(super) struct NodeLifecycle {
    nodes: Shared<Node>,
    pods: Shared<Pod>,
    leases: Shared<Lease>,
    /// When each Lease was last seen to change, by our own clock: clocks of nodes are not to be
    /// trusted. As many as there are nodes.
    renewals: Arc<Mutex<HashMap<String, Renewal>>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Renewal {
    renewed: Option<Timestamp>,
    seen: Timestamp,
}

/// All that concerns one node.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub node: Arc<Node>,
    /// The pods bound to it.
    pub pods: Vec<Arc<Pod>>,
    /// For how long its Lease has not changed; `None` without one.
    pub lease_age: Option<Duration>,
    /// Some node is ready.
    pub refuge: bool,
    /// Most nodes are lost.
    pub deaf: bool,
}

impl NodeLifecycle {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let pods = cluster.watch::<Pod>();
        pods::index_by_node(&pods);
        let leases = cluster.watch_selected(Selection::fields(format!("metadata.namespace={LEASES}")));
        Self { nodes: cluster.watch(), pods, leases, renewals: Arc::default() }
    }

    fn lease_age(&self, node: &str) -> Option<Duration> {
        let lease = self.leases.get(&ObjectKey::new(LEASES, node));
        let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lease) = lease else {
            renewals.remove(node);
            return None;
        };
        let (renewed, now) = (lease.spec.as_ref().and_then(|s| s.renew_time.as_ref()).map(|t| t.0), Timestamp::now());
        let renewal = renewals.entry(node.to_owned()).or_insert(Renewal { renewed, seen: now });
        if renewal.renewed != renewed {
            *renewal = Renewal { renewed, seen: now };
        }
        Some(elapsed(renewal.seen, now))
    }
}

impl Reconciler for NodeLifecycle {
    type View = View;

    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        // One node's health decides what becomes of the others: is there a refuge, are we deaf.
        let (on_node, nodes) = (queue.clone(), self.nodes.clone());
        self.nodes.on_change(move |old, new| {
            if let Some(node) = new {
                on_node.add(ObjectKey::of(node));
            }
            if old.map(nodes::health) != new.map(nodes::health) {
                nodes.keys().into_iter().for_each(|key| on_node.add(key));
            }
            true
        });
        let (on_pod, nodes) = (queue.clone(), self.nodes.clone());
        self.pods.on_change(move |old, new| {
            let Some(name) = new.and_then(pods::node).filter(|n| old.and_then(pods::node) != Some(*n)) else {
                return true;
            };
            let key = ObjectKey::cluster(name);
            if nodes.get(&key).is_some_and(|n| !taints::no_execute(&n).is_empty()) {
                on_pod.add(key);
            }
            true
        });
    }

    async fn synced(&self) {
        self.nodes.synced().await;
        self.pods.synced().await;
        self.leases.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.nodes.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let node = self.nodes.get(key)?;
        let all: Vec<Health> = self.nodes.list().iter().map(|n| nodes::health(n)).collect();
        Some(View {
            node,
            pods: self.pods.by_index(pods::BY_NODE, &key.name),
            lease_age: self.lease_age(&key.name),
            refuge: all.contains(&Health::Ready),
            deaf: is_deaf(&all),
        })
    }

    fn plan(&self, now: Timestamp, view: View) -> Plan {
        plan(now, &view)
    }
}

fn is_deaf(all: &[Health]) -> bool {
    let lost = all.iter().filter(|h| **h == Health::Lost).count();
    all.len() >= MOST_FROM && lost * 100 > all.len() * MOST_PERCENT
}

/// Decides what one node's health asks for.
pub(super) fn plan(now: Timestamp, view: &View) -> Plan {
    let mut plan = Plan::nothing();
    let health = nodes::health(&view.node);
    if health == Health::Ready && note_lease(now, view, &mut plan) {
        // The change of the condition brings the node back here.
        return plan;
    }
    let taints = taints::wanted(&view.node, view.deaf, now);
    if taints != taints::present(&view.node) {
        let version = &view.node.metadata.resource_version;
        let taints = if taints.is_empty() { json!(null) } else { json!(taints) };
        let body = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
        let mut write = Write::patch(&*view.node, "", body);
        // One that has never spoken was never ready either.
        if health != Health::Ready && nodes::ready_condition(&view.node).is_some() {
            let name = view.node.metadata.name.as_deref().unwrap_or_default();
            let message = format!("Node {name} status is now: NodeNotReady");
            let about = view.node.object_ref(&());
            write = write.on_success(Note { about, kind: EventKind::Normal, reason: "NodeNotReady", message });
        }
        plan.write(write);
    }
    if health != Health::Ready && view.refuge && nodes::ready_condition(&view.node).is_some() {
        mark_unready(now, view, &mut plan);
    }
    if !view.deaf {
        evict::plan(now, view, &mut plan);
    }
    plan
}

/// True when the Lease has run out and the conditions have to say so.
fn note_lease(now: Timestamp, view: &View, plan: &mut Plan) -> bool {
    let Some(age) = view.lease_age else { return false };
    if let Some(left) = LEASE_GRACE.checked_sub(age).filter(|left| !left.is_zero()) {
        plan.look_again(left);
        return false;
    }
    let mut conditions = view.node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    conditions.iter_mut().filter(|c| c.status != "Unknown").for_each(|c| make_unknown(c, now));
    let version = &view.node.metadata.resource_version;
    let body = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}});
    plan.write(Write::patch(&*view.node, "status", body));
    true
}

fn make_unknown(condition: &mut NodeCondition, now: Timestamp) {
    condition.status = "Unknown".into();
    condition.reason = Some("NodeStatusUnknown".into());
    condition.message = Some("Kubelet stopped posting node status.".into());
    condition.last_transition_time = Some(Time(now));
}

/// Takes the pods of a node that is not ready out of service.
fn mark_unready(now: Timestamp, view: &View, plan: &mut Plan) {
    let ready = view.pods.iter().filter(|p| pods::is_ready(p));
    plan.batch(ready.map(|pod| unready(pod, now)).collect());
}

fn unready(pod: &Pod, now: Timestamp) -> Write {
    let mut conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    for ready in conditions.iter_mut().filter(|c| c.type_ == "Ready") {
        ready.status = "False".into();
        ready.last_transition_time = Some(Time(now));
    }
    let metadata = json!({"resourceVersion": pod.metadata.resource_version});
    let (about, message) = (pod.object_ref(&()), "Node is not ready".to_owned());
    Write::patch(pod, "status", json!({"metadata": metadata, "status": {"conditions": conditions}})).on_success(Note {
        about,
        kind: EventKind::Warning,
        reason: "NodeNotReady",
        message,
    })
}

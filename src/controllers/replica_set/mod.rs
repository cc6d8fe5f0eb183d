//! ReplicaSet: as many pods as asked for. A ReplicationController is the same under an older name
//! ([`Replicated`]).
//!
//! It claims pods by its selector, creates what is missing, deletes what is too much in upstream's
//! order, and counts. One thing differs from upstream: a pod on a node that has been lost does not
//! count, so its replacement starts at once and not after the eviction; when the node comes back in
//! time, the surplus goes like any other.

mod status;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::core::Selector;

use super::claim::{self, Claim, controller_reference};
use super::{nodes, pods, rank};
use crate::reconcile::{
    Cluster, EventKind, ObjectKey, Plan, Queue, Reconciler, Shared, Watched, Write, WriteError, note,
};

/// Pods created by one plan; the rest follows in the next, so that a huge set does not keep its own
/// status from being written.
const MAX_CREATIONS: usize = 2_000;
/// The longest rest of a great set between two counts.
const MAX_REST: Duration = Duration::from_millis(10);
/// Remembered failures, which only feed a condition: bounded by forgetting all.
const MAX_FAILURES: usize = 4_096;

/// What a ReplicaSet and a ReplicationController have in common.
pub(super) trait Replicated: Watched + Default {
    const KIND: &'static str;
    /// The controller's name in logs and events.
    const CONTROLLER: &'static str;
    /// Whether the status has a place for pods on their way out.
    const COUNTS_TERMINATING: bool;

    fn replicas(&self) -> Option<i32>;
    /// `None` selects nothing.
    fn selector(&self) -> Option<Selector>;
    fn template(&self) -> Option<PodTemplateSpec>;
    fn min_ready_seconds(&self) -> i32;
    fn status(&self) -> ReplicaSetStatus;
}

impl Replicated for ReplicaSet {
    const KIND: &'static str = "ReplicaSet";
    const CONTROLLER: &'static str = "replicaset-controller";
    const COUNTS_TERMINATING: bool = true;

    fn replicas(&self) -> Option<i32> {
        self.spec.as_ref()?.replicas
    }

    fn selector(&self) -> Option<Selector> {
        pods::workload_selector(&self.spec.as_ref()?.selector)
    }

    fn template(&self) -> Option<PodTemplateSpec> {
        self.spec.as_ref()?.template.clone()
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn status(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }
}

impl Replicated for ReplicationController {
    const KIND: &'static str = "ReplicationController";
    const CONTROLLER: &'static str = "replication-controller";
    const COUNTS_TERMINATING: bool = false;

    fn replicas(&self) -> Option<i32> {
        self.spec.as_ref()?.replicas
    }

    fn selector(&self) -> Option<Selector> {
        let match_labels = self.spec.as_ref()?.selector.clone();
        pods::workload_selector(&LabelSelector { match_labels, match_expressions: None })
    }

    fn template(&self) -> Option<PodTemplateSpec> {
        self.spec.as_ref()?.template.clone()
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    /// The two statuses have the same fields, but for one.
    fn status(&self) -> ReplicaSetStatus {
        let status = serde_json::to_value(&self.status).expect("Kubernetes types serialise to JSON");
        serde_json::from_value(status).unwrap_or_default()
    }
}

/// The controller of one of the two kinds.
pub(super) struct ReplicaSets<K> {
    sets: Shared<K>,
    pods: Shared<Pod>,
    nodes: Shared<Node>,
    failures: Mutex<HashMap<ObjectKey, Failure>>,
}

/// Why pods could not be created or deleted the last time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    reason: &'static str,
    message: String,
}

/// All that concerns one ReplicaSet.
#[derive(Debug, Clone, Default)]
pub(super) struct View<K> {
    pub set: Arc<K>,
    /// The pods that it controls.
    pub pods: Vec<Arc<Pod>>,
    /// Pods of its namespace that nobody controls.
    pub orphans: Vec<Arc<Pod>>,
    /// Nodes whose pods are to be replaced at once.
    pub lost: HashSet<String>,
    /// How many active pods of the same Deployment each node holds; filled when there are too many.
    pub crowd: HashMap<String, usize>,
    pub failure: Option<Failure>,
}

impl<K: Replicated> ReplicaSets<K> {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let pods = cluster.watch::<Pod>();
        claim::index_orphans(&pods);
        pods::index_by_node(&pods);
        Self { sets: cluster.watch(), pods, nodes: cluster.watch(), failures: Mutex::default() }
    }

    /// The active pods per node of all sets that the same owner controls.
    fn crowd(&self, set: &K) -> HashMap<String, usize> {
        let siblings = match crate::reconcile::owner_uid(set.meta()) {
            Some(owner) => self.sets.controlled_by(owner),
            None => Vec::new(),
        };
        let uids = siblings.iter().filter_map(|s| s.meta().uid.as_deref());
        let own = set.meta().uid.as_deref().filter(|_| siblings.is_empty());
        let mut crowd = HashMap::new();
        for pod in uids.chain(own).flat_map(|uid| self.pods.controlled_by(uid)) {
            if let Some(node) = pods::node(&pod).filter(|_| pods::is_active(&pod)) {
                *crowd.entry(node.to_owned()).or_default() += 1;
            }
        }
        crowd
    }

    /// A node that is lost or comes back concerns every set with a pod on it; so does, for all lost
    /// nodes, the first node that is ready.
    fn follow_nodes(&self, queue: &Queue) {
        let (queue, pods, nodes) = (queue.clone(), self.pods.clone(), self.nodes.clone());
        self.nodes.on_change(move |old, new| {
            let (before, after) = (old.map(nodes::health), new.map(nodes::health));
            if before == after {
                return true;
            }
            let changed = new.or(old).and_then(|n| n.metadata.name.clone());
            for node in nodes::lost(&nodes.list()).into_iter().chain(changed) {
                for pod in pods.by_index(pods::BY_NODE, &node) {
                    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
                    if let Some(owner) = owners.iter().find(|o| o.controller == Some(true) && o.kind == K::KIND) {
                        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                        queue.add(ObjectKey::new(namespace, owner.name.as_str()));
                    }
                }
            }
            true
        });
    }
}

impl<K: Replicated> Reconciler for ReplicaSets<K> {
    type View = View<K>;

    fn name(&self) -> &'static str {
        K::CONTROLLER
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.sets);
        queue.follow_children(&self.pods, K::KIND);
        queue.follow_orphans(&self.pods, &self.sets, |set, pod| pods::is_active(pod) && selects(set, pod));
        self.follow_nodes(queue);
    }

    async fn synced(&self) {
        self.sets.synced().await;
        self.pods.synced().await;
        self.nodes.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.sets.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<View<K>> {
        let set = self.sets.get(key)?;
        let pods = self.pods.controlled_by(set.meta().uid.as_deref()?);
        let orphans = claim::orphans(&self.pods, &key.namespace);
        let lost = nodes::lost(&self.nodes.list()).into_iter().collect();
        let too_many = pods.iter().filter(|p| pods::is_active(p)).count() > desired(&*set);
        let crowd = if too_many { self.crowd(&set) } else { HashMap::new() };
        let failure = self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        Some(View { set, pods, orphans, lost, crowd, failure })
    }

    fn plan(&self, now: Timestamp, view: View<K>) -> Plan {
        plan(now, &view)
    }

    fn ended(&self, key: &ObjectKey, result: &Result<(), WriteError>) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => drop(failures.remove(key)),
            Err(WriteError::Failed { what, source }) if what.contains(" pods ") => {
                let reason = if what.starts_with("deleting") { "FailedDelete" } else { "FailedCreate" };
                if failures.len() >= MAX_FAILURES {
                    failures.clear();
                }
                failures.insert(key.clone(), Failure { reason, message: crate::reconcile::reason(source) });
            }
            Err(WriteError::Failed { .. } | WriteError::Stale { .. } | WriteError::Terminating { .. }) => {}
        }
    }
}

fn selects<K: Replicated>(set: &K, pod: &Pod) -> bool {
    set.selector().is_some_and(|s| pods::matches(&s, pod.metadata.labels.as_ref()))
}

/// How many pods the set asks for.
fn desired<K: Replicated>(set: &K) -> usize {
    set.replicas().unwrap_or(1).try_into().unwrap_or(0)
}

/// Decides what one ReplicaSet needs.
pub(super) fn plan<K: Replicated>(now: Timestamp, view: &View<K>) -> Plan {
    let mut plan = Plan::nothing();
    let claim = Claim { owner: &*view.set, selector: view.set.selector(), adoptable: pods::is_active, finalizer: None };
    let claimed = claim.pods(&view.pods, &view.orphans, &mut plan);
    let counted: Vec<&Arc<Pod>> = claimed
        .iter()
        .copied()
        .filter(|p| pods::is_active(p) && !pods::node(p).is_some_and(|n| view.lost.contains(n)))
        .collect();
    let mut changes = Vec::new();
    if view.set.meta().deletion_timestamp.is_none() {
        changes = changes_to(view, &counted);
    }
    // After a change the own writes bring this set back at once, and its status is written then.
    // A failure is shown first: the changes will probably fail again.
    let failure = view.failure.as_ref().filter(|_| !changes.is_empty());
    if changes.is_empty() || failure.is_some() {
        status::plan(now, view, failure, &claimed, &counted, &mut plan);
    }
    plan.batch(changes);
    // A thousand pods that become ready one by one are to be counted a hundred times, not a thousand.
    plan.rest_for(claimed.len(), 100, MAX_REST);
    plan
}

/// The pods to create or to delete.
fn changes_to<K: Replicated>(view: &View<K>, counted: &[&Arc<Pod>]) -> Vec<Write> {
    let wanted = desired(&*view.set);
    if counted.len() < wanted {
        let missing = (wanted - counted.len()).min(MAX_CREATIONS);
        let pod = new_pod(&*view.set);
        let create = Write::create(&pod)
            .on_success(note(&*view.set, EventKind::Normal, "SuccessfulCreate", "Created pod: {name}"))
            .on_failure(note(&*view.set, EventKind::Warning, "FailedCreate", "Error creating: {error}"));
        return vec![create; missing];
    }
    let surplus = rank::first_to_go(counted, &view.crowd, counted.len() - wanted);
    let delete = |pod: &Arc<Pod>| {
        Write::delete(&**pod)
            .on_success(note(&*view.set, EventKind::Normal, "SuccessfulDelete", "Deleted pod: {name}"))
            .on_failure(note(&*view.set, EventKind::Warning, "FailedDelete", "Error deleting: {error}"))
    };
    surplus.into_iter().map(delete).collect()
}

/// A pod as the template describes it.
fn new_pod<K: Replicated>(set: &K) -> Pod {
    let template = set.template().unwrap_or_default();
    let described = template.metadata.unwrap_or_default();
    let name = set.meta().name.as_deref().unwrap_or_default();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: set.meta().namespace.clone(),
        labels: described.labels,
        annotations: described.annotations,
        finalizers: described.finalizers,
        owner_references: Some(vec![controller_reference(set)]),
        ..Default::default()
    };
    Pod { metadata, spec: template.spec, status: None }
}

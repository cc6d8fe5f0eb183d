//! DaemonSet: one pod on each node that fits, and the way from one template to the next.
//!
//! The controller says which node a pod is for, by an affinity to the node's name; the scheduler binds
//! it. Which nodes fit is asked of a pod as it would be made: its node selector and affinity, and the
//! taints that it bears, some of which every daemon bears.

mod nodes;
mod pod;
mod rollout;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use super::claim::{self, Claim};
use super::diff::merge_patch;
use super::history::History;
use super::pods::{self, Availability};
use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Shared, Write, note};

/// Label of a pod and of a revision: the hash of the template that it was made from.
const HASH: &str = "controller-revision-hash";

/// The controller.
pub(super) struct DaemonSets {
    sets: Shared<DaemonSet>,
    pods: Shared<Pod>,
    nodes: Shared<Node>,
    revisions: Shared<ControllerRevision>,
}

/// All that concerns one DaemonSet.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub set: Arc<DaemonSet>,
    /// The pods that it controls.
    pub pods: Vec<Arc<Pod>>,
    /// Pods of its namespace that nobody controls.
    pub orphans: Vec<Arc<Pod>>,
    pub nodes: Vec<Arc<Node>>,
    /// The revisions that it controls.
    pub revisions: Vec<Arc<ControllerRevision>>,
}

impl DaemonSets {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let pods = cluster.watch::<Pod>();
        claim::index_orphans(&pods);
        Self { sets: cluster.watch(), pods, nodes: cluster.watch(), revisions: cluster.watch() }
    }

    /// A node that comes, goes, or changes in what decides about placement concerns every set. Its
    /// heartbeats do not.
    fn follow_nodes(&self, queue: &Queue) {
        let (queue, sets) = (queue.clone(), self.sets.clone());
        self.nodes.on_change(move |old, new| {
            let placing = |node: &Node| {
                let spec = node.spec.as_ref();
                (node.metadata.labels.clone(), spec.and_then(|s| s.taints.clone()), spec.and_then(|s| s.unschedulable))
            };
            if old.map(placing) != new.map(placing) {
                sets.keys().into_iter().for_each(|key| queue.add(key));
            }
            true
        });
    }
}

impl Reconciler for DaemonSets {
    type View = View;

    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.sets);
        queue.follow_children(&self.pods, "DaemonSet");
        queue.follow_children(&self.revisions, "DaemonSet");
        self.follow_nodes(queue);
        queue.follow_orphans(&self.pods, &self.sets, |set, pod| {
            selector(set).is_some_and(|s| pods::matches(&s, pod.metadata.labels.as_ref()))
        });
    }

    async fn synced(&self) {
        self.sets.synced().await;
        self.pods.synced().await;
        self.nodes.synced().await;
        self.revisions.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.sets.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let set = self.sets.get(key)?;
        let uid = set.metadata.uid.as_deref()?;
        let (pods, revisions) = (self.pods.controlled_by(uid), self.revisions.controlled_by(uid));
        let orphans = claim::orphans(&self.pods, &key.namespace);
        Some(View { set, pods, orphans, nodes: self.nodes.list(), revisions })
    }

    fn plan(&self, now: Timestamp, view: View) -> Plan {
        plan(now, &view)
    }
}

fn selector(set: &DaemonSet) -> Option<kube::core::Selector> {
    set.spec.as_ref().and_then(|s| pods::workload_selector(&s.selector))
}

/// What a plan knows besides the view.
pub(super) struct Context<'a> {
    pub now: Timestamp,
    pub set: &'a DaemonSet,
    pub spec: &'a DaemonSetSpec,
    /// The hash of the present template.
    pub hash: String,
    /// The pods by the node that they are for, the oldest first.
    pub by_node: BTreeMap<String, Vec<&'a Arc<Pod>>>,
    pub nodes: &'a [Arc<Node>],
}

impl<'a> Context<'a> {
    fn pods_on(&self, node: &str) -> &[&'a Arc<Pod>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    fn is_current(&self, pod: &Pod) -> bool {
        pod.metadata.labels.as_ref().and_then(|l| l.get(HASH)) == Some(&self.hash)
    }

    fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::availability(pod, self.min_ready(), self.now) == Availability::Available
    }
}

/// Decides what one DaemonSet needs.
pub(super) fn plan(now: Timestamp, view: &View) -> Plan {
    let mut plan = Plan::nothing();
    let set = &*view.set;
    let (Some(spec), Some(selector)) = (&set.spec, selector(set)) else { return plan };
    let claim = Claim { owner: set, selector: Some(selector), adoptable: |_| true, finalizer: None };
    let claimed = claim.pods(&view.pods, &view.orphans, &mut plan);
    let old = set.status.clone().unwrap_or_default();
    let history = History {
        owner: set,
        template: &spec.template,
        hash_label: HASH,
        collisions: old.collision_count,
        revisions: &view.revisions,
        limit: spec.revision_history_limit,
    };
    let hash = history.current(&mut plan).hash;
    let by_node = nodes::by_node(&claimed);
    let context = Context { now, set, spec, hash, by_node, nodes: &view.nodes };
    let places = nodes::places(&context);
    if set.metadata.deletion_timestamp.is_none() {
        let mut changes = nodes::manage(&context, &places, &mut plan);
        if changes.is_empty() {
            changes = rollout::roll(&context, &places);
        }
        let labels = |pod: &Arc<Pod>| pod.metadata.labels.as_ref().and_then(|l| l.get(HASH)).cloned();
        let used: Vec<String> = claimed.iter().filter_map(|pod| labels(pod)).chain([context.hash.clone()]).collect();
        history.truncate(
            |revision| revision.metadata.labels.as_ref().and_then(|l| l.get(HASH)).is_some_and(|h| used.contains(h)),
            &mut plan,
        );
        let delete = changes.delete.iter().map(|pod| pod::delete(set, pod)).collect();
        let create = changes.create.iter().map(|node| pod::create(&context, node)).collect();
        plan.batch(delete);
        plan.batch(create);
    }
    let mut status = nodes::status(&context, &places, &mut plan);
    status.collision_count = old.collision_count;
    status.conditions = old.conditions.clone();
    if let Some(patch) = merge_patch(&old, &status) {
        plan.write(Write::patch(set, "status", json!({"status": patch})));
    }
    plan
}

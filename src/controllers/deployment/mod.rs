//! Deployment: a template rolled out through ReplicaSets, one per revision of the template.
//!
//! The decisions are upstream's, so that `kubectl rollout` and every dashboard understand what they
//! see: which set is the new one, how far each may be scaled in one step, which conditions and events
//! tell about it. Where upstream relies on a set's status being fresh, this plan takes the careful
//! reading of a stale one: a set has no more available pods than it asks for, and at least as many
//! pods as it last reported. So in every state in between, ready pods are at least desired −
//! maxUnavailable and pods at most desired + maxSurge.

mod progress;
mod revision;
mod rollout;
mod scale;
mod sets;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use super::pods;
use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Shared, WriteError, owner_uid};

/// Remembered failures, which only feed a condition: bounded by forgetting all.
const MAX_FAILURES: usize = 4_096;

/// The controller.
pub(super) struct Deployments {
    deployments: Shared<Deployment>,
    sets: Shared<ReplicaSet>,
    pods: Shared<Pod>,
    failures: Mutex<HashMap<ObjectKey, String>>,
}

/// All that concerns one Deployment.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub deployment: Arc<Deployment>,
    /// The sets that it controls.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// Sets of its namespace that nobody controls.
    pub orphans: Vec<Arc<ReplicaSet>>,
    /// Whoever bears the name that a new set would get.
    pub namesake: Option<Arc<ReplicaSet>>,
    /// Pods that have not ended, by the uid of their set; filled for the strategy Recreate.
    pub unfinished: HashMap<String, usize>,
    /// Why a new set could not be created the last time.
    pub failure: Option<String>,
}

impl Deployments {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self { deployments: cluster.watch(), sets: cluster.watch(), pods: cluster.watch(), failures: Mutex::default() }
    }

    /// Recreate waits for the old pods to end, which no set's spec shows.
    fn follow_ended_pods(&self, queue: &Queue) {
        let (queue, sets, deployments) = (queue.clone(), self.sets.clone(), self.deployments.clone());
        self.pods.on_change(move |old, new| {
            let ended = old.is_some_and(|p| !pods::is_finished(p)) && new.is_none_or(pods::is_finished);
            let Some(pod) = old.filter(|_| ended) else { return true };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
            let set = owners.iter().find(|o| o.controller == Some(true) && o.kind == "ReplicaSet");
            let set = set.and_then(|o| sets.get(&ObjectKey::new(namespace, o.name.as_str())));
            let owners = set.as_ref().and_then(|s| s.metadata.owner_references.as_deref()).unwrap_or_default();
            if let Some(owner) = owners.iter().find(|o| o.controller == Some(true) && o.kind == "Deployment") {
                let key = ObjectKey::new(namespace, owner.name.as_str());
                if deployments.get(&key).is_some_and(|d| sets::recreates(&d)) {
                    queue.add(key);
                }
            }
            true
        });
    }
}

impl Reconciler for Deployments {
    type View = View;

    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.deployments);
        queue.follow_children(&self.sets, "Deployment");
        queue.follow_orphans(&self.sets, &self.deployments, sets::selects);
        self.follow_ended_pods(queue);
    }

    async fn synced(&self) {
        self.deployments.synced().await;
        self.sets.synced().await;
        self.pods.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.deployments.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let deployment = self.deployments.get(key)?;
        let sets = self.sets.controlled_by(deployment.metadata.uid.as_deref()?);
        let mut orphans = self.sets.list_in(&key.namespace);
        orphans.retain(|s| owner_uid(&s.metadata).is_none());
        let namesake = self.sets.get(&ObjectKey::new(key.namespace.clone(), sets::new_name(&deployment)));
        let mut unfinished = HashMap::new();
        if sets::recreates(&deployment) {
            for uid in sets.iter().filter_map(|s| s.metadata.uid.as_deref()) {
                let pods = self.pods.controlled_by(uid);
                unfinished.insert(uid.to_owned(), pods.iter().filter(|p| !pods::is_finished(p)).count());
            }
        }
        let failure = self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        Some(View { deployment, sets, orphans, namesake, unfinished, failure })
    }

    fn plan(&self, now: Timestamp, view: View) -> Plan {
        rollout::plan(now, &view)
    }

    fn ended(&self, key: &ObjectKey, result: &Result<(), WriteError>) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => drop(failures.remove(key)),
            Err(WriteError::Failed { what, source }) if what.starts_with("creating replicasets") => {
                if failures.len() >= MAX_FAILURES {
                    failures.clear();
                }
                failures.insert(key.clone(), crate::reconcile::reason(source));
            }
            Err(WriteError::Failed { .. } | WriteError::Stale { .. } | WriteError::Terminating { .. }) => {}
        }
    }
}

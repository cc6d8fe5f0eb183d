//! Pods that nobody else will remove: those bound to nodes that no longer exist, and the oldest of
//! too many that have ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::pods::{self, elapsed};
use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Shared, Write};

/// A node that was seen to go is gone. One that was never seen may be about to register.
const QUARANTINE: Duration = Duration::from_secs(40);
/// As upstream: ended pods beyond this number go, the oldest first.
const MAX_FINISHED: usize = 12_500;
/// How often ended pods are counted.
const COUNT_EVERY: Duration = Duration::from_secs(20);
/// Index over pods: those that have ended, all under one value.
const FINISHED: &str = "finished";
/// The key under which ended pods are counted; no node can be called so.
const COUNT: &str = "";

/// The controller. Its keys are names of nodes, and [`COUNT`].
pub(super) struct PodGc {
    pods: Shared<Pod>,
    nodes: Shared<Node>,
    /// Since when a node is known to be missing; as many as there are such names.
    missing: Arc<Mutex<HashMap<String, Timestamp>>>,
}

/// What concerns one key.
#[derive(Debug, Clone)]
pub(super) enum View {
    /// Pods of a node that has been missing since then.
    Missing { since: Timestamp, pods: Vec<Arc<Pod>> },
    /// All pods that have ended.
    Finished(Vec<Arc<Pod>>),
}

impl PodGc {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let pods = cluster.watch::<Pod>();
        pods::index_by_node(&pods);
        pods.add_index(
            FINISHED,
            |pod: &Pod| {
                if pods::is_finished(pod) { vec![FINISHED.to_owned()] } else { Vec::new() }
            },
        );
        Self { pods, nodes: cluster.watch(), missing: Arc::default() }
    }
}

impl Reconciler for PodGc {
    type View = View;

    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn subscribe(&self, queue: &Queue) {
        let (on_node, missing) = (queue.clone(), self.missing.clone());
        self.nodes.on_change(move |old, new| {
            let Some(name) = new.or(old).and_then(|n| n.metadata.name.clone()) else { return true };
            let mut missing = missing.lock().unwrap_or_else(PoisonError::into_inner);
            if new.is_some() {
                missing.remove(&name);
            } else {
                // Seen to go: no quarantine.
                missing.insert(name.clone(), Timestamp::UNIX_EPOCH);
                on_node.add(ObjectKey::cluster(name));
            }
            true
        });
        let (on_pod, nodes) = (queue.clone(), self.nodes.clone());
        self.pods.on_change(move |_, new| {
            let node = new.and_then(pods::node).map(ObjectKey::cluster);
            if let Some(node) = node.filter(|node| nodes.get(node).is_none()) {
                on_pod.add(node);
            }
            true
        });
    }

    async fn synced(&self) {
        self.nodes.synced().await;
        self.pods.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        let bound = self.pods.list().into_iter().filter_map(|p| pods::node(&p).map(ObjectKey::cluster));
        let mut keys: Vec<ObjectKey> = bound.filter(|node| self.nodes.get(node).is_none()).collect();
        keys.sort();
        keys.dedup();
        keys.push(ObjectKey::cluster(COUNT));
        keys
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        if &*key.name == COUNT {
            return Some(View::Finished(self.pods.by_index(FINISHED, FINISHED)));
        }
        let pods = self.pods.by_index(pods::BY_NODE, &key.name);
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.nodes.get(key).is_some() || pods.is_empty() {
            missing.remove(&*key.name);
            return None;
        }
        let since = *missing.entry(key.name.to_string()).or_insert_with(Timestamp::now);
        Some(View::Missing { since, pods })
    }

    fn plan(&self, now: Timestamp, view: View) -> Plan {
        plan(now, view)
    }
}

fn plan(now: Timestamp, view: View) -> Plan {
    let mut plan = Plan::nothing();
    // Nobody is left who could end these pods gracefully.
    let delete = |pod: &Arc<Pod>| Write::delete(&**pod).with(Some(0), None);
    match view {
        View::Missing { since, pods } => match QUARANTINE.checked_sub(elapsed(since, now)) {
            Some(left) if !left.is_zero() => plan.look_again(left),
            _ => plan.batch(pods.iter().map(delete).collect()),
        },
        View::Finished(mut pods) => {
            let surplus = pods.len().saturating_sub(MAX_FINISHED);
            pods.sort_by_key(|p| p.metadata.creation_timestamp.as_ref().map(|t| t.0));
            plan.batch(pods.iter().take(surplus).map(delete).collect());
            plan.look_again(COUNT_EVERY);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Step;

    fn pods(count: usize) -> Vec<Arc<Pod>> {
        (0..count).map(|_| Arc::new(Pod::default())).collect()
    }

    fn deletions(plan: &Plan) -> usize {
        plan.steps.iter().map(|s| if let Step::Batch(writes) = s { writes.len() } else { 0 }).sum()
    }

    #[test]
    fn pods_of_a_node_that_was_seen_to_go_go_at_once_others_wait() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let missing = |since| plan(now, View::Missing { since, pods: pods(2) });
        assert_eq!(deletions(&missing(Timestamp::UNIX_EPOCH)), 2);
        let waiting = missing(now);
        assert_eq!((deletions(&waiting), waiting.requeue_after), (0, Some(QUARANTINE)));
    }

    #[test]
    fn only_what_is_beyond_the_threshold_goes() {
        let finished = |count| deletions(&plan(Timestamp::UNIX_EPOCH, View::Finished(pods(count))));
        assert_eq!(finished(MAX_FINISHED), 0);
        assert_eq!(finished(MAX_FINISHED + 3), 3);
    }
}

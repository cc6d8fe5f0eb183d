//! Which pods go first when there are too many: upstream's order.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::pods;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` pods that go first.
pub(super) fn first_to_go<'a>(
    pods: &[&'a Arc<Pod>],
    crowd: &HashMap<String, usize>,
    count: usize,
) -> Vec<&'a Arc<Pod>> {
    let mut ranked: Vec<(Rank<'_>, &Arc<Pod>)> = pods.iter().map(|pod| (Rank::of(pod, crowd), *pod)).collect();
    ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
    ranked.into_iter().take(count).map(|(_, pod)| pod).collect()
}

/// What decides, most important first; the smallest goes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    bound: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    /// More of the same on its node.
    crowded: Reverse<usize>,
    ready_since: Reverse<Newest>,
    restarts: Reverse<i32>,
    created: Reverse<Newest>,
    /// So that equals have one order.
    name: &'a str,
}

/// A time; none is the newest.
#[derive(Debug, PartialEq, Eq)]
struct Newest(Option<Timestamp>);

impl Ord for Newest {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0, other.0) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => a.cmp(&b),
        }
    }
}

impl PartialOrd for Newest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<'a> Rank<'a> {
    fn of(pod: &'a Pod, crowd: &HashMap<String, usize>) -> Self {
        let node = pods::node(pod);
        let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
        let annotations = pod.metadata.annotations.as_ref();
        Self {
            bound: node.is_some(),
            phase: match pods::phase(pod) {
                "Pending" => 0,
                "Running" => 2,
                _ => 1,
            },
            ready: pods::is_ready(pod),
            cost: annotations.and_then(|a| a.get(DELETION_COST)).and_then(|c| c.parse().ok()).unwrap_or(0),
            crowded: Reverse(node.and_then(|n| crowd.get(n)).copied().unwrap_or(0)),
            ready_since: Reverse(Newest(pods::ready_since(pod))),
            restarts: Reverse(statuses.iter().map(|s| s.restart_count).max().unwrap_or(0)),
            created: Reverse(Newest(pod.metadata.creation_timestamp.as_ref().map(|t| t.0))),
            name: pod.metadata.name.as_deref().unwrap_or_default(),
        }
    }
}

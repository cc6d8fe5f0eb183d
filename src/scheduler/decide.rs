//! The decision itself: a snapshot and a pod in, a node or the reasons against every node out. Pure.

use std::collections::BTreeMap;
use std::fmt;

use super::filter::{Blocker, blockers};
use super::score::best;
use super::snapshot::{NodeInfo, PodInfo, Snapshot};
use super::topology::Neighbours;

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It goes to this node.
    Place(String),
    /// It fits nowhere now.
    Refuse(Refusal),
}

/// Why a pod fits nowhere: how many nodes each reason keeps it from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusal {
    pub nodes: usize,
    pub reasons: BTreeMap<Blocker, usize>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut reasons: Vec<String> = self
            .reasons
            .iter()
            .map(|(blocker, nodes)| match blocker {
                // It is no node's fault.
                Blocker::Claim(why) => why.clone(),
                _ => format!("{nodes} {blocker}"),
            })
            .collect();
        reasons.sort();
        write!(f, "0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }
}

/// Chooses a node for a pod.
pub fn decide(snapshot: &Snapshot, pod: &PodInfo) -> Decision {
    let neighbours = Neighbours::of(pod, snapshot);
    let mut candidates: Vec<&NodeInfo> = Vec::new();
    let mut refusal = Refusal::default();
    for node in snapshot.nodes() {
        refusal.nodes += 1;
        let against = blockers(pod, node, &neighbours);
        if against.is_empty() {
            candidates.push(node);
        }
        for blocker in against {
            *refusal.reasons.entry(blocker).or_insert(0) += 1;
        }
    }
    match best(pod, &candidates, &neighbours) {
        Some(node) => Decision::Place(node.name.clone()),
        None => Decision::Refuse(refusal),
    }
}

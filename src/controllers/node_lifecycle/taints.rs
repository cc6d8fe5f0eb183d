//! The taints that follow from a node's conditions: upstream's names and effects.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";

/// Conditions that keep new pods away while they are true.
const PRESSURES: &[(&str, &str)] = &[
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

pub(super) fn present(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

pub(super) fn no_execute(node: &Node) -> Vec<&Taint> {
    present(node).iter().filter(|t| t.effect == NO_EXECUTE).collect()
}

/// The taints that the node should have: users' stay, ours follow the conditions. `deaf`: no
/// taint that evicts is kept.
pub(super) fn wanted(node: &Node, deaf: bool, now: Timestamp) -> Vec<Taint> {
    let ours = ours(node, deaf);
    let mut taints: Vec<Taint> = present(node)
        .iter()
        .filter(|t| !is_managed(t) || ours.iter().any(|(key, effect)| t.key == *key && t.effect == *effect))
        .cloned()
        .collect();
    for (key, effect) in ours {
        if !taints.iter().any(|t| t.key == key && t.effect == effect) {
            let time_added = Some(Time(now));
            taints.push(Taint { key: key.into(), effect: effect.into(), value: None, time_added });
        }
    }
    taints
}

/// The taints that the conditions ask for.
fn ours(node: &Node, deaf: bool) -> Vec<(&'static str, &'static str)> {
    let mut ours = Vec::new();
    let status = |kind: &str| {
        let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        conditions.iter().find(|c| c.type_ == kind).map(|c| c.status.as_str())
    };
    let unhealthy = match status("Ready") {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        _ => None,
    };
    if let Some(key) = unhealthy {
        ours.push((key, NO_SCHEDULE));
        if !deaf {
            ours.push((key, NO_EXECUTE));
        }
    }
    for (condition, key) in PRESSURES {
        if status(condition) == Some("True") {
            ours.push((key, NO_SCHEDULE));
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        ours.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    ours
}

/// Whether this controller removes the taint when nothing asks for it. A node that has said nothing
/// yet is neither ready nor unready; it offers no resources either.
fn is_managed(taint: &Taint) -> bool {
    let key = taint.key.as_str();
    if key == NOT_READY || key == UNREACHABLE {
        return true;
    }
    taint.effect == NO_SCHEDULE && (key == UNSCHEDULABLE || PRESSURES.iter().any(|(_, k)| *k == key))
}

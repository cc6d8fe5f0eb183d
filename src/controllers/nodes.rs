//! What the controllers ask of a node.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeCondition};

/// What is known of a node's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Ready,
    /// It answers, and says that it cannot run pods.
    NotReady,
    /// It does not answer: its pods may run or not.
    Lost,
}

pub(super) fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().find(|c| c.type_ == "Ready")
}

pub(super) fn health(node: &Node) -> Health {
    match ready_condition(node).map(|c| c.status.as_str()) {
        Some("True") => Health::Ready,
        Some("Unknown") => Health::Lost,
        // A node that has not said anything yet has no pods to lose.
        Some(_) | None => Health::NotReady,
    }
}

/// The names of the nodes whose pods are to be replaced at once. Replacing a pod elsewhere deletes
/// nothing, so it needs only a place to go: while no node is ready it is pointless.
pub(super) fn lost(nodes: &[Arc<Node>]) -> Vec<String> {
    if !nodes.iter().any(|n| health(n) == Health::Ready) {
        return Vec::new();
    }
    let lost = nodes.iter().filter(|n| health(n) == Health::Lost);
    lost.filter_map(|n| n.metadata.name.clone()).collect()
}

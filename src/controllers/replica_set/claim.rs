//! Which pods a ReplicaSet takes for its own, and which it lets go.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::super::pods;
use super::{View, controller_reference};
use crate::reconcile::{Plan, Write};

pub(super) fn selects(set: &ReplicaSet, pod: &Pod) -> bool {
    let selector = set.spec.as_ref().and_then(|s| pods::workload_selector(&s.selector));
    selector.is_some_and(|s| pods::matches(&s, pod.metadata.labels.as_ref()))
}

/// Plans adoptions and releases; returns the pods that are the set's own once those are done. They come
/// first in the plan, so nothing is created or deleted for a claim that failed.
pub(super) fn claim<'a>(view: &'a View, plan: &mut Plan) -> Vec<&'a Arc<Pod>> {
    let Some(selector) = view.set.spec.as_ref().and_then(|s| pods::workload_selector(&s.selector)) else {
        return Vec::new();
    };
    let alive = view.set.metadata.deletion_timestamp.is_none();
    let mut claimed = Vec::with_capacity(view.pods.len());
    for pod in &view.pods {
        if pods::matches(&selector, pod.metadata.labels.as_ref()) {
            claimed.push(pod);
        } else if alive {
            plan.write(release(pod, &view.set));
        }
    }
    let free = |pod: &&Arc<Pod>| pods::is_active(pod) && pods::matches(&selector, pod.metadata.labels.as_ref());
    for pod in view.orphans.iter().filter(|_| alive).filter(free) {
        plan.write(adopt(pod, &view.set));
        claimed.push(pod);
    }
    claimed
}

fn adopt(pod: &Pod, set: &ReplicaSet) -> Write {
    let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
    owners.push(controller_reference(set));
    patch_owners(pod, json!(owners))
}

fn release(pod: &Pod, set: &ReplicaSet) -> Write {
    let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
    owners.retain(|o| Some(&o.uid) != set.metadata.uid.as_ref());
    patch_owners(pod, if owners.is_empty() { json!(null) } else { json!(owners) })
}

/// The list is replaced whole, hence the revision as a precondition.
fn patch_owners(pod: &Pod, owners: serde_json::Value) -> Write {
    let metadata = json!({"ownerReferences": owners, "resourceVersion": pod.metadata.resource_version});
    Write::patch(pod, "", json!({"metadata": metadata}))
}

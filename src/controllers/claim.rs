//! Which objects a workload takes for its own, and which it lets go: by its selector, as upstream's
//! controllers do, so that workloads can be replaced without losing their pods.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use kube::core::Selector;
use serde_json::{Value, json};

use super::pods;
use crate::reconcile::{Plan, Shared, Write};

/// Index over pods: those that nobody controls, by namespace.
const ORPHANS: &str = "orphans";

/// Has the pods that nobody controls found by [`orphans`].
pub(super) fn index_orphans(pods: &Shared<Pod>) {
    pods.add_index(ORPHANS, |pod: &Pod| {
        let orphan = crate::reconcile::owner_uid(&pod.metadata).is_none();
        pod.metadata.namespace.iter().filter(|_| orphan).cloned().collect()
    });
}

/// The pods of a namespace that nobody controls.
pub(super) fn orphans(pods: &Shared<Pod>, namespace: &str) -> Vec<Arc<Pod>> {
    pods.by_index(ORPHANS, namespace)
}

/// Who claims, and by what.
pub(super) struct Claim<'a, K> {
    pub owner: &'a K,
    /// `None` claims nothing.
    pub selector: Option<Selector>,
    /// Which of the selected pods may be adopted.
    pub adoptable: fn(&Pod) -> bool,
    /// A finalizer that the owner's pods bear: it comes with an adoption and goes with a release.
    pub finalizer: Option<&'static str>,
}

impl<K: Resource<DynamicType = ()>> Claim<'_, K> {
    /// Plans adoptions and releases; returns the pods that are the owner's own once those are done. They
    /// come first in the plan, so nothing is created or deleted for a claim that failed.
    pub(super) fn pods<'p>(
        &self,
        owned: &'p [Arc<Pod>],
        orphans: &'p [Arc<Pod>],
        plan: &mut Plan,
    ) -> Vec<&'p Arc<Pod>> {
        let Some(selector) = &self.selector else { return Vec::new() };
        let alive = self.owner.meta().deletion_timestamp.is_none();
        let mut claimed = Vec::with_capacity(owned.len());
        for pod in owned {
            if pods::matches(selector, pod.metadata.labels.as_ref()) {
                claimed.push(pod);
            } else if alive {
                plan.write(self.release(pod));
            }
        }
        let free = |pod: &&Arc<Pod>| {
            pod.metadata.deletion_timestamp.is_none()
                && (self.adoptable)(pod)
                && pods::matches(selector, pod.metadata.labels.as_ref())
        };
        for pod in orphans.iter().filter(|_| alive).filter(free) {
            plan.write(self.adopt(pod));
            claimed.push(pod);
        }
        claimed
    }

    fn adopt(&self, pod: &Pod) -> Write {
        let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
        owners.push(controller_reference(self.owner));
        let mut finalizers = pod.metadata.finalizers.clone().unwrap_or_default();
        if let Some(finalizer) = self.finalizer.filter(|f| !finalizers.iter().any(|has| has == f)) {
            finalizers.push(finalizer.to_owned());
        }
        self.patch(pod, json!(owners), finalizers)
    }

    fn release(&self, pod: &Pod) -> Write {
        let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
        owners.retain(|o| Some(&o.uid) != self.owner.meta().uid.as_ref());
        let mut finalizers = pod.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|has| Some(has.as_str()) != self.finalizer);
        self.patch(pod, if owners.is_empty() { json!(null) } else { json!(owners) }, finalizers)
    }

    /// The lists are replaced whole, hence the revision as a precondition.
    fn patch(&self, pod: &Pod, owners: Value, finalizers: Vec<String>) -> Write {
        let mut metadata = json!({"ownerReferences": owners, "resourceVersion": pod.metadata.resource_version});
        if self.finalizer.is_some() && finalizers != pod.metadata.finalizers.clone().unwrap_or_default() {
            metadata["finalizers"] = if finalizers.is_empty() { Value::Null } else { json!(finalizers) };
        }
        Write::patch(pod, "", json!({"metadata": metadata}))
    }
}

/// The reference by which an object says that `owner` controls it.
pub(super) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

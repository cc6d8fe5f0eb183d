//! The status of ValidatingAdmissionPolicies: which generation of a policy has been seen.
//!
//! Upstream also checks the expressions against the types of what they are about. Here an expression that
//! cannot be evaluated fails when it is, so there are no warnings to write; but who waits for the check
//! finds it done.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyStatus};
use serde_json::json;

use super::diff::merge_patch;
use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Shared, Write};

/// The controller. Its keys are policies.
pub(super) struct PolicyStatuses(Shared<ValidatingAdmissionPolicy>);

impl PolicyStatuses {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self(cluster.watch())
    }
}

impl Reconciler for PolicyStatuses {
    type View = Arc<ValidatingAdmissionPolicy>;

    fn name(&self) -> &'static str {
        "validatingadmissionpolicy-status-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.0);
    }

    async fn synced(&self) {
        self.0.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.0.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<Self::View> {
        self.0.get(key)
    }

    fn plan(&self, _now: Timestamp, policy: Self::View) -> Plan {
        plan(&policy)
    }
}

fn plan(policy: &ValidatingAdmissionPolicy) -> Plan {
    let mut plan = Plan::nothing();
    let old = policy.status.clone().unwrap_or_default();
    let new = ValidatingAdmissionPolicyStatus {
        observed_generation: policy.metadata.generation,
        type_checking: Some(old.type_checking.clone().unwrap_or_default()),
        ..old.clone()
    };
    if let Some(patch) = merge_patch(&old, &new) {
        plan.write(Write::patch(policy, "status", json!({"status": patch})));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::{Action, Step};

    #[test]
    fn a_policy_is_seen_once_a_generation() {
        let mut policy: ValidatingAdmissionPolicy =
            serde_json::from_value(json!({"metadata": {"name": "p", "generation": 3}, "spec": {}})).expect("a policy");
        let steps = plan(&policy).steps;
        let [Step::Write(write)] = steps.as_slice() else { panic!("one write") };
        let Action::Patch { body, .. } = &write.action else { panic!("a patch") };
        assert_eq!(body["status"], json!({"observedGeneration": 3, "typeChecking": {}}));
        policy.status = serde_json::from_value(body["status"].clone()).expect("a status");
        assert!(plan(&policy).steps.is_empty());
    }
}

//! ClusterRoles that aggregate: their rules are those of the roles that they select.
//!
//! The API server judges by the selection itself, so nobody waits for this; it is written down for
//! people and for programs that read rules.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;

use crate::kinds::selector;
use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Shared, Write};

/// The controller. It has one key: any change may concern every role that aggregates, and there are few.
pub(super) struct Aggregation {
    roles: Shared<ClusterRole>,
}

const KEY: &str = "all";

/// All roles there are, in the order of their names.
type View = Vec<Arc<ClusterRole>>;

impl Aggregation {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self { roles: cluster.watch() }
    }
}

impl Reconciler for Aggregation {
    type View = View;

    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        let queue = queue.clone();
        self.roles.on_change(move |_, _| {
            queue.add(ObjectKey::cluster(KEY));
            true
        });
    }

    async fn synced(&self) {
        self.roles.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        vec![ObjectKey::cluster(KEY)]
    }

    fn view(&self, _: &ObjectKey) -> Option<View> {
        let mut all = self.roles.list();
        all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Some(all)
    }

    fn plan(&self, _now: Timestamp, all: View) -> Plan {
        let mut plan = Plan::nothing();
        for role in all.iter().filter(|role| role.aggregation_rule.is_some()) {
            let rules = aggregated(role, &all);
            if role.rules.as_deref().unwrap_or_default() != rules {
                plan.write(Write::patch(&**role, "", json!({"rules": rules})));
            }
        }
        plan
    }
}

/// The rules of all that `role` selects, each once.
fn aggregated(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let mut rules: Vec<PolicyRule> = Vec::new();
    let rule = role.aggregation_rule.as_ref();
    let selectors = rule.and_then(|rule| rule.cluster_role_selectors.as_deref()).unwrap_or_default();
    for chosen in selectors.iter().map(|selector| json!(selector)) {
        let others = all.iter().filter(|other| other.metadata.name != role.metadata.name);
        for other in others.filter(|other| selector::matches(&chosen, &json!(other.metadata.labels))) {
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_those_of_the_roles_selected_each_once() {
        let role = |name: &str, labels: &[(&str, &str)], resources: &[&str]| {
            let rules: Vec<_> =
                resources.iter().map(|r| json!({"apiGroups": [""], "resources": [r], "verbs": ["get"]})).collect();
            let labels: std::collections::BTreeMap<_, _> = labels.iter().copied().collect();
            let role = json!({"metadata": {"name": name, "labels": labels}, "rules": rules});
            Arc::new(serde_json::from_value::<ClusterRole>(role).expect("a role"))
        };
        let mut sum = (*role("sum", &[("to", "sum")], &["own"])).clone();
        sum.aggregation_rule =
            serde_json::from_value(json!({"clusterRoleSelectors": [{"matchLabels": {"to": "sum"}}]})).expect("a rule");
        let sum = Arc::new(sum);
        let all = vec![
            role("a", &[("to", "sum")], &["pods", "nodes"]),
            role("b", &[("to", "sum")], &["nodes"]),
            role("c", &[], &["secrets"]),
            sum.clone(),
        ];
        let rules = aggregated(&sum, &all);
        let resources: Vec<_> = rules.iter().flat_map(|rule| rule.resources.clone().unwrap_or_default()).collect();
        assert_eq!(resources, ["pods", "nodes"]);
    }
}

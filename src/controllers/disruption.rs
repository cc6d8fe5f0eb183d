//! PodDisruptionBudgets: how many of the selected pods may go now.
//!
//! A budget in parts, or of those that may be away, refers to how many pods there should be: what their
//! controllers ask for. Pods that were evicted and have not gone yet count as gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use kube::core::Selector;
use serde_json::json;

use super::diff::merge_patch;
use super::pods;
use crate::reconcile::{
    Cluster, EventKind, Note, ObjectKey, Plan, Queue, Reconciler, Shared, Step, Watched, Write, owner_uid,
};

/// An eviction that nobody has seen through after this time did not happen.
const DELETION_TIMEOUT: Duration = Duration::from_secs(120);

/// The controller.
pub(super) struct Budgets {
    budgets: Shared<PodDisruptionBudget>,
    pods: Shared<Pod>,
    deployments: Shared<Deployment>,
    sets: Shared<ReplicaSet>,
    stateful: Shared<StatefulSet>,
    controllers: Shared<ReplicationController>,
}

/// All that concerns one budget.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub budget: Arc<PodDisruptionBudget>,
    /// The pods that it selects.
    pub pods: Vec<Arc<Pod>>,
    /// By the uid of a pod's controller: whoever has the say, by uid, and how many pods it asks for.
    pub scales: HashMap<String, (String, i32)>,
}

impl Budgets {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self {
            budgets: cluster.watch(),
            pods: cluster.watch(),
            deployments: cluster.watch(),
            sets: cluster.watch(),
            stateful: cluster.watch(),
            controllers: cluster.watch(),
        }
    }

    /// A pod concerns the budgets of its namespace that select it, or did before the change.
    fn follow_pods(&self, queue: &Queue) {
        let (queue, budgets) = (queue.clone(), self.budgets.clone());
        self.pods.on_change(move |old, new| {
            let namespace = new.or(old).and_then(|pod| pod.metadata.namespace.as_deref()).unwrap_or_default();
            for budget in budgets.list_in(namespace) {
                let Some(selector) = selector(&budget) else { continue };
                let selects = |pod: &Pod| pods::matches(&selector, pod.metadata.labels.as_ref());
                if old.is_some_and(selects) || new.is_some_and(selects) {
                    queue.add(ObjectKey::of(&*budget));
                }
            }
            true
        });
    }

    /// How many pods there should be may have changed for every budget of the namespace.
    fn follow_scales<K: Watched>(&self, queue: &Queue, shared: &Shared<K>) {
        let (queue, budgets) = (queue.clone(), self.budgets.clone());
        shared.on_change(move |old, new| {
            let generation = |object: &K| object.meta().generation;
            if old.map(generation) != new.map(generation) {
                let namespace = new.or(old).and_then(|o| o.meta().namespace.as_deref()).unwrap_or_default();
                budgets.list_in(namespace).iter().for_each(|budget| queue.add(ObjectKey::of(&**budget)));
            }
            true
        });
    }

    /// Who has the say over the pods of this controller.
    fn scale(&self, namespace: &str, pod: &Pod) -> Option<(String, (String, i32))> {
        let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
        let key = ObjectKey::new(namespace, owner.name.as_str());
        let found = match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = self.sets.get(&key)?;
                let deployment = set.metadata.owner_references.iter().flatten().find(|o| o.kind == "Deployment");
                let deployment =
                    deployment.and_then(|o| self.deployments.get(&ObjectKey::new(namespace, o.name.as_str())));
                match deployment {
                    Some(deployment) => (
                        deployment.metadata.uid.clone()?,
                        deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1),
                    ),
                    None => (set.metadata.uid.clone()?, set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)),
                }
            }
            "StatefulSet" => {
                let set = self.stateful.get(&key)?;
                (set.metadata.uid.clone()?, set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
            }
            "ReplicationController" => {
                let set = self.controllers.get(&key)?;
                (set.metadata.uid.clone()?, set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
            }
            _ => return None,
        };
        Some((owner.uid.clone(), found))
    }
}

impl Reconciler for Budgets {
    type View = View;

    fn name(&self) -> &'static str {
        "controllermanager"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.budgets);
        self.follow_pods(queue);
        self.follow_scales(queue, &self.deployments);
        self.follow_scales(queue, &self.sets);
        self.follow_scales(queue, &self.stateful);
        self.follow_scales(queue, &self.controllers);
    }

    async fn synced(&self) {
        self.budgets.synced().await;
        self.pods.synced().await;
        self.deployments.synced().await;
        self.sets.synced().await;
        self.stateful.synced().await;
        self.controllers.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.budgets.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let budget = self.budgets.get(key)?;
        let mut pods = self.pods.list_in(&key.namespace);
        match selector(&budget) {
            Some(selector) => pods.retain(|pod| pods::matches(&selector, pod.metadata.labels.as_ref())),
            None => pods.clear(),
        }
        let scales = pods.iter().filter_map(|pod| self.scale(&key.namespace, pod)).collect();
        Some(View { budget, pods, scales })
    }

    fn plan(&self, now: Timestamp, view: View) -> Plan {
        plan(now, &view)
    }
}

/// An absent selector selects nothing, an empty one everything.
fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    Selector::try_from(budget.spec.as_ref()?.selector.clone()?).ok()
}

/// Decides what one budget says.
pub(super) fn plan(now: Timestamp, view: &View) -> Plan {
    let mut plan = Plan::nothing();
    let old = view.budget.status.clone().unwrap_or_default();
    let disrupted = disrupted(now, view, &old, &mut plan);
    let healthy = |pod: &&Arc<Pod>| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        pod.metadata.deletion_timestamp.is_none() && pods::is_ready(pod) && !disrupted.contains_key(name)
    };
    let current = count(view.pods.iter().filter(healthy).count());
    let (expected, desired) = expected(view, &mut plan);
    let allowed = if expected <= 0 { 0 } else { (current - desired).max(0) };
    let mut status = PodDisruptionBudgetStatus {
        conditions: old.conditions.clone(),
        current_healthy: Some(current),
        desired_healthy: Some(desired),
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: view.budget.metadata.generation,
    };
    set_condition(now, &view.budget, allowed > 0, &mut status);
    if let Some(patch) = merge_patch(&old, &status) {
        // An eviction may have spent some of it meanwhile.
        let metadata = json!({"resourceVersion": view.budget.metadata.resource_version});
        plan.write(Write::patch(&*view.budget, "status", json!({"metadata": metadata, "status": patch})));
    }
    plan
}

fn count(n: usize) -> i32 {
    n.try_into().unwrap_or(i32::MAX)
}

/// The evicted pods that have not gone yet.
fn disrupted(
    now: Timestamp,
    view: &View,
    old: &PodDisruptionBudgetStatus,
    plan: &mut Plan,
) -> std::collections::BTreeMap<String, Time> {
    let mut kept = old.disrupted_pods.clone().unwrap_or_default();
    kept.retain(|name, since| {
        let pod = view.pods.iter().find(|pod| pod.metadata.name.as_ref() == Some(name));
        let stays = pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none());
        match DELETION_TIMEOUT.checked_sub(pods::elapsed(since.0, now)).filter(|left| stays && !left.is_zero()) {
            Some(left) => {
                plan.look_again(left);
                true
            }
            None => false,
        }
    });
    kept
}

/// How many pods there should be, and how many of them must be healthy.
fn expected(view: &View, plan: &mut Plan) -> (i32, i32) {
    let spec = view.budget.spec.clone().unwrap_or_default();
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let expected = asked_for(view, plan);
            (expected, (expected - scaled(most, expected)).max(0))
        }
        (None, Some(IntOrString::Int(least))) => (count(view.pods.len()), *least),
        (None, Some(percent)) => {
            let expected = asked_for(view, plan);
            (expected, scaled(percent, expected))
        }
        (None, None) => (0, 0),
    }
}

/// The sum of what the pods' controllers ask for, each counted once.
fn asked_for(view: &View, plan: &mut Plan) -> i32 {
    let mut scales: HashMap<&str, i32> = HashMap::new();
    let mut unmanaged = Vec::new();
    for pod in &view.pods {
        match owner_uid(&pod.metadata).and_then(|uid| view.scales.get(uid)) {
            Some((who, replicas)) => drop(scales.insert(who, *replicas)),
            None => unmanaged.push(pod.metadata.name.as_deref().unwrap_or_default()),
        }
    }
    if !unmanaged.is_empty() {
        let message = format!(
            "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
            json!(view.budget.spec.as_ref().and_then(|s| s.selector.as_ref()))
        );
        let about = view.budget.object_ref(&());
        plan.steps.push(Step::Tell(Note { about, kind: EventKind::Warning, reason: "UnmanagedPods", message }));
    }
    scales.values().sum()
}

/// A number, or that part of `total`, rounded up.
fn scaled(value: &IntOrString, total: i32) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let part = (i64::from(total) * percent + 99) / 100;
            part.try_into().unwrap_or(i32::MAX)
        }
    }
}

fn set_condition(now: Timestamp, budget: &PodDisruptionBudget, allowed: bool, status: &mut PodDisruptionBudgetStatus) {
    let (value, reason) = if allowed { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let conditions = status.conditions.get_or_insert_default();
    let before = conditions.iter().find(|c| c.type_ == "DisruptionAllowed");
    let since = before.filter(|c| c.status == value).map_or(Time(now), |c| c.last_transition_time.clone());
    let new = Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        observed_generation: budget.metadata.generation,
        last_transition_time: since,
    };
    conditions.retain(|c| c.type_ != "DisruptionAllowed");
    conditions.push(new);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Action;
    use crate::reconcile::fake::Fake;
    use serde_json::Value;

    fn view(spec: Value, ready: usize, unready: usize, replicas: i32) -> View {
        let mut budget = json!({"metadata": {"name": "b", "namespace": "ns", "uid": "b", "generation": 1},
            "spec": {"selector": {"matchLabels": {"a": "b"}}}});
        json_patch::merge(&mut budget["spec"], &spec);
        let pod = |i: usize| {
            let state = if i < ready { "True" } else { "False" };
            let owner =
                json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true});
            let object = json!({"metadata": {"name": format!("p{i}"), "namespace": "ns", "ownerReferences": [owner]},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": state}]}});
            Arc::new(serde_json::from_value(object).expect("a Pod"))
        };
        View {
            budget: Arc::new(serde_json::from_value(budget).expect("a budget")),
            pods: (0..ready + unready).map(pod).collect(),
            scales: HashMap::from([("r".to_owned(), ("d".to_owned(), replicas))]),
        }
    }

    fn status(view: &View) -> Value {
        let plan = plan("2026-01-01T00:00:00Z".parse().expect("a time"), view);
        let Some(write) = Fake::writes(&plan).pop() else { return Value::Null };
        let Action::Patch { body, .. } = write.action else { panic!("a patch of the status") };
        body["status"].clone()
    }

    #[test]
    fn budgets_in_numbers_and_parts() {
        // spec, ready, unready, replicas → expected, desired, current, allowed
        let cases = [
            (json!({"minAvailable": 1}), 2, 0, 2, [2, 1, 2, 1]),
            (json!({"minAvailable": 3}), 2, 1, 3, [3, 3, 2, 0]),
            (json!({"minAvailable": "50%"}), 3, 0, 5, [5, 3, 3, 0]),
            (json!({"maxUnavailable": 1}), 3, 0, 3, [3, 2, 3, 1]),
            (json!({"maxUnavailable": "34%"}), 3, 0, 3, [3, 1, 3, 2]),
            (json!({"maxUnavailable": 1}), 0, 0, 3, [0, 0, 0, 0]),
        ];
        for (spec, ready, unready, replicas, wanted) in cases {
            let told = status(&view(spec.clone(), ready, unready, replicas));
            let names = ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"];
            assert_eq!(names.map(|name| told[name].as_i64().unwrap_or(-1)), wanted, "{spec}");
            let reason = if wanted[3] > 0 { "SufficientPods" } else { "InsufficientPods" };
            assert_eq!(told["conditions"][0]["reason"], reason);
        }
    }

    #[test]
    fn an_evicted_pod_counts_as_gone_until_it_is_or_time_is_up() {
        let mut view = view(json!({"minAvailable": 1}), 2, 0, 2);
        let mut budget = (*view.budget).clone();
        let since = |at: &str| json!({"p0": at, "gone": at});
        let told = |at: &str| Some(serde_json::from_value(json!({"disruptedPods": since(at)})).expect("a status"));
        budget.status = told("2025-12-31T23:59:30Z");
        view.budget = Arc::new(budget.clone());
        let now = status(&view);
        assert_eq!((&now["currentHealthy"], &now["disruptionsAllowed"]), (&json!(1), &json!(0)));
        assert_eq!(now["disruptedPods"], json!({"gone": null}));
        budget.status = told("2025-12-31T23:50:00Z");
        view.budget = Arc::new(budget);
        assert_eq!(status(&view)["disruptionsAllowed"], 1);
    }
}

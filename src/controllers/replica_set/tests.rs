//! ReplicaSets against hand-made views.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use serde_json::{Value, json};

use super::super::rank;
use super::{Failure, View, plan};
use crate::reconcile::fake::Fake;
use crate::reconcile::{Action, Plan, Write};

fn now() -> Timestamp {
    "2026-01-01T00:01:00Z".parse().expect("a time")
}

fn set(replicas: i32) -> Arc<ReplicaSet> {
    let object = json!({"metadata": {"name": "r", "namespace": "ns", "uid": "r-uid", "generation": 1}, "spec": {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    Arc::new(serde_json::from_value(object).expect("a ReplicaSet"))
}

/// A ready pod of the set on node `n`, changed by `change`.
fn pod(name: &str, change: Value) -> Arc<Pod> {
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r-uid", "controller": true});
    let mut object = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "7", "labels": {"app": "web"},
            "creationTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": [owner]},
        "spec": {"nodeName": "n", "containers": []},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:30Z"}]}});
    json_patch::merge(&mut object, &change);
    Arc::new(serde_json::from_value(object).expect("a Pod"))
}

fn view(replicas: i32, pods: Vec<Arc<Pod>>) -> View<ReplicaSet> {
    View { set: set(replicas), pods, ..Default::default() }
}

fn status(plan: &Plan) -> Value {
    let patches = Fake::writes(plan).into_iter().filter_map(|w| match w.action {
        Action::Patch { subresource: "status", body } => Some(body["status"].clone()),
        _ => None,
    });
    patches.last().unwrap_or(Value::Null)
}

fn deleted(plan: &Plan) -> Vec<String> {
    let names = Fake::writes(plan).into_iter().filter(|w| matches!(w.action, Action::Delete { .. }));
    names.map(|w| w.key.name.to_string()).collect()
}

fn created(plan: &Plan) -> Vec<Write> {
    Fake::writes(plan).into_iter().filter(|w| matches!(w.action, Action::Create(_))).collect()
}

#[test]
fn missing_pods_are_created_from_the_template() {
    let plan = plan(now(), &view(3, vec![pod("a", json!({}))]));
    let created = created(&plan);
    assert_eq!(created.len(), 2);
    let Action::Create(body) = &created[0].action else { panic!("a creation") };
    assert_eq!(body["metadata"]["generateName"], "r-");
    assert_eq!(body["metadata"]["labels"], json!({"app": "web"}));
    assert_eq!(body["metadata"]["ownerReferences"][0]["blockOwnerDeletion"], true);
}

#[test]
fn the_status_counts_as_upstream_does_and_is_written_once() {
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:40Z"}});
    let mut view = view(2, vec![pod("a", json!({})), pod("b", unready), pod("c", going)]);
    let told = status(&plan(now(), &view));
    let wanted = json!({"replicas": 2, "fullyLabeledReplicas": 2, "readyReplicas": 1, "availableReplicas": 1,
        "terminatingReplicas": 1, "observedGeneration": 1});
    assert_eq!(told, wanted);
    let mut set = (*view.set).clone();
    set.status = Some(serde_json::from_value(wanted).expect("a status"));
    view.set = Arc::new(set);
    assert!(plan(now(), &view).steps.is_empty());
}

#[test]
fn a_pod_is_available_when_it_has_been_ready_long_enough() {
    let mut set = (*set(1)).clone();
    set.spec.get_or_insert_default().min_ready_seconds = Some(40);
    let view = View { set: Arc::new(set), pods: vec![pod("a", json!({}))], ..Default::default() };
    let plan = plan(now(), &view);
    assert_eq!(status(&plan)["readyReplicas"], 1);
    assert_eq!(status(&plan)["availableReplicas"], Value::Null);
    assert_eq!(plan.requeue_after.map(|after| after.as_secs()), Some(10));
}

#[test]
fn pods_are_adopted_and_released_by_their_labels() {
    let orphan = pod("orphan", json!({"metadata": {"ownerReferences": null}}));
    let stranger = pod("stranger", json!({"metadata": {"ownerReferences": null, "labels": {"app": "x"}}}));
    let left = pod("left", json!({"metadata": {"labels": {"app": "other"}}}));
    let view = View { orphans: vec![orphan, stranger], ..view(1, vec![left]) };
    let plan = plan(now(), &view);
    let owners: Vec<(String, Value)> = Fake::writes(&plan)
        .into_iter()
        .filter_map(|w| match w.action {
            Action::Patch { subresource: "", body } => {
                assert_eq!(body["metadata"]["resourceVersion"], "7");
                Some((w.key.name.to_string(), body["metadata"]["ownerReferences"].clone()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(owners.len(), 2);
    assert_eq!(owners[0], ("left".to_owned(), Value::Null));
    assert_eq!((owners[1].0.as_str(), &owners[1].1[0]["name"]), ("orphan", &json!("r")));
    assert!(created(&plan).is_empty(), "the adopted pod is enough");
}

#[test]
fn a_pod_on_a_lost_node_is_replaced_at_once_and_the_surplus_goes_when_it_returns() {
    let unready =
        json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}, "spec": {"nodeName": "lost"}});
    let mut view = view(1, vec![pod("old", unready)]);
    view.lost = HashSet::from(["lost".to_owned()]);
    assert_eq!(created(&plan(now(), &view)).len(), 1);
    view.pods.push(pod("new", json!({})));
    let told = plan(now(), &view);
    assert_eq!((status(&told)["replicas"].clone(), deleted(&told).len()), (json!(1), 0));
    view.lost.clear();
    assert_eq!(deleted(&plan(now(), &view)), ["old"]);
}

#[test]
fn a_failure_is_shown_before_it_is_tried_again() {
    let failure = Some(Failure { reason: "FailedCreate", message: "no".into() });
    let plan = plan(now(), &View { failure, ..view(1, Vec::new()) });
    let writes = Fake::writes(&plan);
    assert!(matches!(writes[0].action, Action::Patch { .. }) && matches!(writes[1].action, Action::Create(_)));
    let condition = &status(&plan)["conditions"][0];
    assert_eq!((&condition["type"], &condition["reason"]), (&json!("ReplicaFailure"), &json!("FailedCreate")));
}

#[test]
fn those_go_first_that_are_missed_least() {
    // Each differs from "plain" in one respect and goes before it, in this order.
    let order = [
        ("unbound", json!({"spec": {"nodeName": null}})),
        ("pending", json!({"status": {"phase": "Pending"}})),
        ("unready", json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})),
        ("cheap", json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}})),
        ("crowded", json!({"spec": {"nodeName": "full"}})),
        (
            "lately",
            json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:50Z"}]}}),
        ),
        (
            "restarted",
            json!({"status": {"containerStatuses": [
            {"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 3}]}}),
        ),
        ("young", json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:20Z"}})),
        ("plain", json!({})),
    ];
    let pods: Vec<Arc<Pod>> = order.iter().rev().map(|(name, change)| pod(name, change.clone())).collect();
    let pods: Vec<&Arc<Pod>> = pods.iter().collect();
    let crowd = HashMap::from([("full".to_owned(), 3), ("n".to_owned(), 1)]);
    let ranked = rank::first_to_go(&pods, &crowd, pods.len());
    let names: Vec<&str> = ranked.iter().filter_map(|p| p.metadata.name.as_deref()).collect();
    assert_eq!(names, order.map(|(name, _)| name));
}

#[test]
fn a_replication_controller_is_a_replica_set_of_another_kind() {
    let object = json!({"metadata": {"name": "rc", "namespace": "ns", "uid": "rc-uid", "generation": 1}, "spec": {
        "replicas": 2, "selector": {"app": "web"},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let set: ReplicationController = serde_json::from_value(object).expect("a ReplicationController");
    let orphan = pod("orphan", json!({"metadata": {"ownerReferences": null}}));
    let plan = plan(now(), &View { set: Arc::new(set), orphans: vec![orphan], ..Default::default() });
    let owners: Vec<Value> = Fake::writes(&plan)
        .into_iter()
        .map(|w| match w.action {
            Action::Create(body) | Action::Patch { body, .. } => body["metadata"]["ownerReferences"][0]["kind"].clone(),
            _ => Value::Null,
        })
        .collect();
    assert_eq!(owners, ["ReplicationController", "ReplicationController"]);
}

//! Node health against hand-made views.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::{LEASE_GRACE, View, is_deaf, nodes::Health, plan};
use crate::reconcile::fake::Fake;
use crate::reconcile::{Action, Plan};

const LOST_AT: &str = "2026-01-01T00:00:00Z";

fn at(seconds: i64) -> Timestamp {
    LOST_AT.parse::<Timestamp>().expect("a time") + jiff::SignedDuration::from_secs(seconds)
}

fn node(ready: &str, taints: Value) -> Arc<Node> {
    let object = json!({"metadata": {"name": "n", "uid": "n", "resourceVersion": "3"}, "spec": {"taints": taints},
        "status": {"conditions": [{"type": "Ready", "status": ready}]}});
    Arc::new(serde_json::from_value(object).expect("a Node"))
}

fn pod(tolerations: Value) -> Arc<Pod> {
    let object = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "p", "resourceVersion": "4"},
        "spec": {"nodeName": "n", "containers": [], "tolerations": tolerations},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    Arc::new(serde_json::from_value(object).expect("a Pod"))
}

fn unreachable() -> Value {
    let taint = |effect: &str| json!({"key": "node.kubernetes.io/unreachable", "effect": effect, "timeAdded": LOST_AT});
    json!([taint("NoSchedule"), taint("NoExecute")])
}

fn tolerated(seconds: i64) -> Value {
    json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
        "tolerationSeconds": seconds}])
}

fn view(node: Arc<Node>, pods: Vec<Arc<Pod>>) -> View {
    View { node, pods, refuge: true, ..Default::default() }
}

fn taints(plan: &Plan) -> Option<Value> {
    Fake::writes(plan).into_iter().find_map(|w| match w.action {
        Action::Patch { subresource: "", body } => Some(body["spec"]["taints"].clone()),
        _ => None,
    })
}

fn evicted(plan: &Plan) -> usize {
    Fake::writes(plan).iter().filter(|w| matches!(w.action, Action::Delete { .. })).count()
}

fn marked(plan: &Plan) -> usize {
    let status = |a: &Action| matches!(a, Action::Patch { subresource: "status", .. });
    Fake::writes(plan).iter().filter(|w| status(&w.action) && w.resource.kind == "Pod").count()
}

#[test]
fn a_lost_node_is_tainted_and_its_pods_leave_service() {
    let plan = plan(at(0), &view(node("Unknown", json!(null)), vec![pod(tolerated(300))]));
    assert_eq!(taints(&plan), Some(unreachable()));
    assert_eq!((marked(&plan), evicted(&plan)), (1, 0));
}

#[test]
fn a_pod_is_evicted_when_its_toleration_has_run_out() {
    let view = |tolerations| view(node("Unknown", unreachable()), vec![pod(tolerations)]);
    let early = plan(at(299), &view(tolerated(300)));
    assert_eq!((evicted(&early), early.requeue_after), (0, Some(Duration::from_secs(1))));
    assert_eq!(evicted(&plan(at(300), &view(tolerated(300)))), 1);
    assert_eq!(evicted(&plan(at(0), &view(json!([])))), 1, "untolerated");
    let for_ever = json!([{"operator": "Exists"}]);
    assert_eq!(evicted(&plan(at(1_000_000), &view(for_ever))), 0);
}

#[test]
fn a_node_that_returns_loses_our_taints_and_keeps_others() {
    let mut present = unreachable();
    let own = json!({"key": "team", "effect": "NoSchedule", "value": "a"});
    present.as_array_mut().expect("a list").push(own.clone());
    let plan = plan(at(10), &view(node("True", present), vec![pod(json!([]))]));
    assert_eq!(taints(&plan), Some(json!([own])));
}

#[test]
fn a_node_that_has_said_nothing_is_not_unready() {
    let born = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
    let mut silent = (*node("True", born)).clone();
    silent.status = None;
    let plan = plan(at(0), &view(Arc::new(silent), Vec::new()));
    assert_eq!(plan.steps.len(), 1, "the taint that it was born with goes");
    assert!(!format!("{:?}", plan.steps).contains("NodeNotReady"), "and it has not lost anything");
}

#[test]
fn when_most_nodes_fall_silent_nobody_is_evicted() {
    let deaf = View { deaf: true, ..view(node("Unknown", unreachable()), vec![pod(json!([]))]) };
    let plan = plan(at(1000), &deaf);
    assert_eq!(evicted(&plan), 0);
    let left = taints(&plan).and_then(|t| t.as_array().map(Vec::len));
    assert_eq!(left, Some(1), "the taint that evicts is taken back");
    let lost = |lost: usize, all: usize| {
        is_deaf(&(0..all).map(|n| if n < lost { Health::Lost } else { Health::Ready }).collect::<Vec<_>>())
    };
    assert!(!lost(1, 3) && lost(2, 3) && !lost(2, 2) && !lost(11, 20) && lost(12, 20));
}

#[test]
fn with_nowhere_to_go_pods_stay_as_they_are() {
    let alone = View { refuge: false, ..view(node("Unknown", unreachable()), vec![pod(tolerated(300))]) };
    assert_eq!(marked(&plan(at(1), &alone)), 0);
}

#[test]
fn a_lease_that_is_not_renewed_makes_the_node_unknown() {
    let aged = |age| View { lease_age: Some(age), ..view(node("True", json!(null)), Vec::new()) };
    let fresh = plan(at(0), &aged(Duration::from_secs(5)));
    assert_eq!((fresh.steps.len(), fresh.requeue_after), (0, Some(Duration::from_secs(35))));
    let writes = Fake::writes(&plan(at(0), &aged(LEASE_GRACE)));
    let Action::Patch { subresource: "status", body } = &writes[0].action else { panic!("a status") };
    assert_eq!(body["status"]["conditions"][0]["reason"], "NodeStatusUnknown");
}

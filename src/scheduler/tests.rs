use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::decide::{Decision, decide};
use super::snapshot::{Effect, PodInfo, Snapshot};
use super::wants_node;
use crate::reconcile::ObjectKey;

/// A node with these labels and taints, 4 cores, 8 GiB and room for 10 pods.
fn node(name: &str, labels: Value, spec: Value) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": spec,
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10", "ephemeral-storage": "10Gi"}}}))
    .expect("a node")
}

fn pod(name: &str, mut spec: Value) -> Arc<Pod> {
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    let labels = json!({"app": name.split('-').next()});
    let metadata = json!({"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "labels": labels});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a pod"))
}

fn asking(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

fn snapshot(nodes: &[Node]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.set_node(node.metadata.name.as_deref().expect("it has a name"), Some(node));
    }
    snapshot
}

fn put(snapshot: &mut Snapshot, name: &str, node: &str, mut spec: Value) {
    spec["nodeName"] = node.into();
    let pod = pod(name, spec);
    snapshot.set_pod(&ObjectKey::of(&*pod), Some(&pod));
}

fn place(snapshot: &Snapshot, pod: &Arc<Pod>) -> Result<String, String> {
    match decide(snapshot, &PodInfo::new(pod.clone())) {
        Decision::Place(node) => Ok(node),
        Decision::Refuse(refusal) => Err(refusal.to_string()),
    }
}

fn refused(snapshot: &Snapshot, spec: Value) -> String {
    place(snapshot, &pod("p", spec)).expect_err("it fits nowhere")
}

#[test]
fn without_nodes_it_says_so() {
    assert_eq!(refused(&Snapshot::default(), json!({})), "no nodes available to schedule pods");
}

#[test]
fn every_reason_is_counted_and_worded_as_upstream_does() {
    let tainted = json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]});
    let nodes = [
        node("n1", json!({}), json!({})),
        node("n2", json!({}), tainted.clone()),
        node("n3", json!({}), tainted),
        node("n4", json!({}), json!({"unschedulable": true})),
    ];
    let snapshot = snapshot(&nodes);
    assert_eq!(
        refused(&snapshot, asking("5", "9Gi")),
        "0/4 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 node(s) were unschedulable, \
         2 node(s) had untolerated taint {gpu: yes}."
    );
    assert_eq!(
        refused(&snapshot, json!({"nodeSelector": {"disk": "ssd"}, "tolerations": [{"operator": "Exists"}]})),
        "0/4 nodes are available: 4 node(s) didn't match Pod's node affinity/selector."
    );
}

#[test]
fn a_full_node_takes_no_more_pods_and_no_port_twice() {
    let mut snapshot = snapshot(&[node("n1", json!({}), json!({}))]);
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    put(&mut snapshot, "a", "n1", port.clone());
    assert_eq!(
        refused(&snapshot, port),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    );
    for i in 0..9 {
        put(&mut snapshot, &format!("b-{i}"), "n1", json!({}));
    }
    assert_eq!(refused(&snapshot, json!({})), "0/1 nodes are available: 1 Too many pods.");
}

#[test]
fn a_node_that_is_not_ready_counts_as_tainted_before_it_is() {
    let mut lost = node("n1", json!({}), json!({}));
    lost.status.get_or_insert_default().conditions =
        serde_json::from_value(json!([{"type": "Ready", "status": "Unknown"}])).expect("conditions");
    let snapshot = snapshot(&[lost]);
    assert_eq!(
        refused(&snapshot, json!({})),
        "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }."
    );
    let toleration = json!({"tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists"}]});
    assert_eq!(place(&snapshot, &pod("p", toleration)), Ok("n1".to_owned()));
}

#[test]
fn pods_of_one_owner_spread_and_others_go_where_room_is() {
    let nodes = ["n1", "n2", "n3"].map(|name| node(name, json!({}), json!({})));
    let mut snapshot = snapshot(&nodes);
    put(&mut snapshot, "big", "n1", asking("3", "6Gi"));
    assert_eq!(place(&snapshot, &pod("p", asking("500m", "1Gi"))), Ok("n2".to_owned()));
    let mut used = Vec::new();
    for i in 0..6 {
        let mut replica = (*pod(&format!("web-{i}"), json!({}))).clone();
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": true}]);
        replica.metadata.owner_references = serde_json::from_value(owner).expect("references");
        let replica = Arc::new(replica);
        let node = place(&snapshot, &replica).expect("there is room");
        snapshot.assume(Arc::new(PodInfo::new(replica)), &node);
        used.push(node);
    }
    used.sort();
    assert_eq!(used, ["n1", "n1", "n2", "n2", "n3", "n3"]);
}

#[test]
fn preferences_decide_among_nodes_that_fit() {
    let soft = json!({"taints": [{"key": "slow", "effect": "PreferNoSchedule"}]});
    let nodes =
        [node("n1", json!({}), soft), node("n2", json!({}), json!({})), node("n3", json!({"disk": "ssd"}), json!({}))];
    let snapshot = snapshot(&nodes);
    assert_eq!(place(&snapshot, &pod("p", json!({}))), Ok("n2".to_owned()));
    let term = json!({"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}});
    let affinity = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}});
    assert_eq!(place(&snapshot, &pod("p", affinity)), Ok("n3".to_owned()));
}

#[test]
fn required_node_affinity_is_one_of_its_terms() {
    let nodes = [node("n1", json!({"zone": "a"}), json!({})), node("n2", json!({"zone": "b"}), json!({}))];
    let snapshot = snapshot(&nodes);
    let require = |zone: &str| {
        let term = json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
    };
    assert_eq!(place(&snapshot, &pod("p", require("b"))), Ok("n2".to_owned()));
    assert!(refused(&snapshot, require("c")).contains("2 node(s) didn't match Pod's node affinity/selector"));
}

fn rule(kind: &str, app: &str) -> Value {
    let term = json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "zone"});
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

#[test]
fn pods_attract_and_repel_each_other() {
    let nodes = [node("n1", json!({"zone": "a"}), json!({})), node("n2", json!({"zone": "b"}), json!({}))];
    let mut snapshot = snapshot(&nodes);
    assert_eq!(
        place(&snapshot, &pod("web", rule("podAffinity", "db"))),
        Err("0/2 nodes are available: 2 node(s) didn't match pod affinity rules.".to_owned())
    );
    assert!(place(&snapshot, &pod("db", rule("podAffinity", "db"))).is_ok(), "the first of its kind may go anywhere");
    put(&mut snapshot, "db", "n2", json!({}));
    assert_eq!(place(&snapshot, &pod("web", rule("podAffinity", "db"))), Ok("n2".to_owned()));
    assert_eq!(place(&snapshot, &pod("web", rule("podAntiAffinity", "db"))), Ok("n1".to_owned()));
    put(&mut snapshot, "hermit", "n1", rule("podAntiAffinity", "web"));
    assert_eq!(
        place(&snapshot, &pod("web", rule("podAntiAffinity", "db"))),
        Err("0/2 nodes are available: 1 node(s) didn't match pod anti-affinity rules, \
             1 node(s) didn't satisfy existing pods anti-affinity rules."
            .to_owned())
    );
}

#[test]
fn a_hard_spread_keeps_domains_even() {
    let nodes = [
        node("n1", json!({"zone": "a"}), json!({})),
        node("n2", json!({"zone": "b"}), json!({})),
        node("n3", json!({}), json!({})),
    ];
    let mut snapshot = snapshot(&nodes);
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]});
    put(&mut snapshot, "web-0", "n1", json!({}));
    assert_eq!(place(&snapshot, &pod("web-1", spread.clone())), Ok("n2".to_owned()));
    let mut tight = spread;
    tight["nodeSelector"] = json!({"zone": "a"});
    put(&mut snapshot, "web-2", "n1", json!({}));
    // Only zone a is eligible, so its own count is the fewest and one more is no skew.
    assert_eq!(place(&snapshot, &pod("web-3", tight)), Ok("n1".to_owned()));
}

#[test]
fn an_assumption_holds_until_the_watch_speaks() {
    let mut snapshot = snapshot(&[node("n1", json!({}), json!({}))]);
    let waiting = pod("p", asking("3", "1Gi"));
    let key = ObjectKey::of(&*waiting);
    snapshot.assume(Arc::new(PodInfo::new(waiting.clone())), "n1");
    assert_eq!(snapshot.set_pod(&key, Some(&waiting)), Effect::default(), "shown late, not refuted");
    assert!(refused(&snapshot, asking("2", "1Gi")).contains("Insufficient cpu"));
    let mut bound = (*waiting).clone();
    bound.spec.get_or_insert_default().node_name = Some("n1".to_owned());
    snapshot.set_pod(&key, Some(&Arc::new(bound.clone())));
    assert_eq!(snapshot.forget(&key), Effect::default(), "confirmed: no longer ours to take back");
    bound.status.get_or_insert_default().phase = Some("Succeeded".to_owned());
    assert!(snapshot.set_pod(&key, Some(&Arc::new(bound))).freed, "it has ended");
    assert!(place(&snapshot, &pod("q", asking("4", "8Gi"))).is_ok());
}

#[test]
fn a_namesake_ends_the_assumption() {
    let mut snapshot = snapshot(&[node("n1", json!({}), json!({}))]);
    let first = pod("p", asking("3", "1Gi"));
    snapshot.assume(Arc::new(PodInfo::new(first.clone())), "n1");
    let mut second = (*first).clone();
    second.metadata.uid = Some("another".to_owned());
    assert!(snapshot.set_pod(&ObjectKey::of(&*first), Some(&Arc::new(second))).freed);
    assert_eq!(snapshot.node("n1").map(|node| node.requested.cpu_millis), Some(0));
}

#[test]
fn only_our_pods_are_placed() {
    for (spec, ours) in [
        (json!({}), true),
        (json!({"schedulerName": "default-scheduler"}), true),
        (json!({"schedulerName": "manual"}), false),
        (json!({"nodeName": "n1"}), false),
        (json!({"schedulingGates": [{"name": "wait"}]}), false),
    ] {
        assert_eq!(wants_node(&pod("p", spec.clone())), ours, "{spec}");
    }
}

/// One step in the life of a cluster.
#[derive(Debug, Clone)]
enum Step {
    Ask { cpu: i64, memory: i64 },
    Confirm(usize),
    Forget(usize),
    Delete(usize),
    Cordon(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_i64..3000, 0_i64..4000).prop_map(|(cpu, memory)| Step::Ask { cpu, memory }),
        1 => (0_usize..60).prop_map(Step::Confirm),
        1 => (0_usize..60).prop_map(Step::Forget),
        1 => (0_usize..60).prop_map(Step::Delete),
        1 => (0_usize..3, any::<bool>()).prop_map(|(i, on)| Step::Cordon(i, on)),
    ]
}

/// No node is ever promised more than it has, and its sums are those of its pods.
fn check_sums(snapshot: &Snapshot) -> Result<(), TestCaseError> {
    for node in snapshot.nodes() {
        let cpu: i64 = node.pods.values().map(|pod| pod.requests.cpu_millis).sum();
        let memory: i64 = node.pods.values().map(|pod| pod.requests.memory_bytes).sum();
        prop_assert_eq!(cpu, node.requested.cpu_millis);
        prop_assert_eq!(memory, node.requested.memory_bytes);
        prop_assert!(cpu <= node.allocatable.cpu_millis, "cpu of {}", node.name);
        prop_assert!(memory <= node.allocatable.memory_bytes, "memory of {}", node.name);
        prop_assert!(i64::try_from(node.pods.len()).unwrap_or(i64::MAX) <= node.max_pods, "pods of {}", node.name);
    }
    Ok(())
}

proptest! {
    #[test]
    fn requests_never_exceed_what_a_node_has(steps in proptest::collection::vec(step(), 1..120)) {
        let names = ["n1", "n2", "n3"];
        let mut snapshot = snapshot(&names.map(|name| node(name, json!({}), json!({}))));
        let mut placed: Vec<(Arc<Pod>, String)> = Vec::new();
        for (i, step) in steps.into_iter().enumerate() {
            match step {
                Step::Ask { cpu, memory } => {
                    let pod = pod(&format!("p-{i}"), asking(&format!("{cpu}m"), &format!("{memory}Mi")));
                    if let Ok(node) = place(&snapshot, &pod) {
                        snapshot.assume(Arc::new(PodInfo::new(pod.clone())), &node);
                        placed.push((pod, node));
                    }
                }
                Step::Confirm(n) => {
                    if let Some((pod, node)) = placed.get(n) {
                        let mut bound = (**pod).clone();
                        bound.spec.get_or_insert_default().node_name = Some(node.clone());
                        // A forgotten pod was not bound, so nobody confirms it.
                        if snapshot.is_placed(&ObjectKey::of(&bound), bound.metadata.uid.as_deref().unwrap_or_default()) {
                            snapshot.set_pod(&ObjectKey::of(&**pod), Some(&Arc::new(bound)));
                        }
                    }
                }
                Step::Forget(n) => {
                    if let Some((pod, _)) = placed.get(n) {
                        snapshot.forget(&ObjectKey::of(&**pod));
                    }
                }
                Step::Delete(n) => {
                    if let Some((pod, _)) = placed.get(n) {
                        snapshot.set_pod(&ObjectKey::of(&**pod), None);
                    }
                }
                Step::Cordon(n, on) => {
                    if let Some(name) = names.get(n) {
                        snapshot.set_node(name, Some(&node(name, json!({}), json!({"unschedulable": on}))));
                    }
                }
            }
            check_sums(&snapshot)?;
        }
    }
}

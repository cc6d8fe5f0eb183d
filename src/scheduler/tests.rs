use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::decide::{Decision, decide};
use super::preempt;
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

/// A pod that asks for so much CPU, with a priority and the second at which it began.
fn ranked(cpu: &str, priority: i32) -> Value {
    let mut spec = asking(cpu, "1Mi");
    spec["priority"] = priority.into();
    spec
}

fn put_since(snapshot: &mut Snapshot, name: &str, node: &str, mut spec: Value, second: i64) {
    spec["nodeName"] = node.into();
    let mut pod = (*pod(name, spec)).clone();
    let since = jiff::Timestamp::from_second(second).expect("a time");
    pod.status.get_or_insert_default().start_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(since));
    snapshot.set_pod(&ObjectKey::of(&pod), Some(&Arc::new(pod)));
}

/// Node and victims, or why nobody makes room.
fn room(
    snapshot: &Snapshot,
    spec: Value,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Result<(String, Vec<String>), String> {
    let pod = PodInfo::new(pod("new", spec));
    let plan = preempt::plan(snapshot, &pod, budgets, |other| other.pod.metadata.deletion_timestamp.is_some());
    let plan = plan.map_err(|why| why.to_string())?;
    Ok((plan.node, plan.victims.iter().map(|victim| victim.key.name.to_string()).collect()))
}

fn chosen(node: &str, victims: &[&str]) -> Result<(String, Vec<String>), String> {
    Ok((node.to_owned(), victims.iter().map(|name| (*name).to_owned()).collect()))
}

#[test]
fn the_least_important_make_room_and_no_more_of_them_than_must() {
    let mut full = snapshot(&[node("n1", json!({}), json!({}))]);
    for (name, cpu, priority, since) in
        [("low", "1", 1, 1), ("old", "1", 5, 1), ("young", "1", 5, 9), ("high", "1", 50, 1)]
    {
        put_since(&mut full, name, "n1", ranked(cpu, priority), since);
    }
    assert_eq!(room(&full, ranked("1", 10), &[]), chosen("n1", &["low"]));
    assert_eq!(room(&full, ranked("2", 10), &[]), chosen("n1", &["young", "low"]));
    assert_eq!(room(&full, ranked("3", 10), &[]), chosen("n1", &["old", "young", "low"]));
    let refused = |spec: Value| room(&full, spec, &[]).expect_err("nobody makes room");
    assert_eq!(refused(ranked("4", 10)), "0/1 nodes are available: 1 Insufficient cpu.");
    let not_helpful = "0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(refused(ranked("5", 10)), not_helpful);
    let mut elsewhere = ranked("1", 10);
    elsewhere["nodeSelector"] = json!({"disk": "ssd"});
    assert_eq!(refused(elsewhere), not_helpful);
    let none = "0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    assert_eq!(refused(ranked("1", 1)), none, "equals are let be");
    let mut never = ranked("1", 10);
    never["preemptionPolicy"] = "Never".into();
    assert_eq!(refused(never), "not eligible due to preemptionPolicy=Never.");
}

#[test]
fn the_node_is_taken_on_which_the_least_is_lost() {
    let nodes = ["n1", "n2", "n3"].map(|name| node(name, json!({}), json!({})));
    let with = |pods: &[(&str, &str, &str, i32, i64)]| {
        let mut snapshot = snapshot(&nodes);
        for (name, node, cpu, priority, since) in pods {
            put_since(&mut snapshot, name, node, ranked(cpu, *priority), *since);
        }
        snapshot
    };
    // A lower highest victim, then a smaller sum, then fewer, then those that began later.
    let highest = with(&[("a-1", "n1", "4", 5, 1), ("b-1", "n2", "4", 4, 1), ("c-1", "n3", "4", 6, 1)]);
    assert_eq!(room(&highest, ranked("1", 10), &[]), chosen("n2", &["b-1"]));
    let sum = with(&[
        ("a-1", "n1", "2", 5, 1),
        ("a-2", "n1", "2", 5, 1),
        ("b-1", "n2", "2", 5, 1),
        ("b-2", "n2", "2", 4, 1),
        ("c-1", "n3", "4", 9, 1),
    ]);
    assert_eq!(room(&sum, ranked("4", 10), &[]), chosen("n2", &["b-1", "b-2"]));
    let fewer =
        with(&[("a-1", "n1", "2", 5, 1), ("a-2", "n1", "2", 5, 1), ("b-1", "n2", "4", 5, 1), ("c-1", "n3", "4", 9, 1)]);
    assert_eq!(room(&fewer, ranked("4", 10), &[]), chosen("n2", &["b-1"]));
    let later = with(&[("a-1", "n1", "4", 5, 1), ("b-1", "n2", "4", 5, 2), ("c-1", "n3", "4", 5, 1)]);
    assert_eq!(room(&later, ranked("4", 10), &[]), chosen("n2", &["b-1"]));
}

#[test]
fn whom_a_budget_protects_is_spared_where_others_can_go() {
    let budget = json!({"metadata": {"name": "b", "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"app": "kept"}}},
        "status": {"disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    let budget: PodDisruptionBudget = serde_json::from_value(budget).expect("a budget");
    let budgets = [Arc::new(budget)];
    let mut full = snapshot(&[node("n1", json!({}), json!({}))]);
    for (name, priority) in [("kept-1", 1), ("kept-2", 1), ("other-1", 9), ("other-2", 9)] {
        put_since(&mut full, name, "n1", ranked("1", priority), 1);
    }
    // One of the two may go for nothing; the second would break the budget, so a more important one goes before it.
    assert_eq!(room(&full, ranked("1", 10), &budgets), chosen("n1", &["kept-1"]));
    assert_eq!(room(&full, ranked("2", 10), &budgets), chosen("n1", &["other-2", "kept-1"]));
    assert_eq!(room(&full, ranked("4", 10), &budgets), chosen("n1", &["other-1", "other-2", "kept-1", "kept-2"]));
    // Two nodes: the one where no budget is broken, though more important pods go.
    let mut two = snapshot(&[node("n1", json!({}), json!({})), node("n2", json!({}), json!({}))]);
    for (name, node, priority) in [("kept-1", "n1", 1), ("kept-2", "n1", 1), ("other-1", "n2", 9), ("other-2", "n2", 9)]
    {
        put_since(&mut two, name, node, ranked("2", priority), 1);
    }
    assert_eq!(room(&two, ranked("4", 10), &budgets), chosen("n2", &["other-1", "other-2"]));
}

#[test]
fn company_that_keeps_a_pod_away_can_make_room_too() {
    let anti = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "loud"}}, "topologyKey": "host"}]}});
    let mut one = snapshot(&[node("n1", json!({"host": "n1"}), json!({}))]);
    put_since(&mut one, "loud-1", "n1", ranked("1", 1), 1);
    put_since(&mut one, "calm-1", "n1", ranked("1", 1), 1);
    let mut spec = ranked("1", 10);
    spec["affinity"] = anti;
    assert_eq!(room(&one, spec, &[]), chosen("n1", &["loud-1"]));
}

#[test]
fn room_is_kept_for_whom_it_was_made() {
    let mut one = snapshot(&[node("n1", json!({}), json!({}))]);
    let important = pod("important", ranked("3", 10));
    one.nominate(Arc::new(PodInfo::new(important.clone())), "n1");
    let told = place(&one, &pod("p", ranked("2", 9))).expect_err("the room is kept");
    assert_eq!(told, "0/1 nodes are available: 1 Insufficient cpu.");
    assert_eq!(place(&one, &pod("p", ranked("1", 9))), Ok("n1".to_owned()), "beside it there is room");
    assert_eq!(place(&one, &pod("p", ranked("2", 11))), Ok("n1".to_owned()), "who matters more does not wait");
    assert_eq!(place(&one, &important), Ok("n1".to_owned()), "it is its own room");
    // Others that go on the node it waits for are waited for, too.
    let mut leaving = (*pod("low-1", ranked("4", 1))).clone();
    leaving.spec.get_or_insert_default().node_name = Some("n1".to_owned());
    leaving.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    one.set_pod(&ObjectKey::of(&leaving), Some(&Arc::new(leaving)));
    let info = PodInfo::new(important.clone());
    let waits = preempt::plan(&one, &info, &[], |other| other.pod.metadata.deletion_timestamp.is_some());
    assert_eq!(
        waits.expect_err("it waits").to_string(),
        "not eligible due to a terminating pod on the nominated node."
    );
    // What the watch tells counts after a restart, and ends with the pod.
    let mut told = (*important).clone();
    told.status.get_or_insert_default().nominated_node_name = Some("n1".to_owned());
    let mut fresh = snapshot(&[node("n1", json!({}), json!({}))]);
    fresh.set_pod(&info.key, Some(&Arc::new(told)));
    assert_eq!(fresh.nomination(&info.key), Some("n1"));
    assert!(fresh.set_pod(&info.key, None).freed && fresh.nomination(&info.key).is_none());
}

//! DaemonSets against a simulated cluster.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::{View, plan, pod};
use crate::reconcile::fake::Fake;

struct World {
    fake: Fake,
}

impl World {
    fn new(spec: Value, nodes: &[(&str, Value)]) -> Self {
        let mut object = json!({"metadata": {"name": "agent", "namespace": "ns"}, "spec": {
            "selector": {"matchLabels": {"app": "agent"}}, "revisionHistoryLimit": 10,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
        json_patch::merge(&mut object["spec"], &spec);
        let mut fake = Fake::default();
        fake.put(&serde_json::from_value::<DaemonSet>(object).expect("a DaemonSet"));
        let mut world = Self { fake };
        for (name, change) in nodes {
            world.node(name, change.clone());
        }
        world
    }

    fn node(&mut self, name: &str, change: Value) {
        let mut object = json!({"metadata": {"name": name, "labels": {}}, "spec": {}});
        json_patch::merge(&mut object, &change);
        self.fake.put(&serde_json::from_value::<Node>(object).expect("a Node"));
    }

    fn set(&self) -> DaemonSet {
        self.fake.get("ns", "agent").expect("the set")
    }

    fn pods(&self) -> Vec<Pod> {
        self.fake.all()
    }

    fn settle(&mut self) {
        self.fake.settle(|fake| {
            let set = Arc::new(fake.get::<DaemonSet>("ns", "agent").expect("the set"));
            let (pods, orphans) = fake.owned_and_others(set.metadata.uid.as_deref().unwrap_or_default());
            let nodes = fake.all::<Node>().into_iter().map(Arc::new).collect();
            let revisions = fake.all::<ControllerRevision>().into_iter().map(Arc::new).collect();
            let view = View { set, pods, orphans, nodes, revisions };
            plan("2026-01-01T00:00:00Z".parse().expect("a time"), &view)
        });
    }

    /// `node image`, for each pod.
    fn shown(&self) -> Vec<String> {
        let image = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.containers[0].image.clone()).unwrap_or_default();
        let mut shown: Vec<String> =
            self.pods().iter().map(|p| format!("{} {}", pod::node_of(p).unwrap_or(""), image(p))).collect();
        shown.sort();
        shown
    }

    /// The scheduler binds, the node runs.
    fn make_ready(&mut self) {
        for pod in self.pods() {
            let node = pod::node_of(&pod).expect("it is for a node").to_owned();
            self.fake.merge(&pod, "", json!({"spec": {"nodeName": node}}));
            let ready = json!([{"type": "Ready", "status": "True"}]);
            self.fake.merge(&pod, "status", json!({"status": {"phase": "Running", "conditions": ready}}));
        }
    }

    fn status(&self) -> Value {
        serde_json::to_value(self.set().status).expect("JSON")
    }

    fn roll(&mut self, image: &str) {
        let set = self.set();
        let template = json!({"spec": {"containers": [{"name": "c", "image": image}]}});
        self.fake.merge(&set, "", json!({"spec": {"template": template}}));
        self.settle();
    }
}

fn tainted(effect: &str) -> Value {
    json!({"spec": {"taints": [{"key": "mine", "effect": effect}]}})
}

#[test]
fn each_node_that_fits_has_its_pod() {
    let selector = json!({"template": {"spec": {"nodeSelector": {"disk": "yes"}}}});
    let disk = json!({"metadata": {"labels": {"disk": "yes"}}});
    let mut world = World::new(selector, &[("a", disk.clone()), ("b", json!({}))]);
    world.settle();
    assert_eq!(world.shown(), ["a i:1"]);
    world.node("c", disk);
    world.settle();
    assert_eq!(world.shown(), ["a i:1", "c i:1"]);
    let status = world.status();
    assert_eq!((&status["desiredNumberScheduled"], &status["numberUnavailable"]), (&json!(2), &json!(2)));
    world.make_ready();
    world.settle();
    assert_eq!(world.status()["numberAvailable"], 2);
    let node: Node = world.fake.get("", "a").expect("the node");
    world.fake.merge(&node, "", json!({"metadata": {"labels": {"disk": null}}}));
    world.settle();
    assert_eq!(world.shown(), ["c i:1"]);
}

#[test]
fn taints_keep_pods_away_and_some_are_borne() {
    let not_ready = json!({"spec": {"taints": [
        {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}});
    let mut world = World::new(json!({}), &[("a", not_ready), ("b", tainted("NoSchedule")), ("c", json!({}))]);
    world.settle();
    assert_eq!(world.shown(), ["a i:1", "c i:1"]);
    let taint = |world: &mut World, effect: &str| {
        let node: Node = world.fake.get("", "c").expect("the node");
        world.fake.merge(&node, "", tainted(effect));
        world.settle();
    };
    taint(&mut world, "NoSchedule");
    assert_eq!((world.shown().len(), &world.status()["numberMisscheduled"]), (2, &json!(1)), "what runs there stays");
    taint(&mut world, "NoExecute");
    assert_eq!(world.shown(), ["a i:1"]);
}

#[test]
fn a_rollout_replaces_a_node_at_a_time_and_broken_ones_at_once() {
    let nodes: Vec<(&str, Value)> = ["a", "b", "c"].into_iter().map(|n| (n, json!({}))).collect();
    let mut world = World::new(json!({}), &nodes);
    world.settle();
    world.make_ready();
    world.settle();
    world.roll("i:2");
    let new = |world: &World| world.shown().iter().filter(|pod| pod.ends_with("i:2")).count();
    assert_eq!((world.pods().len(), new(&world)), (3, 1));
    for wanted in [2, 3] {
        world.make_ready();
        world.settle();
        assert_eq!(new(&world), wanted);
    }
    world.make_ready();
    world.settle();
    assert_eq!(world.status()["updatedNumberScheduled"], 3);
    assert_eq!(world.fake.all::<ControllerRevision>().len(), 2);
    // One that never became ready is no loss.
    world.roll("i:3");
    world.roll("i:4");
    assert_eq!(world.shown().iter().filter(|pod| pod.ends_with("i:4")).count(), 1);
}

#[test]
fn with_a_surge_the_new_pod_comes_first() {
    let surge = json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}});
    let mut world = World::new(surge, &[("a", json!({})), ("b", json!({}))]);
    world.settle();
    world.make_ready();
    world.settle();
    world.roll("i:2");
    assert_eq!(world.shown().len(), 3);
    for _ in 0..3 {
        world.make_ready();
        world.settle();
    }
    assert_eq!(world.shown(), ["a i:2", "b i:2"]);
}

#[test]
fn on_delete_leaves_it_to_the_user() {
    let strategy = json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}});
    let mut world = World::new(strategy, &[("a", json!({}))]);
    world.settle();
    world.make_ready();
    world.roll("i:2");
    assert_eq!(world.shown(), ["a i:1"]);
    let pod = world.pods()[0].clone();
    world.fake.apply(&crate::reconcile::Write::delete(&pod)).expect("it goes");
    world.settle();
    assert_eq!(world.shown(), ["a i:2"]);
}

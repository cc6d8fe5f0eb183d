//! StatefulSets against a simulated cluster.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use super::{View, plan};
use crate::reconcile::Write;
use crate::reconcile::fake::Fake;

struct World {
    fake: Fake,
}

impl World {
    fn new(spec: Value) -> Self {
        let mut object = json!({"metadata": {"name": "db", "namespace": "ns"}, "spec": {
            "replicas": 3, "serviceName": "svc", "podManagementPolicy": "OrderedReady",
            "selector": {"matchLabels": {"app": "db"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
        json_patch::merge(&mut object["spec"], &spec);
        let mut fake = Fake::default();
        fake.put(&serde_json::from_value::<StatefulSet>(object).expect("a StatefulSet"));
        let mut world = Self { fake };
        world.settle();
        world
    }

    fn set(&self) -> StatefulSet {
        self.fake.get("ns", "db").expect("the set")
    }

    fn pods(&self) -> Vec<Pod> {
        self.fake.all()
    }

    fn settle(&mut self) {
        self.fake.settle(|fake| {
            let set = Arc::new(fake.get::<StatefulSet>("ns", "db").expect("the set"));
            let (pods, orphans) = fake.owned_and_others(set.metadata.uid.as_deref().unwrap_or_default());
            let claims = fake.all::<PersistentVolumeClaim>().into_iter().map(Arc::new).collect();
            let revisions = fake.all::<ControllerRevision>().into_iter().map(Arc::new).collect();
            let view = View { set, pods, orphans, claims, revisions };
            plan("2026-01-01T00:00:00Z".parse().expect("a time"), &view)
        });
    }

    fn patch(&mut self, spec: Value) {
        let set = self.set();
        self.fake.merge(&set, "", json!({"spec": spec}));
        self.settle();
    }

    /// Makes the pods of these names ready.
    fn ready(&mut self, names: &[&str]) {
        for name in names {
            let pod: Pod = self.fake.get("ns", name).unwrap_or_else(|| panic!("{name} in {:?}", self.shown()));
            let ready = json!([{"type": "Ready", "status": "True"}]);
            self.fake.merge(&pod, "status", json!({"status": {"phase": "Running", "conditions": ready}}));
            self.settle();
        }
    }

    fn delete(&mut self, name: &str) {
        let pod: Pod = self.fake.get("ns", name).expect(name);
        self.fake.apply(&Write::delete(&pod)).expect("it goes");
        self.settle();
    }

    /// `name image`, for each pod.
    fn shown(&self) -> Vec<String> {
        let image = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.containers[0].image.clone()).unwrap_or_default();
        self.pods().iter().map(|p| format!("{} {}", p.metadata.name.as_deref().unwrap_or(""), image(p))).collect()
    }

    fn claims(&self) -> Vec<String> {
        self.fake.all::<PersistentVolumeClaim>().iter().filter_map(|c| c.metadata.name.clone()).collect()
    }

    fn status(&self) -> Value {
        serde_json::to_value(self.set().status).expect("JSON")
    }
}

fn image(image: &str) -> Value {
    json!({"template": {"spec": {"containers": [{"name": "c", "image": image}]}}})
}

#[test]
fn pods_come_and_go_in_order() {
    let mut world = World::new(json!({}));
    assert_eq!(world.shown(), ["db-0 i:1"]);
    let pod = serde_json::to_value(&world.pods()[0]).expect("JSON");
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("db-0"), &json!("svc")));
    assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "0");
    world.ready(&["db-0", "db-1", "db-2"]);
    let status = world.status();
    assert_eq!(
        (&status["readyReplicas"], &status["currentReplicas"], &status["collisionCount"]),
        (&json!(3), &json!(3), &json!(0))
    );
    world.patch(json!({"replicas": 1}));
    assert_eq!(world.shown(), ["db-0 i:1"]);
    world.patch(json!({"replicas": 2}));
    world.delete("db-0");
    assert_eq!(world.shown(), ["db-0 i:1", "db-1 i:1"], "it comes back by its name");
}

#[test]
fn trouble_holds_the_others_back_unless_they_are_parallel() {
    let mut ordered = World::new(json!({}));
    ordered.ready(&["db-0"]);
    let pod: Pod = ordered.fake.get("ns", "db-0").expect("the first");
    ordered.fake.merge(&pod, "status", json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}));
    ordered.ready(&["db-1"]);
    assert_eq!(ordered.shown().len(), 2, "db-2 waits for db-0");
    let mut parallel = World::new(json!({"podManagementPolicy": "Parallel"}));
    assert_eq!(parallel.shown().len(), 3);
    parallel.patch(json!({"replicas": 0}));
    assert!(parallel.shown().is_empty());
}

#[test]
fn a_pod_that_has_ended_is_made_again() {
    let mut world = World::new(json!({"replicas": 1}));
    world.ready(&["db-0"]);
    let pod: Pod = world.fake.get("ns", "db-0").expect("it");
    let uid = pod.metadata.uid.clone();
    world.fake.merge(&pod, "status", json!({"status": {"phase": "Failed"}}));
    world.settle();
    let again: Pod = world.fake.get("ns", "db-0").expect("it is back");
    assert_ne!(again.metadata.uid, uid);
}

#[test]
fn a_new_template_goes_from_the_top_to_the_partition() {
    let mut world = World::new(json!({}));
    world.ready(&["db-0", "db-1", "db-2"]);
    world.patch(json!({"updateStrategy": {"rollingUpdate": {"partition": 1}}}));
    world.patch(image("i:2"));
    assert_eq!(world.shown(), ["db-0 i:1", "db-1 i:1", "db-2 i:2"], "one at a time");
    world.ready(&["db-2", "db-1"]);
    assert_eq!(world.shown(), ["db-0 i:1", "db-1 i:2", "db-2 i:2"], "to the partition");
    let status = world.status();
    assert_eq!((&status["updatedReplicas"], &status["currentReplicas"]), (&json!(2), &json!(1)));
    assert_ne!(status["currentRevision"], status["updateRevision"]);
    world.delete("db-0");
    assert_eq!(world.shown()[0], "db-0 i:1", "below the partition the old template stays");
    world.ready(&["db-0"]);
    world.patch(json!({"updateStrategy": {"rollingUpdate": {"partition": 0}}}));
    world.ready(&["db-0"]);
    let status = world.status();
    assert_eq!((&status["currentRevision"], &status["currentReplicas"]), (&status["updateRevision"], &json!(3)));
}

#[test]
fn more_than_one_may_be_away_and_a_rollback_mends_what_is_broken() {
    let mut world = World::new(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}));
    world.ready(&["db-0", "db-1", "db-2"]);
    world.patch(image("i:2"));
    let new = |world: &World| world.shown().iter().filter(|p| p.ends_with("i:2")).count();
    assert_eq!(new(&world), 1, "pods are made one after the other all the same");
    world.ready(&["db-1"]);
    assert_eq!(new(&world), 2);
    let mut broken = World::new(json!({"podManagementPolicy": "Parallel", "replicas": 2}));
    broken.ready(&["db-0", "db-1"]);
    broken.patch(image("bad"));
    assert_eq!(broken.shown(), ["db-0 i:1", "db-1 bad"]);
    broken.patch(image("i:3"));
    assert_eq!(broken.shown(), ["db-0 i:1", "db-1 i:3"]);
}

#[test]
fn ordinals_begin_where_they_are_told() {
    let mut world = World::new(json!({"replicas": 2, "ordinals": {"start": 5}}));
    world.ready(&["db-5"]);
    assert_eq!(world.shown(), ["db-5 i:1", "db-6 i:1"]);
    world.ready(&["db-6"]);
    world.patch(json!({"ordinals": {"start": 6}}));
    world.ready(&["db-7"]);
    assert_eq!(world.shown(), ["db-6 i:1", "db-7 i:1"]);
}

#[test]
fn claims_are_made_first_and_kept_as_the_policy_says() {
    let templates = json!([{"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}]);
    let mut world = World::new(json!({"replicas": 2, "volumeClaimTemplates": templates}));
    world.ready(&["db-0", "db-1"]);
    assert_eq!(world.claims(), ["data-db-0", "data-db-1"]);
    let pod = serde_json::to_value(&world.pods()[1]).expect("JSON");
    assert_eq!(pod["spec"]["volumes"][0], json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-db-1"}}));
    world.patch(json!({"replicas": 1}));
    assert_eq!(world.claims().len(), 2, "claims outlive their pods");
    let owners = |world: &World, name: &str| -> Vec<String> {
        let claim: PersistentVolumeClaim = world.fake.get("ns", name).expect(name);
        claim.metadata.owner_references.unwrap_or_default().into_iter().map(|owner| owner.kind).collect()
    };
    world.patch(json!({"replicas": 2, "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"}}));
    assert_eq!(owners(&world, "data-db-0"), ["StatefulSet"]);
    world.ready(&["db-1"]);
    // The reference to the pod is there before the pod goes.
    let set = world.set();
    world.fake.merge(&set, "", json!({"spec": {"replicas": 1}}));
    world.settle();
    assert_eq!(
        (owners(&world, "data-db-0"), owners(&world, "data-db-1")),
        (vec!["StatefulSet".to_owned()], vec!["Pod".to_owned()])
    );
}

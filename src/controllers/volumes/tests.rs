//! Claims and volumes against a simulated cluster.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::{ClaimView, claim, volume};
use crate::kinds::storage_class::PROVISIONER;
use crate::reconcile::fake::Fake;
use crate::reconcile::{Plan, Step};

#[derive(Default)]
struct World {
    fake: Fake,
    in_use: bool,
}

impl World {
    fn put<K: crate::reconcile::Watched + serde::Serialize>(&mut self, object: Value) {
        self.fake.put(&serde_json::from_value::<K>(object).expect("an object of its kind"));
    }

    fn volume(&mut self, name: &str, size: &str, change: Value) {
        let mut object = json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"], "storageClassName": "s", "hostPath": {"path": "/d"},
            "persistentVolumeReclaimPolicy": "Retain"}});
        json_patch::merge(&mut object, &change);
        self.put::<PersistentVolume>(object);
    }

    fn claim(&mut self, size: &str, change: Value) {
        let mut object = json!({"metadata": {"name": "c", "namespace": "ns", "finalizers": ["kubernetes.io/pvc-protection"]},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s",
                "resources": {"requests": {"storage": size}}}, "status": {"phase": "Pending"}});
        json_patch::merge(&mut object, &change);
        self.put::<PersistentVolumeClaim>(object);
    }

    fn get_claim(&self) -> PersistentVolumeClaim {
        self.fake.get("ns", "c").expect("the claim")
    }

    fn settle(&mut self) -> Plan {
        let mut told = Plan::nothing();
        for _ in 0..20 {
            let mut writes = Vec::new();
            if let Some(claim) = self.fake.get::<PersistentVolumeClaim>("ns", "c").map(Arc::new) {
                let node = claim::selected_node(&claim).and_then(|name| self.fake.get::<Node>("", name)).map(Arc::new);
                let class = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
                let class = class.and_then(|name| self.fake.get::<StorageClass>("", name)).map(Arc::new);
                let named = claim.spec.as_ref().and_then(|s| s.volume_name.clone());
                let volumes = self.fake.all::<PersistentVolume>().into_iter().map(Arc::new);
                let volumes = volumes.filter(|v| named.is_none() || v.metadata.name == named).collect();
                let any_node = self.fake.all::<Node>().into_iter().next().map(Arc::new);
                let plan = claim::plan(&ClaimView { claim, class, volumes, node, any_node, in_use: self.in_use });
                writes.extend(Fake::writes(&plan));
                told.steps.extend(plan.steps.into_iter().filter(|step| matches!(step, Step::Tell(_))));
            }
            for pv in self.fake.all::<PersistentVolume>() {
                let claim = self.fake.get::<PersistentVolumeClaim>("ns", "c");
                let named = pv.spec.as_ref().is_some_and(|s| s.claim_ref.is_some());
                let now = "2026-01-01T00:00:00Z".parse().expect("a time");
                writes.extend(Fake::writes(&volume::plan(now, &pv, claim.as_ref().filter(|_| named))));
            }
            if writes.is_empty() {
                return told;
            }
            for write in writes {
                // Plans of one round may overtake each other; the next round sees to it.
                let _ = self.fake.apply(&write);
            }
        }
        panic!("it never comes to rest");
    }

    fn phases(&self) -> Vec<String> {
        let phase = |v: &PersistentVolume| v.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
        self.fake
            .all::<PersistentVolume>()
            .iter()
            .map(|v| format!("{} {}", v.metadata.name.as_deref().unwrap_or(""), phase(v)))
            .collect()
    }
}

fn reasons(plan: &Plan) -> Vec<&'static str> {
    let reasons = plan.steps.iter().filter_map(|step| match step {
        Step::Tell(note) => Some(note.reason),
        _ => None,
    });
    reasons.collect()
}

#[test]
fn a_claim_gets_the_smallest_volume_that_is_large_enough() {
    let mut world = World::default();
    world.volume("big", "10Gi", json!({}));
    world.volume("small", "5Gi", json!({}));
    world.volume("tiny", "1Gi", json!({}));
    world.volume("other", "5Gi", json!({"spec": {"storageClassName": "t"}}));
    world.claim("2Gi", json!({}));
    world.settle();
    let claim = world.get_claim();
    assert_eq!(claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()), Some("small"));
    assert_eq!(
        json!(claim.status),
        json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "5Gi"}})
    );
    let annotations = claim.metadata.annotations.clone().unwrap_or_default();
    assert_eq!(
        annotations.keys().collect::<Vec<_>>(),
        ["pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller"]
    );
    assert_eq!(world.phases(), ["big Available", "other Available", "small Bound", "tiny Available"]);
    world.fake.apply(&crate::reconcile::Write::delete(&claim)).expect("it goes");
    world.settle();
    assert!(world.phases().contains(&"small Released".to_owned()), "{:?}", world.phases());
}

#[test]
fn a_reserved_volume_is_for_its_claim_alone() {
    let mut world = World::default();
    world.volume("mine", "10Gi", json!({"spec": {"claimRef": {"namespace": "ns", "name": "c"}}}));
    world.volume("theirs", "2Gi", json!({"spec": {"claimRef": {"namespace": "ns", "name": "d"}}}));
    world.claim("2Gi", json!({}));
    world.settle();
    assert_eq!(world.get_claim().spec.and_then(|s| s.volume_name).as_deref(), Some("mine"));
}

#[test]
fn a_local_volume_is_made_where_the_pod_goes_and_goes_with_its_claim() {
    let mut world = World::default();
    world.put::<StorageClass>(json!({"metadata": {"name": "s"}, "provisioner": PROVISIONER, "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer"}));
    world.put::<Node>(json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}}}));
    world.claim("2Gi", json!({}));
    assert_eq!(reasons(&world.settle())[0], "WaitForFirstConsumer");
    assert!(world.phases().is_empty());
    let claim = world.get_claim();
    world.fake.merge(&claim, "", json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}}));
    world.settle();
    let volume = world.fake.all::<PersistentVolume>().remove(0);
    let spec = json!(volume.spec);
    assert_eq!((&spec["capacity"]["storage"], &spec["csi"]["driver"]), (&json!("2Gi"), &json!("local.coracle.dev")));
    assert_eq!(
        spec.pointer("/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0/values/0"),
        Some(&json!("n1"))
    );
    assert_eq!(world.get_claim().status.and_then(|s| s.phase).as_deref(), Some("Bound"));
    let claim = world.get_claim();
    world.fake.apply(&crate::reconcile::Write::delete(&claim)).expect("it goes");
    world.settle();
    assert!(world.phases().is_empty(), "{:?}", world.phases());
}

#[test]
fn a_claim_in_use_stays_and_a_lost_volume_is_told() {
    let mut world = World { in_use: true, ..World::default() };
    world.volume("v", "5Gi", json!({}));
    world.claim("2Gi", json!({}));
    world.settle();
    let volume = world.fake.all::<PersistentVolume>().remove(0);
    world.fake.apply(&crate::reconcile::Write::delete(&volume)).expect("it goes");
    assert_eq!(reasons(&world.settle()), ["ClaimLost"]);
    assert_eq!(world.get_claim().status.and_then(|s| s.phase).as_deref(), Some("Lost"));
    let claim = world.get_claim();
    world.fake.merge(&claim, "", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    world.settle();
    assert!(world.get_claim().metadata.finalizers.is_some());
    world.in_use = false;
    world.settle();
    assert!(world.get_claim().metadata.finalizers.is_none());
}

#[test]
fn what_cannot_be_bound_says_why() {
    let mut none = World::default();
    none.claim("1Gi", json!({"spec": {"storageClassName": null}}));
    assert_eq!(reasons(&none.settle()), ["FailedBinding"]);
    let mut missing = World::default();
    missing.claim("1Gi", json!({}));
    assert_eq!(reasons(&missing.settle()), ["ProvisioningFailed"]);
    let mut elsewhere = World::default();
    elsewhere.put::<StorageClass>(json!({"metadata": {"name": "s"}, "provisioner": "example.com/p"}));
    elsewhere.claim("1Gi", json!({}));
    assert_eq!(reasons(&elsewhere.settle())[0], "ExternalProvisioning");
    let annotations = elsewhere.get_claim().metadata.annotations.unwrap_or_default();
    assert_eq!(annotations["volume.kubernetes.io/storage-provisioner"], "example.com/p");
}

//! Deployments and ReplicaSets against a simulated cluster: the invariants of a rollout hold in every
//! state between two writes, whichever controller runs when and wherever a plan is cut short.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{pods, replica_set};
use super::scale::Bounds;
use super::{View, rollout, sets};
use crate::reconcile::fake::Fake;
use crate::reconcile::{Plan, owner_uid};

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

fn deployment(spec: Value) -> Deployment {
    let mut object = json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {
        "progressDeadlineSeconds": 600,
        "revisionHistoryLimit": 10,
        "selector": {"matchLabels": {"app": "web"}},
        "template": template("i:1")}});
    json_patch::merge(&mut object["spec"], &spec);
    serde_json::from_value(object).expect("a Deployment")
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

/// A cluster with one Deployment.
struct World {
    fake: Fake,
}

impl World {
    fn new(spec: Value) -> Self {
        let mut fake = Fake::default();
        fake.put(&deployment(spec));
        Self { fake }
    }

    fn deployment(&self) -> Deployment {
        self.fake.get("ns", "web").expect("it is there")
    }

    fn change(&mut self, spec: Value) {
        let deployment = self.deployment();
        self.fake.merge(&deployment, "", json!({"spec": spec}));
    }

    fn sets(&self) -> Vec<ReplicaSet> {
        self.fake.all()
    }

    fn pods(&self) -> Vec<Pod> {
        self.fake.all()
    }

    fn pods_of(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let own = |p: &Pod| owner_uid(&p.metadata) == set.metadata.uid.as_deref();
        self.pods().into_iter().filter(own).map(Arc::new).collect()
    }

    fn deployment_plan(&self) -> Plan {
        let deployment = Arc::new(self.deployment());
        let (sets, orphans): (Vec<ReplicaSet>, Vec<ReplicaSet>) =
            self.sets().into_iter().partition(|s| owner_uid(&s.metadata) == deployment.metadata.uid.as_deref());
        let unfinished = sets.iter().map(|s| (s.metadata.uid.clone().unwrap_or_default(), self.pods_of(s).len()));
        let view = View {
            unfinished: unfinished.collect(),
            namesake: self.fake.get("ns", &sets::new_name(&deployment)).map(Arc::new),
            sets: sets.into_iter().map(Arc::new).collect(),
            orphans: orphans.into_iter().filter(|s| owner_uid(&s.metadata).is_none()).map(Arc::new).collect(),
            failure: None,
            deployment,
        };
        rollout::plan(now(), &view)
    }

    fn set_plan(&self, set: &ReplicaSet) -> Plan {
        let view = replica_set::View { set: Arc::new(set.clone()), pods: self.pods_of(set), ..Default::default() };
        replica_set::plan(now(), &view)
    }

    /// Carries out at most `writes` of a plan, checking after each.
    fn run(&mut self, plan: &Plan, writes: usize, check: &mut impl FnMut(&World)) -> usize {
        let mut done = 0;
        for write in Fake::writes(plan).into_iter().take(writes) {
            self.fake.apply(&write).unwrap_or_else(|code| panic!("{code} for {write:?}"));
            done += 1;
            check(self);
        }
        done
    }

    /// Runs everything, without making pods ready, until nothing changes.
    fn settle(&mut self) {
        for _ in 0..200 {
            let mut done = self.run(&self.deployment_plan(), usize::MAX, &mut |_| {});
            for set in self.sets() {
                done += self.run(&self.set_plan(&set), usize::MAX, &mut |_| {});
            }
            if done == 0 {
                return;
            }
        }
        panic!("the controllers do not come to rest");
    }

    fn settle_ready(&mut self) {
        for _ in 0..200 {
            self.settle();
            if !self.make_ready(0) {
                return;
            }
        }
        panic!("the rollout does not end");
    }

    /// Makes one of the pods that are not ready, ready.
    fn make_ready(&mut self, which: usize) -> bool {
        let unready: Vec<Pod> = self.pods().into_iter().filter(|p| !pods::is_ready(p)).collect();
        let Some(pod) = unready.get(which % unready.len().max(1)) else { return false };
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2025-01-01T00:00:00Z"}]);
        self.fake.merge(pod, "status", json!({"status": {"phase": "Running", "conditions": ready}}));
        true
    }

    fn sizes(&self) -> Vec<(String, i32)> {
        let image = |s: &ReplicaSet| {
            let template = s.spec.as_ref().and_then(|s| s.template.as_ref()).and_then(|t| t.spec.as_ref());
            template.and_then(|t| t.containers.first()).and_then(|c| c.image.clone()).unwrap_or_default()
        };
        let size = |s: &ReplicaSet| s.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        let mut sizes: Vec<_> = self.sets().iter().map(|s| (image(s), size(s))).collect();
        sizes.sort();
        sizes
    }

    fn annotation(&self, image: &str, name: &str) -> Option<String> {
        let is = |s: &&ReplicaSet| serde_json::to_string(*s).expect("JSON").contains(&format!("\"image\":\"{image}\""));
        let set = self.sets().iter().find(is).cloned()?;
        set.metadata.annotations?.get(&format!("deployment.kubernetes.io/{name}")).cloned()
    }

    fn condition(&self, kind: &str) -> Option<(String, String)> {
        let conditions = self.deployment().status?.conditions?;
        let found = conditions.into_iter().find(|c| c.type_ == kind)?;
        Some((found.status, found.reason.unwrap_or_default()))
    }
}

fn sized(sizes: &[(&str, i32)]) -> Vec<(String, i32)> {
    sizes.iter().map(|(image, n)| ((*image).to_owned(), *n)).collect()
}

#[test]
fn a_new_deployment_makes_one_set_with_upstreams_annotations() {
    let mut world =
        World::new(json!({"replicas": 2, "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}));
    world.settle();
    assert_eq!(world.sizes(), sized(&[("i:1", 2)]));
    assert_eq!(world.annotation("i:1", "revision").as_deref(), Some("1"));
    assert_eq!(world.annotation("i:1", "desired-replicas").as_deref(), Some("2"));
    assert_eq!(world.annotation("i:1", "max-replicas").as_deref(), Some("3"));
    let status = world.deployment().status.expect("a status");
    assert_eq!((status.replicas, status.unavailable_replicas, status.updated_replicas), (Some(2), Some(2), Some(2)));
    assert_eq!((status.ready_replicas, status.terminating_replicas), (None, Some(0)));
    let unavailable = Some(("False".to_owned(), "MinimumReplicasUnavailable".to_owned()));
    assert_eq!(world.condition("Available"), unavailable);
    world.settle_ready();
    assert_eq!(world.condition("Progressing"), Some(("True".to_owned(), "NewReplicaSetAvailable".to_owned())));
}

#[test]
fn a_rollback_reuses_the_old_set_and_remembers_its_revision() {
    let mut world =
        World::new(json!({"replicas": 2, "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}));
    world.settle_ready();
    world.change(json!({"template": template("i:2")}));
    world.settle();
    assert_eq!(world.sizes(), sized(&[("i:1", 2), ("i:2", 1)]));
    world.settle_ready();
    assert_eq!(world.sizes(), sized(&[("i:1", 0), ("i:2", 2)]));
    world.change(json!({"template": template("i:1")}));
    world.settle_ready();
    assert_eq!(world.sizes(), sized(&[("i:1", 2), ("i:2", 0)]));
    assert_eq!(world.annotation("i:1", "revision").as_deref(), Some("3"));
    assert_eq!(world.annotation("i:1", "revision-history").as_deref(), Some("1"));
    let annotations = world.deployment().metadata.annotations.expect("the revision");
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(json!({"replicas": 2}));
    world.settle_ready();
    world.change(json!({"paused": true, "template": template("i:2")}));
    world.settle();
    assert_eq!(world.condition("Progressing"), Some(("Unknown".to_owned(), "DeploymentPaused".to_owned())));
    world.change(json!({"replicas": 4}));
    world.settle();
    assert_eq!(world.sizes(), sized(&[("i:1", 4)]));
    world.change(json!({"paused": null}));
    world.settle_ready();
    assert_eq!(world.sizes(), sized(&[("i:1", 0), ("i:2", 4)]));
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_shared_out() {
    let mut world =
        World::new(json!({"replicas": 10, "strategy": {"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}}));
    world.settle_ready();
    world.change(json!({"template": template("i:2")}));
    world.settle();
    assert_eq!(world.sizes(), sized(&[("i:1", 8), ("i:2", 5)]));
    world.change(json!({"replicas": 15}));
    world.settle();
    assert_eq!(world.sizes(), sized(&[("i:1", 11), ("i:2", 7)]), "upstream's example: five more, shared out");
    world.settle_ready();
    assert_eq!(world.sizes(), sized(&[("i:1", 0), ("i:2", 15)]));
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    let mut world = World::new(json!({"replicas": 2, "strategy": {"type": "Recreate"}}));
    world.settle_ready();
    world.change(json!({"template": template("i:2")}));
    let plan = world.deployment_plan();
    world.run(&plan, usize::MAX, &mut |_| {});
    assert_eq!(world.sizes(), sized(&[("i:1", 0)]), "the new set is not made while old pods run");
    world.settle_ready();
    assert_eq!(world.sizes(), sized(&[("i:1", 0), ("i:2", 2)]));
}

#[test]
fn the_history_is_kept_to_its_limit() {
    let mut world = World::new(json!({"replicas": 1, "revisionHistoryLimit": 1}));
    for image in ["i:1", "i:2", "i:3", "i:4"] {
        world.change(json!({"template": template(image)}));
        world.settle_ready();
    }
    assert_eq!(world.sizes(), sized(&[("i:3", 0), ("i:4", 1)]));
}

#[test]
fn a_name_that_is_taken_counts_as_a_collision() {
    let mut world = World::new(json!({"replicas": 1}));
    let deployment = world.deployment();
    let stranger = json!({"metadata": {"name": sets::new_name(&deployment), "namespace": "ns", "labels": {"app": "x"}},
        "spec": {"selector": {"matchLabels": {"app": "x"}}}});
    world.fake.put(&serde_json::from_value::<ReplicaSet>(stranger).expect("a ReplicaSet"));
    let plan = world.deployment_plan();
    world.run(&plan, usize::MAX, &mut |_| {});
    assert_eq!(world.deployment().status.and_then(|s| s.collision_count), Some(1));
    let plan = world.deployment_plan();
    world.run(&plan, usize::MAX, &mut |_| {});
    assert_eq!(world.sets().len(), 2);
}

#[test]
fn a_rollout_without_progress_times_out() {
    let mut world = World::new(json!({"replicas": 1, "progressDeadlineSeconds": 60}));
    world.settle();
    let view = |world: &World| View {
        deployment: Arc::new(world.deployment()),
        sets: world.sets().into_iter().map(Arc::new).collect(),
        unfinished: HashMap::new(),
        ..Default::default()
    };
    let early = rollout::plan(now(), &view(&world));
    assert!(early.steps.is_empty());
    assert!(early.requeue_after.is_some_and(|after| after.as_secs() == 61), "{:?}", early.requeue_after);
    let late = now() + jiff::SignedDuration::from_secs(61);
    let plan = rollout::plan(late, &view(&world));
    world.run(&plan, usize::MAX, &mut |_| {});
    assert_eq!(world.condition("Progressing"), Some(("False".to_owned(), "ProgressDeadlineExceeded".to_owned())));
}

/// What happens next in a run.
#[derive(Debug, Clone)]
enum Move {
    /// The Deployment's controller runs and is cut short after so many writes.
    Deployment(usize),
    /// A ReplicaSet's controller runs, likewise.
    Set(usize, usize),
    /// A pod becomes ready.
    Ready(usize),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        (0..4_usize).prop_map(Move::Deployment),
        (0..3_usize, 0..5_usize).prop_map(|(set, writes)| Move::Set(set, writes)),
        (0..8_usize).prop_map(Move::Ready),
    ];
    prop::collection::vec(one, 0..120)
}

/// ready ≥ desired − maxUnavailable and total ≤ desired + maxSurge.
fn assert_bounds(world: &World) {
    let bounds = Bounds::of(&world.deployment());
    let pods = world.pods();
    let ready = i32::try_from(pods.iter().filter(|p| pods::is_ready(p)).count()).expect("few");
    let total = i32::try_from(pods.len()).expect("few");
    assert!(ready >= bounds.least(), "only {ready} ready of {bounds:?}: {:?}", world.sizes());
    assert!(total <= bounds.most(), "{total} pods, {bounds:?}: {:?}", world.sizes());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_rollout_keeps_its_bounds_at_every_write(
        replicas in 1..7_i32,
        surge in 0..3_i32,
        unavailable in 0..3_i32,
        back in any::<bool>(),
        first in moves(),
        second in moves(),
    ) {
        let strategy = json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        let mut world = World::new(json!({"replicas": replicas, "strategy": strategy}));
        world.settle_ready();
        assert_bounds(&world);
        let third = if back { "i:1" } else { "i:3" };
        for (image, moves) in [("i:2", first), (third, second)] {
            world.change(json!({"template": template(image)}));
            for next in moves {
                match next {
                    Move::Deployment(writes) => {
                        let plan = world.deployment_plan();
                        world.run(&plan, writes, &mut assert_bounds);
                    }
                    Move::Set(which, writes) => {
                        let sets = world.sets();
                        if let Some(set) = sets.get(which % sets.len().max(1)) {
                            let plan = world.set_plan(set);
                            world.run(&plan, writes, &mut assert_bounds);
                        }
                    }
                    Move::Ready(which) => drop(world.make_ready(which)),
                }
            }
        }
        world.settle_ready();
        let sizes = world.sizes();
        let running: Vec<_> = sizes.into_iter().filter(|(_, n)| *n > 0).collect();
        prop_assert_eq!(running, sized(&[(third, replicas)]));
        prop_assert_eq!(world.condition("Progressing").map(|c| c.1), Some("NewReplicaSetAvailable".to_owned()));
    }
}

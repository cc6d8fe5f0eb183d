//! Jobs against hand-made views, and whole lives of Jobs against a simulated cluster.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{FINALIZER, JobView, index, plan};
use crate::reconcile::fake::Fake;
use crate::reconcile::{Action, Plan, Write};

fn at(seconds: i64) -> Timestamp {
    "2026-01-01T00:00:00Z".parse::<Timestamp>().expect("a time") + jiff::SignedDuration::from_secs(seconds)
}

/// A Job as the server would have stored it.
fn job(spec: Value) -> Job {
    let mut object = json!({"metadata": {"name": "j", "namespace": "ns"}, "spec": {
        "parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
        "podReplacementPolicy": "TerminatingOrFailed",
        "selector": {"matchLabels": {"job-name": "j"}},
        "template": {"metadata": {"labels": {"job-name": "j"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    json_patch::merge(&mut object["spec"], &spec);
    serde_json::from_value(object).expect("a Job")
}

/// A cluster with one Job and no nodes: the test says what becomes of the pods.
struct World {
    fake: Fake,
    now: i64,
}

impl World {
    fn new(spec: Value) -> Self {
        let mut fake = Fake::default();
        fake.put(&job(spec));
        Self { fake, now: 0 }
    }

    fn job(&self) -> Job {
        self.fake.get("ns", "j").expect("the Job")
    }

    fn status(&self) -> Value {
        serde_json::to_value(self.job().status.unwrap_or_default()).expect("JSON")
    }

    fn pods(&self) -> Vec<Pod> {
        self.fake.all::<Pod>()
    }

    fn view(&self) -> JobView {
        let job = Arc::new(self.job());
        let (pods, orphans) = self.fake.owned_and_others(job.metadata.uid.as_deref().unwrap_or_default());
        JobView { job, pods, orphans }
    }

    /// Carries plans out until there is nothing to do; each may be cut short by `stop_after`.
    fn settle(&mut self) -> Plan {
        for _ in 0..50 {
            let plan = plan(at(self.now), &self.view());
            let writes = Fake::writes(&plan);
            if writes.is_empty() {
                return plan;
            }
            for write in writes {
                self.apply(&write);
            }
        }
        panic!("the Job never comes to rest: {:#}", self.status());
    }

    /// A deleted pod with a finalizer stays, as it does for the server.
    fn apply(&mut self, write: &Write) {
        if let Action::Delete { .. } = write.action
            && let Some(pod) = self.fake.get::<Pod>("ns", &write.key.name)
            && pod.metadata.finalizers.is_some()
        {
            let gone = at(self.now).to_string();
            return self.fake.merge(&pod, "", json!({"metadata": {"deletionTimestamp": gone}}));
        }
        self.fake.apply(write).expect("the write goes through");
        let gone = |pod: &Pod| pod.metadata.deletion_timestamp.is_some() && pod.metadata.finalizers.is_none();
        for pod in self.pods().iter().filter(|pod| gone(pod)) {
            self.fake.apply(&Write::delete(pod)).expect("the pod goes");
        }
    }

    /// What the node says of a pod that has ended.
    fn end(&mut self, pod: &Pod, code: i32) {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let ended = json!({"exitCode": code, "finishedAt": at(self.now).to_string()});
        let container = json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": ended}});
        self.fake.merge(pod, "status", json!({"status": {"phase": phase, "containerStatuses": [container]}}));
    }

    fn running(&self) -> Vec<Pod> {
        let going = |pod: &Pod| super::pods::is_active(pod);
        self.pods().into_iter().filter(going).collect()
    }

    fn end_all(&mut self, code: i32) {
        for pod in self.running() {
            self.end(&pod, code);
        }
    }

    fn conditions(&self) -> Vec<String> {
        let conditions = self.job().status.and_then(|s| s.conditions).unwrap_or_default();
        conditions
            .into_iter()
            .filter(|c| c.status == "True")
            .map(|c| format!("{} {}", c.type_, c.reason.unwrap_or_default()))
            .collect()
    }
}

fn has_finalizer(pod: &Pod) -> bool {
    super::has_finalizer(pod)
}

#[test]
fn pods_follow_each_other_until_enough_have_succeeded() {
    let mut world = World::new(json!({"completions": 3, "parallelism": 2}));
    world.settle();
    assert_eq!((world.running().len(), &world.status()["active"]), (2, &json!(2)));
    let pod = &world.running()[0];
    assert_eq!(pod.metadata.finalizers.as_deref(), Some([FINALIZER.to_owned()].as_slice()));
    let first = world.running()[0].clone();
    world.end(&first, 0);
    world.settle();
    assert_eq!((world.running().len(), &world.status()["succeeded"]), (2, &json!(1)));
    world.end_all(0);
    world.settle();
    let status = world.status();
    assert_eq!((&status["succeeded"], &status["active"], &status["ready"]), (&json!(3), &Value::Null, &json!(0)));
    assert_eq!((&status["uncountedTerminatedPods"], &status["terminating"]), (&json!({}), &json!(0)));
    assert_eq!(world.conditions(), ["SuccessCriteriaMet CompletionsReached", "Complete CompletionsReached"]);
    assert!(!status["completionTime"].is_null() && !world.pods().iter().any(has_finalizer));
}

#[test]
fn no_end_is_lost_or_counted_twice_wherever_the_work_is_cut() {
    // After each single write the plan is made anew from what is there: as after a crash.
    let mut world = World::new(json!({"completions": 6, "parallelism": 3, "backoffLimit": 50}));
    let mut codes = [0, 1, 0, 0, 1, 0, 0, 1, 0].into_iter().cycle();
    for _ in 0..2_000 {
        let plan = plan(at(world.now), &world.view());
        match Fake::writes(&plan).into_iter().next() {
            Some(write) => world.apply(&write),
            None => match world.running().first().cloned() {
                Some(pod) => world.end(&pod, codes.next().expect("it cycles")),
                None if world.conditions().iter().any(|c| c.starts_with("Complete")) => break,
                None => world.now += 600,
            },
        }
    }
    let (succeeded, failed): (Vec<_>, Vec<_>) =
        world.pods().into_iter().partition(|pod| super::pods::phase(pod) == "Succeeded");
    let status = world.status();
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(6), &json!(failed.len())));
    assert_eq!(succeeded.len(), 6);
    assert!(world.conditions().contains(&"Complete CompletionsReached".to_owned()));
}

#[test]
fn failures_are_spaced_out_and_end_the_job_at_its_limit() {
    let mut world = World::new(json!({"backoffLimit": 2}));
    for (failures, pause) in [(1, 10), (2, 20)] {
        world.settle();
        world.end_all(1);
        let rest = world.settle();
        assert_eq!(world.status()["failed"], failures);
        assert_eq!(rest.requeue_after.map(|after| after.as_secs()), Some(pause), "after {failures}");
        assert!(world.running().is_empty());
        world.now += i64::try_from(pause).expect("small");
    }
    world.settle();
    world.end_all(1);
    world.settle();
    assert_eq!(world.conditions(), ["FailureTarget BackoffLimitExceeded", "Failed BackoffLimitExceeded"]);
    assert_eq!(world.status()["failed"], 3);
}

#[test]
fn a_failed_job_stops_its_pods_before_it_has_failed() {
    let mut world =
        World::new(json!({"completions": 2, "parallelism": 2, "backoffLimit": 0, "podReplacementPolicy": "Failed"}));
    world.settle();
    let first = world.running()[0].clone();
    world.end(&first, 1);
    world.settle();
    assert_eq!(world.conditions(), ["FailureTarget BackoffLimitExceeded"]);
    assert_eq!((world.status()["terminating"].clone(), world.status()["failed"].clone()), (json!(1), json!(1)));
    let going = world.pods().into_iter().find(|pod| pod.metadata.deletion_timestamp.is_some()).expect("one is stopped");
    world.end(&going, 143);
    world.settle();
    assert_eq!(world.conditions()[1], "Failed BackoffLimitExceeded");
    assert_eq!(world.status()["failed"], 2);
}

#[test]
fn a_deadline_ends_the_job() {
    let mut world = World::new(json!({"activeDeadlineSeconds": 30}));
    let rest = world.settle();
    assert_eq!(rest.requeue_after.map(|after| after.as_secs()), Some(30));
    world.now = 31;
    world.settle();
    assert_eq!(world.conditions()[0], "FailureTarget DeadlineExceeded");
    assert!(world.running().is_empty());
}

#[test]
fn a_suspended_job_has_no_pods_and_loses_none() {
    let mut world = World::new(json!({"parallelism": 2, "completions": 2, "suspend": true}));
    world.settle();
    assert_eq!(world.conditions(), ["Suspended JobSuspended"]);
    assert!(world.pods().is_empty() && world.status()["startTime"].is_null());
    let patch = |world: &mut World, suspend: bool| {
        let job = world.job();
        world.fake.merge(&job, "", json!({"spec": {"suspend": suspend}}));
        world.settle();
    };
    patch(&mut world, false);
    assert_eq!((world.running().len(), world.conditions().len()), (2, 0));
    assert!(!world.status()["startTime"].is_null());
    patch(&mut world, true);
    assert!(world.pods().is_empty(), "pods that are suspended away are neither counted nor kept");
    assert_eq!((&world.status()["failed"], world.conditions().len()), (&Value::Null, 1));
}

#[test]
fn each_index_has_a_pod_a_name_and_a_variable() {
    let mut world = World::new(json!({"completionMode": "Indexed", "completions": 4, "parallelism": 2}));
    world.settle();
    let pods = world.running();
    let of = |pod: &Pod| index::of(pod, &world.job()).expect("an index");
    assert_eq!(pods.iter().map(of).collect::<Vec<_>>(), [0, 1]);
    let spec = pods[1].spec.as_ref().expect("a spec");
    assert_eq!(spec.hostname.as_deref(), Some("j-1"));
    let env = serde_json::to_value(&spec.containers[0].env).expect("JSON");
    assert_eq!(env[0]["name"], "JOB_COMPLETION_INDEX");
    let second = pods[1].clone();
    world.end(&second, 0);
    world.settle();
    assert_eq!(world.status()["completedIndexes"], "1");
    while !world.running().is_empty() {
        world.end_all(0);
        world.settle();
    }
    assert_eq!((&world.status()["completedIndexes"], &world.status()["succeeded"]), (&json!("0-3"), &json!(4)));
    assert_eq!(world.conditions()[1], "Complete CompletionsReached");
}

#[test]
fn indexes_fail_on_their_own() {
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimit": i32::MAX,
        "backoffLimitPerIndex": 1});
    let mut world = World::new(spec);
    world.settle();
    for _ in 0..4 {
        for pod in world.running() {
            let code = i32::from(index::of(&pod, &world.job()) == Some(1));
            world.end(&pod, code);
        }
        world.settle();
        world.now += 60;
        world.settle();
    }
    let status = world.status();
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("0,2"), &json!("1")));
    assert_eq!((&status["failed"], &status["succeeded"]), (&json!(2), &json!(2)));
    assert_eq!(world.conditions(), ["FailureTarget FailedIndexes", "Failed FailedIndexes"]);
    assert!(!world.pods().iter().any(has_finalizer));
}

#[test]
fn enough_successes_are_enough_by_the_success_policy() {
    let rules = json!([{"succeededIndexes": "0,2", "succeededCount": 1}]);
    let mut world = World::new(json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "successPolicy": {"rules": rules}}));
    world.settle();
    let third = world.running()[2].clone();
    world.end(&third, 0);
    world.settle();
    assert_eq!(world.conditions()[0], "SuccessCriteriaMet SuccessPolicy");
    assert!(world.running().is_empty(), "the others are stopped");
    assert_eq!(world.conditions()[1], "Complete SuccessPolicy");
    assert_eq!(world.status()["succeeded"], 1);
}

#[test]
fn rules_say_what_a_failure_means() {
    let codes = |values: Value| json!({"operator": "In", "values": values});
    let rules = json!([{"action": "FailJob", "onExitCodes": codes(json!([42]))}, {"action": "Ignore", "onExitCodes": codes(json!([7]))}]);
    let spec = json!({"backoffLimit": 0, "podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": rules}});
    let mut world = World::new(spec);
    world.settle();
    world.end_all(7);
    world.settle();
    assert_eq!((world.conditions().len(), &world.status()["failed"]), (0, &Value::Null), "it is ignored");
    world.now += 60;
    world.settle();
    world.end_all(42);
    world.settle();
    assert_eq!(world.conditions()[1], "Failed PodFailurePolicy");
    let message = world.status()["conditions"][0]["message"].as_str().unwrap_or("").to_owned();
    assert!(message.contains("failed with exit code 42 matching FailJob rule at index 0"), "{message}");
}

#[test]
fn a_queue_of_work_ends_when_one_success_is_followed_by_all() {
    let mut world = World::new(json!({"completions": null, "parallelism": 3}));
    world.settle();
    let first = world.running()[0].clone();
    world.end(&first, 0);
    world.settle();
    assert_eq!((world.running().len(), world.conditions().len()), (2, 0), "nobody takes its place");
    world.end_all(0);
    world.settle();
    assert_eq!(world.conditions()[1], "Complete CompletionsReached");
}

#[test]
fn a_finished_job_goes_after_its_time_and_another_managers_is_left_alone() {
    let mut world = World::new(json!({"ttlSecondsAfterFinished": 100}));
    world.settle();
    world.end_all(0);
    let rest = world.settle();
    assert_eq!(rest.requeue_after.map(|after| after.as_secs()), Some(100));
    let last = plan(at(world.now + 100), &world.view());
    assert!(matches!(
        Fake::writes(&last)[..],
        [Write { action: Action::Delete { propagation: Some("Foreground"), .. }, .. }]
    ));
    let mut other = World::new(json!({"managedBy": "example.com/other"}));
    other.settle();
    assert!(other.pods().is_empty());
}

#[test]
fn the_number_of_pods_follows_parallelism() {
    let mut world = World::new(json!({"parallelism": 4, "completions": 10}));
    world.settle();
    let job = world.job();
    world.fake.merge(&job, "", json!({"spec": {"parallelism": 1}}));
    world.settle();
    assert_eq!((world.pods().len(), &world.status()["failed"]), (1, &Value::Null));
}

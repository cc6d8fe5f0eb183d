//! CronJobs against a simulated cluster, whose clock the tests set.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::{Value, json};

use super::{View, name, plan};
use crate::reconcile::fake::Fake;
use crate::reconcile::{Plan, Step};

struct World {
    fake: Fake,
    now: Timestamp,
}

impl World {
    fn new(spec: Value) -> Self {
        let job =
            json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
        let mut object = json!({"metadata": {"name": "tick", "namespace": "ns"}, "spec": {
            "schedule": "*/5 * * * *", "concurrencyPolicy": "Allow", "jobTemplate": {
                "metadata": {"labels": {"a": "b"}}, "spec": job},
            "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1}});
        json_patch::merge(&mut object["spec"], &spec);
        let mut fake = Fake::default();
        fake.put(&serde_json::from_value::<CronJob>(object).expect("a CronJob"));
        let mut world = Self { fake, now: Timestamp::UNIX_EPOCH };
        let created = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:30Z"}});
        let cron_job = world.cron_job();
        world.fake.merge(&cron_job, "", created);
        world
    }

    fn cron_job(&self) -> CronJob {
        self.fake.get("ns", "tick").expect("the CronJob")
    }

    fn jobs(&self) -> Vec<Job> {
        self.fake.all()
    }

    fn view(&self) -> View {
        let jobs: Vec<Arc<Job>> = self.jobs().into_iter().map(Arc::new).collect();
        let taken = jobs.iter().filter_map(|job| job.metadata.name.clone()).collect();
        View { cron_job: Arc::new(self.cron_job()), jobs, taken }
    }

    /// The plans until there is nothing to write, at this time of 1 January 2026.
    fn at(&mut self, clock: &str) -> Plan {
        self.now = format!("2026-01-01T{clock}Z").parse().expect("a time");
        for _ in 0..10 {
            let plan = plan(self.now, &self.view());
            let writes = Fake::writes(&plan);
            if writes.is_empty() {
                return plan;
            }
            for write in writes {
                self.fake.apply(&write).expect("the write goes through");
            }
        }
        panic!("it never comes to rest");
    }

    fn end(&mut self, job: &Job, kind: &str) {
        let at = self.now.to_string();
        let status = json!({"startTime": at, "completionTime": at, "conditions": [{"type": kind, "status": "True"}]});
        self.fake.merge(job, "status", json!({"status": status}));
    }

    fn names(&self) -> Vec<String> {
        self.jobs().iter().map(|job| name(job).to_owned()).collect()
    }

    fn status(&self) -> Value {
        serde_json::to_value(self.cron_job().status.unwrap_or_default()).expect("JSON")
    }
}

fn told(plan: &Plan) -> Vec<&'static str> {
    let notes = plan.steps.iter().filter_map(|step| match step {
        Step::Tell(note) => Some(note.reason),
        _ => None,
    });
    notes.collect()
}

#[test]
fn each_moment_gets_its_job_once() {
    let mut world = World::new(json!({}));
    let rest = world.at("00:03:00");
    assert!(world.jobs().is_empty());
    assert_eq!(rest.requeue_after.map(|after| after.as_millis()), Some(120_100));
    world.at("00:05:00");
    world.at("00:06:00");
    assert_eq!(world.names(), ["tick-29453765"]);
    let job = serde_json::to_value(&world.jobs()[0]).expect("JSON");
    assert_eq!(job["metadata"]["annotations"][super::SCHEDULED], "2026-01-01T00:05:00Z");
    assert_eq!(
        (&job["metadata"]["labels"], &job["metadata"]["ownerReferences"][0]["kind"]),
        (&json!({"a": "b"}), &json!("CronJob"))
    );
    let status = world.status();
    assert_eq!(
        (&status["lastScheduleTime"], &status["active"][0]["name"]),
        (&json!("2026-01-01T00:05:00Z"), &json!("tick-29453765"))
    );
    let first = world.jobs()[0].clone();
    world.end(&first, "Complete");
    world.at("00:07:00");
    let status = world.status();
    assert_eq!((&status["active"], &status["lastSuccessfulTime"]), (&Value::Null, &json!("2026-01-01T00:06:00Z")));
    // A long time later only the latest moment counts.
    world.at("03:32:00");
    assert_eq!(world.names().len(), 2);
    assert_eq!(world.status()["lastScheduleTime"], "2026-01-01T03:30:00Z");
}

#[test]
fn a_crash_before_the_status_is_made_up_for() {
    let mut world = World::new(json!({}));
    world.now = "2026-01-01T00:05:00Z".parse().expect("a time");
    let create = Fake::writes(&plan(world.now, &world.view()));
    world.fake.apply(&create[0]).expect("the Job is made");
    world.at("00:05:01");
    assert_eq!(world.names().len(), 1);
    assert_eq!(world.status()["active"][0]["name"], "tick-29453765");
}

#[test]
fn policies_decide_about_a_job_that_still_runs() {
    for (policy, jobs, active) in [("Allow", 2, 2), ("Forbid", 1, 1), ("Replace", 1, 1)] {
        let mut world = World::new(json!({"concurrencyPolicy": policy}));
        world.at("00:05:00");
        let last = world.at("00:10:00");
        assert_eq!(world.jobs().len(), jobs, "{policy}");
        assert_eq!(world.status()["active"].as_array().map(Vec::len), Some(active), "{policy}");
        assert_eq!(told(&last).contains(&"JobAlreadyActive"), policy == "Forbid");
        if policy == "Replace" {
            assert_eq!(world.names(), ["tick-29453770"]);
        }
    }
}

#[test]
fn what_is_suspended_or_too_late_does_not_start() {
    let mut suspended = World::new(json!({"suspend": true}));
    assert_eq!(suspended.at("00:20:00").requeue_after, None);
    assert!(suspended.jobs().is_empty());
    let mut late = World::new(json!({"startingDeadlineSeconds": 60}));
    late.at("00:07:00");
    assert!(late.jobs().is_empty(), "the moment was two minutes ago");
    late.at("00:10:30");
    assert_eq!(late.names(), ["tick-29453770"]);
}

#[test]
fn the_history_is_bounded() {
    let mut world = World::new(json!({"successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0}));
    for (clock, end) in [("00:05:00", "Complete"), ("00:10:00", "Failed"), ("00:15:00", "Complete")] {
        world.at(clock);
        let newest = world.jobs().pop().expect("a Job");
        world.end(&newest, end);
        world.at(clock);
    }
    assert_eq!(world.names(), ["tick-29453775"]);
    assert_eq!(world.status()["lastScheduleTime"], "2026-01-01T00:15:00Z");
}

#[test]
fn a_zone_moves_the_moments_and_an_unknown_one_is_told() {
    let mut world = World::new(json!({"schedule": "0 9 * * *", "timeZone": "Asia/Tokyo"}));
    let rest = world.at("00:01:00");
    assert_eq!(rest.requeue_after.map(|after| after.as_secs()), Some(24 * 3600 - 60));
    let mut unknown = World::new(json!({"timeZone": "Mars/Base"}));
    assert_eq!(told(&unknown.at("01:00:00")), ["UnknownTimeZone"]);
    assert_eq!(told(&World::new(json!({})).at("23:00:00")), Vec::<&str>::new());
}

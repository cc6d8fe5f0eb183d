//! CronJob: a Job for each moment that the schedule names, while nothing speaks against it.
//!
//! A Job is named after its moment, so that no moment gets two, and tells it in an annotation. What the
//! status says (which Jobs are active, when the last was due) follows from the Jobs that there are:
//! whatever is interrupted between making a Job and writing that down is made up for by the next plan.

mod due;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;

use super::claim::controller_reference;
use super::diff::merge_patch;
use crate::kinds::cron::{self, Schedule};
use crate::reconcile::{Cluster, EventKind, ObjectKey, Plan, Queue, Reconciler, Shared, Step, Write, note};

/// Annotation of a Job: the moment that it was made for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Looks again this much after a moment, so that clocks agree that it has come.
const GRACE: Duration = Duration::from_millis(100);

/// The controller.
pub(super) struct CronJobs {
    cron_jobs: Shared<CronJob>,
    jobs: Shared<Job>,
}

/// All that concerns one CronJob.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub cron_job: Arc<CronJob>,
    /// The Jobs that it controls.
    pub jobs: Vec<Arc<Job>>,
    /// The names of its namespace's Jobs that begin like its own would.
    pub taken: HashSet<String>,
}

impl CronJobs {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self { cron_jobs: cluster.watch(), jobs: cluster.watch() }
    }
}

impl Reconciler for CronJobs {
    type View = View;

    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.cron_jobs);
        queue.follow_children(&self.jobs, "CronJob");
    }

    async fn synced(&self) {
        self.cron_jobs.synced().await;
        self.jobs.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.cron_jobs.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let cron_job = self.cron_jobs.get(key)?;
        let jobs = self.jobs.controlled_by(cron_job.metadata.uid.as_deref()?);
        let names = self.jobs.list_in(&key.namespace).into_iter().filter_map(|job| job.metadata.name.clone());
        let taken = names.filter(|name| name.starts_with(&*key.name)).collect();
        Some(View { cron_job, jobs, taken })
    }

    fn plan(&self, now: Timestamp, view: View) -> Plan {
        plan(now, &view)
    }
}

fn name(job: &Job) -> &str {
    job.metadata.name.as_deref().unwrap_or_default()
}

/// How a Job has ended, if it has.
fn ended(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let end = conditions.iter().find(|c| c.status == "True" && matches!(c.type_.as_str(), "Complete" | "Failed"));
    end.map(|condition| condition.type_.as_str())
}

/// The moment that a Job was made for.
fn moment(job: &Job) -> Option<Timestamp> {
    job.metadata.annotations.as_ref()?.get(SCHEDULED)?.parse().ok()
}

/// Decides what one CronJob needs.
pub(super) fn plan(now: Timestamp, view: &View) -> Plan {
    let mut plan = Plan::nothing();
    let cron_job = &*view.cron_job;
    let old = cron_job.status.clone().unwrap_or_default();
    let new = status(view, &old, &mut plan);
    if let Some(patch) = merge_patch(&old, &new) {
        plan.write(Write::patch(cron_job, "status", json!({"status": patch})));
    }
    plan.batch(forget(view));
    if cron_job.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let Some((schedule, zone)) = schedule(cron_job, &mut plan) else { return plan };
    if cron_job.spec.suspend != Some(true) {
        start(now, view, &new, &schedule, &zone, &mut plan);
    }
    plan
}

/// Which Jobs are active, and what is known of the last ones.
fn status(view: &View, old: &CronJobStatus, plan: &mut Plan) -> CronJobStatus {
    let listed: Vec<ObjectReference> = old.active.clone().unwrap_or_default();
    let is_listed = |job: &Job| listed.iter().any(|reference| reference.uid == job.metadata.uid);
    let tell = |kind, reason, message| Step::Tell(note(&*view.cron_job, kind, reason, message));
    let mut new = old.clone();
    let mut active: Vec<ObjectReference> = Vec::new();
    for reference in &listed {
        match view.jobs.iter().find(|job| job.metadata.uid == reference.uid) {
            Some(job) => match ended(job) {
                None => active.push(reference.clone()),
                Some(end) => {
                    let message = format!("Saw completed job: {}, condition: {end}", name(job));
                    plan.steps.push(tell(EventKind::Normal, "SawCompletedJob", message));
                }
            },
            None => {
                let message = format!("Active job went missing: {}", reference.name.as_deref().unwrap_or_default());
                plan.steps.push(tell(EventKind::Normal, "MissingJob", message));
            }
        }
    }
    for job in view.jobs.iter().filter(|job| ended(job).is_none() && !is_listed(job)) {
        if moment(job).is_some() {
            active.push(reference(job));
        } else {
            let message = format!("Saw a job that the controller did not create or forgot: {}", name(job));
            plan.steps.push(tell(EventKind::Warning, "UnexpectedJob", message));
        }
    }
    new.active = Some(active).filter(|active| !active.is_empty());
    let later = |time: &mut Option<Time>, candidates: &mut dyn Iterator<Item = Timestamp>| {
        if let Some(latest) = candidates.chain(time.as_ref().map(|t| t.0)).max() {
            *time = Some(Time(latest));
        }
    };
    later(&mut new.last_schedule_time, &mut view.jobs.iter().filter_map(|job| moment(job)));
    let completed = view.jobs.iter().filter(|job| ended(job) == Some("Complete"));
    let mut completed = completed.filter_map(|job| job.status.as_ref()?.completion_time.as_ref()).map(|time| time.0);
    later(&mut new.last_successful_time, &mut completed);
    new
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// The ended Jobs beyond what the history is to hold, the oldest first.
fn forget(view: &View) -> Vec<Write> {
    let spec = &view.cron_job.spec;
    let limits = [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
    let mut writes = Vec::new();
    for (end, limit) in limits {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let mut jobs: Vec<&Arc<Job>> = view.jobs.iter().filter(|job| ended(job) == Some(end)).collect();
        let started = |job: &Job| job.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
        jobs.sort_by(|a, b| started(a).cmp(&started(b)).then_with(|| name(a).cmp(name(b))));
        let surplus = jobs.len().saturating_sub(limit);
        let surplus = jobs.into_iter().take(surplus).filter(|job| job.metadata.deletion_timestamp.is_none());
        writes.extend(surplus.map(|job| delete(&view.cron_job, job)));
    }
    writes
}

fn delete(cron_job: &CronJob, job: &Job) -> Write {
    Write::delete(job)
        .with(None, Some("Background"))
        .on_success(note(cron_job, EventKind::Normal, "SuccessfulDelete", "Deleted job {name}".to_owned()))
        .on_failure(note(cron_job, EventKind::Warning, "FailedDelete", "Deleted job: {error}".to_owned()))
}

/// The schedule and the clock that it goes by. The server has checked both; a newer server may know more.
fn schedule(cron_job: &CronJob, plan: &mut Plan) -> Option<(Schedule, TimeZone)> {
    let spec = &cron_job.spec;
    let mut tell = |reason, message| plan.steps.push(Step::Tell(note(cron_job, EventKind::Warning, reason, message)));
    let zone = match spec.time_zone.as_deref() {
        None => Some(TimeZone::UTC),
        Some(name) => cron::time_zone(name),
    };
    let Some(zone) = zone else {
        let name = spec.time_zone.as_deref().unwrap_or_default();
        tell("UnknownTimeZone", format!("invalid timeZone: \"{name}\": unknown time zone {name}"));
        return None;
    };
    match Schedule::parse(&spec.schedule) {
        Ok(schedule) => Some((schedule, zone)),
        Err(why) => {
            tell("UnparseableSchedule", format!("unparseable schedule: \"{}\" : {why}", spec.schedule));
            None
        }
    }
}

/// Makes the Job that is due, if any, and comes back for the next.
fn start(now: Timestamp, view: &View, status: &CronJobStatus, schedule: &Schedule, zone: &TimeZone, plan: &mut Plan) {
    let cron_job = &*view.cron_job;
    let due = due::Due::of(cron_job, status, now, schedule, zone);
    if let Some(next) = due.next {
        plan.look_again(Duration::try_from(next.duration_since(now)).unwrap_or_default() + GRACE);
    }
    let tell = |kind, reason, message: String| Step::Tell(note(cron_job, kind, reason, message));
    if due.too_many_missed {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.steps.push(tell(EventKind::Warning, "TooManyMissedTimes", message.to_owned()));
    }
    let Some(moment) = due.now else { return };
    let job = new_job(cron_job, moment, zone);
    if view.taken.contains(name(&job)) || status.last_schedule_time == Some(Time(moment)) {
        return;
    }
    let active = status.active.as_deref().unwrap_or_default();
    match cron_job.spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.steps.push(tell(EventKind::Normal, "JobAlreadyActive", message.to_owned()));
            return;
        }
        Some("Replace") => {
            let running = view.jobs.iter().filter(|job| active.iter().any(|r| r.uid == job.metadata.uid));
            plan.batch(running.map(|job| delete(cron_job, job)).collect());
        }
        _ => {}
    }
    let create = Write::create(&job)
        .on_success(note(cron_job, EventKind::Normal, "SuccessfulCreate", "Created job {name}".to_owned()))
        .on_failure(note(cron_job, EventKind::Warning, "FailedCreate", "Error creating job: {error}".to_owned()));
    plan.write(create);
}

/// The Job of a moment. Names count minutes, as upstream's do.
fn new_job(cron_job: &CronJob, moment: Timestamp, zone: &TimeZone) -> Job {
    let template = cron_job.spec.job_template.clone();
    let described = template.metadata.unwrap_or_default();
    let mut annotations = described.annotations.unwrap_or_default();
    let told = moment.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    annotations.insert(SCHEDULED.to_owned(), told.replace("+00:00", "Z"));
    let base = cron_job.metadata.name.as_deref().unwrap_or_default();
    let metadata = ObjectMeta {
        name: Some(format!("{base}-{}", moment.as_second() / 60)),
        namespace: cron_job.metadata.namespace.clone(),
        labels: described.labels,
        annotations: Some(annotations),
        owner_references: Some(vec![controller_reference(cron_job)]),
        ..ObjectMeta::default()
    };
    Job { metadata, spec: Some(template.spec.unwrap_or_default()), status: None }
}

//! Whether a Job has come to its end, and how that is told.
//!
//! The end comes in two steps: first the decision (`FailureTarget` or `SuccessCriteriaMet`), upon which
//! the pods that still run are stopped; when the last is gone and counted, `Failed` or `Complete`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::pods;
use super::policy::{self, Verdict};
use super::tally::Tally;
use super::{condition, index, note, spec};
use crate::reconcile::{EventKind, Plan, Step};

/// How a Job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub success: bool,
    pub reason: String,
    pub message: String,
}

impl Outcome {
    fn new(success: bool, reason: &str, message: impl Into<String>) -> Self {
        Self { success, reason: reason.to_owned(), message: message.into() }
    }

    fn failure(reason: &str, message: impl Into<String>) -> Option<Self> {
        Some(Self::new(false, reason, message))
    }

    fn of(condition: &JobCondition, success: bool) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self { success, reason: text(&condition.reason), message: text(&condition.message) }
    }
}

/// What is decided, now or before; `None` while the Job goes on.
pub(super) fn outcome(now: Timestamp, job: &Job, tally: &Tally<'_>, plan: &mut Plan) -> Option<Outcome> {
    let decided = |kind: &str, success| {
        job.status.as_ref().and_then(|s| condition(s, kind)).map(|condition| Outcome::of(condition, success))
    };
    decided("SuccessCriteriaMet", true)
        .or_else(|| decided("FailureTarget", false))
        .or_else(|| failure(now, job, tally, plan))
        .or_else(|| failed_indexes(job, tally))
        .or_else(|| success(job, tally))
}

fn failure(now: Timestamp, job: &Job, tally: &Tally<'_>, plan: &mut Plan) -> Option<Outcome> {
    let failed = tally.pods.iter().filter(|pod| pods::phase(pod) == "Failed");
    let told = failed.filter_map(|pod| match policy::verdict(job, pod) {
        Verdict::FailJob(message) => Some(message),
        _ => None,
    });
    if let Some(message) = told.into_iter().next() {
        return Outcome::failure("PodFailurePolicy", message);
    }
    let limit = spec(job).backoff_limit.unwrap_or(6);
    if tally.failed > limit || restarts_exceed(job, tally, limit) {
        return Outcome::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    let (deadline, start) = (spec(job).active_deadline_seconds?, job.status.as_ref()?.start_time.as_ref()?);
    if spec(job).suspend == Some(true) {
        return None;
    }
    let deadline = Duration::from_secs(deadline.unsigned_abs());
    match deadline.checked_sub(pods::elapsed(start.0, now)) {
        Some(left) if !left.is_zero() => {
            plan.look_again(left);
            None
        }
        _ => Outcome::failure("DeadlineExceeded", "Job was active longer than specified deadline"),
    }
}

/// Pods that are restarted in place fail without ending: their restarts count.
fn restarts_exceed(job: &Job, tally: &Tally<'_>, limit: i32) -> bool {
    let policy = spec(job).template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let statuses = tally.pods.iter().filter(|pod| !pods::is_finished(pod)).filter_map(|pod| pod.status.as_ref());
    let containers = statuses.flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses).flatten());
    let restarts: i32 = containers.map(|c| c.restart_count).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn failed_indexes(job: &Job, tally: &Tally<'_>) -> Option<Outcome> {
    index::limit(job)?;
    let failed = tally.failed_indexes.len();
    if spec(job).max_failed_indexes.is_some_and(|most| failed > most) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Outcome::failure("MaxFailedIndexesExceeded", message);
    }
    if failed > 0 && failed + tally.succeeded_indexes.len() >= index::completions(job) {
        return Outcome::failure("FailedIndexes", "Job has failed indexes");
    }
    None
}

fn success(job: &Job, tally: &Tally<'_>) -> Option<Outcome> {
    if let Some(message) = policy::success(job, &tally.succeeded_indexes).filter(|_| index::is_indexed(job)) {
        return Some(Outcome::new(true, "SuccessPolicy", message));
    }
    let enough = match spec(job).completions {
        Some(wanted) => tally.succeeded >= wanted,
        None => tally.succeeded > 0,
    };
    let message = "Reached expected number of succeeded pods";
    (enough && tally.active.is_empty()).then(|| Outcome::new(true, "CompletionsReached", message))
}

/// Tells whether the Job is suspended; one that has ended is not.
pub(super) fn suspension(now: Timestamp, job: &Job, ended: bool, status: &mut JobStatus, plan: &mut Plan) {
    if ended || job.metadata.deletion_timestamp.is_some() {
        return;
    }
    let suspended = condition(status, "Suspended").is_some();
    match (spec(job).suspend == Some(true), suspended) {
        (true, false) => {
            set(status, new_condition(now, "Suspended", "True", "JobSuspended", "Job suspended"));
            plan.steps.push(Step::Tell(note(job, EventKind::Normal, "Suspended", "Job suspended")));
        }
        (false, true) => {
            set(status, new_condition(now, "Suspended", "False", "JobResumed", "Job resumed"));
            // The deadline is counted anew.
            status.start_time = Some(Time(now));
            plan.steps.push(Step::Tell(note(job, EventKind::Normal, "Resumed", "Job resumed")));
        }
        _ => {}
    }
}

/// Writes down what is decided, and the end once nothing runs and everything is counted.
pub(super) fn conclude(
    now: Timestamp,
    job: &Job,
    tally: &Tally<'_>,
    outcome: Option<&Outcome>,
    status: &mut JobStatus,
    plan: &mut Plan,
) {
    let Some(outcome) = outcome else { return };
    let (decision, end) =
        if outcome.success { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
    if condition(status, decision).is_none() {
        set(status, new_condition(now, decision, "True", &outcome.reason, &outcome.message));
    }
    if !tally.active.is_empty() || tally.terminating > 0 || !tally.is_settled() {
        return;
    }
    set(status, new_condition(now, end, "True", &outcome.reason, &outcome.message));
    let told = if outcome.success {
        status.completion_time = Some(Time(now));
        note(job, EventKind::Normal, "Completed", "Job completed")
    } else {
        note(job, EventKind::Warning, known_reason(&outcome.reason), outcome.message.as_str())
    };
    plan.steps.push(Step::Tell(told));
}

/// Events have their reasons from this program.
fn known_reason(reason: &str) -> &'static str {
    let reasons =
        ["PodFailurePolicy", "BackoffLimitExceeded", "DeadlineExceeded", "MaxFailedIndexesExceeded", "FailedIndexes"];
    reasons.into_iter().find(|known| *known == reason).unwrap_or("Failed")
}

fn set(status: &mut JobStatus, new: JobCondition) {
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|c| c.type_ == new.type_) {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

fn new_condition(now: Timestamp, kind: &str, status: &str, reason: &str, message: &str) -> JobCondition {
    JobCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
    }
}

//! What a Deployment says about itself: counts, conditions, and whether the rollout still moves.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::pods::elapsed;
use super::scale::Bounds;
use super::sets::Set;

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// The conditions while a plan is made. Upstream's rule: what keeps status and reason is not touched,
/// what keeps its status keeps its transition time.
#[derive(Debug, Clone)]
pub(super) struct Conditions {
    now: Timestamp,
    list: Vec<DeploymentCondition>,
}

impl Conditions {
    pub(super) fn of(deployment: &Deployment, now: Timestamp) -> Self {
        let list = deployment.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        Self { now, list }
    }

    pub(super) fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|c| c.type_ == kind)
    }

    pub(super) fn set(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let mut transition = Time(self.now);
        if let Some(current) = self.get(kind) {
            if current.status == status && current.reason.as_deref() == Some(reason) {
                return;
            }
            if current.status == status {
                transition = current.last_transition_time.clone().unwrap_or(transition);
            }
        }
        self.remove(kind);
        self.list.push(DeploymentCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(transition),
            last_update_time: Some(Time(self.now)),
        });
    }

    /// Like `set`, but counts as news even when status and reason stay: progress renews the deadline.
    fn renew(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let current = self.get(kind).filter(|c| c.status == status);
        let transition = current.and_then(|c| c.last_transition_time.clone());
        self.remove(kind);
        self.set(kind, status, reason, message);
        if let (Some(transition), Some(renewed)) = (transition, self.list.last_mut()) {
            renewed.last_transition_time = Some(transition);
        }
    }

    fn remove(&mut self, kind: &str) {
        self.list.retain(|c| c.type_ != kind);
    }

    pub(super) fn into_list(self) -> Option<Vec<DeploymentCondition>> {
        Some(self.list).filter(|l| !l.is_empty())
    }
}

/// The deadline, if the Deployment has one: the greatest number means none.
pub(super) fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.as_ref().and_then(|s| s.progress_deadline_seconds)?;
    (seconds != i32::MAX).then(|| Duration::from_secs(seconds.max(0).unsigned_abs().into()))
}

/// Notes that the rollout was paused or resumed, so that the time in between does not count.
pub(super) fn note_pause(deployment: &Deployment, paused: bool, conditions: &mut Conditions) {
    if deadline(deployment).is_none() {
        return;
    }
    let reason = conditions.get(PROGRESSING).and_then(|c| c.reason.clone());
    match reason.as_deref() {
        Some(TIMED_OUT) => {}
        Some(PAUSED) if !paused => {
            conditions.set(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".into());
        }
        reason if paused && reason != Some(PAUSED) => {
            conditions.set(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".into());
        }
        _ => {}
    }
}

/// The counts. The conditions come separately.
pub(super) fn counts(deployment: &Deployment, sets: &[Set], new: Option<usize>) -> DeploymentStatus {
    let statuses: Vec<_> = sets.iter().map(Set::status).collect();
    let sum = |count: &dyn Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| statuses.iter().map(count).sum();
    let available: i32 = sum(&|s| s.available_replicas.unwrap_or(0));
    let asked: i32 = sets.iter().map(Set::replicas).sum();
    let unknown = |s: &k8s_openapi::api::apps::v1::ReplicaSetStatus| {
        s.terminating_replicas.is_none() && s.observed_generation.unwrap_or(0) != 0
    };
    let terminating =
        if statuses.iter().any(unknown) { None } else { Some(sum(&|s| s.terminating_replicas.unwrap_or(0))) };
    let present = |n: i32| (n != 0).then_some(n);
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: present(sum(&|s| s.replicas)),
        updated_replicas: present(new.and_then(|i| statuses.get(i)).map_or(0, |s| s.replicas)),
        ready_replicas: present(sum(&|s| s.ready_replicas.unwrap_or(0))),
        available_replicas: present(available),
        unavailable_replicas: present((asked - available).max(0)),
        terminating_replicas: terminating,
        collision_count: deployment.status.as_ref().and_then(|s| s.collision_count),
        conditions: None,
    }
}

pub(super) fn note_availability(bounds: Bounds, status: &DeploymentStatus, conditions: &mut Conditions) {
    if status.available_replicas.unwrap_or(0) >= bounds.least() {
        let message = "Deployment has minimum availability.";
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", message.into());
    } else {
        let message = "Deployment does not have minimum availability.";
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", message.into());
    }
}

/// All desired pods are of the new template, available, and no others are left.
pub(super) fn is_complete(deployment: &Deployment, bounds: Bounds, status: &DeploymentStatus) -> bool {
    let all = Some(bounds.desired);
    let or_zero = |n: Option<i32>| Some(n.unwrap_or(0));
    or_zero(status.updated_replicas) == all
        && or_zero(status.replicas) == all
        && or_zero(status.available_replicas) == all
        && status.observed_generation >= deployment.metadata.generation
}

/// Judges the rollout: complete, moving or stuck. Returns when to look again for a passed deadline.
pub(super) fn note_progress(
    deployment: &Deployment,
    bounds: Bounds,
    status: &DeploymentStatus,
    new: Option<&Set>,
    conditions: &mut Conditions,
) -> Option<Duration> {
    let Some(deadline) = deadline(deployment) else {
        conditions.remove(PROGRESSING);
        return None;
    };
    let old = deployment.status.clone().unwrap_or_default();
    let reported = old.conditions.iter().flatten().find(|c| c.type_ == PROGRESSING);
    let reported_complete = reported.is_some_and(|c| c.reason.as_deref() == Some(NEW_SET_AVAILABLE));
    if status.replicas == status.updated_replicas && reported_complete {
        return None;
    }
    let subject = match new {
        Some(set) => format!("ReplicaSet \"{}\"", set.name()),
        None => format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    if is_complete(deployment, bounds, status) {
        conditions.set(PROGRESSING, "True", NEW_SET_AVAILABLE, format!("{subject} has successfully progressed."));
        return None;
    }
    if is_moving(&old, status) {
        conditions.renew(PROGRESSING, "True", "ReplicaSetUpdated", format!("{subject} is progressing."));
        return Some(deadline + Duration::from_secs(1));
    }
    let current = conditions.get(PROGRESSING)?;
    let reason = current.reason.as_deref().unwrap_or_default();
    if reason == NEW_SET_AVAILABLE || reason == TIMED_OUT {
        return None;
    }
    let since = current.last_update_time.as_ref()?.0;
    let waited = elapsed(since, conditions.now);
    match deadline.checked_sub(waited).filter(|left| !left.is_zero()) {
        // A second more: times on the wire are whole seconds.
        Some(left) => Some(left + Duration::from_secs(1)),
        None => {
            conditions.set(PROGRESSING, "False", TIMED_OUT, format!("{subject} has timed out progressing."));
            None
        }
    }
}

/// More pods of the new template, fewer of the old ones, more ready or more available than last told.
fn is_moving(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// Passes on why a set cannot create its pods: the new set's reason before any other's.
pub(super) fn note_failures(sets: &[Set], new: Option<usize>, conditions: &mut Conditions) {
    let newest = new.and_then(|i| sets.get(i)).into_iter();
    let failure = newest.chain(sets).find_map(|set| {
        let of = set.wanted.status.as_ref()?.conditions.as_ref()?;
        of.iter().find(|c| c.type_ == REPLICA_FAILURE).cloned()
    });
    match failure {
        Some(f) => {
            let reason = f.reason.unwrap_or_default();
            conditions.set(REPLICA_FAILURE, &f.status, &reason, f.message.unwrap_or_default());
        }
        None => conditions.remove(REPLICA_FAILURE),
    }
}

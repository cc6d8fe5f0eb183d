//! Job: pods that run until enough of them have succeeded, each end counted exactly once.
//!
//! A pod of a Job bears a finalizer until its end is in the Job's status, so that no end is lost, however
//! quickly the pod is removed. Counting has two steps, as upstream's: the uids of the ended pods go into
//! `status.uncountedTerminatedPods` and then lose the finalizer; a uid that is listed there and whose pod
//! bears no finalizer any more is counted for good. Whatever is interrupted in between goes on from
//! what the objects say.
//!
//! Where upstream remembers failures in memory to space out retries, this plan reads them off the pods,
//! which survives a restart. It also does the work of upstream's TTL controller.

mod create;
mod decide;
mod index;
mod policy;
mod tally;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::claim::{self, Claim};
use super::diff::merge_patch;
use super::pods;
use crate::kinds::job::OWN_MANAGER;
use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Shared, Write, note, owner_uid};

pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Index over pods: those with the finalizer and without an owner, by namespace.
const LEFT_BEHIND: &str = "job-left-behind";

/// The controller. Its keys are Jobs, and for each namespace the key without a name: the pods that still
/// bear the finalizer although nobody controls them.
pub(super) struct Jobs {
    jobs: Shared<Job>,
    pods: Shared<Pod>,
}

/// What concerns one key.
#[derive(Debug, Clone)]
pub(super) enum View {
    Job(JobView),
    /// Pods whose Job is gone: they are let go.
    LeftBehind(Vec<Arc<Pod>>),
}

/// All that concerns one Job.
#[derive(Debug, Clone, Default)]
pub(super) struct JobView {
    pub job: Arc<Job>,
    /// The pods that it controls.
    pub pods: Vec<Arc<Pod>>,
    /// Pods of its namespace that nobody controls.
    pub orphans: Vec<Arc<Pod>>,
}

impl Jobs {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let pods = cluster.watch::<Pod>();
        claim::index_orphans(&pods);
        pods.add_index(LEFT_BEHIND, |pod: &Pod| {
            let left = has_finalizer(pod) && owner_uid(&pod.metadata).is_none();
            pod.metadata.namespace.iter().filter(|_| left).cloned().collect()
        });
        Self { jobs: cluster.watch(), pods }
    }

    /// A pod that nobody controls must not keep the finalizer.
    fn follow_left_behind(&self, queue: &Queue) {
        let queue = queue.clone();
        self.pods.on_change(move |_, pod| {
            if let Some(pod) = pod.filter(|p| owner_uid(&p.metadata).is_none() && has_finalizer(p)) {
                queue.add(ObjectKey::new(pod.metadata.namespace.as_deref().unwrap_or_default(), ""));
            }
            true
        });
    }
}

impl Reconciler for Jobs {
    type View = View;

    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.jobs);
        queue.follow_children(&self.pods, "Job");
        queue.follow_orphans(&self.pods, &self.jobs, |job, pod| {
            spec(job).manual_selector == Some(true)
                && selector(job).is_some_and(|s| pods::matches(&s, pod.metadata.labels.as_ref()))
        });
        self.follow_left_behind(queue);
    }

    async fn synced(&self) {
        self.jobs.synced().await;
        self.pods.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        let mut keys = self.jobs.keys();
        for pod in self.pods.list().iter().filter(|pod| has_finalizer(pod)) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
            let owner = owners.iter().find(|o| o.controller == Some(true) && o.kind == "Job");
            keys.push(ObjectKey::new(namespace, owner.map_or("", |o| o.name.as_str())));
        }
        keys.sort();
        keys.dedup();
        keys
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        if let Some(job) = self.jobs.get(key) {
            let pods = self.pods.controlled_by(job.metadata.uid.as_deref()?);
            return Some(View::Job(JobView { job, pods, orphans: claim::orphans(&self.pods, &key.namespace) }));
        }
        if key.name.is_empty() {
            return Some(View::LeftBehind(self.pods.by_index(LEFT_BEHIND, &key.namespace)));
        }
        let mut left = self.pods.list_in(&key.namespace);
        left.retain(|pod| has_finalizer(pod) && is_of(pod, &key.name));
        Some(View::LeftBehind(left))
    }

    fn plan(&self, now: Timestamp, view: View) -> Plan {
        match view {
            View::Job(view) => plan(now, &view),
            View::LeftBehind(pods) => {
                let mut plan = Plan::nothing();
                plan.batch(pods.iter().map(|pod| without_finalizer(pod)).collect());
                plan
            }
        }
    }
}

fn is_of(pod: &Pod, job: &str) -> bool {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|o| o.controller == Some(true) && o.kind == "Job" && o.name == job)
}

pub(super) fn has_finalizer(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// Lets a pod go. The list is replaced whole, hence the revision as a precondition.
fn without_finalizer(pod: &Pod) -> Write {
    let mut finalizers = pod.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|f| f != FINALIZER);
    let finalizers = if finalizers.is_empty() { Value::Null } else { json!(finalizers) };
    let metadata = json!({"finalizers": finalizers, "resourceVersion": pod.metadata.resource_version});
    Write::patch(pod, "", json!({"metadata": metadata}))
}

fn selector(job: &Job) -> Option<kube::core::Selector> {
    job.spec.as_ref().and_then(|s| s.selector.as_ref()).and_then(pods::workload_selector)
}

fn spec(job: &Job) -> &JobSpec {
    static NONE: std::sync::OnceLock<JobSpec> = std::sync::OnceLock::new();
    job.spec.as_ref().unwrap_or_else(|| NONE.get_or_init(JobSpec::default))
}

fn is_true(status: &JobStatus, kind: &str) -> bool {
    condition(status, kind).is_some()
}

/// The condition of this type, if it is true.
fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")
}

/// Decides what one Job needs.
pub(super) fn plan(now: Timestamp, view: &JobView) -> Plan {
    let mut plan = Plan::nothing();
    let job = &*view.job;
    if spec(job).managed_by.as_deref().is_some_and(|manager| manager != OWN_MANAGER) {
        return plan;
    }
    let old = job.status.clone().unwrap_or_default();
    if is_true(&old, "Complete") || is_true(&old, "Failed") {
        plan.batch(view.pods.iter().filter(|p| has_finalizer(p)).map(|p| without_finalizer(p)).collect());
        expire(now, job, &old, &mut plan);
        return plan;
    }
    let claim = Claim { owner: job, selector: selector(job), adoptable: |_| true, finalizer: Some(FINALIZER) };
    let claimed = claim.pods(&view.pods, &view.orphans, &mut plan);
    let mut status = old.clone();
    if status.start_time.is_none() && spec(job).suspend != Some(true) {
        status.start_time = Some(Time(now));
    }
    let tally = tally::Tally::new(job, &claimed, &old);
    let outcome = decide::outcome(now, job, &tally, &mut plan);
    let changes = match &outcome {
        Some(_) => create::stop(job, &tally),
        None if job.metadata.deletion_timestamp.is_some() => create::Changes::default(),
        None => create::changes(now, job, &tally, &mut plan),
    };
    decide::suspension(now, job, outcome.is_some(), &mut status, &mut plan);
    tally.write_into(&mut status);
    decide::conclude(now, job, &tally, outcome.as_ref(), &mut status, &mut plan);
    if let Some(patch) = merge_patch(&old, &status) {
        // Counted from this very status: a newer one is to be counted anew.
        let metadata = json!({"resourceVersion": job.metadata.resource_version});
        plan.write(Write::patch(job, "status", json!({"metadata": metadata, "status": patch})));
    }
    plan.batch(tally.counted.iter().map(|pod| without_finalizer(pod)).collect());
    plan.batch(changes.release);
    plan.batch(changes.delete);
    plan.batch(changes.create);
    plan
}

/// A finished Job goes when its time to live is over, and its pods with it.
fn expire(now: Timestamp, job: &Job, status: &JobStatus, plan: &mut Plan) {
    let Some(ttl) = spec(job).ttl_seconds_after_finished else { return };
    if job.metadata.deletion_timestamp.is_some() {
        return;
    }
    let ended = ["Complete", "Failed"].into_iter().find_map(|kind| condition(status, kind));
    let Some(ended) = ended.and_then(|c| c.last_transition_time.as_ref()) else { return };
    let ttl = Duration::from_secs(ttl.unsigned_abs().into());
    match ttl.checked_sub(pods::elapsed(ended.0, now)) {
        Some(left) if !left.is_zero() => plan.look_again(left),
        _ => {
            let delete = Write::delete(job).with(None, Some("Foreground"));
            plan.write(delete.at_version(job.metadata.resource_version.clone()));
        }
    }
}

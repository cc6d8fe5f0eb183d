//! How far a Job is: what the pods say, and what is counted already.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::super::pods;
use super::policy::{self, Verdict};
use super::{has_finalizer, index, is_true, spec};
use crate::kinds::job::indexes::Indexes;

/// Uids in a status at once: what is more waits for the next round.
const MAX_UNCOUNTED: usize = 500;

/// A Job's pods and numbers, newly ended pods included.
pub(super) struct Tally<'a> {
    pub pods: &'a [&'a Arc<Pod>],
    pub active: Vec<&'a Arc<Pod>>,
    /// Pods on their way out.
    pub terminating: usize,
    pub ready: usize,
    pub succeeded: i32,
    pub failed: i32,
    pub succeeded_indexes: Indexes,
    pub failed_indexes: Indexes,
    /// Pods whose end the new status holds: they may lose the finalizer.
    pub counted: Vec<&'a Arc<Pod>>,
    /// Failed pods that keep the finalizer until a successor has taken over what they know of their
    /// index's failures.
    pub retained: Vec<&'a Arc<Pod>>,
    indexed: bool,
    by_index: bool,
    /// Where retries are limited by index: the pod that knows most of its index's failures.
    wisest: HashMap<i32, &'a Arc<Pod>>,
    /// Counted for good.
    settled: (i32, i32),
    uncounted: UncountedTerminatedPods,
}

/// Whether a pod has failed as far as the Job is concerned: one that is to go will not succeed, unless
/// the Job wants to see how it ends.
pub(super) fn has_failed(pod: &Pod, job: &Job) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pod.metadata.deletion_timestamp.is_some() && !waits_for_end(job),
    }
}

/// `podReplacementPolicy: Failed`.
pub(super) fn waits_for_end(job: &Job) -> bool {
    spec(job).pod_replacement_policy.as_deref() == Some("Failed")
}

pub(super) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && !pods::is_finished(pod)
}

impl<'a> Tally<'a> {
    pub(super) fn new(job: &Job, pods: &'a [&'a Arc<Pod>], status: &JobStatus) -> Self {
        let active: Vec<&Arc<Pod>> = pods.iter().copied().filter(|p| pods::is_active(p)).collect();
        let mut tally = Self {
            pods,
            ready: active.iter().filter(|p| pods::is_ready(p)).count(),
            active,
            terminating: pods.iter().filter(|p| is_terminating(p)).count(),
            succeeded: 0,
            failed: 0,
            succeeded_indexes: index::listed(status.completed_indexes.as_deref(), job),
            failed_indexes: index::listed(status.failed_indexes.as_deref(), job),
            counted: Vec::new(),
            retained: Vec::new(),
            indexed: index::is_indexed(job),
            by_index: index::limit(job).is_some(),
            wisest: HashMap::new(),
            settled: (status.succeeded.unwrap_or(0), status.failed.unwrap_or(0)),
            uncounted: UncountedTerminatedPods::default(),
        };
        tally.settle(status);
        tally.fail_indexes(job);
        // Once the end is decided there are no retries.
        if tally.by_index && !["SuccessCriteriaMet", "FailureTarget"].iter().any(|end| is_true(status, end)) {
            tally.find_wisest(job);
        }
        tally.count_ended(job, status);
        tally.sum();
        tally
    }

    /// What is listed and has lost its finalizer is counted for good.
    fn settle(&mut self, status: &JobStatus) {
        let held: HashSet<&str> =
            self.pods.iter().filter(|p| has_finalizer(p)).filter_map(|p| p.metadata.uid.as_deref()).collect();
        let listed = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let split = |uids: Option<Vec<String>>| -> (Vec<String>, i32) {
            let (kept, gone): (Vec<_>, Vec<_>) =
                uids.unwrap_or_default().into_iter().partition(|uid| held.contains(uid.as_str()));
            (kept, gone.len().try_into().unwrap_or(i32::MAX))
        };
        let ((succeeded, more_succeeded), (failed, more_failed)) = (split(listed.succeeded), split(listed.failed));
        self.settled.0 += more_succeeded;
        self.settled.1 += more_failed;
        self.uncounted = UncountedTerminatedPods { succeeded: Some(succeeded), failed: Some(failed) };
    }

    /// Indexes that have no retry left, by their pods.
    fn fail_indexes(&mut self, job: &Job) {
        let Some(limit) = index::limit(job) else { return };
        let failed = self.pods.iter().filter(|p| has_failed(p, job)).filter(|pod| match policy::verdict(job, pod) {
            Verdict::FailIndex => true,
            Verdict::Ignore => false,
            Verdict::Count | Verdict::FailJob(_) => index::failures(pod) >= limit,
        });
        let failed: Vec<i32> = failed.filter_map(|pod| index::of(pod, job)).collect();
        self.failed_indexes.extend(failed.into_iter().filter(|i| !self.succeeded_indexes.contains(*i)));
    }

    fn count_ended(&mut self, job: &Job, status: &JobStatus) {
        let concluded = is_true(status, "SuccessCriteriaMet");
        let mut succeeded_now = Vec::new();
        let ended: Vec<&Arc<Pod>> = self.pods.iter().copied().filter(|p| has_finalizer(p)).collect();
        for pod in ended {
            let failed = has_failed(pod, job);
            let succeeded = pods::phase(pod) == "Succeeded";
            let gone = job.metadata.deletion_timestamp.is_some();
            if !(failed || succeeded || gone || (concluded && is_terminating(pod))) {
                continue;
            }
            if failed && self.is_needed_for_retry(pod, job) {
                self.retained.push(pod);
                continue;
            }
            if self.full() {
                break;
            }
            if succeeded {
                match index::of(pod, job).filter(|_| self.indexed) {
                    Some(i) => succeeded_now.push(i),
                    None if !self.indexed => self.list(pod, true),
                    None => {}
                }
            } else if (failed || concluded) && self.is_a_failure(pod, job) {
                self.list(pod, false);
            }
            self.counted.push(pod);
        }
        self.succeeded_indexes.extend(succeeded_now);
    }

    fn is_a_failure(&self, pod: &Pod, job: &Job) -> bool {
        (!self.indexed || index::of(pod, job).is_some()) && policy::verdict(job, pod).counts()
    }

    fn find_wisest(&mut self, job: &Job) {
        let known = |pod: &Pod| (index::failures(pod) + index::ignored_failures(pod), pod.metadata.uid.clone());
        for pod in self.pods {
            let Some(i) = index::of(pod, job) else { continue };
            if self.wisest.get(&i).is_none_or(|best| known(best) < known(pod)) {
                self.wisest.insert(i, pod);
            }
        }
    }

    /// The failed pod that knows most of its index's failures stays until its successor has been made.
    fn is_needed_for_retry(&self, pod: &Pod, job: &Job) -> bool {
        let Some(i) = index::of(pod, job) else { return false };
        job.metadata.deletion_timestamp.is_none()
            && !self.succeeded_indexes.contains(i)
            && !self.failed_indexes.contains(i)
            && self.wisest.get(&i).is_some_and(|wisest| wisest.metadata.uid == pod.metadata.uid)
    }

    fn full(&self) -> bool {
        let count = |uids: &Option<Vec<String>>| uids.as_ref().map_or(0, Vec::len);
        count(&self.uncounted.succeeded) + count(&self.uncounted.failed) >= MAX_UNCOUNTED
    }

    fn list(&mut self, pod: &Pod, succeeded: bool) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let both = [&self.uncounted.succeeded, &self.uncounted.failed];
        if both.iter().any(|uids| uids.iter().flatten().any(|listed| *listed == uid)) {
            return;
        }
        let uids = if succeeded { &mut self.uncounted.succeeded } else { &mut self.uncounted.failed };
        uids.get_or_insert_default().push(uid);
    }

    fn sum(&mut self) {
        let listed = |uids: &Option<Vec<String>>| i32::try_from(uids.as_ref().map_or(0, Vec::len)).unwrap_or(i32::MAX);
        self.succeeded = if self.indexed {
            self.succeeded_indexes.len()
        } else {
            self.settled.0.saturating_add(listed(&self.uncounted.succeeded))
        };
        self.failed = self.settled.1.saturating_add(listed(&self.uncounted.failed));
    }

    /// Whether every end is counted for good.
    pub(super) fn is_settled(&self) -> bool {
        let none = |uids: &Option<Vec<String>>| uids.as_ref().is_none_or(Vec::is_empty);
        none(&self.uncounted.succeeded) && none(&self.uncounted.failed) && self.counted.is_empty()
    }

    pub(super) fn write_into(&self, status: &mut JobStatus) {
        let present = |n: i32| (n != 0).then_some(n);
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let listed = |uids: &Option<Vec<String>>| uids.clone().filter(|uids| !uids.is_empty());
        status.active = present(count(self.active.len()));
        status.ready = Some(count(self.ready));
        status.terminating = Some(count(self.terminating));
        status.succeeded = present(if self.indexed { self.succeeded } else { self.settled.0 });
        status.failed = present(self.settled.1);
        if self.indexed {
            status.completed_indexes = Some(self.succeeded_indexes.to_string()).filter(|text| !text.is_empty());
        }
        if self.by_index {
            status.failed_indexes = Some(self.failed_indexes.to_string());
        }
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: listed(&self.uncounted.succeeded),
            failed: listed(&self.uncounted.failed),
        });
    }
}

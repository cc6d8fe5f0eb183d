//! Indexed Jobs: which pod stands for which index, and how often an index has failed.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::spec;
use crate::kinds::job::indexes::Indexes;

/// Label and annotation of a pod: its index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotations of a pod whose Job limits retries by index: how often its index has failed before, in
/// ways that count and in ways that do not.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

pub(super) fn is_indexed(job: &Job) -> bool {
    spec(job).completion_mode.as_deref() == Some("Indexed")
}

/// How many pods have to succeed; 0 where one success ends the Job.
pub(super) fn completions(job: &Job) -> i32 {
    spec(job).completions.unwrap_or(0)
}

/// The limit of retries by index, if the Job has one.
pub(super) fn limit(job: &Job) -> Option<i32> {
    spec(job).backoff_limit_per_index.filter(|_| is_indexed(job))
}

/// A pod's index, if it is one of the Job's.
pub(super) fn of(pod: &Pod, job: &Job) -> Option<i32> {
    let index = annotation(pod, INDEX)?;
    (0..completions(job)).contains(&index).then_some(index)
}

pub(super) fn failures(pod: &Pod) -> i32 {
    annotation(pod, FAILURES).unwrap_or(0)
}

pub(super) fn ignored_failures(pod: &Pod) -> i32 {
    annotation(pod, IGNORED_FAILURES).unwrap_or(0)
}

fn annotation(pod: &Pod, name: &str) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(name)?.parse().ok()
}

/// The indexes that a status lists.
pub(super) fn listed(text: Option<&str>, job: &Job) -> Indexes {
    Indexes::of_status(text.unwrap_or_default(), completions(job))
}

//! The pods that a Job makes and removes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::claim::controller_reference;
use super::super::pods;
use super::super::rank;
use super::policy::{self, Verdict};
use super::tally::{Tally, has_failed, is_terminating, waits_for_end};
use super::{FINALIZER, has_finalizer, index, note, spec, without_finalizer};
use crate::kinds::job::indexes::Indexes;
use crate::reconcile::{EventKind, Plan, Write};

/// Pods made or removed by one plan.
const MAX_CHANGES: usize = 500;
/// After a failure; doubled with each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(600);
/// What is left of a base name so that a suffix fits behind it.
const MAX_BASE: usize = 58;

/// Writes, group after group.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Pods that go without being counted lose the finalizer first.
    pub release: Vec<Write>,
    pub delete: Vec<Write>,
    pub create: Vec<Write>,
}

/// The end is decided: whatever runs is stopped, and counted as it ends.
pub(super) fn stop(job: &Job, tally: &Tally<'_>) -> Changes {
    let delete = tally.active.iter().take(MAX_CHANGES).map(|pod| delete(job, pod)).collect();
    Changes { delete, ..Changes::default() }
}

/// Brings the number of active pods to what is wanted. One round either removes or makes pods.
pub(super) fn changes(now: Timestamp, job: &Job, tally: &Tally<'_>, plan: &mut Plan) -> Changes {
    let active = tally.active.len();
    let wanted = if spec(job).suspend == Some(true) { 0 } else { wanted(job, tally) };
    let victims = victims(job, tally, active.saturating_sub(wanted));
    if !victims.is_empty() {
        return Changes {
            release: victims.iter().filter(|p| has_finalizer(p)).map(|p| without_finalizer(p)).collect(),
            delete: victims.iter().map(|pod| delete(job, pod)).collect(),
            create: Vec::new(),
        };
    }
    let leaving = if waits_for_end(job) { tally.terminating } else { 0 };
    let missing = wanted.saturating_sub(active + leaving).min(MAX_CHANGES);
    if missing == 0 {
        return Changes::default();
    }
    let create = if index::limit(job).is_some() {
        retry_indexes(now, job, tally, missing, plan)
    } else if let Some(wait) = backoff(now, job, tally.pods.iter().copied()) {
        plan.look_again(wait);
        Vec::new()
    } else if index::is_indexed(job) {
        free_indexes(job, tally, missing).into_iter().map(|i| create(job, Some(i), None)).collect()
    } else {
        vec![create(job, None, None); missing]
    };
    Changes { create, ..Changes::default() }
}

fn wanted(job: &Job, tally: &Tally<'_>) -> usize {
    let parallelism = spec(job).parallelism.unwrap_or(1);
    let wanted = match spec(job).completions {
        // A queue of work: after the first success those that run may finish.
        None if tally.succeeded > 0 => return tally.active.len(),
        None => parallelism,
        Some(completions) => {
            let failed = if index::limit(job).is_some() { tally.failed_indexes.len() } else { 0 };
            (completions - tally.succeeded - failed).min(parallelism)
        }
    };
    wanted.try_into().unwrap_or(0)
}

/// The active pods that go: those whose index another has or nobody wants, then as ReplicaSets choose.
fn victims<'a>(job: &Job, tally: &Tally<'a>, at_least: usize) -> Vec<&'a Arc<Pod>> {
    let (mut victims, mut others) = (Vec::new(), tally.active.clone());
    if index::is_indexed(job) {
        let mut taken = HashSet::new();
        let ranked = rank::first_to_go(&tally.active, &HashMap::new(), tally.active.len());
        // From behind: of two pods of one index the better one stays.
        let (kept, surplus): (Vec<_>, Vec<_>) =
            ranked.into_iter().rev().partition(|pod| index::of(pod, job).is_some_and(|i| taken.insert(i)));
        (victims, others) = (surplus, kept);
    }
    let more = at_least.saturating_sub(victims.len());
    victims.extend(rank::first_to_go(&others, &HashMap::new(), more));
    victims.truncate(MAX_CHANGES);
    victims
}

/// The first indexes that have neither succeeded nor failed nor a pod.
fn free_indexes(job: &Job, tally: &Tally<'_>, count: usize) -> Vec<i32> {
    let mut busy = Indexes::default();
    let blocks = |pod: &&&Arc<Pod>| pods::is_active(pod) || (waits_for_end(job) && is_terminating(pod));
    busy.extend(tally.pods.iter().filter(blocks).filter_map(|pod| index::of(pod, job)));
    let taken = [&tally.succeeded_indexes, &tally.failed_indexes, &busy];
    Indexes::missing_below(index::completions(job), &taken).take(count).collect()
}

/// Pods for indexes that fail independently of each other, each after its own back-off.
fn retry_indexes(now: Timestamp, job: &Job, tally: &Tally<'_>, count: usize, plan: &mut Plan) -> Vec<Write> {
    let mut writes = Vec::new();
    for i in free_indexes(job, tally, count) {
        let before = tally.retained.iter().copied().find(|pod| index::of(pod, job) == Some(i));
        let wait = before.and_then(|pod| {
            let failures = index::failures(pod) + index::ignored_failures(pod) + 1;
            remaining(now, pod, failures.unsigned_abs())
        });
        match wait {
            Some(wait) => plan.look_again(wait),
            None => writes.push(create(job, Some(i), before.map(|pod| &**pod))),
        }
    }
    writes
}

/// How long to wait before the next try: the failures since the last success decide.
fn backoff<'a>(now: Timestamp, job: &Job, pods: impl Iterator<Item = &'a Arc<Pod>>) -> Option<Duration> {
    let ended = |pod: &&Arc<Pod>| pods::phase(pod) == "Succeeded" || has_failed(pod, job);
    let mut ended: Vec<(Option<Timestamp>, &Arc<Pod>)> = pods.filter(ended).map(|pod| (ended_at(pod), pod)).collect();
    ended.sort_by_key(|(at, _)| *at);
    let failures = ended.iter().rev().take_while(|(_, pod)| pods::phase(pod) != "Succeeded").count();
    let (_, last) = ended.last().filter(|_| failures > 0)?;
    remaining(now, last, u32::try_from(failures).unwrap_or(u32::MAX))
}

fn remaining(now: Timestamp, last: &Pod, failures: u32) -> Option<Duration> {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let pause = BACKOFF_FIRST.saturating_mul(doubled.max(1)).min(BACKOFF_MAX);
    let since = pods::elapsed(ended_at(last)?, now);
    pause.checked_sub(since).filter(|left| !left.is_zero())
}

/// When a pod ended, as well as it is known.
fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let terminated = statuses.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let by_containers = terminated.map(|time| time.0).max();
    let unready = || pods::condition(pod, "Ready").filter(|c| c.status == "False")?.last_transition_time.as_ref();
    let meta = &pod.metadata;
    by_containers
        .or_else(|| unready().map(|time| time.0))
        .or_else(|| meta.deletion_timestamp.as_ref().or(meta.creation_timestamp.as_ref()).map(|time| time.0))
}

fn delete(job: &Job, pod: &Pod) -> Write {
    Write::delete(pod)
        .on_success(note(job, EventKind::Normal, "SuccessfulDelete", "Deleted pod: {name}"))
        .on_failure(note(job, EventKind::Warning, "FailedDelete", "Error deleting: {error}"))
}

/// A pod as the template describes it, for an index where there are any, in place of `before`.
fn create(job: &Job, at: Option<i32>, before: Option<&Pod>) -> Write {
    let template = spec(job).template.clone();
    let described = template.metadata.unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let mut pod = Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: job.metadata.namespace.clone(),
            labels: described.labels,
            annotations: described.annotations,
            finalizers: described.finalizers,
            owner_references: Some(vec![controller_reference(job)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    };
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    if let Some(i) = at {
        give_index(&mut pod, job, name, i, before);
    }
    Write::create(&pod)
        .on_success(note(job, EventKind::Normal, "SuccessfulCreate", "Created pod: {name}"))
        .on_failure(note(job, EventKind::Warning, "FailedCreate", "Error creating: {error}"))
}

fn give_index(pod: &mut Pod, job: &Job, name: &str, i: i32, before: Option<&Pod>) {
    let metadata = &mut pod.metadata;
    let suffix = format!("-{i}-");
    let base: String = name.chars().take(MAX_BASE.saturating_sub(suffix.len())).collect();
    metadata.generate_name = Some(format!("{base}{suffix}"));
    metadata.labels.get_or_insert_default().insert(index::INDEX.to_owned(), i.to_string());
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(index::INDEX.to_owned(), i.to_string());
    if index::limit(job).is_some() {
        let (mut failures, mut ignored) =
            before.map_or((0, 0), |pod| (index::failures(pod), index::ignored_failures(pod)));
        match before.map(|pod| policy::verdict(job, pod)) {
            None => {}
            Some(Verdict::Ignore) => ignored += 1,
            Some(_) => failures += 1,
        }
        annotations.insert(index::FAILURES.to_owned(), failures.to_string());
        if ignored > 0 {
            annotations.insert(index::IGNORED_FAILURES.to_owned(), ignored.to_string());
        }
    }
    let Some(spec) = &mut pod.spec else { return };
    spec.hostname = Some(format!("{name}-{i}"));
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(tell_index);
}

/// The variable by which a program knows its index.
fn tell_index(container: &mut Container) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == NAME) {
        return;
    }
    let field_ref =
        ObjectFieldSelector { field_path: format!("metadata.labels['{}']", index::INDEX), api_version: None };
    let source = EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() };
    env.push(EnvVar { name: NAME.to_owned(), value: None, value_from: Some(source) });
}

//! What a ReplicaSet says about itself.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::super::diff::merge_patch;
use super::super::pods::{self, Availability};
use super::{Failure, Replicated, View};
use crate::reconcile::{Plan, Write};

/// Plans the write of the status if it differs, and the next look when a pod becomes available by
/// the mere passing of time.
pub(super) fn plan<K: Replicated>(
    now: Timestamp,
    view: &View<K>,
    failure: Option<&Failure>,
    claimed: &[&Arc<Pod>],
    counted: &[&Arc<Pod>],
    plan: &mut Plan,
) {
    let old = view.set.status();
    let mut new = status(now, view, claimed, counted, plan);
    new.conditions = conditions(now, &old, failure);
    if let Some(patch) = merge_patch(&old, &new) {
        plan.write(Write::patch(&*view.set, "status", json!({"status": patch})));
    }
}

fn status<K: Replicated>(
    now: Timestamp,
    view: &View<K>,
    claimed: &[&Arc<Pod>],
    counted: &[&Arc<Pod>],
    plan: &mut Plan,
) -> ReplicaSetStatus {
    let min_ready = view.set.min_ready_seconds();
    let template = view.set.template().and_then(|t| t.metadata);
    let template_labels = template.and_then(|m| m.labels).unwrap_or_default();
    let fully_labeled = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        template_labels.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v))
    };
    let (mut ready, mut available) = (0, 0);
    for pod in counted {
        match pods::availability(pod, min_ready, now) {
            Availability::Unready => {}
            Availability::Available => (ready, available) = (ready + 1, available + 1),
            Availability::In(left) => {
                ready += 1;
                plan.look_again(left);
            }
        }
    }
    let terminating = claimed.iter().filter(|p| p.metadata.deletion_timestamp.is_some() && !pods::is_finished(p));
    ReplicaSetStatus {
        replicas: count(counted.len()),
        fully_labeled_replicas: present(count(counted.iter().filter(|p| fully_labeled(p)).count())),
        ready_replicas: present(ready),
        available_replicas: present(available),
        terminating_replicas: K::COUNTS_TERMINATING.then(|| count(terminating.count())),
        observed_generation: view.set.meta().generation,
        conditions: None,
    }
}

/// Counts are 32 bits wide on the wire.
fn count(n: usize) -> i32 {
    n.try_into().unwrap_or(i32::MAX)
}

/// Upstream leaves out what is zero.
fn present(n: i32) -> Option<i32> {
    (n != 0).then_some(n)
}

fn conditions(now: Timestamp, old: &ReplicaSetStatus, failure: Option<&Failure>) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let same = |c: &ReplicaSetCondition| failure.is_some_and(|f| c.reason.as_deref() == Some(f.reason));
    conditions.retain(|c| c.type_ != "ReplicaFailure" || same(c));
    if let Some(failure) = failure
        && !conditions.iter().any(|c| c.type_ == "ReplicaFailure")
    {
        conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(failure.reason.into()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(Time(now)),
        });
    }
    Some(conditions).filter(|c| !c.is_empty())
}

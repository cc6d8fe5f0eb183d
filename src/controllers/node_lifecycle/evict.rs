//! Eviction by taints: a pod goes when its toleration of a NoExecute taint has run out.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};
use kube::Resource;

use super::super::pods::{self, elapsed};
use super::{View, taints};
use crate::reconcile::{EventKind, Note, Plan, Write};

/// How long a pod may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stay {
    Forever,
    Until(Timestamp),
    Not,
}

pub(super) fn plan(now: Timestamp, view: &View, plan: &mut Plan) {
    let taints = taints::no_execute(&view.node);
    if taints.is_empty() {
        return;
    }
    let mut evictions = Vec::new();
    for pod in view.pods.iter().filter(|p| pods::is_active(p)) {
        let left = match stay(pod, &taints, now) {
            Stay::Forever => continue,
            Stay::Until(end) => elapsed(now, end),
            Stay::Not => Duration::ZERO,
        };
        if left.is_zero() {
            evictions.push(evict(pod));
        } else {
            plan.look_again(left);
        }
    }
    plan.batch(evictions);
}

fn stay(pod: &Pod, taints: &[&Taint], now: Timestamp) -> Stay {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut stay = Stay::Forever;
    for taint in taints {
        let tolerating: Vec<&Toleration> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if tolerating.is_empty() {
            return Stay::Not;
        }
        // Of several tolerations of one taint the shortest counts, as upstream has it.
        let Some(seconds) = tolerating.iter().filter_map(|t| t.toleration_seconds).min() else { continue };
        let since = taint.time_added.as_ref().map_or(now, |t| t.0);
        let seconds = Duration::from_secs(seconds.max(0).unsigned_abs());
        let end = since.checked_add(seconds).unwrap_or(Timestamp::MAX);
        stay = match stay {
            Stay::Until(earlier) => Stay::Until(earlier.min(end)),
            Stay::Forever | Stay::Not => Stay::Until(end),
        };
    }
    stay
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let any = |value: &Option<String>| value.as_deref().is_none_or(str::is_empty);
    let effect = any(&toleration.effect) || toleration.effect.as_deref() == Some(&taint.effect);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let key = if any(&toleration.key) { exists } else { toleration.key.as_deref() == Some(&taint.key) };
    let value = exists || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    effect && key && value
}

fn evict(pod: &Pod) -> Write {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let message = format!("Marking for deletion Pod {namespace}/{name}");
    let about = pod.object_ref(&());
    Write::delete(pod).on_success(Note { about, kind: EventKind::Normal, reason: "TaintManagerEviction", message })
}

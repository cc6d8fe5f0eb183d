//! A new template: from the highest ordinal down to the partition, as many at a time as may be away.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Context, delete, identity};
use crate::reconcile::Plan;

/// How many pods may be away at once.
fn max_unavailable(context: &Context<'_>) -> usize {
    let rolling = context.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let replicas = context.wanted.len();
    let most = match rolling.and_then(|r| r.max_unavailable.as_ref()) {
        None => 1,
        Some(IntOrString::Int(n)) => usize::try_from(*n).unwrap_or(1),
        Some(IntOrString::String(text)) => {
            let percent: usize = text.trim_end_matches('%').parse().unwrap_or(0);
            (replicas * percent).div_ceil(100)
        }
    };
    most.max(1)
}

/// Plans the pods that go next, to be made anew from the present template.
pub(super) fn roll(context: &Context<'_>, plan: &mut Plan) {
    if context.spec.update_strategy.as_ref().is_some_and(|s| s.type_.as_deref() == Some("OnDelete")) {
        return;
    }
    let mut left = max_unavailable(context);
    for ordinal in context.wanted.clone().rev().filter(|ordinal| !context.keeps_revision(*ordinal)) {
        if let Some(pod) = context.pods.get(&ordinal) {
            let old = !identity::is_of(pod, &context.update) && pod.metadata.deletion_timestamp.is_none();
            if old {
                plan.write(delete(context, pod));
            } else if context.is_healthy(pod) {
                continue;
            }
        }
        // One that is not there yet is away, too.
        left -= 1;
        if left == 0 {
            return;
        }
    }
}

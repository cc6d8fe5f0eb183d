//! What a StatefulSet says about itself.

use k8s_openapi::api::apps::v1::StatefulSetStatus;

use super::super::pods::{self, Availability};
use super::{Context, identity};
use crate::reconcile::Plan;

/// The counts; also plans the next look when a pod becomes available by the mere passing of time.
pub(super) fn of(context: &Context<'_>, old: &StatefulSetStatus, plan: &mut Plan) -> StatefulSetStatus {
    let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
    for pod in context.pods.values() {
        if pods::is_finished(pod) {
            continue;
        }
        replicas += 1;
        if pod.metadata.deletion_timestamp.is_none() {
            current += i32::from(identity::is_of(pod, &context.current.0));
            updated += i32::from(identity::is_of(pod, &context.update));
        }
        match context.availability(pod) {
            Availability::Unready => {}
            Availability::In(left) => {
                ready += 1;
                plan.look_again(left);
            }
            Availability::Available => (ready, available) = (ready + 1, available + 1),
        }
    }
    let present = |n: i32| (n != 0).then_some(n);
    let mut status = StatefulSetStatus {
        observed_generation: context.set.metadata.generation,
        replicas,
        ready_replicas: present(ready),
        available_replicas: Some(available),
        current_replicas: present(current),
        updated_replicas: present(updated),
        current_revision: Some(context.current.0.clone()),
        update_revision: Some(context.update.clone()),
        collision_count: Some(old.collision_count.unwrap_or(0)),
        conditions: old.conditions.clone(),
    };
    // The rollout is complete: there is one revision again.
    let wanted = i32::try_from(context.wanted.len()).unwrap_or(i32::MAX);
    let rolls = context.spec.update_strategy.as_ref().is_none_or(|s| s.type_.as_deref() != Some("OnDelete"));
    if rolls && context.current.0 != context.update && [updated, ready, replicas].iter().all(|n| *n == wanted) {
        status.current_revision = Some(context.update.clone());
        status.current_replicas = present(updated);
    }
    status
}

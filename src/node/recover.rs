//! What a pod's status says that it did before this process began. Pure.
//!
//! A node that was killed comes back to pods that the API shows as running, while their guests went
//! with the old process. Each such life has ended, with code 137; whether another follows is the
//! restart policy's affair, as with any other end. What had ended for good stays ended. A container of a
//! runtime that outlives the process ([`crate::runtime::Nature`]) runs on, as far as is known here: it is
//! looked for before it is taken for ended.

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;

use super::plan::{Plan, Role};
use super::pod::{Cause, Cell, Ended, Eviction, Life, Moment, Stage, State, restarts};

/// The state of a pod that this process sees for the first time. `outlives` says of a container's id whether
/// it is of a runtime that outlives the process.
pub fn state(plan: &Plan, pod: &core::Pod, now: Moment, outlives: &dyn Fn(&str) -> bool) -> State {
    let mut state = State::new(plan, now);
    let Some(status) = &pod.status else { return state };
    if let Some(started_at) = &status.start_time {
        state.started_before(plan, started_at.0, now);
    }
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let known = || lists.into_iter().flatten().flatten();
    for (container, cell) in plan.containers.iter().zip(&mut state.cells) {
        if let Some(known) = known().find(|known| known.name == container.name) {
            restore(cell, known, plan, container.role, now.wall, outlives);
        }
    }
    match status.phase.as_deref() {
        Some("Succeeded") => state.stage = Stage::Finished(Cause::Completed),
        Some("Failed") if status.reason.as_deref() == Some("DeadlineExceeded") => {
            state.stage = Stage::Finished(Cause::Overdue);
        }
        Some("Failed") if status.reason.as_deref() == Some("Evicted") => {
            let told = status.conditions.iter().flatten().any(|known| known.type_ == "DisruptionTarget");
            let message = status.message.clone().unwrap_or_default();
            state.evicted = Some(Eviction { message, disruption: told });
            state.stage = Stage::Finished(Cause::Evicted);
        }
        Some("Failed") => state.stage = Stage::Finished(Cause::Completed),
        _ => {}
    }
    state
}

fn restore(
    cell: &mut Cell,
    known: &core::ContainerStatus,
    plan: &Plan,
    role: Role,
    now: Timestamp,
    outlives: &dyn Fn(&str) -> bool,
) {
    cell.restarts = u32::try_from(known.restart_count).unwrap_or(0);
    cell.image_id.clone_from(&known.image_id);
    cell.id.clone_from(&known.container_id);
    let run = cell.restarts;
    let before = known.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    cell.last = before.map(|ended| from_terminated(ended, run.saturating_sub(1), now));
    let Some(state) = &known.state else { return };
    if let Some(running) = &state.running
        && known.container_id.as_deref().is_some_and(outlives)
    {
        cell.life = Life::Outlived { started_at: running.started_at.as_ref().map_or(now, |time| time.0) };
        return;
    }
    let ended = match (&state.running, &state.terminated) {
        (Some(running), _) => Ended {
            code: 137,
            reason: "Error".to_owned(),
            message: "the node's process ended, and the container with it".to_owned(),
            started_at: running.started_at.as_ref().map_or(now, |time| time.0),
            finished_at: now,
            run,
            id: known.container_id.clone(),
        },
        (None, Some(terminated)) => from_terminated(terminated, run, now),
        (None, None) => return,
    };
    if restarts(role, plan.restart, ended.code) {
        cell.last = Some(ended);
    } else {
        cell.life = Life::Ended(ended);
    }
}

fn from_terminated(ended: &core::ContainerStateTerminated, run: u32, now: Timestamp) -> Ended {
    Ended {
        code: ended.exit_code,
        reason: ended.reason.clone().unwrap_or_default(),
        message: ended.message.clone().unwrap_or_default(),
        started_at: ended.started_at.as_ref().map_or(now, |time| time.0),
        finished_at: ended.finished_at.as_ref().map_or(now, |time| time.0),
        run,
        id: ended.container_id.clone(),
    }
}

//! What the API is told of a pod, computed from its state. Pure.
//!
//! The words are upstream's, for people and programs read them: `ContainerCreating`,
//! `CrashLoopBackOff`, `ContainersNotReady`. Times are cut to seconds, as the API shows them, so that
//! what was written compares equal to what comes back.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::plan::{Plan, Restart, Role};
use super::pod::{Cause, Cell, Ended, Life, Stage, State};

/// Everything that a status is made of.
pub struct Picture<'a> {
    pub pod: &'a core::Pod,
    pub plan: &'a Plan,
    pub state: &'a State,
    pub ip: Option<IpAddr>,
    pub host_ip: IpAddr,
    /// The name of the pod's runtime.
    pub runtime: &'a str,
    /// What was told last: keeps the times of conditions that have not changed.
    pub previous: Option<&'a core::PodStatus>,
    pub now: Timestamp,
}

/// The status as it is to be.
pub fn build(picture: &Picture<'_>) -> core::PodStatus {
    let phase = phase(picture);
    let (reason, message) = explanation(picture.state);
    let of = |roles: &[Role]| -> Vec<core::ContainerStatus> {
        let containers = picture.plan.containers.iter().zip(&picture.state.cells).enumerate();
        let of_these = containers.filter(|(_, (container, _))| roles.contains(&container.role));
        of_these.map(|(index, _)| container_status(picture, index)).collect()
    };
    let (init, ephemeral) = (of(&[Role::Init, Role::Sidecar]), of(&[Role::Ephemeral]));
    core::PodStatus {
        phase: Some(phase.to_owned()),
        reason,
        message,
        conditions: Some(conditions(picture, phase)),
        container_statuses: Some(of(&[Role::Main])),
        init_container_statuses: (!init.is_empty()).then_some(init),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        host_ip: Some(picture.host_ip.to_string()),
        host_ips: Some(vec![core::HostIP { ip: picture.host_ip.to_string() }]),
        pod_ip: picture.ip.map(|ip| ip.to_string()),
        pod_ips: picture.ip.map(|ip| vec![core::PodIP { ip: ip.to_string() }]),
        start_time: Some(time(picture.state.started_at)),
        observed_generation: picture.pod.metadata.generation,
        ..Default::default()
    }
}

/// The body of a strategic merge patch that makes the stored status this one. What must vanish is
/// named with null, for a merge leaves alone what it does not name.
pub fn patch(pod: &core::Pod, status: &core::PodStatus) -> serde_json::Result<Value> {
    let mut status = serde_json::to_value(status)?;
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        for field in ["reason", "message"] {
            condition.entry(field).or_insert(Value::Null);
        }
    }
    if let Some(status) = status.as_object_mut() {
        for field in ["reason", "message"] {
            status.entry(field).or_insert(Value::Null);
        }
    }
    // The uid keeps a status from landing on another pod of the same name.
    Ok(json!({ "metadata": { "uid": pod.metadata.uid }, "status": status }))
}

/// Whether the stored status says something else than it should. Conditions of other writers, and
/// fields that are not this node's, do not count.
pub fn differs(stored: Option<&core::PodStatus>, wanted: &core::PodStatus) -> bool {
    let Some(stored) = stored else { return true };
    let conditions = stored.conditions.as_deref().unwrap_or_default();
    let condition_differs = |wanted: &core::PodCondition| {
        !conditions.iter().any(|stored| {
            stored.type_ == wanted.type_
                && (&stored.status, &stored.reason, &stored.message, stored.observed_generation)
                    == (&wanted.status, &wanted.reason, &wanted.message, wanted.observed_generation)
        })
    };
    stored.phase != wanted.phase
        || (&stored.reason, &stored.message) != (&wanted.reason, &wanted.message)
        || stored.container_statuses != wanted.container_statuses
        || stored.init_container_statuses.as_deref().unwrap_or_default()
            != wanted.init_container_statuses.as_deref().unwrap_or_default()
        || stored.ephemeral_container_statuses.as_deref().unwrap_or_default()
            != wanted.ephemeral_container_statuses.as_deref().unwrap_or_default()
        || (&stored.pod_ip, &stored.host_ip, &stored.start_time)
            != (&wanted.pod_ip, &wanted.host_ip, &wanted.start_time)
        || stored.observed_generation != wanted.observed_generation
        || wanted.conditions.iter().flatten().any(condition_differs)
}

fn phase(picture: &Picture<'_>) -> &'static str {
    let (plan, state) = (picture.plan, picture.state);
    if let Stage::Finished(Cause::Overdue | Cause::InitFailed | Cause::Evicted) = state.stage {
        return "Failed";
    }
    if let Stage::Ending(ending) = &state.stage
        && ending.cause == Cause::InitFailed
    {
        return "Failed";
    }
    let mains = || plan.containers.iter().zip(&state.cells).filter(|(container, _)| container.role == Role::Main);
    let over = matches!(state.stage, Stage::Finished(_));
    let ended = |cell: &Cell| match &cell.life {
        Life::Ended(ended) => Some(ended.code),
        _ => None,
    };
    if mains().all(|(_, cell)| ended(cell).is_some()) {
        let failed = mains().any(|(_, cell)| ended(cell) != Some(0));
        return match (over || plan.restart != Restart::Always, failed) {
            (true, true) => "Failed",
            (true, false) => "Succeeded",
            (false, _) => "Running",
        };
    }
    if over {
        return "Failed";
    }
    let never_ran = |cell: &Cell| {
        cell.last.is_none() && matches!(cell.life, Life::Waiting | Life::Starting { .. } | Life::BackOff { .. })
    };
    if !state.initialized(plan) || mains().any(|(_, cell)| never_ran(cell)) { "Pending" } else { "Running" }
}

fn explanation(state: &State) -> (Option<String>, Option<String>) {
    let cause = match &state.stage {
        Stage::Finished(cause) => *cause,
        Stage::Ending(ending) => ending.cause,
        Stage::Preparing { .. } | Stage::Active => return (None, None),
    };
    let (reason, message) = match cause {
        Cause::Overdue => ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline"),
        Cause::Evicted => ("Evicted", state.evicted.as_ref().map_or("", |eviction| &eviction.message)),
        Cause::Completed | Cause::InitFailed | Cause::Deleted | Cause::Gone => return (None, None),
    };
    (Some(reason.to_owned()), Some(message.to_owned()))
}

fn conditions(picture: &Picture<'_>, phase: &str) -> Vec<core::PodCondition> {
    let (plan, state) = (picture.plan, picture.state);
    let generation = picture.pod.metadata.generation;
    let known = |kind: &str, status: &str| {
        let conditions = picture.previous?.conditions.as_ref()?;
        let same = conditions.iter().find(|known| known.type_ == kind && known.status == status)?;
        same.last_transition_time.clone()
    };
    let condition = |kind: &str, verdict: Verdict| {
        let status = if verdict.is_ok() { "True" } else { "False" };
        let (reason, message) = match verdict {
            Ok(reason) => (reason.map(str::to_owned), None),
            Err((reason, message)) => (Some(reason.to_owned()), message),
        };
        core::PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason,
            message,
            last_transition_time: Some(known(kind, status).unwrap_or_else(|| time(picture.now))),
            observed_generation: generation,
            ..Default::default()
        }
    };
    let sandbox = match state.stage {
        Stage::Active | Stage::Ending(_) => Ok(None),
        Stage::Preparing { .. } | Stage::Finished(_) => Err(("", None)),
    };
    let containers = containers_ready(picture, phase);
    let mut conditions = vec![
        without_reason(condition("PodReadyToStartContainers", sandbox)),
        condition("Initialized", initialized(plan, state, phase)),
        condition("Ready", ready(picture, containers.clone())),
        condition("ContainersReady", containers),
    ];
    if let Some(eviction) = state.evicted.as_ref().filter(|eviction| eviction.disruption) {
        let mut target = condition("DisruptionTarget", Ok(Some("TerminationByKubelet")));
        target.message = Some(eviction.message.clone());
        conditions.push(target);
    }
    if !stored_conditions(picture.pod).iter().any(|known| known.type_ == "PodScheduled") {
        // Bound by its author rather than by a scheduler.
        conditions.push(condition("PodScheduled", Ok(None)));
    }
    conditions
}

/// True, perhaps with a reason; or why not.
type Verdict = Result<Option<&'static str>, (&'static str, Option<String>)>;

fn without_reason(mut condition: core::PodCondition) -> core::PodCondition {
    condition.reason = None;
    condition
}

fn initialized(plan: &Plan, state: &State, phase: &str) -> Verdict {
    if phase == "Succeeded" {
        return Ok(Some("PodCompleted"));
    }
    if state.initialized(plan) {
        return Ok(None);
    }
    let waiting = plan.containers.iter().zip(&state.cells).filter(|(container, cell)| match container.role {
        Role::Init => !matches!(&cell.life, Life::Ended(ended) if ended.code == 0),
        Role::Sidecar => !matches!(&cell.life, Life::Running(running) if running.started),
        Role::Main | Role::Ephemeral => false,
    });
    let names: Vec<&str> = waiting.map(|(container, _)| container.name.as_str()).collect();
    let message = format!("containers with incomplete status: [{}]", names.join(" "));
    Err(("ContainersNotInitialized", Some(message)))
}

fn containers_ready(picture: &Picture<'_>, phase: &str) -> Verdict {
    match phase {
        "Succeeded" => return Err(("PodCompleted", None)),
        "Failed" => return Err(("PodFailed", None)),
        _ => {}
    }
    let counted = picture.plan.containers.iter().zip(&picture.state.cells);
    let is_counted = |role| matches!(role, Role::Main | Role::Sidecar);
    let unready = counted.filter(|(container, cell)| is_counted(container.role) && !is_ready(cell));
    let names: Vec<&str> = unready.map(|(container, _)| container.name.as_str()).collect();
    if names.is_empty() {
        return Ok(None);
    }
    Err(("ContainersNotReady", Some(format!("containers with unready status: [{}]", names.join(" ")))))
}

/// The containers' verdict, and that of the pod's readiness gates.
fn ready(picture: &Picture<'_>, containers: Verdict) -> Verdict {
    containers?;
    let gates = picture.pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let stored = stored_conditions(picture.pod);
    let problems: Vec<String> = gates
        .iter()
        .filter_map(|gate| match stored.iter().find(|known| known.type_ == gate.condition_type) {
            Some(known) if known.status == "True" => None,
            Some(_) => {
                Some(format!("the status of pod readiness gate \"{}\" is not \"True\", but False", gate.condition_type))
            }
            None => Some(format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )),
        })
        .collect();
    if problems.is_empty() { Ok(None) } else { Err(("ReadinessGatesNotReady", Some(problems.join(", ")))) }
}

fn stored_conditions(pod: &core::Pod) -> &[core::PodCondition] {
    pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn is_ready(cell: &Cell) -> bool {
    matches!(&cell.life, Life::Running(running) if running.ready)
}

fn container_status(picture: &Picture<'_>, index: usize) -> core::ContainerStatus {
    let cell = &picture.state.cells[index];
    let container = &picture.plan.containers[index];
    let uid = picture.pod.metadata.uid.as_deref().unwrap_or_default();
    let id = |run: u32, id: &Option<String>| {
        id.clone().unwrap_or_else(|| container_id(picture.runtime, uid, &container.name, run))
    };
    let has_run = !matches!(cell.life, Life::Waiting | Life::Starting { .. } | Life::BackOff { .. });
    let last = || cell.last.as_ref().map(|last| id(last.run, &last.id));
    let container_id = match &cell.life {
        Life::Ended(ended) => Some(id(ended.run, &ended.id)),
        _ if has_run => Some(id(cell.restarts, &cell.id)),
        _ => last(),
    };
    let started = matches!(&cell.life, Life::Running(running) if running.started);
    // An init container that did its work is what its pod is ready by.
    let done = container.role == Role::Init && matches!(&cell.life, Life::Ended(ended) if ended.code == 0);
    // Nothing asks whether one that was added is ready.
    let added = container.role == Role::Ephemeral;
    core::ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        image_id: cell.image_id.clone(),
        container_id,
        ready: (is_ready(cell) && !added) || done,
        started: (!added).then_some(started),
        restart_count: i32::try_from(cell.restarts).unwrap_or(i32::MAX),
        state: Some(present(picture, cell, index, &id)),
        last_state: Some(core::ContainerState {
            terminated: cell.last.as_ref().map(|last| terminated(last, &id)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The name of a life from its number and, if its runtime gave it one, its own.
type Naming<'a> = &'a dyn Fn(u32, &Option<String>) -> String;

/// The name of one life of a container that its runtime has none for.
pub fn container_id(runtime: &str, uid: &str, name: &str, run: u32) -> String {
    format!("{runtime}://{uid}.{name}.{run}")
}

fn present(picture: &Picture<'_>, cell: &Cell, index: usize, id: Naming<'_>) -> core::ContainerState {
    let waiting = |reason: &str, message: Option<String>| core::ContainerState {
        waiting: Some(core::ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..Default::default()
    };
    match &cell.life {
        Life::Waiting if initializing(picture, index) => waiting("PodInitializing", None),
        Life::Waiting | Life::Starting { .. } => match &cell.refused {
            Some((reason, message)) => waiting(reason, Some(message.clone())),
            None => waiting("ContainerCreating", None),
        },
        Life::BackOff { reason, message, .. } => waiting(reason, Some(message.clone())),
        Life::Running(running) => running_since(running.started_at),
        Life::Outlived { started_at } => running_since(*started_at),
        Life::Ended(ended) => core::ContainerState { terminated: Some(terminated(ended, id)), ..Default::default() },
    }
}

fn running_since(at: Timestamp) -> core::ContainerState {
    let running = core::ContainerStateRunning { started_at: Some(time(at)) };
    core::ContainerState { running: Some(running), ..Default::default() }
}

/// Whether the container of `index` waits for init containers, its own turn not having come.
fn initializing(picture: &Picture<'_>, index: usize) -> bool {
    let first = picture.plan.containers.first().map(|container| container.role);
    let role = picture.plan.containers[index].role;
    role != Role::Ephemeral && first != Some(Role::Main) && (index > 0 || role == Role::Main)
}

fn terminated(ended: &Ended, id: Naming<'_>) -> core::ContainerStateTerminated {
    core::ContainerStateTerminated {
        container_id: Some(id(ended.run, &ended.id)),
        exit_code: ended.code,
        reason: Some(ended.reason.clone()),
        message: Some(ended.message.clone()).filter(|message| !message.is_empty()),
        started_at: Some(time(ended.started_at)),
        finished_at: Some(time(ended.finished_at)),
        ..Default::default()
    }
}

/// Cut to seconds.
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

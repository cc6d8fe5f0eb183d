//! What a pod's spec asks for, resolved once: the part of the pod that its state machine decides by.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;

use super::probes::ProbePlan;

/// Which of a pod's containers, by position: init containers first, as the spec orders them.
pub type Index = usize;

/// The decisions that a pod's spec has already taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// `name_namespace(uid)`, as upstream's messages name a pod.
    pub display: String,
    pub restart: Restart,
    /// `terminationGracePeriodSeconds`.
    pub grace: Duration,
    pub active_deadline: Option<Duration>,
    pub containers: Vec<ContainerPlan>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ContainerPlan {
    pub name: String,
    pub image: String,
    pub role: Role,
    pub startup: Option<ProbePlan>,
    pub readiness: Option<ProbePlan>,
    pub liveness: Option<ProbePlan>,
    pub pre_stop: bool,
}

/// A container's place in its pod's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: starts in order, runs beside the main ones and
    /// ends after them.
    Sidecar,
    Main,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Plan {
    pub fn of(pod: &core::Pod) -> Plan {
        let spec = pod.spec.as_ref();
        let seconds = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let main = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
        Plan {
            display: display(pod),
            restart: match spec.and_then(|spec| spec.restart_policy.as_deref()) {
                Some("Never") => Restart::Never,
                Some("OnFailure") => Restart::OnFailure,
                _ => Restart::Always,
            },
            grace: seconds(spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30)),
            active_deadline: spec.and_then(|spec| spec.active_deadline_seconds).map(seconds),
            containers: init
                .iter()
                .map(|container| ContainerPlan::of(container, init_role(container)))
                .chain(main.iter().map(|container| ContainerPlan::of(container, Role::Main)))
                .collect(),
        }
    }

    /// The container of the spec that `index` means.
    pub fn container(pod: &core::Pod, index: Index) -> Option<&core::Container> {
        let spec = pod.spec.as_ref()?;
        let init = spec.init_containers.as_deref().unwrap_or_default();
        init.get(index).or_else(|| spec.containers.get(index.checked_sub(init.len())?))
    }
}

impl ContainerPlan {
    fn of(container: &core::Container, role: Role) -> ContainerPlan {
        ContainerPlan {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            role,
            startup: container.startup_probe.as_ref().map(ProbePlan::of),
            readiness: container.readiness_probe.as_ref().map(ProbePlan::of),
            liveness: container.liveness_probe.as_ref().map(ProbePlan::of),
            pre_stop: container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.pre_stop.is_some()),
        }
    }
}

fn init_role(container: &core::Container) -> Role {
    if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init }
}

/// `name_namespace(uid)`.
pub fn display(pod: &core::Pod) -> String {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
}

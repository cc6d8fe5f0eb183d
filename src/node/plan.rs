//! What a pod's spec asks for, resolved once: the part of the pod that its state machine decides by.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;

use super::probes::ProbePlan;

/// Which of a pod's containers, by position: init containers first, as the spec orders them, then the main
/// ones, then those that were added to look into the pod.
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
    /// Was added to look into the pod: runs once, from whenever it is added, and nothing depends on it.
    Ephemeral,
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
                .chain(ephemeral(pod).iter().map(|added| ContainerPlan::of(&ordinary(added), Role::Ephemeral)))
                .collect(),
        }
    }

    /// The container of the spec that `index` means; one that was added, in the form of the others.
    pub fn container(pod: &core::Pod, index: Index) -> Option<Cow<'_, core::Container>> {
        let spec = pod.spec.as_ref()?;
        let init = spec.init_containers.as_deref().unwrap_or_default();
        let own = init.get(index).or_else(|| spec.containers.get(index.checked_sub(init.len())?));
        own.map(Cow::Borrowed).or_else(|| Some(Cow::Owned(ordinary(Plan::ephemeral(pod, index)?))))
    }

    /// The same, if it is one that was added.
    pub fn ephemeral(pod: &core::Pod, index: Index) -> Option<&core::EphemeralContainer> {
        let spec = pod.spec.as_ref()?;
        let before = spec.init_containers.as_ref().map_or(0, Vec::len) + spec.containers.len();
        ephemeral(pod).get(index.checked_sub(before)?)
    }
}

fn ephemeral(pod: &core::Pod) -> &[core::EphemeralContainer] {
    pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default()
}

/// The pod with its added containers where `before` has them: whoever adds one may write the list in another
/// order, and here they go by their positions.
pub fn in_order(before: &core::Pod, mut pod: Arc<core::Pod>) -> Arc<core::Pod> {
    let known: Vec<&str> = ephemeral(before).iter().map(|added| added.name.as_str()).collect();
    let place = |name: &str| known.iter().position(|known| *known == name).unwrap_or(known.len());
    if !ephemeral(&pod).is_sorted_by_key(|added| place(&added.name)) {
        let spec = Arc::make_mut(&mut pod).spec.as_mut();
        spec.and_then(|spec| spec.ephemeral_containers.as_mut())
            .into_iter()
            .for_each(|added| added.sort_by_key(|added| place(&added.name)));
    }
    pod
}

/// What an added container may have of a container's fields.
fn ordinary(added: &core::EphemeralContainer) -> core::Container {
    let added = added.clone();
    core::Container {
        name: added.name,
        image: added.image,
        image_pull_policy: added.image_pull_policy,
        command: added.command,
        args: added.args,
        working_dir: added.working_dir,
        env: added.env,
        env_from: added.env_from,
        volume_mounts: added.volume_mounts,
        volume_devices: added.volume_devices,
        security_context: added.security_context,
        stdin: added.stdin,
        stdin_once: added.stdin_once,
        tty: added.tty,
        termination_message_path: added.termination_message_path,
        termination_message_policy: added.termination_message_policy,
        ..core::Container::default()
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(added: &[&str]) -> core::Pod {
        let added: Vec<_> = added.iter().map(|name| json!({ "name": name, "image": "x:1" })).collect();
        let pod = json!({ "metadata": {}, "spec": {
            "initContainers": [{ "name": "init" }], "containers": [{ "name": "main" }], "ephemeralContainers": added,
        } });
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn containers_that_are_added_keep_their_places() {
        let names = |pod: &core::Pod| -> Vec<String> {
            (0..).map_while(|index| Plan::container(pod, index)).map(|found| found.name.clone()).collect()
        };
        let first = pod(&["a", "b"]);
        assert_eq!(names(&first), ["init", "main", "a", "b"]);
        assert_eq!(
            Plan::of(&first).containers.iter().map(|one| one.role).collect::<Vec<_>>(),
            [Role::Init, Role::Main, Role::Ephemeral, Role::Ephemeral]
        );
        assert!(Plan::ephemeral(&first, 1).is_none() && Plan::ephemeral(&first, 2).is_some());
        let then = in_order(&first, Arc::new(pod(&["new", "b", "newer", "a"])));
        assert_eq!(names(&then), ["init", "main", "a", "b", "new", "newer"]);
    }
}

//! Which nodes a DaemonSet's pods belong on, what is missing or too much there, and the counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSetStatus;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint};

use super::super::pods::{self, Availability};
use super::{Context, note, pod, rollout};
use crate::kinds::placement::{node_affinity_holds, tolerates};
use crate::reconcile::{EventKind, Plan, Step};

/// Pods made or removed by one plan, as upstream.
const BURST: usize = 250;
/// A pod that has failed stays this long, so that one which fails at once is not made again at once.
const FAILED_PAUSE: Duration = Duration::from_secs(10);

/// What is to be done; nodes and pods by name.
#[derive(Debug, Default)]
pub(super) struct Changes<'a> {
    pub delete: Vec<&'a Arc<Pod>>,
    pub create: Vec<String>,
}

impl Changes<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.delete.is_empty() && self.create.is_empty()
    }
}

/// What a node means for the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A pod belongs there.
    Runs,
    /// No pod would be put there, but one that is there may stay.
    Stays,
    Refuses,
}

/// The pods by the node that they are for, the oldest first.
pub(super) fn by_node<'a>(pods: &[&'a Arc<Pod>]) -> BTreeMap<String, Vec<&'a Arc<Pod>>> {
    let mut by_node: BTreeMap<String, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = pod::node_of(pod) {
            by_node.entry(node.to_owned()).or_default().push(pod);
        }
    }
    for pods in by_node.values_mut() {
        pods.sort_by_key(|pod| (pods::node(pod).is_none(), pod.metadata.creation_timestamp.as_ref().map(|t| t.0)));
    }
    by_node
}

/// Each node with what it means, by name.
pub(super) fn places(context: &Context<'_>) -> BTreeMap<String, Place> {
    let spec = pod::described(context.spec);
    let named = context.nodes.iter().filter_map(|node| Some((node.metadata.name.clone()?, node)));
    named.map(|(name, node)| (name, place(&spec, node))).collect()
}

fn place(spec: &PodSpec, node: &Node) -> Place {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let elsewhere = spec.node_name.as_deref().is_some_and(|wanted| !wanted.is_empty() && wanted != name);
    if elsewhere || !node_affinity_holds(spec, name, &labels) {
        return Place::Refuses;
    }
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let borne = |taint: &Taint| tolerations.iter().any(|toleration| tolerates(toleration, taint));
    let repels = |effect: &str| taints.iter().any(|taint| taint.effect == effect && !borne(taint));
    match (repels("NoExecute"), repels("NoSchedule")) {
        (true, _) => Place::Refuses,
        (false, true) => Place::Stays,
        (false, false) => Place::Runs,
    }
}

/// What is missing, and what is too much.
pub(super) fn manage<'a>(context: &Context<'a>, places: &BTreeMap<String, Place>, plan: &mut Plan) -> Changes<'a> {
    let mut changes = Changes::default();
    for (node, place) in places {
        let pods = context.pods_on(node).to_vec();
        match place {
            Place::Runs if pods.is_empty() => changes.create.push(node.clone()),
            Place::Runs | Place::Stays => surplus(context, node, &pods, &mut changes, plan),
            Place::Refuses => changes.delete.extend(pods.into_iter().filter(|pod| !is_going(pod))),
        }
    }
    // Pods that wait for a node which no longer exists.
    for (_, pods) in context.by_node.iter().filter(|(node, _)| !places.contains_key(*node)) {
        changes.delete.extend(pods.iter().filter(|pod| pods::node(pod).is_none() && !is_going(pod)));
    }
    changes.delete.truncate(BURST);
    changes.create.truncate(BURST);
    changes
}

fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Pods that have ended, and all but one of those that run; while a new one is to take over, two.
fn surplus<'a>(context: &Context<'a>, node: &str, pods: &[&'a Arc<Pod>], changes: &mut Changes<'a>, plan: &mut Plan) {
    let mut running = Vec::new();
    for pod in pods.iter().filter(|pod| !is_going(pod)) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        match pods::phase(pod) {
            "Failed" => {
                if let Some(left) = FAILED_PAUSE.checked_sub(since_created(context, pod)).filter(|d| !d.is_zero()) {
                    plan.look_again(left);
                    continue;
                }
                let message = format!("Found failed daemon pod {namespace}/{name} on node {node}, will try to kill it");
                let told = note(context.set, EventKind::Warning, "FailedDaemonPod", message);
                plan.steps.push(Step::Tell(told));
                changes.delete.push(pod);
            }
            "Succeeded" => {
                let message =
                    format!("Found succeeded daemon pod {namespace}/{name} on node {node}, will try to delete it");
                plan.steps.push(Step::Tell(note(context.set, EventKind::Normal, "SucceededDaemonPod", message)));
                changes.delete.push(pod);
            }
            _ => running.push(*pod),
        }
    }
    if !rollout::surges(context) {
        changes.delete.extend(running.into_iter().skip(1));
        return;
    }
    let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| context.is_current(pod));
    changes.delete.extend(new.iter().chain(old.iter()).filter(|pod| {
        let first = |pods: &[&Arc<Pod>]| pods.first().is_some_and(|first| first.metadata.uid == pod.metadata.uid);
        !first(&new) && !first(&old)
    }));
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!pods::is_ready(old) || context.is_available(new))
    {
        changes.delete.push(old);
    }
}

fn since_created(context: &Context<'_>, pod: &Pod) -> Duration {
    let created = pod.metadata.creation_timestamp.as_ref().map_or(context.now, |t| t.0);
    pods::elapsed(created, context.now)
}

/// The counts; also plans the next look when a pod becomes available by the mere passing of time.
pub(super) fn status(context: &Context<'_>, places: &BTreeMap<String, Place>, plan: &mut Plan) -> DaemonSetStatus {
    let mut status =
        DaemonSetStatus { observed_generation: context.set.metadata.generation, ..DaemonSetStatus::default() };
    let (mut available, mut updated) = (0, 0);
    for (node, place) in places {
        let oldest = context.pods_on(node).first();
        match (place, oldest) {
            (Place::Runs, Some(pod)) => {
                status.desired_number_scheduled += 1;
                status.current_number_scheduled += 1;
                match pods::availability(pod, context.min_ready(), context.now) {
                    Availability::Unready => {}
                    Availability::In(left) => {
                        status.number_ready += 1;
                        plan.look_again(left);
                    }
                    Availability::Available => {
                        status.number_ready += 1;
                        available += 1;
                    }
                }
                updated += i32::from(context.is_current(pod));
            }
            (Place::Runs, None) => status.desired_number_scheduled += 1,
            (Place::Stays | Place::Refuses, Some(_)) => status.number_misscheduled += 1,
            (Place::Stays | Place::Refuses, None) => {}
        }
    }
    let present = |n: i32| (n != 0).then_some(n);
    status.number_available = present(available);
    status.updated_number_scheduled = present(updated);
    status.number_unavailable = present(status.desired_number_scheduled - available);
    status
}

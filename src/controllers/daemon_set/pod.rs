//! A daemon's pod: as the template describes it, for one node.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::claim::controller_reference;
use super::super::pods;
use super::{Context, HASH, note};
use crate::kinds::daemon_set::TEMPLATE_GENERATION;
use crate::reconcile::{EventKind, Write};

/// The label that old clients read: how often the template has changed.
const GENERATION_LABEL: &str = "pod-template-generation";
const NODE_NAME: &str = "metadata.name";

/// What every daemon bears: a node that is not well still needs its daemons.
const BORNE: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// The template's pod with what every daemon bears, for no node in particular.
pub(super) fn described(spec: &DaemonSetSpec) -> PodSpec {
    let mut pod = spec.template.spec.clone().unwrap_or_default();
    let host_network = pod.host_network == Some(true);
    let tolerations = pod.tolerations.get_or_insert_default();
    for (key, effect) in BORNE.iter().chain(host_network.then_some(&NETWORK_UNAVAILABLE)) {
        let text = |text: &str| Some(text.to_owned());
        let toleration =
            Toleration { key: text(key), effect: text(effect), operator: text("Exists"), ..Toleration::default() };
        let same = |t: &Toleration| {
            t.key == toleration.key && t.effect == toleration.effect && t.operator == toleration.operator
        };
        if !tolerations.iter().any(same) {
            tolerations.push(toleration);
        }
    }
    pod
}

/// Narrows a pod to the node of this name.
fn pin(pod: &mut PodSpec, node: &str) {
    let by_name = NodeSelectorRequirement {
        key: NODE_NAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity = pod.affinity.get_or_insert_with(Affinity::default);
    let affinity = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    let required = &mut affinity.required_during_scheduling_ignored_during_execution;
    let required = required.get_or_insert_with(|| NodeSelector { node_selector_terms: Vec::new() });
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![by_name.clone()]);
    }
}

/// The node that a pod is for: where it runs, or where it is to run.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    if let Some(node) = pods::node(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let by_name = terms.iter().flat_map(|term| term.match_fields.iter().flatten()).find(|r| r.key == NODE_NAME)?;
    by_name.values.as_ref()?.first().map(String::as_str)
}

pub(super) fn create(context: &Context<'_>, node: &str) -> Write {
    let set = context.set;
    let described_as = context.spec.template.metadata.clone().unwrap_or_default();
    let mut labels = described_as.labels.unwrap_or_default();
    let annotations = set.metadata.annotations.as_ref();
    let generation = annotations.and_then(|a| a.get(TEMPLATE_GENERATION)).cloned().unwrap_or_else(|| "1".to_owned());
    labels.insert(GENERATION_LABEL.to_owned(), generation);
    labels.insert(HASH.to_owned(), context.hash.clone());
    let mut spec = described(context.spec);
    pin(&mut spec, node);
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default())),
        namespace: set.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: described_as.annotations,
        finalizers: described_as.finalizers,
        owner_references: Some(vec![controller_reference(set)]),
        ..ObjectMeta::default()
    };
    Write::create(&Pod { metadata, spec: Some(spec), status: None })
        .on_success(note(set, EventKind::Normal, "SuccessfulCreate", "Created pod: {name}"))
        .on_failure(note(set, EventKind::Warning, "FailedCreate", "Error creating: {error}"))
}

pub(super) fn delete(set: &DaemonSet, pod: &Pod) -> Write {
    Write::delete(pod)
        .on_success(note(set, EventKind::Normal, "SuccessfulDelete", "Deleted pod: {name}"))
        .on_failure(note(set, EventKind::Warning, "FailedDelete", "Error deleting: {error}"))
}

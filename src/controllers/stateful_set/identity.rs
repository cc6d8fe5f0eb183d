//! Who a pod of a set is: its name, its labels, its host name, its claims.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::super::claim::controller_reference;
use super::{Context, REVISION, claims, spec};
use crate::reconcile::{Plan, Write};

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

pub(super) fn name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default())
}

/// The ordinal in a pod's name, if it is named after the set.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let own = set.metadata.name.as_deref()?;
    let number = pod.metadata.name.as_deref()?.strip_prefix(own)?.strip_prefix('-')?;
    let ordinal = number.parse().ok().filter(|n: &i32| *n >= 0)?;
    // `01` is another name than `1`.
    (ordinal.to_string() == number).then_some(ordinal)
}

/// The pod of an ordinal, from the revision that this ordinal is to have.
pub(super) fn new_pod(context: &Context<'_>, ordinal: i32) -> Pod {
    let set = context.set;
    let (revision, template) = if context.keeps_revision(ordinal) {
        (context.current.0.clone(), context.current.1.clone())
    } else {
        (context.update.clone(), context.spec.template.clone())
    };
    let described = template.metadata.unwrap_or_default();
    let name = name(set, ordinal);
    let mut labels = described.labels.unwrap_or_default();
    labels.insert(NAME_LABEL.to_owned(), name.clone());
    labels.insert(INDEX_LABEL.to_owned(), ordinal.to_string());
    labels.insert(REVISION.to_owned(), revision);
    let mut pod = template.spec.unwrap_or_default();
    pod.hostname = Some(name.clone());
    pod.subdomain = context.spec.service_name.clone();
    let templates = context.spec.volume_claim_templates.as_deref().unwrap_or_default();
    if !templates.is_empty() {
        let volumes = pod.volumes.get_or_insert_default();
        let named = |volume: &Volume| templates.iter().any(|t| t.metadata.name.as_ref() == Some(&volume.name));
        volumes.retain(|volume| !named(volume));
        volumes.extend(templates.iter().map(|template| {
            let claim_name = claims::name(set, template, ordinal);
            let source = PersistentVolumeClaimVolumeSource { claim_name, read_only: None };
            Volume {
                name: template.metadata.name.clone().unwrap_or_default(),
                persistent_volume_claim: Some(source),
                ..Volume::default()
            }
        }));
    }
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: set.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: described.annotations,
        finalizers: described.finalizers,
        owner_references: Some(vec![controller_reference(set)]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: Some(pod), status: None }
}

/// Gives a pod back the labels by which it is known, should somebody have taken them.
pub(super) fn restore(context: &Context<'_>, ordinal: i32, pod: &Pod, plan: &mut Plan) {
    let labels = pod.metadata.labels.as_ref();
    let has = |label: &str, value: &str| labels.and_then(|l| l.get(label)).is_some_and(|found| found == value);
    let (name, index) = (name(context.set, ordinal), ordinal.to_string());
    if !has(NAME_LABEL, &name) || !has(INDEX_LABEL, &index) {
        plan.write(Write::patch(pod, "", json!({"metadata": {"labels": {NAME_LABEL: name, INDEX_LABEL: index}}})));
    }
}

/// Whether a pod was made from the revision of this name.
pub(super) fn is_of(pod: &Pod, revision: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION)).is_some_and(|label| label == revision)
}

/// Whether a claim is one of the set's, and of which ordinal.
pub(super) fn claim_ordinal(set: &StatefulSet, claim: &str) -> Option<i32> {
    let own = set.metadata.name.as_deref()?;
    let templates = spec(set).volume_claim_templates.as_deref()?;
    templates.iter().find_map(|template| {
        let rest = claim.strip_prefix(template.metadata.name.as_deref()?)?.strip_prefix('-')?;
        rest.strip_prefix(own)?.strip_prefix('-')?.parse().ok()
    })
}

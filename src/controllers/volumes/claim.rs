//! What one claim needs: a volume, or to be let go.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::{ClaimView, matching, note, text};
use crate::kinds::persistent_volume_claim::PROTECTION;
use crate::kinds::storage_class::{DRIVER, PROVISIONER};
use crate::reconcile::{EventKind, Plan, Step, Write};

const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const HOSTNAME: &str = "kubernetes.io/hostname";

pub(super) fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// The node that the scheduler chose for the claim's first consumer.
pub(super) fn selected_node(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(claim, SELECTED_NODE)
}

fn annotation<'a>(claim: &'a PersistentVolumeClaim, name: &str) -> Option<&'a str> {
    claim.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Decides what one claim needs.
pub(super) fn plan(view: &ClaimView) -> Plan {
    let mut plan = Plan::nothing();
    let claim = &*view.claim;
    if claim.metadata.deletion_timestamp.is_some() {
        if !view.in_use && claim.metadata.finalizers.iter().flatten().any(|f| f == PROTECTION) {
            plan.write(without_protection(claim));
        }
        return plan;
    }
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
    match named {
        Some(name) => keep(view, name, &mut plan),
        None => find(view, &mut plan),
    }
    plan
}

/// The list is replaced whole, hence the revision as a precondition.
fn without_protection(claim: &PersistentVolumeClaim) -> Write {
    let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != PROTECTION);
    let finalizers = if finalizers.is_empty() { Value::Null } else { json!(finalizers) };
    let metadata = json!({"finalizers": finalizers, "resourceVersion": claim.metadata.resource_version});
    Write::patch(claim, "", json!({"metadata": metadata}))
}

/// The claim names its volume: completes the binding, or tells that the volume is lost.
fn keep(view: &ClaimView, name: &str, plan: &mut Plan) {
    let claim = &*view.claim;
    let Some(volume) = view.volumes.first() else {
        if annotation(claim, BIND_COMPLETED).is_some() && phase(claim) != "Lost" {
            let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            plan.steps.push(Step::Tell(note(claim, EventKind::Warning, "ClaimLost", message)));
            plan.write(Write::patch(claim, "status", json!({"status": {"phase": "Lost"}})));
        }
        return;
    };
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.is_some() && !matching::is_reserved(volume, claim) {
        let message = format!("volume \"{name}\" already bound to a different claim.");
        if annotation(claim, BIND_COMPLETED).is_some() && phase(claim) != "Lost" {
            plan.write(Write::patch(claim, "status", json!({"status": {"phase": "Lost"}})));
            plan.steps.push(Step::Tell(note(claim, EventKind::Warning, "ClaimMisbound", &message)));
        } else if phase(claim) != "Lost" {
            plan.steps.push(Step::Tell(note(claim, EventKind::Warning, "FailedBinding", &message)));
        }
        return;
    }
    if reference.and_then(|r| r.uid.as_ref()) != claim.metadata.uid.as_ref() {
        plan.write(reserve(volume, claim));
    }
    if annotation(claim, BIND_COMPLETED).is_none() {
        plan.write(Write::patch(claim, "", json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}})));
    }
    let spec = volume.spec.clone().unwrap_or_default();
    let wanted = json!({"phase": "Bound", "accessModes": spec.access_modes, "capacity": spec.capacity});
    let status = json!(claim.status);
    if wanted.as_object().is_some_and(|wanted| wanted.iter().any(|(name, value)| status[name] != *value)) {
        plan.write(Write::patch(claim, "status", json!({"status": wanted})));
    }
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// The claim has no volume yet: takes one that is free, or has one made.
fn find(view: &ClaimView, plan: &mut Plan) {
    let claim = &*view.claim;
    let class = view.class.as_deref();
    let waits = class.is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let reserved = view.volumes.iter().any(|volume| matching::is_reserved(volume, claim));
    if waits && !reserved && selected_node(claim).is_none() {
        let message = "waiting for first consumer to be created before binding";
        plan.steps.push(Step::Tell(note(claim, EventKind::Normal, "WaitForFirstConsumer", message)));
        return;
    }
    if let Some(volume) = matching::best(claim, &view.volumes, view.node.as_deref()) {
        plan.write(reserve(volume, claim));
        plan.write(bind(claim, volume));
        return;
    }
    match class {
        None => {
            let message = match claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()) {
                None | Some("") => {
                    "no persistent volumes available for this claim and no storage class is set".to_owned()
                }
                Some(name) => format!("storageclass.storage.k8s.io \"{name}\" not found"),
            };
            let reason = if message.starts_with("no ") { "FailedBinding" } else { "ProvisioningFailed" };
            let kind = if reason == "FailedBinding" { EventKind::Normal } else { EventKind::Warning };
            plan.steps.push(Step::Tell(note(claim, kind, reason, &message)));
        }
        Some(class) if class.provisioner == PROVISIONER => provision(view, class, plan),
        Some(class) => ask(claim, class, plan),
    }
}

/// Writes the claim into the volume. The volume must be what it was: somebody else may want it, too.
fn reserve(volume: &Arc<PersistentVolume>, claim: &PersistentVolumeClaim) -> Write {
    let meta = &claim.metadata;
    let reference = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": meta.namespace,
        "name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version});
    let chosen = volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none());
    let mut metadata = json!({"resourceVersion": volume.metadata.resource_version});
    if chosen {
        metadata["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
    }
    Write::patch(&**volume, "", json!({"metadata": metadata, "spec": {"claimRef": reference}}))
}

fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Write {
    let annotations = json!({BIND_COMPLETED: "yes", BOUND_BY_CONTROLLER: "yes"});
    let body = json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": volume.metadata.name}});
    Write::patch(claim, "", body)
}

/// Somebody else makes volumes of this class.
fn ask(claim: &PersistentVolumeClaim, class: &StorageClass, plan: &mut Plan) {
    let provisioner = &class.provisioner;
    if provisioner == "kubernetes.io/no-provisioner" {
        let message = "no volume plugin matched name: kubernetes.io/no-provisioner";
        plan.steps.push(Step::Tell(note(claim, EventKind::Warning, "ProvisioningFailed", message)));
        return;
    }
    if annotation(claim, STORAGE_PROVISIONER) != Some(provisioner) {
        let annotations = json!({STORAGE_PROVISIONER: provisioner,
            "volume.beta.kubernetes.io/storage-provisioner": provisioner});
        plan.write(Write::patch(claim, "", json!({"metadata": {"annotations": annotations}})));
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    plan.steps.push(Step::Tell(note(claim, EventKind::Normal, "ExternalProvisioning", &message)));
}

/// Makes a volume of the class `local`: reserved for the claim, on the node that was chosen.
fn provision(view: &ClaimView, class: &StorageClass, plan: &mut Plan) {
    let claim = &*view.claim;
    let chosen = if selected_node(claim).is_some() { &view.node } else { &view.any_node };
    let Some(node) = chosen else {
        let message = "failed to provision volume: there is no node for it";
        plan.steps.push(Step::Tell(note(claim, EventKind::Warning, "ProvisioningFailed", message)));
        return;
    };
    let spec = claim.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        let message = format!("failed to provision volume: class {} has no block devices", text(&class.metadata.name));
        plan.steps.push(Step::Tell(note(claim, EventKind::Warning, "ProvisioningFailed", &message)));
        return;
    }
    let name = format!("pvc-{}", text(&claim.metadata.uid));
    let host = node.metadata.labels.as_ref().and_then(|l| l.get(HOSTNAME)).or(node.metadata.name.as_ref());
    let requirement = json!({"key": HOSTNAME, "operator": "In", "values": [host]});
    let meta = &claim.metadata;
    let spec = json!({
        "capacity": {"storage": spec.resources.and_then(|r| r.requests).and_then(|r| r.get("storage").cloned())},
        "accessModes": spec.access_modes,
        "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
        "storageClassName": class.metadata.name,
        "mountOptions": class.mount_options,
        "volumeMode": "Filesystem",
        "claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": meta.namespace,
            "name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version},
        "csi": {"driver": DRIVER, "volumeHandle": name},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}},
    });
    let annotations = [(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())].into();
    let metadata = ObjectMeta { name: Some(name.clone()), annotations: Some(annotations), ..ObjectMeta::default() };
    let spec = serde_json::from_value(spec).expect("written as a PersistentVolumeSpec just above");
    let volume = PersistentVolume { metadata, spec: Some(spec), status: None };
    let told = format!("Successfully provisioned volume {name}");
    plan.write(
        Write::create(&volume)
            .on_success(note(claim, EventKind::Normal, "ProvisioningSucceeded", &told))
            .on_failure(note(claim, EventKind::Warning, "ProvisioningFailed", "failed to provision volume: {error}")),
    );
}

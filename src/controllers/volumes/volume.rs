//! What one volume needs: its phase, and its end.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::claim::PROVISIONED_BY;
use super::note;
use crate::kinds::persistent_volume::PROTECTION;
use crate::kinds::storage_class::PROVISIONER;
use crate::reconcile::{EventKind, Plan, Step, Write};

/// Decides what one volume needs, given the claim that bears the name it refers to.
pub(super) fn plan(now: Timestamp, volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Plan {
    let mut plan = Plan::nothing();
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let uid = reference.and_then(|r| r.uid.as_deref()).filter(|uid| !uid.is_empty());
    let claim = claim.filter(|claim| uid.is_none() || claim.metadata.uid.as_deref() == uid);
    let phase = match (reference, uid, claim) {
        // Free, or reserved for a claim that may come.
        (None, ..) | (Some(_), None, _) => "Available",
        (Some(_), Some(_), Some(claim)) => {
            let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
            if named == volume.metadata.name.as_deref().unwrap_or_default() {
                "Bound"
            } else if named.is_empty() {
                // The claim's turn: it finds itself named here.
                return plan;
            } else {
                return unwanted(volume, plan);
            }
        }
        (Some(_), Some(_), None) => "Released",
    };
    if volume.metadata.deletion_timestamp.is_some() {
        if phase != "Bound" && volume.metadata.finalizers.iter().flatten().any(|f| f == PROTECTION) {
            plan.write(without_protection(volume));
        }
        return plan;
    }
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    match (phase, policy) {
        ("Released", Some("Delete")) if is_ours(volume) => {
            set_phase(now, volume, phase, None, &mut plan);
            // The node removes the directory when it sees that nobody names it any more.
            plan.write(Write::delete(volume));
        }
        ("Released", Some("Delete" | "Recycle")) if provisioner(volume).is_none() => {
            let message = "no volume plugin can reclaim this volume";
            if set_phase(now, volume, "Failed", Some(message), &mut plan) {
                plan.steps.push(Step::Tell(note(volume, EventKind::Warning, "VolumeFailedDelete", message)));
            }
        }
        _ => {
            set_phase(now, volume, phase, None, &mut plan);
        }
    }
    plan
}

fn provisioner(volume: &PersistentVolume) -> Option<&str> {
    volume.metadata.annotations.as_ref()?.get(PROVISIONED_BY).map(String::as_str)
}

fn is_ours(volume: &PersistentVolume) -> bool {
    provisioner(volume) == Some(PROVISIONER)
}

/// A volume that was made for a claim which has taken another.
fn unwanted(volume: &PersistentVolume, mut plan: Plan) -> Plan {
    if is_ours(volume) && volume.metadata.deletion_timestamp.is_none() {
        plan.write(Write::delete(volume));
    }
    plan
}

fn without_protection(volume: &PersistentVolume) -> Write {
    let mut finalizers = volume.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != PROTECTION);
    let finalizers = if finalizers.is_empty() { Value::Null } else { json!(finalizers) };
    let metadata = json!({"finalizers": finalizers, "resourceVersion": volume.metadata.resource_version});
    Write::patch(volume, "", json!({"metadata": metadata}))
}

/// True when the phase is news.
fn set_phase(now: Timestamp, volume: &PersistentVolume, phase: &str, message: Option<&str>, plan: &mut Plan) -> bool {
    let news = volume.status.as_ref().and_then(|status| status.phase.as_deref()) != Some(phase);
    if news {
        let status = json!({"phase": phase, "message": message, "lastPhaseTransitionTime": Time(now)});
        plan.write(Write::patch(volume, "status", json!({"status": status})));
    }
    news
}

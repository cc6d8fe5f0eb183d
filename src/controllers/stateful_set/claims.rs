//! The claims of a set's pods: made before the pod, kept after it, unless the retention policy says
//! that they go with the pod or with the set. Then an owner reference says so, and the garbage
//! collector does the rest.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use serde_json::{Value, json};

use super::{Context, identity, note};
use crate::reconcile::{EventKind, Plan, Write};

/// The name of the claim that a template gives to an ordinal.
pub(super) fn name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}", template.metadata.name.as_deref().unwrap_or_default(), identity::name(set, ordinal))
}

fn exists(context: &Context<'_>, name: &str) -> bool {
    context.claims.iter().any(|claim| claim.metadata.name.as_deref() == Some(name))
}

/// Plans the claims of an ordinal that are missing.
pub(super) fn create(context: &Context<'_>, ordinal: i32, plan: &mut Plan) {
    for template in context.spec.volume_claim_templates.iter().flatten() {
        let (set, name) = (context.set, name(context.set, template, ordinal));
        if exists(context, &name) {
            continue;
        }
        let mut claim = template.clone();
        claim.metadata.name = Some(name.clone());
        claim.metadata.namespace = set.metadata.namespace.clone();
        let labels = claim.metadata.labels.get_or_insert_default();
        labels.extend(context.spec.selector.match_labels.clone().unwrap_or_default());
        claim.metadata.owner_references = deletes(context, "deleted").then(|| vec![reference(set)]);
        claim.status = None;
        let (own, pod) = (set.metadata.name.as_deref().unwrap_or_default(), identity::name(set, ordinal));
        let told = |what: &str| format!("create Claim {name} Pod {pod} in StatefulSet {own} {what}");
        plan.write(
            Write::create(&claim)
                .on_success(note(set, EventKind::Normal, "SuccessfulCreate", told("success")))
                .on_failure(note(set, EventKind::Warning, "FailedCreate", told("failed error: {error}"))),
        );
    }
}

/// Whether claims go when the set is `deleted` or `scaled`.
fn deletes(context: &Context<'_>, when: &str) -> bool {
    let policy = context.spec.persistent_volume_claim_retention_policy.as_ref();
    let policy =
        policy.and_then(|p| if when == "scaled" { p.when_scaled.as_deref() } else { p.when_deleted.as_deref() });
    policy == Some("Delete")
}

fn reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: None,
        block_owner_deletion: None,
    }
}

/// Plans the owner references of the claims that there are, as the retention policy wants them: the set
/// where they go with it; the pod where they go with one that is scaled away.
pub(super) fn own(context: &Context<'_>, plan: &mut Plan) {
    for claim in context.claims {
        let Some(ordinal) = claim.metadata.name.as_deref().and_then(|n| identity::claim_ordinal(context.set, n)) else {
            continue;
        };
        let condemned = !context.wanted.contains(&ordinal) && context.set.metadata.deletion_timestamp.is_none();
        let pod = context.pods.get(&ordinal).filter(|_| condemned && deletes(context, "scaled"));
        let mut owners = claim.metadata.owner_references.clone().unwrap_or_default();
        let before = owners.clone();
        let ours = |owner: &OwnerReference| {
            owner.kind == "StatefulSet" && Some(&owner.uid) == context.set.metadata.uid.as_ref()
        };
        let of_pod = |owner: &OwnerReference| owner.kind == "Pod" && owner.name == identity::name(context.set, ordinal);
        // The reference to a pod that is gone already is what makes the claim go.
        owners.retain(|owner| !ours(owner) && (condemned || !of_pod(owner)));
        match pod {
            Some(pod) if !owners.iter().any(of_pod) => owners.push(reference::<Pod>(pod)),
            None if deletes(context, "deleted") && !(condemned && deletes(context, "scaled")) => {
                owners.push(reference(context.set));
            }
            _ => {}
        }
        if owners != before {
            plan.write(set_owners(claim, &owners));
        }
    }
}

/// The list is replaced whole, hence the revision as a precondition.
fn set_owners(claim: &Arc<PersistentVolumeClaim>, owners: &[OwnerReference]) -> Write {
    let owners = if owners.is_empty() { Value::Null } else { json!(owners) };
    let metadata = json!({"ownerReferences": owners, "resourceVersion": claim.metadata.resource_version});
    Write::patch(&**claim, "", json!({"metadata": metadata}))
}

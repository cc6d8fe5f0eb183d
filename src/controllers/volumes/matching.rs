//! Which free volume a claim gets: the smallest that is large enough.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSelector, PersistentVolume, PersistentVolumeClaim};
use kube::core::{Selector, SelectorExt};
use serde_json::json;

use super::text;
use crate::kinds::placement::term_matches;
use crate::kinds::quantity::Quantity;

/// The best volume for a claim, on this node where one was chosen.
pub(super) fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: &'a [Arc<PersistentVolume>],
    node: Option<&Node>,
) -> Option<&'a Arc<PersistentVolume>> {
    let mut fitting: Vec<&Arc<PersistentVolume>> =
        volumes.iter().filter(|volume| fits(claim, volume) && node.is_none_or(|node| is_on(volume, node))).collect();
    fitting.sort_by_key(|volume| (!is_reserved(volume, claim), size(volume), volume.metadata.name.clone()));
    fitting.into_iter().next()
}

/// Whether a volume says that it is for this claim.
pub(super) fn is_reserved(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    reference.is_some_and(|r| {
        r.name == claim.metadata.name
            && r.namespace == claim.metadata.namespace
            && r.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
    })
}

fn size(volume: &PersistentVolume) -> Quantity {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    Quantity::of(&json!(capacity), "storage")
}

fn fits(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let (Some(wanted), Some(spec)) = (&claim.spec, &volume.spec) else { return false };
    if volume.metadata.deletion_timestamp.is_some() || (spec.claim_ref.is_some() && !is_reserved(volume, claim)) {
        return false;
    }
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let requests = wanted.resources.as_ref().and_then(|r| r.requests.as_ref());
    let offered = spec.access_modes.as_deref().unwrap_or_default();
    let selected = match &wanted.selector {
        None => true,
        Some(selector) => Selector::try_from(selector.clone())
            .is_ok_and(|selector| selector.matches(&volume.metadata.labels.clone().unwrap_or_default())),
    };
    mode(&wanted.volume_mode) == mode(&spec.volume_mode)
        && text(&wanted.storage_class_name) == text(&spec.storage_class_name)
        && wanted.access_modes.iter().flatten().all(|wanted| offered.contains(wanted))
        && size(volume) >= Quantity::of(&json!(requests), "storage")
        && selected
}

/// Whether a node can reach the volume.
fn is_on(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let holds = |selector: &NodeSelector| {
        let labels = node.metadata.labels.clone().unwrap_or_default();
        selector.node_selector_terms.iter().any(|term| term_matches(term, text(&node.metadata.name), &labels))
    };
    affinity.and_then(|a| a.required.as_ref()).is_none_or(holds)
}

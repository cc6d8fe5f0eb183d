//! What a pod's claims demand of the node that it runs on.
//!
//! A bound claim's volume may be on some nodes only. A claim whose class waits for its first consumer
//! follows the pod: the node that is chosen is written into the claim, the volume controller binds or
//! provisions there, and only then is the pod bound. A claim that is to be bound without a pod is
//! waited for.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use k8s_openapi::api::core::v1::{NodeSelector, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use serde_json::{Value, json};

use crate::kinds::placement::{Labels, term_matches};
use crate::reconcile::{Cluster, ObjectKey, ResourceType, Shared};

/// Annotation of a claim: the node that its first consumer goes to.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const WAITS_FOR_CONSUMER: &str = "WaitForFirstConsumer";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// How long a pod waits for its claims before another node is tried.
const PATIENCE: Duration = Duration::from_secs(30);

/// The objects that decide about claims.
#[derive(Clone)]
pub struct Volumes {
    pub claims: Shared<PersistentVolumeClaim>,
    pub volumes: Shared<PersistentVolume>,
    pub classes: Shared<StorageClass>,
}

/// What a pod's claims come to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Needs {
    /// Why the pod can run nowhere for now.
    pub blocked: Option<String>,
    /// Each must admit the node.
    pub places: Vec<Place>,
    /// Claims that are bound once the node is known.
    pub delayed: Vec<ObjectKey>,
}

/// Where one claim's volume may be.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// Where its volume is.
    Bound(NodeSelector),
    /// Where one of these free volumes is; `None` is anywhere.
    AnyOf(Vec<Option<NodeSelector>>),
}

impl Place {
    fn admits(&self, name: &str, labels: &Labels) -> bool {
        let holds =
            |selector: &NodeSelector| selector.node_selector_terms.iter().any(|term| term_matches(term, name, labels));
        match self {
            Self::Bound(selector) => holds(selector),
            Self::AnyOf(volumes) => volumes.iter().any(|selector| selector.as_ref().is_none_or(holds)),
        }
    }
}

impl Needs {
    /// What is told when a node does not suit; `None` when it does.
    pub fn conflict(&self, name: &str, labels: &Labels) -> Option<&'static str> {
        self.places.iter().find(|place| !place.admits(name, labels)).map(|place| match place {
            Place::Bound(_) => "node(s) didn't match PersistentVolume's node affinity",
            Place::AnyOf(_) => "node(s) didn't find available persistent volumes to bind",
        })
    }
}

/// The names of a pod's claims, those that are made for it included.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = String> + '_ {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    volumes.filter_map(move |volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
        (None, None) => None,
    })
}

impl Volumes {
    pub fn new(cluster: &Cluster) -> Self {
        Self { claims: cluster.watch(), volumes: cluster.watch(), classes: cluster.watch() }
    }

    pub async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
    }

    /// What the claims of a pod come to now.
    pub fn needs(&self, pod: &Pod) -> Needs {
        let mut needs = Needs::default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for name in claims_of(pod) {
            let key = ObjectKey::new(namespace, name.as_str());
            let found = match self.claims.get(&key) {
                None => Err(format!("persistentvolumeclaim \"{name}\" not found")),
                Some(claim) => self.needs_of(&claim, &mut needs),
            };
            if let Err(why) = found {
                needs.blocked.get_or_insert(why);
            }
        }
        needs
    }

    fn needs_of(&self, claim: &PersistentVolumeClaim, needs: &mut Needs) -> Result<(), String> {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
        }
        let spec = claim.spec.clone().unwrap_or_default();
        if let Some(volume) = spec.volume_name.as_deref().filter(|name| !name.is_empty()) {
            let found = self.volumes.get(&ObjectKey::cluster(volume));
            let volume = found.ok_or_else(|| format!("persistentvolume \"{volume}\" not found"))?;
            needs.places.extend(affinity(&volume).map(Place::Bound));
            return Ok(());
        }
        let class = spec.storage_class_name.as_deref().unwrap_or_default();
        let class = self.classes.get(&ObjectKey::cluster(class));
        let waits = |class: &Arc<StorageClass>| class.volume_binding_mode.as_deref() == Some(WAITS_FOR_CONSUMER);
        let Some(class) = class.filter(waits) else {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        };
        if class.provisioner == NO_PROVISIONER {
            let free = self.volumes.list().into_iter().filter(|volume| may_serve(volume, claim));
            needs.places.push(Place::AnyOf(free.map(|volume| affinity(&volume)).collect()));
        }
        needs.delayed.push(ObjectKey::of(claim));
        Ok(())
    }
}

fn affinity(volume: &PersistentVolume) -> Option<NodeSelector> {
    volume.spec.as_ref()?.node_affinity.as_ref()?.required.clone()
}

/// Whether a free volume is of the claim's class; the volume controller looks at the rest.
fn may_serve(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(volume), Some(claim)) = (&volume.spec, &claim.spec) else { return false };
    volume.claim_ref.is_none() && volume.storage_class_name == claim.storage_class_name
}

/// Has the delayed claims bound for this node, and waits until they are.
pub async fn bind(client: &Client, volumes: &Volumes, delayed: &[ObjectKey], node: &str) -> Result<(), String> {
    for key in delayed {
        let path = ResourceType::of::<PersistentVolumeClaim>().object_path(key);
        let body = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
        let request = Request::patch(path)
            .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
            .body(body.to_string().into_bytes())
            .expect("an escaped path and a constant header make a request");
        let written = client.request::<Value>(request).await;
        written.map_err(|error| format!("choosing node {node} for claim {key}: {error}"))?;
    }
    let mut changes = volumes.claims.subscribe();
    let bound = |key: &ObjectKey| {
        let claim = volumes.claims.get(key);
        let status = claim.as_ref().and_then(|claim| claim.status.as_ref());
        status.and_then(|status| status.phase.as_deref()) == Some("Bound")
    };
    let all_bound = async {
        while !delayed.iter().all(bound) {
            changes.next().await;
        }
    };
    tokio::time::timeout(PATIENCE, all_bound)
        .await
        .map_err(|_| format!("the claims of the pod were not bound for node {node} within {PATIENCE:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(of: Value) -> Labels {
        serde_json::from_value(of).expect("labels")
    }

    #[test]
    fn a_node_must_suit_every_claim() {
        let zone = |zone: &str| -> NodeSelector {
            serde_json::from_value(json!({"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}))
            .expect("a selector")
        };
        let needs = |places: Vec<Place>| Needs { places, ..Needs::default() };
        let (a, b) = (labels(json!({"zone": "a"})), labels(json!({"zone": "b"})));
        let bound = needs(vec![Place::Bound(zone("a"))]);
        assert!(bound.conflict("n", &a).is_none() && bound.conflict("n", &b).is_some());
        let any = needs(vec![Place::AnyOf(vec![Some(zone("a")), Some(zone("b"))]), Place::AnyOf(vec![None])]);
        assert!(any.conflict("n", &b).is_none());
        assert_eq!(
            needs(vec![Place::AnyOf(Vec::new())]).conflict("n", &a),
            Some("node(s) didn't find available persistent volumes to bind")
        );
    }

    #[test]
    fn claims_are_named_by_the_pod_or_after_it() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "b", "ephemeral": {}},
            {"name": "d", "emptyDir": {}}]}}))
            .expect("a pod");
        assert_eq!(claims_of(&pod).collect::<Vec<_>>(), ["c", "p-b"]);
    }
}

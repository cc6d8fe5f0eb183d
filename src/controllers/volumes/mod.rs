//! Persistent volumes: which claim gets which volume, the volumes that are made on demand, and what
//! becomes of those that are given back.
//!
//! A binding is written into the volume first (`claimRef`) and into the claim second; whoever is
//! interrupted in between finds the volume reserved. The class `local` is provisioned here: the volume
//! is a directory that the node named by the scheduler makes when the pod comes (its driver is
//! [`DRIVER`](crate::kinds::storage_class::DRIVER)), so making it needs nothing but an object. Other
//! provisioners are told by annotations, as upstream's are.

mod claim;
mod matching;
#[cfg(test)]
mod tests;
mod volume;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{nodes, pods};
use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Shared, Watched, note};

/// Index over pods: those that have not ended, by the claims that they use (`namespace/claim`).
const BY_CLAIM: &str = "claim";
/// Index over volumes: by the claim that they are for.
const BY_REFERENCE: &str = "claim-reference";

/// The controller. Its keys are claims, and without a namespace volumes.
pub(super) struct Volumes {
    claims: Shared<PersistentVolumeClaim>,
    volumes: Shared<PersistentVolume>,
    classes: Shared<StorageClass>,
    pods: Shared<Pod>,
    nodes: Shared<Node>,
}

/// What concerns one key.
#[derive(Debug, Clone)]
pub(super) enum View {
    Claim(Box<ClaimView>),
    Volume { volume: Arc<PersistentVolume>, claim: Option<Arc<PersistentVolumeClaim>> },
}

/// All that concerns one claim.
#[derive(Debug, Clone, Default)]
pub(super) struct ClaimView {
    pub claim: Arc<PersistentVolumeClaim>,
    /// The class that it names, if that exists.
    pub class: Option<Arc<StorageClass>>,
    /// The volume that it names, and those that it may get.
    pub volumes: Vec<Arc<PersistentVolume>>,
    /// The node that was chosen for it.
    pub node: Option<Arc<Node>>,
    /// A node for a volume that waits for nobody.
    pub any_node: Option<Arc<Node>>,
    pub in_use: bool,
}

impl Volumes {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let (pods, volumes) = (cluster.watch::<Pod>(), cluster.watch::<PersistentVolume>());
        pods.add_index(BY_CLAIM, |pod: &Pod| {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let used = claims_of(pod).into_iter().filter(|_| !pods::is_finished(pod));
            used.map(|claim| format!("{namespace}/{claim}")).collect()
        });
        volumes.add_index(BY_REFERENCE, |volume: &PersistentVolume| {
            let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            reference.map(|r| ObjectKey::new(text(&r.namespace), text(&r.name)).to_string()).into_iter().collect()
        });
        Self { claims: cluster.watch(), volumes, classes: cluster.watch(), pods, nodes: cluster.watch() }
    }

    /// Looks at claims that wait whenever what they wait for may have come.
    fn follow_for_waiting<K: Watched>(&self, queue: &Queue, shared: &Shared<K>) {
        let (queue, claims) = (queue.clone(), self.claims.clone());
        shared.on_change(move |old, new| {
            let fresh = |object: &K| (object.meta().resource_version.clone(), object.meta().deletion_timestamp.clone());
            if old.map(fresh) != new.map(fresh) {
                let waiting = claims.list().into_iter().filter(|claim| !claim::is_bound(claim));
                waiting.for_each(|claim| queue.add(ObjectKey::of(&*claim)));
            }
            true
        });
    }

    /// A claim concerns the volumes that name it; a volume the claim that it names.
    fn follow_each_other(&self, queue: &Queue) {
        let (to_volumes, volumes) = (queue.clone(), self.volumes.clone());
        self.claims.on_change(move |old, new| {
            if let Some(claim) = new.or(old) {
                for volume in volumes.by_index(BY_REFERENCE, &ObjectKey::of(claim).to_string()) {
                    to_volumes.add(ObjectKey::of(&*volume));
                }
            }
            true
        });
        let queue = queue.clone();
        self.volumes.on_change(move |old, new| {
            let reference = new.or(old).and_then(|v| v.spec.as_ref()).and_then(|s| s.claim_ref.as_ref());
            if let Some(reference) = reference {
                queue.add(ObjectKey::new(text(&reference.namespace), text(&reference.name)));
            }
            true
        });
    }

    fn follow_users(&self, queue: &Queue) {
        let queue = queue.clone();
        self.pods.on_change(move |old, new| {
            let ended = |pod: Option<&Pod>| pod.is_none_or(pods::is_finished);
            if let Some(pod) = old.filter(|pod| !pods::is_finished(pod) && ended(new)) {
                let namespace = text(&pod.metadata.namespace);
                claims_of(pod).into_iter().for_each(|claim| queue.add(ObjectKey::new(namespace, claim.as_str())));
            }
            true
        });
    }

    fn view_of_claim(&self, claim: Arc<PersistentVolumeClaim>) -> ClaimView {
        let key = ObjectKey::of(&*claim).to_string();
        let spec = claim.spec.clone().unwrap_or_default();
        let named = |name: &Option<String>| name.as_deref().filter(|n| !n.is_empty()).map(ObjectKey::cluster);
        let class = named(&spec.storage_class_name).and_then(|class| self.classes.get(&class));
        let volumes = match named(&spec.volume_name) {
            Some(volume) => self.volumes.get(&volume).into_iter().collect(),
            None => {
                let free = |volume: &Arc<PersistentVolume>| {
                    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
                    reference.is_none_or(|r| ObjectKey::new(text(&r.namespace), text(&r.name)).to_string() == key)
                };
                let mut volumes = self.volumes.list();
                volumes.retain(free);
                volumes
            }
        };
        let node = claim::selected_node(&claim).and_then(|name| self.nodes.get(&ObjectKey::cluster(name)));
        let any_node = self.nodes.list().into_iter().find(|node| nodes::health(node) == nodes::Health::Ready);
        let in_use = !self.pods.by_index(BY_CLAIM, &key).is_empty();
        ClaimView { claim, class, volumes, node, any_node, in_use }
    }
}

impl Reconciler for Volumes {
    type View = View;

    fn name(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.claims);
        queue.follow(&self.volumes);
        self.follow_for_waiting(queue, &self.volumes);
        self.follow_for_waiting(queue, &self.classes);
        self.follow_each_other(queue);
        self.follow_users(queue);
    }

    async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.pods.synced().await;
        self.nodes.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        let mut keys = self.claims.keys();
        keys.extend(self.volumes.keys());
        keys
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        if !key.namespace.is_empty() {
            let claim = self.claims.get(key)?;
            return Some(View::Claim(Box::new(self.view_of_claim(claim))));
        }
        let volume = self.volumes.get(key)?;
        let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        let claim = reference.and_then(|r| self.claims.get(&ObjectKey::new(text(&r.namespace), text(&r.name))));
        Some(View::Volume { volume, claim })
    }

    fn plan(&self, now: Timestamp, view: View) -> Plan {
        match view {
            View::Claim(view) => claim::plan(&view),
            View::Volume { volume, claim } => volume::plan(now, &volume, claim.as_deref()),
        }
    }
}

fn text(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

/// The names of the claims that a pod uses.
fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let own = text(&pod.metadata.name);
    let name = |volume: &k8s_openapi::api::core::v1::Volume| match (&volume.persistent_volume_claim, &volume.ephemeral)
    {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{own}-{}", volume.name)),
        (None, None) => None,
    };
    volumes.filter_map(name).collect()
}

//! The ReplicaSets of a Deployment: whose they are, which is the new one, what a new one looks like.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::super::claim::controller_reference;
use super::super::diff::merge_patch;
use super::super::history;
use super::super::pods;
use super::View;
use crate::reconcile::{Plan, Write};

pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// A set as it is and as the plan wants it.
#[derive(Debug, Clone)]
pub(super) struct Set {
    /// `None` when the plan creates it.
    pub before: Option<Arc<ReplicaSet>>,
    pub wanted: ReplicaSet,
}

impl Set {
    pub(super) fn existing(set: &Arc<ReplicaSet>) -> Self {
        Self { before: Some(set.clone()), wanted: (**set).clone() }
    }

    pub(super) fn name(&self) -> &str {
        self.wanted.metadata.name.as_deref().unwrap_or_default()
    }

    /// The pods it asks for, with what the plan changed.
    pub(super) fn replicas(&self) -> i32 {
        self.wanted.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0)
    }

    pub(super) fn replicas_before(&self) -> i32 {
        let before = self.before.as_ref().and_then(|s| s.spec.as_ref());
        before.and_then(|s| s.replicas).unwrap_or(0)
    }

    pub(super) fn status(&self) -> ReplicaSetStatus {
        self.wanted.status.clone().unwrap_or_default()
    }

    /// The pods that can be relied on. The status may be older than a change of the spec, and those
    /// pods will be the ones to go.
    pub(super) fn available(&self) -> i32 {
        let status = self.wanted.status.as_ref();
        status.and_then(|s| s.available_replicas).unwrap_or(0).min(self.replicas())
    }

    /// The pods there may be: scaling down takes a moment.
    pub(super) fn at_most(&self) -> i32 {
        self.replicas().max(self.wanted.status.as_ref().map_or(0, |s| s.replicas))
    }

    /// The status speaks of the present spec.
    pub(super) fn is_settled(&self) -> bool {
        let observed = self.wanted.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
        observed >= self.wanted.metadata.generation.unwrap_or(0)
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.wanted.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    pub(super) fn set_annotation(&mut self, name: &str, value: String) {
        self.wanted.metadata.annotations.get_or_insert_default().insert(name.to_owned(), value);
    }

    pub(super) fn set_replicas(&mut self, replicas: i32) {
        self.wanted.spec.get_or_insert_default().replicas = Some(replicas);
    }

    /// Older sets first; those of one second by name.
    pub(super) fn age_key(&self) -> (Option<jiff::Timestamp>, &str) {
        // A set that is yet to be created is the youngest: `None` would sort first, hence the maximum.
        let created = self.wanted.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (Some(created.unwrap_or(jiff::Timestamp::MAX)), self.name())
    }

    /// The write that makes the wanted of the present; `None` when they are the same.
    pub(super) fn write(&self) -> Option<Write> {
        let Some(before) = &self.before else { return Some(Write::create(&self.wanted)) };
        let mut body = json!({});
        if let Some(annotations) = merge_patch(&before.metadata.annotations, &self.wanted.metadata.annotations) {
            body["metadata"]["annotations"] = annotations;
        }
        if let Some(spec) = merge_patch(&before.spec, &self.wanted.spec) {
            body["spec"] = spec;
        }
        body.as_object().is_some_and(|b| !b.is_empty()).then(|| Write::patch(&**before, "", body))
    }
}

pub(super) fn recreates(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

pub(super) fn selects(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let selector = deployment.spec.as_ref().and_then(|s| pods::workload_selector(&s.selector));
    selector.is_some_and(|s| pods::matches(&s, set.metadata.labels.as_ref()))
}

/// Plans adoptions and releases; returns the sets that are the Deployment's own once those are done,
/// oldest first.
pub(super) fn claim(view: &View, plan: &mut Plan) -> Vec<Set> {
    let deployment = &*view.deployment;
    let alive = deployment.metadata.deletion_timestamp.is_none();
    let mut claimed = Vec::new();
    for set in &view.sets {
        if selects(deployment, set) {
            claimed.push(Set::existing(set));
        } else if alive {
            let mut owners = set.metadata.owner_references.clone().unwrap_or_default();
            owners.retain(|o| Some(&o.uid) != deployment.metadata.uid.as_ref());
            plan.write(patch_owners(set, if owners.is_empty() { json!(null) } else { json!(owners) }));
        }
    }
    for set in view.orphans.iter().filter(|s| alive && selects(deployment, s)) {
        if set.metadata.deletion_timestamp.is_none() {
            let mut owners = set.metadata.owner_references.clone().unwrap_or_default();
            owners.push(controller_reference(deployment));
            plan.write(patch_owners(set, json!(owners)));
            claimed.push(Set::existing(set));
        }
    }
    claimed.sort_by(|a, b| a.age_key().cmp(&b.age_key()));
    claimed
}

/// The list is replaced whole, hence the revision as a precondition.
fn patch_owners(set: &ReplicaSet, owners: serde_json::Value) -> Write {
    let metadata = json!({"ownerReferences": owners, "resourceVersion": set.metadata.resource_version});
    Write::patch(set, "", json!({"metadata": metadata}))
}

/// Where in `sets` the one with the Deployment's present template is: the oldest, should there be two.
pub(super) fn find_new(spec: &DeploymentSpec, sets: &[Set]) -> Option<usize> {
    let wanted = without_hash(spec.template.clone());
    sets.iter().position(|set| {
        let template = set.wanted.spec.as_ref().and_then(|s| s.template.clone());
        template.is_some_and(|t| without_hash(t) == wanted)
    })
}

fn without_hash(mut template: PodTemplateSpec) -> PodTemplateSpec {
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    let metadata = template.metadata.get_or_insert_default();
    metadata.labels = metadata.labels.take().filter(|l| !l.is_empty());
    metadata.annotations = metadata.annotations.take().filter(|a| !a.is_empty());
    template
}

/// The name that a new set for the present template has.
pub(super) fn new_name(deployment: &Deployment) -> String {
    format!("{}-{}", deployment.metadata.name.as_deref().unwrap_or_default(), template_hash(deployment))
}

/// A stable hash of the template and the number of collisions so far.
pub(super) fn template_hash(deployment: &Deployment) -> String {
    let template = deployment.spec.as_ref().map(|s| &s.template);
    let bytes = serde_json::to_vec(&template).expect("Kubernetes types serialise to JSON");
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    history::hash(&bytes, collisions)
}

/// A set for the present template, without pods yet.
pub(super) fn new_set(deployment: &Deployment, spec: &DeploymentSpec) -> ReplicaSet {
    let hash = template_hash(deployment);
    let hash = || BTreeMap::from([(HASH_LABEL.to_owned(), hash.clone())]);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.extend(hash());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().extend(hash());
    let metadata = ObjectMeta {
        name: Some(new_name(deployment)),
        namespace: deployment.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![controller_reference(deployment)]),
        ..Default::default()
    };
    let spec = ReplicaSetSpec {
        replicas: Some(0),
        min_ready_seconds: spec.min_ready_seconds,
        selector,
        template: Some(template),
    };
    ReplicaSet { metadata, spec: Some(spec), status: None }
}

//! The revisions of a DaemonSet's or StatefulSet's template, as ControllerRevisions: what `kubectl
//! rollout history` and `undo` read.
//!
//! A revision holds the patch that brings the template back, whole. The newest has the highest number;
//! going back to an old template gives its revision a new number instead of making another.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::Resource;
use serde_json::{Value, json};

use super::claim::controller_reference;
use crate::reconcile::{Plan, Write};

/// No vowels and no look-alikes, so that no name spells a word.
const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A stable hash of a template and the number of collisions so far, as part of names and labels.
pub(super) fn hash(bytes: &[u8], collisions: Option<i32>) -> String {
    let collisions = collisions.filter(|n| *n != 0).map(|n| n.to_le_bytes().to_vec()).unwrap_or_default();
    // FNV-1a, 32 bits.
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = bytes.iter().chain(&collisions).fold(0x811c_9dc5, step);
    let safe = |digit: u8| SAFE.get(usize::from(digit) % SAFE.len()).copied().unwrap_or(b'b');
    hash.to_string().bytes().map(|digit| char::from(safe(digit))).collect()
}

/// The patch that brings a template back.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).expect("Kubernetes types serialise to JSON");
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision holds.
pub(super) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// Whose revisions, and how they are labelled.
pub(super) struct History<'a, K> {
    pub owner: &'a K,
    pub template: &'a PodTemplateSpec,
    /// The label of a revision that holds its hash.
    pub hash_label: &'static str,
    pub collisions: Option<i32>,
    /// The revisions that the owner controls.
    pub revisions: &'a [Arc<ControllerRevision>],
    /// The number of old revisions to keep.
    pub limit: Option<i32>,
}

/// The revision of the present template.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Current {
    pub name: String,
    pub hash: String,
}

impl<K: Resource<DynamicType = ()>> History<'_, K> {
    /// The revision of the present template; plans to make it, or to number it anew, where need be.
    pub(super) fn current(&self, plan: &mut Plan) -> Current {
        let wanted = data(self.template);
        let newest = self.revisions.iter().map(|r| r.revision).max().unwrap_or(0);
        let same = self.revisions.iter().filter(|r| r.data.as_ref().is_some_and(|data| data.0 == wanted));
        if let Some(same) = same.max_by_key(|r| r.revision) {
            if same.revision < newest {
                plan.write(Write::patch(&**same, "", json!({"revision": newest + 1})));
            }
            let labels = same.metadata.labels.as_ref();
            let hash = labels.and_then(|l| l.get(self.hash_label)).cloned().unwrap_or_default();
            return Current { name: same.metadata.name.clone().unwrap_or_default(), hash };
        }
        let bytes = serde_json::to_vec(&wanted).expect("JSON");
        let owner = self.owner.meta().name.as_deref().unwrap_or_default();
        // A name that another template has already is passed over, as a collision.
        let named = |hash: &str| format!("{owner}-{hash}");
        let taken = |name: &str| self.revisions.iter().any(|r| r.metadata.name.as_deref() == Some(name));
        let mut collisions = self.collisions.unwrap_or(0);
        let mut hash = hash(&bytes, Some(collisions));
        while taken(&named(&hash)) {
            collisions += 1;
            hash = self::hash(&bytes, Some(collisions));
        }
        let name = named(&hash);
        let labels = self.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        plan.write(Write::create(&self.revision(&name, &hash, labels, wanted, newest + 1)));
        Current { name, hash }
    }

    fn revision(
        &self,
        name: &str,
        hash: &str,
        mut labels: BTreeMap<String, String>,
        data: Value,
        revision: i64,
    ) -> ControllerRevision {
        labels.insert(self.hash_label.to_owned(), hash.to_owned());
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: self.owner.meta().namespace.clone(),
            labels: Some(labels),
            annotations: self.template.metadata.as_ref().and_then(|m| m.annotations.clone()),
            owner_references: Some(vec![controller_reference(self.owner)]),
            ..ObjectMeta::default()
        };
        ControllerRevision { metadata, data: Some(RawExtension(data)), revision }
    }

    /// Plans to forget the oldest revisions beyond the limit, but for those that `live` says are in use.
    pub(super) fn truncate(&self, live: impl Fn(&ControllerRevision) -> bool, plan: &mut Plan) {
        let Ok(limit) = usize::try_from(self.limit.unwrap_or(10)) else { return };
        let mut old: Vec<&Arc<ControllerRevision>> = self.revisions.iter().filter(|r| !live(r)).collect();
        old.sort_by_key(|revision| revision.revision);
        let surplus = old.len().saturating_sub(limit);
        plan.batch(old.into_iter().take(surplus).map(|revision| Write::delete(&**revision)).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Action;
    use crate::reconcile::fake::Fake;
    use k8s_openapi::api::apps::v1::DaemonSet;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "image": image}]}})).expect("a template")
    }

    #[test]
    fn each_template_has_one_revision_and_the_present_one_the_highest_number() {
        let owner =
            DaemonSet { metadata: ObjectMeta { name: Some("d".into()), ..Default::default() }, ..Default::default() };
        let mut revisions: Vec<Arc<ControllerRevision>> = Vec::new();
        let roll = |image: &str, revisions: &mut Vec<Arc<ControllerRevision>>| {
            let template = template(image);
            let history = History {
                owner: &owner,
                template: &template,
                hash_label: "h",
                collisions: None,
                revisions,
                limit: Some(1),
            };
            let mut plan = Plan::nothing();
            let current = history.current(&mut plan);
            for write in Fake::writes(&plan) {
                match write.action {
                    Action::Create(body) => revisions.push(Arc::new(serde_json::from_value(body).expect("a revision"))),
                    Action::Patch { body, .. } => {
                        let at = revisions
                            .iter()
                            .position(|r| r.metadata.name.as_deref() == Some(&write.key.name))
                            .expect("it is known");
                        let mut changed = (*revisions[at]).clone();
                        changed.revision = body["revision"].as_i64().expect("a number");
                        revisions[at] = Arc::new(changed);
                    }
                    _ => panic!("neither"),
                }
            }
            current
        };
        let first = roll("i:1", &mut revisions);
        assert_eq!(roll("i:1", &mut revisions), first);
        let second = roll("i:2", &mut revisions);
        assert_ne!(first, second);
        assert_eq!(roll("i:1", &mut revisions), first);
        let numbers: Vec<i64> = revisions.iter().map(|r| r.revision).collect();
        assert_eq!(numbers, [3, 2]);
        assert_eq!(super::template(&revisions[0]), Some(template("i:1")));
        let wanted = template("i:1");
        let history = History {
            owner: &owner,
            template: &wanted,
            hash_label: "h",
            collisions: None,
            revisions: &revisions,
            limit: Some(0),
        };
        let mut plan = Plan::nothing();
        history.truncate(|r| r.revision == 3, &mut plan);
        assert_eq!(Fake::writes(&plan)[0].key.name.to_string(), second.name);
    }
}

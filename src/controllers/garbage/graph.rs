//! Who owns whom, and what follows from it. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use super::without_owners;
use crate::reconcile::{ObjectKey, ResourceType, Write};

/// Deletion waits for the dependents that block it.
const FOREGROUND: &str = "foregroundDeletion";
/// Deletion lets the dependents go free.
const ORPHAN: &str = "orphan";

/// What is known of one object.
#[derive(Debug)]
struct Node {
    resource: Arc<ResourceType>,
    key: ObjectKey,
    version: String,
    owners: Vec<OwnerReference>,
    deleting: bool,
    finalizers: Vec<String>,
}

/// What an owner means for its dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It exists and stays, as far as anybody knows.
    Solid,
    /// It is being deleted and waits for its dependents.
    Waiting,
    Absent,
}

impl Standing {
    /// From an object as the server shows it.
    pub(super) fn of(object: &Value) -> Self {
        let metadata = &object["metadata"];
        let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
        let foreground = finalizers.into_iter().any(|f| f == FOREGROUND);
        if foreground && !metadata["deletionTimestamp"].is_null() { Self::Waiting } else { Self::Solid }
    }
}

/// What to do about one object.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    Nothing,
    /// Decide about these first.
    Look(Vec<String>),
    /// In this order.
    Write(Vec<Write>),
}

/// All objects by uid, and who depends on each uid.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Node {
    fn of(resource: &Arc<ResourceType>, meta: &ObjectMeta) -> Self {
        Self {
            resource: resource.clone(),
            key: ObjectKey::of_meta(meta),
            version: meta.resource_version.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
        }
    }

    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }

    fn is_waiting(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }

    fn is_orphaning(&self) -> bool {
        self.deleting && self.has(ORPHAN)
    }

    fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|o| o.uid == owner && o.block_owner_deletion == Some(true))
    }

    /// The owner is where the reference says: of this kind and name, in the dependent's namespace or in
    /// none.
    fn is_meant_by(&self, reference: &OwnerReference, dependent: &Node) -> bool {
        *self.key.name == *reference.name
            && self.resource.kind == reference.kind
            && (self.key.namespace.is_empty() || self.key.namespace == dependent.key.namespace)
    }

    fn without_finalizer(&self, uid: &str, finalizer: &str) -> Write {
        let left: Vec<&String> = self.finalizers.iter().filter(|f| *f != finalizer).collect();
        let left = if left.is_empty() { json!(null) } else { json!(left) };
        let body = json!({"metadata": {"finalizers": left, "resourceVersion": self.version, "uid": uid}});
        Write::patch_by_key((*self.resource).clone(), self.key.clone(), body)
    }
}

impl Graph {
    pub(super) fn uids(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// An object was added or changed; returns whom to look at.
    pub(super) fn seen(&mut self, resource: &Arc<ResourceType>, meta: &ObjectMeta) -> Vec<String> {
        let Some(uid) = meta.uid.clone() else { return Vec::new() };
        let node = Node::of(resource, meta);
        if let Some(old) = self.nodes.get(&uid) {
            let (held, new) = (old.version.parse::<u64>(), node.version.parse::<u64>());
            if let (Ok(held), Ok(new)) = (held, new)
                && new < held
            {
                return Vec::new();
            }
        }
        let old_owners: Vec<String> =
            self.nodes.get(&uid).map(|n| n.owners.iter().map(|o| o.uid.clone()).collect()).unwrap_or_default();
        for owner in &old_owners {
            self.unlink(owner, &uid);
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let ends = node.is_waiting() || node.is_orphaning();
        // A reference to nobody known, to one that goes, or one that was just taken away.
        let doubtful = !node.deleting && node.owners.iter().any(|o| self.nodes.get(&o.uid).is_none_or(|n| n.deleting));
        self.nodes.insert(uid.clone(), node);
        let mut look: Vec<String> = old_owners.into_iter().filter(|o| self.is_waiting(o)).collect();
        if ends || doubtful {
            look.push(uid);
        }
        look
    }

    /// An object is gone; returns whom to look at.
    pub(super) fn ended(&mut self, uid: &str) -> Vec<String> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
        }
        let waiting = node.owners.iter().map(|o| o.uid.clone()).filter(|o| self.is_waiting(o));
        waiting.chain(self.dependents_of(uid)).collect()
    }

    /// A complete list of one kind: every other object of it is gone.
    pub(super) fn retain(&mut self, resource: &Arc<ResourceType>, listed: &HashSet<String>) -> Vec<String> {
        let lost =
            |(uid, node): (&String, &Node)| (node.resource == *resource && !listed.contains(uid)).then(|| uid.clone());
        let lost: Vec<String> = self.nodes.iter().filter_map(lost).collect();
        lost.iter().flat_map(|uid| self.ended(uid)).collect()
    }

    /// The owners of an object that the graph does not know, with the namespace to look in.
    pub(super) fn strangers(&self, uid: &str) -> Vec<(String, OwnerReference)> {
        let Some(node) = self.nodes.get(uid).filter(|n| !n.deleting) else { return Vec::new() };
        let known = |o: &&OwnerReference| self.nodes.get(&o.uid).is_some_and(|owner| owner.is_meant_by(o, node));
        let strangers = node.owners.iter().filter(|o| !known(o));
        strangers.map(|o| (node.key.namespace.to_string(), o.clone())).collect()
    }

    /// Decides about one object; `asked` tells the standing of the strangers among its owners.
    pub(super) fn decide(&self, uid: &str, asked: &HashMap<String, Standing>) -> Decision {
        match self.nodes.get(uid) {
            None => Decision::Nothing,
            Some(node) if node.is_orphaning() => self.set_free(uid, node),
            Some(node) if node.is_waiting() => self.wait_for_dependents(uid, node),
            Some(node) if node.deleting => Decision::Nothing,
            Some(node) => self.judge(uid, node, asked),
        }
    }

    fn set_free(&self, uid: &str, node: &Node) -> Decision {
        let dependents = self.dependents_of(uid).into_iter().filter_map(|d| self.nodes.get(&d));
        let gone = HashSet::from([uid]);
        let mut writes: Vec<Write> =
            dependents.map(|d| without_owners(&d.resource, &d.key, &d.version, &d.owners, &gone)).collect();
        writes.push(node.without_finalizer(uid, ORPHAN));
        Decision::Write(writes)
    }

    fn wait_for_dependents(&self, uid: &str, node: &Node) -> Decision {
        let dependents = self.dependents_of(uid);
        let blocking = dependents.iter().filter_map(|d| self.nodes.get(d)).any(|d| d.blocks(uid));
        if !blocking {
            return Decision::Write(vec![node.without_finalizer(uid, FOREGROUND)]);
        }
        let idle = dependents.into_iter().filter(|d| self.nodes.get(d).is_some_and(|n| !n.deleting)).collect();
        Decision::Look(idle)
    }

    /// Whether an object that nobody is deleting has an owner left.
    fn judge(&self, uid: &str, node: &Node, asked: &HashMap<String, Standing>) -> Decision {
        let standing = |owner: &OwnerReference| match self.nodes.get(&owner.uid) {
            Some(found) if found.is_meant_by(owner, node) && found.is_waiting() => Standing::Waiting,
            Some(found) if found.is_meant_by(owner, node) => Standing::Solid,
            // Not asked about: it has come to be an owner just now, and is looked at again then.
            Some(_) | None => asked.get(&owner.uid).copied().unwrap_or(Standing::Solid),
        };
        let with = |wanted: Standing| node.owners.iter().filter(move |o| standing(o) == wanted);
        if node.owners.is_empty() {
            return Decision::Nothing;
        }
        if with(Standing::Solid).next().is_some() {
            let gone: HashSet<&str> =
                with(Standing::Absent).chain(with(Standing::Waiting)).map(|o| o.uid.as_str()).collect();
            if gone.is_empty() {
                return Decision::Nothing;
            }
            return Decision::Write(vec![without_owners(
                &node.resource,
                &node.key,
                &node.version,
                &node.owners,
                &gone,
            )]);
        }
        let waited_for = with(Standing::Waiting).next().is_some() && !self.dependents_of(uid).is_empty();
        let policy = if waited_for || node.has(FOREGROUND) {
            "Foreground"
        } else if node.has(ORPHAN) {
            "Orphan"
        } else {
            "Background"
        };
        let delete = Write::delete_by_key((*node.resource).clone(), node.key.clone(), Some(uid.to_owned()));
        // At this very revision: an owner added meanwhile keeps the object.
        Decision::Write(vec![delete.with(None, Some(policy)).at_version(Some(node.version.clone()))])
    }

    fn is_waiting(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(Node::is_waiting)
    }

    fn dependents_of(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

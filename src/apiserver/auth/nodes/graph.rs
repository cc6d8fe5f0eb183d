//! What a node has to do with an object: a pod that is bound to the node refers to it.
//!
//! Upstream keeps a graph of all pods and what they refer to. Here the pods are at hand, and the question
//! is rare (once for each object that a node begins to watch), so it is answered by looking at them: the
//! stored bytes are searched for both names, and only what has both is read. What was found is
//! remembered and looked at first the next time. So there is nothing to keep in step, and a right ends
//! with the pod that it came from.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use memchr::memmem;
use serde_json::Value;

use crate::apiserver::registry::encoding;
use crate::kinds::common::{list, text};
use crate::kinds::persistent_volume::PersistentVolume;
use crate::kinds::pod::{CONFIG_ANNOTATION, KEYVALUE_SECRET_ANNOTATION, Pod};
use crate::kinds::{Kind, meta as kmeta};
use crate::store::{Entry, Store};

/// How many pods are looked at under one hold of the store's lock.
const SCAN_PAGE: usize = 2000;
/// More are not remembered; then all are forgotten, and found again.
const MAX_REMEMBERED: usize = 65_536;

/// What pods refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sort {
    Secret,
    ConfigMap,
    Claim,
    /// Through the claim that is bound to it; or because it is on the node, which removes what is left
    /// of it when it has gone.
    Volume,
    ServiceAccount,
}

/// An object that a node asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    node: String,
    sort: Sort,
    namespace: String,
    name: String,
}

/// Answers what nodes have to do with objects.
pub struct Graph {
    store: Arc<dyn Store>,
    /// The key of a pod that refers to the object.
    remembered: Mutex<HashMap<Question, Arc<str>>>,
}

impl Graph {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, remembered: Mutex::default() }
    }

    /// Whether a pod that is bound to `node` refers to the object.
    pub fn refers(&self, node: &str, sort: Sort, namespace: &str, name: &str) -> bool {
        if sort == Sort::Volume {
            // Of what is not there, nothing can be learned but that.
            return self.volume(name).is_none_or(|volume| {
                let claim = &volume["spec"]["claimRef"];
                is_on(&volume, node) || self.refers(node, Sort::Claim, text(claim, "/namespace"), text(claim, "/name"))
            });
        }
        let (node, namespace, name) = (node.to_owned(), namespace.to_owned(), name.to_owned());
        let question = Question { node, sort, namespace, name };
        let known = self.remembered().get(&question).cloned();
        if known.and_then(|key| self.store.get(&key)).is_some_and(|entry| question.is_answered_by(&entry)) {
            return true;
        }
        let found = self.scan(&question);
        let mut remembered = self.remembered();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        match found {
            Some(key) => drop(remembered.insert(question, key)),
            None => {
                remembered.remove(&question);
                return false;
            }
        }
        true
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<Question, Arc<str>>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first pod that refers to the object.
    fn scan(&self, question: &Question) -> Option<Arc<str>> {
        let prefix = encoding::prefix(Pod.info(), &question.namespace);
        let mut after: Option<Arc<str>> = None;
        loop {
            let page = self.store.list(&prefix, after.as_deref(), SCAN_PAGE, None).ok()?;
            if let Some(found) = page.entries.iter().find(|entry| question.is_answered_by(entry)) {
                return Some(found.key.clone());
            }
            if page.remaining == 0 {
                return None;
            }
            after = page.entries.last().map(|entry| entry.key.clone());
        }
    }

    fn volume(&self, name: &str) -> Option<Value> {
        let entry = self.store.get(&encoding::key(PersistentVolume.info(), "", name))?;
        encoding::decode(&PersistentVolume, &entry.value, entry.mod_revision).ok()
    }
}

/// Whether a volume is of one node's own.
fn is_on(volume: &Value, node: &str) -> bool {
    let terms = list(volume, "/spec/nodeAffinity/required/nodeSelectorTerms").iter();
    let mut wanted = terms.flat_map(|term| list(term, "/matchExpressions"));
    wanted.any(|term| term["key"] == "kubernetes.io/hostname" && list(term, "/values").iter().any(|name| name == node))
}

impl Question {
    fn is_answered_by(&self, entry: &Entry) -> bool {
        // Names need no escaping in JSON: what has been let in has none of its special characters.
        let has = |needle: &str| memmem::find(&entry.value, needle.as_bytes()).is_some();
        has(&format!("\"nodeName\":\"{}\"", self.node))
            // A claim's name may be made of the pod's and the volume's.
            && (self.sort == Sort::Claim || has(&self.name))
            && encoding::decode(&Pod, &entry.value, entry.mod_revision)
                .is_ok_and(|pod| pod["spec"]["nodeName"] == self.node && refers(&pod, self.sort, &self.name))
    }
}

/// Whether a pod refers to an object of its namespace.
fn refers(pod: &Value, sort: Sort, name: &str) -> bool {
    let spec = &pod["spec"];
    let volumes = list(spec, "/volumes");
    let sources = volumes.iter().flat_map(|volume| list(volume, "/projected/sources"));
    let is = |value: &Value, pointer: &str| text(value, pointer) == name;
    let containers =
        || ["/containers", "/initContainers", "/ephemeralContainers"].into_iter().flat_map(|lists| list(spec, lists));
    let by_variables = |one: &str, all: &str| {
        containers().any(|container| {
            list(container, "/env").iter().any(|variable| is(variable, &format!("/valueFrom/{one}/name")))
                || list(container, "/envFrom").iter().any(|source| is(source, &format!("/{all}/name")))
        })
    };
    let annotated = |annotation: &str| {
        let names = pod["metadata"]["annotations"][annotation].as_str().unwrap_or_default();
        names.split(',').any(|named| named.trim() == name)
    };
    match sort {
        Sort::Secret => {
            annotated(KEYVALUE_SECRET_ANNOTATION)
                || volumes.iter().any(|volume| names_secret(volume, name))
                || sources.into_iter().any(|source| is(source, "/secret/name"))
                || list(spec, "/imagePullSecrets").iter().any(|secret| is(secret, "/name"))
                || by_variables("secretKeyRef", "secretRef")
        }
        Sort::ConfigMap => {
            annotated(CONFIG_ANNOTATION)
                || volumes.iter().any(|volume| is(volume, "/configMap/name"))
                || sources.into_iter().any(|source| is(source, "/configMap/name"))
                || by_variables("configMapKeyRef", "configMapRef")
        }
        Sort::Claim => volumes.iter().any(|volume| {
            is(volume, "/persistentVolumeClaim/claimName")
                || (volume["ephemeral"].is_object()
                    && name == format!("{}-{}", kmeta::text(pod, "name"), text(volume, "/name")))
        }),
        Sort::ServiceAccount => is(spec, "/serviceAccountName"),
        Sort::Volume => false,
    }
}

/// Whether a volume is a Secret, or needs one to be mounted.
fn names_secret(volume: &Value, name: &str) -> bool {
    let sources = volume.as_object().into_iter().flatten().map(|(_, source)| source);
    text(volume, "/secret/secretName") == name
        || text(volume, "/azureFile/secretName") == name
        || sources.into_iter().any(|source| {
            ["/secretRef/name", "/nodePublishSecretRef/name"].iter().any(|pointer| text(source, pointer) == name)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Durability, Expect, MemoryStore, Write};
    use serde_json::json;

    fn pod(node: &str) -> Value {
        json!({"metadata": {"name": "web-0", "namespace": "shop", "annotations": {
            "coracle.dev/config": "seasons, prices", "coracle.dev/keyvalue-secret": "cache"}}, "spec": {
            "nodeName": node, "serviceAccountName": "robot", "imagePullSecrets": [{"name": "registry"}],
            "containers": [{"name": "c", "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "k"}}}],
                "envFrom": [{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "many"}}]}],
            "volumes": [{"name": "v", "secret": {"secretName": "files"}}, {"name": "d", "ephemeral": {}},
                {"name": "p", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "x", "csi": {"nodePublishSecretRef": {"name": "driver"}}},
                {"name": "j", "projected": {"sources": [{"configMap": {"name": "root"}}, {"secret": {"name": "part"}}]}}],
        }})
    }

    #[test]
    fn what_pods_refer_to() {
        let pod = pod("n1");
        let cases = [
            (Sort::Secret, vec!["registry", "key", "all", "files", "part", "driver", "cache"]),
            (Sort::ConfigMap, vec!["settings", "many", "root", "seasons", "prices"]),
            (Sort::Claim, vec!["data", "web-0-d"]),
            (Sort::ServiceAccount, vec!["robot"]),
        ];
        let all: Vec<&str> = cases.iter().flat_map(|(_, names)| names.clone()).collect();
        for (sort, names) in &cases {
            for name in &all {
                assert_eq!(refers(&pod, *sort, name), names.contains(name), "{sort:?} {name}");
            }
        }
    }

    #[tokio::test]
    async fn a_right_comes_and_goes_with_the_pod() {
        let store = Arc::new(MemoryStore::new());
        let graph = Graph::new(store.clone());
        let put = |kind: &'static dyn Kind, namespace: &str, object: Option<Value>, name: &str, expect: Expect| {
            let key = encoding::key(kind.info(), namespace, name).into();
            let value = object.map(|object| encoding::encode(kind, &object));
            let store = store.clone();
            async move {
                let write = Write { key, expect, value, durability: Durability::Synced };
                store.commit(write).await.expect("stored")
            }
        };
        let volume = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "shop", "name": "data"}}});
        put(&PersistentVolume, "", Some(volume), "pv", Expect::Absent).await;
        let hosts = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "values": ["n1"]}]}]);
        let local = json!({"metadata": {"name": "local"}, "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": hosts}}}});
        put(&PersistentVolume, "", Some(local), "local", Expect::Absent).await;
        let asks = |node: &str, sort, name: &str| graph.refers(node, sort, "shop", name);
        assert!(!asks("n1", Sort::Secret, "key"));
        let revision = put(&Pod, "shop", Some(pod("n1")), "web-0", Expect::Absent).await;
        for _ in 0..2 {
            assert!(asks("n1", Sort::Secret, "key") && asks("n1", Sort::Claim, "web-0-d"));
            assert!(graph.refers("n1", Sort::Volume, "", "pv"));
            assert!(!asks("n2", Sort::Secret, "key") && !asks("n1", Sort::Secret, "data"));
            assert!(!graph.refers("n1", Sort::Secret, "other", "key"), "another namespace");
        }
        assert!(graph.refers("n1", Sort::Volume, "", "local") && !graph.refers("n2", Sort::Volume, "", "local"));
        assert!(graph.refers("n2", Sort::Volume, "", "gone"));
        put(&Pod, "shop", None, "web-0", Expect::Revision(revision)).await;
        assert!(!asks("n1", Sort::Secret, "key"));
        assert!(!graph.refers("n1", Sort::Volume, "", "pv"));
    }
}

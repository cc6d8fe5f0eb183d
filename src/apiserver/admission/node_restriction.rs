//! NodeRestriction: a node agent writes about itself and the pods that are bound to it, and no more.
//!
//! The authorizer of nodes knows verbs and names; this plugin sees the objects.

use serde_json::Value;

use super::{Asker, Operation, Request};
use crate::apiserver::registry::Place;
use crate::apiserver::status::ApiError;
use crate::kinds::common::text;
use crate::kinds::meta as kmeta;
use crate::kinds::pod::{CONFIG_ANNOTATION, KEYVALUE_SECRET_ANNOTATION, Pod};

/// Labels of Kubernetes that an agent sets on its Node.
const OWN_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const OWN_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Labels by which an administrator keeps nodes apart.
const RESTRICTED: &str = "node-restriction.kubernetes.io";

/// Annotations of pods that name Secrets and ConfigMaps.
const REFERRING: [&str; 2] = [CONFIG_ANNOTATION, KEYVALUE_SECRET_ANNOTATION];

fn annotation<'a>(pod: &'a Value, name: &str) -> &'a str {
    pod["metadata"]["annotations"][name].as_str().unwrap_or_default()
}

/// Refuses what is not the node's own. `object` is what the request shows; null for a deletion.
pub fn validate(request: &Request<'_>, asker: &Asker<'_>, object: &Value) -> Result<(), ApiError> {
    let Some(node) = asker.user.node() else { return Ok(()) };
    let info = request.place.info();
    let own_name = || match request.operation {
        Operation::Create => kmeta::text(object, "name") == node,
        _ => request.place.name == node,
    };
    match (info.group, info.plural, asker.subresource) {
        ("", "pods", subresource) => pod(request, node, subresource, object),
        ("", "nodes", _) if !own_name() => {
            let name = if request.place.name.is_empty() { kmeta::text(object, "name") } else { request.place.name };
            Err(request.forbidden(format!("node {node:?} is not allowed to modify node {name:?}")))
        }
        ("", "nodes", _) => itself(request, node, object),
        ("coordination.k8s.io", "leases", _) if !own_name() => {
            Err(request.forbidden("can only access node lease with the same name as the requesting node"))
        }
        ("storage.k8s.io", "csinodes", _) if !own_name() => {
            Err(request.forbidden("can only access CSINode with the same name as the requesting node"))
        }
        _ => Ok(()),
    }
}

fn pod(request: &Request<'_>, node: &str, subresource: &str, object: &Value) -> Result<(), ApiError> {
    let place = Place { kind: &Pod, ..request.place };
    let stored;
    let pod = match request.old {
        Some(old) => old,
        None => {
            stored = request.registry.find(place).unwrap_or_default();
            &stored
        }
    };
    let own = text(pod, "/spec/nodeName") == node;
    let refuse = |what: &str| {
        Err(request.forbidden(format!("node {node:?} can only {what} pods with spec.nodeName set to itself")))
    };
    match (request.operation, subresource) {
        (Operation::Delete, _) if !own => refuse("delete"),
        (Operation::Create, "eviction") if !own => refuse("evict"),
        (Operation::Update, "status") if !own => refuse("update pod status for"),
        (Operation::Update, "status") if !kmeta::same(&pod["metadata"]["labels"], &object["metadata"]["labels"]) => {
            Err(request.forbidden(format!("node {node:?} cannot update labels through pod status")))
        }
        // They say what the pod refers to, and so what its node may read.
        (Operation::Update, "status")
            if REFERRING.iter().any(|name| annotation(pod, name) != annotation(object, name)) =>
        {
            Err(request.forbidden(format!("node {node:?} cannot update what a pod refers to through pod status")))
        }
        _ => Ok(()),
    }
}

/// An agent says much about its Node, but not what keeps pods away from it or brings them to it.
fn itself(request: &Request<'_>, node: &str, object: &Value) -> Result<(), ApiError> {
    let nothing = Value::Null;
    let old = request.old.unwrap_or(&nothing);
    match request.operation {
        Operation::Update if !kmeta::same(&old["spec"]["taints"], &object["spec"]["taints"]) => {
            return Err(request.forbidden(format!("node {node:?} is not allowed to modify taints")));
        }
        Operation::Create | Operation::Update => {}
        Operation::Delete | Operation::Connect => return Ok(()),
    }
    let forbidden = forbidden_labels(&old["metadata"]["labels"], &object["metadata"]["labels"]).join(", ");
    match request.operation {
        _ if forbidden.is_empty() => Ok(()),
        Operation::Create => {
            Err(request.forbidden(format!("node {node:?} is not allowed to set the following labels: {forbidden}")))
        }
        _ => Err(request.forbidden(format!("is not allowed to modify labels: {forbidden}"))),
    }
}

/// The labels that differ and are not the agent's to set, sorted.
fn forbidden_labels(old: &Value, new: &Value) -> Vec<String> {
    let keys =
        |labels: &Value| labels.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    let mut all = [keys(old), keys(new)].concat();
    all.sort();
    all.dedup();
    all.retain(|key| old.get(key) != new.get(key) && !may_set(key));
    all
}

fn may_set(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let inside = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    if inside(RESTRICTED) {
        return false;
    }
    let ours = inside("kubernetes.io") || inside("k8s.io");
    !ours || OWN_LABELS.contains(&label) || OWN_DOMAINS.iter().any(|domain| inside(domain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_agent_sets_only_its_own_labels() {
        let old = json!({"kubernetes.io/hostname": "n1", "node-role.kubernetes.io/worker": ""});
        let cases = [
            (json!({"kubernetes.io/hostname": "n2", "node-role.kubernetes.io/worker": ""}), vec![]),
            (json!({"kubernetes.io/hostname": "n1"}), vec!["node-role.kubernetes.io/worker"]),
            (
                json!({"kubernetes.io/hostname": "n1", "node-role.kubernetes.io/worker": "", "example.com/x": "y",
                    "node.kubernetes.io/y": "z", "a.node-restriction.kubernetes.io/b": "c", "k8s.io/d": "e"}),
                vec!["a.node-restriction.kubernetes.io/b", "k8s.io/d"],
            ),
        ];
        for (new, want) in cases {
            assert_eq!(forbidden_labels(&old, &new), want, "{new}");
        }
    }
}

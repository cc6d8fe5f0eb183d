//! What a node agent may do: its own Node, Lease and presence, the state of pods, and reading what it
//! needs to run them and to route requests. Everything else is refused.
//!
//! Of the objects that pods refer to, a node reads those of the pods that are bound to it ([`graph`]),
//! one by one, by name. What it may write of its own is looked at more closely by the admission plugin
//! NodeRestriction.

pub mod graph;

use super::super::target::Target;
use graph::Sort;

/// Read, listed and watched by every node: what requests are routed by.
const ROUTING: &[(&str, &str)] = &[
    ("", "endpoints"),
    ("", "namespaces"),
    ("", "nodes"),
    ("", "pods"),
    ("", "services"),
    ("discovery.k8s.io", "endpointslices"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "networkpolicies"),
    ("node.k8s.io", "runtimeclasses"),
];

/// What a node may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    Yes,
    No,
    /// If a pod that is bound to it refers to the object.
    IfReferenced(Sort),
}

/// Whether the agent of `node` may do this.
pub fn judge(node: &str, target: &Target) -> Right {
    if !target.is_resource() {
        return yes(target.verb == "post" && target.path == format!("/coracle/v1/nodes/{node}/presence"));
    }
    let resource = (target.group.as_str(), target.resource.as_str());
    let main = target.subresource.is_empty();
    let verb: &str = &target.verb;
    match (verb, resource) {
        ("get" | "list" | "watch", resource) if main && ROUTING.contains(&resource) => Right::Yes,
        ("get" | "list" | "watch", ("", name)) if main => match sort(name) {
            Some(sort) if !target.name.is_empty() => Right::IfReferenced(sort),
            _ => Right::No,
        },
        ("create", ("", "nodes")) => yes(main),
        ("update" | "patch", ("", "nodes")) => yes(target.name == node && (main || target.subresource == "status")),
        ("get" | "create" | "update" | "patch" | "delete", ("coordination.k8s.io", "leases")) => {
            yes(target.namespace == "kube-node-lease" && (verb == "create" || target.name == node))
        }
        ("get" | "create" | "update" | "patch" | "delete", ("storage.k8s.io", "csinodes")) => {
            yes(main && (verb == "create" || target.name == node))
        }
        ("create" | "patch" | "update", ("" | "events.k8s.io", "events")) => yes(main),
        ("get" | "update" | "patch", ("", "pods")) => yes(target.subresource == "status"),
        ("delete", ("", "pods")) => yes(main),
        ("create", ("", "pods")) => yes(target.subresource == "eviction"),
        ("create", ("", "serviceaccounts")) if target.subresource == "token" => {
            Right::IfReferenced(Sort::ServiceAccount)
        }
        _ => Right::No,
    }
}

fn yes(allowed: bool) -> Right {
    if allowed { Right::Yes } else { Right::No }
}

/// The objects that pods refer to.
fn sort(resource: &str) -> Option<Sort> {
    match resource {
        "secrets" => Some(Sort::Secret),
        "configmaps" => Some(Sort::ConfigMap),
        "persistentvolumeclaims" => Some(Sort::Claim),
        "persistentvolumes" => Some(Sort::Volume),
        "serviceaccounts" => Some(Sort::ServiceAccount),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(verb: &'static str, path: &str) -> Target {
        // group/resource[/subresource]:namespace/name
        let (what, whom) = path.split_once(':').unwrap_or((path, "/"));
        let mut parts = what.split('/');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        let (group, resource, subresource) = (next(), next(), next());
        let (namespace, name) = whom.split_once('/').unwrap_or(("", whom));
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Target { verb: verb.into(), group, resource, subresource, namespace, name, ..Target::default() }
    }

    #[test]
    fn a_node_minds_its_own_business() {
        let own = [
            ("watch", "/pods"),
            ("list", "discovery.k8s.io/endpointslices"),
            ("create", "/nodes"),
            ("patch", "/nodes/status:/n1"),
            ("patch", "/pods/status:shop/a"),
            ("delete", "/pods:shop/a"),
            ("create", "/pods/eviction:shop/a"),
            ("update", "coordination.k8s.io/leases:kube-node-lease/n1"),
            ("patch", "storage.k8s.io/csinodes:/n1"),
            ("create", "/events:shop/"),
        ];
        for (verb, what) in own {
            assert_eq!(judge("n1", &target(verb, what)), Right::Yes, "{verb} {what}");
        }
        let referenced = [
            ("get", "/secrets:shop/key", Sort::Secret),
            ("watch", "/configmaps:shop/key", Sort::ConfigMap),
            ("get", "/persistentvolumes:/pv", Sort::Volume),
            ("create", "/serviceaccounts/token:shop/robot", Sort::ServiceAccount),
        ];
        for (verb, what, sort) in referenced {
            assert_eq!(judge("n1", &target(verb, what)), Right::IfReferenced(sort), "{verb} {what}");
        }
        let others = [
            ("list", "/secrets:shop/"),
            ("watch", "/secrets:shop/"),
            ("watch", "/configmaps"),
            ("patch", "/nodes:/n2"),
            ("get", "storage.k8s.io/csinodes:/n2"),
            ("delete", "/nodes:/n1"),
            ("update", "coordination.k8s.io/leases:kube-system/n1"),
            ("update", "coordination.k8s.io/leases:kube-node-lease/n2"),
            ("create", "/pods:shop/"),
            ("create", "/pods/binding:shop/a"),
            ("patch", "apps/deployments:shop/a"),
            ("deletecollection", "/pods:shop/"),
        ];
        for (verb, what) in others {
            assert_eq!(judge("n1", &target(verb, what)), Right::No, "{verb} {what}");
        }
    }

    #[test]
    fn presence_is_told_for_oneself_only() {
        let post = |path: &str| Target::plain(&http::Method::POST, path);
        assert_eq!(judge("n1", &post("/coracle/v1/nodes/n1/presence")), Right::Yes);
        assert_eq!(judge("n1", &post("/coracle/v1/nodes/n2/presence")), Right::No);
    }
}

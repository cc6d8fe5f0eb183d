//! What a node agent may do: its own Node, Lease and presence, the state of pods, and reading what it
//! needs to run them and to route requests. Everything else is refused.
//!
//! Coarser than upstream's node authorizer in one respect: which Secrets and ConfigMaps a node may read
//! does not yet depend on the pods that are bound to it. It can read them only one by one, by name.

use super::super::target::Target;

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
    ("node.k8s.io", "runtimeclasses"),
];

/// What pods refer to: got or watched by name, never listed.
const REFERENCED: &[&str] =
    &["configmaps", "persistentvolumeclaims", "persistentvolumes", "secrets", "serviceaccounts"];

/// Whether the agent of `node` may do this.
pub fn allows(node: &str, target: &Target) -> bool {
    if !target.is_resource() {
        return target.verb == "post" && target.path == format!("/coracle/v1/nodes/{node}/presence");
    }
    let resource = (target.group.as_str(), target.resource.as_str());
    let main = target.subresource.is_empty();
    match (&*target.verb, resource) {
        ("get" | "list" | "watch", resource) if main && ROUTING.contains(&resource) => true,
        ("get" | "list" | "watch", ("", name)) if main => !target.name.is_empty() && REFERENCED.contains(&name),
        ("create", ("", "nodes")) => main,
        ("update" | "patch", ("", "nodes")) => target.name == node && (main || target.subresource == "status"),
        ("get" | "create" | "update" | "patch" | "delete", ("coordination.k8s.io", "leases")) => {
            target.namespace == "kube-node-lease" && (target.verb == "create" || target.name == node)
        }
        ("create" | "patch" | "update", ("" | "events.k8s.io", "events")) => main,
        ("get" | "update" | "patch", ("", "pods")) => target.subresource == "status",
        ("delete", ("", "pods")) => main,
        ("create", ("", "serviceaccounts")) => target.subresource == "token",
        _ => false,
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
            ("get", "/secrets:shop/key"),
            ("watch", "/secrets:shop/key"),
            ("create", "/nodes"),
            ("patch", "/nodes/status:/n1"),
            ("patch", "/pods/status:shop/a"),
            ("delete", "/pods:shop/a"),
            ("update", "coordination.k8s.io/leases:kube-node-lease/n1"),
            ("create", "/events:shop/"),
        ];
        for (verb, what) in own {
            assert!(allows("n1", &target(verb, what)), "{verb} {what}");
        }
        let others = [
            ("list", "/secrets:shop/"),
            ("watch", "/secrets:shop/"),
            ("watch", "/configmaps"),
            ("patch", "/nodes:/n2"),
            ("delete", "/nodes:/n1"),
            ("update", "coordination.k8s.io/leases:kube-system/n1"),
            ("update", "coordination.k8s.io/leases:kube-node-lease/n2"),
            ("create", "/pods:shop/"),
            ("create", "/pods/binding:shop/a"),
            ("patch", "apps/deployments:shop/a"),
            ("deletecollection", "/pods:shop/"),
        ];
        for (verb, what) in others {
            assert!(!allows("n1", &target(verb, what)), "{verb} {what}");
        }
    }

    #[test]
    fn presence_is_told_for_oneself_only() {
        let post = |path: &str| Target::plain(&http::Method::POST, path);
        assert!(allows("n1", &post("/coracle/v1/nodes/n1/presence")));
        assert!(!allows("n1", &post("/coracle/v1/nodes/n2/presence")));
    }
}

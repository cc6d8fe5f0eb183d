//! Whether a user may do what a request asks: upstream's 403 where not.
//!
//! Asked in this order, and the first that allows decides: the masters' group, the node's own business
//! (`nodes`), the paths that are everybody's, the roles ([`rbac`](super::rbac)). Nothing denies: who is
//! not allowed by any is refused.

use std::sync::Arc;

use super::nodes::graph::Graph;
use super::nodes::{self, Right};
use super::rbac::policy::Policy;
use super::{MASTERS, User};
use crate::apiserver::status::ApiError;
use crate::apiserver::target::Target;

/// Paths that tell nothing about anybody. The roles say the same of them; but whether the server is
/// well must be told even when its roles have been deleted.
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];

/// Who may do what now.
#[derive(Clone, Default)]
pub struct Rights {
    pub policy: Arc<Policy>,
    /// What nodes have to do with which objects; nothing, where there is none.
    pub graph: Option<Arc<Graph>>,
}

impl Rights {
    fn of_node(&self, node: &str, target: &Target) -> bool {
        match nodes::judge(node, target) {
            Right::Yes => true,
            Right::No => false,
            Right::IfReferenced(sort) => {
                self.graph.as_ref().is_some_and(|graph| graph.refers(node, sort, &target.namespace, &target.name))
            }
        }
    }
}

/// Why `user` may do what `target` says ("" where there is nothing to say); `None` where they may not.
pub fn decide(rights: &Rights, user: &User, target: &Target) -> Option<String> {
    if user.in_group(MASTERS) {
        return Some(String::new());
    }
    if user.node().is_some_and(|node| rights.of_node(node, target)) {
        return Some(String::new());
    }
    let public = !target.is_resource() && target.verb == "get" && PUBLIC.contains(&target.path.as_str());
    rights.policy.allows(user, target).or_else(|| public.then(String::new))
}

/// Lets `user` do what `target` says, and says why; or refuses in upstream's words.
pub fn authorize(rights: &Rights, user: &User, target: &Target) -> Result<String, ApiError> {
    decide(rights, user, target).ok_or_else(|| denied(user, target))
}

fn denied(user: &User, target: &Target) -> ApiError {
    if !target.is_resource() {
        let why = format!("User {:?} cannot {} path {:?}", user.name, target.verb, target.path);
        return ApiError::new(403, "Forbidden", format!("forbidden: {why}")).with_details(Default::default());
    }
    let resource = match target.subresource.as_str() {
        "" => target.resource.clone(),
        sub => format!("{}/{sub}", target.resource),
    };
    let place = match target.namespace.as_str() {
        "" => " at the cluster scope".to_owned(),
        namespace => format!(" in the namespace {namespace:?}"),
    };
    let why = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?}{place}",
        user.name, target.verb, target.group
    );
    ApiError::forbidden_named(&target.resource, &target.group, &target.name, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_may_only_ask_how_the_server_is() {
        let policy = Rights::default();
        let path = |path: &str| Target::plain(&http::Method::GET, path);
        assert!(authorize(&policy, &User::anonymous(), &path("/healthz")).is_ok());
        let error = authorize(&policy, &User::anonymous(), &path("/metrics")).err().map(|e| e.message().to_owned());
        assert_eq!(error.as_deref(), Some("forbidden: User \"system:anonymous\" cannot get path \"/metrics\""));
        let target = Target {
            verb: "list".into(),
            resource: "pods".into(),
            version: "v1".into(),
            namespace: "shop".into(),
            ..Target::default()
        };
        let error = authorize(&policy, &User::anonymous(), &target).err().map(|e| e.message().to_owned());
        let want = "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"shop\"";
        assert_eq!(error.as_deref(), Some(want));
        assert!(authorize(&policy, &User::server(), &target).is_ok());
    }
}

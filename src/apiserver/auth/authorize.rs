//! Whether a user may do what a request asks: upstream's 403 where not.

use super::{AUTHENTICATED, MASTERS, User, nodes};
use crate::apiserver::status::ApiError;
use crate::apiserver::target::Target;

/// Paths that tell nothing about anybody: everyone may read them, as upstream's `system:public-info-viewer`.
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];

/// Paths that tell what the API can do: everyone who is known may read them, as upstream's `system:discovery`.
const DISCOVERY: &[&str] = &["/api", "/apis", "/openapi"];

/// Whether `path` is `root` or below it.
fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Lets `user` do what `target` says, or refuses in upstream's words.
pub fn authorize(user: &User, target: &Target) -> Result<(), ApiError> {
    let public = !target.is_resource() && target.verb == "get" && PUBLIC.contains(&target.path.as_str());
    let discovery = !target.is_resource() && target.verb == "get" && user.in_group(AUTHENTICATED);
    let discovery = discovery && DISCOVERY.iter().any(|root| is_below(&target.path, root));
    let own = user.node().is_some_and(|node| nodes::allows(node, target));
    if user.in_group(MASTERS) || public || discovery || own { Ok(()) } else { Err(denied(user, target)) }
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
        let path = |path: &str| Target::plain(&http::Method::GET, path);
        assert!(authorize(&User::anonymous(), &path("/healthz")).is_ok());
        let error = authorize(&User::anonymous(), &path("/metrics")).err().map(|e| e.message().to_owned());
        assert_eq!(error.as_deref(), Some("forbidden: User \"system:anonymous\" cannot get path \"/metrics\""));
        let target = Target {
            verb: "list",
            resource: "pods".into(),
            version: "v1".into(),
            namespace: "shop".into(),
            ..Target::default()
        };
        let error = authorize(&User::anonymous(), &target).err().map(|e| e.message().to_owned());
        let want = "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"shop\"";
        assert_eq!(error.as_deref(), Some(want));
        assert!(authorize(&User::server(), &target).is_ok());
    }
}

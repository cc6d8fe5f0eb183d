//! Acting as somebody else, for who may: `Impersonate-User` and its sisters.
//!
//! Every part of the borrowed identity is a right of its own, asked for as the verb `impersonate` on
//! users, groups, service accounts, uids and extra fields.

use http::HeaderMap;

use super::authorize::{Rights, authorize};
use super::{AUTHENTICATED, User};
use crate::apiserver::status::ApiError;
use crate::apiserver::target::Target;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Who the request is to be judged as: the user themself, or whom they act as.
pub fn impersonate(rights: &Rights, user: User, headers: &HeaderMap) -> Result<User, ApiError> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let name = headers.get(USER).map(text).unwrap_or_default();
    let mut groups: Vec<String> = headers.get_all(GROUP).iter().map(text).collect();
    let uid = headers.get(UID).map(text).unwrap_or_default();
    let extra: Vec<(String, String)> = headers
        .iter()
        .filter_map(|(key, value)| Some((unescape(key.as_str().strip_prefix(EXTRA)?), text(value))))
        .collect();
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(user);
        }
        let why = "requested [groups or extra] without impersonating a user";
        return Err(ApiError::new(500, "InternalError", format!("Internal error occurred: {why}")));
    }
    let may = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let target = Target {
            verb: "impersonate".into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Target::default()
        };
        authorize(rights, &user, &target).map(|_| ())
    };
    let account = name.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
    match account {
        Some((namespace, account)) => may("", "serviceaccounts", "", namespace, account)?,
        None => may("", "users", "", "", &name)?,
    }
    for group in &groups {
        may("", "groups", "", "", group)?;
    }
    if !uid.is_empty() {
        may("authentication.k8s.io", "uids", "", "", &uid)?;
    }
    for (key, value) in &extra {
        may("authentication.k8s.io", "userextras", key, "", value)?;
    }
    if let Some((namespace, _)) = account.filter(|_| groups.is_empty()) {
        groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let groups: Vec<&str> = groups.iter().map(String::as_str).filter(|group| *group != AUTHENTICATED).collect();
    let anonymous = User::anonymous();
    let mut other = User::new(&name, &groups);
    if name == *anonymous.name {
        other.groups = anonymous.groups;
    }
    other.uid = uid.into();
    for (key, value) in extra {
        other = other.with_extra(&key, &value);
    }
    Ok(other)
}

/// Header names cannot hold everything that a key can, so it comes escaped as in URLs.
fn unescape(key: &str) -> String {
    percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::super::rbac::policy::{Objects, Policy};
    use super::*;

    fn rights() -> Rights {
        let policy = Policy::new(&Objects {
            cluster_roles: vec![json!({"metadata": {"name": "as"}, "rules": [
                {"apiGroups": [""], "resources": ["users"], "resourceNames": ["max"], "verbs": ["impersonate"]},
                {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "verbs": ["impersonate"]}]})],
            cluster_role_bindings: vec![json!({"metadata": {"name": "as"},
                "roleRef": {"kind": "ClusterRole", "name": "as"}, "subjects": [{"kind": "User", "name": "jo"}]})],
            ..Objects::default()
        });
        Rights { policy: policy.into(), graph: None }
    }

    fn ask(user: User, headers: &[(&'static str, &'static str)]) -> Result<User, ApiError> {
        let mut map = HeaderMap::new();
        for (key, value) in headers {
            map.append(*key, HeaderValue::from_static(value));
        }
        impersonate(&rights(), user, &map)
    }

    #[test]
    fn every_part_of_the_identity_is_asked_for() {
        let jo = || User::new("jo", &[]);
        assert_eq!(ask(jo(), &[]).unwrap(), jo());
        let max = ask(jo(), &[("impersonate-user", "max"), ("impersonate-extra-scopes", "a")]).unwrap();
        assert_eq!((&*max.name, &max.extra["scopes"]), ("max", &vec!["a".to_owned()]));
        assert!(max.in_group(AUTHENTICATED) && max.groups.len() == 1);
        let refused = |headers: &[(&'static str, &'static str)]| ask(jo(), headers).unwrap_err().code();
        assert_eq!(refused(&[("impersonate-user", "eve")]), 403);
        assert_eq!(refused(&[("impersonate-user", "max"), ("impersonate-group", "system:masters")]), 403);
        assert_eq!(refused(&[("impersonate-group", "x")]), 500);
        let robot = ask(User::server(), &[("impersonate-user", "system:serviceaccount:shop:robot")]).unwrap();
        assert!(robot.in_group("system:serviceaccounts:shop"));
        let nobody = ask(User::server(), &[("impersonate-user", "system:anonymous")]).unwrap();
        assert_eq!(nobody, User::anonymous());
    }
}

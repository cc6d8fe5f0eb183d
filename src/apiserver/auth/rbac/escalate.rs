//! Nobody gives away more than they have: who writes a role must hold its rules, and who binds one must
//! hold the rules of what is bound. Two verbs lift that: `escalate` on roles, `bind` on a role.

use serde_json::Value;

use super::policy::Policy;
use super::rule::{Rule, quoted};
use crate::apiserver::auth::{MASTERS, User};
use crate::apiserver::status::ApiError;
use crate::apiserver::target::Target;
use crate::kinds::common::{list, text};
use crate::kinds::meta;
use crate::kinds::rbac::GROUP;
use crate::kinds::{Kind, KindInfo};

/// Lets `user` write `new` (over `old`, where there was one), or refuses.
pub fn check(
    policy: &Policy,
    user: &User,
    kind: &dyn Kind,
    namespace: &str,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let info = kind.info();
    if info.group != GROUP || user.in_group(MASTERS) {
        return Ok(());
    }
    let may = |verb: &'static str, resource: &str, name: &str| {
        let target = Target {
            verb: verb.into(),
            group: GROUP.into(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Target::default()
        };
        policy.allows(user, &target).is_some()
    };
    let rules = if info.kind.ends_with("Binding") {
        let unchanged = old.is_some_and(|old| {
            meta::same(&old["subjects"], &new["subjects"]) && meta::same(&old["roleRef"], &new["roleRef"])
        });
        let resource = if new["roleRef"]["kind"] == "Role" { "roles" } else { "clusterroles" };
        let role = text(new, "/roleRef/name");
        if unchanged || may("bind", resource, role) {
            return Ok(());
        }
        let Some(rules) = policy.role(namespace, &new["roleRef"]) else {
            // Upstream cannot know what will be bound, and refuses.
            return Err(ApiError::not_found(&role_info(resource), role));
        };
        rules.to_vec()
    } else {
        let unchanged = old.is_some_and(|old| {
            meta::same(&old["rules"], &new["rules"]) && meta::same(&old["aggregationRule"], &new["aggregationRule"])
        });
        if unchanged || may("escalate", info.plural, meta::text(new, "name")) {
            return Ok(());
        }
        // What an aggregation will collect cannot be known, so only who has everything may set one up.
        let everything = new["aggregationRule"].is_object().then(all_rules).into_iter().flatten();
        list(new, "/rules").iter().map(Rule::read).chain(everything).collect()
    };
    let own = policy.rules(user, namespace);
    let missing: Vec<Rule> =
        rules.iter().flat_map(Rule::parts).filter(|part| !own.iter().any(|rule| rule.covers(part))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(ApiError::forbidden(info, meta::text(new, "name"), refusal(user, &missing)))
}

fn all_rules() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), paths: all(), ..Rule::default() },
    ]
}

/// The facts that a `NotFound` about a role needs.
fn role_info(resource: &str) -> KindInfo {
    let role: &dyn Kind = match resource {
        "roles" => &crate::kinds::role::Role,
        _ => &crate::kinds::cluster_role::ClusterRole,
    };
    role.info().clone()
}

fn refusal(user: &User, missing: &[Rule]) -> String {
    let lines: Vec<String> = merged(missing).iter().map(ToString::to_string).collect();
    let groups = quoted(&user.groups);
    format!(
        "user {:?} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        lines.join("\n")
    )
}

/// Rules of one verb each, with the verbs of the same resource together: shorter to read.
fn merged(parts: &[Rule]) -> Vec<Rule> {
    let mut merged: Vec<Rule> = Vec::new();
    for part in parts {
        let same = |rule: &&mut Rule| {
            (&rule.groups, &rule.resources, &rule.names, &rule.paths)
                == (&part.groups, &part.resources, &part.names, &part.paths)
        };
        match merged.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(part.verbs.iter().cloned()),
            None => merged.push(part.clone()),
        }
    }
    merged.sort();
    merged
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::policy::Objects;
    use super::*;
    use crate::kinds::role::Role;
    use crate::kinds::role_binding::RoleBinding;

    fn policy() -> Policy {
        Policy::new(&Objects {
            roles: vec![
                json!({"metadata": {"namespace": "shop", "name": "own"}, "rules": [
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
                {"apiGroups": [GROUP], "resources": ["roles"], "resourceNames": ["big"], "verbs": ["bind"]}]}),
                json!({"metadata": {"namespace": "shop", "name": "big"}, "rules": [
                    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}),
                json!({"metadata": {"namespace": "shop", "name": "other"}, "rules": [
                    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}]}),
            ],
            role_bindings: vec![json!({"metadata": {"namespace": "shop", "name": "b"},
                "roleRef": {"kind": "Role", "name": "own"}, "subjects": [{"kind": "User", "name": "jo"}]})],
            ..Objects::default()
        })
    }

    #[test]
    fn nobody_gives_away_more_than_they_have() {
        let (policy, jo) = (policy(), User::new("jo", &[]));
        let role = |verbs: &[&str]| {
            json!({"metadata": {"namespace": "shop", "name": "r"}, "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]})
        };
        assert!(check(&policy, &jo, &Role, "shop", &role(&["list"]), None).is_ok());
        let error = check(&policy, &jo, &Role, "shop", &role(&["list", "delete", "update"]), None).unwrap_err();
        assert_eq!(
            error.message(),
            "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"jo\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"update\"]}"
        );
        assert!(check(&policy, &User::server(), &Role, "shop", &role(&["*"]), None).is_ok());
        let old = role(&["*"]);
        assert!(check(&policy, &jo, &Role, "shop", &old, Some(&old)).is_ok(), "what is there already is not given");
        let binding = |name: &str| {
            json!({"metadata": {"namespace": "shop", "name": "x"},
            "roleRef": {"kind": "Role", "name": name}, "subjects": [{"kind": "User", "name": "max"}]})
        };
        assert!(check(&policy, &jo, &RoleBinding, "shop", &binding("big"), None).is_ok(), "may bind that one");
        assert_eq!(check(&policy, &jo, &RoleBinding, "shop", &binding("other"), None).unwrap_err().code(), 403);
        assert_eq!(check(&policy, &jo, &RoleBinding, "shop", &binding("none"), None).unwrap_err().code(), 404);
    }
}

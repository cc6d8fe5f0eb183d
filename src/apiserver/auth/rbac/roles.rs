//! The roles that a cluster begins with, and what is put right of them at every start.

use serde_json::{Value, json};

use crate::apiserver::codec::yaml;
use crate::kinds::common::{list, text};

const SOURCE: &str = include_str!("roles.yaml");
/// Set to "false" by who wants to keep their own version of such a role.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// The ClusterRoles, then the ClusterRoleBindings.
pub fn first() -> (Vec<Value>, Vec<Value>) {
    let documents = yaml::documents(SOURCE.as_bytes()).expect("the roles are part of the program and tested");
    let roles = documents.iter().map(role).collect();
    let bindings = documents.iter().filter(|document| !document["to"].is_null()).map(binding).collect();
    (roles, bindings)
}

fn metadata(document: &Value) -> Value {
    let mut labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    for (key, value) in document["labels"].as_object().into_iter().flatten() {
        labels[key] = value.clone();
    }
    json!({"name": document["name"], "labels": labels, "annotations": {AUTOUPDATE: "true"}})
}

fn role(document: &Value) -> Value {
    let mut role = json!({"metadata": metadata(document), "rules": document["rules"]});
    if let Some(label) = document["aggregate"].as_str() {
        role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
    }
    role
}

fn binding(document: &Value) -> Value {
    json!({
        "metadata": metadata(&json!({"name": document["name"]})),
        "roleRef": {"kind": "ClusterRole", "name": document["name"]},
        "subjects": document["to"],
    })
}

/// What is missing in `present` of the rules or subjects that `wanted` has; `None` where nothing is, or
/// where somebody wants to keep it as it is.
pub fn completed(present: &Value, wanted: &Value) -> Option<Value> {
    if present["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return None;
    }
    let mut new = present.clone();
    for field in ["rules", "subjects"] {
        let have = list(present, &format!("/{field}"));
        let same = |a: &Value, b: &Value| match field {
            "rules" => super::rule::Rule::read(a) == super::rule::Rule::read(b),
            _ => text(a, "/kind") == text(b, "/kind") && text(a, "/name") == text(b, "/name"),
        };
        let wanted = list(wanted, &format!("/{field}"));
        let missing: Vec<Value> =
            wanted.iter().filter(|item| !have.iter().any(|own| same(own, item))).cloned().collect();
        if !missing.is_empty() {
            new[field] = have.iter().cloned().chain(missing).collect();
        }
    }
    (new != *present).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kind;
    use crate::kinds::cluster_role::ClusterRole;
    use crate::kinds::cluster_role_binding::ClusterRoleBinding;

    #[test]
    fn the_first_roles_are_valid() {
        let (roles, bindings) = first();
        for role in &roles {
            assert!(ClusterRole.validate(role).is_empty(), "{role}");
        }
        for mut binding in bindings {
            ClusterRoleBinding.default(&mut binding);
            assert!(ClusterRoleBinding.validate(&binding).is_empty(), "{binding}");
            let name = &binding["roleRef"]["name"];
            assert!(roles.iter().any(|role| role["metadata"]["name"] == *name), "{name} is no role");
        }
    }

    #[test]
    fn what_was_taken_away_comes_back_unless_it_is_meant_to_stay_away() {
        let wanted = &first().0[0];
        let mut present = wanted.clone();
        present["rules"] = json!([wanted["rules"][1], {"nonResourceURLs": ["/own"], "verbs": ["get"]}]);
        let put_right = completed(&present, wanted).expect("a rule is missing");
        assert_eq!(list(&put_right, "/rules").len(), 3);
        assert_eq!(completed(&put_right, wanted), None);
        present["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert_eq!(completed(&present, wanted), None);
    }
}

//! What the four kinds of `rbac.authorization.k8s.io/v1` share: rules, subjects, references to roles.
//!
//! The kinds say what may be written; who may do what with it is decided by the authorizer of the API
//! server, which reads the same objects.

use serde_json::Value;

use super::common::{list, set_default_text, text};
use super::field::{Errors, Field};
use super::{Column, column, names, time};

pub const GROUP: &str = "rbac.authorization.k8s.io";

pub static ROLE_COLUMNS: &[Column] = &[column("Name", "string", "name", 0), column("Created At", "date", "", 0)];

pub static BINDING_COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Role", "string", "", 0),
    column("Age", "string", "", 0),
    column("Users", "string", "", 1),
    column("Groups", "string", "", 1),
    column("ServiceAccounts", "string", "", 1),
];

/// The row of a role of either kind.
pub fn role_row(object: &Value) -> Vec<Value> {
    vec![text(object, "/metadata/name").into(), object["metadata"]["creationTimestamp"].clone()]
}

/// The row of a binding of either kind.
pub fn binding_row(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let subjects = |kind: &str| {
        let subjects = list(object, "/subjects").iter().filter(|subject| subject["kind"] == kind);
        let names = subjects.map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", text(subject, "/namespace"), text(subject, "/name")),
            _ => text(subject, "/name").to_owned(),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    vec![
        text(object, "/metadata/name").into(),
        format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name")).into(),
        time::object_age(object, now).into(),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

/// The API group of a reference and of subjects is known where it is not said.
pub fn default_binding(object: &mut Value) {
    if object["roleRef"].is_object() {
        set_default_text(&mut object["roleRef"], "apiGroup", GROUP);
    }
    for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
            set_default_text(subject, "apiGroup", GROUP);
        }
    }
}

/// The rules of a role; those of a namespace cannot be about paths.
pub fn validate_rules(errors: &mut Errors, object: &Value, namespaced: bool) {
    for rule in Field::root(object).get("rules").items() {
        let paths = rule.get("nonResourceURLs");
        if rule.get("verbs").is_empty() {
            errors.required(&rule.get("verbs"), "verbs must contain at least one value");
        }
        if !paths.is_empty() {
            if namespaced {
                errors.invalid(&paths, "namespaced rules cannot apply to non-resource URLs");
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !rule.get(field).is_empty()) {
                errors.invalid(&paths, "rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if rule.get("apiGroups").is_empty() {
            errors.required(&rule.get("apiGroups"), "resource rules must supply at least one api group");
        }
        if rule.get("resources").is_empty() {
            errors.required(&rule.get("resources"), "resource rules must supply at least one resource");
        }
    }
}

/// What a binding refers to, and whom it is for.
pub fn validate_binding(errors: &mut Errors, object: &Value, namespaced: bool) {
    let root = Field::root(object);
    let role = root.get("roleRef");
    if role.get("apiGroup").str() != GROUP {
        errors.not_supported(&role.get("apiGroup"), &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.get("kind").str()) {
        errors.not_supported(&role.get("kind"), kinds);
    }
    let name = role.get("name");
    if name.is_empty() {
        errors.required(&name, "");
    } else {
        errors.invalid_each(&name, names::path_segment(name.str(), false));
    }
    for subject in root.get("subjects").items() {
        validate_subject(errors, &subject, namespaced);
    }
}

fn validate_subject(errors: &mut Errors, subject: &Field<'_>, namespaced: bool) {
    let (name, group) = (subject.get("name"), subject.get("apiGroup"));
    if name.is_empty() {
        errors.required(&name, "");
    }
    match subject.get("kind").str() {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.invalid_each(&name, names::dns1123_subdomain(name.str()));
            }
            if !group.is_empty() {
                errors.not_supported(&group, &[""]);
            }
            if !namespaced && subject.get("namespace").is_empty() {
                errors.required(&subject.get("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group.str() != GROUP {
                errors.not_supported(&group, &[GROUP]);
            }
        }
        _ => errors.not_supported(&subject.get("kind"), &["ServiceAccount", "User", "Group"]),
    }
}

/// A binding that could be turned to another role would give that role to whoever may edit bindings.
pub fn validate_same_role(errors: &mut Errors, new: &Value, old: &Value) {
    let (after, before) = (&new["roleRef"], &old["roleRef"]);
    if ["apiGroup", "kind", "name"].iter().any(|field| after[*field] != before[*field]) {
        let shown =
            format!("{{\"APIGroup\":{},\"Kind\":{},\"Name\":{}}}", after["apiGroup"], after["kind"], after["name"]);
        errors.push_text(super::field::Reason::Invalid, "roleRef", shown, "cannot change roleRef");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &Errors) -> Vec<String> {
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_are_about_resources_or_about_paths() {
        let object = json!({"rules": [
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["get"], "nonResourceURLs": ["/metrics"]},
            {"verbs": [], "nonResourceURLs": ["/x"], "resources": ["pods"]},
            {"verbs": ["get"]},
        ]});
        let mut errors = Errors::default();
        validate_rules(&mut errors, &object, false);
        assert_eq!(
            texts(&errors),
            [
                "rules[2].verbs: Required value: verbs must contain at least one value",
                "rules[2].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs",
                "rules[3].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[3].resources: Required value: resource rules must supply at least one resource",
            ]
        );
    }

    #[test]
    fn a_binding_names_a_role_and_subjects_that_there_can_be() {
        let mut object = json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "name": "jo"}, {"kind": "ServiceAccount", "name": "robot"}, {"kind": "Robot", "name": "x"},
        ]});
        default_binding(&mut object);
        assert_eq!(object["subjects"][0]["apiGroup"], GROUP);
        let mut errors = Errors::default();
        validate_binding(&mut errors, &object, false);
        assert_eq!(
            texts(&errors),
            [
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "subjects[1].namespace: Required value",
                "subjects[2].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ]
        );
        assert_eq!(binding_row(&object, jiff::Timestamp::UNIX_EPOCH)[3..], [json!("jo"), json!(""), json!("/robot")]);
    }
}

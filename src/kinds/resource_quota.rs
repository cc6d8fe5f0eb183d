//! ResourceQuota of `v1`: how much a namespace may have in all.

use serde_json::{Value, json};

use super::common::text;
use super::field::{Errors, Field};
use super::meta::{self, object_mut};
use super::quantity;
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column, names, pod::resources, time};

pub struct ResourceQuota;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("ResourceQuota")],
    schema: "io.k8s.api.core.v1.ResourceQuota",
    storage: "resourcequotas",
    storage_version_hash: "8uhSgffRX6w=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Request", "string", "", 0),
    column("Limit", "string", "", 0),
    column("Age", "string", "", 0),
];

/// What a quota can name besides `count/…` and qualified names.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
const WHOLE: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

impl Kind for ResourceQuota {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        object_mut(object, "status");
        for list in ["/spec/hard", "/status/hard", "/status/used"] {
            if let Some(list) = object.pointer_mut(list) {
                quantity::normalize_list(list);
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let spec = Field::root(object).get("spec");
        validate_amounts(&mut errors, &spec.get("hard"));
        let scopes = spec.get("scopes");
        validate_scopes(&mut errors, &scopes);
        for requirement in spec.get("scopeSelector").get("matchExpressions").items() {
            let (scope, operator) = (requirement.get("scopeName"), requirement.get("operator"));
            if !SCOPES.contains(&scope.str()) {
                errors.invalid_str(&scope, "unsupported scope");
            }
            let values = requirement.get("values");
            match operator.str() {
                "In" | "NotIn" if values.is_empty() => {
                    errors.required(
                        &values,
                        "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                    );
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    errors.invalid(
                        &values,
                        "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
                    );
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                _ => errors.invalid_str(&operator, "not a valid selector operator"),
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = self.validate(new);
        let (spec, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
        if !meta::same(spec.get("scopes").value, before.get("scopes").value) {
            errors.invalid(&spec.get("scopes"), "field is immutable");
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Errors {
        let mut errors = Errors::default();
        let status = Field::root(new).get("status");
        validate_amounts(&mut errors, &status.get("hard"));
        validate_amounts(&mut errors, &status.get("used"));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let status = &object["status"];
        let cell = |limits: bool| {
            let hard = status["hard"].as_object().into_iter().flatten();
            let wanted = hard.filter(|(name, _)| name.starts_with("limits.") == limits);
            let shown = wanted.map(|(name, hard)| {
                let used = status["used"][name].as_str().unwrap_or("0");
                format!("{name}: {used}/{}", hard.as_str().unwrap_or("0"))
            });
            shown.collect::<Vec<_>>().join(", ")
        };
        vec![
            text(object, "/metadata/name").into(),
            cell(false).into(),
            cell(true).into(),
            time::object_age(object, now).into(),
        ]
    }
}

fn validate_amounts(errors: &mut Errors, list: &Field<'_>) {
    for (name, at) in list.entries() {
        for message in names::qualified_name(name) {
            errors.invalid_value(&at, name, message);
        }
        let huge = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
        if !name.contains('/') && !STANDARD.contains(&name) && !huge {
            errors.invalid_value(&at, name, "must be a standard resource type or fully qualified");
            errors.invalid_value(&at, name, "must be a standard resource for quota");
        }
        let counted = WHOLE.contains(&name) || name.starts_with("count/");
        resources::amount(
            errors,
            &at,
            if counted {
                "pods"
            } else if name.contains('/') {
                "cpu"
            } else {
                name.rsplit('.').next().unwrap_or(name)
            },
        );
    }
}

fn validate_scopes(errors: &mut Errors, scopes: &Field<'_>) {
    let has = |scope: &str| scopes.items().any(|found| found.str() == scope);
    for scope in scopes.items() {
        if !SCOPES.contains(&scope.str()) {
            errors.invalid(scopes, "unsupported scope");
        }
    }
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if has(one) && has(other) {
            errors.invalid(scopes, "conflicting scopes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_quota_may_name() {
        let errors = |spec: Value| ResourceQuota.validate(&json!({"spec": spec})).0.len();
        assert_eq!(
            errors(
                json!({"hard": {"pods": "4", "requests.cpu": "500m", "count/jobs.batch": "3", "example.com/gpu": "1"}})
            ),
            0
        );
        assert_eq!(errors(json!({"hard": {"pods": "1500m"}})), 1);
        assert_eq!(errors(json!({"scopes": ["BestEffort", "NotBestEffort"]})), 1);
    }
}

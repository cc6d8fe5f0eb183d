//! ValidatingAdmissionPolicyBinding of `admissionregistration.k8s.io/v1`: puts a policy in force, for
//! some requests, with parameters, and says what a violation leads to.

use serde_json::Value;

use super::{policies, rules};
use crate::kinds::common::text;
use crate::kinds::field::{Errors, Field};
use crate::kinds::{ALL_VERBS, Column, Kind, KindInfo, column, meta, time};

pub struct ValidatingAdmissionPolicyBinding;

static INFO: KindInfo = KindInfo {
    group: super::GROUP,
    version: "v1",
    kind: "ValidatingAdmissionPolicyBinding",
    plural: "validatingadmissionpolicybindings",
    singular: "validatingadmissionpolicybinding",
    short_names: &[],
    categories: super::CATEGORIES,
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
    storage: "admissionregistration.k8s.io/validatingadmissionpolicybindings",
    storage_version_hash: "v9715VZqakg=",
};

pub static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("PolicyName", "string", "", 0),
    column("ParamRef", "string", "", 0),
    column("Age", "string", "", 0),
];

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];
const DENY_AND_WARN: &str = "must not contain both Deny and Warn (repeating the same validation failure \
    information in the API response and headers serves no purpose)";

impl Kind for ValidatingAdmissionPolicyBinding {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        meta::object_mut(object, "spec");
        policies::default_match(&mut object["spec"], "matchResources");
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::carry_generation(new, old, !meta::same(&new["spec"], &old["spec"]));
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let spec = Field::root(object).get("spec");
        policies::validate_binding(&mut errors, &spec);
        let actions = spec.get("validationActions");
        let mut known = Vec::new();
        for action in actions.items() {
            rules::one_of(&mut errors, &action, ACTIONS);
            rules::unique(&mut errors, &action, &mut known);
        }
        if known.contains(&"Deny") && known.contains(&"Warn") {
            errors.invalid(&actions, DENY_AND_WARN);
        }
        if known.is_empty() {
            errors.required(&actions, "at least one validation action is required");
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            text(object, "/metadata/name").into(),
            text(object, "/spec/policyName").into(),
            policies::param_ref_cell(object).into(),
            time::object_age(object, now).into(),
        ]
    }
}

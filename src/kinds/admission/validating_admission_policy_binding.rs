//! ValidatingAdmissionPolicyBinding of `admissionregistration.k8s.io/v1`: puts a policy in force, for
//! some requests, with parameters, and says what a violation leads to.

use serde_json::Value;

use super::{policies, rules};
use crate::kinds::field::{Errors, Field};
use crate::kinds::{ALL_VERBS, Column, Kind, KindInfo, meta};

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
        meta::count_spec(new, old);
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
        policies::BINDING_COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        policies::binding_row(object, now)
    }
}

//! MutatingAdmissionPolicyBinding of `admissionregistration.k8s.io/v1`: puts a policy that changes
//! objects in force, for some requests, with parameters.

use serde_json::Value;

use super::policies;
use crate::kinds::field::{Errors, Field};
use crate::kinds::{ALL_VERBS, Column, Kind, KindInfo, meta};

pub struct MutatingAdmissionPolicyBinding;

static INFO: KindInfo = KindInfo {
    group: super::GROUP,
    version: "v1",
    kind: "MutatingAdmissionPolicyBinding",
    plural: "mutatingadmissionpolicybindings",
    singular: "mutatingadmissionpolicybinding",
    short_names: &[],
    categories: super::CATEGORIES,
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding",
    storage: "admissionregistration.k8s.io/mutatingadmissionpolicybindings",
    storage_version_hash: "ZKgZT1uTmZ0=",
};

impl Kind for MutatingAdmissionPolicyBinding {
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
        policies::validate_binding(&mut errors, &Field::root(object).get("spec"));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        policies::BINDING_COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        policies::binding_row(object, now)
    }
}

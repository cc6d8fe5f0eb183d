//! MutatingAdmissionPolicy of `admissionregistration.k8s.io/v1`: expressions that change what is
//! written. A binding puts it in force.

use serde_json::Value;

use super::{policies, rules};
use crate::kinds::common::{list, set_default_text, text};
use crate::kinds::field::{Errors, Field};
use crate::kinds::{ALL_VERBS, Column, Kind, KindInfo, column, meta, time};

pub struct MutatingAdmissionPolicy;

static INFO: KindInfo = KindInfo {
    group: super::GROUP,
    version: "v1",
    kind: "MutatingAdmissionPolicy",
    plural: "mutatingadmissionpolicies",
    singular: "mutatingadmissionpolicy",
    short_names: &[],
    categories: super::CATEGORIES,
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy",
    storage: "admissionregistration.k8s.io/mutatingadmissionpolicies",
    storage_version_hash: "mHCkTKpUTrE=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Mutations", "integer", "", 0),
    column("ParamKind", "string", "", 0),
    column("Age", "string", "", 0),
];

/// The patch types, each with the field that holds its expression.
const PATCHES: [(&str, &str); 2] = [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")];

impl Kind for MutatingAdmissionPolicy {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        meta::object_mut(object, "spec");
        let spec = &mut object["spec"];
        set_default_text(spec, "failurePolicy", "Fail");
        policies::default_match(spec, "matchConstraints");
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
        policies::validate_common(&mut errors, &spec);
        let mutations = spec.get("mutations");
        if mutations.is_empty() {
            errors.required(&mutations, "mutations must contain at least one item");
        }
        for mutation in mutations.items() {
            validate_mutation(&mut errors, &mutation);
        }
        let again = spec.get("reinvocationPolicy");
        if again.is_empty() {
            errors.required(&again, "");
        } else {
            rules::one_of(&mut errors, &again, rules::REINVOCATION_POLICIES);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            text(object, "/metadata/name").into(),
            list(object, "/spec/mutations").len().into(),
            policies::param_kind_cell(object).into(),
            time::object_age(object, now).into(),
        ]
    }
}

fn validate_mutation(errors: &mut Errors, mutation: &Field<'_>) {
    let patch_type = mutation.get("patchType");
    if patch_type.is_empty() {
        return errors.required(&patch_type, "");
    }
    if !PATCHES.iter().any(|(name, _)| *name == patch_type.str()) {
        return errors.not_supported(&patch_type, &PATCHES.map(|(name, _)| name));
    }
    for (name, field) in PATCHES {
        let patch = mutation.get(field);
        let (wanted, expression) = (name == patch_type.str(), patch.get("expression"));
        if wanted && !patch.exists() {
            errors.required(&patch, format!("must be specified when patchType is {name}"));
        } else if wanted && expression.str().trim().is_empty() {
            errors.required(&expression, "expression is not specified");
        } else if !wanted && patch.exists() {
            errors.forbidden(&patch, format!("must not be specified when patchType is {}", patch_type.str()));
        }
    }
}

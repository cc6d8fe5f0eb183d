//! ValidatingAdmissionPolicy of `admissionregistration.k8s.io/v1`: expressions that what is written must
//! satisfy. A binding puts it in force.

use serde_json::Value;

use super::policies;
use crate::kinds::common::{list, set_default_text, text};
use crate::kinds::field::{Errors, Field};
use crate::kinds::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column, meta, time};

pub struct ValidatingAdmissionPolicy;

static INFO: KindInfo = KindInfo {
    group: super::GROUP,
    version: "v1",
    kind: "ValidatingAdmissionPolicy",
    plural: "validatingadmissionpolicies",
    singular: "validatingadmissionpolicy",
    short_names: &[],
    categories: super::CATEGORIES,
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("ValidatingAdmissionPolicy")],
    schema: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy",
    storage: "admissionregistration.k8s.io/validatingadmissionpolicies",
    storage_version_hash: "6OxvlMmQ6is=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Validations", "integer", "", 0),
    column("ParamKind", "string", "", 0),
    column("Age", "string", "", 0),
];

const EMPTY: &str = "validations or auditAnnotations must contain at least one item";

impl Kind for ValidatingAdmissionPolicy {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        meta::object_mut(object, "spec");
        meta::object_mut(object, "status");
        let spec = &mut object["spec"];
        set_default_text(spec, "failurePolicy", "Fail");
        policies::default_match(spec, "matchConstraints");
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = serde_json::json!({});
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::update_spec(new, old);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::update_status(new, old);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let spec = Field::root(object).get("spec");
        policies::validate_common(&mut errors, &spec);
        let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
        if validations.is_empty() && annotations.is_empty() {
            errors.required(&validations, EMPTY);
            errors.required(&annotations, EMPTY);
        }
        for validation in validations.items() {
            policies::validate_validation(&mut errors, &validation);
        }
        policies::validate_audit_annotations(&mut errors, text(object, "/metadata/name"), &annotations);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            text(object, "/metadata/name").into(),
            list(object, "/spec/validations").len().into(),
            policies::param_kind_cell(object).into(),
            time::object_age(object, now).into(),
        ]
    }
}

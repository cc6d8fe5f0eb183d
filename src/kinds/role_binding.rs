//! RoleBinding of `rbac.authorization.k8s.io/v1`: who has a role in one namespace.

use serde_json::Value;

use super::field::Errors;
use super::rbac;
use super::{ALL_VERBS, Column, Kind, KindInfo, NameRule};

pub struct RoleBinding;

static INFO: KindInfo = KindInfo {
    group: rbac::GROUP,
    version: "v1",
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.rbac.v1.RoleBinding",
    storage: "rbac.authorization.k8s.io/rolebindings",
    storage_version_hash: "eGsCzGH6b1g=",
};

impl Kind for RoleBinding {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn default(&self, object: &mut Value) {
        rbac::default_binding(object);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        rbac::validate_binding(&mut errors, object, true);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = self.validate(new);
        rbac::validate_same_role(&mut errors, new, old);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        rbac::BINDING_COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        rbac::binding_row(object, now)
    }
}

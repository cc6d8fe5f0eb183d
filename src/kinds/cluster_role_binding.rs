//! ClusterRoleBinding of `rbac.authorization.k8s.io/v1`: who has a role everywhere.

use serde_json::Value;

use super::field::Errors;
use super::rbac;
use super::{ALL_VERBS, Column, Kind, KindInfo, NameRule};

pub struct ClusterRoleBinding;

static INFO: KindInfo = KindInfo {
    group: rbac::GROUP,
    version: "v1",
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.rbac.v1.ClusterRoleBinding",
    storage: "rbac.authorization.k8s.io/clusterrolebindings",
    storage_version_hash: "48tpQ8gZHFc=",
};

impl Kind for ClusterRoleBinding {
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
        rbac::validate_binding(&mut errors, object, false);
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

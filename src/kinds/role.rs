//! Role of `rbac.authorization.k8s.io/v1`: what may be done in one namespace.

use serde_json::Value;

use super::field::Errors;
use super::rbac;
use super::{ALL_VERBS, Column, Kind, KindInfo, NameRule};

pub struct Role;

static INFO: KindInfo = KindInfo {
    group: rbac::GROUP,
    version: "v1",
    kind: "Role",
    plural: "roles",
    singular: "role",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.rbac.v1.Role",
    storage: "rbac.authorization.k8s.io/roles",
    storage_version_hash: "7FuwZcIIItM=",
};

impl Kind for Role {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        rbac::validate_rules(&mut errors, object, true);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        rbac::ROLE_COLUMNS
    }

    fn row(&self, object: &Value, _: jiff::Timestamp) -> Vec<Value> {
        rbac::role_row(object)
    }
}

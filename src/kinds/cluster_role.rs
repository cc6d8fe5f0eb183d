//! ClusterRole of `rbac.authorization.k8s.io/v1`: what may be done anywhere, or wherever a
//! binding says. One with an `aggregationRule` has the rules of others, which a controller writes into it.

use serde_json::Value;

use super::field::Errors;
use super::field::Field;
use super::rbac;
use super::selector;
use super::{ALL_VERBS, Column, Kind, KindInfo, NameRule};

pub struct ClusterRole;

static INFO: KindInfo = KindInfo {
    group: rbac::GROUP,
    version: "v1",
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.rbac.v1.ClusterRole",
    storage: "rbac.authorization.k8s.io/clusterroles",
    storage_version_hash: "bYE5ZWDrJ44=",
};

impl Kind for ClusterRole {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        rbac::validate_rules(&mut errors, object, false);
        let aggregation = Field::root(object).get("aggregationRule");
        let selectors = aggregation.get("clusterRoleSelectors");
        if aggregation.exists() && selectors.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.required(&selectors, detail);
        }
        for selector in selectors.items() {
            selector::validate(&mut errors, &selector);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        rbac::ROLE_COLUMNS
    }

    fn row(&self, object: &Value, _: jiff::Timestamp) -> Vec<Value> {
        rbac::role_row(object)
    }
}

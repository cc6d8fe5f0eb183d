//! CSINode of `storage.k8s.io/v1`: which storage drivers a node has. A data kind.

use serde_json::Value;

use super::common::text;
use super::field::{Errors, Field};
use super::{ALL_VERBS, Column, Kind, KindInfo, column, names, time};

pub struct CSINode;

static INFO: KindInfo = KindInfo {
    group: "storage.k8s.io",
    version: "v1",
    kind: "CSINode",
    plural: "csinodes",
    singular: "csinode",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.storage.v1.CSINode",
    storage: "storage.k8s.io/csinodes",
    storage_version_hash: "Pe62DkZtjuo=",
};

static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("Drivers", "integer", "", 0), column("Age", "string", "", 0)];

impl Kind for CSINode {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    /// No drivers are written as upstream writes them.
    fn default(&self, object: &mut Value) {
        let spec = super::meta::object_mut(object, "spec");
        if spec.get("drivers").is_none_or(super::meta::is_empty) {
            spec.insert("drivers".to_owned(), Value::Null);
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let mut seen: Vec<&str> = Vec::new();
        for driver in Field::root(object).get("spec").get("drivers").items() {
            let (name, id) = (driver.get("name"), driver.get("nodeID"));
            if name.is_empty() {
                errors.required(&name, "");
            } else {
                errors.invalid_each(&name, names::dns1123_subdomain(&name.str().to_lowercase()));
            }
            if id.is_empty() {
                errors.required(&id, "");
            }
            if seen.contains(&name.str()) {
                errors.duplicate(&name);
            }
            seen.push(name.str());
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            text(object, "/metadata/name").into(),
            object["spec"]["drivers"].as_array().map_or(0, Vec::len).into(),
            time::object_age(object, now).into(),
        ]
    }
}

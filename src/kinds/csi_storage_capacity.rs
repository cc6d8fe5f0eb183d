//! CSIStorageCapacity of `storage.k8s.io/v1`: how much a storage driver has left. A data kind.

use serde_json::Value;

use super::common::text;
use super::field::{Errors, Field};
use super::quantity;
use super::{ALL_VERBS, Column, Kind, KindInfo, column, meta, names, selector};

pub struct CSIStorageCapacity;

static INFO: KindInfo = KindInfo {
    group: "storage.k8s.io",
    version: "v1",
    kind: "CSIStorageCapacity",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.storage.v1.CSIStorageCapacity",
    storage: "storage.k8s.io/csistoragecapacities",
    storage_version_hash: "xeVl+2Ly1kE=",
};

static COLUMNS: &[Column] = &[column("Name", "string", "name", 0), column("Created At", "date", "", 0)];

impl Kind for CSIStorageCapacity {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        for name in ["capacity", "maximumVolumeSize"] {
            if let Some(amount) = object.get_mut(name) {
                quantity::normalize(amount);
            }
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let root = Field::root(object);
        selector::validate(&mut errors, &root.get("nodeTopology"));
        let class = root.get("storageClassName");
        errors.invalid_each(&Field::new(class.path.clone(), &class.str_value()), names::dns1123_subdomain(class.str()));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = self.validate(new);
        for name in ["nodeTopology", "storageClassName"] {
            meta::immutable(&mut errors, &Field::root(new).get(name), &Field::root(old).get(name));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, _now: jiff::Timestamp) -> Vec<Value> {
        vec![text(object, "/metadata/name").into(), text(object, "/metadata/creationTimestamp").into()]
    }
}

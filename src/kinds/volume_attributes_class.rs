//! VolumeAttributesClass of `storage.k8s.io/v1`: what of a volume may be changed later. A data kind.

use serde_json::Value;

use super::common::text;
use super::field::{Errors, Field};
use super::{ALL_VERBS, Column, Kind, KindInfo, column, meta, names, time};

pub struct VolumeAttributesClass;

static INFO: KindInfo = KindInfo {
    group: "storage.k8s.io",
    version: "v1",
    kind: "VolumeAttributesClass",
    plural: "volumeattributesclasses",
    singular: "volumeattributesclass",
    short_names: &["vac"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.storage.v1.VolumeAttributesClass",
    storage: "storage.k8s.io/volumeattributesclasses",
    storage_version_hash: "tIjydgKBC5w=",
};

static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("DriverName", "string", "", 0), column("Age", "string", "", 0)];

impl Kind for VolumeAttributesClass {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let root = Field::root(object);
        let driver = root.get("driverName");
        if driver.is_empty() {
            errors.required(&driver, "");
        } else {
            errors.invalid_each(&driver, names::qualified_name(&driver.str().to_lowercase()));
        }
        if root.get("parameters").is_empty() {
            errors.required(&root.get("parameters"), "must contain at least one key/value pair");
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        for name in ["driverName", "parameters"] {
            meta::immutable(&mut errors, &Field::root(new).get(name), &Field::root(old).get(name));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            text(object, "/metadata/name").into(),
            text(object, "/driverName").into(),
            time::object_age(object, now).into(),
        ]
    }
}

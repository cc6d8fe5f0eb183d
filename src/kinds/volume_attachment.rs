//! VolumeAttachment of `storage.k8s.io/v1`: that a volume is to be at a node. A data kind.

use serde_json::{Value, json};

use super::common::text;
use super::field::{Errors, Field};
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column, meta, time};

pub struct VolumeAttachment;

static INFO: KindInfo = KindInfo {
    group: "storage.k8s.io",
    version: "v1",
    kind: "VolumeAttachment",
    plural: "volumeattachments",
    singular: "volumeattachment",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("VolumeAttachment")],
    schema: "io.k8s.api.storage.v1.VolumeAttachment",
    storage: "storage.k8s.io/volumeattachments",
    storage_version_hash: "tJx/ezt6UDU=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Attacher", "string", "name", 0),
    column("PV", "string", "", 0),
    column("Node", "string", "", 0),
    column("Attached", "boolean", "", 0),
    column("Age", "string", "", 0),
];

impl Kind for VolumeAttachment {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        meta::object_mut(object, "status").entry("attached").or_insert(false.into());
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"attached": false});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let spec = Field::root(object).get("spec");
        for name in ["attacher", "nodeName"] {
            if spec.get(name).is_empty() {
                errors.required(&spec.get(name), "");
            }
        }
        let source = spec.get("source");
        match (source.get("inlineVolumeSpec").exists(), source.get("persistentVolumeName").exists()) {
            (false, false) => {
                errors.required(&source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
            }
            (true, true) => {
                errors.forbidden(&source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
            }
            _ => {}
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = self.validate(new);
        meta::immutable(&mut errors, &Field::root(new).get("spec"), &Field::root(old).get("spec"));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            text(object, "/metadata/name").into(),
            text(object, "/spec/attacher").into(),
            text(object, "/spec/source/persistentVolumeName").into(),
            text(object, "/spec/nodeName").into(),
            object["status"]["attached"].as_bool().unwrap_or(false).into(),
            time::object_age(object, now).into(),
        ]
    }
}

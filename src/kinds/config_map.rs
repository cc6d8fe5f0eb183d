//! ConfigMap of `v1`.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, column};

pub struct ConfigMap;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.core.v1.ConfigMap",
    storage: "configmaps",
    storage_version_hash: "qFsyl6wFWjQ=",
};

static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("Data", "string", "", 0), column("Age", "string", "", 0)];

impl Kind for ConfigMap {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, _object: &Value, _now: jiff::Timestamp) -> Vec<Value> {
        vec![Value::Null; COLUMNS.len()]
    }
}

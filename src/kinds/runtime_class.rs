//! RuntimeClass of `node.k8s.io/v1`.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, column};

pub struct RuntimeClass;

static INFO: KindInfo = KindInfo {
    group: "node.k8s.io",
    version: "v1",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.node.v1.RuntimeClass",
    storage: "node.k8s.io/runtimeclasses",
    storage_version_hash: "WQTu1GL3T2Q=",
};

static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("Handler", "string", "", 0), column("Age", "string", "", 0)];

impl Kind for RuntimeClass {
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

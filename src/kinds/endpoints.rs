//! Endpoints of `v1`.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, column};

pub struct Endpoints;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.core.v1.Endpoints",
    storage: "endpoints",
    storage_version_hash: "fWeeMqaN/OA=",
};

static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("Endpoints", "string", "", 0), column("Age", "string", "", 0)];

impl Kind for Endpoints {
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

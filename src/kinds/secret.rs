//! Secret of `v1`.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, column};

pub struct Secret;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.core.v1.Secret",
    storage: "secrets",
    storage_version_hash: "S6u1pOWzb84=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Type", "string", "", 0),
    column("Data", "string", "", 0),
    column("Age", "string", "", 0),
];

impl Kind for Secret {
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

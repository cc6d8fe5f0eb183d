//! Namespace of `v1`.

use serde_json::Value;

use super::{Column, Kind, KindInfo, Subresource, column};

pub struct Namespace;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    categories: &[],
    namespaced: false,
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    subresources: &[
        Subresource { name: "finalize", group: "", version: "", kind: "Namespace", verbs: &["update"] },
        Subresource { name: "status", group: "", version: "", kind: "Namespace", verbs: &["get", "patch", "update"] },
    ],
    schema: "io.k8s.api.core.v1.Namespace",
    storage: "namespaces",
    storage_version_hash: "Q3oi5N2YM8M=",
};

static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("Status", "string", "", 0), column("Age", "string", "", 0)];

impl Kind for Namespace {
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

//! Pod of `v1`.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column};

pub struct Pod;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource { name: "binding", group: "", version: "", kind: "Binding", verbs: &["create"] },
        Subresource { name: "log", group: "", version: "", kind: "Pod", verbs: &["get"] },
        Subresource { name: "status", group: "", version: "", kind: "Pod", verbs: &["get", "patch", "update"] },
    ],
    schema: "io.k8s.api.core.v1.Pod",
    storage: "pods",
    storage_version_hash: "xPOwRZ+Yhw8=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Ready", "string", "", 0),
    column("Status", "string", "", 0),
    column("Restarts", "string", "", 0),
    column("Age", "string", "", 0),
    column("IP", "string", "", 1),
    column("Node", "string", "", 1),
    column("Nominated Node", "string", "", 1),
    column("Readiness Gates", "string", "", 1),
];

impl Kind for Pod {
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

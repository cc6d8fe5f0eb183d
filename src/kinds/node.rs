//! Node of `v1`.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column};

pub struct Node;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[Subresource {
        name: "status",
        group: "",
        version: "",
        kind: "Node",
        verbs: &["get", "patch", "update"],
    }],
    schema: "io.k8s.api.core.v1.Node",
    storage: "nodes",
    storage_version_hash: "XwShjMxG9Fs=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Status", "string", "", 0),
    column("Roles", "string", "", 0),
    column("Age", "string", "", 0),
    column("Version", "string", "", 0),
    column("Internal-IP", "string", "", 1),
    column("External-IP", "string", "", 1),
    column("OS-Image", "string", "", 1),
    column("Kernel-Version", "string", "", 1),
    column("Container-Runtime", "string", "", 1),
];

impl Kind for Node {
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

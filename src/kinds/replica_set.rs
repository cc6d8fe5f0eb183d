//! ReplicaSet of `apps/v1`.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column};

pub struct ReplicaSet;

static INFO: KindInfo = KindInfo {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource {
            name: "scale",
            group: "autoscaling",
            version: "v1",
            kind: "Scale",
            verbs: &["get", "patch", "update"],
        },
        Subresource { name: "status", group: "", version: "", kind: "ReplicaSet", verbs: &["get", "patch", "update"] },
    ],
    schema: "io.k8s.api.apps.v1.ReplicaSet",
    storage: "apps/replicasets",
    storage_version_hash: "P1RzHs8/mWQ=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Desired", "integer", "", 0),
    column("Current", "integer", "", 0),
    column("Ready", "integer", "", 0),
    column("Age", "string", "", 0),
    column("Containers", "string", "", 1),
    column("Images", "string", "", 1),
    column("Selector", "string", "", 1),
];

impl Kind for ReplicaSet {
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

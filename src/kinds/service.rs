//! Service of `v1`.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column};

pub struct Service;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource {
        name: "status",
        group: "",
        version: "",
        kind: "Service",
        verbs: &["get", "patch", "update"],
    }],
    schema: "io.k8s.api.core.v1.Service",
    storage: "services",
    storage_version_hash: "0/CO1lhkEBI=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Type", "string", "", 0),
    column("Cluster-IP", "string", "", 0),
    column("External-IP", "string", "", 0),
    column("Port(s)", "string", "", 0),
    column("Age", "string", "", 0),
    column("Selector", "string", "", 1),
];

impl Kind for Service {
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

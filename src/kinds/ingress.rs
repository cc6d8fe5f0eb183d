//! Ingress of `networking.k8s.io/v1`.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column};

pub struct Ingress;

static INFO: KindInfo = KindInfo {
    group: "networking.k8s.io",
    version: "v1",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource {
        name: "status",
        group: "",
        version: "",
        kind: "Ingress",
        verbs: &["get", "patch", "update"],
    }],
    schema: "io.k8s.api.networking.v1.Ingress",
    storage: "networking.k8s.io/ingresses",
    storage_version_hash: "39NQlfNR+bo=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Class", "string", "", 0),
    column("Hosts", "string", "", 0),
    column("Address", "string", "", 0),
    column("Ports", "string", "", 0),
    column("Age", "string", "", 0),
];

impl Kind for Ingress {
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

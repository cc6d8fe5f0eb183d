//! IngressClass of `networking.k8s.io/v1`.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, column};

pub struct IngressClass;

static INFO: KindInfo = KindInfo {
    group: "networking.k8s.io",
    version: "v1",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.networking.v1.IngressClass",
    storage: "networking.k8s.io/ingressclasses",
    storage_version_hash: "l/iqIbDgFyQ=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Controller", "string", "", 0),
    column("Parameters", "string", "", 0),
    column("Age", "string", "", 0),
];

impl Kind for IngressClass {
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

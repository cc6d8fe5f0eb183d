//! EndpointSlice of `discovery.k8s.io/v1`.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, column};

pub struct EndpointSlice;

static INFO: KindInfo = KindInfo {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.discovery.v1.EndpointSlice",
    storage: "discovery.k8s.io/endpointslices",
    storage_version_hash: "qgS0xkrxYAI=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("AddressType", "string", "", 0),
    column("Ports", "string", "", 0),
    column("Endpoints", "string", "", 0),
    column("Age", "string", "", 0),
];

impl Kind for EndpointSlice {
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

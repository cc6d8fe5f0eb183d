//! Lease of `coordination.k8s.io/v1`.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, column};

pub struct Lease;

static INFO: KindInfo = KindInfo {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.coordination.v1.Lease",
    storage: "coordination.k8s.io/leases",
    storage_version_hash: "gqkMMb/YqFM=",
};

static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("Holder", "string", "", 0), column("Age", "string", "", 0)];

impl Kind for Lease {
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

//! Event of `events.k8s.io/v1`.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, column};

pub struct EventV1;

static INFO: KindInfo = KindInfo {
    group: "events.k8s.io",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.events.v1.Event",
    storage: "events",
    storage_version_hash: "r2yiGXH7wu8=",
};

static COLUMNS: &[Column] = &[
    column("Last Seen", "string", "", 0),
    column("Type", "string", "", 0),
    column("Reason", "string", "", 0),
    column("Object", "string", "", 0),
    column("Subobject", "string", "", 1),
    column("Source", "string", "", 1),
    column("Message", "string", "", 0),
    column("First Seen", "string", "", 1),
    column("Count", "string", "", 1),
    column("Name", "string", "name", 1),
];

impl Kind for EventV1 {
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

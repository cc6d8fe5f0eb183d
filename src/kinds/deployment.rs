//! Deployment of `apps/v1`.

use serde_json::Value;

use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column};

pub struct Deployment;

static INFO: KindInfo = KindInfo {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
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
        Subresource { name: "status", group: "", version: "", kind: "Deployment", verbs: &["get", "patch", "update"] },
    ],
    schema: "io.k8s.api.apps.v1.Deployment",
    storage: "apps/deployments",
    storage_version_hash: "8aSe+NMegvE=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Ready", "string", "", 0),
    column("Up-to-date", "string", "", 0),
    column("Available", "string", "", 0),
    column("Age", "string", "", 0),
    column("Containers", "string", "", 1),
    column("Images", "string", "", 1),
    column("Selector", "string", "", 1),
];

impl Kind for Deployment {
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

//! ReplicaSet of `apps/v1`.

use serde_json::{Value, json};

use super::meta::{self, object_mut};
use super::pod::defaults;
use super::tidy::set_default;
use super::workload;
use super::{ALL_VERBS, Column, Kind, KindInfo, ScalePaths, Subresource, column};

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

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        defaults::template(&mut object["spec"]);
        let spec = object_mut(object, "spec");
        spec.retain(|name, value| !value.is_null() && !(name == "minReadySeconds" && value.as_i64() == Some(0)));
        set_default(spec, "replicas", 1);
        workload::tidy_status(object, &["replicas"]);
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"replicas": 0});
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
        let changed = !meta::same(&new["spec"], &old["spec"]);
        meta::carry_generation(new, old, changed);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
        meta::carry_generation(new, old, false);
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.replicas", object["status"]["replicas"].as_i64().unwrap_or(0).to_string())]
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn scale(&self) -> Option<ScalePaths> {
        Some(ScalePaths {
            spec_replicas: "/spec/replicas",
            status_replicas: "/status/replicas",
            selector: "/spec/selector",
        })
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, _object: &Value, _now: jiff::Timestamp) -> Vec<Value> {
        vec![Value::Null; COLUMNS.len()]
    }
}

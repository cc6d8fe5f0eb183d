//! Deployment of `apps/v1`.

use serde_json::{Value, json};

use super::meta::{self, object_mut};
use super::pod::defaults;
use super::tidy::{object, set_default, set_default_zero};
use super::workload;
use super::{ALL_VERBS, Column, Kind, KindInfo, ScalePaths, Subresource, column};

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

    fn default(&self, deployment: &mut Value) {
        object_mut(deployment, "spec");
        defaults::template(&mut deployment["spec"]);
        let spec = object_mut(deployment, "spec");
        spec.retain(|name, value| !value.is_null() && !(name == "minReadySeconds" && value.as_i64() == Some(0)));
        spec.retain(|name, value| !(name == "paused" && value.as_bool() == Some(false)));
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "progressDeadlineSeconds", 600);
        set_default(spec, "strategy", json!({}));
        if let Some(strategy) = object(spec, "strategy") {
            strategy.retain(|_, value| !value.is_null());
            set_default_zero(strategy, "type", "RollingUpdate");
            if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
                set_default(strategy, "rollingUpdate", json!({}));
                if let Some(rolling) = object(strategy, "rollingUpdate") {
                    set_default(rolling, "maxUnavailable", "25%");
                    set_default(rolling, "maxSurge", "25%");
                }
            }
        }
        workload::tidy_status(deployment, &[]);
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({});
        meta::start_generation(object);
    }

    /// Annotations count as a change: the rollout copies them to its ReplicaSets.
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
        let changed = !meta::same(&new["spec"], &old["spec"])
            || !meta::same(&new["metadata"]["annotations"], &old["metadata"]["annotations"]);
        meta::carry_generation(new, old, changed);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
        meta::carry_generation(new, old, false);
        let labels = &old["metadata"]["labels"];
        let metadata = meta::metadata_mut(new);
        match labels.is_null() {
            true => metadata.remove("labels"),
            false => metadata.insert("labels".to_owned(), labels.clone()),
        };
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

//! ReplicaSet of `apps/v1`.

use serde_json::{Value, json};

use super::field::{Errors, Field};
use super::fill::set_default;
use super::meta::{self, object_mut};
use super::pod::defaults;
use super::{ALL_VERBS, Column, Kind, KindInfo, ScalePaths, Subresource, column};
use super::{pod_template, time, workload};

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
    subresources: &[Subresource::SCALE, Subresource::status("ReplicaSet")],
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
        set_default(spec, "replicas", 1);
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"replicas": 0});
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::update_spec(new, old);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::update_status(new, old);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let spec = Field::root(object).get("spec");
        workload::non_negative(&mut errors, &spec.get("replicas"));
        workload::non_negative(&mut errors, &spec.get("minReadySeconds"));
        pod_template::validate(&mut errors, &spec);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = self.validate(new);
        pod_template::validate_selector_update(&mut errors, new, old);
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Errors {
        let mut errors = Errors::default();
        let status = Field::root(new).get("status");
        let counts = [
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "terminatingReplicas",
            "observedGeneration",
        ];
        for count in counts {
            workload::non_negative(&mut errors, &status.get(count));
        }
        let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        workload::not_more_than_replicas(&mut errors, &status, &parts);
        errors
    }

    fn scale(&self) -> Option<ScalePaths> {
        Some(ScalePaths::WORKLOAD)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        pod_template::warnings(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let count = |value: &Value| value.as_i64().unwrap_or(0);
        let (containers, images) = workload::containers_text(&spec["template"]["spec"]);
        vec![
            object["metadata"]["name"].clone(),
            count(&spec["replicas"]).into(),
            count(&status["replicas"]).into(),
            count(&status["readyReplicas"]).into(),
            time::object_age(object, now).into(),
            containers.into(),
            images.into(),
            workload::selector_text(&spec["selector"]).into(),
        ]
    }
}

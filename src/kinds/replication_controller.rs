//! ReplicationController of `v1`: what ReplicaSets were before they had a group.

use serde_json::{Value, json};

use super::common::{pairs, set_default};
use super::field::{Errors, Field};
use super::meta::{self, metadata_mut, object_mut};
use super::pod::defaults;
use super::{ALL_VERBS, Column, Kind, KindInfo, ScalePaths, Subresource, column};
use super::{pod_template, time, workload};

pub struct ReplicationController;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource::SCALE, Subresource::status("ReplicationController")],
    schema: "io.k8s.api.core.v1.ReplicationController",
    storage: "replicationcontrollers",
    storage_version_hash: "Jond2If31h0=",
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

impl Kind for ReplicationController {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    /// Labels and selector are those of the template unless they are given.
    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        if object["spec"]["template"].is_object() {
            defaults::template(&mut object["spec"]);
        }
        let labels = object["spec"].pointer("/template/metadata/labels").filter(|l| !meta::is_empty(l)).cloned();
        if let Some(labels) = labels {
            if meta::is_empty(&object["spec"]["selector"]) {
                object["spec"]["selector"] = labels.clone();
            }
            if meta::is_empty(&object["metadata"]["labels"]) {
                metadata_mut(object).insert("labels".to_owned(), labels);
            }
        }
        set_default(&mut object["spec"], "replicas", 1);
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
        workload::non_negative(&mut errors, &spec.get("minReadySeconds"));
        let (selector, template) = (spec.get("selector"), spec.get("template"));
        if selector.is_empty() {
            errors.required(&selector, "");
        }
        workload::non_negative(&mut errors, &spec.get("replicas"));
        if !template.exists() {
            errors.required(&template, "");
            return errors;
        }
        let labels = template.get("metadata").get("labels");
        let selects = workload::selects(&json!({"matchLabels": selector.value}), labels.value);
        if !selector.is_empty() && !selects {
            errors.invalid(&labels, pod_template::NO_MATCH);
        }
        pod_template::validate_template(&mut errors, &template);
        pod_template::validate_runs_for_ever(&mut errors, &template.get("spec"), "ReplicationController");
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Errors {
        let mut errors = Errors::default();
        let status = Field::root(new).get("status");
        let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        for count in ["replicas", "observedGeneration"].into_iter().chain(parts) {
            workload::non_negative(&mut errors, &status.get(count));
        }
        workload::not_more_than_replicas(&mut errors, &status, &parts);
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        workload::name_warning(new, old).into_iter().chain(pod_template::warnings(new, old)).collect()
    }

    fn scale(&self) -> Option<ScalePaths> {
        Some(ScalePaths::WORKLOAD)
    }

    fn orphans_by_default(&self) -> bool {
        true
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
            pairs(spec.get("selector")).into(),
        ]
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("status.replicas", object["status"]["replicas"].as_i64().unwrap_or(0).to_string())]
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }
}

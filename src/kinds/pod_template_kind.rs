//! PodTemplate of `v1`: a template by itself. Nobody runs it.

use serde_json::Value;

use super::common::pairs;
use super::field::{Errors, Field};
use super::meta::{self, object_mut};
use super::pod::{defaults, warnings};
use super::{ALL_VERBS, Column, Kind, KindInfo, column, pod_template, workload};

pub struct PodTemplate;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.core.v1.PodTemplate",
    storage: "podtemplates",
    storage_version_hash: "LIXB2x4IFpk=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Containers", "string", "", 0),
    column("Images", "string", "", 0),
    column("Pod Labels", "string", "", 0),
];

impl Kind for PodTemplate {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "template");
        defaults::template(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        let changed = !meta::same(&new["template"], &old["template"]);
        meta::carry_generation(new, old, changed);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        pod_template::validate_template(&mut errors, &Field::root(object).get("template"));
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        match old {
            Some(old) if meta::same(&new["template"], &old["template"]) => Vec::new(),
            _ => warnings::of(&Field::root(new).get("template").get("spec")),
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, _now: jiff::Timestamp) -> Vec<Value> {
        let template = &object["template"];
        let (containers, images) = workload::containers_text(&template["spec"]);
        vec![
            object["metadata"]["name"].clone(),
            containers.into(),
            images.into(),
            pairs(template.pointer("/metadata/labels")).into(),
        ]
    }
}

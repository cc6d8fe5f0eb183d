//! Namespace of `v1`.

use serde_json::{Value, json};

use super::field::{Errors, Field};
use super::fill::set_default_zero;
use super::meta::{self, object_mut};
use super::{Column, Kind, KindInfo, NameRule, Subresource, column};
use super::{names, time};

pub struct Namespace;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    categories: &[],
    namespaced: false,
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    subresources: &[
        Subresource { name: "finalize", group: "", version: "", kind: "Namespace", verbs: &["update"] },
        Subresource::status("Namespace"),
    ],
    schema: "io.k8s.api.core.v1.Namespace",
    storage: "namespaces",
    storage_version_hash: "Q3oi5N2YM8M=",
};

static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("Status", "string", "", 0), column("Age", "string", "", 0)];

impl Kind for Namespace {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        label_with_name(object);
        set_default_zero(object_mut(object, "status"), "phase", "Active");
    }

    /// The finalizer keeps a namespace until everything in it is gone.
    fn prepare_create(&self, object: &mut Value) {
        label_with_name(object);
        object["status"] = json!({"phase": "Active"});
        let finalizers = object_mut(object, "spec").entry("finalizers").or_insert_with(|| json!([]));
        let Some(finalizers) = finalizers.as_array_mut() else { return };
        if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
            finalizers.push("kubernetes".into());
        }
    }

    /// The main endpoint changes neither status nor finalizers: the latter have `/finalize`.
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
        let finalizers = &old["spec"]["finalizers"];
        let spec = object_mut(new, "spec");
        match finalizers.is_null() {
            true => spec.remove("finalizers"),
            false => spec.insert("finalizers".to_owned(), finalizers.clone()),
        };
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let finalizers = Field::root(object).get("spec").get("finalizers");
        for finalizer in finalizers.items() {
            let at = Field::new(&finalizers.path, finalizer.value);
            errors.invalid_each(&at, names::qualified_name(at.str()));
            meta::validate_standard_finalizer(&mut errors, &at);
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Errors {
        let mut errors = Errors::default();
        let phase = Field::root(new).get("status").get("phase");
        let dying = !new["metadata"]["deletionTimestamp"].is_null();
        if !dying && phase.str() != "Active" {
            errors.invalid_str(&phase, "may only be 'Active' if `deletionTimestamp` is empty");
        } else if dying && phase.str() != "Terminating" {
            errors.invalid_str(&phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
        }
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::DnsLabel
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![
            ("status.phase", object["status"]["phase"].as_str().unwrap_or("").to_owned()),
            ("name", meta::text(object, "name").to_owned()),
        ]
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &["status.phase", "name"]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let phase = object["status"]["phase"].as_str().unwrap_or("");
        vec![object["metadata"]["name"].clone(), phase.into(), time::object_age(object, now).into()]
    }
}

/// Selectors of namespaces can name one by its label.
fn label_with_name(object: &mut Value) {
    let name = meta::text(object, "name").to_owned();
    if name.is_empty() {
        return;
    }
    let labels = meta::metadata_mut(object).entry("labels").or_insert_with(|| json!({}));
    if !labels.is_object() {
        *labels = json!({});
    }
    labels["kubernetes.io/metadata.name"] = name.into();
}

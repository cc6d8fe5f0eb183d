//! PriorityClass of `scheduling.k8s.io/v1`: a name for how important pods are.

use serde_json::{Value, json};

use super::common::{set_default, set_default_text, text};
use super::field::{Errors, Field};
use super::{ALL_VERBS, Column, Kind, KindInfo, column, meta, time};

pub struct PriorityClass;

static INFO: KindInfo = KindInfo {
    group: "scheduling.k8s.io",
    version: "v1",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.scheduling.v1.PriorityClass",
    storage: "scheduling.k8s.io/priorityclasses",
    storage_version_hash: "1QwjyaZjj3Y=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Value", "integer", "", 0),
    column("Global-Default", "boolean", "", 0),
    column("Age", "string", "", 0),
    column("PreemptionPolicy", "string", "", 0),
];

/// Higher values are for the system's own classes.
const MAX_USER_VALUE: i64 = 1_000_000_000;
const SYSTEM_PREFIX: &str = "system-";

/// The classes that are there from the start: name, value, what they are for.
pub const SYSTEM_CLASSES: &[(&str, i64, &str)] = &[
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

impl Kind for PriorityClass {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        set_default(object, "value", 0);
        set_default_text(object, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        let said = |object: &Value| json!([object["description"], object["globalDefault"], object["value"]]);
        meta::carry_generation(new, old, !meta::same(&said(new), &said(old)));
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let root = Field::root(object);
        let (name, value) = (root.get("metadata").get("name"), root.get("value"));
        if name.str().starts_with(SYSTEM_PREFIX) {
            let known =
                SYSTEM_CLASSES.iter().any(|(known, amount, _)| *known == name.str() && value.int() == Some(*amount));
            if !known {
                let detail = "priority class names with 'system-' prefix are reserved for system use only. error: ";
                let why = format!("{detail}{} is not a known system priority class", name.str());
                errors.forbidden(&name, why);
            }
        } else if value.int().is_some_and(|amount| amount > MAX_USER_VALUE) {
            errors.forbidden(&value, format!("maximum allowed value of a user defined priority is {MAX_USER_VALUE}"));
        }
        let policy = root.get("preemptionPolicy");
        match policy.str() {
            "PreemptLowerPriority" | "Never" => {}
            "" => errors.required(&policy, ""),
            _ => errors.not_supported(&policy, &["PreemptLowerPriority", "Never"]),
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        let (new, old) = (Field::root(new), Field::root(old));
        if new.get("value").int() != old.get("value").int() {
            errors.forbidden(&new.get("value"), "may not be changed in an update.");
        }
        meta::immutable(&mut errors, &new.get("preemptionPolicy"), &old.get("preemptionPolicy"));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            text(object, "/metadata/name").into(),
            object["value"].as_i64().unwrap_or(0).into(),
            object["globalDefault"].as_bool().unwrap_or(false).into(),
            time::object_age(object, now).into(),
            text(object, "/preemptionPolicy").into(),
        ]
    }
}

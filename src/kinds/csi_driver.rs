//! CSIDriver of `storage.k8s.io/v1`: how a storage driver wants to be called. A data kind: Coracle calls none.

use serde_json::{Value, json};

use super::common::{set_default, set_default_text, text};
use super::field::{Errors, Field};
use super::meta::{self, object_mut};
use super::{ALL_VERBS, Column, Kind, KindInfo, column, time};

pub struct CSIDriver;

static INFO: KindInfo = KindInfo {
    group: "storage.k8s.io",
    version: "v1",
    kind: "CSIDriver",
    plural: "csidrivers",
    singular: "csidriver",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.storage.v1.CSIDriver",
    storage: "storage.k8s.io/csidrivers",
    storage_version_hash: "hL6j/rwBV5w=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("AttachRequired", "boolean", "", 0),
    column("PodInfoOnMount", "boolean", "", 0),
    column("StorageCapacity", "boolean", "", 0),
    column("TokenRequests", "string", "", 0),
    column("RequiresRepublish", "boolean", "", 0),
    column("Modes", "string", "", 0),
    column("Age", "string", "", 0),
];

impl Kind for CSIDriver {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        let spec = &mut object["spec"];
        set_default(spec, "attachRequired", true);
        for name in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            set_default(spec, name, false);
        }
        set_default_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if meta::is_empty(&spec["volumeLifecycleModes"]) {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let spec = Field::root(object).get("spec");
        let policy = spec.get("fsGroupPolicy");
        let policies = ["ReadWriteOnceWithFSType", "File", "None"];
        if policy.exists() && !policies.contains(&policy.str()) {
            errors.not_supported(&policy, &policies);
        }
        for mode in spec.get("volumeLifecycleModes").items() {
            if !matches!(mode.str(), "Persistent" | "Ephemeral") {
                errors.not_supported(&mode, &["Persistent", "Ephemeral"]);
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = self.validate(new);
        let (new, old) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
        for name in ["attachRequired", "volumeLifecycleModes"] {
            meta::immutable(&mut errors, &new.get(name), &old.get(name));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            text(object, "/metadata/name").into(),
            flag(object, "attachRequired"),
            flag(object, "podInfoOnMount"),
            flag(object, "storageCapacity"),
            words(object, "tokenRequests").into(),
            flag(object, "requiresRepublish"),
            words(object, "volumeLifecycleModes").into(),
            time::object_age(object, now).into(),
        ]
    }
}

fn flag(object: &Value, name: &str) -> Value {
    object["spec"][name].as_bool().unwrap_or(false).into()
}

/// Modes, or the audiences of tokens.
fn words(object: &Value, name: &str) -> String {
    let list = object["spec"][name].as_array().into_iter().flatten();
    let words: Vec<&str> = list.filter_map(|item| item.as_str().or_else(|| item["audience"].as_str())).collect();
    if words.is_empty() { "<unset>".to_owned() } else { words.join(",") }
}

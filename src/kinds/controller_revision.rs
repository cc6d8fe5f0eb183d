//! ControllerRevision of `apps/v1`: what a DaemonSet or StatefulSet once looked like.

use serde_json::Value;

use super::field::{Errors, Field};
use super::{ALL_VERBS, Column, Kind, KindInfo, column, meta, time, workload};

pub struct ControllerRevision;

static INFO: KindInfo = KindInfo {
    group: "apps",
    version: "v1",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.apps.v1.ControllerRevision",
    storage: "apps/controllerrevisions",
    storage_version_hash: "85nkx63pcBU=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Controller", "string", "", 0),
    column("Revision", "string", "", 0),
    column("Age", "string", "", 0),
];

impl Kind for ControllerRevision {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let root = Field::root(object);
        if !root.get("data").exists() {
            errors.required(&root.get("data"), "data is mandatory");
        }
        workload::non_negative(&mut errors, &root.get("revision"));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = self.validate(new);
        meta::immutable(&mut errors, &Field::root(new).get("data"), &Field::root(old).get("data"));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            object["metadata"]["name"].clone(),
            controller(object).into(),
            object["revision"].as_i64().unwrap_or(0).into(),
            time::object_age(object, now).into(),
        ]
    }
}

/// `statefulset.apps/web` of the owner that controls the object.
fn controller(object: &Value) -> String {
    let owners = object["metadata"]["ownerReferences"].as_array();
    let Some(owner) = owners.into_iter().flatten().find(|owner| owner["controller"] == true) else {
        return "<none>".to_owned();
    };
    let text = |name: &str| owner[name].as_str().unwrap_or("");
    let kind = text("kind").to_lowercase();
    match text("apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", text("name")),
        None => format!("{kind}/{}", text("name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn data_stays_and_the_owner_is_named() {
        let old = json!({"data": {"a": 1}, "revision": 1, "metadata": {"name": "r", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "controller": true}]}});
        let mut new = old.clone();
        new["revision"] = json!(2);
        assert!(ControllerRevision.validate_update(&new, &old).is_empty());
        new["data"] = json!({"a": 2});
        assert_eq!(ControllerRevision.validate_update(&new, &old).0[0].path, "data");
        assert_eq!(ControllerRevision.row(&old, jiff::Timestamp::UNIX_EPOCH)[1], "statefulset.apps/web");
    }
}

//! RuntimeClass of `node.k8s.io/v1`: which handler of a node runs a pod. Coracle's is `wasm`.

use serde_json::Value;

use super::common::{set_default, text};
use super::field::{Errors, Field};
use super::{ALL_VERBS, Column, Kind, KindInfo, column, meta, names, quantity, time};

pub struct RuntimeClass;

static INFO: KindInfo = KindInfo {
    group: "node.k8s.io",
    version: "v1",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.node.v1.RuntimeClass",
    storage: "node.k8s.io/runtimeclasses",
    storage_version_hash: "WQTu1GL3T2Q=",
};

static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("Handler", "string", "", 0), column("Age", "string", "", 0)];

impl Kind for RuntimeClass {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        set_default(object, "handler", "");
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let root = Field::root(object);
        let handler = root.get("handler");
        for message in names::dns1123_label(handler.str()) {
            errors.invalid_value(&handler, handler.str(), message);
        }
        check_overhead(&mut errors, &root.get("overhead").get("podFixed"));
        for (_, value) in root.get("scheduling").get("nodeSelector").entries() {
            errors.invalid_each(&value, names::label_value(value.str()));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        meta::immutable(&mut errors, &Field::root(new).get("handler"), &Field::root(old).get("handler"));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            text(object, "/metadata/name").into(),
            text(object, "/handler").into(),
            time::object_age(object, now).into(),
        ]
    }
}

/// What every pod of the class costs besides its containers.
fn check_overhead(errors: &mut Errors, pod_fixed: &Field<'_>) {
    for (_, amount) in pod_fixed.entries() {
        match quantity::Quantity::from_json(amount.value) {
            Ok(parsed) if parsed.is_negative() => errors.invalid(&amount, "must be greater than or equal to 0"),
            Ok(_) => {}
            Err(error) => errors.invalid(&amount, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_handler_is_a_label_and_stays() {
        assert!(RuntimeClass.validate(&json!({"handler": "wasm"})).is_empty());
        assert!(!RuntimeClass.validate(&json!({"handler": "Wasm!"})).is_empty());
        assert!(!RuntimeClass.validate(&json!({})).is_empty());
        let errors = RuntimeClass.validate_update(&json!({"handler": "other"}), &json!({"handler": "wasm"}));
        assert_eq!(errors.0[0].to_string(), "handler: Invalid value: \"other\": field is immutable");
    }
}

//! ConfigMap of `v1`: strings and bytes under keys that are file names.
//!
//! Also what Secret shares with it: the size limit and the rules of `immutable`.

use serde_json::Value;

use super::common::{same, text};
use super::field::{Errors, Field, Reason};
use super::meta;
use super::{ALL_VERBS, Column, Kind, KindInfo, column, names, time};

/// Upstream's limit on the values of one ConfigMap or Secret: one MiB.
pub(super) const MAX_DATA_BYTES: usize = 1024 * 1024;

pub struct ConfigMap;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.core.v1.ConfigMap",
    storage: "configmaps",
    storage_version_hash: "qFsyl6wFWjQ=",
};

static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("Data", "string", "", 0), column("Age", "string", "", 0)];

impl Kind for ConfigMap {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let root = Field::root(object);
        let (data, binary) = (root.get("data"), root.get("binaryData"));
        let mut bytes = 0;
        for (key, entry) in data.entries() {
            check_key(&mut errors, &entry, key);
            if binary.value.get(key).is_some() {
                errors.invalid_value(&entry, key, "duplicate of key present in binaryData");
            }
            bytes += entry.str().len();
        }
        for (key, entry) in binary.entries() {
            check_key(&mut errors, &entry, key);
            bytes += decoded_len(entry.str());
        }
        if bytes > MAX_DATA_BYTES {
            // The path is what Go's empty path prints as; clients know the text by it.
            errors.push(Reason::TooLong, "[]", None, format!("may not be more than {MAX_DATA_BYTES} bytes"));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let metadata = meta::validate_content(new);
        let mut errors = metadata.clone();
        errors.extend(immutable_data(new, old, &["data", "binaryData"]));
        errors.extend(metadata);
        errors.extend(self.validate(new));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let entries = Field::root(object).get("data").len() + Field::root(object).get("binaryData").len();
        vec![text(object, "/metadata/name").into(), entries.into(), time::object_age(object, now).into()]
    }
}

/// A key must do as a file name.
pub(super) fn check_key(errors: &mut Errors, entry: &Field<'_>, key: &str) {
    for message in names::config_map_key(key) {
        errors.invalid_value(entry, key, message);
    }
}

/// How many bytes a base64 text stands for.
pub(super) fn decoded_len(base64: &str) -> usize {
    let digits = base64.bytes().filter(|b| *b != b'=' && !b.is_ascii_whitespace()).count();
    digits * 3 / 4
}

/// Once `immutable` is true, it stays so and the data stays what it is.
pub(super) fn immutable_data(new: &Value, old: &Value, fields: &[&str]) -> Errors {
    let mut errors = Errors::default();
    if old.get("immutable").and_then(Value::as_bool) != Some(true) {
        return errors;
    }
    let root = Field::root(new);
    let detail = "field is immutable when `immutable` is set";
    if !root.get("immutable").bool() {
        errors.forbidden(&root.get("immutable"), detail);
    }
    for field in fields {
        if !same(new, old, field) {
            errors.forbidden(&root.get(field), detail);
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: Errors) -> Vec<String> {
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_key_may_be_in_one_of_the_two_maps_only() {
        let object = json!({"data": {"a": "1"}, "binaryData": {"a": "AA=="}});
        assert_eq!(
            texts(ConfigMap.validate(&object)),
            ["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"]
        );
    }

    #[test]
    fn an_immutable_one_refuses_new_data_and_to_become_mutable_again() {
        let old = json!({"data": {"a": "1"}, "immutable": true});
        let new = json!({"data": {"a": "2"}, "immutable": false});
        assert_eq!(
            texts(ConfigMap.validate_update(&new, &old)),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
        assert!(ConfigMap.validate_update(&old, &old).is_empty());
    }

    #[test]
    fn more_than_a_mebibyte_is_too_much() {
        let object = json!({"data": {"a": "x".repeat(MAX_DATA_BYTES)}, "binaryData": {"b": "AAAA"}});
        assert_eq!(texts(ConfigMap.validate(&object)), ["[]: Too long: may not be more than 1048576 bytes"]);
    }
}

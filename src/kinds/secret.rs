//! Secret of `v1`: like a ConfigMap, base64 throughout, with a type that says which keys it must have.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::common::{set_default_text, text};
use super::config_map::{MAX_DATA_BYTES, check_key, decoded_len, immutable_data};
use super::field::{Errors, Field, Reason};
use super::{ALL_VERBS, Column, Kind, KindInfo, column, meta, time};

pub struct Secret;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.core.v1.Secret",
    storage: "secrets",
    storage_version_hash: "S6u1pOWzb84=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Type", "string", "", 0),
    column("Data", "string", "", 0),
    column("Age", "string", "", 0),
];

impl Kind for Secret {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    /// `stringData` is write-only: it goes into `data`, over what is there, and is never shown.
    fn default(&self, object: &mut Value) {
        if let Some(Value::Object(strings)) = object.as_object_mut().and_then(|map| map.remove("stringData"))
            && !strings.is_empty()
        {
            if !object["data"].is_object() {
                object["data"] = json!({});
            }
            for (key, value) in strings {
                object["data"][key] = STANDARD.encode(value.as_str().unwrap_or("")).into();
            }
        }
        set_default_text(object, "type", "Opaque");
    }

    /// An update that leaves the type out keeps it.
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        if text(new, "/type").is_empty() {
            meta::take_from(new, old, "type");
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let root = Field::root(object);
        let data = root.get("data");
        let mut bytes = 0;
        for (key, entry) in data.entries() {
            check_key(&mut errors, &entry, key);
            bytes += decoded_len(entry.str());
        }
        if bytes > MAX_DATA_BYTES {
            errors.too_long(&data, MAX_DATA_BYTES);
        }
        check_type(&mut errors, &root);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        meta::immutable(&mut errors, &Field::root(new).get("type"), &Field::root(old).get("type"));
        errors.extend(immutable_data(new, old, &["data"]));
        errors.extend(self.validate(new));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            text(object, "/metadata/name").into(),
            text(object, "/type").into(),
            Field::root(object).get("data").len().into(),
            time::object_age(object, now).into(),
        ]
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("type", text(object, "/type").to_owned())]
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &["type"]
    }
}

/// What a Secret holds under `key`, where that is text.
pub fn decoded(secret: &Value, key: &str) -> Option<String> {
    let bytes = STANDARD.decode(secret["data"][key].as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}

/// The keys that a type promises.
fn check_type(errors: &mut Errors, root: &Field<'_>) {
    let data = root.get("data");
    let has = |key: &str| data.value.get(key).is_some();
    let mut need = |key: &str| {
        if !has(key) {
            errors.required(&data.key(key), "");
        }
    };
    match root.get("type").str() {
        "kubernetes.io/service-account-token" => {
            let name = root.get("metadata").get("annotations").key("kubernetes.io/service-account.name");
            if name.str().is_empty() {
                errors.required(&name, "");
            }
        }
        "kubernetes.io/dockercfg" => check_json(errors, &data.key(".dockercfg")),
        "kubernetes.io/dockerconfigjson" => check_json(errors, &data.key(".dockerconfigjson")),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth" if data.key("ssh-privatekey").is_empty() => {
            errors.required(&data.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
}

/// Registry credentials must at least be JSON; what they are is never repeated in an error.
fn check_json(errors: &mut Errors, entry: &Field<'_>) {
    if !entry.exists() {
        errors.required(entry, "");
        return;
    }
    let parsed =
        STANDARD.decode(entry.str()).map(|bytes| serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes));
    let problem = match parsed {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    errors.push(Reason::Invalid, &entry.path, Some("<secret contents redacted>".into()), problem);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: Errors) -> Vec<String> {
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn string_data_is_folded_into_data() {
        let mut object = json!({"stringData": {"user": "bob"}, "data": {"user": "eA==", "pass": "czNjcmV0"}});
        Secret.default(&mut object);
        assert_eq!(object, json!({"data": {"user": "Ym9i", "pass": "czNjcmV0"}, "type": "Opaque"}));
    }

    #[test]
    fn each_type_has_its_keys() {
        let errors = |kind: &str, data: Value| texts(Secret.validate(&json!({"type": kind, "data": data})));
        assert_eq!(
            errors("kubernetes.io/tls", json!({})),
            ["data[tls.crt]: Required value", "data[tls.key]: Required value"]
        );
        assert_eq!(
            errors("kubernetes.io/basic-auth", json!({})),
            ["data[username]: Required value", "data[password]: Required value"]
        );
        assert!(errors("kubernetes.io/basic-auth", json!({"password": "eA=="})).is_empty());
        assert!(errors("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "e30="})).is_empty());
        assert_eq!(
            errors("kubernetes.io/service-account-token", json!({})),
            ["metadata.annotations[kubernetes.io/service-account.name]: Required value"]
        );
        let redacted = errors("kubernetes.io/dockercfg", json!({".dockercfg": "eHl6enk="}));
        assert!(redacted[0].contains("<secret contents redacted>") && !redacted[0].contains("xyzzy"), "{redacted:?}");
    }

    #[test]
    fn the_type_stays() {
        let old = json!({"type": "Opaque"});
        let mut new = json!({});
        Secret.prepare_update(&mut new, &old);
        assert_eq!(new["type"], "Opaque");
        assert_eq!(
            texts(Secret.validate_update(&json!({"type": "other"}), &old)),
            ["type: Invalid value: \"other\": field is immutable"]
        );
    }
}

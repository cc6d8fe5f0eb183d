//! StorageClass of `storage.k8s.io/v1`: how volumes of a sort come to be. Coracle has one of its own,
//! [`OWN_CLASS`]: a directory on the node where the pod runs.

use serde_json::Value;

use super::common::{set_default_text, text};
use super::field::{Errors, Field};
use super::{ALL_VERBS, Column, Kind, KindInfo, column, meta, names, time};

pub struct StorageClass;

static INFO: KindInfo = KindInfo {
    group: "storage.k8s.io",
    version: "v1",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.storage.v1.StorageClass",
    storage: "storage.k8s.io/storageclasses",
    storage_version_hash: "K+m6uJwbjGY=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Provisioner", "string", "", 0),
    column("ReclaimPolicy", "string", "", 0),
    column("VolumeBindingMode", "string", "", 0),
    column("AllowVolumeExpansion", "string", "", 0),
    column("Age", "string", "", 0),
];

/// The class that is there from the start.
pub const OWN_CLASS: &str = "local";
/// Who makes its volumes, and the driver that nodes know them by.
pub const PROVISIONER: &str = "coracle.dev/local";
pub const DRIVER: &str = "local.coracle.dev";
/// Annotation of the class that claims get which name none.
pub const DEFAULT_ANNOTATION: &str = "storageclass.kubernetes.io/is-default-class";

const MAX_PARAMETERS_BYTES: usize = 256 * 1024;
const MAX_PARAMETERS: usize = 512;

impl Kind for StorageClass {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        set_default_text(object, "reclaimPolicy", "Delete");
        set_default_text(object, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let root = Field::root(object);
        let provisioner = root.get("provisioner");
        if provisioner.is_empty() {
            errors.required(&provisioner, "");
        } else {
            errors.invalid_each(&provisioner, names::qualified_name(&provisioner.str().to_lowercase()));
        }
        let parameters = root.get("parameters");
        if parameters.len() > MAX_PARAMETERS {
            errors.too_long(&parameters, MAX_PARAMETERS);
        }
        let size: usize = parameters.entries().map(|(key, value)| key.len() + value.str().len()).sum();
        if size > MAX_PARAMETERS_BYTES {
            errors.too_long(&parameters, MAX_PARAMETERS_BYTES);
        }
        for (name, allowed) in
            [("reclaimPolicy", ["Delete", "Retain"]), ("volumeBindingMode", ["Immediate", "WaitForFirstConsumer"])]
        {
            let at = root.get(name);
            if at.exists() && !allowed.contains(&at.str()) {
                errors.not_supported(&at, &allowed);
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = self.validate(new);
        let (new, old) = (Field::root(new), Field::root(old));
        for name in ["parameters", "reclaimPolicy"] {
            if !meta::same(new.get(name).value, old.get(name).value) {
                errors.forbidden(&new.get(name), format!("updates to {name} are forbidden."));
            }
        }
        for name in ["provisioner", "volumeBindingMode"] {
            meta::immutable(&mut errors, &new.get(name), &old.get(name));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let name = text(object, "/metadata/name");
        let name = if is_default(object) { format!("{name} (default)") } else { name.to_owned() };
        vec![
            name.into(),
            text(object, "/provisioner").into(),
            text(object, "/reclaimPolicy").into(),
            text(object, "/volumeBindingMode").into(),
            object["allowVolumeExpansion"].as_bool().unwrap_or(false).into(),
            time::object_age(object, now).into(),
        ]
    }
}

/// Whether claims that name no class get this one.
pub fn is_default(class: &Value) -> bool {
    let annotations = &class["metadata"]["annotations"];
    [DEFAULT_ANNOTATION, "storageclass.beta.kubernetes.io/is-default-class"]
        .iter()
        .any(|name| annotations[*name] == "true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_class_stays_what_it_is() {
        let mut old = json!({"metadata": {"name": "s"}, "provisioner": "example.com/p"});
        StorageClass.default(&mut old);
        assert!(StorageClass.validate(&old).is_empty());
        for (name, value, errors) in [
            ("allowVolumeExpansion", json!(true), 0),
            ("reclaimPolicy", json!("Retain"), 1),
            ("provisioner", json!("example.com/q"), 1),
        ] {
            let mut new = old.clone();
            new[name] = value;
            assert_eq!(StorageClass.validate_update(&new, &old).0.len(), errors, "{name}");
        }
    }
}

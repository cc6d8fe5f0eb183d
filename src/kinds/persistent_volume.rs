//! PersistentVolume of `v1`: a piece of storage, and whose it is.

use serde_json::{Value, json};

use super::common::{set_default, set_default_text, text};
use super::field::{Errors, Field, Reason, supported_values};
use super::meta::{self, object_mut};
use super::persistent_volume_claim::{access_modes, class, validate_access_modes};
use super::pod::affinity;
use super::quantity::{self, Quantity};
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column, names, time};

pub struct PersistentVolume;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("PersistentVolume")],
    schema: "io.k8s.api.core.v1.PersistentVolume",
    storage: "persistentvolumes",
    storage_version_hash: "HN/zwEC+JgM=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Capacity", "string", "", 0),
    column("Access Modes", "string", "", 0),
    column("Reclaim Policy", "string", "", 0),
    column("Status", "string", "", 0),
    column("Claim", "string", "", 0),
    column("StorageClass", "string", "", 0),
    column("VolumeAttributesClass", "string", "", 0),
    column("Reason", "string", "", 0),
    column("Age", "string", "", 0),
    column("VolumeMode", "string", "", 1),
];

/// Holds a volume while a claim is bound to it.
pub const PROTECTION: &str = "kubernetes.io/pv-protection";

/// Every source there is.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flocker",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

impl Kind for PersistentVolume {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        let spec = &mut object["spec"];
        set_default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default_text(spec, "volumeMode", "Filesystem");
        if spec["hostPath"].is_object() {
            set_default(&mut spec["hostPath"], "type", "");
        }
        if !spec["capacity"].is_null() {
            quantity::normalize_list(&mut spec["capacity"]);
        }
        object_mut(object, "status");
        set_default_text(&mut object["status"], "phase", "Pending");
    }

    fn prepare_create(&self, object: &mut Value) {
        let now = object["metadata"]["creationTimestamp"].clone();
        object["status"] = json!({"phase": "Pending", "lastPhaseTransitionTime": now});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        validate_spec(&mut errors, &Field::root(object).get("spec"));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = self.validate(new);
        let (spec, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
        let changed = SOURCES.iter().any(|source| !meta::same(spec.get(source).value, before.get(source).value));
        if changed {
            let at = spec.get("persistentvolumesource");
            errors.forbidden(&at, "spec.persistentvolumesource is immutable after creation");
        }
        meta::immutable(&mut errors, &spec.get("volumeMode"), &before.get("volumeMode"));
        // Where a volume is may be said later, and then stays.
        if before.get("nodeAffinity").exists() {
            meta::immutable(&mut errors, &spec.get("nodeAffinity"), &before.get("nodeAffinity"));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, volume: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let spec = &volume["spec"];
        let phase = if volume["metadata"]["deletionTimestamp"].is_null() {
            text(volume, "/status/phase")
        } else {
            "Terminating"
        };
        let claim = match &spec["claimRef"] {
            Value::Null => String::new(),
            claim => format!("{}/{}", claim["namespace"].as_str().unwrap_or(""), claim["name"].as_str().unwrap_or("")),
        };
        vec![
            volume["metadata"]["name"].clone(),
            text(volume, "/spec/capacity/storage").into(),
            access_modes(&spec["accessModes"]).into(),
            text(volume, "/spec/persistentVolumeReclaimPolicy").into(),
            phase.into(),
            claim.into(),
            class(volume).into(),
            spec["volumeAttributesClassName"].as_str().unwrap_or("<unset>").into(),
            text(volume, "/status/reason").into(),
            time::object_age(volume, now).into(),
            spec["volumeMode"].as_str().unwrap_or("<unset>").into(),
        ]
    }
}

fn validate_spec(errors: &mut Errors, spec: &Field<'_>) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        errors.required(&modes, "");
    }
    validate_access_modes(errors, &modes);
    let capacity = spec.get("capacity");
    if capacity.is_empty() {
        errors.required(&capacity, "");
    }
    if !capacity.get("storage").exists() || capacity.len() > 1 {
        errors.push(Reason::NotSupported, &capacity.path, Some(capacity.value.clone()), supported_values(&["storage"]));
    }
    for (_, amount) in capacity.entries() {
        if let Ok(parsed) = Quantity::from_json(amount.value)
            && parsed <= Quantity::ZERO
        {
            errors.invalid_value(&amount, parsed.to_string(), "must be greater than zero");
        }
    }
    let policy = spec.get("persistentVolumeReclaimPolicy");
    if policy.exists() && !matches!(policy.str(), "Delete" | "Recycle" | "Retain") {
        errors.not_supported(&policy, &["Delete", "Recycle", "Retain"]);
    }
    if let Some(affinity) = spec.value.get("nodeAffinity").filter(|affinity| !affinity.is_null()) {
        let required = Field::new(spec.get("nodeAffinity").get("required").path, &affinity["required"]);
        if required.exists() {
            affinity::node_selector(errors, &required);
        } else {
            errors.required(&required, "must specify required node constraints");
        }
    }
    validate_source(errors, spec);
    let class = spec.get("storageClassName");
    if !class.is_empty() {
        errors.invalid_each(&class, names::dns1123_subdomain(class.str()));
    }
    let mode = spec.get("volumeMode");
    if mode.exists() && !matches!(mode.str(), "Block" | "Filesystem") {
        errors.not_supported(&mode, &["Block", "Filesystem"]);
    }
}

fn validate_source(errors: &mut Errors, spec: &Field<'_>) {
    let mut found = SOURCES.iter().map(|source| spec.get(source)).filter(Field::exists);
    match found.next() {
        None => errors.required(spec, "must specify a volume type"),
        Some(_) => {
            for more in found {
                errors.forbidden(&more, "may not specify more than 1 volume type");
            }
        }
    }
    for source in ["hostPath", "local"] {
        let (source, path) = (spec.get(source), spec.get(source).get("path"));
        if source.exists() && path.is_empty() {
            errors.required(&path, "");
        } else if path.str().split('/').any(|part| part == "..") {
            errors.invalid(&path, "must not contain '..'");
        }
    }
    if spec.get("local").exists() && !spec.get("nodeAffinity").exists() {
        errors.required(&spec.get("nodeAffinity"), "Local volume requires node affinity");
    }
    let host_path = spec.get("hostPath").get("path");
    if host_path.str() == "/" && spec.get("persistentVolumeReclaimPolicy").str() == "Recycle" {
        errors
            .forbidden(&spec.get("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_volume_is_stays() {
        let mut old = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/d"}}});
        PersistentVolume.default(&mut old);
        assert!(PersistentVolume.validate(&old).is_empty());
        let change = |change: Value| {
            let mut new = old.clone();
            json_patch::merge(&mut new["spec"], &change);
            PersistentVolume.validate_update(&new, &old).0.len()
        };
        assert_eq!(change(json!({"persistentVolumeReclaimPolicy": "Delete", "claimRef": {"name": "c"}})), 0);
        assert_eq!(change(json!({"hostPath": {"path": "/e"}})), 1);
        assert_eq!(change(json!({"hostPath": null, "local": {"path": "/e"}})), 2);
    }
}

//! PersistentVolumeClaim of `v1`: a request for storage, and what it has been given.

use serde_json::{Value, json};

use super::common::{list, set_default_text, text};
use super::field::{Errors, Field, Reason, supported_values};
use super::meta::{self, object_mut};
use super::pod::dump;
use super::quantity::{self, Quantity};
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column, diff, names, selector, time};

pub struct PersistentVolumeClaim;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("PersistentVolumeClaim")],
    schema: "io.k8s.api.core.v1.PersistentVolumeClaim",
    storage: "persistentvolumeclaims",
    storage_version_hash: "QWTyNDq0dC4=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Status", "string", "", 0),
    column("Volume", "string", "", 0),
    column("Capacity", "string", "", 0),
    column("Access Modes", "string", "", 0),
    column("StorageClass", "string", "", 0),
    column("VolumeAttributesClass", "string", "", 0),
    column("Age", "string", "", 0),
    column("VolumeMode", "string", "", 1),
];

/// Holds a claim while a pod uses it.
pub const PROTECTION: &str = "kubernetes.io/pvc-protection";
/// The class of a claim or volume, from before there was a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const IMMUTABLE: &str =
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

impl Kind for PersistentVolumeClaim {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        default_claim(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"phase": "Pending"});
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
        let spec = Field::root(new).get("spec");
        let (before, bound) = (&old["spec"], text(old, "/status/phase") == "Bound");
        let mut after = spec.value.clone();
        // Binding writes the name once, and the class where the claim left it to the cluster.
        if text(old, "/spec/volumeName").is_empty() {
            meta::take_from(&mut after, before, "volumeName");
        }
        if before["storageClassName"].is_null() && !bound {
            meta::take_from(&mut after, before, "storageClassName");
        }
        if bound {
            meta::take_from(&mut after, before, "volumeAttributesClassName");
            let requests = before["resources"]["requests"].clone();
            object_mut(&mut after, "resources").insert("requests".to_owned(), requests);
        }
        if !meta::same(&after, before) {
            let difference = diff::unified(&dump::claim_lines(before), &dump::claim_lines(&after));
            errors.forbidden(&spec, format!("{IMMUTABLE}\n{difference}"));
        }
        let amount = |spec: &Value| Quantity::of(&spec["resources"]["requests"], "storage");
        if bound
            && amount(spec.value) < amount(before)
            && amount(spec.value) < Quantity::of(&old["status"]["capacity"], "storage")
        {
            let at = spec.get("resources").get("requests").get("storage");
            errors.forbidden(&at, "field can not be less than status.capacity");
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, claim: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let (spec, status) = (&claim["spec"], &claim["status"]);
        let phase =
            if claim["metadata"]["deletionTimestamp"].is_null() { text(claim, "/status/phase") } else { "Terminating" };
        let bound = !text(claim, "/spec/volumeName").is_empty();
        let capacity = status.pointer("/capacity/storage").filter(|_| bound).and_then(Value::as_str).unwrap_or("");
        vec![
            claim["metadata"]["name"].clone(),
            phase.into(),
            text(claim, "/spec/volumeName").into(),
            capacity.into(),
            if bound { access_modes(&status["accessModes"]) } else { String::new() }.into(),
            class(claim).into(),
            spec["volumeAttributesClassName"].as_str().unwrap_or("<unset>").into(),
            time::object_age(claim, now).into(),
            spec["volumeMode"].as_str().unwrap_or("<unset>").into(),
        ]
    }
}

/// What a claim gets that its author left out; also in a StatefulSet's templates.
pub fn default_claim(claim: &mut Value) {
    object_mut(claim, "spec");
    let spec = &mut claim["spec"];
    set_default_text(spec, "volumeMode", "Filesystem");
    object_mut(spec, "resources");
    for list in ["requests", "limits"] {
        if !spec["resources"][list].is_null() {
            quantity::normalize_list(&mut spec["resources"][list]);
        }
    }
    object_mut(claim, "status");
    set_default_text(&mut claim["status"], "phase", "Pending");
}

/// The class that a claim or a volume names, the old way or the new; "" for none.
pub fn class(object: &Value) -> &str {
    let old = object["metadata"]["annotations"][OLD_CLASS].as_str();
    old.unwrap_or_else(|| text(object, "/spec/storageClassName"))
}

/// `RWO,ROX`, in upstream's order.
pub fn access_modes(modes: &Value) -> String {
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |mode: &str| modes.as_array().is_some_and(|modes| modes.iter().any(|m| m == mode));
    short.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// The access modes of a claim or volume.
pub fn validate_access_modes(errors: &mut Errors, modes: &Field<'_>) {
    for mode in modes.items() {
        if !ACCESS_MODES.contains(&mode.str()) {
            // Upstream names the list.
            errors.push(Reason::NotSupported, &modes.path, Some(mode.value.clone()), supported_values(ACCESS_MODES));
        }
    }
    if modes.len() > 1 && list(modes.value, "").iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.forbidden(modes, "may not use ReadWriteOncePod with other access modes");
    }
}

fn validate_spec(errors: &mut Errors, spec: &Field<'_>) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        errors.required(&modes, "at least 1 access mode is required");
    }
    selector::validate(errors, &spec.get("selector"));
    validate_access_modes(errors, &modes);
    let storage = spec.get("resources").get("requests").get("storage");
    let at = Field::new(spec.get("resources").key("storage").path, storage.value);
    match Quantity::from_json(storage.value) {
        Err(_) if !storage.exists() => errors.required(&at, ""),
        Ok(amount) if amount <= Quantity::ZERO => {
            errors.invalid_value(&at, amount.to_string(), "must be greater than zero");
        }
        _ => {}
    }
    let class = spec.get("storageClassName");
    if !class.is_empty() {
        errors.invalid_each(&class, names::dns1123_subdomain(class.str()));
    }
    let mode = spec.get("volumeMode");
    if mode.exists() && !matches!(mode.str(), "Block" | "Filesystem") {
        errors.not_supported(&mode, &["Block", "Filesystem"]);
    }
    for source in ["dataSource", "dataSourceRef"] {
        let source = spec.get(source);
        for part in ["name", "kind"] {
            if source.exists() && source.get(part).is_empty() {
                errors.required(&source.get(part), "");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Value {
        let mut claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1024Mi"}}}});
        PersistentVolumeClaim.default(&mut claim);
        PersistentVolumeClaim.prepare_create(&mut claim);
        claim
    }

    #[test]
    fn a_claim_is_bound_once_and_grows() {
        let pending = claim();
        assert_eq!(pending["spec"]["resources"]["requests"]["storage"], "1Gi");
        let mut bound = pending.clone();
        bound["spec"]["volumeName"] = json!("v");
        bound["spec"]["storageClassName"] = json!("local");
        assert!(PersistentVolumeClaim.validate_update(&bound, &pending).is_empty());
        bound["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        let mut other = bound.clone();
        other["spec"]["volumeName"] = json!("w");
        assert_eq!(PersistentVolumeClaim.validate_update(&other, &bound).0.len(), 1);
        for (amount, errors) in [("2Gi", 0), ("512Mi", 1)] {
            let mut resized = bound.clone();
            resized["spec"]["resources"]["requests"]["storage"] = json!(amount);
            assert_eq!(PersistentVolumeClaim.validate_update(&resized, &bound).0.len(), errors, "{amount}");
        }
    }

    #[test]
    fn modes_are_short_in_tables() {
        assert_eq!(access_modes(&json!(["ReadWriteMany", "ReadWriteOnce"])), "RWO,RWX");
        let mut errors = Errors::default();
        let modes = json!(["ReadWriteOncePod", "ReadWriteOnce"]);
        validate_access_modes(&mut errors, &Field::new("m", &modes));
        assert_eq!(errors.0[0].to_string(), "m: Forbidden: may not use ReadWriteOncePod with other access modes");
    }
}

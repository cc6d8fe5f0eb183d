//! Volumes of a pod spec, and the paths that files get in them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::env;
use super::spec::Context;
use crate::kinds::field::{Errors, Field, Reason};
use crate::kinds::names;
use crate::kinds::quantity::Quantity;

const FILE_MODE_MESSAGE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const MAX_FILE_MODE: i64 = 0o777;
const ONE_TYPE: &str = "may not specify more than 1 volume type";

/// Every source there is, in upstream's order of looking, which decides which of two is the extra one.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// The volumes that containers may mount, by name: only those without errors.
pub type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

/// Checks the list; containers are then checked against what it returns.
pub fn validate<'a>(errors: &mut Errors, list: &Field<'a>, context: &Context<'_>) -> Volumes<'a> {
    let mut volumes = Volumes::new();
    let created_claims: BTreeSet<String> = match context.pod_name {
        "" => BTreeSet::new(),
        pod => list
            .items()
            .filter(|volume| volume.get("ephemeral").exists())
            .map(|volume| format!("{pod}-{}", volume.get("name").str()))
            .collect(),
    };
    for volume in list.items() {
        let name = volume.get("name");
        let mut found = Errors::default();
        validate_source(&mut found, &volume, context);
        if name.is_empty() {
            found.required(&name, "");
        } else {
            found.invalid_each(&name, names::dns1123_label(name.str()));
        }
        if volumes.contains_key(name.str()) {
            found.duplicate(&name);
        }
        if found.is_empty() {
            volumes.insert(name.str(), volume.value);
        }
        errors.extend(found);
        let claim = volume.get("persistentVolumeClaim").get("claimName");
        if created_claims.contains(claim.str()) && claim.exists() {
            errors.invalid(&claim, "must not reference a PVC that gets created for an ephemeral volume");
        }
    }
    volumes
}

fn validate_source(errors: &mut Errors, volume: &Field<'_>, context: &Context<'_>) {
    let mut any = false;
    for source in SOURCES {
        let at = volume.get(source);
        if !at.exists() {
            continue;
        }
        if any {
            errors.forbidden(&at, ONE_TYPE);
            continue;
        }
        any = true;
        match source {
            "emptyDir" => empty_dir(errors, &at),
            "hostPath" => host_path(errors, &at),
            "secret" => items_of(errors, &at, "secretName"),
            "configMap" => items_of(errors, &at, "name"),
            "downwardAPI" => downward(errors, &at),
            "projected" => projected(errors, &at),
            "ephemeral" => ephemeral(errors, volume, context),
            "csi" => csi(errors, &at),
            "image" => image(errors, &at, context),
            "nfs" => nfs(errors, &at),
            _ => required_strings(errors, &at, source),
        }
    }
    if !any {
        errors.required(volume, "must specify a volume type");
    }
}

/// Sources of storage systems that no node here offers: only what must not be empty is checked.
fn required_strings(errors: &mut Errors, at: &Field<'_>, source: &str) {
    let names: &[&str] = match source {
        "gitRepo" => &["repository"],
        "gcePersistentDisk" => &["pdName"],
        "awsElasticBlockStore" | "cinder" => &["volumeID"],
        "iscsi" => &["targetPortal", "iqn"],
        "glusterfs" => &["endpoints", "path"],
        "persistentVolumeClaim" => &["claimName"],
        "flexVolume" => &["driver"],
        "azureFile" => &["secretName", "shareName"],
        "vsphereVolume" => &["volumePath"],
        "photonPersistentDisk" => &["pdID"],
        "portworxVolume" => &["volumeID"],
        "azureDisk" => &["diskName", "diskURI"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        "quobyte" => &["registry", "volume"],
        "rbd" => &["image"],
        _ => &[],
    };
    for name in names {
        let field = at.get(name);
        if field.is_empty() {
            errors.required(&field, "");
        }
    }
}

fn empty_dir(errors: &mut Errors, at: &Field<'_>) {
    let limit = at.get("sizeLimit");
    if Quantity::from_json(limit.value).is_ok_and(Quantity::is_negative) {
        errors.forbidden(&limit, "SizeLimit field must be a valid resource quantity");
    }
}

fn host_path(errors: &mut Errors, at: &Field<'_>) {
    let path = at.get("path");
    if path.is_empty() {
        errors.required(&path, "");
        return;
    }
    no_backsteps(errors, &path, path.str());
    let kind = at.get("type");
    let supported =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if kind.exists() && !supported.contains(&kind.str()) {
        errors.not_supported(&kind, &supported);
    }
}

/// ConfigMap and Secret volumes: the name of the object, the mode, the items.
fn items_of(errors: &mut Errors, at: &Field<'_>, name: &str) {
    let name = at.get(name);
    if name.is_empty() {
        errors.required(&name, "");
    }
    mode(errors, &at.get("defaultMode"));
    for item in at.get("items").items() {
        key_to_path(errors, &item);
    }
}

fn key_to_path(errors: &mut Errors, item: &Field<'_>) {
    for name in ["key", "path"] {
        let field = item.get(name);
        if field.is_empty() {
            errors.required(&field, "");
        }
    }
    let path = item.get("path");
    local_non_reserved(errors, &path, path.str());
    mode(errors, &item.get("mode"));
}

fn mode(errors: &mut Errors, at: &Field<'_>) {
    if at.int().is_some_and(|mode| !(0..=MAX_FILE_MODE).contains(&mode)) {
        errors.invalid(at, FILE_MODE_MESSAGE);
    }
}

/// The files' errors carry the volume's path, not the item's: upstream passes it on.
fn downward(errors: &mut Errors, at: &Field<'_>) {
    mode(errors, &at.get("defaultMode"));
    for file in at.get("items").items() {
        downward_file(errors, &Field::new(&at.path, file.value));
    }
}

fn downward_file(errors: &mut Errors, file: &Field<'_>) {
    let path = file.get("path");
    if path.is_empty() {
        errors.required(&path, "");
    }
    local_non_reserved(errors, &path, path.str());
    let (field, resource) = (file.get("fieldRef"), file.get("resourceFieldRef"));
    if field.exists() {
        env::field_ref(errors, &field, env::Place::Volume);
        if resource.exists() {
            errors.invalid_value(file, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
        }
    } else if resource.exists() {
        env::resource_field_ref(errors, &resource, env::Place::Volume);
    } else {
        errors.required(file, "one of fieldRef and resourceFieldRef is required");
    }
    mode(errors, &file.get("mode"));
}

fn projected(errors: &mut Errors, at: &Field<'_>) {
    mode(errors, &at.get("defaultMode"));
    let mut paths = BTreeSet::new();
    for source in at.get("sources").items() {
        let mut kinds = 0;
        for name in ["secret", "configMap"] {
            let part = source.get(name);
            if part.exists() {
                kinds += 1;
                projected_items(errors, at, &part, &mut paths);
            }
        }
        let part = source.get("downwardAPI");
        if part.exists() {
            kinds += 1;
            for file in part.get("items").items() {
                downward_file(errors, &Field::new(&part.path, file.value));
                let path = file.get("path").str();
                if !path.is_empty() && !paths.insert(path) {
                    errors.invalid_value(at, path, "conflicting duplicate paths");
                }
            }
        }
        let part = source.get("serviceAccountToken");
        if part.exists() {
            kinds += 1;
            service_account_token(errors, at, &part);
        }
        kinds += usize::from(source.get("clusterTrustBundle").exists());
        kinds += usize::from(source.get("podCertificate").exists());
        if kinds > 1 {
            errors.forbidden(&source, "may not specify more than 1 volume type per source");
        }
    }
}

fn projected_items<'a>(errors: &mut Errors, at: &Field<'_>, part: &Field<'a>, paths: &mut BTreeSet<&'a str>) {
    let name = part.get("name");
    if name.is_empty() {
        errors.required(&name, "");
    }
    for item in part.get("items").items() {
        key_to_path(errors, &item);
        let path = item.get("path").str();
        if !path.is_empty() && !paths.insert(path) {
            errors.invalid_value(at, name.str(), "conflicting duplicate paths");
        }
    }
}

fn service_account_token(errors: &mut Errors, at: &Field<'_>, part: &Field<'_>) {
    let seconds = part.get("expirationSeconds");
    if seconds.int().unwrap_or(0) < 600 {
        errors.invalid_value(&seconds, seconds.int().unwrap_or(0), "may not specify a duration less than 10 minutes");
    }
    if seconds.int().is_some_and(|s| s > 1 << 32) {
        errors.invalid(&seconds, "may not specify a duration larger than 2^32 seconds");
    }
    let path = Field::new(format!("{}.path", at.path), part.get("path").value);
    if path.is_empty() {
        errors.required(&path, "");
    } else {
        local_non_reserved(errors, &path, path.str());
    }
}

fn ephemeral(errors: &mut Errors, volume: &Field<'_>, context: &Context<'_>) {
    let template = volume.get("ephemeral").get("volumeClaimTemplate");
    if !template.exists() {
        errors.required(&template, "");
    }
    let name = volume.get("name");
    if !context.pod_name.is_empty() && !name.is_empty() {
        let claim = format!("{}-{}", context.pod_name, name.str());
        for message in names::dns1123_subdomain(&claim) {
            errors.invalid(&name, format!("PVC name {claim:?}: {message}"));
        }
    }
}

fn csi(errors: &mut Errors, at: &Field<'_>) {
    let driver = at.get("driver");
    if driver.is_empty() {
        errors.required(&driver, "");
    } else {
        errors.invalid_each(&driver, names::dns1123_subdomain(&driver.str().to_ascii_lowercase()));
    }
}

fn image(errors: &mut Errors, at: &Field<'_>, context: &Context<'_>) {
    let reference = at.get("reference");
    if context.is_pod && reference.is_empty() {
        errors.required(&reference, "");
    }
    super::container::pull_policy(errors, &at.get("pullPolicy"));
}

fn nfs(errors: &mut Errors, at: &Field<'_>) {
    for name in ["server", "path"] {
        let field = at.get(name);
        if field.is_empty() {
            errors.required(&field, "");
        }
    }
    let path = at.get("path");
    if !path.str().starts_with('/') {
        errors.invalid_str(&path, "must be an absolute path");
    }
}

/// A relative path that stays below its start.
pub fn local_descending(errors: &mut Errors, at: &Field<'_>, path: &str) {
    if path.starts_with('/') {
        errors.push(Reason::Invalid, &at.path, Some(path.into()), "must be a relative path");
    }
    no_backsteps(errors, at, path);
}

/// [`local_descending`] that also leaves `..` to the node, which keeps its own files under such names.
fn local_non_reserved(errors: &mut Errors, at: &Field<'_>, path: &str) {
    local_descending(errors, at, path);
    if path.starts_with("..") && !path.starts_with("../") {
        errors.push(Reason::Invalid, &at.path, Some(path.into()), "must not start with '..'");
    }
}

pub fn has_backsteps(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

fn no_backsteps(errors: &mut Errors, at: &Field<'_>, path: &str) {
    if has_backsteps(path) {
        errors.push(Reason::Invalid, &at.path, Some(path.into()), "must not contain '..'");
    }
}

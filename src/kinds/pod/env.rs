//! Environment variables, and references to fields of the pod, which volumes have too.

use crate::kinds::field::{Errors, Field};
use crate::kinds::names;
use crate::kinds::quantity::Quantity;

/// Where a reference stands; it decides which fields it may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Env,
    Volume,
}

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// What a field path may be at all, wherever it stands.
const KNOWN_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub fn env(errors: &mut Errors, list: &Field<'_>) {
    for variable in list.items() {
        let name = variable.get("name");
        if name.is_empty() {
            errors.required(&name, "");
        } else {
            errors.invalid_each(&name, names::env_var_name(name.str()));
        }
        value_from(errors, &variable);
    }
}

fn value_from(errors: &mut Errors, variable: &Field<'_>) {
    let from = variable.get("valueFrom");
    if !from.exists() {
        return;
    }
    let mut sources = 0;
    for name in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let source = from.get(name);
        if !source.exists() {
            continue;
        }
        sources += 1;
        match name {
            "fieldRef" => field_ref(errors, &source, Place::Env),
            "resourceFieldRef" => resource_field_ref(errors, &source, Place::Env),
            "fileKeyRef" => file_key_ref(errors, &source),
            _ => key_ref(errors, &source),
        }
    }
    let message = match sources {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        _ if !variable.get("value").is_empty() => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.invalid_value(&from, "", message);
}

fn key_ref(errors: &mut Errors, source: &Field<'_>) {
    let name = source.get("name");
    for message in names::dns1123_subdomain(name.str()) {
        errors.invalid_str(&name, message);
    }
    let key = source.get("key");
    if key.is_empty() {
        errors.required(&key, "");
    } else {
        errors.invalid_each(&key, names::config_map_key(key.str()));
    }
}

fn file_key_ref(errors: &mut Errors, source: &Field<'_>) {
    for name in ["volumeName", "path", "key"] {
        let field = source.get(name);
        if field.is_empty() {
            errors.required(&field, "");
        }
    }
}

/// A reference to a field of the pod.
pub fn field_ref(errors: &mut Errors, source: &Field<'_>, place: Place) {
    for name in ["apiVersion", "fieldPath"] {
        let field = source.get(name);
        if field.is_empty() {
            errors.required(&field, "");
            return;
        }
    }
    let at = source.get("fieldPath");
    let path = at.str();
    if source.get("apiVersion").str() != "v1" {
        let version = source.get("apiVersion").str().to_owned();
        errors.invalid(&at, format!("error converting fieldPath: unsupported pod version: {version}"));
        return;
    }
    if let Some((field, key)) = subscripted(path) {
        match field {
            "metadata.annotations" => {
                let key = key.to_ascii_lowercase();
                for message in names::qualified_name(&key) {
                    errors.invalid_value(source, key.as_str(), message);
                }
            }
            "metadata.labels" => {
                for message in names::qualified_name(key) {
                    errors.invalid_value(source, key, message);
                }
            }
            _ => errors
                .invalid(&at, format!("error converting fieldPath: field label does not support subscript: {path}")),
        }
        return;
    }
    // The old name of hostIP's neighbour is still understood.
    if !KNOWN_FIELDS.contains(&path) && path != "spec.host" {
        errors.invalid(&at, format!("error converting fieldPath: field label not supported: {path}"));
        return;
    }
    let supported: &[&str] = if place == Place::Env { &ENV_FIELDS } else { &VOLUME_FIELDS };
    let internal = if path == "spec.host" { "spec.nodeName" } else { path };
    if !supported.contains(&internal) {
        errors.not_supported(&at, supported);
    }
}

/// `a.b['key']` as `a.b` and `key`.
fn subscripted(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['").filter(|(field, _)| !field.is_empty())
}

/// A reference to a container's limit or request.
pub fn resource_field_ref(errors: &mut Errors, source: &Field<'_>, place: Place) {
    let resource = source.get("resource");
    let container = source.get("containerName");
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.str().starts_with(prefix));
    if place == Place::Volume && container.is_empty() {
        errors.required(&container, "");
    } else if resource.is_empty() {
        errors.required(&resource, "");
    } else if !RESOURCES.contains(&resource.str()) && !huge {
        errors.not_supported(&resource, &RESOURCES);
    }
    let divisor = source.get("divisor");
    let Ok(amount) = Quantity::from_json(divisor.value) else { return };
    if amount.is_zero() {
        return;
    }
    const SIZES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let text = amount.to_string();
    let is_size = SIZES.split(", ").any(|size| size == text);
    let message = match resource.str().split_once('.').map_or("", |(_, name)| name) {
        "cpu" if !matches!(text.as_str(), "1" | "1m") => {
            "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()
        }
        "memory" if !is_size => format!("only divisor's values {SIZES} are supported with the memory resource"),
        "ephemeral-storage" if !is_size => {
            format!("only divisor's values {SIZES} are supported with the local ephemeral storage resource")
        }
        _ if huge && !is_size => format!("only divisor's values {SIZES} are supported with the hugepages resource"),
        _ => return,
    };
    errors.invalid_value(&divisor, resource.str(), message);
}

pub fn env_from(errors: &mut Errors, list: &Field<'_>) {
    for from in list.items() {
        let prefix = from.get("prefix");
        if !prefix.is_empty() {
            errors.invalid_each(&prefix, names::env_var_name(prefix.str()));
        }
        let mut sources = 0;
        for name in ["configMapRef", "secretRef"] {
            let source = from.get(name);
            if !source.exists() {
                continue;
            }
            sources += 1;
            let name = source.get("name");
            if name.is_empty() {
                errors.required(&name, "");
            } else {
                errors.invalid_each(&name, names::object_name(crate::kinds::NameRule::DnsSubdomain, name.str(), true));
            }
        }
        // The list's path, not the item's: so upstream has it.
        match sources {
            0 => errors.invalid_value(list, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid_value(list, "", "may not have more than one field specified at a time"),
        }
    }
}

//! Containers of the three kinds: regular, init, ephemeral.

use std::collections::BTreeSet;

use super::spec::Context;
use super::volume::{self, Volumes};
use super::{env, handler, resources, security};
use crate::kinds::field::{Errors, Field, Reason};
use crate::kinds::names;

const INIT_ONLY_ALWAYS: &str = "may not be set for init containers without restartPolicy=Always";
const NOT_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";

/// What containers are checked against.
pub struct Around<'a> {
    pub volumes: Volumes<'a>,
    pub claims: Vec<&'a str>,
    pub grace_seconds: Option<i64>,
    pub restart_policy: &'a str,
    pub host_users: bool,
}

pub fn regular(errors: &mut Errors, list: &Field<'_>, around: &Around<'_>) {
    if list.is_empty() {
        errors.required(list, "");
        return;
    }
    let mut seen = BTreeSet::new();
    for container in list.items() {
        common(errors, &container, around);
        let name = container.get("name");
        if !seen.insert(name.str()) {
            duplicate_name(errors, &name);
        }
        let hooks = container.get("lifecycle");
        if hooks.exists() {
            handler::lifecycle(errors, &hooks, around.grace_seconds);
        }
        handler::probes(errors, &container);
        restart_policy_rules(errors, &container);
    }
    host_port_conflicts(errors, list.items());
}

/// A container's own restart policy; its rules need one.
fn restart_policy_rules(errors: &mut Errors, container: &Field<'_>) {
    let policy = container.get("restartPolicy");
    let rules = container.get("restartPolicyRules");
    if policy.exists() {
        if !matches!(policy.str(), "Always" | "OnFailure" | "Never") {
            errors.not_supported(&policy, &["Always", "OnFailure", "Never"]);
        }
    } else if !rules.is_empty() {
        errors.required(&policy, "must specify restartPolicy when restart rules are used");
    }
}

pub fn init(errors: &mut Errors, list: &Field<'_>, regular: &Field<'_>, around: &Around<'_>) {
    let mut seen: BTreeSet<&str> = regular.items().map(|container| container.get("name").str()).collect();
    for container in list.items() {
        common(errors, &container, around);
        let policy = container.get("restartPolicy");
        if policy.exists() && !matches!(policy.str(), "Always" | "OnFailure" | "Never") {
            errors.not_supported(&policy, &["Always", "OnFailure", "Never"]);
        }
        let name = container.get("name");
        if seen.contains(name.str()) {
            duplicate_name(errors, &name);
        } else if !name.is_empty() {
            seen.insert(name.str());
        }
        host_port_conflicts(errors, std::iter::once(container.clone()));
        let hooks = container.get("lifecycle");
        if policy.str() == "Always" {
            if hooks.exists() {
                handler::lifecycle(errors, &hooks, around.grace_seconds);
            }
            handler::probes(errors, &container);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            let at = container.get(field);
            if at.exists() {
                errors.forbidden(&at, INIT_ONLY_ALWAYS);
            }
        }
    }
}

/// Containers added to a running pod to look into it: they may not become part of the workload.
pub fn ephemeral(errors: &mut Errors, spec: &Field<'_>, around: &Around<'_>) {
    let others: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| spec.get(list).items())
        .map(|container| container.get("name").str())
        .collect();
    let mut seen = others.clone();
    for container in spec.get("ephemeralContainers").items() {
        common(errors, &container, around);
        image_padding(errors, &container);
        let name = container.get("name");
        if !seen.insert(name.str()) {
            duplicate_name(errors, &name);
        }
        let target = container.get("targetContainerName");
        if !target.is_empty() && !others.contains(target.str()) {
            errors.not_found(&target);
        }
        for field in ["ports", "resources", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            let at = container.get(field);
            if at.exists() && !crate::kinds::meta::is_empty(at.value) {
                errors.forbidden(&at, NOT_EPHEMERAL);
            }
        }
        for mount in container.get("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"] {
                let at = mount.get(field);
                if !at.is_empty() {
                    errors.forbidden(&at, NOT_EPHEMERAL);
                }
            }
        }
    }
}

/// Pods only: upstream lets a template have an image of a single space for something else to fill.
pub fn image_padding(errors: &mut Errors, container: &Field<'_>) {
    let image = container.get("image");
    if image.str().trim().len() != image.len() {
        errors.invalid(&image, "must not have leading or trailing whitespace");
    }
}

fn duplicate_name(errors: &mut Errors, name: &Field<'_>) {
    errors.push(Reason::Duplicate, &name.path, Some(name.str_value()), "");
}

fn common(errors: &mut Errors, container: &Field<'_>, around: &Around<'_>) {
    let name = container.get("name");
    if name.is_empty() {
        errors.required(&name, "");
    } else {
        errors.invalid_each(&name, names::dns1123_label(name.str()));
    }
    let image = container.get("image");
    if image.is_empty() {
        errors.required(&image, "");
    }
    let policy = container.get("terminationMessagePolicy");
    match policy.str() {
        "File" | "FallbackToLogsOnError" => {}
        "" => errors.required(&policy, ""),
        _ => errors.not_supported(&policy, &["File", "FallbackToLogsOnError"]),
    }
    ports(errors, &container.get("ports"));
    env::env(errors, &container.get("env"));
    env::env_from(errors, &container.get("envFrom"));
    mounts(errors, container, &around.volumes);
    devices(errors, container, &around.volumes);
    pull_policy(errors, &container.get("imagePullPolicy"));
    resources::container(errors, &container.get("resources"), &around.claims);
    resize_policy(errors, &container.get("resizePolicy"), around.restart_policy);
    security::container(errors, &container.get("securityContext"), around.host_users);
}

pub fn pull_policy(errors: &mut Errors, at: &Field<'_>) {
    match at.str() {
        "Always" | "IfNotPresent" | "Never" => {}
        "" => errors.required(at, ""),
        _ => errors.not_supported(at, &["Always", "IfNotPresent", "Never"]),
    }
}

fn ports(errors: &mut Errors, list: &Field<'_>) {
    let mut seen = BTreeSet::new();
    for port in list.items() {
        let name = port.get("name");
        if !name.is_empty() {
            let messages = names::port_name(name.str());
            if !messages.is_empty() {
                errors.invalid_each(&name, messages);
            } else if !seen.insert(name.str()) {
                errors.duplicate(&name);
            }
        }
        let number = port.get("containerPort");
        match number.int().unwrap_or(0) {
            0 => errors.required(&number, ""),
            value => errors.invalid_each(&number, names::port_number(value)),
        }
        let host = port.get("hostPort");
        if let Some(value) = host.int().filter(|value| *value != 0) {
            errors.invalid_each(&host, names::port_number(value));
        }
        let protocol = port.get("protocol");
        match protocol.str() {
            "TCP" | "UDP" | "SCTP" => {}
            "" => errors.required(&protocol, ""),
            _ => errors.not_supported(&protocol, &["SCTP", "TCP", "UDP"]),
        }
    }
}

/// Two containers of a pod cannot have the same port of the node.
fn host_port_conflicts<'a>(errors: &mut Errors, containers: impl Iterator<Item = Field<'a>>) {
    let mut seen = BTreeSet::new();
    for port in containers.flat_map(|container| container.get("ports").items()) {
        let at = port.get("hostPort");
        let Some(number) = at.int().filter(|number| *number != 0) else { continue };
        let key = format!("{}/{}/{number}", port.get("protocol").str(), port.get("hostIP").str());
        if !seen.insert(key.clone()) {
            errors.push(Reason::Duplicate, &at.path, Some(key.into()), "");
        }
    }
}

fn mounts(errors: &mut Errors, container: &Field<'_>, volumes: &Volumes<'_>) {
    let list = container.get("volumeMounts");
    let mut paths = BTreeSet::new();
    for mount in list.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        if name.is_empty() {
            errors.required(&name, "");
        }
        if !volumes.contains_key(name.str()) {
            errors.push(Reason::NotFound, &name.path, Some(name.str_value()), "");
        }
        if path.is_empty() {
            errors.required(&path, "");
        }
        if !paths.insert(path.str()) {
            errors.invalid_str(&path, "must be unique");
        }
        for device in container.get("volumeDevices").items() {
            if device.get("name").str() == name.str() {
                errors.invalid_str(&name, "must not already exist in volumeDevices");
            }
            if device.get("devicePath").str() == path.str() {
                errors.invalid_str(&path, "must not already exist as a path in volumeDevices");
            }
        }
        sub_paths(errors, &list, &mount, volumes);
        mount_propagation(errors, &list, &mount, container);
        recursive_read_only(errors, &list, &mount);
    }
}

/// Some of these errors carry the list's path: upstream passes it on.
fn sub_paths(errors: &mut Errors, list: &Field<'_>, mount: &Field<'_>, volumes: &Volumes<'_>) {
    let (plain, expanded) = (mount.get("subPath"), mount.get("subPathExpr"));
    let is_image = volumes.get(mount.get("name").str()).is_some_and(|volume| volume["image"].is_object());
    if is_image && !expanded.is_empty() {
        errors.invalid(&expanded, "not allowed in image volume sources");
    }
    if !plain.is_empty() {
        volume::local_descending(errors, &list.get("subPath"), plain.str());
    }
    if !expanded.is_empty() {
        if !plain.is_empty() {
            errors.invalid(&expanded, "subPathExpr and subPath are mutually exclusive");
        }
        volume::local_descending(errors, &list.get("subPathExpr"), expanded.str());
    }
}

fn mount_propagation(errors: &mut Errors, list: &Field<'_>, mount: &Field<'_>, container: &Field<'_>) {
    let value = mount.get("mountPropagation");
    if !value.exists() {
        return;
    }
    let at = Field::new(format!("{}.mountPropagation", list.path), value.value);
    if !matches!(at.str(), "Bidirectional" | "HostToContainer" | "None") {
        errors.not_supported(&at, &["Bidirectional", "HostToContainer", "None"]);
    }
    if at.str() == "Bidirectional" && !container.get("securityContext").get("privileged").bool() {
        errors.forbidden(&at, "Bidirectional mount propagation is available only to privileged containers");
    }
}

fn recursive_read_only(errors: &mut Errors, list: &Field<'_>, mount: &Field<'_>) {
    let value = mount.get("recursiveReadOnly");
    if !value.exists() {
        return;
    }
    let at = Field::new(format!("{}.recursiveReadOnly", list.path), value.value);
    match at.str() {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.get("readOnly").bool() {
                errors.forbidden(&at, "may only be specified when readOnly is true");
            }
            let propagation = mount.get("mountPropagation");
            if propagation.exists() && propagation.str() != "None" {
                errors.forbidden(&at, "may only be specified when mountPropagation is None or not specified");
            }
        }
        _ => errors.not_supported(&at, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn devices(errors: &mut Errors, container: &Field<'_>, volumes: &Volumes<'_>) {
    let (mut paths, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for device in container.get("volumeDevices").items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        if name.is_empty() {
            errors.required(&name, "");
        }
        if seen.contains(name.str()) {
            errors.invalid_str(&name, "must be unique");
        }
        match volumes.get(name.str()) {
            None => errors.push(Reason::NotFound, &name.path, Some(name.str_value()), ""),
            Some(volume) if volume["persistentVolumeClaim"].is_null() && volume["ephemeral"].is_null() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid_str(&name, detail);
            }
            Some(_) => {}
        }
        if path.is_empty() {
            errors.required(&path, "");
        }
        if paths.contains(path.str()) {
            errors.invalid_str(&path, "must be unique");
        }
        if volume::has_backsteps(path.str()) {
            errors.invalid(&path, "can not contain backsteps ('..')");
        } else {
            paths.insert(path.str());
        }
        for mount in container.get("volumeMounts").items() {
            if mount.get("name").str() == name.str() {
                errors.invalid_str(&name, "must not already exist in volumeMounts");
            }
            if mount.get("mountPath").str() == path.str() {
                errors.invalid_str(&path, "must not already exist as a path in volumeMounts");
            }
        }
        if !name.is_empty() {
            seen.insert(name.str());
        }
    }
}

/// These errors carry the list's path, but for duplicates.
fn resize_policy(errors: &mut Errors, list: &Field<'_>, restart_policy: &str) {
    let mut seen = BTreeSet::new();
    for policy in list.items() {
        let named = |name: &str| Field::new(&list.path, policy.get(name).value);
        let (resource, restart) = (named("resourceName"), named("restartPolicy"));
        if !seen.insert(resource.str()) {
            errors.push(Reason::Duplicate, &policy.path, Some(resource.str_value()), "");
        }
        match resource.str() {
            "cpu" | "memory" => {}
            "" => errors.required(list, ""),
            _ => errors.not_supported(&resource, &["cpu", "memory"]),
        }
        match restart.str() {
            "NotRequired" | "RestartContainer" => {}
            "" => errors.required(list, ""),
            _ => errors.not_supported(&restart, &["NotRequired", "RestartContainer"]),
        }
        if restart_policy == "Never" && restart.str() != "NotRequired" {
            errors.invalid_str(&restart, "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}

/// Pods only, for each regular and init container.
pub fn only_for_pod(errors: &mut Errors, spec: &Field<'_>, context: &Context<'_>) {
    if !context.is_pod {
        return;
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get(list).items() {
            image_padding(errors, &container);
        }
    }
}

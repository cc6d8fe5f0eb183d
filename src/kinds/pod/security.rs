//! Security contexts. A Wasm guest has no user ids or capabilities, yet manifests have them, and the
//! server refuses what upstream refuses.

use serde_json::Value;

use super::volume::local_descending;
use crate::kinds::field::{Errors, Field, Reason};
use crate::kinds::names;

const MAX_ID: i64 = i32::MAX as i64;
const SYSCTL_MAX: usize = 253;
const APP_ARMOR_PROFILE_MAX: usize = 4095;

fn id(errors: &mut Errors, at: &Field<'_>) {
    if at.int().is_some_and(|id| !(0..=MAX_ID).contains(&id)) {
        errors.invalid(at, names::range(0, MAX_ID));
    }
}

/// The pod's security context; `spec` has the fields that upstream keeps beside it.
pub fn pod(errors: &mut Errors, spec: &Field<'_>) {
    let at = spec.get("securityContext");
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(errors, &at.get(name));
    }
    for group in at.get("supplementalGroups").items() {
        id(errors, &group);
    }
    if spec.get("shareProcessNamespace").bool() && spec.get("hostPID").bool() {
        let path = format!("{}.shareProcessNamespace", at.path);
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(Reason::Invalid, path, Some(true.into()), detail);
    }
    sysctls(errors, spec, &at.get("sysctls"));
    one_of(errors, &at.get("fsGroupChangePolicy"), &["Always", "OnRootMismatch"]);
    seccomp(errors, &at.get("seccompProfile"));
    app_armor(errors, &at.get("appArmorProfile"));
    one_of(errors, &at.get("supplementalGroupsPolicy"), &["Merge", "Strict"]);
    one_of(errors, &at.get("seLinuxChangePolicy"), &["MountOption", "Recursive"]);
}

fn one_of(errors: &mut Errors, at: &Field<'_>, supported: &[&str]) {
    if at.exists() && !supported.contains(&at.str()) {
        errors.not_supported(at, supported);
    }
}

fn sysctls(errors: &mut Errors, spec: &Field<'_>, list: &Field<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for sysctl in list.items() {
        let name = sysctl.get("name");
        if name.is_empty() {
            errors.required(&name, "");
        } else if !is_sysctl_name(name.str()) {
            errors.invalid(
                &name,
                format!(
                    "must have at most {SYSCTL_MAX} characters and match regex \
                     ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
                ),
            );
        } else if seen.contains(&name.str()) {
            errors.duplicate(&name);
        }
        let dotted = name.str().replace('/', ".");
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p));
        if dotted.starts_with("net.") && spec.get("hostNetwork").bool() {
            errors.invalid(&name, "may not be specified when 'hostNetwork' is true");
        } else if (ipc || dotted == "kernel.sem") && spec.get("hostIPC").bool() {
            errors.invalid(&name, "may not be specified when 'hostIPC' is true");
        }
        seen.push(name.str());
    }
}

fn is_sysctl_name(name: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |segment: &str| {
        let bytes = segment.as_bytes();
        bytes.first().copied().is_some_and(edge)
            && bytes.last().copied().is_some_and(edge)
            && bytes.iter().all(|b| edge(*b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(segment)
}

fn seccomp(errors: &mut Errors, at: &Field<'_>) {
    if !at.exists() {
        return;
    }
    let (kind, profile) = (at.get("type"), at.get("localhostProfile"));
    match kind.str() {
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        "" => errors.required(&kind, "type is required when seccompProfile is set"),
        _ => errors.not_supported(&kind, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
    if kind.str() != "Localhost" {
        if profile.exists() {
            let shown = format!("{{\"Type\":{},\"LocalhostProfile\":{}}}", kind.str_value(), profile.value);
            let detail = "can only be set when seccomp type is Localhost";
            errors.push_text(Reason::Invalid, &profile.path, shown, detail);
        }
    } else if profile.exists() {
        local_descending(errors, &profile, profile.str());
    } else {
        errors.required(&profile, "must be set when seccomp type is Localhost");
    }
}

fn app_armor(errors: &mut Errors, at: &Field<'_>) {
    if !at.exists() {
        return;
    }
    const REQUIRED: &str = "must be set when AppArmor type is Localhost";
    let (kind, profile) = (at.get("type"), at.get("localhostProfile"));
    match kind.str() {
        "Localhost" if !profile.exists() => errors.required(&profile, REQUIRED),
        "Localhost" => {
            if profile.str().trim() != profile.str() {
                errors.invalid(&profile, "must not be padded with whitespace");
            } else if profile.is_empty() {
                errors.required(&profile, REQUIRED);
            }
            if profile.len() > APP_ARMOR_PROFILE_MAX {
                errors.too_long(&profile, APP_ARMOR_PROFILE_MAX);
            }
        }
        "RuntimeDefault" | "Unconfined" if profile.exists() => {
            errors.invalid(&profile, "can only be set when AppArmor type is Localhost");
        }
        "RuntimeDefault" | "Unconfined" => {}
        "" => errors.required(&kind, "type is required when appArmorProfile is set"),
        _ => errors.not_supported(&kind, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

/// A container's security context.
pub fn container(errors: &mut Errors, at: &Field<'_>, host_users: bool) {
    if !at.exists() {
        return;
    }
    for name in ["runAsUser", "runAsGroup"] {
        id(errors, &at.get(name));
    }
    let proc_mount = at.get("procMount");
    if proc_mount.exists() {
        one_of(errors, &proc_mount, &["Default", "Unmasked"]);
        if host_users && proc_mount.str() == "Unmasked" {
            errors.invalid(&proc_mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(errors, &at.get("seccompProfile"));
    let escalation = at.get("allowPrivilegeEscalation");
    if escalation.value == &Value::Bool(false) {
        if at.get("privileged").bool() {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push_text(Reason::Invalid, &at.path, at.value.to_string(), detail);
        }
        let adds_admin =
            at.get("capabilities").get("add").items().any(|capability| capability.str() == "CAP_SYS_ADMIN");
        if adds_admin {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push_text(Reason::Invalid, &at.path, at.value.to_string(), detail);
        }
    }
    app_armor(errors, &at.get("appArmorProfile"));
}

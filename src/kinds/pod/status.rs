//! What a node may write into a pod's status.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::kinds::field::{Errors, Field, Reason};
use crate::kinds::{meta, names};

pub fn validate(errors: &mut Errors, new: &Value, old: &Value) {
    let (status, before) = (Field::root(new).get("status"), Field::root(old).get("status"));
    let nominated = status.get("nominatedNodeName");
    if nominated.str() != before.get("nominatedNodeName").str() && !nominated.is_empty() {
        errors.invalid_each(&nominated, names::dns1123_subdomain(nominated.str()));
    }
    let qos = status.get("qosClass");
    if qos.str() != before.get("qosClass").str() {
        errors.invalid_str(&qos, "field is immutable");
    }
    let spec = &old["spec"];
    for list in ["containerStatuses", "initContainerStatuses"] {
        transitions(errors, &status.get(list), &before.get(list), spec);
    }
    addresses(errors, &status.get("podIPs"));
    host_addresses(errors, &status);
}

/// What has ended for good does not come back to life.
fn transitions(errors: &mut Errors, new: &Field<'_>, old: &Field<'_>, spec: &Value) {
    let policy = spec["restartPolicy"].as_str().unwrap_or("");
    if policy == "Always" {
        return;
    }
    for (i, before) in old.items().enumerate() {
        let ended = before.get("state").get("terminated");
        let failed = ended.get("exitCode").int().unwrap_or(0) != 0;
        if !ended.exists() || (failed && policy == "OnFailure") || restarts_itself(spec, before.get("name").value) {
            continue;
        }
        for status in new.items() {
            let same = status.get("name").str() == before.get("name").str();
            if same && !status.get("state").get("terminated").exists() {
                errors.forbidden(&new.index(i).get("state"), "may not be transitioned to non-terminated state");
            }
        }
    }
}

/// A sidecar, or a container with a restart policy of its own.
fn restarts_itself(spec: &Value, name: &Value) -> bool {
    ["initContainers", "containers"]
        .iter()
        .flat_map(|list| spec[*list].as_array().into_iter().flatten())
        .any(|container| container["name"] == *name && !container["restartPolicy"].is_null())
}

fn addresses(errors: &mut Errors, list: &Field<'_>) {
    for address in list.items() {
        let ip = address.get("ip");
        for message in names::ip_legacy(ip.str()) {
            errors.push(Reason::Invalid, &address.path, Some(ip.str_value()), message);
        }
    }
    one_a_family(errors, list);
}

fn one_a_family(errors: &mut Errors, list: &Field<'_>) {
    if list.len() < 2 {
        return;
    }
    let mut seen = BTreeSet::new();
    let mut families = BTreeSet::new();
    for address in list.items() {
        let ip = address.get("ip");
        families.insert(names::parse_ip(ip.str()).map(|ip| ip.is_ipv4()));
        if !seen.insert(ip.str()) {
            errors.push_text(Reason::Duplicate, &address.path, format!("{{\"IP\":{}}}", ip.str_value()), "");
        }
    }
    if families.len() < 2 || list.len() > 2 {
        let shown: Vec<_> = list.items().map(|a| format!("{{\"IP\":{}}}", a.get("ip").str_value())).collect();
        let detail = "may specify no more than one IP for each IP family";
        errors.push_text(Reason::Invalid, &list.path, format!("[{}]", shown.join(",")), detail);
    }
}

fn host_addresses(errors: &mut Errors, status: &Field<'_>) {
    let list = status.get("hostIPs");
    if meta::is_empty(list.value) {
        return;
    }
    let first = list.index(0).get("ip");
    if first.str() != status.get("hostIP").str() {
        errors.invalid_str(&first, "must be equal to `hostIP`");
    }
    addresses(errors, &list);
}

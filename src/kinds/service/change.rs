//! What an update of a Service may leave out, and what a change of its type takes away.
//!
//! Clients replace Services from manifests that never mention the allocated fields. What they leave
//! out stays as it is, as long as the type can have it; what they change, changes.

use serde_json::{Value, json};

use super::super::common::{list, put, same, text};
use super::{has_cluster_ip, may_have_node_ports, reachable_from_outside, wants_health_port, wants_node_ports};

/// Fills in from `old` the allocated values that `new` does not mention.
pub(super) fn keep_allocated(new: &mut Value, old: &Value) {
    if has_cluster_ip(old) && has_cluster_ip(new) {
        if text(new, "/clusterIP").is_empty() {
            put(new, "clusterIP", old.get("clusterIP").cloned());
        }
        if list(new, "/clusterIPs").is_empty() && same(new, old, "clusterIP") {
            put(new, "clusterIPs", old.get("clusterIPs").cloned());
        }
        for name in ["ipFamilies", "ipFamilyPolicy"] {
            if new.get(name).is_none_or(Value::is_null) {
                put(new, name, old.get(name).cloned());
            }
        }
    }
    if may_have_node_ports(old) && wants_node_ports(new) {
        keep_node_ports(new, old);
    }
    if wants_health_port(old) && wants_health_port(new) && new["healthCheckNodePort"].as_i64().unwrap_or(0) == 0 {
        put(new, "healthCheckNodePort", old.get("healthCheckNodePort").cloned());
    }
}

/// A port without a node port gets back the one that the port of its name had, if nobody took it.
fn keep_node_ports(new: &mut Value, old: &Value) {
    let mut taken: Vec<i64> = list(new, "/ports").iter().filter_map(node_port).collect();
    for port in new.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if node_port(port).is_some() {
            continue;
        }
        let before = list(old, "/ports").iter().find(|before| text(before, "/name") == text(port, "/name"));
        if let Some(number) = before.and_then(node_port).filter(|number| !taken.contains(number)) {
            put(port, "nodePort", Some(number.into()));
            taken.push(number);
        }
    }
}

/// The node port of a port, if it has one.
pub(super) fn node_port(port: &Value) -> Option<i64> {
    port["nodePort"].as_i64().filter(|number| *number != 0)
}

/// `clusterIP` is the first of `clusterIPs`: who writes only one of them means both.
pub(super) fn pair_cluster_ips(new: &mut Value, old: Option<&Value>) {
    let ip = text(new, "/clusterIP").to_owned();
    let Some(old) = old else {
        if !ip.is_empty() && list(new, "/clusterIPs").is_empty() {
            put(new, "clusterIPs", Some(json!([ip])));
        }
        return;
    };
    let only_ip_changed = !same(new, old, "clusterIP") && same(new, old, "clusterIPs");
    if only_ip_changed {
        put(new, "clusterIPs", (!ip.is_empty()).then(|| json!([ip])));
    }
}

/// Takes away fields that `new`'s type cannot have, where they are leftovers of `old`'s type.
pub(super) fn drop_what_the_type_cannot_have(new: &mut Value, old: &Value) {
    if has_cluster_ip(old) && !has_cluster_ip(new) {
        drop_unchanged(new, old, &["clusterIP", "clusterIPs"]);
        drop_unchanged(new, old, &["ipFamilies"]);
        drop_unchanged(new, old, &["ipFamilyPolicy"]);
        drop_unchanged(new, old, &["internalTrafficPolicy"]);
    }
    if may_have_node_ports(old) && !may_have_node_ports(new) && same_node_ports(new, old) {
        for port in new.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            put(port, "nodePort", None);
        }
    }
    if wants_health_port(old) && !wants_health_port(new) {
        drop_unchanged(new, old, &["healthCheckNodePort"]);
    }
    if text(old, "/type") == "LoadBalancer" && text(new, "/type") != "LoadBalancer" {
        drop_unchanged(new, old, &["allocateLoadBalancerNodePorts"]);
        drop_unchanged(new, old, &["loadBalancerClass"]);
    }
    if reachable_from_outside(old) && !reachable_from_outside(new) {
        drop_unchanged(new, old, &["externalTrafficPolicy"]);
    }
}

/// Removes the fields unless the update changed one of them: a change is the client's own error.
fn drop_unchanged(new: &mut Value, old: &Value, names: &[&str]) {
    if names.iter().all(|name| same(new, old, name)) {
        for name in names {
            put(new, name, None);
        }
    }
}

fn same_node_ports(new: &Value, old: &Value) -> bool {
    let ports = |spec: &Value| {
        let mut numbers: Vec<i64> = list(spec, "/ports").iter().filter_map(node_port).collect();
        numbers.sort_unstable();
        numbers
    };
    ports(new) == ports(old)
}

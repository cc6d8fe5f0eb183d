//! The rules of a Service, in the order in which upstream checks them.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::endpoints::{check_app_protocol, check_protocol, check_reachable};
use super::super::field::{Errors, Field, Reason};
use super::super::{meta, names};
use super::change::node_port;
use super::{has_cluster_ip, is_headless, reachable_from_outside, wants_health_port};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const TRAFFIC_POLICIES: &[&str] = &["Cluster", "Local"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
/// A day: longer a client cannot stick to its endpoint.
const MAX_AFFINITY_SECONDS: i64 = 86_400;
/// Where a node's own API listens; a load balancer must not lead there.
const KUBELET_PORT: i64 = 10_250;

pub(super) fn service(object: &Value) -> Errors {
    let mut errors = Errors::default();
    let spec = Field::root(object).get("spec");
    check_presence(&mut errors, &spec);
    check_type_specifics(&mut errors, &spec);
    check_ports(&mut errors, &spec.get("ports"));
    for (_, value) in spec.get("selector").entries() {
        for message in names::label_value(value.str()) {
            errors.invalid_value(&spec.get("selector"), value.str(), message);
        }
    }
    check_affinity(&mut errors, &spec);
    errors.extend(cluster_ips(&spec));
    for ip in spec.get("externalIPs").items() {
        errors.invalid_each(&ip, names::ip_legacy(ip.str()));
        check_reachable(&mut errors, &ip);
    }
    let kind = spec.get("type");
    if kind.is_empty() {
        errors.required(&kind, "");
    } else if !TYPES.contains(&kind.str()) {
        errors.not_supported(&kind, TYPES);
    }
    check_port_conflicts(&mut errors, &spec);
    check_load_balancer(&mut errors, &spec);
    check_external_traffic(&mut errors, &spec);
    check_internal_traffic(&mut errors, &spec);
    errors
}

/// What may not change, whatever the rest says.
pub(super) fn change(new: &Value, old: &Value) -> Errors {
    let mut errors = Errors::default();
    let (spec, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
    if has_cluster_ip(spec.value) && has_cluster_ip(before.value) {
        for list in ["clusterIPs", "ipFamilies"] {
            let (now, then) = (spec.get(list), before.get(list));
            let (first, first_before) = (now.index(0), then.index(0));
            let headless = list == "ipFamilies" && is_headless(spec.value);
            if !then.is_empty() && first.value != first_before.value && !headless {
                errors.invalid_value(&first, now.value.clone(), "may not change once set");
            }
        }
    }
    let is_balanced = |spec: &Field<'_>| spec.get("type").str() == "LoadBalancer";
    let (class, class_before) = (spec.get("loadBalancerClass"), before.get("loadBalancerClass"));
    if is_balanced(&spec) && is_balanced(&before) && !meta::same(class.value, class_before.value) {
        errors.invalid(&class, "may not change once set");
    }
    errors
}

pub(super) fn status(new: &Value) -> Errors {
    let mut errors = Errors::default();
    let balanced = new["spec"]["type"] == "LoadBalancer";
    let entries = Field::root(new).get("status").get("loadBalancer").get("ingress");
    if !balanced && !entries.is_empty() {
        errors.forbidden(&entries, "may only be used when `spec.type` is \"LoadBalancer\"");
    }
    for entry in entries.items() {
        let (ip, hostname) = (entry.get("ip"), entry.get("hostname"));
        if !ip.is_empty() {
            errors.invalid_each(&ip, names::ip_legacy(ip.str()));
        }
        if !hostname.is_empty() {
            errors.invalid_each(&hostname, names::dns1123_subdomain(hostname.str()));
        }
    }
    errors
}

fn check_presence(errors: &mut Errors, spec: &Field<'_>) {
    let needs_ports = !is_headless(spec.value) && spec.get("type").str() != "ExternalName";
    if spec.get("ports").is_empty() && needs_ports {
        errors.required(&spec.get("ports"), "");
    }
}

fn check_type_specifics(errors: &mut Errors, spec: &Field<'_>) {
    let first_ip = spec.get("clusterIPs").index(0);
    match spec.get("type").str() {
        kind @ ("LoadBalancer" | "NodePort") => {
            for port in spec.get("ports").items() {
                if kind == "LoadBalancer" && port.get("port").int() == Some(KUBELET_PORT) {
                    let detail = format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
                    errors.invalid(&port.get("port"), detail);
                }
            }
            if is_headless(spec.value) {
                errors.invalid_str(&first_ip, format!("may not be set to 'None' for {kind} services"));
            }
        }
        "ExternalName" => check_external_name(errors, spec),
        _ => {}
    }
}

fn check_external_name(errors: &mut Errors, spec: &Field<'_>) {
    for name in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let field = spec.get(name);
        if !field.is_empty() {
            errors.forbidden(&field, "may not be set for ExternalName services");
        }
    }
    let name = spec.get("externalName");
    let plain = name.str().strip_suffix('.').unwrap_or(name.str());
    if plain.is_empty() {
        errors.required(&name, "");
        return;
    }
    for message in names::dns1123_subdomain(plain) {
        errors.invalid_value(&name, plain, message);
    }
}

fn check_ports(errors: &mut Errors, ports: &Field<'_>) {
    let mut seen = HashSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.required(&name, "");
            }
        } else {
            errors.invalid_each(&name, names::dns1123_label(name.str()));
            if !seen.insert(name.str()) {
                errors.duplicate(&name);
            }
        }
        check_port_number(errors, &port.get("port"));
        check_protocol(errors, &port.get("protocol"));
        let target = port.get("targetPort");
        match target.value {
            Value::String(name) => errors.invalid_each(&target, names::port_name(name)),
            _ => check_port_number(errors, &target),
        }
        check_app_protocol(errors, &port.get("appProtocol"));
    }
}

fn check_port_number(errors: &mut Errors, port: &Field<'_>) {
    let number = port.int().unwrap_or(0);
    for message in names::port_number(number) {
        errors.invalid_value(port, number, message);
    }
}

fn check_affinity(errors: &mut Errors, spec: &Field<'_>) {
    let (affinity, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    match affinity.str() {
        "" => errors.required(&affinity, ""),
        "None" if config.exists() => errors.forbidden(&config, "must not be set when session affinity is None"),
        "None" => {}
        "ClientIP" => {
            let timeout = config.get("clientIP").get("timeoutSeconds");
            let seconds = timeout.int().unwrap_or(0);
            if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) {
                let detail = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                errors.invalid_value(&timeout, seconds, detail);
            }
        }
        _ => errors.not_supported(&affinity, &["ClientIP", "None"]),
    }
}

/// The cluster IPs and what they go by: allocation refuses what fails here, and so does the rest.
pub(super) fn cluster_ips(spec: &Field<'_>) -> Errors {
    let mut errors = Errors::default();
    if spec.get("type").str() == "ExternalName" {
        return errors;
    }
    let (ip, ips) = (spec.get("clusterIP"), spec.get("clusterIPs"));
    let first = ips.index(0);
    match (ip.is_empty(), ips.is_empty()) {
        (false, true) => errors.required(&ips, ""),
        (true, false) => errors.required(&ip, ""),
        (false, false) if ip.str() != first.str() => {
            errors.invalid(&ips, "first value must match `clusterIP`");
        }
        _ => {}
    }
    check_families(&mut errors, spec);
    let mut seen = HashSet::new();
    for item in ips.items() {
        if item.str() == "None" {
            if ips.len() > 1 {
                errors.invalid(&ips, "'None' must be the first and only value");
            }
            continue;
        }
        errors.invalid_each(&item, names::ip_legacy(item.str()));
        if !seen.insert(item.str()) {
            errors.duplicate(&item);
        }
    }
    if ips.len() > 2 {
        errors.invalid(&ips, "may only hold up to 2 values");
    }
    errors
}

fn check_families(errors: &mut Errors, spec: &Field<'_>) {
    let policy = spec.get("ipFamilyPolicy");
    if policy.exists() && !["PreferDualStack", "RequireDualStack", "SingleStack"].contains(&policy.str()) {
        errors.not_supported(&policy, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    }
    let mut seen = HashSet::new();
    for (i, family) in spec.get("ipFamilies").items().enumerate() {
        if !["IPv4", "IPv6"].contains(&family.str()) {
            errors.not_supported(&family, &["IPv4", "IPv6"]);
        } else if !seen.insert(family.str()) {
            errors.duplicate(&family);
        }
        let ip = spec.get("clusterIPs").index(i);
        if let Some(parsed) = names::parse_ip(ip.str())
            && parsed.is_ipv4() != (family.str() == "IPv4")
            && ["IPv4", "IPv6"].contains(&family.str())
        {
            errors.invalid(&ip, format!("expected an {} value as indicated by `ipFamilies[{i}]`", family.str()));
        }
    }
}

/// Node ports only where the type has them, and no two ports or node ports of one protocol alike.
fn check_port_conflicts(errors: &mut Errors, spec: &Field<'_>) {
    let ports = spec.get("ports");
    let (mut node_ports, mut numbers) = (HashSet::new(), HashSet::new());
    for port in ports.items() {
        if spec.get("type").str() == "ClusterIP" && node_port(port.value).is_some() {
            errors.forbidden(&port.get("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
    }
    for port in ports.items() {
        if let Some(number) = node_port(port.value)
            && !node_ports.insert((port.get("protocol").str(), number))
        {
            errors.duplicate(&port.get("nodePort"));
        }
    }
    for port in ports.items() {
        let (protocol, number) = (port.get("protocol").str(), port.get("port").int().unwrap_or(0));
        if !numbers.insert((protocol, number)) {
            // Upstream shows the key it compares by: its own struct with the other fields empty.
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}",
                json!(protocol)
            );
            errors.push_text(Reason::Duplicate, &port.path, shown, "");
        }
    }
}

fn check_load_balancer(errors: &mut Errors, spec: &Field<'_>) {
    let balanced = spec.get("type").str() == "LoadBalancer";
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges = spec.get("loadBalancerSourceRanges");
    if !balanced && !ranges.is_empty() {
        errors.forbidden(&ranges, only);
    }
    for range in ranges.items() {
        errors.invalid_each(&range, names::cidr_legacy(range.str().trim()));
    }
    let allocate = spec.get("allocateLoadBalancerNodePorts");
    if balanced && !allocate.exists() {
        errors.required(&allocate, "");
    } else if !balanced && allocate.exists() {
        errors.forbidden(&allocate, only);
    }
    let class = spec.get("loadBalancerClass");
    if class.exists() && !balanced {
        errors.forbidden(&class, only);
    } else if class.exists() {
        errors.invalid_each(&class, names::qualified_name(class.str()));
    }
}

fn check_external_traffic(errors: &mut Errors, spec: &Field<'_>) {
    let policy = spec.get("externalTrafficPolicy");
    match (reachable_from_outside(spec.value), policy.is_empty()) {
        (false, false) => errors.invalid(&policy, "may only be set for externally-accessible services"),
        (true, true) => errors.required(&policy, "may not be empty for externally-accessible services"),
        (true, false) if !TRAFFIC_POLICIES.contains(&policy.str()) => errors.not_supported(&policy, TRAFFIC_POLICIES),
        _ => {}
    }
    let health = spec.get("healthCheckNodePort");
    let number = health.int().unwrap_or(0);
    if number != 0 && !wants_health_port(spec.value) {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid(&health, detail);
    }
}

fn check_internal_traffic(errors: &mut Errors, spec: &Field<'_>) {
    let policy = spec.get("internalTrafficPolicy");
    if !policy.exists() {
        if has_cluster_ip(spec.value) {
            errors.required(&policy, "");
        }
    } else if !TRAFFIC_POLICIES.contains(&policy.str()) {
        errors.not_supported(&policy, TRAFFIC_POLICIES);
    }
    let distribution = spec.get("trafficDistribution");
    if distribution.exists() && !DISTRIBUTIONS.contains(&distribution.str()) {
        errors.not_supported(&distribution, DISTRIBUTIONS);
    }
}

//! Service of `v1`: one name and address for many pods.
//!
//! Three parts: this file has the defaults, what an update may leave out, and the columns;
//! `validate` the rules; [`allocate`] which cluster IP and node ports it needs. The API server calls
//! that on every create and update, with the numbers that it keeps.

pub mod allocate;
mod change;
mod validate;

use serde_json::{Map, Value, json};

use super::common::{list, pairs, set_default, set_default_text, text};
use super::field::Errors;
use super::ingress::load_balancer_addresses;
use super::{ALL_VERBS, Column, Kind, KindInfo, NameRule, PROXY_VERBS, Subresource, column, meta, time};

/// How long a client sticks to its endpoint unless the Service says otherwise: three hours.
const AFFINITY_SECONDS: i64 = 10_800;

pub struct Service;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource { name: "proxy", group: "", version: "", kind: "ServiceProxyOptions", verbs: PROXY_VERBS },
        Subresource::status("Service"),
    ],
    schema: "io.k8s.api.core.v1.Service",
    storage: "services",
    storage_version_hash: "0/CO1lhkEBI=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Type", "string", "", 0),
    column("Cluster-IP", "string", "", 0),
    column("External-IP", "string", "", 0),
    column("Port(s)", "string", "", 0),
    column("Age", "string", "", 0),
    column("Selector", "string", "", 1),
];

impl Kind for Service {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        set_default(object, "spec", Map::new());
        set_default(object, "status", json!({"loadBalancer": {}}));
        default_spec(&mut object["spec"]);
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"loadBalancer": {}});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
        change::keep_allocated(&mut new["spec"], &old["spec"]);
        change::pair_cluster_ips(&mut new["spec"], Some(&old["spec"]));
        change::drop_what_the_type_cannot_have(&mut new["spec"], &old["spec"]);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
    }

    fn validate(&self, object: &Value) -> Errors {
        validate::service(object)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = validate::change(new, old);
        errors.extend(validate::service(new));
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Errors {
        validate::status(new)
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let spec = &new["spec"];
        let mut warnings = Vec::new();
        if text(spec, "/type") != "ExternalName" && !text(spec, "/externalName").is_empty() {
            warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
        }
        if is_headless(spec) && text(spec, "/sessionAffinity") == "ClientIP" {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
        warnings
    }

    /// A DNS label that may begin with a digit: upstream gave up the stricter RFC 1035 rule.
    fn name_rule(&self) -> NameRule {
        NameRule::DnsLabel
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let spec = &object["spec"];
        let none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
        let ports = list(spec, "/ports").iter().map(port_cell).collect::<Vec<_>>().join(",");
        vec![
            text(object, "/metadata/name").into(),
            text(spec, "/type").into(),
            none(text(spec, "/clusterIP")).into(),
            external_cell(object).into(),
            none(&ports).into(),
            time::object_age(object, now).into(),
            pairs(spec.get("selector")).into(),
        ]
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![
            ("spec.clusterIP", text(object, "/spec/clusterIP").to_owned()),
            ("spec.type", text(object, "/spec/type").to_owned()),
        ]
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &["spec.clusterIP", "spec.type"]
    }
}

fn default_spec(spec: &mut Value) {
    set_default_text(spec, "sessionAffinity", "None");
    set_default_text(spec, "type", "ClusterIP");
    match text(spec, "/sessionAffinity") {
        "None" => {
            meta::take_from(spec, &Value::Null, "sessionAffinityConfig");
        }
        "ClientIP" => {
            let client_ip = meta::object_mut(spec, "sessionAffinityConfig").entry("clientIP").or_insert(Value::Null);
            if client_ip.is_null() {
                *client_ip = json!({});
            }
            set_default(client_ip, "timeoutSeconds", AFFINITY_SECONDS);
        }
        _ => {}
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        set_default_text(port, "protocol", "TCP");
        set_default(port, "port", 0);
        if matches!(port.get("targetPort"), None | Some(Value::Null))
            || port["targetPort"] == 0
            || port["targetPort"] == ""
        {
            port["targetPort"] = port["port"].clone();
        }
    }
    if reachable_from_outside(spec) {
        set_default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if has_cluster_ip(spec) {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    if text(spec, "/type") == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// Whether the type comes with a cluster IP (which may be "None").
fn has_cluster_ip(spec: &Value) -> bool {
    matches!(text(spec, "/type"), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn is_headless(spec: &Value) -> bool {
    has_cluster_ip(spec) && text(spec, "/clusterIP") == "None"
}

/// Whether each port gets a node port, unless it names one itself.
fn wants_node_ports(spec: &Value) -> bool {
    match text(spec, "/type") {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

/// Whether ports may have node ports.
fn may_have_node_ports(spec: &Value) -> bool {
    matches!(text(spec, "/type"), "NodePort" | "LoadBalancer")
}

/// Whether a load balancer asks the node itself if it has endpoints.
fn wants_health_port(spec: &Value) -> bool {
    text(spec, "/type") == "LoadBalancer" && text(spec, "/externalTrafficPolicy") == "Local"
}

fn reachable_from_outside(spec: &Value) -> bool {
    may_have_node_ports(spec) || (text(spec, "/type") == "ClusterIP" && !list(spec, "/externalIPs").is_empty())
}

/// `80/TCP`, or `80:30080/TCP` with a node port.
fn port_cell(port: &Value) -> String {
    let (number, protocol) = (port["port"].as_i64().unwrap_or(0), text(port, "/protocol"));
    match port["nodePort"].as_i64().unwrap_or(0) {
        0 => format!("{number}/{protocol}"),
        node_port => format!("{number}:{node_port}/{protocol}"),
    }
}

/// How the Service is reached from outside.
fn external_cell(object: &Value) -> String {
    let spec = &object["spec"];
    let external: Vec<&str> = list(spec, "/externalIPs").iter().filter_map(Value::as_str).collect();
    let or =
        |addresses: Vec<&str>, none: &str| if addresses.is_empty() { none.to_owned() } else { addresses.join(",") };
    match text(spec, "/type") {
        "ClusterIP" | "NodePort" => or(external, "<none>"),
        "LoadBalancer" => or([load_balancer_addresses(object), external].concat(), "<pending>"),
        "ExternalName" => text(spec, "/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests;

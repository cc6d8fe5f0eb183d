//! NetworkPolicy of `networking.k8s.io/v1`: who may speak to whom. Nodes enforce it.

use serde_json::{Value, json};

use super::common::{set_default, text};
use super::field::{Errors, Field};
use super::meta::{self, object_mut};
use super::{ALL_VERBS, Column, Kind, KindInfo, column, names, selector, time, workload};

pub struct NetworkPolicy;

static INFO: KindInfo = KindInfo {
    group: "networking.k8s.io",
    version: "v1",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.networking.v1.NetworkPolicy",
    storage: "networking.k8s.io/networkpolicies",
    storage_version_hash: "YpfwF18m1G8=",
};

static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("Pod-Selector", "string", "", 0), column("Age", "string", "", 0)];

impl Kind for NetworkPolicy {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        let spec = &mut object["spec"];
        object_mut(spec, "podSelector");
        for direction in ["ingress", "egress"] {
            for rule in spec.get_mut(direction).and_then(Value::as_array_mut).into_iter().flatten() {
                for port in rule.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                    set_default(port, "protocol", "TCP");
                }
            }
        }
        if meta::is_empty(&spec["policyTypes"]) {
            let egress = !meta::is_empty(&spec["egress"]);
            spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::count_spec(new, old);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let spec = Field::root(object).get("spec");
        selector::validate(&mut errors, &spec.get("podSelector"));
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in spec.get(direction).items() {
                for port in rule.get("ports").items() {
                    validate_port(&mut errors, &port);
                }
                for peer in rule.get(peers).items() {
                    validate_peer(&mut errors, &peer);
                }
            }
        }
        let types = spec.get("policyTypes");
        if types.len() > 2 {
            errors.invalid(&types, "may not specify more than two policyTypes");
            return errors;
        }
        for kind in types.items() {
            if !matches!(kind.str(), "Ingress" | "Egress") {
                errors.not_supported(&kind, &["Ingress", "Egress"]);
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        vec![
            text(object, "/metadata/name").into(),
            workload::selector_text(&object["spec"]["podSelector"]).into(),
            time::object_age(object, now).into(),
        ]
    }
}

fn validate_port(errors: &mut Errors, port: &Field<'_>) {
    let (protocol, number, end) = (port.get("protocol"), port.get("port"), port.get("endPort"));
    if protocol.exists() && !matches!(protocol.str(), "TCP" | "UDP" | "SCTP") {
        errors.not_supported(&protocol, &["SCTP", "TCP", "UDP"]);
    }
    match number.value {
        Value::Number(_) => {
            errors.invalid_each(&number, names::port_number(number.int().unwrap_or(0)));
            let start = number.int().unwrap_or(0);
            if end.int().is_some_and(|end| end < start) {
                errors.invalid_value(&end, start, "must be greater than or equal to `port`");
            }
            if let Some(last) = end.int() {
                errors.invalid_each(&end, names::port_number(last));
            }
        }
        Value::String(name) => {
            if end.exists() {
                errors.invalid(&end, "may not be specified when `port` is non-numeric");
            }
            errors.invalid_each(&number, names::port_name(name));
        }
        _ if end.exists() => errors.invalid(&end, "may not be specified when `port` is not specified"),
        _ => {}
    }
}

fn validate_peer(errors: &mut Errors, peer: &Field<'_>) {
    let (pods, namespaces, block) = (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    selector::validate(errors, &pods);
    selector::validate(errors, &namespaces);
    let selects = pods.exists() || namespaces.exists();
    if block.exists() {
        validate_block(errors, &block);
        if selects {
            errors.forbidden(peer, "may not specify both ipBlock and another peer");
        }
    } else if !selects {
        errors.required(peer, "must specify a peer");
    }
}

fn validate_block(errors: &mut Errors, block: &Field<'_>) {
    let cidr = block.get("cidr");
    if cidr.is_empty() {
        errors.required(&cidr, "");
        return;
    }
    errors.invalid_each(&cidr, names::cidr_legacy(cidr.str()));
    let Some((network, length)) = names::parse_cidr(cidr.str()) else { return };
    for except in block.get("except").items() {
        errors.invalid_each(&except, names::cidr_legacy(except.str()));
        let Some((inner, inner_length)) = names::parse_cidr(except.str()) else { continue };
        let inside = ipnet::IpNet::new(network, length).is_ok_and(|net| net.contains(&inner));
        if !inside || inner_length <= length {
            errors.invalid(&except, format!("must be a strict subset of `cidr` ({})", cidr.str()));
        }
    }
}

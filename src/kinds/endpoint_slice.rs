//! EndpointSlice of `discovery.k8s.io/v1`: up to a thousand endpoints of one Service.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::common::{list, same, set_default, set_default_text, some_of, text};
use super::endpoints::{PROTOCOLS, check_app_protocol, check_reachable};
use super::field::{Errors, Field};
use super::{ALL_VERBS, Column, Kind, KindInfo, column, meta, names, time};

/// Upstream's limits.
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;

const ADDRESS_TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];

pub struct EndpointSlice;

static INFO: KindInfo = KindInfo {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.discovery.v1.EndpointSlice",
    storage: "discovery.k8s.io/endpointslices",
    storage_version_hash: "qgS0xkrxYAI=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("AddressType", "string", "", 0),
    column("Ports", "string", "", 0),
    column("Endpoints", "string", "", 0),
    column("Age", "string", "", 0),
];

impl Kind for EndpointSlice {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        let Value::Object(map) = object else { return };
        for name in ["endpoints", "ports"] {
            map.entry(name).or_insert(Value::Null);
        }
        for endpoint in object.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
            set_default(endpoint, "conditions", Map::new());
        }
        for port in object.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            set_default(port, "name", "");
            set_default_text(port, "protocol", "TCP");
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::start_generation(object);
    }

    /// Labels count as content here: consumers find the slices of a Service by them.
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        let content = ["addressType", "endpoints", "ports"].iter().any(|name| !same(new, old, name));
        let changed = content || !same(&new["metadata"], &old["metadata"], "labels");
        meta::carry_generation(new, old, changed);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let root = Field::root(object);
        let kind = root.get("addressType");
        if kind.is_empty() {
            errors.required(&kind, "");
        } else if !ADDRESS_TYPES.contains(&kind.str()) {
            errors.not_supported(&kind, ADDRESS_TYPES);
        }
        check_endpoints(&mut errors, &root.get("endpoints"), kind.str());
        check_ports(&mut errors, &root.get("ports"));
        errors
    }

    /// What did not change is not checked again, so that a change of the type is told as just that.
    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        let root = Field::root(new);
        meta::immutable(&mut errors, &root.get("addressType"), &Field::root(old).get("addressType"));
        if !same(new, old, "endpoints") {
            check_endpoints(&mut errors, &root.get("endpoints"), root.get("addressType").str());
        }
        check_ports(&mut errors, &root.get("ports"));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let ports: Vec<String> = list(object, "/ports").iter().map(port_cell).collect();
        let addresses: Vec<String> = list(object, "/endpoints")
            .iter()
            .flat_map(|endpoint| list(endpoint, "/addresses"))
            .map(|address| address.as_str().unwrap_or("").to_owned())
            .collect();
        vec![
            text(object, "/metadata/name").into(),
            text(object, "/addressType").into(),
            some_of(&ports, "<unset>").into(),
            some_of(&addresses, "<unset>").into(),
            time::object_age(object, now).into(),
        ]
    }
}

/// The number of a port, else its name, else any.
fn port_cell(port: &Value) -> String {
    match (port["port"].as_i64(), text(port, "/name")) {
        (Some(number), _) => number.to_string(),
        (None, "") => "*".to_owned(),
        (None, name) => name.to_owned(),
    }
}

fn check_endpoints(errors: &mut Errors, endpoints: &Field<'_>, address_type: &str) {
    if endpoints.len() > MAX_ENDPOINTS {
        errors.too_many(endpoints, endpoints.len(), MAX_ENDPOINTS);
        return;
    }
    for endpoint in endpoints.items() {
        let addresses = endpoint.get("addresses");
        if addresses.is_empty() {
            errors.required(&addresses, "must contain at least 1 address");
        } else if addresses.len() > MAX_ADDRESSES {
            errors.too_many(&addresses, addresses.len(), MAX_ADDRESSES);
        }
        for address in addresses.items() {
            check_address(errors, &address, address_type);
        }
        let node = endpoint.get("nodeName");
        if node.exists() {
            errors.invalid_each(&node, names::dns1123_subdomain(node.str()));
        }
        let hostname = endpoint.get("hostname");
        if hostname.exists() {
            errors.invalid_each(&hostname, names::dns1123_label(hostname.str()));
        }
    }
}

fn check_address(errors: &mut Errors, address: &Field<'_>, address_type: &str) {
    match address_type {
        "FQDN" => {
            let name = address.str().strip_suffix('.').unwrap_or(address.str());
            for message in names::dns1123_subdomain(name) {
                errors.invalid_value(address, name, message);
            }
        }
        "IPv4" | "IPv6" => {
            let problems = names::ip_legacy(address.str());
            let parsed = names::parse_ip(address.str());
            errors.invalid_each(address, problems);
            if parsed.is_some_and(|ip| ip.is_ipv4() != (address_type == "IPv4")) {
                errors.invalid(address, format!("must be an {address_type} address"));
            }
            check_reachable(errors, address);
        }
        _ => {}
    }
}

fn check_ports(errors: &mut Errors, ports: &Field<'_>) {
    if ports.len() > MAX_PORTS {
        errors.too_many(ports, ports.len(), MAX_PORTS);
        return;
    }
    let mut seen = HashSet::new();
    for port in ports.items() {
        let (name, protocol) = (port.get("name"), port.get("protocol"));
        if !name.is_empty() {
            errors.invalid_each(&name, names::dns1123_label(name.str()));
        }
        if !seen.insert(name.str()) {
            errors.duplicate(&name);
        }
        if protocol.is_empty() {
            errors.required(&protocol, "");
        } else if !PROTOCOLS.contains(&protocol.str()) {
            errors.not_supported(&protocol, PROTOCOLS);
        }
        check_app_protocol(errors, &port.get("appProtocol"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: Errors) -> Vec<String> {
        errors.0.iter().map(ToString::to_string).collect()
    }

    fn slice(kind: &str, address: &str) -> Value {
        let mut object = json!({"metadata": {"name": "one", "generation": 1}, "addressType": kind,
            "endpoints": [{"addresses": [address]}], "ports": [{"port": 80}]});
        EndpointSlice.default(&mut object);
        object
    }

    #[test]
    fn defaults_name_every_port() {
        let object = slice("IPv4", "10.1.2.3");
        assert_eq!(object["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]));
        assert_eq!(object["endpoints"][0]["conditions"], json!({}));
        let mut empty = json!({"addressType": "IPv4"});
        EndpointSlice.default(&mut empty);
        assert_eq!(empty, json!({"addressType": "IPv4", "endpoints": null, "ports": null}));
    }

    #[test]
    fn addresses_are_of_the_type() {
        assert!(EndpointSlice.validate(&slice("IPv4", "127.64.0.9")).is_empty());
        assert!(EndpointSlice.validate(&slice("FQDN", "a.example.com")).is_empty());
        assert_eq!(
            texts(EndpointSlice.validate(&slice("IPv6", "10.1.2.3"))),
            ["endpoints[0].addresses[0]: Invalid value: \"10.1.2.3\": must be an IPv6 address"]
        );
        assert_eq!(
            texts(EndpointSlice.validate(&slice("X", "10.1.2.3"))),
            ["addressType: Unsupported value: \"X\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""]
        );
    }

    #[test]
    fn a_change_of_the_type_is_one_error() {
        let old = slice("IPv4", "10.1.2.3");
        let mut new = old.clone();
        new["addressType"] = "IPv6".into();
        assert_eq!(
            texts(EndpointSlice.validate_update(&new, &old)),
            ["addressType: Invalid value: \"IPv6\": field is immutable"]
        );
    }

    #[test]
    fn content_and_labels_count_generations() {
        let old = slice("IPv4", "10.1.2.3");
        for (pointer, value, generation) in [
            ("/endpoints/0/addresses/0", json!("10.1.2.4"), 2),
            ("/metadata", json!({"labels": {"a": "b"}}), 2),
            ("/metadata", json!({"annotations": {"a": "b"}}), 1),
        ] {
            let mut new = old.clone();
            *new.pointer_mut(pointer).expect("the slice has it") = value;
            EndpointSlice.prepare_update(&mut new, &old);
            assert_eq!(new["metadata"]["generation"], generation, "{pointer}");
        }
    }
}

//! Endpoints of `v1`: the older list of a Service's addresses, kept for clients that read it.
//!
//! What is a usable address and what a usable port is shared with EndpointSlices.

use std::net::IpAddr;

use serde_json::Value;

use super::common::{list, set_default_text, some_of, text};
use super::field::{Errors, Field};
use super::{ALL_VERBS, Column, Kind, KindInfo, column, names, time};

/// The protocols of a port.
pub(super) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub struct Endpoints;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.core.v1.Endpoints",
    storage: "endpoints",
    storage_version_hash: "fWeeMqaN/OA=",
};

static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("Endpoints", "string", "", 0), column("Age", "string", "", 0)];

impl Kind for Endpoints {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        for subset in object.get_mut("subsets").and_then(Value::as_array_mut).into_iter().flatten() {
            for port in subset.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                set_default_text(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        for subset in Field::root(object).get("subsets").items() {
            check_subset(&mut errors, &subset);
        }
        errors
    }

    fn deprecation(&self) -> Option<&'static str> {
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let sockets: Vec<String> = list(object, "/subsets").iter().flat_map(sockets).collect();
        vec![
            text(object, "/metadata/name").into(),
            some_of(&sockets, "<none>").into(),
            time::object_age(object, now).into(),
        ]
    }
}

/// Each address with each port, as a cell shows them; the bare addresses where there are no ports.
fn sockets(subset: &Value) -> Vec<String> {
    let addresses = list(subset, "/addresses").iter().map(|address| text(address, "/ip"));
    let ports = list(subset, "/ports");
    if ports.is_empty() {
        return addresses.map(str::to_owned).collect();
    }
    let numbers = ports.iter().map(|port| port["port"].as_i64().unwrap_or(0));
    numbers
        .flat_map(|port| {
            addresses.clone().map(move |ip| match ip.contains(':') {
                true => format!("[{ip}]:{port}"),
                false => format!("{ip}:{port}"),
            })
        })
        .collect()
}

fn check_subset(errors: &mut Errors, subset: &Field<'_>) {
    let (ready, not_ready) = (subset.get("addresses"), subset.get("notReadyAddresses"));
    if ready.is_empty() && not_ready.is_empty() {
        errors.required(subset, "must specify `addresses` or `notReadyAddresses`");
    }
    for address in ready.items().chain(not_ready.items()) {
        let ip = address.get("ip");
        check_ip(errors, &ip);
        let hostname = address.get("hostname");
        if !hostname.is_empty() {
            errors.invalid_each(&hostname, names::dns1123_label(hostname.str()));
        }
        let node = address.get("nodeName");
        if node.exists() {
            errors.invalid_each(&node, names::dns1123_subdomain(node.str()));
        }
    }
    let ports = subset.get("ports");
    for port in ports.items() {
        check_port(errors, &port, ports.len() > 1);
    }
}

fn check_port(errors: &mut Errors, port: &Field<'_>, name_required: bool) {
    let (name, number, protocol) = (port.get("name"), port.get("port"), port.get("protocol"));
    if name_required && name.is_empty() {
        errors.required(&name, "");
    } else if !name.is_empty() {
        errors.invalid_each(&name, names::dns1123_label(name.str()));
    }
    for message in names::port_number(number.int().unwrap_or(0)) {
        errors.invalid_value(&number, number.int().unwrap_or(0), message);
    }
    check_protocol(errors, &protocol);
    check_app_protocol(errors, &port.get("appProtocol"));
}

pub(super) fn check_protocol(errors: &mut Errors, protocol: &Field<'_>) {
    if protocol.is_empty() {
        errors.required(protocol, "");
    } else if !PROTOCOLS.contains(&protocol.str()) {
        errors.not_supported(protocol, PROTOCOLS);
    }
}

pub(super) fn check_app_protocol(errors: &mut Errors, protocol: &Field<'_>) {
    if protocol.exists() {
        errors.invalid_each(protocol, names::qualified_name(protocol.str()));
    }
}

/// An address that traffic can be sent to.
pub(super) fn check_ip(errors: &mut Errors, ip: &Field<'_>) {
    let problems = names::ip_legacy(ip.str());
    if problems.is_empty() {
        check_reachable(errors, ip);
    }
    for problem in problems {
        errors.invalid_value(ip, ip.str(), problem);
    }
}

/// Refuses addresses that no endpoint can have. Upstream also refuses the loopback range; here pods
/// live in it when the cluster needs no root, so it is allowed.
pub(super) fn check_reachable(errors: &mut Errors, ip: &Field<'_>) {
    let Some(parsed) = names::parse_ip(ip.str()) else { return };
    if parsed.is_unspecified() {
        errors.invalid(ip, format!("may not be unspecified ({})", ip.str()));
    }
    let (link_local, link_local_multicast) = match parsed {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] == 0xff02),
    };
    if link_local {
        errors.invalid(ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        errors.invalid(ip, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cell_shows_three_sockets_and_counts_the_rest() {
        let row = |subsets: Value| {
            let object = json!({"metadata": {"name": "e"}, "subsets": subsets});
            Endpoints.row(&object, jiff::Timestamp::UNIX_EPOCH)[1].clone()
        };
        assert_eq!(row(Value::Null), "<none>");
        assert_eq!(row(json!([{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}])), "10.1.2.3:80");
        let two =
            json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 81}]}]);
        assert_eq!(row(two), "10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more...");
        assert_eq!(row(json!([{"addresses": [{"ip": "10.0.0.1"}]}])), "10.0.0.1");
    }

    #[test]
    fn addresses_that_reach_nobody_are_refused() {
        for (ip, bad) in [
            ("10.1.2.3", false),
            ("127.64.0.2", false),
            ("0.0.0.0", true),
            ("169.254.1.1", true),
            ("224.0.0.5", true),
            ("x", true),
        ] {
            let mut object = json!({"subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}]});
            Endpoints.default(&mut object);
            assert_eq!(!Endpoints.validate(&object).is_empty(), bad, "{ip}");
        }
    }

    #[test]
    fn several_ports_need_names() {
        let mut object =
            json!({"subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 0}, {"name": "b", "port": 2}]}]});
        Endpoints.default(&mut object);
        let texts: Vec<String> = Endpoints.validate(&object).0.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "subsets[0].ports[0].name: Required value",
                "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"
            ]
        );
    }
}

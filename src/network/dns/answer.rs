//! What a name of the cluster stands for, by the Kubernetes specification of DNS. Pure.
//!
//! <https://github.com/kubernetes/dns/blob/master/docs/specification.md>

use std::net::{IpAddr, Ipv4Addr};

use super::super::table::{Resolved, RouteTable, Service, ServiceKind, ServicePort};
use crate::wire::Transport;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 or IPv6 addresses.
    V4,
    V6,
    /// Ports and who has them.
    Srv,
    /// The name of an address.
    Ptr,
    /// Anything else.
    Other,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Addresses(Vec<IpAddr>),
    Ports(Vec<(u16, String)>),
    /// The name that an address has.
    Name(String),
    /// A name of the world outside, that this one stands for.
    Alias(String),
    /// There is such a name, and nothing of that kind.
    Nothing,
    NoSuchName,
    /// The name is not one of the cluster's.
    Elsewhere,
}

/// Answers for `name`, without its last dot, in lower case.
pub fn of(table: &RouteTable, domain: &str, name: &str, kind: Kind) -> Answer {
    if let Some(ip) = reversed(name) {
        return match table.named(ip) {
            Some(service) => Answer::Name(format!("{}.{}.svc.{domain}", service.name, service.namespace)),
            None if table.is_pod(ip) => Answer::NoSuchName,
            None => Answer::Elsewhere,
        };
    }
    let Some(below) = name.strip_suffix(domain) else { return Answer::Elsewhere };
    let Some(below) = below.strip_suffix('.') else {
        return if below.is_empty() { Answer::Nothing } else { Answer::Elsewhere };
    };
    let labels: Vec<&str> = below.split('.').collect();
    match labels.as_slice() {
        ["svc" | "pod"] => Answer::Nothing,
        [ip, _, "pod"] => dashed(ip).map_or(Answer::NoSuchName, |ip| addresses(&[ip], kind)),
        [port, protocol, service, namespace, "svc"] if port.starts_with('_') => {
            let service = table.service(namespace, service);
            service.map_or(Answer::NoSuchName, |service| ports(service, port, protocol, domain, kind))
        }
        [ip, service, namespace, "svc"] if dashed(ip).is_some() => {
            let known = table.service(namespace, service).map(|service| service.addresses.as_slice());
            let ip = dashed(ip).filter(|ip| known.unwrap_or_default().contains(ip));
            ip.map_or(Answer::NoSuchName, |ip| addresses(&[ip], kind))
        }
        [.., "svc"] => match table.resolve("", &format!("{name}.")) {
            Some(Resolved::Service(service)) => service_of(service, domain, kind),
            Some(Resolved::Pods(ips)) => addresses(ips, kind),
            None => Answer::NoSuchName,
        },
        _ => Answer::NoSuchName,
    }
}

fn service_of(service: &Service, domain: &str, kind: Kind) -> Answer {
    match (&service.kind, kind) {
        (ServiceKind::External(name), _) => Answer::Alias(name.to_string()),
        (_, Kind::Srv) => Answer::Ports(service.ports.iter().flat_map(|port| targets(service, port, domain)).collect()),
        (ServiceKind::Cluster, _) => addresses(&service.cluster_ips, kind),
        // A headless Service without ready pods has a name that stands for nobody.
        (ServiceKind::Headless, _) => addresses(&service.addresses, kind),
    }
}

fn ports(service: &Service, port: &str, protocol: &str, domain: &str, kind: Kind) -> Answer {
    let transport = match protocol {
        "_tcp" => Some(Transport::Tcp),
        "_udp" => Some(Transport::Udp),
        _ => None,
    };
    let found = service.port_named(port.trim_start_matches('_')).filter(|port| Some(port.transport) == transport);
    match (found, kind) {
        (Some(port), Kind::Srv) => Answer::Ports(targets(service, port, domain)),
        (Some(_), _) => Answer::Nothing,
        (None, _) => Answer::NoSuchName,
    }
}

/// Who has a port: the Service, or each pod of a headless one, by a name that stands for it.
fn targets(service: &Service, port: &ServicePort, domain: &str) -> Vec<(u16, String)> {
    let of_service = format!("{}.{}.svc.{domain}", service.name, service.namespace);
    match service.kind {
        ServiceKind::Headless => {
            let number = port.endpoints.first().map_or(port.port, |one| one.address.port());
            let named = service.addresses.iter().map(|ip| {
                let own = service.hostnames.iter().find(|(_, ips)| ips.contains(ip)).map(|(name, _)| name.to_string());
                let label = own.unwrap_or_else(|| ip.to_string().replace(['.', ':'], "-"));
                (number, format!("{label}.{of_service}"))
            });
            named.collect()
        }
        ServiceKind::Cluster | ServiceKind::External(_) => vec![(port.port, of_service)],
    }
}

fn addresses(ips: &[IpAddr], kind: Kind) -> Answer {
    let wanted = |ip: &&IpAddr| match kind {
        Kind::V4 => ip.is_ipv4(),
        Kind::V6 => ip.is_ipv6(),
        Kind::Srv | Kind::Ptr | Kind::Other => false,
    };
    let found: Vec<IpAddr> = ips.iter().filter(wanted).copied().collect();
    if found.is_empty() { Answer::Nothing } else { Answer::Addresses(found) }
}

/// `10-0-0-1` as an address.
fn dashed(label: &str) -> Option<IpAddr> {
    label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

/// The address that `1.0.0.10.in-addr.arpa` means.
fn reversed(name: &str) -> Option<IpAddr> {
    let labels: Vec<&str> = name.strip_suffix(".in-addr.arpa")?.split('.').rev().collect();
    labels.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::super::table::Objects;
    use super::*;

    fn table() -> RouteTable {
        let service = |name: &str, spec: serde_json::Value| {
            let service = json!({ "metadata": { "namespace": "shop", "name": name }, "spec": spec });
            Arc::new(serde_json::from_value(service).expect("a Service"))
        };
        let slice = |service: &str, endpoints: serde_json::Value| {
            let slice = json!({
                "metadata": { "namespace": "shop", "name": service, "labels": { "kubernetes.io/service-name": service } },
                "addressType": "IPv4", "ports": [{ "name": "web", "port": 8080 }], "endpoints": endpoints,
            });
            Arc::new(serde_json::from_value(slice).expect("a slice"))
        };
        let ports = json!([{ "name": "web", "port": 80, "targetPort": 8080 }]);
        let services = [
            service("cart", json!({ "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"], "ports": ports })),
            service("peers", json!({ "clusterIP": "None", "ports": ports })),
            service("alone", json!({ "clusterIP": "None", "ports": ports })),
            service("far", json!({ "type": "ExternalName", "externalName": "db.example.com" })),
        ];
        let peers = json!([{ "addresses": ["10.1.0.1"], "hostname": "peers-0" }, { "addresses": ["10.1.0.2"] }]);
        let slices = [slice("peers", peers)];
        let objects = Objects { services: &services, slices: &slices, ingresses: &[], classes: &[], node: "n" };
        RouteTable::build(&objects, None)
    }

    #[test]
    fn names_stand_for_what_the_specification_says() {
        let table = table();
        let ips = |ips: &[[u8; 4]]| Answer::Addresses(ips.iter().copied().map(IpAddr::from).collect());
        for (name, kind, answer) in [
            ("cart.shop.svc.cluster.local", Kind::V4, ips(&[[10, 0, 0, 9]])),
            ("cart.shop.svc.cluster.local", Kind::V6, Answer::Nothing),
            ("cart.shop.svc.cluster.local", Kind::Other, Answer::Nothing),
            ("none.shop.svc.cluster.local", Kind::V4, Answer::NoSuchName),
            ("cart.shop", Kind::V4, Answer::Elsewhere),
            ("cart.shop.svc.cluster.local.shop.svc.cluster.local", Kind::V4, Answer::NoSuchName),
            ("mycluster.local", Kind::V4, Answer::Elsewhere),
            ("svc.cluster.local", Kind::V4, Answer::Nothing),
            ("peers.shop.svc.cluster.local", Kind::V4, ips(&[[10, 1, 0, 1], [10, 1, 0, 2]])),
            ("peers-0.peers.shop.svc.cluster.local", Kind::V4, ips(&[[10, 1, 0, 1]])),
            ("10-1-0-2.peers.shop.svc.cluster.local", Kind::V4, ips(&[[10, 1, 0, 2]])),
            ("10-1-0-3.peers.shop.svc.cluster.local", Kind::V4, Answer::NoSuchName),
            ("alone.shop.svc.cluster.local", Kind::V4, Answer::Nothing),
            ("far.shop.svc.cluster.local", Kind::V4, Answer::Alias("db.example.com".into())),
            ("10-1-0-1.shop.pod.cluster.local", Kind::V4, ips(&[[10, 1, 0, 1]])),
            ("example.com", Kind::V4, Answer::Elsewhere),
            ("9.0.0.10.in-addr.arpa", Kind::Ptr, Answer::Name("cart.shop.svc.cluster.local".into())),
            ("8.8.8.8.in-addr.arpa", Kind::Ptr, Answer::Elsewhere),
            (
                "_web._tcp.cart.shop.svc.cluster.local",
                Kind::Srv,
                Answer::Ports(vec![(80, "cart.shop.svc.cluster.local".into())]),
            ),
            ("_web._udp.cart.shop.svc.cluster.local", Kind::Srv, Answer::NoSuchName),
            (
                "_web._tcp.peers.shop.svc.cluster.local",
                Kind::Srv,
                Answer::Ports(vec![
                    (8080, "peers-0.peers.shop.svc.cluster.local".into()),
                    (8080, "10-1-0-2.peers.shop.svc.cluster.local".into()),
                ]),
            ),
        ] {
            assert_eq!(of(&table, "cluster.local", name, kind), answer, "{name} {kind:?}");
        }
    }
}

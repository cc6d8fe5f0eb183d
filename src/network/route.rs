//! Where the sockets that guests open themselves may go, and to whom they lead.
//!
//! As with `wasi:http`, the inside of the cluster is open and the outside closed unless the pod's owner
//! opened it. A Service's address leads to one of its ready endpoints, chosen when the connection is
//! made, as kube-proxy would: no listener is in between, so that it works for every port number.
//! Datagrams to a Service go to where the node relays them ([`super::udp`]), for the answers to come from
//! there. Pure but for the choice's chance.

use std::net::{IpAddr, SocketAddr};

use super::balance::{self, Draw};
use super::dial;
use super::outbound::{Destination, EXTERNAL_NAME_HOPS, find_address, is_inside, is_localhost, not_allowed};
use super::table::{Endpoint, Resolved, RouteTable, ServiceKind, ServicePort};
use crate::wire::{Caller, OutboundError, Transport, is_outside};

/// What a host name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    Inside(Vec<IpAddr>),
    /// A host outside the cluster.
    Outside(String),
    /// A name that can only be one of the cluster's, and is not: why.
    Nothing(String),
}

/// Where `caller`'s socket that wants to reach `to` is to be connected. `allows` is asked about hosts
/// outside, `admits` about where it leads: a policy may shut it.
pub(super) fn route(
    table: &RouteTable,
    caller: &Caller,
    to: SocketAddr,
    transport: Transport,
    allows: impl Fn(&str) -> bool,
    admits: impl Fn(SocketAddr) -> Result<(), OutboundError>,
) -> Result<SocketAddr, OutboundError> {
    if transport == Transport::Udp {
        // Who relays chooses the pod, and asks then.
        let is_relayed = table.at(to, Transport::Udp).is_some();
        return if is_relayed { Ok(to) } else { datagram(table, caller, to).and_then(|to| admits(to).map(|()| to)) };
    }
    // Where a Service has led, that of the API server among them, whose endpoint may be the machine's.
    if let Some(endpoint) = [Some(to), dial::stood_in_for(to)].into_iter().flatten().find(|to| table.is_endpoint(*to)) {
        return admits(endpoint).map(|()| dial::reachable(endpoint));
    }
    if is_localhost(to.ip()) {
        return Ok(SocketAddr::new(caller.ip, to.port()));
    }
    match find_address(table, caller, to.ip(), to.port()) {
        Destination::Inside(port) => endpoint(caller, &port, admits),
        // This machine's own services are not the outside, whatever a pod may call there.
        Destination::Outside(host, _) if allows(&host) && is_outside(to.ip()) => admits(to).map(|()| to),
        Destination::Outside(host, _) | Destination::NoService(host) => Err(not_allowed(caller, &host)),
        Destination::NoPort(why) => Err(OutboundError::Refused(why)),
    }
}

/// One endpoint, for this connection. Nobody waits for one to become ready: the guest's thread of
/// execution is held while this is asked.
fn endpoint(
    caller: &Caller,
    port: &ServicePort,
    admits: impl Fn(SocketAddr) -> Result<(), OutboundError>,
) -> Result<SocketAddr, OutboundError> {
    match choose(port, caller.ip, admits) {
        Ok(endpoint) => Ok(dial::reachable(endpoint.address)),
        Err(why) => Err(why.unwrap_or_else(|| OutboundError::Refused(format!("{port} has no ready endpoint")))),
    }
}

/// An endpoint that `admits`, for `client`; if there is none, why the last was not.
pub(super) fn choose<E>(
    port: &ServicePort,
    client: IpAddr,
    admits: impl Fn(SocketAddr) -> Result<(), E>,
) -> Result<&Endpoint, Option<E>> {
    let client = port.affinity.as_deref().map(|affinity| (client, affinity));
    let (mut tried, mut why) = (Vec::new(), None);
    loop {
        let draw = Draw { client, tried: &tried, now_ms: balance::clock_ms(), chance: balance::chance() };
        let Some(endpoint) = balance::pick(&port.endpoints, &draw) else { return Err(why) };
        match admits(endpoint.address) {
            Ok(()) => return Ok(endpoint),
            Err(shut) => why = Some(shut),
        }
        tried.push(endpoint.address);
    }
}

fn datagram(table: &RouteTable, caller: &Caller, to: SocketAddr) -> Result<SocketAddr, OutboundError> {
    if to.ip() == caller.ip || (table.is_pod(to.ip()) && !is_localhost(to.ip())) {
        return Ok(to);
    }
    Err(OutboundError::Denied(format!("{to} is no pod and no Service of this cluster; datagrams go to these alone")))
}

/// What `host` stands for to `caller`.
pub(super) fn name(table: &RouteTable, caller: &Caller, host: &str) -> Name {
    if let Ok(ip) = host.parse::<IpAddr>() {
        // To know an address allows nothing: connecting is asked about by itself.
        return Name::Inside(vec![ip]);
    }
    if host.eq_ignore_ascii_case("localhost") {
        return Name::Inside(vec![caller.ip]);
    }
    let mut host = host.to_owned();
    for _ in 0..EXTERNAL_NAME_HOPS {
        let service = match table.resolve(&caller.namespace, &host) {
            Some(Resolved::Service(service)) => service,
            Some(Resolved::Pods(addresses)) => return Name::Inside(addresses.to_vec()),
            None if is_inside(&host) => return Name::Nothing(format!("{host}: there is no such Service")),
            None => return Name::Outside(host),
        };
        let addresses = match &service.kind {
            ServiceKind::External(name) => {
                host = name.to_string();
                continue;
            }
            ServiceKind::Cluster => &service.cluster_ips,
            ServiceKind::Headless => &service.addresses,
        };
        return match addresses.is_empty() {
            true => Name::Nothing(format!("service {}/{} has no address", service.namespace, service.name)),
            false => Name::Inside(addresses.clone()),
        };
    }
    Name::Nothing(format!("{host} is one of too many Services that only name each other"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::table::Objects;
    use super::*;

    /// Services of namespace `shop`: `cart` with two pods, `empty` with none, one headless, one that names
    /// a host outside, and one whose endpoint is the machine's, as the API server's is.
    fn table() -> RouteTable {
        let service = |name: &str, spec: serde_json::Value| {
            let service = json!({ "metadata": { "namespace": "shop", "name": name }, "spec": spec });
            Arc::new(serde_json::from_value(service).expect("a Service"))
        };
        let slice = |service: &str, endpoints: &[&str], port: u16| {
            let endpoints: Vec<_> = endpoints.iter().map(|ip| json!({ "addresses": [ip] })).collect();
            let slice = json!({
                "metadata": { "namespace": "shop", "name": service, "labels": { "kubernetes.io/service-name": service } },
                "addressType": "IPv4", "ports": [{ "name": "p", "port": port }], "endpoints": endpoints,
            });
            Arc::new(serde_json::from_value(slice).expect("a slice"))
        };
        let pods = ["127.64.0.1", "127.64.0.2"];
        let ports = json!([{ "name": "p", "port": 6379, "targetPort": 8080 }]);
        let objects = Objects {
            services: &[
                service("cart", json!({ "clusterIP": "127.96.0.9", "clusterIPs": ["127.96.0.9"], "ports": ports })),
                service("empty", json!({ "clusterIP": "127.96.0.10", "ports": ports })),
                service("api", json!({ "clusterIP": "127.96.0.1", "ports": [{ "name": "p", "port": 443 }] })),
                service("peers", json!({ "clusterIP": "None", "ports": ports })),
                service("far", json!({ "type": "ExternalName", "externalName": "db.example.com" })),
            ],
            slices: &[slice("cart", &pods, 8080), slice("peers", &pods, 8080), slice("api", &["127.0.0.1"], 6443)],
            ingresses: &[],
            classes: &[],
            node: "node-0",
        };
        RouteTable::build(&objects, None)
    }

    fn caller() -> Caller {
        Caller { namespace: "shop".into(), pod: "web".into(), ip: IpAddr::from([127, 64, 0, 9]) }
    }

    #[test]
    fn connections_lead_to_pods_and_where_the_owner_allows() {
        let table = table();
        let routed = |to: &str, transport| {
            let to = to.parse().expect("an address");
            route(&table, &caller(), to, transport, |host| matches!(host, "192.0.2.7" | "127.9.9.9"), |_| Ok(()))
                .map(|to| to.to_string())
                .map_err(|error| error.to_string())
        };
        let tcp = |to: &str| routed(to, Transport::Tcp);
        assert!(["127.64.0.1:8080", "127.64.0.2:8080"].contains(&tcp("127.96.0.9:6379").expect("routed").as_str()));
        for (to, leads) in [
            ("127.64.0.1:9", "127.64.0.1:"),
            ("127.64.0.9:5000", "127.64.0.9:5000"),
            ("127.0.0.1:5000", "127.64.0.9:5000"),
            ("127.96.0.1:443", "127.0.0.1:6443"),
            ("127.0.0.1:6443", "127.0.0.1:6443"),
            ("127.0.0.1:22", "127.64.0.9:22"),
            ("[::1]:5000", "127.64.0.9:5000"),
            ("192.0.2.7:443", "192.0.2.7:443"),
        ] {
            assert!(tcp(to).expect("routed").starts_with(leads), "{to}");
        }
        for (to, why) in [
            ("127.96.0.10:6379", "service shop/empty port 6379 has no ready endpoint"),
            ("127.96.0.9:1", "127.96.0.9 is no Service of this cluster"),
            ("192.0.2.8:443", "coracle.dev/outbound-hosts would have to name it"),
            ("127.9.9.9:22", "is no Service of this cluster"),
        ] {
            let error = tcp(to).expect_err(to);
            assert!(error.contains(why), "{to}: {error}");
        }
        for (to, goes) in [
            ("127.64.0.2:53", true),
            ("127.64.0.9:53", true),
            ("127.0.0.1:53", false),
            ("127.96.0.9:6379", false),
            ("192.0.2.7:53", false),
        ] {
            assert_eq!(routed(to, Transport::Udp).is_ok(), goes, "{to}");
        }
    }

    #[test]
    fn names_stand_for_what_a_pods_resolver_would_say() {
        let table = table();
        let inside = |ips: &[[u8; 4]]| Name::Inside(ips.iter().copied().map(IpAddr::from).collect());
        let cases = [
            ("cart", inside(&[[127, 96, 0, 9]])),
            ("cart.shop.svc.cluster.local", inside(&[[127, 96, 0, 9]])),
            ("peers", inside(&[[127, 64, 0, 1], [127, 64, 0, 2]])),
            ("localhost", inside(&[[127, 64, 0, 9]])),
            ("192.0.2.1", inside(&[[192, 0, 2, 1]])),
            ("far", Name::Outside("db.example.com".to_owned())),
            ("example.org", Name::Outside("example.org".to_owned())),
            ("none.shop.svc", Name::Nothing("none.shop.svc: there is no such Service".to_owned())),
        ];
        for (host, stands_for) in cases {
            assert_eq!(name(&table, &caller(), host), stands_for, "{host}");
        }
    }
}

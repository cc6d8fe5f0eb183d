//! What `/etc/resolv.conf` of a pod says, by its `dnsPolicy` and `dnsConfig`. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use crate::runtime::Dns;

/// As upstream completes names inside the cluster.
const NDOTS: &str = "ndots:5";
/// The C library takes no more servers, and upstream no more search domains.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// What a pod's resolver is made of.
pub struct Sources<'a> {
    /// The cluster's DNS server, if there is one.
    pub cluster: Option<IpAddr>,
    /// `cluster.local`
    pub domain: &'a str,
    /// What the machine's own file says.
    pub machine: &'a Dns,
}

/// The resolver of a pod.
pub fn of(pod: &core::Pod, sources: &Sources<'_>) -> Dns {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network) == Some(true);
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut dns = match (policy, sources.cluster) {
        ("None", _) => Dns::default(),
        ("ClusterFirst", Some(server)) if !host_network => cluster(server, namespace, sources),
        ("ClusterFirstWithHostNet", Some(server)) => cluster(server, namespace, sources),
        _ => machine(host_network, sources),
    };
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        add(&mut dns.servers, config.nameservers.iter().flatten().filter_map(|text| text.parse().ok()));
        add(&mut dns.searches, config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            dns.options.retain(|known| known.split(':').next() != Some(name.as_str()));
            dns.options.push(option.value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}:{value}")));
        }
    }
    dns.servers.truncate(MAX_SERVERS);
    dns.searches.truncate(MAX_SEARCHES);
    dns
}

fn cluster(server: IpAddr, namespace: &str, sources: &Sources<'_>) -> Dns {
    let domain = sources.domain;
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    add(&mut searches, sources.machine.searches.iter().cloned());
    Dns { servers: vec![server], searches, options: vec![NDOTS.to_owned()] }
}

/// The machine's own. A server of its loopback is none to a pod that has a loopback of its own: the cluster's,
/// which asks the machine's, stands in.
fn machine(host_network: bool, sources: &Sources<'_>) -> Dns {
    let mut dns = sources.machine.clone();
    if !host_network {
        dns.servers.retain(|server| !server.is_loopback());
        if dns.servers.is_empty() {
            dns.servers.extend(sources.cluster);
        }
    }
    dns
}

fn add<T: PartialEq>(list: &mut Vec<T>, more: impl Iterator<Item = T>) {
    for one in more {
        if !list.contains(&one) {
            list.push(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(spec: serde_json::Value, cluster: Option<&str>, machine: &str) -> String {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let pod = json!({ "metadata": { "namespace": "shop" }, "spec": spec });
        let machine = Dns::parse(machine);
        let cluster = cluster.and_then(|text| text.parse().ok());
        let sources = Sources { cluster, domain: "cluster.local", machine: &machine };
        of(&serde_json::from_value(pod).expect("a pod"), &sources).text()
    }

    #[test]
    fn the_policy_says_whose_servers_are_asked() {
        let own = "nameserver 192.0.2.1\nsearch example.com\n";
        let inside = "nameserver 100.64.0.10\n\
                      search shop.svc.cluster.local svc.cluster.local cluster.local example.com\noptions ndots:5\n";
        let server = Some("100.64.0.10");
        for (spec, cluster, wanted) in [
            (json!({}), server, inside),
            (json!({ "dnsPolicy": "ClusterFirst" }), None, own),
            (json!({ "dnsPolicy": "ClusterFirst", "hostNetwork": true }), server, own),
            (json!({ "dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true }), server, inside),
            (json!({ "dnsPolicy": "Default" }), server, own),
            (json!({ "dnsPolicy": "None" }), server, ""),
        ] {
            assert_eq!(text(spec.clone(), cluster, own), wanted, "{spec}");
        }
    }

    #[test]
    fn a_pods_own_configuration_is_added_and_its_options_win() {
        let config = json!({
            "nameservers": ["192.0.2.9", "100.64.0.10", "not one"], "searches": ["extra", "cluster.local"],
            "options": [{ "name": "ndots", "value": "2" }, { "name": "edns0" }],
        });
        let dns = text(json!({ "dnsConfig": config }), Some("100.64.0.10"), "");
        assert_eq!(
            dns,
            "nameserver 100.64.0.10\nnameserver 192.0.2.9\n\
             search shop.svc.cluster.local svc.cluster.local cluster.local extra\noptions ndots:2 edns0\n"
        );
    }

    #[test]
    fn the_machines_loopback_is_not_the_pods() {
        let own = "nameserver 127.0.0.53\n";
        let server = Some("100.64.0.10");
        assert_eq!(text(json!({ "dnsPolicy": "Default" }), server, own), "nameserver 100.64.0.10\n");
        assert_eq!(text(json!({ "dnsPolicy": "Default", "hostNetwork": true }), server, own), own);
    }
}

//! From the objects of the API to [`Policies`].

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::dns;
use super::{Block, Isolation, NamedPort, Peers, Policies, Ports, Rule, Which};
use crate::kinds::placement::{self, Labels};
use crate::wire::Transport;

/// A pod that has addresses of its own.
#[derive(Debug, Clone)]
pub struct PlacedPod {
    pub pod: Arc<Pod>,
    pub ips: Vec<IpAddr>,
}

/// Everything that policies are worked out from.
#[derive(Debug, Clone, Default)]
pub struct PolicyObjects {
    pub policies: Vec<Arc<NetworkPolicy>>,
    pub namespaces: Vec<Arc<Namespace>>,
    /// Those that run, and are not of the node's own network.
    pub pods: Vec<PlacedPod>,
    pub nodes: Vec<IpNet>,
    pub services: Option<IpNet>,
    /// Where the cluster's names are asked for.
    pub dns: Option<IpAddr>,
}

/// Somebody whom a selector may select.
struct Candidate<'a> {
    namespace: &'a str,
    labels: &'a Labels,
    ips: &'a [IpAddr],
}

struct Index<'a> {
    candidates: Vec<Candidate<'a>>,
    /// Places in `candidates`.
    by_namespace: BTreeMap<&'a str, Vec<usize>>,
    namespace_labels: HashMap<&'a str, &'a Labels>,
}

/// The directions of one pod, while they are gathered.
#[derive(Default)]
struct Gathered {
    ingress: Option<Vec<Arc<Rule>>>,
    egress: Option<Vec<Arc<Rule>>>,
}

impl Policies {
    /// What `objects` come to.
    pub fn build(objects: &PolicyObjects) -> Self {
        if objects.policies.is_empty() {
            return Self::default();
        }
        let none = Labels::new();
        let dns_labels = Labels::from([("k8s-app".to_owned(), "kube-dns".to_owned())]);
        let dns = objects.dns.as_slice();
        let index = Index::of(objects, &none, Candidate { namespace: "kube-system", labels: &dns_labels, ips: dns });
        let mut gathered: BTreeMap<usize, Gathered> = BTreeMap::new();
        for policy in &objects.policies {
            index.apply(policy, &mut gathered);
        }
        let mut isolated = HashMap::new();
        for (at, Gathered { ingress, egress }) in gathered {
            let Some(PlacedPod { pod, ips }) = objects.pods.get(at) else { continue };
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let pod = format!("{}/{name}", namespace_of(pod)).into();
            let isolation = Arc::new(Isolation { pod, ingress, egress });
            isolated.extend(ips.iter().map(|ip| (*ip, isolation.clone())));
        }
        let mut named_ports: HashMap<IpAddr, Arc<[NamedPort]>> = HashMap::new();
        for PlacedPod { pod, ips } in &objects.pods {
            let ports = named_ports_of(pod);
            if !ports.is_empty() {
                named_ports.extend(ips.iter().map(|ip| (*ip, ports.clone())));
            }
        }
        named_ports.extend(objects.dns.map(|ip| (ip, dns_ports())));
        Self { isolated, named_ports, nodes: objects.nodes.clone(), services: objects.services, dns: objects.dns }
    }
}

impl<'a> Index<'a> {
    fn of(objects: &'a PolicyObjects, none: &'a Labels, dns: Candidate<'a>) -> Self {
        let pods = objects.pods.iter().map(|PlacedPod { pod, ips }| Candidate {
            namespace: namespace_of(pod),
            labels: pod.metadata.labels.as_ref().unwrap_or(none),
            ips,
        });
        // Behind the pods, so that places are those of `objects.pods`.
        let candidates: Vec<Candidate<'_>> = pods.chain([dns]).collect();
        let mut by_namespace: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, candidate) in candidates.iter().enumerate() {
            by_namespace.entry(candidate.namespace).or_default().push(at);
        }
        let namespaces = objects.namespaces.iter();
        let namespace_labels = namespaces
            .filter_map(|one| Some((one.metadata.name.as_deref()?, one.metadata.labels.as_ref().unwrap_or(none))))
            .collect();
        Self { candidates, by_namespace, namespace_labels }
    }

    /// Adds what one policy says to those that it selects.
    fn apply(&self, policy: &NetworkPolicy, gathered: &mut BTreeMap<usize, Gathered>) {
        let (Some(spec), Some(namespace)) = (&policy.spec, policy.metadata.namespace.as_deref()) else { return };
        let (is_ingress, is_egress) = directions(spec);
        let rules_if = |wanted: bool, make: &dyn Fn() -> Vec<Arc<Rule>>| wanted.then(make);
        let ingress = rules_if(is_ingress, &|| {
            let rules = spec.ingress.iter().flatten();
            rules.map(|rule| Arc::new(self.rule(namespace, rule.from.as_deref(), rule.ports.as_deref()))).collect()
        });
        let egress = rules_if(is_egress, &|| {
            let rules = spec.egress.iter().flatten();
            rules.map(|rule| Arc::new(self.rule(namespace, rule.to.as_deref(), rule.ports.as_deref()))).collect()
        });
        let everyone = LabelSelector::default();
        let selector = spec.pod_selector.as_ref().unwrap_or(&everyone);
        for at in self.by_namespace.get(namespace).into_iter().flatten() {
            let Some(candidate) = self.candidates.get(*at) else { continue };
            if !placement::matches(Some(selector), candidate.labels) {
                continue;
            }
            let pod = gathered.entry(*at).or_default();
            for (rules, known) in [(&ingress, &mut pod.ingress), (&egress, &mut pod.egress)] {
                if let Some(rules) = rules {
                    known.get_or_insert_default().extend(rules.iter().cloned());
                }
            }
        }
    }

    /// No peers are all, and so are no ports.
    fn rule(&self, namespace: &str, peers: Option<&[NetworkPolicyPeer]>, ports: Option<&[NetworkPolicyPort]>) -> Rule {
        let peers = peers.filter(|peers| !peers.is_empty()).map(|list| {
            let mut peers = Peers::default();
            for peer in list {
                self.add_peer(namespace, peer, &mut peers);
            }
            peers
        });
        let ports = ports.filter(|ports| !ports.is_empty());
        Rule { peers, ports: ports.map(|ports| ports.iter().filter_map(ports_of).collect()) }
    }

    fn add_peer(&self, own: &str, peer: &NetworkPolicyPeer, peers: &mut Peers) {
        if let Some(block) = &peer.ip_block {
            if let Ok(cidr) = block.cidr.parse::<IpNet>() {
                let except = block.except.iter().flatten().filter_map(|except| except.parse().ok()).collect();
                peers.blocks.push(Block { cidr, except });
            }
            return;
        }
        if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
            return;
        }
        for (namespace, places) in &self.by_namespace {
            let is_meant = match &peer.namespace_selector {
                Some(selector) => self.namespace_matches(selector, namespace),
                None => *namespace == own,
            };
            if !is_meant {
                continue;
            }
            let chosen = places.iter().filter_map(|at| self.candidates.get(*at)).filter(|candidate| {
                peer.pod_selector.as_ref().is_none_or(|selector| placement::matches(Some(selector), candidate.labels))
            });
            peers.pods.extend(chosen.flat_map(|candidate| candidate.ips.iter().copied()));
        }
    }

    fn namespace_matches(&self, selector: &LabelSelector, namespace: &str) -> bool {
        match self.namespace_labels.get(namespace) {
            Some(labels) => placement::matches(Some(selector), labels),
            // Not seen yet, or without an object: it has the label that every namespace has.
            None => {
                let name = ("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
                placement::matches(Some(selector), &Labels::from([name]))
            }
        }
    }
}

fn namespace_of(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// Ingress and egress: what is written, or else what upstream fills in.
fn directions(spec: &NetworkPolicySpec) -> (bool, bool) {
    match spec.policy_types.as_deref() {
        Some(types @ [_, ..]) => {
            let has = |wanted: &str| types.iter().any(|one| one == wanted);
            (has("Ingress"), has("Egress"))
        }
        _ => (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())),
    }
}

fn ports_of(port: &NetworkPolicyPort) -> Option<Ports> {
    let which = match &port.port {
        None => Which::Every,
        Some(IntOrString::Int(first)) => {
            let first = u16::try_from(*first).ok()?;
            let last = port.end_port.and_then(|last| u16::try_from(last).ok()).unwrap_or(first);
            Which::Range(first, last)
        }
        Some(IntOrString::String(name)) => Which::Named(name.as_str().into()),
    };
    Some(Ports { transport: Transport::of_protocol(port.protocol.as_deref())?, which })
}

fn named_ports_of(pod: &Pod) -> Arc<[NamedPort]> {
    let Some(spec) = &pod.spec else { return Arc::default() };
    // Sidecars are init containers that stay.
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let named = ports.filter_map(|port| {
        Some(NamedPort {
            name: port.name.as_deref()?.into(),
            transport: Transport::of_protocol(port.protocol.as_deref())?,
            number: u16::try_from(port.container_port).ok()?,
        })
    });
    named.collect()
}

/// As the cluster's DNS server calls them elsewhere.
fn dns_ports() -> Arc<[NamedPort]> {
    let port = |name: &str, transport| NamedPort { name: name.into(), transport, number: dns::PORT };
    Arc::new([port("dns", Transport::Udp), port("dns-tcp", Transport::Tcp)])
}

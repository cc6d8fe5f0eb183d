//! The route table: where a name, an address or a URL leads.
//!
//! One immutable value made from what the API says of Services, EndpointSlices and Ingresses; the
//! request path reads it and nothing else. A new one replaces the old whole, and takes over what is
//! known of the endpoints' health. Pure: no clock, no socket, no resolver.

mod build;
mod ingress;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::uri::Authority;

pub use build::Objects;
pub use ingress::IngressMatch;
use ingress::IngressRules;

use super::balance::{Affinity, Health};
use crate::wire::Transport;

/// Where all in-cluster names end.
const CLUSTER_DOMAIN: [&str; 2] = ["cluster", "local"];

/// Where names, addresses and URLs lead. See the module's own words.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// By namespace, then name.
    services: HashMap<Arc<str>, HashMap<Arc<str>, Arc<Service>>>,
    by_address: HashMap<(SocketAddr, Transport), Arc<ServicePort>>,
    by_node_port: HashMap<(u16, Transport), Arc<ServicePort>>,
    ingress: IngressRules,
    /// Every endpoint's address, ready or not: the pods that are known.
    pods: HashSet<IpAddr>,
    /// Of every endpoint in use, so that the next table can take it over.
    health: HashMap<SocketAddr, Arc<Health>>,
}

/// A Service, as far as routing goes.
#[derive(Debug)]
pub struct Service {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub kind: ServiceKind,
    pub ports: Vec<Arc<ServicePort>>,
    pub cluster_ips: Vec<IpAddr>,
    /// The addresses that the name of a headless Service stands for.
    pub addresses: Vec<IpAddr>,
    /// The addresses of endpoints that have a name of their own (`web-0.web`).
    pub hostnames: HashMap<Box<str>, Vec<IpAddr>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// Has ClusterIPs.
    Cluster,
    /// Its name stands for its pods.
    Headless,
    /// Its name stands for another name.
    External(Arc<str>),
}

/// What is spoken on a port, as far as the manifest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http,
    /// Bytes that nobody is to look into.
    Opaque,
    /// To be found out from what the client sends.
    Unstated,
}

/// One port of a Service, and who answers there.
#[derive(Debug)]
pub struct ServicePort {
    pub namespace: Arc<str>,
    pub service: Arc<str>,
    pub name: Arc<str>,
    pub port: u16,
    pub transport: Transport,
    pub protocol: Protocol,
    /// Where clients have been, for `sessionAffinity: ClientIP`.
    pub affinity: Option<Arc<Affinity>>,
    /// Ready ones only, each address once, ordered by address.
    pub endpoints: Vec<Endpoint>,
    /// Whether no other node's endpoints count; then only nodes that have some answer.
    here_alone: bool,
    /// The node port that has these endpoints, where they are not the Service's.
    door: Option<u16>,
    /// Whether a later table may know more endpoints; not so for a pod called by its address.
    lasting: bool,
}

/// An address that answers for a Service.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// The address as a URL has it.
    pub authority: Authority,
    pub health: Arc<Health>,
}

/// What a host name stands for inside the cluster.
#[derive(Debug)]
pub enum Resolved<'t> {
    Service(&'t Arc<Service>),
    /// One endpoint by its own name.
    Pods(&'t [IpAddr]),
}

impl RouteTable {
    /// What `host` means to a pod of `namespace`, by the search path that Kubernetes gives pods.
    pub fn resolve(&self, namespace: &str, host: &str) -> Option<Resolved<'_>> {
        let host = lowercase(host);
        let (host, absolute) = match host.strip_suffix('.') {
            Some(host) => (host, true),
            None => (&*host, false),
        };
        let labels: Vec<&str> = host.split('.').collect();
        let below_domain = labels.strip_suffix(&CLUSTER_DOMAIN);
        let mut searched = Vec::new();
        if !absolute {
            searched.push(Some([&labels[..], &[namespace]].concat()));
            searched.push(Some(labels.clone()));
            searched.push(below_svc(Some(&labels)));
        }
        searched.push(below_svc(below_domain));
        searched.into_iter().flatten().find_map(|labels| self.lookup(&labels))
    }

    /// `[service, namespace]` or `[hostname, service, namespace]`.
    fn lookup(&self, labels: &[&str]) -> Option<Resolved<'_>> {
        match labels {
            [service, namespace] => self.services.get(*namespace)?.get(*service).map(Resolved::Service),
            [hostname, service, namespace] => {
                let service = self.services.get(*namespace)?.get(*service)?;
                service.hostnames.get(*hostname).map(|addresses| Resolved::Pods(addresses))
            }
            _ => None,
        }
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<Service>> {
        self.services.get(namespace)?.get(name)
    }

    /// The Service that has this ClusterIP.
    pub fn named(&self, ip: IpAddr) -> Option<&Arc<Service>> {
        let services = self.services.values().flat_map(HashMap::values);
        services.into_iter().find(|service| service.cluster_ips.contains(&ip))
    }

    /// The port of a Service at one of its ClusterIPs.
    pub fn at(&self, address: SocketAddr, transport: Transport) -> Option<&Arc<ServicePort>> {
        self.by_address.get(&(address, transport))
    }

    pub fn at_node_port(&self, port: u16, transport: Transport) -> Option<&Arc<ServicePort>> {
        self.by_node_port.get(&(port, transport))
    }

    /// Where the ingress sends a request for `path` on `host` (as the client wrote it, without port).
    pub fn ingress(&self, host: &str, path: &str) -> IngressMatch<'_> {
        self.ingress.find(&lowercase(host), path)
    }

    /// `port` as it is in this table: with the endpoints of now. `None`: the Service has gone.
    pub fn renew(&self, port: &Arc<ServicePort>) -> Option<Arc<ServicePort>> {
        if !port.lasting {
            return Some(port.clone());
        }
        if let Some(door) = port.door {
            return self.at_node_port(door, port.transport).cloned();
        }
        self.service(&port.namespace, &port.service)?.port(port.port, port.transport).cloned()
    }

    /// Every ClusterIP and port that is to be answered.
    pub fn cluster_addresses(&self) -> impl Iterator<Item = (SocketAddr, Transport)> {
        self.by_address.iter().filter(|(_, port)| port.is_answered()).map(|(door, _)| *door)
    }

    /// Every node port that is to be answered.
    pub fn node_ports(&self) -> impl Iterator<Item = (u16, Transport)> {
        self.by_node_port.iter().filter(|(_, port)| port.is_answered()).map(|(door, _)| *door)
    }

    /// Whether a Service in use leads to just this address, by TCP.
    pub fn is_endpoint(&self, address: SocketAddr) -> bool {
        self.health.contains_key(&address)
    }

    /// Whether `ip` is some endpoint's: a pod, wherever it runs.
    pub fn is_pod(&self, ip: IpAddr) -> bool {
        self.pods.contains(&ip)
    }
}

impl Service {
    /// The port with this number: TCP and UDP may have the same.
    pub fn port(&self, port: u16, transport: Transport) -> Option<&Arc<ServicePort>> {
        self.ports.iter().find(|known| known.port == port && known.transport == transport)
    }

    /// The port with this name.
    pub fn port_named(&self, name: &str) -> Option<&Arc<ServicePort>> {
        self.ports.iter().find(|known| &*known.name == name)
    }
}

impl ServicePort {
    /// Node processes of one machine share its addresses: who has nobody to send a client to leaves it to
    /// those that have.
    fn is_answered(&self) -> bool {
        !self.here_alone || !self.endpoints.is_empty()
    }

    /// Pods called by their addresses, not through a Service.
    pub fn of_pods(name: &str, addresses: &[IpAddr], port: u16) -> Self {
        let endpoint = |ip: &IpAddr| Endpoint::new(SocketAddr::new(*ip, port), Arc::default());
        Self {
            namespace: "".into(),
            service: name.into(),
            name: "".into(),
            port,
            transport: Transport::Tcp,
            protocol: Protocol::Http,
            affinity: None,
            here_alone: false,
            door: None,
            endpoints: addresses.iter().map(endpoint).collect(),
            lasting: false,
        }
    }

    /// A pod's port that is published elsewhere: what is spoken there is to be found out.
    pub fn of_pod(name: &str, address: SocketAddr, transport: Transport) -> Self {
        let called = Self::of_pods(name, &[address.ip()], address.port());
        Self { protocol: Protocol::Unstated, transport, ..called }
    }
}

impl std::fmt::Display for ServicePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.lasting {
            true => write!(f, "service {}/{} port {}", self.namespace, self.service, self.port),
            false => write!(f, "{} port {}", self.service, self.port),
        }
    }
}

impl Endpoint {
    pub fn new(address: SocketAddr, health: Arc<Health>) -> Self {
        let authority = Authority::try_from(address.to_string()).expect("an address is an authority");
        Self { address, authority, health }
    }
}

fn below_svc<'h>(labels: Option<&[&'h str]>) -> Option<Vec<&'h str>> {
    labels.and_then(|labels| labels.strip_suffix(&["svc"])).map(Vec::from)
}

/// Names are compared in lower case.
fn lowercase(name: &str) -> Cow<'_, str> {
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

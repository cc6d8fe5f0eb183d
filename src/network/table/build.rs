//! From the objects of the API to a [`RouteTable`].

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service as KubeService, ServicePort as KubePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as KubeEndpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressClass};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::ingress::{Backend, IngressRules, PathKind};
use super::{Endpoint, Protocol, RouteTable, Service, ServiceKind, ServicePort};
use crate::kinds::ingress_class;
use crate::network::balance::{Affinity, Health};
use crate::wire::Transport;

/// Upstream's default of `sessionAffinityConfig`.
const AFFINITY: Duration = Duration::from_secs(10_800);
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Everything a table is made from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Objects<'a> {
    pub services: &'a [Arc<KubeService>],
    pub slices: &'a [Arc<EndpointSlice>],
    pub ingresses: &'a [Arc<Ingress>],
    pub classes: &'a [Arc<IngressClass>],
    /// Whose table it is, for Services that keep their traffic on one node.
    pub node: &'a str,
}

impl RouteTable {
    /// The table of `objects`. What `previous` knows of the endpoints' health goes on.
    pub fn build(objects: &Objects<'_>, previous: Option<&RouteTable>) -> Self {
        let mut table = RouteTable::default();
        let mut slices: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
        for slice in objects.slices {
            table.pods.extend(slice.endpoints.iter().flatten().filter_map(address_of));
            if let Some(owner) = owner_of(slice) {
                slices.entry(owner).or_default().push(slice);
            }
        }
        for service in objects.services {
            let meta = &service.metadata;
            if let (Some(namespace), Some(name)) = (meta.namespace.as_deref(), meta.name.as_deref()) {
                let slices = slices.get(&(namespace, name)).map_or(&[][..], Vec::as_slice);
                table.add_service(service, (namespace, name), slices, objects.node, previous);
            }
        }
        table.ingress = ingress_rules(&table, objects);
        table
    }

    fn add_service(
        &mut self,
        service: &KubeService,
        (namespace, name): (&str, &str),
        slices: &[&EndpointSlice],
        node: &str,
        previous: Option<&RouteTable>,
    ) {
        let Some(spec) = &service.spec else { return };
        let kind = match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
            (Some("ExternalName"), _) => {
                ServiceKind::External(spec.external_name.as_deref().unwrap_or_default().into())
            }
            (_, Some("None")) => ServiceKind::Headless,
            _ => ServiceKind::Cluster,
        };
        let (namespace, name): (Arc<str>, Arc<str>) = (namespace.into(), name.into());
        let choice = Choice::of(spec, node);
        let outside = Choice::from_outside(spec, node);
        let mut ports = Vec::new();
        for port in spec.ports.iter().flatten() {
            let (Ok(number), Some(transport)) =
                (u16::try_from(port.port), Transport::of_protocol(port.protocol.as_deref()))
            else {
                continue;
            };
            let known = previous.and_then(|table| table.service(&namespace, &name)?.port(number, transport));
            let affinity = affinity(spec, known);
            let mut make = |choice: &Choice<'_>, door| {
                let addresses = choice.addresses(slices, |slice| endpoint_port(slice, port));
                Arc::new(ServicePort {
                    namespace: namespace.clone(),
                    service: name.clone(),
                    name: port.name.as_deref().unwrap_or_default().into(),
                    port: number,
                    transport,
                    protocol: protocol_of(port),
                    affinity: affinity.clone(),
                    endpoints: addresses.into_iter().map(|to| self.endpoint(to, transport, previous)).collect(),
                    here_alone: choice.locality == Locality::Required,
                    door,
                    lasting: true,
                })
            };
            let made = make(&choice, None);
            let node_port = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
            if let Some(node_port) = node_port {
                let is_same = outside.locality == choice.locality;
                let made = if is_same { made.clone() } else { make(&outside, Some(node_port)) };
                self.by_node_port.insert((node_port, transport), made);
            }
            self.publish_port(spec, &made);
            ports.push(made);
        }
        let by_ip = choice.addresses(slices, |_| Some(0));
        let service = Service {
            ports,
            cluster_ips: cluster_ips(spec),
            addresses: by_ip.iter().map(SocketAddr::ip).collect(),
            hostnames: hostnames(&choice, slices),
            kind,
            name: name.clone(),
            namespace: namespace.clone(),
        };
        self.services.entry(namespace).or_default().insert(name, Arc::new(service));
    }

    /// Enters the addresses at which a port is to be answered.
    fn publish_port(&mut self, spec: &ServiceSpec, made: &Arc<ServicePort>) {
        let listed = spec.cluster_ips.iter().flatten().chain(spec.external_ips.iter().flatten());
        for ip in listed.chain(&spec.cluster_ip).filter_map(|ip| ip.parse::<IpAddr>().ok()) {
            self.by_address.insert((SocketAddr::new(ip, made.port), made.transport), made.clone());
        }
    }

    fn endpoint(&mut self, address: SocketAddr, transport: Transport, previous: Option<&RouteTable>) -> Endpoint {
        if transport == Transport::Udp {
            // Nobody answers for a datagram's arrival.
            return Endpoint::new(address, Arc::default());
        }
        let known = || previous.and_then(|table| table.health.get(&address)).cloned();
        let health: &Arc<Health> = self.health.entry(address).or_insert_with(|| known().unwrap_or_default());
        Endpoint::new(address, health.clone())
    }
}

/// What is known of clients goes on, unless it is to be kept for another time now.
fn affinity(spec: &ServiceSpec, before: Option<&Arc<ServicePort>>) -> Option<Arc<Affinity>> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| u64::try_from(config.timeout_seconds?).ok());
    let timeout = seconds.map_or(AFFINITY, Duration::from_secs);
    let known = before.and_then(|port| port.affinity.clone()).filter(|known| known.timeout() == timeout);
    Some(known.unwrap_or_else(|| Arc::new(Affinity::new(timeout))))
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
    if let Some(ip) = spec.cluster_ip.as_ref().and_then(|ip| ip.parse().ok())
        && !ips.contains(&ip)
    {
        ips.push(ip);
    }
    ips
}

/// Which endpoints of a Service count.
struct Choice<'a> {
    unready_too: bool,
    node: &'a str,
    locality: Locality,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Locality {
    Anywhere,
    /// `trafficDistribution: PreferSameNode`
    Preferred,
    /// `internalTrafficPolicy: Local`, `externalTrafficPolicy: Local`
    Required,
}

/// What an endpoint may be used for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fitness {
    Ready,
    /// It is ending but still answers: better than nobody.
    Ending,
    Unfit,
}

impl<'a> Choice<'a> {
    fn of(spec: &ServiceSpec, node: &'a str) -> Self {
        let locality = match (spec.internal_traffic_policy.as_deref(), spec.traffic_distribution.as_deref()) {
            (Some("Local"), _) => Locality::Required,
            (_, Some("PreferSameNode")) => Locality::Preferred,
            _ => Locality::Anywhere,
        };
        Self { unready_too: spec.publish_not_ready_addresses == Some(true), node, locality }
    }

    /// The same for those who come by a node port.
    fn from_outside(spec: &ServiceSpec, node: &'a str) -> Self {
        let inside = Self::of(spec, node);
        let locality = match (spec.external_traffic_policy.as_deref(), inside.locality) {
            (Some("Local"), _) => Locality::Required,
            (_, Locality::Required) => Locality::Anywhere,
            (_, other) => other,
        };
        Self { locality, ..inside }
    }

    fn fitness(&self, conditions: Option<&EndpointConditions>) -> Fitness {
        let says = |condition: fn(&EndpointConditions) -> Option<bool>| conditions.and_then(condition);
        if self.unready_too || says(|conditions| conditions.ready) != Some(false) {
            Fitness::Ready
        } else if says(|conditions| conditions.serving) == Some(true)
            && says(|conditions| conditions.terminating) == Some(true)
        {
            Fitness::Ending
        } else {
            Fitness::Unfit
        }
    }

    /// The addresses to use, each once, in order.
    fn addresses(&self, slices: &[&EndpointSlice], port: impl Fn(&EndpointSlice) -> Option<u16>) -> Vec<SocketAddr> {
        let mut found: BTreeMap<SocketAddr, (Fitness, bool)> = BTreeMap::new();
        for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
            let Some(port) = port(slice) else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                let fitness = self.fitness(endpoint.conditions.as_ref());
                let here = endpoint.node_name.as_deref() == Some(self.node);
                let ip = address_of(endpoint).filter(|_| fitness != Fitness::Unfit);
                if let Some(ip) = ip {
                    let known = found.entry(SocketAddr::new(ip, port)).or_insert((fitness, here));
                    // The same pod in two slices while they are rewritten: the better word counts.
                    if fitness == Fitness::Ready {
                        *known = (fitness, here);
                    }
                }
            }
        }
        let is_here = |(_, (_, here)): &(&SocketAddr, &(Fitness, bool))| *here;
        let only_here = match self.locality {
            Locality::Anywhere => false,
            Locality::Required => true,
            Locality::Preferred => found.iter().any(|found| is_here(&found) && found.1.0 == Fitness::Ready),
        };
        let usable = || found.iter().filter(|found| !only_here || is_here(found));
        let of = |wanted| usable().filter(move |(_, (fitness, _))| *fitness == wanted).map(|(address, _)| *address);
        let ready: Vec<SocketAddr> = of(Fitness::Ready).collect();
        if ready.is_empty() { of(Fitness::Ending).collect() } else { ready }
    }
}

fn owner_of(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some((slice.metadata.namespace.as_deref()?, service))
}

fn address_of(endpoint: &KubeEndpoint) -> Option<IpAddr> {
    endpoint.addresses.first()?.parse().ok()
}

/// The number that `slice` gives to a Service's port: they are joined by name.
fn endpoint_port(slice: &EndpointSlice, port: &KubePort) -> Option<u16> {
    let name = port.name.as_deref().unwrap_or_default();
    let same = |known: &&k8s_openapi::api::discovery::v1::EndpointPort| {
        known.name.as_deref().unwrap_or_default() == name
            && Transport::of_protocol(known.protocol.as_deref()) == Transport::of_protocol(port.protocol.as_deref())
    };
    let known = slice.ports.iter().flatten().find(same)?;
    // No number means every port: then the Service's own word counts.
    let own = match &port.target_port {
        Some(IntOrString::Int(number)) if *number != 0 => *number,
        _ => port.port,
    };
    u16::try_from(known.port.unwrap_or(own)).ok()
}

/// `appProtocol` decides, then the habit of naming ports `http-…` or `tcp-…`.
fn protocol_of(port: &KubePort) -> Protocol {
    let named = port.name.as_deref().and_then(|name| name.split('-').next());
    match port.app_protocol.as_deref().or(named) {
        Some("http" | "kubernetes.io/h2c" | "h2c" | "http2" | "grpc" | "web") => Protocol::Http,
        Some("https" | "tls" | "tcp" | "mysql" | "postgres" | "postgresql" | "redis" | "kubernetes.io/ws") => {
            Protocol::Opaque
        }
        _ => Protocol::Unstated,
    }
}

fn hostnames(choice: &Choice<'_>, slices: &[&EndpointSlice]) -> HashMap<Box<str>, Vec<IpAddr>> {
    let mut names: HashMap<Box<str>, Vec<IpAddr>> = HashMap::new();
    for endpoint in slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()) {
        if choice.fitness(endpoint.conditions.as_ref()) != Fitness::Ready {
            continue;
        }
        if let (Some(name), Some(ip)) = (&endpoint.hostname, address_of(endpoint)) {
            let ips = names.entry(name.as_str().into()).or_default();
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
    }
    names
}

/// The rules of the Ingresses that are ours, the older first: it has the right to what both claim.
fn ingress_rules(table: &RouteTable, objects: &Objects<'_>) -> IngressRules {
    let mut ours: Vec<&Ingress> = objects
        .ingresses
        .iter()
        .map(|ingress| &**ingress)
        .filter(|ingress| ingress_class::is_ours(ingress, objects.classes))
        .collect();
    ours.sort_by_key(|ingress| {
        let meta = &ingress.metadata;
        (meta.creation_timestamp.as_ref().map(|time| time.0), meta.namespace.as_deref(), meta.name.as_deref())
    });
    let mut rules = IngressRules::default();
    for ingress in ours {
        let (Some(spec), Some(namespace)) = (&ingress.spec, ingress.metadata.namespace.as_deref()) else { continue };
        if let Some(backend) = &spec.default_backend {
            rules.set_default(backend_of(table, namespace, backend));
        }
        for rule in spec.rules.iter().flatten() {
            let host = rules.host(&rule.host.as_deref().unwrap_or_default().to_ascii_lowercase());
            for path in rule.http.iter().flat_map(|http| &http.paths) {
                let kind = if path.path_type == "Exact" { PathKind::Exact } else { PathKind::Prefix };
                let backend = backend_of(table, namespace, &path.backend);
                host.add(kind, path.path.as_deref().unwrap_or("/"), backend);
            }
        }
    }
    rules.sort();
    rules
}

fn backend_of(table: &RouteTable, namespace: &str, backend: &IngressBackend) -> Backend {
    let wanted = backend.service.as_ref()?;
    let service = table.service(namespace, &wanted.name)?;
    let port = wanted.port.as_ref()?;
    match (&port.name, port.number) {
        (Some(name), _) if !name.is_empty() => {
            service.port_named(name).filter(|port| port.transport == Transport::Tcp).cloned()
        }
        (_, number) => service.port(u16::try_from(number?).ok()?, Transport::Tcp).cloned(),
    }
}

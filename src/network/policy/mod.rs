//! NetworkPolicy: who may speak to whom.
//!
//! One decision, made from one immutable value: [`Policies::check`] says of a flow whether the policies that
//! select its two ends let it pass. What selectors mean is worked out when pods, namespaces or policies
//! change, so that a flow costs one lookup where no policy selects either end, and a walk of the rules that
//! apply where one does. As upstream has it: a pod that no policy selects for a direction is open in it; one
//! that is selected is open to what some rule of some policy names; a pod never shuts itself out, nor its
//! node (<https://kubernetes.io/docs/concepts/services-networking/network-policies/>).
//!
//! It is asked where flows begin: when the router has chosen an endpoint, when a guest connects or sends,
//! when somebody comes to a pod's own address. A flow that goes on from one node's router to another node
//! has been asked about already, so nodes pass. Pods whose packets nobody here sees are given the same rules
//! as a list ([`Policies::confinement`]). Pure: no clock, no socket.

mod build;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::dns;
use crate::wire::Transport;
use crate::wire::confinement::{Confinement, Opening, Ports as OpenPorts};

pub use build::{PlacedPod, PolicyObjects};

/// The policies of a cluster, worked out. The default knows none: all is open.
#[derive(Debug, Default)]
pub struct Policies {
    /// Pods that some policy selects, by each of their addresses.
    isolated: HashMap<IpAddr, Arc<Isolation>>,
    /// The ports that pods have names for, by address.
    named_ports: HashMap<IpAddr, Arc<[NamedPort]>>,
    nodes: Vec<IpNet>,
    /// The addresses of Services: only a node's own machine can come from there, and who goes there is sent
    /// on by a node, which asks then.
    services: Option<IpNet>,
    /// Where the cluster's names are asked for, whether or not a server listens there.
    dns: Option<IpAddr>,
}

/// What a pod is open to, by direction; `None`: everything.
#[derive(Debug)]
struct Isolation {
    /// `namespace/name`
    pod: Arc<str>,
    ingress: Option<Vec<Arc<Rule>>>,
    egress: Option<Vec<Arc<Rule>>>,
}

/// One rule of a policy: these peers, on these ports.
#[derive(Debug)]
struct Rule {
    /// `None`: anybody.
    peers: Option<Peers>,
    /// `None`: every port of every protocol.
    ports: Option<Vec<Ports>>,
}

#[derive(Debug, Default)]
struct Peers {
    pods: HashSet<IpAddr>,
    blocks: Vec<Block>,
}

/// An `ipBlock`.
#[derive(Debug)]
struct Block {
    cidr: IpNet,
    except: Vec<IpNet>,
}

#[derive(Debug)]
struct Ports {
    transport: Transport,
    which: Which,
}

#[derive(Debug)]
enum Which {
    Every,
    /// The first and the last.
    Range(u16, u16),
    /// The port that the pod which is called has this name for.
    Named(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct NamedPort {
    name: Box<str>,
    transport: Transport,
    number: u16,
}

/// The direction in which a flow is shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Ingress,
    Egress,
}

/// Why a flow may not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub direction: Direction,
    /// The pod whose policies shut it, `namespace/name`.
    pub pod: Arc<str>,
    pub from: IpAddr,
    pub to: SocketAddr,
    pub transport: Transport,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { direction, pod, from, to, transport } = self;
        let (direction, transport) = match (direction, transport) {
            (Direction::Ingress, Transport::Tcp) => ("ingress", "TCP"),
            (Direction::Ingress, Transport::Udp) => ("ingress", "UDP"),
            (Direction::Egress, Transport::Tcp) => ("egress", "TCP"),
            (Direction::Egress, Transport::Udp) => ("egress", "UDP"),
        };
        write!(f, "no NetworkPolicy of pod {pod} allows {direction} from {from} to {to} by {transport}")
    }
}

impl Policies {
    /// Whether anything is shut at all.
    pub fn is_empty(&self) -> bool {
        self.isolated.is_empty()
    }

    /// Whether a flow may begin.
    ///
    /// # Errors
    /// What shuts it: the caller's egress is asked about first.
    pub fn check(&self, from: IpAddr, to: SocketAddr, transport: Transport) -> Result<(), Refusal> {
        if self.isolated.is_empty() {
            return Ok(());
        }
        self.check_isolated(from.to_canonical(), to, transport)
    }

    fn check_isolated(&self, from: IpAddr, to: SocketAddr, transport: Transport) -> Result<(), Refusal> {
        if from == to.ip() {
            return Ok(());
        }
        let refusal =
            |direction, isolation: &Isolation| Refusal { direction, pod: isolation.pod.clone(), from, to, transport };
        let caller = self.isolated.get(&from);
        if let Some((isolation, rules)) = caller.and_then(|caller| Some((caller, caller.egress.as_ref()?)))
            && !self.is_node(to.ip())
            && !rules.iter().any(|rule| self.lets(rule, to.ip(), to, transport))
        {
            return Err(refusal(Direction::Egress, isolation));
        }
        let callee = self.isolated.get(&to.ip());
        if let Some((isolation, rules)) = callee.and_then(|callee| Some((callee, callee.ingress.as_ref()?)))
            && !self.is_machine(from)
            && !rules.iter().any(|rule| self.lets(rule, from, to, transport))
        {
            return Err(refusal(Direction::Ingress, isolation));
        }
        Ok(())
    }

    /// Whether `from` may ask for names: as if the cluster's DNS server were a pod of `kube-system` with the
    /// label `k8s-app: kube-dns`, which it is elsewhere.
    pub fn check_names(&self, from: IpAddr) -> Result<(), Refusal> {
        let Some(dns) = self.dns.filter(|_| !self.isolated.is_empty()) else { return Ok(()) };
        let to = SocketAddr::new(dns, dns::PORT);
        let by_datagram = self.check(from, to, Transport::Udp);
        by_datagram.or_else(|refusal| self.check(from, to, Transport::Tcp).map_err(|_| refusal))
    }

    /// Whether only some of what this pod may call is open to it.
    pub fn confines(&self, ip: IpAddr) -> bool {
        self.isolated.get(&ip).is_some_and(|isolation| isolation.egress.is_some())
    }

    /// The rules of one pod as a list, for whoever filters its packets; `None`: it is open. What a node
    /// decides itself is left open to it: flows from its router, and to the addresses of Services.
    pub fn confinement(&self, ip: IpAddr) -> Option<Confinement> {
        let isolation = self.isolated.get(&ip)?;
        let ingress = isolation.ingress.as_ref().map(|rules| self.openings(rules, Some(ip)));
        let egress = isolation.egress.as_ref().map(|rules| self.openings(rules, None));
        Some(Confinement { ingress, egress })
    }

    /// `callee`: the pod that is called, for ingress; otherwise each peer is.
    fn openings(&self, rules: &[Arc<Rule>], callee: Option<IpAddr>) -> Vec<Opening> {
        let nodes = self.nodes.iter().chain(&self.services);
        let nodes = nodes.map(|node| Opening { peers: vec![*node], except: Vec::new(), ports: None });
        nodes.chain(rules.iter().flat_map(|rule| self.openings_of(rule, callee))).collect()
    }

    fn openings_of(&self, rule: &Rule, callee: Option<IpAddr>) -> Vec<Opening> {
        let Some(peers) = &rule.peers else {
            let anybody = ["0.0.0.0/0", "::/0"].iter().filter_map(|all| all.parse().ok()).collect();
            let mut openings =
                vec![Opening { peers: anybody, except: Vec::new(), ports: self.open_ports(rule, callee) }];
            // A name means something only of pods that have it.
            if callee.is_none() && rule.has_names() {
                let named = self.named_ports.keys();
                openings.extend(named.map(|ip| Opening::of(*ip, self.open_ports(rule, Some(*ip)))));
            }
            return openings;
        };
        let blocks = peers.blocks.iter().map(|block| Opening {
            peers: vec![block.cidr],
            except: block.except.clone(),
            ports: self.open_ports(rule, callee),
        });
        let mut openings: Vec<Opening> = blocks.collect();
        let mut pods: Vec<IpAddr> = peers.pods.iter().copied().collect();
        // In one order, so that the same rules are the same list.
        pods.sort_unstable();
        if callee.is_none() && rule.has_names() {
            openings.extend(pods.into_iter().map(|ip| Opening::of(ip, self.open_ports(rule, Some(ip)))));
        } else if !pods.is_empty() {
            let peers = pods.into_iter().map(IpNet::from).collect();
            openings.push(Opening { peers, except: Vec::new(), ports: self.open_ports(rule, callee) });
        }
        openings
    }

    fn open_ports(&self, rule: &Rule, callee: Option<IpAddr>) -> Option<Vec<OpenPorts>> {
        let ports = rule.ports.as_ref()?.iter().filter_map(|port| {
            let (first, last) = match &port.which {
                Which::Every => (0, u16::MAX),
                Which::Range(first, last) => (*first, *last),
                Which::Named(name) => {
                    let number = self.number_of(callee?, name, port.transport)?;
                    (number, number)
                }
            };
            Some(OpenPorts { transport: port.transport, first, last })
        });
        Some(ports.collect())
    }

    fn is_node(&self, ip: IpAddr) -> bool {
        self.nodes.iter().any(|node| node.contains(&ip))
    }

    /// Whether who comes from there is a node.
    fn is_machine(&self, ip: IpAddr) -> bool {
        self.is_node(ip) || self.services.is_some_and(|services| services.contains(&ip))
    }

    fn lets(&self, rule: &Rule, peer: IpAddr, to: SocketAddr, transport: Transport) -> bool {
        let peers = rule
            .peers
            .as_ref()
            .is_none_or(|peers| peers.pods.contains(&peer) || peers.blocks.iter().any(|block| block.contains(peer)));
        peers && rule.ports.as_ref().is_none_or(|ports| ports.iter().any(|port| self.is_port(port, to, transport)))
    }

    fn is_port(&self, port: &Ports, to: SocketAddr, transport: Transport) -> bool {
        port.transport == transport
            && match &port.which {
                Which::Every => true,
                Which::Range(first, last) => (*first..=*last).contains(&to.port()),
                Which::Named(name) => self.number_of(to.ip(), name, transport) == Some(to.port()),
            }
    }

    fn number_of(&self, pod: IpAddr, name: &str, transport: Transport) -> Option<u16> {
        let ports = self.named_ports.get(&pod)?;
        ports.iter().find(|port| &*port.name == name && port.transport == transport).map(|port| port.number)
    }
}

impl Rule {
    fn has_names(&self) -> bool {
        self.ports.iter().flatten().any(|port| matches!(port.which, Which::Named(_)))
    }
}

impl Block {
    fn contains(&self, ip: IpAddr) -> bool {
        self.cidr.contains(&ip) && !self.except.iter().any(|except| except.contains(&ip))
    }
}

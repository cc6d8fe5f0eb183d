//! The addresses of Services, for those who come by socket: ClusterIPs and node ports.
//!
//! The listeners follow the table: what is new in it is bound, what has gone is closed. HTTP is routed
//! request by request, so that keep-alive clients are balanced and safe retries work; what is not HTTP
//! is piped. A manifest may say which (`appProtocol`, or the port's name), otherwise the client's first
//! bytes tell. Datagrams are relayed ([`super::udp`]).

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::DropGuard;

use super::http::{Forwarder, plain};
use super::serve::{Answer, Ends, Handle, Peer, Server, bind, serve_http};
use super::table::{Protocol, RouteTable, ServicePort};
use super::udp::{self, Relay};
use super::{dns, tcp};
use crate::wire::{HttpBody, Transport};

/// Longer than any ingress waits: a Service is transparent, its clients have deadlines of their own.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(600);

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Door {
    Cluster(SocketAddr, Transport),
    Node(u16, Transport),
}

/// Where a listener leads.
#[derive(Clone)]
pub(super) enum Way {
    /// To what the table says now.
    Service(Door),
    /// To a pod of this node: its `hostPort`.
    Pod(Arc<ServicePort>),
}

impl Way {
    pub(super) fn leads_to(&self, table: &RouteTable) -> Option<Arc<ServicePort>> {
        match self {
            Way::Service(door) => door.leads_to(table),
            Way::Pod(port) => Some(port.clone()),
        }
    }
}

impl Door {
    fn leads_to(self, table: &RouteTable) -> Option<Arc<ServicePort>> {
        match self {
            Door::Cluster(address, transport) => table.at(address, transport).cloned(),
            Door::Node(port, transport) => table.at_node_port(port, transport).cloned(),
        }
    }
}

/// An address of a Service that could not be listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unbound {
    pub address: SocketAddr,
    /// What was refused, and what helps.
    pub reason: String,
}

/// All listeners of Services.
pub(super) struct Doors {
    server: Arc<Server>,
    forwarder: Arc<Forwarder>,
    node_port_ip: IpAddr,
    /// Conversations by datagrams, of all Services together.
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: HashMap<Door, DropGuard>,
    /// Those that cannot be bound, so that each is complained about once.
    unbound: HashMap<Door, Unbound>,
}

impl Doors {
    pub(super) fn new(server: Arc<Server>, forwarder: Arc<Forwarder>, node_port_ip: IpAddr) -> Self {
        let places = Arc::new(Semaphore::new(udp::SESSIONS));
        Self { server, forwarder, node_port_ip, places, state: Mutex::default() }
    }

    /// Opens and closes listeners so that they are those of `table`.
    pub(super) fn follow(&self, table: &RouteTable) {
        let cluster = table.cluster_addresses().map(|(address, transport)| Door::Cluster(address, transport));
        let node = table.node_ports().map(|(port, transport)| Door::Node(port, transport));
        let wanted: HashSet<Door> = cluster.chain(node).collect();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open.retain(|door, _| wanted.contains(door));
        state.unbound.retain(|door, _| wanted.contains(door));
        for door in wanted {
            if !state.open.contains_key(&door) {
                self.open(door, &mut state);
            }
        }
    }

    pub(super) fn unbound(&self) -> Vec<Unbound> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).unbound.values().cloned().collect()
    }

    #[cfg(test)]
    pub(super) fn node_port_ip(&self) -> IpAddr {
        self.node_port_ip
    }

    /// Listens on `address`, of this machine, for who is to go that way; until what is returned is dropped.
    pub(super) fn listen(&self, address: SocketAddr, transport: Transport, way: Way) -> io::Result<DropGuard> {
        let close = self.server.listener_token();
        match transport {
            Transport::Tcp => {
                let answer = Arc::new(ServiceDoor { way, forwarder: self.forwarder.clone() });
                self.server.accept(bind(address, true)?, close.clone(), answer);
            }
            Transport::Udp => {
                let relay = Relay { way, directory: self.forwarder.directory.clone(), places: self.places.clone() };
                self.server.keep(relay.run(dns::bind(address)?, close.clone()));
            }
        }
        Ok(close.drop_guard())
    }

    fn open(&self, door: Door, state: &mut State) {
        let (address, transport) = match door {
            Door::Cluster(address, transport) => (address, transport),
            Door::Node(port, transport) => (SocketAddr::new(self.node_port_ip, port), transport),
        };
        match self.listen(address, transport, Way::Service(door)) {
            Ok(open) => {
                state.unbound.remove(&door);
                state.open.insert(door, open);
            }
            Err(error) => {
                state.unbound.entry(door).or_insert_with(|| {
                    let reason = explain(address, &error);
                    tracing::warn!(%address, "{reason}");
                    Unbound { address, reason }
                });
            }
        }
    }
}

fn explain(address: SocketAddr, error: &io::Error) -> String {
    let help = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE or a lower net.ipv4.ip_unprivileged_port_start; \
             pods and the ingress reach the Service without it"
        }
        io::ErrorKind::AddrInUse => "another program listens there; pods and the ingress reach the Service without it",
        io::ErrorKind::AddrNotAvailable => "the address is not one of this machine",
        _ => "pods and the ingress reach the Service without it",
    };
    format!("cannot listen on {address} for a Service: {error} ({help})")
}

/// One listener's answer.
struct ServiceDoor {
    way: Way,
    forwarder: Arc<Forwarder>,
}

impl ServiceDoor {
    /// The Service's port, as the table knows it now.
    fn port(&self) -> Option<Arc<ServicePort>> {
        self.way.leads_to(&self.forwarder.directory.table())
    }

    async fn speaks_http(&self, port: &ServicePort, stream: &TcpStream) -> bool {
        match port.protocol {
            Protocol::Http => true,
            Protocol::Opaque => false,
            Protocol::Unstated => self.all_are_handlers(port) || tcp::speaks_http(stream).await,
        }
    }

    /// Whether all who answer are functions of this process, which take nothing but HTTP.
    fn all_are_handlers(&self, port: &ServicePort) -> bool {
        let local = &self.forwarder.directory.local;
        !port.endpoints.is_empty() && port.endpoints.iter().all(|endpoint| local.answers(endpoint.address))
    }
}

impl Answer for ServiceDoor {
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, ends: Ends) {
        // Closed at once when the Service went while the connection was being made.
        let Some(port) = self.port() else { return };
        if self.speaks_http(&port, &stream).await {
            serve_http(stream, peer, self, ends).await;
        } else {
            tcp::pipe(&self.forwarder.directory, port, stream, peer, ends).await;
        }
    }
}

impl Handle for ServiceDoor {
    async fn handle(&self, request: Request<HttpBody>, peer: &Peer) -> Response<HttpBody> {
        let Some(port) = self.port() else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "the Service has been deleted");
        };
        match self.forwarder.forward(port, request, Some(peer.ip), RESPONSE_TIMEOUT).await {
            Ok(response) => response,
            Err(error) => error.response(),
        }
    }
}

//! The addresses of Services, for those who come by socket: ClusterIPs and node ports.
//!
//! The listeners follow the table: what is new in it is bound, what has gone is closed. HTTP is routed
//! request by request, so that keep-alive clients are balanced and safe retries work; what is not HTTP
//! is piped. A manifest may say which (`appProtocol`, or the port's name), otherwise the client's first
//! bytes tell.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio_util::sync::DropGuard;

use super::http::{Forwarder, plain};
use super::serve::{Answer, Ends, Handle, Peer, Server, bind, serve_http};
use super::table::{Protocol, RouteTable, ServicePort};
use super::tcp;
use crate::wire::HttpBody;

/// Longer than any ingress waits: a Service is transparent, its clients have deadlines of their own.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(600);

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Door {
    Cluster(SocketAddr),
    Node(u16),
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
        Self { server, forwarder, node_port_ip, state: Mutex::default() }
    }

    /// Opens and closes listeners so that they are those of `table`.
    pub(super) fn follow(&self, table: &RouteTable) {
        let cluster = table.cluster_addresses().map(Door::Cluster);
        let wanted: HashSet<Door> = cluster.chain(table.node_ports().map(Door::Node)).collect();
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

    fn open(&self, door: Door, state: &mut State) {
        let address = match door {
            Door::Cluster(address) => address,
            Door::Node(port) => SocketAddr::new(self.node_port_ip, port),
        };
        match bind(address, true) {
            Ok(listener) => {
                let close = self.server.listener_token();
                let answer = Arc::new(ServiceDoor { door, forwarder: self.forwarder.clone() });
                self.server.accept(listener, close.clone(), answer);
                state.unbound.remove(&door);
                state.open.insert(door, close.drop_guard());
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
    door: Door,
    forwarder: Arc<Forwarder>,
}

impl ServiceDoor {
    /// The Service's port, as the table knows it now.
    fn port(&self) -> Option<Arc<ServicePort>> {
        let table = self.forwarder.directory.table();
        match self.door {
            Door::Cluster(address) => table.at(address).cloned(),
            Door::Node(port) => table.at_node_port(port).cloned(),
        }
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

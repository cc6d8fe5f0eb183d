//! Sockets of guests: `wasi:sockets` inside the pod's own address.
//!
//! A pod has one address and no network namespace: on a machine where all pods are loopback addresses,
//! 0.0.0.0 belongs to everyone. So what a guest binds to "all addresses" is bound to its pod's, what it
//! calls 127.0.0.1 is its pod, and binding anything else is refused. Where it may connect is for the
//! node to say ([`Outbound::route`]); a Service's address leads straight to one of its pods.
//!
//! | file | owns |
//! |---|---|
//! | `host` | the functions of `wasi:sockets` that differ from wasmtime's own |
//! | `concurrent` | the same of WASI 0.3 |
//! | `names` | `wasi:sockets/ip-name-lookup` |
//! | `peers` | who may come, and with whom datagrams are exchanged |
//!
//! wasmtime's check of addresses stands behind both, with the same answers: a way round them leads
//! nowhere. Sockets are counted over all instances of a container, and closed with their instance.

mod concurrent;
mod host;
mod names;
mod peers;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::Semaphore;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;
use wasmtime_wasi::sockets::SocketAddrUse;

pub use self::concurrent::add_to_linker as add_concurrent_to_linker;
pub use self::host::add_to_linker;
use self::peers::{Conversations, Served};
use crate::wire::{Caller, Outbound, OutboundError, Transport, is_outside};

/// Sockets that the instances of a container hold together, accepted connections among them: each is a
/// file of the host's process. As many as a process may usually open.
const MAX_SOCKETS: usize = 1024;
/// Name lookups of a container at a time; one outside the cluster takes a thread.
const MAX_LOOKUPS: usize = 8;
/// Addresses outside the cluster that a container has looked up and may connect to: the latest.
const MAX_LEARNED: usize = 256;

/// What the instances of a container share of the network.
pub struct PodNetwork {
    caller: Arc<Caller>,
    outbound: Arc<dyn Outbound>,
    open: AtomicUsize,
    lookups: Arc<Semaphore>,
    learned: Mutex<VecDeque<IpAddr>>,
    talks: Conversations,
    listening: Served,
    bound: Served,
}

impl PodNetwork {
    pub fn new(caller: Arc<Caller>, outbound: Arc<dyn Outbound>) -> Arc<Self> {
        let lookups = Arc::new(Semaphore::new(MAX_LOOKUPS));
        Arc::new(Self {
            caller,
            outbound,
            open: AtomicUsize::new(0),
            lookups,
            learned: Mutex::default(),
            talks: Conversations::default(),
            listening: Served::default(),
            bound: Served::default(),
        })
    }

    /// Lets wasmtime ask here before any address is used.
    pub fn guard(self: &Arc<Self>, builder: &mut WasiCtxBuilder) {
        let network = self.clone();
        builder.allow_tcp(true).allow_udp(true).allow_ip_name_lookup(false).socket_addr_check(move |address, usage| {
            let network = network.clone();
            let permits: Pin<Box<dyn Future<Output = bool> + Send>> =
                Box::pin(async move { network.permits(address, usage).await });
            Box::pin(Shareable(Mutex::new(permits)))
        });
    }

    fn own(&self) -> IpAddr {
        self.caller.ip
    }

    /// Whether wasmtime may do this with an address, after all that is done here to it.
    async fn permits(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        match usage {
            SocketAddrUse::TcpAccept => self.admits(address, Transport::Tcp).await,
            SocketAddrUse::UdpReceive => self.speaks(address, self.admits(address, Transport::Udp)).await,
            // A wildcard without a port is what the system binds by itself before it connects outside.
            SocketAddrUse::TcpBind => self.may_bind(address),
            SocketAddrUse::UdpBind => {
                self.bound.add(address.port());
                self.may_bind(address)
            }
            SocketAddrUse::TcpListen => {
                self.listening.add(address.port());
                address.ip() == self.own()
            }
            SocketAddrUse::TcpConnect => self.route(address, Transport::Tcp).await == Ok(address),
            SocketAddrUse::UdpSend => {
                let routed = async { self.route(address, Transport::Udp).await == Ok(address) };
                self.speaks(address, routed).await
            }
        }
    }

    fn may_bind(&self, address: SocketAddr) -> bool {
        address.ip() == self.own() || (address.ip().is_unspecified() && address.port() == 0)
    }

    /// Whether datagrams may be exchanged with `peer`: they are already, or one may begin.
    async fn speaks(&self, peer: SocketAddr, may_begin: impl Future<Output = bool>) -> bool {
        if self.talks.goes_on(peer) {
            return true;
        }
        let begins = may_begin.await;
        if begins {
            self.talks.note(peer);
        }
        begins
    }

    /// Whether the network lets `from` come to whichever port it has come to.
    async fn admits(&self, from: SocketAddr, transport: Transport) -> bool {
        let served = if transport == Transport::Tcp { &self.listening } else { &self.bound };
        let (mut open, mut shut) = (Vec::new(), 0);
        let mut ports = served.list();
        if ports.is_empty() {
            // No server: what comes unasked comes to a port that no policy names.
            ports.push(0);
        }
        for port in ports {
            match self.outbound.admits(&self.caller, from, port, transport).await {
                true => open.push(port),
                false => shut += 1,
            }
        }
        match (shut, transport) {
            (0, _) => true,
            (_, Transport::Tcp) if !open.is_empty() => {
                peers::arrived_at(self.own(), from).is_some_and(|port| open.contains(&port))
            }
            // A datagram does not tell its port: who may not come to all of them may come to none.
            _ => false,
        }
    }

    /// Where a socket that wants to reach `to` is to be connected.
    async fn route(&self, to: SocketAddr, transport: Transport) -> Result<SocketAddr, ErrorCode> {
        let routed = self.outbound.route(&self.caller, to, transport).await;
        match routed {
            Ok(to) => Ok(to),
            Err(OutboundError::Denied(_)) if transport == Transport::Tcp && self.knows(to.ip()) => Ok(to),
            Err(error) => Err(error_code(&error)),
        }
    }

    /// The addresses of a host that the pod may know.
    pub async fn addresses(self: &Arc<Self>, host: &str) -> io::Result<Vec<IpAddr>> {
        names::look_up(self, host.to_owned()).await.map_err(|code| refused(&code))
    }

    /// Where the pod's own connection to `to` leads, if it may connect there.
    pub async fn permitted(&self, to: SocketAddr) -> io::Result<SocketAddr> {
        self.route(to, Transport::Tcp).await.map_err(|code| refused(&code))
    }

    /// What a connection to `to` is bound to, so that the other side sees the pod's address. Nobody
    /// answers a loopback address from far away.
    pub fn source_for(&self, to: SocketAddr) -> Option<SocketAddr> {
        let own = self.own();
        let near = own.is_ipv4() == to.is_ipv4() && own.is_loopback() == to.ip().is_loopback();
        near.then(|| SocketAddr::new(own, 0))
    }

    fn knows(&self, ip: IpAddr) -> bool {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner).contains(&ip)
    }

    /// Addresses of a host outside that the pod may call by name: it may connect to them.
    fn learn(&self, addresses: &[IpAddr]) {
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        for &ip in addresses.iter().filter(|&&ip| is_outside(ip)) {
            learned.retain(|known| *known != ip);
            learned.push_back(ip);
        }
        let surplus = learned.len().saturating_sub(MAX_LEARNED);
        learned.drain(..surplus);
    }
}

/// wasmtime wants a future that threads may share, which none needs: whoever polls has it alone.
struct Shareable<F>(Mutex<F>);

impl<F: Future + Unpin> Future for Shareable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        Pin::new(self.0.get_mut().unwrap_or_else(PoisonError::into_inner)).poll(cx)
    }
}

fn refused(code: &ErrorCode) -> io::Error {
    match code {
        ErrorCode::AccessDenied => io::Error::new(io::ErrorKind::PermissionDenied, "the pod may not connect to it"),
        ErrorCode::NameUnresolvable => io::Error::new(io::ErrorKind::NotFound, "its name is not known"),
        ErrorCode::ConnectionRefused => io::ErrorKind::ConnectionRefused.into(),
        other => io::Error::other(format!("{other:?}")),
    }
}

fn error_code(error: &OutboundError) -> ErrorCode {
    match error {
        OutboundError::Denied(_) => ErrorCode::AccessDenied,
        OutboundError::Refused(_) => ErrorCode::ConnectionRefused,
        OutboundError::UnknownHost(_) => ErrorCode::NameUnresolvable,
        OutboundError::Timeout(_) => ErrorCode::TemporaryResolverFailure,
        OutboundError::Failed(_) => ErrorCode::Unknown,
    }
}

/// What `asked` for a bind comes to in a pod that has the address `own`.
fn bind_address(own: IpAddr, asked: SocketAddr) -> Result<SocketAddr, ErrorCode> {
    match (asked.ip(), own) {
        (ip, _) if ip == own => Ok(asked),
        // To a dual-stack program `::` is every address, those of version 4 among them.
        (ip, _) if ip == Ipv6Addr::UNSPECIFIED => Ok(SocketAddr::new(own, asked.port())),
        (ip, IpAddr::V4(_)) if ip == Ipv4Addr::UNSPECIFIED => Ok(SocketAddr::new(own, asked.port())),
        (ip, _) if ip.is_unspecified() => Err(ErrorCode::AddressNotBindable),
        _ => Err(ErrorCode::AccessDenied),
    }
}

/// The sockets of one instance.
pub struct Sockets {
    network: Arc<PodNetwork>,
    open: usize,
    /// Sockets that the guest made for version 6 and that are of version 4: those bound to `::`, and what
    /// they accepted. By the number of their handle.
    mapped: HashSet<u32>,
}

impl Sockets {
    pub fn new(network: Arc<PodNetwork>) -> Self {
        Self { network, open: 0, mapped: HashSet::new() }
    }

    /// Room for one more socket; counted by [`Self::opened`] once there is one. Instances that ask at the
    /// same moment may pass the bound by as many as they are.
    fn room(&self) -> Result<(), ErrorCode> {
        if self.network.open.load(Relaxed) < MAX_SOCKETS { Ok(()) } else { Err(ErrorCode::NewSocketLimit) }
    }

    fn opened(&mut self, handle: u32, mapped: bool) {
        self.open += 1;
        self.network.open.fetch_add(1, Relaxed);
        if mapped {
            self.mapped.insert(handle);
        } else {
            // The number may have been another socket's before.
            self.mapped.remove(&handle);
        }
    }

    fn closed(&mut self, handle: u32) {
        self.mapped.remove(&handle);
        if let Some(left) = self.open.checked_sub(1) {
            self.open = left;
            self.network.open.fetch_sub(1, Relaxed);
        }
    }

    /// An address as the guest is to see it.
    fn seen(&self, handle: u32, address: SocketAddr) -> SocketAddr {
        match address {
            SocketAddr::V4(v4) if self.mapped.contains(&handle) => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            other => other,
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.network.open.fetch_sub(self.open, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;
    use crate::wire::{CallTimeouts, HttpBody, Named};

    /// Services lead to a pod; pods lead to themselves; one host outside may be called by name.
    struct Cluster;

    #[async_trait::async_trait]
    impl Outbound for Cluster {
        async fn send(
            &self,
            _: &Caller,
            _: http::Request<HttpBody>,
            _: CallTimeouts,
        ) -> Result<http::Response<HttpBody>, OutboundError> {
            Err(OutboundError::Failed("not asked here".to_owned()))
        }

        async fn route(&self, caller: &Caller, to: SocketAddr, _: Transport) -> Result<SocketAddr, OutboundError> {
            match to.ip().to_string().as_str() {
                "127.96.0.1" => Ok("127.64.0.1:8080".parse().unwrap()),
                "127.64.0.1" | "127.64.0.9" => Ok(to),
                "127.0.0.1" => Ok(SocketAddr::new(caller.ip, to.port())),
                other => Err(OutboundError::Denied(other.to_owned())),
            }
        }

        async fn resolve(&self, _: &Caller, _: &str) -> Result<Named, OutboundError> {
            Err(OutboundError::UnknownHost(String::new()))
        }
    }

    fn network() -> Arc<PodNetwork> {
        let caller = Caller { namespace: "default".into(), pod: "p".into(), ip: "127.64.0.9".parse().unwrap() };
        PodNetwork::new(Arc::new(caller), Arc::new(Cluster))
    }

    #[test]
    fn binding_everything_is_binding_the_pods_address() {
        let cases = [
            ("127.64.0.9", "127.64.0.9:80", Some("127.64.0.9:80")),
            ("127.64.0.9", "0.0.0.0:80", Some("127.64.0.9:80")),
            ("127.64.0.9", "0.0.0.0:0", Some("127.64.0.9:0")),
            ("127.64.0.9", "[::]:80", Some("127.64.0.9:80")),
            ("fd00::9", "[::]:80", Some("[fd00::9]:80")),
            ("fd00::9", "0.0.0.0:80", None),
            ("127.64.0.9", "127.0.0.1:80", None),
            ("127.64.0.9", "127.64.0.10:80", None),
            ("127.64.0.9", "[::ffff:0.0.0.0]:80", None),
        ];
        for (own, asked, bound) in cases {
            let got = bind_address(own.parse().unwrap(), asked.parse().unwrap()).ok();
            assert_eq!(got, bound.map(|address| address.parse().unwrap()), "{asked} in {own}");
        }
    }

    #[test]
    fn addresses_are_used_only_as_the_node_says() {
        use SocketAddrUse::{TcpAccept, TcpBind, TcpConnect, TcpListen, UdpBind, UdpReceive, UdpSend};
        let network = network();
        let permits = |address: &str, usage| block_on(network.permits(address.parse().unwrap(), usage));
        for usage in [TcpBind, TcpListen, TcpConnect, UdpBind, UdpSend] {
            assert!(permits("127.64.0.9:80", usage), "{usage:?}");
            assert!(!permits("127.64.0.10:80", usage), "{usage:?}");
            assert!(!permits("127.0.0.1:80", usage), "{usage:?}: it is the machine's, not yet made the pod's");
            assert!(!permits("0.0.0.0:80", usage), "{usage:?}");
        }
        assert!(permits("127.64.0.1:80", TcpConnect) && !permits("127.64.0.1:80", TcpBind));
        assert!(!permits("127.96.0.1:80", TcpConnect), "a Service's address is led to a pod before");
        assert!(permits("0.0.0.0:0", TcpBind) && !permits("0.0.0.0:0", TcpListen));
        for usage in [TcpAccept, UdpReceive] {
            assert!(!permits("192.0.2.1:1234", UdpSend));
            assert!(permits("192.0.2.1:1234", usage), "{usage:?}");
        }
        assert!(permits("192.0.2.1:1234", UdpSend), "who was heard is answered");
        assert!(!permits("192.0.2.1:1235", UdpSend) && !permits("192.0.2.1:1234", TcpConnect));
        for port in 1..=u16::try_from(peers::MAX_PEERS).unwrap() {
            network.talks.note(SocketAddr::from(([192, 0, 2, 2], port)));
        }
        assert!(!permits("192.0.2.1:1234", UdpSend), "the oldest is forgotten");
    }

    #[test]
    fn what_was_looked_up_may_be_connected_to() {
        let network = network();
        let route = |to: &str| block_on(network.route(to.parse().unwrap(), Transport::Tcp)).is_ok();
        assert!(!route("192.0.2.1:443"));
        network.learn(&["192.0.2.1", "127.0.0.5", "169.254.169.254"].map(|ip| ip.parse().unwrap()));
        assert!(route("192.0.2.1:443"));
        assert!(!route("127.0.0.5:443") && !route("169.254.169.254:80"), "a name leads to no address of this machine");
        let many: Vec<IpAddr> = (0..=255).map(|n| IpAddr::from([198, 51, 100, n])).collect();
        network.learn(&many);
        assert!(route("198.51.100.0:1") && !route("192.0.2.1:443"), "the oldest is forgotten");
    }

    #[test]
    fn sockets_are_counted_over_all_instances() {
        let network = network();
        let (mut one, mut two) = (Sockets::new(network.clone()), Sockets::new(network));
        for handle in 0..MAX_SOCKETS as u32 {
            one.opened(handle, false);
        }
        assert!(two.room().is_err());
        one.closed(0);
        assert!(two.room().is_ok());
        two.opened(0, true);
        assert!(one.room().is_err());
        let v4 = "127.64.0.1:5".parse().unwrap();
        assert_eq!(two.seen(0, v4).to_string(), "[::ffff:127.64.0.1]:5");
        assert_eq!(one.seen(0, v4), v4);
        drop(one);
        assert!(two.room().is_ok());
    }
}

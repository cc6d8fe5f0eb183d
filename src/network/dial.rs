//! Connections to endpoints.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long a peer may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Added to a port below 1024 that a node's process may not bind.
const STAND_IN_SHIFT: u16 = 20_000;
const FIRST_FREE_PORT: u16 = 1_024;

/// Where a pod is listened for when its own port may only be bound by root: the other nodes' routers
/// know to look there. A pod's address is its own, so that the port is free unless the pod uses it.
pub(super) fn stand_in(address: SocketAddr) -> Option<SocketAddr> {
    let port = address.port();
    (port < FIRST_FREE_PORT && port != 0).then(|| SocketAddr::new(address.ip(), port + STAND_IN_SHIFT))
}

/// Whom such an address stands in for, if anything does here.
pub(super) fn stood_in_for(address: SocketAddr) -> Option<SocketAddr> {
    let port = address.port().checked_sub(STAND_IN_SHIFT)?;
    let meant = SocketAddr::new(address.ip(), port);
    (stand_in(meant).is_some() && reachable(meant) == address).then_some(meant)
}

/// Where somebody who connects by himself finds `address`: not where this process may not listen, hence
/// no other node process of this machine either.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    static FORBIDDEN: OnceLock<bool> = OnceLock::new();
    let tried =
        || matches!(TcpListener::bind(("127.0.0.1", 1)), Err(error) if error.kind() == io::ErrorKind::PermissionDenied);
    stand_in(address).filter(|_| *FORBIDDEN.get_or_init(tried)).unwrap_or(address)
}

/// Connects to an endpoint, or to what stands in for it.
pub(super) async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    match (connect(address).await, stand_in(address)) {
        (Err(error), Some(other)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            // Of two refusals the first is the one to speak of.
            connect(other).await.map_err(|_| error)
        }
        (connected, _) => connected,
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// [`dial`] as the pooled client wants it. Hosts are addresses: names are resolved before.
#[derive(Clone)]
pub(super) struct Dialer;

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let address = uri.authority().and_then(|authority| authority.as_str().parse().ok());
            let address = address.ok_or_else(|| io::Error::other(format!("{uri} has no address")))?;
            Ok(TokioIo::new(dial(address).await?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_that_root_may_bind_have_a_stand_in() {
        for (address, other) in [
            ("127.64.0.1:80", Some("127.64.0.1:20080")),
            ("127.64.0.1:1023", Some("127.64.0.1:21023")),
            ("127.64.0.1:1024", None),
            ("127.64.0.1:0", None),
        ] {
            let parse = |text: &str| text.parse::<SocketAddr>().expect("an address");
            assert_eq!(stand_in(parse(address)), other.map(parse));
        }
    }

    #[tokio::test]
    async fn a_refusal_leads_to_the_stand_in() {
        // An address that no other run of this test has.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let pod = SocketAddr::from(([127, 127, high, low], 7));
        let other = stand_in(pod).expect("the port is low");
        let listener = tokio::net::TcpListener::bind(other).await.expect("the address is free");
        let connected = dial(pod).await.expect("it stands in");
        assert_eq!(connected.peer_addr().ok(), listener.local_addr().ok());
    }
}

//! The nouns that rooms hand to each other when a request travels: the body, the call, its failures.
//!
//! A leaf: it imports no other room, so that [`crate::runtime`] (which serves calls) and
//! [`crate::network`] (which routes them) need not know each other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use serde::{Deserialize, Serialize};

pub mod confinement;
pub mod replay;

/// Any error, boxed; what a body fails with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streaming request or response body. It is polled by one task at a time, hence not `Sync`.
pub type HttpBody = UnsyncBoxBody<Bytes, BoxError>;

/// Something that answers HTTP requests: a running container, or a remote peer.
#[async_trait::async_trait]
pub trait HttpService: Send + Sync + 'static {
    /// Answers one request. Implementations stream; they never collect a whole body.
    async fn call(&self, request: Request<HttpBody>) -> Result<Response<HttpBody>, CallError>;
}

/// Why a call got no answer, sorted by what the caller may do next.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The request never reached a guest. It is handed back whole, so that another endpoint may take it.
    #[error("not delivered: {reason}")]
    Undelivered { reason: String, request: Box<Request<HttpBody>> },
    /// The peer has no room for the call: answer 503 with `Retry-After`.
    #[error("overloaded, retry after {retry_after:?}")]
    Overloaded { retry_after: Duration },
    /// The call took longer than it may.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The request reached the guest, which may have acted on it; it must not be repeated blindly.
    #[error("{0}")]
    Failed(String),
}

/// Which pod makes an outgoing call; what policies and logs need to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub namespace: Arc<str>,
    pub pod: Arc<str>,
    pub ip: IpAddr,
}

/// The deadlines of one outgoing call, as `wasi:http` request options give them.
#[derive(Debug, Clone, Copy)]
pub struct CallTimeouts {
    pub connect: Duration,
    pub first_byte: Duration,
    pub between_bytes: Duration,
}

/// Why an outgoing call of a guest failed; each maps to one `wasi:http` error code.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("no such host: {0}")]
    UnknownHost(String),
    #[error("denied: {0}")]
    Denied(String),
    #[error("connection refused: {0}")]
    Refused(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Failed(String),
}

/// What a guest's own socket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// Of a Kubernetes `protocol`, TCP where none is named. `None`: SCTP, which nothing here speaks, so that what
    /// offers or allows it offers and allows nothing.
    pub fn of_protocol(protocol: Option<&str>) -> Option<Self> {
        match protocol {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some(_) => None,
        }
    }
}

/// What a name stands for to a guest that opens its own sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub addresses: Vec<IpAddr>,
    /// Whether the name is of the world outside the cluster, which the pod may then connect to.
    pub outside: bool,
}

/// The way out for guests: resolves Service names and hosts and makes the call.
#[async_trait::async_trait]
pub trait Outbound: Send + Sync + 'static {
    /// `request`'s URI is absolute (`http://cart/items`).
    async fn send(
        &self,
        caller: &Caller,
        request: Request<HttpBody>,
        timeouts: CallTimeouts,
    ) -> Result<Response<HttpBody>, OutboundError>;

    /// Where a socket of `caller` that wants to reach `to` is to be connected: a Service's address
    /// leads to one of its endpoints. An answer leads to itself when asked about again.
    async fn route(&self, caller: &Caller, to: SocketAddr, transport: Transport) -> Result<SocketAddr, OutboundError> {
        let Caller { namespace, pod, .. } = caller;
        Err(OutboundError::Denied(format!("pod {namespace}/{pod} may not reach {to} by {transport:?}")))
    }

    /// Whether `from` may come to `port` of `callee` by `transport`: it has come by a way on which nobody
    /// has asked yet.
    async fn admits(&self, _callee: &Caller, _from: SocketAddr, _port: u16, _transport: Transport) -> bool {
        true
    }

    /// What `host` stands for to `caller`.
    async fn resolve(&self, _caller: &Caller, host: &str) -> Result<Named, OutboundError> {
        Err(OutboundError::UnknownHost(host.to_owned()))
    }
}

/// Whether an address can be that of a host outside. A resolver that an outsider controls must not open
/// this machine's own services, or its link's, to a guest.
pub fn is_outside(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_and_its_link_are_not_outside() {
        let cases = [
            ("192.0.2.1", true),
            ("10.0.0.1", true),
            ("2001:db8::1", true),
            ("127.0.0.1", false),
            ("127.64.0.9", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("0.0.0.0", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("224.0.0.1", false),
        ];
        for (ip, outside) in cases {
            assert_eq!(is_outside(ip.parse().expect("an address")), outside, "{ip}");
        }
    }
}

//! Pods' own addresses, for those outside this process: other nodes, shells, containers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use http::{Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio_util::sync::DropGuard;

use super::headers::{self, UNDELIVERED};
use super::http::plain;
use super::local::{Found, LocalPods};
use super::seek::Directory;
use super::serve::{Answer, Ends, Handle, Peer, serve_http};
use crate::wire::{CallError, HttpBody, Transport};

/// Listens on a pod's address for those outside this process. Dropping it closes the listener and
/// lets the connections' present requests finish.
pub struct PodListener {
    address: SocketAddr,
    local: LocalPods,
    _close: DropGuard,
}

impl PodListener {
    pub(super) fn new(address: SocketAddr, local: LocalPods, close: DropGuard) -> Self {
        local.listens(address);
        Self { address, local, _close: close }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for PodListener {
    fn drop(&mut self) {
        self.local.listens_no_more(self.address);
    }
}

/// Hands requests to whoever is registered for the address. It never waits for somebody to be: a node
/// that asks here has other endpoints to try, and patience of its own.
pub(super) struct PodPort {
    pub(super) address: SocketAddr,
    pub(super) directory: Arc<Directory>,
    /// Whether policies are asked about who comes.
    pub(super) asks: bool,
}

impl Handle for PodPort {
    async fn handle(&self, mut request: Request<HttpBody>, peer: &Peer) -> Response<HttpBody> {
        if self.asks
            && let Err(refusal) = self.directory.admit(peer.ip, self.address, Transport::Tcp)
        {
            return super::http::forbidden(&refusal);
        }
        let Found::Here(service) = self.directory.local.find(self.address) else {
            return undelivered("no container of the pod is running");
        };
        headers::strip_hop_by_hop(request.headers_mut());
        match service.call(request).await {
            Ok(mut response) => {
                response.headers_mut().remove(UNDELIVERED);
                response
            }
            Err(CallError::Undelivered { reason, .. }) => undelivered(&reason),
            Err(CallError::Overloaded { retry_after }) => {
                super::http::ForwardError::Overloaded { retry_after }.response()
            }
            Err(CallError::Timeout(after)) => {
                plain(StatusCode::GATEWAY_TIMEOUT, &format!("no answer within {after:?}"))
            }
            Err(CallError::Failed(reason)) => plain(StatusCode::BAD_GATEWAY, &reason),
        }
    }
}

impl Answer for PodPort {
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, ends: Ends) {
        serve_http(stream, peer, self, ends).await;
    }
}

fn undelivered(reason: &str) -> Response<HttpBody> {
    let mut response = super::http::unavailable(reason, Duration::from_secs(1));
    response.headers_mut().insert(UNDELIVERED, HeaderValue::from_static("1"));
    response
}

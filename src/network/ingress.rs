//! The ingress: requests from outside the cluster, by host and path.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::net::TcpStream;

use super::headers;
use super::http::{Forwarder, plain};
use super::serve::{Answer, Ends, Handle, Peer, serve_http};
use super::table::IngressMatch;
use crate::wire::HttpBody;

/// How long an endpoint may take to begin its answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Ingress {
    pub(super) forwarder: Arc<Forwarder>,
}

impl Handle for Ingress {
    async fn handle(&self, mut request: Request<HttpBody>, peer: &Peer) -> Response<HttpBody> {
        let port = {
            let table = self.forwarder.directory.table();
            match table.ingress(headers::host_of(&request), request.uri().path()) {
                IngressMatch::Backend(port) => port.clone(),
                IngressMatch::NoService => return no_service(&request),
                IngressMatch::NoRule => return no_rule(&request),
            }
        };
        headers::forwarded(request.headers_mut(), &peer.text);
        match self.forwarder.forward(port, request, Some(peer.ip), RESPONSE_TIMEOUT).await {
            Ok(response) => response,
            Err(error) => error.response(),
        }
    }
}

impl Answer for Ingress {
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, ends: Ends) {
        serve_http(stream, peer, self, ends).await;
    }
}

fn no_rule(request: &Request<HttpBody>) -> Response<HttpBody> {
    let (host, path) = (headers::host_of(request), request.uri().path());
    plain(StatusCode::NOT_FOUND, &format!("no Ingress rule matches host {host:?} and path {path:?}"))
}

fn no_service(request: &Request<HttpBody>) -> Response<HttpBody> {
    let (host, path) = (headers::host_of(request), request.uri().path());
    let text =
        format!("the Ingress rule for host {host:?} and path {path:?} names a Service or port that does not exist");
    plain(StatusCode::SERVICE_UNAVAILABLE, &text)
}

//! The TLS door: accepts connections, learns who is at the other end, and hands requests to the router.
//!
//! Identity is settled here and nowhere else. A client certificate is checked once a connection; a
//! bearer token once a request. The router behind never sees a credential.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::ApiServer;
use super::audit::Peer;
use super::auth::User;
use super::auth::pki::{Credentials, Pki};
use super::auth::tokens::Tokens;

/// How many connections may be open. Each costs some 50 KiB of TLS and HTTP buffers: 200 MiB in all.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take for its handshake, and for a request's headers.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long requests in flight may take to finish once the server stops. Watches are cut.
const DRAIN: Duration = Duration::from_secs(3);
/// HTTP/2 streams a connection; client-go opens one a watch.
const MAX_STREAMS: u32 = 1000;

/// The API server's listener, bound and not yet serving.
pub struct Door {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    tokens: Tokens,
}

impl Door {
    /// Binds `address`. The error of a port in use says so.
    pub async fn bind(address: SocketAddr, pki: &Pki, tokens: Tokens) -> Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let acceptor = TlsAcceptor::from(Arc::new(server_config(&pki.server, &pki.ca_pem)?));
        Ok(Self { listener, acceptor, tokens })
    }

    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().context("the listener has no address")
    }

    /// Serves until `stop`; returns when the requests in flight have finished, or `DRAIN` is over.
    pub async fn serve(self, api: &ApiServer, router: Router, stop: CancellationToken) {
        let holders = Holders { tokens: self.tokens, api: api.clone() };
        let graceful = GracefulShutdown::new();
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { break };
            let (stream, peer) = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file descriptors, mostly: let some close before trying again.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = stop.cancelled() => break,
            };
            let acceptor = self.acceptor.clone();
            let (router, holders, watcher) = (router.clone(), holders.clone(), graceful.watcher());
            tokio::spawn(async move {
                if let Err(error) = connection((stream, peer), acceptor, router, holders, watcher).await {
                    tracing::debug!(%peer, error = format!("{error:#}"), "connection ended");
                }
                drop(permit);
            });
        }
        drop(self.listener);
        if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
            tracing::debug!("cut the connections that did not finish in time");
        }
    }
}

/// Who holds which bearer token.
#[derive(Clone)]
struct Holders {
    tokens: Tokens,
    api: ApiServer,
}

impl Holders {
    fn user(&self, token: &str) -> Option<User> {
        self.tokens.user(token).or_else(|| self.api.account(token))
    }
}

async fn connection(
    (stream, address): (TcpStream, SocketAddr),
    acceptor: TlsAcceptor,
    router: Router,
    holders: Holders,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await.context("no handshake in time")??;
    let peer = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).and_then(certificate_user);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (router, peer, holders) = (router.clone(), peer.clone(), holders.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(router, peer, address, &holders, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(64 << 10)
        .keep_alive_interval(Duration::from_secs(30));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    watcher.watch(connection.into_owned()).await.map_err(|error| anyhow::anyhow!(error))
}

async fn answer(
    router: Router,
    peer: Option<User>,
    address: SocketAddr,
    holders: &Holders,
    request: Request<Incoming>,
) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(Peer(address));
    let authorization = parts.headers.remove(header::AUTHORIZATION);
    let user = match (peer, authorization.as_ref().and_then(bearer)) {
        (Some(user), _) => user,
        (None, None) => User::anonymous(),
        (None, Some(token)) => match holders.user(token) {
            Some(user) => user,
            None => {
                holders.api.tell_refused(&parts).await;
                return unauthorized();
            }
        },
    };
    parts.extensions.insert(user);
    match router.oneshot(Request::from_parts(parts, Body::new(body))).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The token of an `Authorization` header; of other schemes nothing is known, and who uses them is nobody.
fn bearer(authorization: &HeaderValue) -> Option<&str> {
    let (scheme, token) = authorization.to_str().ok()?.trim().split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

fn unauthorized() -> Response<Body> {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "Unauthorized", "reason": "Unauthorized", "code": 401,
    });
    let mut response = Response::new(Body::from(status.to_string()));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// `CN` and `O`s of a verified certificate.
fn certificate_user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<&str> = subject.iter_organization().filter_map(|group| group.as_str().ok()).collect();
    Some(User::new(name, &groups))
}

fn server_config(own: &Credentials, ca_pem: &str) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(authority?)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .context("cannot check client certificates")?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(own.cert_pem.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("the server's certificate and key do not fit")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

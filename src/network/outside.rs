//! Hosts outside the cluster: looked up, checked, called, over TLS where the URL says `https`.
//!
//! A name may lead to any address, and its owner may be a stranger: what it leads to is checked when the
//! connection is made, so that no name opens this machine's own services, or its link's, to a guest.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;

use super::headers;
use super::http::receive;
use crate::wire::{CallTimeouts, HttpBody, OutboundError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const POOL_IDLE: Duration = Duration::from_secs(30);
const POOL_IDLE_PER_HOST: usize = 16;

/// Which addresses are outside.
pub(super) type IsOutside = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// Calls hosts outside. It has decided nothing: whom a pod may call is asked before.
pub(super) struct Outside {
    is_outside: IsOutside,
    /// Whom to trust; `None`: whom the machine trusts, found out with the first call that needs it.
    roots: Option<Arc<RootCertStore>>,
    plain: PlainClient,
    trusted: OnceCell<ClientConfig>,
    tls: OnceCell<TlsClient>,
}

type PlainClient = Client<HttpConnector<Lookup>, HttpBody>;
type TlsClient = Client<HttpsConnector<HttpConnector<Lookup>>, HttpBody>;

impl Outside {
    pub(super) fn new(is_outside: IsOutside, roots: Option<Arc<RootCertStore>>) -> Self {
        let plain = client(connector(&is_outside));
        Self { is_outside, roots, plain, trusted: OnceCell::new(), tls: OnceCell::new() }
    }

    /// The addresses of a host, at least one, all of them outside.
    pub(super) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, OutboundError> {
        let found = look_up(host.to_owned(), self.is_outside.clone()).await.map_err(OutboundError::from)?;
        Ok(found.into_iter().map(|address| address.ip()).collect())
    }

    /// Sends a normalised `request` to `host` and waits for the head of the answer. `only`: by a connection of
    /// its own, to an address of which this is true; what others have connected to may be shut to this caller.
    pub(super) async fn call(
        &self,
        mut request: Request<HttpBody>,
        host: &str,
        port: u16,
        is_tls: bool,
        timeouts: CallTimeouts,
        only: Option<IsOutside>,
    ) -> Result<Response<HttpBody>, OutboundError> {
        let failed = |error: &dyn fmt::Display| OutboundError::Failed(format!("cannot call {host}:{port}: {error}"));
        if let Ok(ip) = host.parse::<IpAddr>()
            && !only.as_ref().unwrap_or(&self.is_outside)(ip)
        {
            return Err(NoHost::Inside(host.to_owned()).into());
        }
        headers::strip_hop_by_hop(request.headers_mut());
        *request.version_mut() = Version::HTTP_11;
        *request.uri_mut() =
            target(host, port, is_tls, request.uri().path_and_query()).map_err(|error| failed(&error))?;
        let sent = async {
            let answer = match (is_tls, &only) {
                (true, None) => self.tls().await?.request(request).await,
                (true, Some(only)) => self.tls_client(only).await?.request(request).await,
                (false, None) => self.plain.request(request).await,
                (false, Some(only)) => client(connector(only)).request(request).await,
            };
            answer.map_err(|error| explain(host, port, &error))
        };
        // The connection has its own bound: a guest's is a shorter one.
        let within = timeouts.connect.min(CONNECT_TIMEOUT) + timeouts.first_byte;
        match tokio::time::timeout(within, sent).await {
            Ok(answer) => answer.map(receive),
            Err(_) => Err(OutboundError::Timeout(within)),
        }
    }

    async fn tls(&self) -> Result<&TlsClient, OutboundError> {
        self.tls.get_or_try_init(|| self.tls_client(&self.is_outside)).await
    }

    async fn tls_client(&self, is_outside: &IsOutside) -> Result<TlsClient, OutboundError> {
        let made = self.trusted.get_or_try_init(|| async {
            let roots = match &self.roots {
                Some(roots) => roots.clone(),
                None => Arc::new(tokio::task::spawn_blocking(native_roots).await.map_err(|error| error.to_string())??),
            };
            Ok::<_, String>(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
        });
        let config = made.await.map_err(OutboundError::Failed)?.clone();
        let mut tcp = connector(is_outside);
        tcp.enforce_http(false);
        let https = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_all_versions();
        Ok(client(https.wrap_connector(tcp)))
    }
}

fn connector(is_outside: &IsOutside) -> HttpConnector<Lookup> {
    let mut connector = HttpConnector::new_with_resolver(Lookup(is_outside.clone()));
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    connector
}

fn client<C: hyper_util::client::legacy::connect::Connect + Clone>(connector: C) -> Client<C, HttpBody> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_IDLE_PER_HOST)
        .set_host(false)
        .build(connector)
}

/// Whom this machine trusts: the system's store, or the file or directory that `SSL_CERT_FILE` and
/// `SSL_CERT_DIR` name. Blocks.
fn native_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!(
            "this machine trusts no certificate authority{why}: install its ca-certificates, or name a file of them \
             in SSL_CERT_FILE"
        ));
    }
    Ok(roots)
}

fn target(host: &str, port: u16, is_tls: bool, path: Option<&PathAndQuery>) -> Result<Uri, http::Error> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let authority = Authority::try_from(format!("{host}:{port}"))?;
    let path = path.cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let scheme = if is_tls { Scheme::HTTPS } else { Scheme::HTTP };
    Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build()
}

/// Why a name leads nowhere.
#[derive(Debug)]
enum NoHost {
    Unknown(String),
    Inside(String),
}

impl fmt::Display for NoHost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(host) => write!(out, "{host} has no address"),
            Self::Inside(host) => write!(out, "{host} leads to this machine or its link, which no pod may call"),
        }
    }
}

impl StdError for NoHost {}

impl From<NoHost> for OutboundError {
    fn from(error: NoHost) -> Self {
        match &error {
            NoHost::Unknown(host) => OutboundError::UnknownHost(host.clone()),
            NoHost::Inside(_) => OutboundError::Denied(error.to_string()),
        }
    }
}

async fn look_up(host: String, is_outside: IsOutside) -> Result<Vec<SocketAddr>, NoHost> {
    let found = tokio::net::lookup_host((host.as_str(), 0)).await.map(Iterator::collect::<Vec<SocketAddr>>);
    let mut found = found.unwrap_or_default();
    if found.is_empty() {
        return Err(NoHost::Unknown(host));
    }
    found.retain(|address| is_outside(address.ip()));
    if found.is_empty() { Err(NoHost::Inside(host)) } else { Ok(found) }
}

/// The resolver of the connector: what it is checked by is what is connected to.
#[derive(Clone)]
struct Lookup(IsOutside);

impl tower::Service<Name> for Lookup {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (host, is_outside) = (name.as_str().to_owned(), self.0.clone());
        Box::pin(async move { Ok(look_up(host, is_outside).await.map_err(io::Error::other)?.into_iter()) })
    }
}

/// What went wrong, to its first cause.
fn explain(host: &str, port: u16, error: &hyper_util::client::legacy::Error) -> OutboundError {
    let mut causes: Vec<String> = Vec::new();
    let mut cause: Option<&(dyn StdError + 'static)> = StdError::source(error);
    while let Some(current) = cause {
        let inner = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let no_host = inner.and_then(|inner| inner.downcast_ref::<NoHost>()).or_else(|| current.downcast_ref());
        match no_host {
            Some(NoHost::Unknown(host)) => return OutboundError::UnknownHost(host.clone()),
            Some(inside @ NoHost::Inside(_)) => return OutboundError::Denied(inside.to_string()),
            None => {}
        }
        let text = current.to_string();
        if !causes.contains(&text) {
            causes.push(text);
        }
        cause = current.source();
        if causes.len() > 8 {
            break;
        }
    }
    let why = if causes.is_empty() { error.to_string() } else { causes.join(": ") };
    let refused = error.is_connect() && causes.iter().any(|cause| cause.contains("refused"));
    let text = format!("cannot call {host}:{port}: {why}");
    if refused { OutboundError::Refused(text) } else { OutboundError::Failed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_leads_to_the_machine_is_denied() {
        let outside = Outside::new(Arc::new(crate::wire::is_outside), None);
        let denied = outside.addresses("localhost").await;
        assert!(
            matches!(&denied, Err(OutboundError::Denied(why)) if why.contains("localhost leads to this machine")),
            "{denied:?}"
        );
        let timeouts = CallTimeouts {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(5),
            between_bytes: Duration::from_secs(5),
        };
        for (host, is_tls) in [("localhost", false), ("localhost", true), ("127.0.0.1", false), ("::1", false)] {
            let request = Request::new(super::super::http::full(""));
            let answer = outside.call(request, host, 9, is_tls, timeouts, None).await;
            assert!(matches!(answer, Err(OutboundError::Denied(_) | OutboundError::Failed(_))), "{host}");
        }
        let unknown = outside.addresses("nowhere.invalid").await;
        assert!(matches!(unknown, Err(OutboundError::UnknownHost(_))), "{unknown:?}");
    }

    #[test]
    fn a_target_is_an_absolute_uri() {
        let path = PathAndQuery::from_static("/a?b");
        let uri = |host, is_tls| target(host, 8443, is_tls, Some(&path)).expect("a URI").to_string();
        assert_eq!(uri("example.com", true), "https://example.com:8443/a?b");
        assert_eq!(uri("2001:db8::1", false), "http://[2001:db8::1]:8443/a?b");
        assert!(target("no host", 1, false, None).is_err());
    }
}

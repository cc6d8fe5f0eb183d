//! Calling webhooks: a JSON object posted over TLS, another one back.
//!
//! Whoever needs one (admission, conversion of custom resources) hands over the `clientConfig` of a
//! configuration: a URL, or a reference to a Service with a port and a path, and the authorities to
//! trust. A Service is reached at its ClusterIP, under the name `<service>.<namespace>.svc`, which its
//! certificate must bear. Connections are pooled, a set for each bundle of authorities.
//!
//! A webhook is somebody else's program. It has the time that the caller gives it and no more, its
//! answer is bounded, and waiting for it holds nothing that another request needs.

pub mod trust;

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;

use super::registry::encoding;
use crate::kinds::service::Service;
use crate::kinds::{Kind, common::text};
use crate::store::Store;

/// A program on the same network answers a connection within this, or is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const POOL_IDLE: Duration = Duration::from_secs(60);
const POOL_IDLE_PER_HOST: usize = 16;
/// A conversion may answer with as many objects as a list has; an object is at most 3 MiB.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;
/// How much of a complaint is passed on.
const MAX_COMPLAINT_BYTES: usize = 1024;
/// Bundles of authorities that have connections; when there are more, all start anew.
const MAX_TRUSTS: usize = 64;
const DEFAULT_PORT: i64 = 443;

type Connections = Client<HttpsConnector<HttpConnector<Lookup>>, Full<Bytes>>;

/// Why a webhook gave no answer. The texts follow upstream's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration leads nowhere.
    #[error("{0}")]
    Config(String),
    /// It could not be asked, or broke off.
    #[error("Post {url:?}: {why}")]
    Unreachable { url: String, why: String },
    #[error("Post {url:?}: context deadline exceeded")]
    Timeout { url: String },
    /// It answered with something other than success.
    #[error("{0}")]
    Refused(String),
    #[error("couldn't get the answer of {url:?} as JSON: {why}")]
    Answer { url: String, why: String },
}

/// Calls webhooks. One for a server.
pub struct Webhooks {
    store: Arc<dyn Store>,
    /// By bundle; "" is whom the machine trusts.
    connections: Mutex<HashMap<String, Connections>>,
}

impl Webhooks {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, connections: Mutex::default() }
    }

    /// Posts `question` to the webhook of a `clientConfig`, and waits for its answer no longer than
    /// `timeout`, which it is told.
    pub async fn call(&self, config: &Value, question: &Value, timeout: Duration) -> Result<Value, Error> {
        let url = self.url(config, timeout)?;
        let asked = self.ask(&url, text(config, "/caBundle"), question.to_string());
        match tokio::time::timeout(timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Timeout { url }),
        }
    }

    async fn ask(&self, url: &str, bundle: &str, question: String) -> Result<Value, Error> {
        let connections = self.connections(bundle).await?;
        let broken = |why: String| Error::Unreachable { url: url.to_owned(), why };
        let json = HeaderValue::from_static("application/json");
        let request = Request::post(url)
            .header(header::CONTENT_TYPE, json.clone())
            .header(header::ACCEPT, json)
            .header(header::USER_AGENT, concat!("coracle/", env!("CARGO_PKG_VERSION")))
            .body(Full::from(question))
            .map_err(|error| Error::Config(error.to_string()))?;
        let response = connections.request(request).await.map_err(|error| broken(innermost(&error)))?;
        let (parts, body) = response.into_parts();
        let limit = if parts.status.is_success() { MAX_ANSWER_BYTES } else { MAX_COMPLAINT_BYTES };
        let body = Limited::new(body, limit).collect().await.map(|body| body.to_bytes());
        if !parts.status.is_success() {
            return Err(Error::Refused(complaint(parts.status, &body.unwrap_or_default())));
        }
        let body = body.map_err(|error| broken(error.to_string()))?;
        serde_json::from_slice(&body).map_err(|error| Error::Answer { url: url.to_owned(), why: error.to_string() })
    }

    /// The pool for a bundle, made when it is first needed.
    async fn connections(&self, bundle: &str) -> Result<Connections, Error> {
        let known = || self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().get(bundle) {
            return Ok(found.clone());
        }
        let tls = trust::config(bundle).await.map_err(Error::Config)?;
        let made = connect(tls, self.store.clone());
        let mut known = known();
        if known.len() >= MAX_TRUSTS {
            known.clear();
        }
        Ok(known.entry(bundle.to_owned()).or_insert(made).clone())
    }

    /// Where the webhook is, with what it may take.
    fn url(&self, config: &Value, timeout: Duration) -> Result<String, Error> {
        let base = match config["url"].as_str() {
            Some(url) => url.to_owned(),
            None => self.service_url(&config["service"])?,
        };
        base.parse::<Uri>().map_err(|error| Error::Config(format!("{base:?} is no URL: {error}")))?;
        let and = if base.contains('?') { '&' } else { '?' };
        Ok(format!("{base}{and}timeout={}", duration(timeout)))
    }

    fn service_url(&self, reference: &Value) -> Result<String, Error> {
        let (namespace, name) = (text(reference, "/namespace"), text(reference, "/name"));
        if namespace.is_empty() || name.is_empty() {
            return Err(Error::Config("webhook configuration must have either service or URL".into()));
        }
        let port = reference["port"].as_i64().unwrap_or(DEFAULT_PORT);
        let service = service(&*self.store, namespace, name)
            .ok_or_else(|| Error::Config(format!("service {name:?} not found")))?;
        check_port(&service, name, port).map_err(Error::Config)?;
        let path = text(reference, "/path");
        Ok(format!("https://{name}.{namespace}.svc:{port}/{}", path.trim_start_matches('/')))
    }
}

fn service(store: &dyn Store, namespace: &str, name: &str) -> Option<Value> {
    let entry = store.get(&encoding::key(Service.info(), namespace, name))?;
    encoding::decode(&Service, &entry.value, entry.mod_revision).ok()
}

fn check_port(service: &Value, name: &str, port: i64) -> Result<(), String> {
    if service["spec"]["type"] == "ExternalName" {
        return Ok(());
    }
    if service["spec"]["clusterIP"] == "None" {
        return Err("cannot route to service with ClusterIP \"None\"".to_owned());
    }
    let ports = service["spec"]["ports"].as_array();
    let has = ports.is_some_and(|ports| ports.iter().any(|known| known["port"] == port));
    if has { Ok(()) } else { Err(format!("no service port {port} found for service {name:?}")) }
}

/// As Go writes it, for whole seconds and what is shorter.
fn duration(timeout: Duration) -> String {
    match timeout.subsec_millis() {
        0 => format!("{}s", timeout.as_secs()),
        _ => format!("{}ms", timeout.as_millis()),
    }
}

/// What an answer other than success means, in the words of upstream's client.
fn complaint(status: StatusCode, body: &[u8]) -> String {
    let said = String::from_utf8_lossy(body);
    let said = said.trim();
    match status {
        StatusCode::NOT_FOUND => "the server could not find the requested resource".to_owned(),
        status if status.is_server_error() && said.is_empty() => {
            "an error on the server has prevented the request from succeeding".to_owned()
        }
        status if status.is_server_error() => {
            format!("an error on the server ({said:?}) has prevented the request from succeeding")
        }
        status => format!(
            "the server responded with the status code {} but did not return more information: {said}",
            status.as_u16()
        ),
    }
}

/// The error at the bottom: the ones above it only say that something failed.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

fn connect(tls: rustls::ClientConfig, store: Arc<dyn Store>) -> Connections {
    let mut tcp = HttpConnector::new_with_resolver(Lookup(store));
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_nodelay(true);
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_all_versions()
        .wrap_connector(tcp);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_IDLE_PER_HOST)
        .build(https)
}

/// Finds the addresses of names: `<service>.<namespace>.svc` is a Service's, others are the machine's
/// business.
#[derive(Clone)]
struct Lookup(Arc<dyn Store>);

impl Lookup {
    /// The address of a Service, or the name that stands for it.
    fn service(&self, name: &str) -> Option<String> {
        let (service_name, namespace) = name.strip_suffix(".svc")?.split_once('.')?;
        let service = service(&*self.0, namespace, service_name)?;
        let spec = &service["spec"];
        let external = spec["type"] == "ExternalName";
        spec[if external { "externalName" } else { "clusterIP" }].as_str().map(str::to_owned)
    }
}

impl tower::Service<Name> for Lookup {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let host = self.service(name.as_str()).unwrap_or_else(|| name.as_str().to_owned());
        Box::pin(async move {
            if let Ok(ip) = host.parse::<IpAddr>() {
                return Ok(vec![SocketAddr::new(ip, 0)].into_iter());
            }
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            Ok(found.into_iter())
        })
    }
}

#[cfg(test)]
pub mod tests;

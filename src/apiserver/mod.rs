//! The Kubernetes API over a [`Store`].
//!
//! One request's way: limits → identity (already in the request, see [`auth`]) → [`target`] → may they?
//! → the verb → the registry → the store, and back as the representation that the client accepts.
//! This room alone writes to the store. It decides nothing that a kind can decide for itself (those
//! rules are in [`crate::kinds`]) and nothing that a controller may do a moment later.
//!
//! The server is an axum [`Router`]: the TLS door serves it to the world, and the controllers of the
//! same process call it without a socket. Nothing in here knows which.

mod admission;
mod aggregate;
pub mod allocate;
pub mod audit;
pub mod auth;
mod body;
mod bootstrap;
pub mod codec;
mod components;
pub mod continuation;
mod definitions;
mod derived;
pub mod discovery;
mod documents;
mod endpoints;
mod expiry;
mod fairness;
pub mod health;
mod hooks;
pub mod join;
pub mod limits;
mod local_services;
mod measured;
mod metrics;
pub mod openapi;
mod options;
pub mod patch;
mod presence;
mod quota;
mod registry;
mod relay;
mod relay_stream;
mod reply;
mod reviews;
pub mod selector;
pub mod serve;
pub mod status;
pub mod table;
pub mod target;
mod through;
mod verbs;
pub mod webhook;

use std::net::SocketAddr;
use std::ops::{Deref, RangeInclusive};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::Request;
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use ipnet::Ipv4Net;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::kinds::Kind;
use crate::kinds::node::Node;
use crate::kinds::pod::Pod;
use crate::kinds::secret::Secret;
use crate::kinds::service_account::ServiceAccount;
use crate::kinds::service_cidr::Ranges;
use crate::store::Store;
use crate::telemetry::page::Page;
use admission::author::Said;
use aggregate::Aggregate;
use allocate::Allocator;
use audit::Audit;
use auth::User;
use auth::accounts::{self, AccountKey, Believed};
use auth::authorize::{Rights, authorize};
use auth::bootstrap_tokens::{self, BootstrapToken};
use auth::impersonate::impersonate;
use auth::pki::Credentials;
use fairness::Flow;
use limits::Limits;
use measured::Summaries;
use metrics::Metrics;
use options::Query;
use presence::Presence;
use registry::Registry;
use relay::NodeClient;
use status::ApiError;
use target::Target;
use verbs::watch::shared::Changes;

/// What an API server is built from.
pub struct ApiConfig {
    pub store: Arc<dyn Store>,
    /// Where ClusterIPs come from; the first address is the API's own.
    pub service_cidr: Ipv4Net,
    /// Where pods get theirs from, which no other Service may have.
    pub pod_cidr: Option<Ipv4Net>,
    pub node_ports: RangeInclusive<u16>,
    /// Where clients reach the API: the endpoint behind `default/kubernetes`.
    pub api_address: SocketAddr,
    /// Certificate and trust for calls to nodes; without it logs cannot be read.
    pub node_tls: Option<rustls::ClientConfig>,
    /// What signs the tokens of service accounts; without it a key is made that ends with the process.
    pub account_key: Option<AccountKey>,
    /// The authority's certificate, for Secrets that hold a token.
    pub ca_pem: String,
    /// Who is told of requests.
    pub audit: Option<Arc<Audit>>,
    /// What this server shows to other API servers behind it.
    pub proxy_identity: Option<Credentials>,
    /// What other parts of the process add to `/metrics`.
    pub more_metrics: Option<MoreMetrics>,
}

/// Adds to a page of metrics.
pub type MoreMetrics = Arc<dyn Fn(&mut Page) + Send + Sync>;

impl ApiConfig {
    /// The defaults of one machine, over `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            service_cidr: Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 96, 0, 0), 16),
            pod_cidr: None,
            node_ports: 30000..=32767,
            api_address: SocketAddr::from(([127, 0, 0, 1], 6443)),
            node_tls: None,
            account_key: None,
            ca_pem: String::new(),
            audit: None,
            proxy_identity: None,
            more_metrics: None,
        }
    }
}

/// A running API server. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

/// What requests share.
pub struct Inner {
    registry: Registry,
    changes: Changes,
    presence: Presence,
    limits: Limits,
    node_client: Option<NodeClient>,
    summaries: Summaries,
    metrics: Metrics,
    more_metrics: Option<MoreMetrics>,
    aggregate: Aggregate,
    proxy_identity: Option<Credentials>,
    streams: Arc<Semaphore>,
    accounts: Accounts,
    audit: Option<Arc<Audit>>,
    config: Facts,
    /// Set when the server stops: watches end, presence says nothing any more.
    shutdown: CancellationToken,
}

/// What tokens of service accounts are made of.
struct Accounts {
    key: AccountKey,
    ca_pem: String,
}

struct Facts {
    service_cidr: Ipv4Net,
    api_address: SocketAddr,
}

impl Deref for ApiServer {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl ApiServer {
    /// Builds the server and makes the objects that must be there (namespaces, `default/kubernetes`, …).
    pub async fn start(config: ApiConfig) -> Result<Self, ApiError> {
        let ApiConfig {
            store,
            service_cidr,
            pod_cidr,
            node_ports,
            api_address,
            node_tls,
            account_key,
            ca_pem,
            audit,
            proxy_identity,
            more_metrics,
        } = config;
        let key = match account_key {
            Some(key) => key,
            None => AccountKey::in_memory().map_err(ApiError::internal)?,
        };
        let ranges = Ranges { services: service_cidr, pods: pod_cidr };
        let registry = Registry::new(store.clone(), Allocator::new(ranges, node_ports, store));
        let server = Self(Arc::new(Inner {
            changes: Changes::new(registry.decoded.clone()),
            registry,
            presence: Presence::default(),
            limits: Limits::default(),
            node_client: node_tls.map(relay::client),
            summaries: Summaries::default(),
            metrics: Metrics::default(),
            more_metrics,
            aggregate: Aggregate::default(),
            proxy_identity,
            streams: Arc::new(Semaphore::new(relay_stream::MAX_STREAMS)),
            accounts: Accounts { key, ca_pem },
            audit,
            config: Facts { service_cidr, api_address },
            shutdown: CancellationToken::new(),
        }));
        bootstrap::run(&server).await?;
        definitions::keep::settle(&server).await;
        tokio::spawn(definitions::keep::run(server.clone()));
        tokio::spawn(expiry::run(server.clone()));
        tokio::spawn(quota::run(server.clone()));
        Ok(server)
    }

    /// The whole API. Requests carry their [`User`] as an extension; one without is anonymous.
    pub fn router(&self) -> Router {
        Router::new().fallback(handle).with_state(self.clone())
    }

    /// Who holds a token of a service account or a bootstrap token; `None` for one that is not believed.
    pub fn account(&self, token: &str) -> Option<User> {
        self.believe(token, &[]).ok().map(|believed| believed.user)
    }

    /// Believes a token for one of `audiences` (none: for this server), or says why not.
    fn believe(&self, token: &str, audiences: &[String]) -> Result<Believed, &'static str> {
        if let Some(bootstrap) = BootstrapToken::parse(token) {
            return self.believe_bootstrap(bootstrap, audiences);
        }
        let claims = self.accounts.key.verify(token).ok_or("the token was not signed by this cluster")?;
        let find = |kind: &str, namespace: &str, name: &str| {
            let kind: &'static dyn Kind = match kind {
                "serviceaccounts" => &ServiceAccount,
                "pods" => &Pod,
                "secrets" => &Secret,
                _ => &Node,
            };
            self.registry.find(registry::Place { kind, namespace, name })
        };
        accounts::check(token, &claims, audiences, &find, Timestamp::now())
    }

    fn believe_bootstrap(&self, token: BootstrapToken<'_>, audiences: &[String]) -> Result<Believed, &'static str> {
        if !audiences.is_empty() && !audiences.iter().any(|audience| audience == accounts::ISSUER) {
            return Err("token audiences are invalid for this server");
        }
        let (kind, name): (&'static dyn Kind, _) = (&Secret, token.secret_name());
        let secret = self.registry.find(registry::Place { kind, namespace: bootstrap_tokens::NAMESPACE, name: &name });
        let user = token.user(&secret.ok_or("the bootstrap token is not known")?, Timestamp::now())?;
        Ok(Believed { user, audiences: vec![accounts::ISSUER.to_owned()] })
    }

    /// Tells the audit log of a request whose credentials were not believed.
    async fn tell_refused(&self, parts: &Parts) {
        if let Some(audit) = &self.audit {
            audit.refused(&self.registry.definitions.current(), parts).await;
        }
    }

    /// Ends watches and stops judging nodes. Requests in flight finish.
    pub fn shutdown(&self) {
        self.0.shutdown.cancel();
    }
}

async fn handle(State(server): State<ApiServer>, request: Request<Body>) -> Response {
    let said: Arc<Said> = Arc::default();
    let Some(audit) = server.audit.clone() else {
        return answer(server, request, said).await.unwrap_or_else(IntoResponse::into_response);
    };
    let custom = server.registry.definitions.current();
    let (request, entry) = audit.begin(&custom, request, &said).await;
    let response = answer(server, request, said).await.unwrap_or_else(IntoResponse::into_response);
    match entry {
        Some(entry) => entry.end(response).await,
        None => response,
    }
}

async fn answer(server: ApiServer, request: Request<Body>, said: Arc<Said>) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let user = parts.extensions.get::<User>().cloned().unwrap_or_else(User::anonymous);
    let rights = server.registry.rights();
    let user = impersonate(&rights, user, &parts.headers)?;
    let path = parts.uri.path();
    let query = Query::parse(parts.uri.query());
    if let Some(node) = path.strip_prefix("/coracle/v1/nodes/").and_then(|rest| rest.strip_suffix("/presence")) {
        return presence::attend(&server, &user, node, body).await;
    }
    if let Some(remote) = aggregate::remote(&server, &parts) {
        let limits = server.limits.clone();
        return limits.run(true, aggregate::answer(&server, &user, remote, parts, body)).await?;
    }
    if !is_resource_path(path) {
        let target = Target::plain(&parts.method, path);
        note(&server, &said, authorize(&rights, &user, &target))?;
        if let Some(document) = documents::answer(&server, &parts.method, path, &parts.headers).await? {
            return Ok(document);
        }
        return health::answer(&server, &parts.method, path).ok_or_else(ApiError::no_path);
    }
    let custom = server.registry.definitions.current();
    let (target, kind) = target::parse(&custom, &parts.method, path, query.bool("watch"))?;
    note(&server, &said, permit(&rights, &user, &target, query.get("fieldSelector")))?;
    let flow = server.registry.fairness.classify(&user, &target);
    let sent = verbs::Sent { method: parts.method, uri: parts.uri };
    let call = verbs::Call { server, user, target, kind, query, headers: parts.headers, sent, upgrade, said };
    let server = call.server.clone();
    let counted = server.metrics.begin(call.kind, &call.target);
    let mut response = in_turn(call, body, flow.as_ref()).await.unwrap_or_else(IntoResponse::into_response);
    counted.end(response.status());
    if let Some(flow) = flow {
        flow.mark(response.headers_mut());
    }
    Ok(response)
}

/// Answers a request when it is its flow's turn. What stays open for long takes no turn.
async fn in_turn(call: verbs::Call, body: Body, flow: Option<&Flow>) -> Result<Response, ApiError> {
    let long = call.target.is_long_running();
    let server = call.server.clone();
    let _seat = match flow {
        Some(flow) if !long => Some(server.registry.fairness.seat(flow).await?),
        _ => None,
    };
    server.limits.run(long, verbs::answer(call, body)).await
}

/// Notes for the audit log whether the user may do what is asked, and why.
fn note(server: &ApiServer, said: &Said, decision: Result<String, ApiError>) -> Result<(), ApiError> {
    if server.audit.is_some() {
        let word = if decision.is_ok() { "allow" } else { "forbid" };
        said.annotate("authorization.k8s.io/decision", word);
        said.annotate("authorization.k8s.io/reason", decision.as_deref().unwrap_or_default());
    }
    decision.map(|_| ())
}

/// Lets `user` do what a request for a resource asks, and says why; or refuses.
fn permit(rights: &Rights, user: &User, target: &Target, field_selector: &str) -> Result<String, ApiError> {
    let mut asked = target.clone();
    if target.name.is_empty()
        && matches!(&*target.verb, "list" | "watch")
        && let Some(name) = one_name(field_selector)
    {
        // A list or watch of one object is a right to that object, as upstream judges it too.
        name.clone_into(&mut asked.name);
    }
    let why = authorize(rights, user, &asked)?;
    if target.verb == "get" && matches!(target.subresource.as_str(), "attach" | "exec" | "portforward") {
        // A WebSocket begins as a GET; but to run something in a pod takes more than the right to read.
        asked.verb = "create".into();
        authorize(rights, user, &asked)?;
    }
    Ok(why)
}

/// The name that a field selector pins down.
fn one_name(field_selector: &str) -> Option<&str> {
    let mut terms = field_selector.split(',').filter_map(|term| term.strip_prefix("metadata.name="));
    terms.next().map(|name| name.trim_start_matches('='))
}

/// `/api/<version>/…` and `/apis/<group>/<version>/…` name resources; shorter paths are discovery.
fn is_resource_path(path: &str) -> bool {
    let parts = path.split('/').filter(|part| !part.is_empty()).count();
    match path.trim_start_matches('/').split('/').next() {
        Some("api") => parts >= 3,
        Some("apis") => parts >= 4,
        _ => false,
    }
}

#[cfg(test)]
mod consistency_tests;
#[cfg(test)]
mod conversion_tests;
#[cfg(test)]
mod custom_tests;
#[cfg(test)]
mod fairness_tests;
#[cfg(test)]
mod rights_tests;
#[cfg(test)]
mod serve_tests;
#[cfg(test)]
mod tests;

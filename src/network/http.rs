//! One HTTP request to one ready endpoint, and to another one if the first did not take it.
//!
//! To a pod of this process the call is a function call: the request is moved in, the body is not
//! touched. To any other it is sent over a pooled connection. A request is repeated only while it is
//! certain that no guest has acted on it: it was handed back, the connection was never made, the other
//! node says so; and, when a connection breaks in the middle, if its method is idempotent (RFC 9110,
//! section 9.2.2) and its body can be taken back.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::balance;
use super::dial::Dialer;
use super::headers::{self, UNDELIVERED};
use super::local::Found;
use super::policy::Refusal;
use super::seek::{Directory, NotFound};
use super::table::{Endpoint, ServicePort};
use crate::wire::replay::{Lent, Tape};
use crate::wire::{CallError, HttpBody, HttpService};

/// Shorter than servers keep idle connections, so that they are not closed under a request.
const POOL_IDLE: Duration = Duration::from_secs(10);
/// More idle connections to one peer than this are closed: a burst must not hold descriptors.
const POOL_IDLE_PER_PEER: usize = 64;
/// What clients are told to wait before they come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request got no answer from an endpoint; [`ForwardError::response`] says it to a client.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    #[error("{port}: {reason}")]
    NotFound { port: String, reason: NotFound },
    #[error("the endpoint is overloaded")]
    Overloaded { retry_after: Duration },
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Failed(String),
}

/// What became of a request at one endpoint.
enum Attempt {
    Answered(Response<HttpBody>),
    /// Nobody has acted on it: it may go elsewhere.
    Undelivered(Request<HttpBody>),
    Failed(ForwardError),
}

/// Makes calls. Shared by the ingress, the Service listeners and guests.
pub(super) struct Forwarder {
    pub(super) directory: Arc<Directory>,
    client: Client<Dialer, Lent>,
}

impl Forwarder {
    pub(super) fn new(directory: Arc<Directory>) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_IDLE_PER_PEER)
            .set_host(false)
            .build(Dialer);
        Self { directory, client }
    }

    /// Sends a normalised `request` to an endpoint of `port` and waits for the head of its answer, for
    /// at most `timeout` at each endpoint.
    pub(super) async fn forward(
        &self,
        port: Arc<ServicePort>,
        mut request: Request<HttpBody>,
        client: Option<IpAddr>,
        timeout: Duration,
    ) -> Result<Response<HttpBody>, ForwardError> {
        headers::strip_hop_by_hop(request.headers_mut());
        let mut search = self.directory.search(port, client);
        loop {
            let endpoint = match search.next().await {
                Ok(endpoint) => endpoint,
                Err(reason) => return Err(ForwardError::NotFound { port: search.port().to_string(), reason }),
            };
            let attempt = {
                let _in_flight = endpoint.health.begin();
                match tokio::time::timeout(timeout, self.attempt(&endpoint, request)).await {
                    Ok(attempt) => attempt,
                    Err(_) => return Err(ForwardError::Timeout(timeout)),
                }
            };
            match attempt {
                Attempt::Answered(response) => return Ok(response),
                Attempt::Failed(error) => return Err(error),
                Attempt::Undelivered(back) => {
                    request = back;
                    search.failed(&endpoint);
                }
            }
        }
    }

    async fn attempt(&self, endpoint: &Endpoint, request: Request<HttpBody>) -> Attempt {
        match self.directory.local.find(endpoint.address) {
            Found::Here(service) => call_local(&*service, request).await,
            Found::Away => Attempt::Undelivered(request),
            Found::Elsewhere => self.call_remote(endpoint, request).await,
        }
    }

    async fn call_remote(&self, endpoint: &Endpoint, request: Request<HttpBody>) -> Attempt {
        let (parts, body) = request.into_parts();
        let tape = Tape::new(body);
        let take_back = |parts| tape.rewind().map(|body| Request::from_parts(parts, body));

        let mut outgoing = Request::new(tape.lend());
        *outgoing.method_mut() = parts.method.clone();
        *outgoing.headers_mut() = parts.headers.clone();
        *outgoing.version_mut() = Version::HTTP_11;
        *outgoing.uri_mut() = match target(endpoint, parts.uri.path_and_query()) {
            Ok(uri) => uri,
            Err(error) => return Attempt::Failed(ForwardError::Failed(format!("cannot address the request: {error}"))),
        };
        match self.client.request(outgoing).await {
            Ok(response) if response.headers().contains_key(UNDELIVERED) => match take_back(parts) {
                Some(request) => Attempt::Undelivered(request),
                None => Attempt::Answered(receive(response)),
            },
            Ok(response) => {
                endpoint.health.answered();
                Attempt::Answered(receive(response))
            }
            Err(error) if error.is_connect() => {
                endpoint.health.refused(balance::clock_ms());
                let failed = unreachable(endpoint, &error);
                take_back(parts).map_or(failed, Attempt::Undelivered)
            }
            Err(error) if parts.method.is_idempotent() || was_not_sent(&error) => {
                let failed = unreachable(endpoint, &error);
                take_back(parts).map_or(failed, Attempt::Undelivered)
            }
            Err(error) => unreachable(endpoint, &error),
        }
    }
}

async fn call_local(service: &dyn HttpService, request: Request<HttpBody>) -> Attempt {
    match service.call(request).await {
        Ok(response) => Attempt::Answered(response),
        Err(CallError::Undelivered { reason, request }) => {
            tracing::debug!(%reason, "a pod of this node did not take a request");
            Attempt::Undelivered(*request)
        }
        Err(CallError::Overloaded { retry_after }) => Attempt::Failed(ForwardError::Overloaded { retry_after }),
        Err(CallError::Timeout(after)) => Attempt::Failed(ForwardError::Timeout(after)),
        Err(CallError::Failed(reason)) => Attempt::Failed(ForwardError::Failed(reason)),
    }
}

fn target(endpoint: &Endpoint, path: Option<&PathAndQuery>) -> Result<Uri, http::uri::InvalidUriParts> {
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(endpoint.authority.clone());
    uri.path_and_query = Some(path.cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(uri)
}

/// An answer from a connection, made ready to be passed on.
pub(super) fn receive(response: Response<Incoming>) -> Response<HttpBody> {
    let (mut parts, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(UNDELIVERED);
    Response::from_parts(parts, incoming(body))
}

fn unreachable(endpoint: &Endpoint, error: &hyper_util::client::legacy::Error) -> Attempt {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    Attempt::Failed(ForwardError::Failed(format!("the endpoint {} failed: {error}{cause}", endpoint.address)))
}

/// Whether the request was still waiting for the connection when that closed.
fn was_not_sent(error: &hyper_util::client::legacy::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<hyper::Error>());
    source.is_some_and(hyper::Error::is_canceled)
}

impl ForwardError {
    /// What a client is told.
    pub(super) fn response(&self) -> Response<HttpBody> {
        match self {
            ForwardError::NotFound { reason: NotFound::Forbidden(refusal), .. } => forbidden(refusal),
            ForwardError::NotFound { .. } => unavailable(&format!("no ready endpoint: {self}"), RETRY_AFTER),
            ForwardError::Overloaded { retry_after } => unavailable(&self.to_string(), *retry_after),
            ForwardError::Timeout(_) => plain(StatusCode::GATEWAY_TIMEOUT, &self.to_string()),
            ForwardError::Failed(_) => plain(StatusCode::BAD_GATEWAY, &self.to_string()),
        }
    }
}

/// What a client is told whom policies do not let pass: nothing there will hear it, now or later.
pub(super) fn forbidden(refusal: &Refusal) -> Response<HttpBody> {
    plain(StatusCode::FORBIDDEN, &refusal.to_string())
}

pub(super) fn unavailable(text: &str, retry_after: Duration) -> Response<HttpBody> {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text);
    let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    response
}

/// An answer of the router's own.
pub(super) fn plain(status: StatusCode, text: &str) -> Response<HttpBody> {
    let mut response = Response::new(full(format!("{text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

pub(super) fn full(text: impl Into<Bytes>) -> HttpBody {
    HttpBody::new(Full::new(text.into()).map_err(|never| match never {}))
}

pub(super) fn empty() -> HttpBody {
    HttpBody::new(Empty::new().map_err(|never| match never {}))
}

/// A body from a connection. Nothing is allocated for one that is empty, as most requests' are.
pub(super) fn incoming(body: Incoming) -> HttpBody {
    match http_body::Body::is_end_stream(&body) {
        true => empty(),
        false => HttpBody::new(body.map_err(Into::into)),
    }
}

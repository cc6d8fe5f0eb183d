//! One HTTP request of a client's, passed to a pod: what `pods/proxy` and `services/proxy` do.
//!
//! The pod's node opens its port and passes bytes ([`relay`]), so a pod is reached wherever it runs, and nothing else
//! is: what a proxy may lead to is a pod, never an address that somebody wrote. Over those bytes this server speaks
//! HTTP/1.1 as a client, within TLS where the name says `https` (whatever certificate the pod shows, as upstream has
//! it: nobody could have vouched for it). Bodies are streamed both ways; a connection is for one request and holds one
//! of the places of streams.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsConnector;

use super::ApiServer;
use super::aggregate::{HOP_BY_HOP, trusting_anything};
use super::relay::{ask, node_address};
use super::relay_stream::{MAX_STREAMS, tunnel};
use super::status::ApiError;
use super::verbs::Call;
use crate::kinds::common::text;
use crate::kinds::meta as kmeta;

/// Whom a request is for.
pub struct Goal {
    pub pod: Value,
    pub port: u16,
    pub tls: bool,
}

impl Goal {
    fn host(&self) -> String {
        let ip = text(&self.pod, "/status/podIP");
        if ip.contains(':') { format!("[{ip}]:{}", self.port) } else { format!("{ip}:{}", self.port) }
    }
}

/// Asks the pod for `path`, which begins with a slash or is empty. `prefix` is the path of the proxy itself.
pub async fn pass(call: Call, goal: Goal, prefix: &str, path: &str, body: Body) -> Result<Response, ApiError> {
    let server = call.server.clone();
    let Ok(place) = server.streams.clone().try_acquire_owned() else {
        return Err(ApiError::too_many_requests(format!("{MAX_STREAMS} streams are open already")));
    };
    let host = goal.host();
    let asks_upgrade = call.upgrade.is_some() && call.headers.contains_key(header::UPGRADE);
    let query = call.sent.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut request = Request::new(body);
    *request.method_mut() = call.sent.method.clone();
    *request.uri_mut() =
        format!("{slash}{path}{query}").parse().map_err(|_| ApiError::bad_request("the path is no path of HTTP"))?;
    *request.headers_mut() = headers(&call.headers, &host, &format!("{prefix}{path}"), asks_upgrade);
    let node = connect(&server, &goal).await?;
    let answer = match goal.tls {
        false => exchange(&server, node, request, place).await,
        true => {
            let name = text(&goal.pod, "/status/podIP").to_owned();
            let name = ServerName::try_from(name).map_err(ApiError::internal)?;
            let tls = TlsConnector::from(Arc::new(trusting_anything().map_err(ApiError::internal)?));
            let secured = tls.connect(name, TokioIo::new(node)).await.map_err(unreachable)?;
            exchange(&server, TokioIo::new(secured), request, place).await
        }
    };
    let mut answer = answer?;
    let pod_side = (answer.status() == StatusCode::SWITCHING_PROTOCOLS).then(|| hyper::upgrade::on(&mut answer));
    let (mut head, body) = answer.into_parts();
    if let (Some(pod_side), Some(client)) = (pod_side, call.upgrade) {
        let server = server.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = tunnel(client, pod_side) => {}
                () = server.shutdown.cancelled() => {}
            }
        });
        return Ok(Response::from_parts(head, Body::empty()));
    }
    for name in HOP_BY_HOP {
        head.headers.remove(name);
    }
    if let Some(moved) = head.headers.get(header::LOCATION).and_then(|place| moved(place, &host, prefix)) {
        head.headers.insert(header::LOCATION, moved);
    }
    Ok(Response::from_parts(head, Body::new(body)))
}

/// Bytes to the pod's port, by its node.
async fn connect(server: &ApiServer, goal: &Goal) -> Result<hyper::upgrade::Upgraded, ApiError> {
    let (namespace, name) = (kmeta::text(&goal.pod, "namespace"), kmeta::text(&goal.pod, "name"));
    let node = text(&goal.pod, "/spec/nodeName");
    if node.is_empty() || text(&goal.pod, "/status/podIP").is_empty() {
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let uri = format!("https://{}/connect/{namespace}/{name}/{}", node_address(server, node)?, goal.port);
    let request = Request::get(uri).header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "tcp");
    let answer = ask(server, node, request.body(Body::empty()).map_err(ApiError::internal)?).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return hyper::upgrade::on(answer).await.map_err(unreachable);
    }
    Err(unreachable(super::relay::complaint(node, answer).await.message()))
}

/// Sends the request over a fresh connection, which lives as long as the answer is read.
async fn exchange<I>(
    server: &ApiServer,
    io: I,
    request: Request<Body>,
    place: OwnedSemaphorePermit,
) -> Result<http::Response<hyper::body::Incoming>, ApiError>
where
    I: Read + Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(io).await.map_err(unreachable)?;
    let shutdown = server.shutdown.clone();
    tokio::spawn(async move {
        let _place = place;
        tokio::select! {
            // Who reads the answer hears of its failure.
            _ = connection.with_upgrades() => {}
            () = shutdown.cancelled() => {}
        }
    });
    sender.send_request(request).await.map_err(unreachable)
}

fn unreachable(why: impl std::fmt::Display) -> ApiError {
    ApiError::new(503, "ServiceUnavailable", format!("error trying to reach service: {why}"))
}

/// What the pod is told: the client's headers without those that concern this server alone, and where it was asked.
fn headers(sent: &HeaderMap, host: &str, path: &str, asks_upgrade: bool) -> HeaderMap {
    let mut headers = sent.clone();
    let ours = |name: &HeaderName| name.as_str().starts_with("impersonate-") || name.as_str().starts_with("x-remote-");
    let ours: Vec<HeaderName> = headers.keys().filter(|name| ours(name)).cloned().collect();
    for name in ours.iter().chain(HOP_BY_HOP) {
        headers.remove(name);
    }
    if asks_upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        sent.get_all(header::UPGRADE).iter().for_each(|protocol| _ = headers.append(header::UPGRADE, protocol.clone()));
    }
    let asked = sent.get(header::HOST).cloned().unwrap_or(HeaderValue::from_static(""));
    let mut say = |name: &'static str, value: Result<HeaderValue, _>| {
        if let Ok(value) = value {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    say("host", HeaderValue::try_from(host));
    say("x-forwarded-uri", HeaderValue::try_from(path));
    say("x-forwarded-host", Ok(asked));
    say("x-forwarded-proto", Ok(HeaderValue::from_static("https")));
    headers
}

/// Where a redirect within the pod leads by way of the proxy. `None` for one that leads elsewhere.
fn moved(place: &HeaderValue, host: &str, prefix: &str) -> Option<HeaderValue> {
    let place = place.to_str().ok()?;
    let own = |scheme: &str| place.strip_prefix(scheme)?.strip_prefix(host);
    let path = match own("http://").or_else(|| own("https://")) {
        Some(path) if path.is_empty() || path.starts_with(['/', '?', '#']) => path,
        Some(_) => return None,
        None if place.starts_with('/') && !place.starts_with("//") => place,
        None => return None,
    };
    HeaderValue::try_from(format!("{prefix}{path}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_within_the_pod_stay_below_the_proxy() {
        for (place, leads) in [
            ("/login?a=b", Some("/P/login?a=b")),
            ("http://10.0.0.1:80/x", Some("/P/x")),
            ("https://10.0.0.1:80", Some("/P")),
            ("http://10.0.0.1:8080/x", None),
            ("https://example.com/x", None),
            ("//example.com/x", None),
            ("next", None),
        ] {
            let moved = moved(&HeaderValue::from_static(place), "10.0.0.1:80", "/P");
            assert_eq!(moved.as_ref().and_then(|place| place.to_str().ok()), leads, "{place}");
        }
    }

    #[test]
    fn a_pod_hears_nothing_that_was_for_this_server() {
        let sent = [
            ("authorization", "Bearer x"),
            ("impersonate-user", "a"),
            ("x-remote-user", "root"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("host", "api:6443"),
            ("cookie", "c"),
        ];
        let sent = sent.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let sent = HeaderMap::from_iter(sent);
        let told = |asks_upgrade| {
            let mut told: Vec<String> = headers(&sent, "10.0.0.1:80", "/P/x", asks_upgrade)
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default()))
                .collect();
            told.sort();
            told.join(", ")
        };
        let forwarded = "x-forwarded-host: api:6443, x-forwarded-proto: https, x-forwarded-uri: /P/x";
        assert_eq!(told(false), format!("cookie: c, host: 10.0.0.1:80, {forwarded}"));
        assert_eq!(
            told(true),
            format!("connection: Upgrade, cookie: c, host: 10.0.0.1:80, upgrade: websocket, {forwarded}")
        );
    }
}

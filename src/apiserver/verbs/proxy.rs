//! The proxy subresources: HTTP to a pod, to a service, and a node's own figures.
//!
//! A pod is named `[SCHEME:]NAME[:PORT]`, a service with a port's name or number; what follows `proxy/` is asked of
//! it as it stands, with the method, the query and the body ([`through`](crate::apiserver::through) carries it). Of a
//! node upstream relays every path of the kubelet, which is a right to run commands there: here only what is listed
//! is relayed, and all of it only tells.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use super::{Call, stream};
use crate::apiserver::endpoints;
use crate::apiserver::registry::Place;
use crate::apiserver::relay;
use crate::apiserver::status::ApiError;
use crate::apiserver::through::{self, Goal};
use crate::kinds::common::{list, text};
use crate::kinds::pod::Pod;

/// What may be asked of a node through the API server.
const NODE_PATHS: &[&str] = &["healthz", "metrics", "metrics/cadvisor", "metrics/resource", "stats/summary"];
/// Where a pod is asked that names no port.
const DEFAULT_PORT: u16 = 80;

pub async fn proxy(call: Call, body: Body) -> Result<Response, ApiError> {
    let path = Path::of(call.sent.uri.path(), call.kind.info().namespaced);
    match &*call.target.resource {
        "nodes" => return node(&call, path.rest).await,
        "pods" => review(&call, "PodProxyOptions", path.rest).await?,
        _ => review(&call, "ServiceProxyOptions", path.rest).await?,
    };
    if path.rest.is_empty() && matches!(call.sent.method, Method::GET | Method::HEAD) {
        return slash(&call);
    }
    let goal = match &*call.target.resource {
        "pods" => pod(&call)?,
        _ => service(&call)?,
    };
    let (prefix, rest) = (path.prefix.to_owned(), path.rest.to_owned());
    through::pass(call, goal, &prefix, &rest, body).await
}

async fn node(call: &Call, path: &str) -> Result<Response, ApiError> {
    call.server.registry.entry(call.place())?;
    let path = path.trim_matches('/');
    if !NODE_PATHS.contains(&path) {
        let served = NODE_PATHS.join(", ");
        let why = format!("node {:?} is not asked for {path:?}; what can be asked for is {served}", call.target.name);
        return Err(ApiError::new(404, "NotFound", why));
    }
    relay::get(&call.server, &call.target.name, path).await
}

async fn review(call: &Call, kind: &str, path: &str) -> Result<(), ApiError> {
    stream::review(call, json!({ "kind": kind, "apiVersion": "v1", "path": path })).await
}

/// A request's path, in two.
#[derive(Debug, PartialEq, Eq)]
struct Path<'a> {
    /// With `proxy` as its last word.
    prefix: &'a str,
    /// As it was sent: empty, or with a slash at its beginning.
    rest: &'a str,
}

impl<'a> Path<'a> {
    /// Of a path that leads to a proxy: `/api/v1/nodes/NAME/proxy`, or two words longer in a namespace. Empty words do
    /// not count, as in [`target`](crate::apiserver::target).
    fn of(path: &'a str, namespaced: bool) -> Self {
        let words = if namespaced { 7 } else { 5 };
        let (mut seen, mut end) = (0, 0);
        for piece in path.split_inclusive('/') {
            let word = piece.trim_end_matches('/');
            seen += usize::from(!word.is_empty());
            if seen == words {
                end += word.len();
                break;
            }
            end += piece.len();
        }
        let (prefix, rest) = path.split_at(end);
        Self { prefix, rest }
    }
}

/// Sends a browser to where relative links lead below the proxy, as upstream does.
fn slash(call: &Call) -> Result<Response, ApiError> {
    let query = call.sent.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let place = HeaderValue::try_from(format!("{}/{query}", call.sent.uri.path())).map_err(ApiError::internal)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, place);
    Ok(response)
}

/// `[SCHEME:]NAME[:PORT]`
#[derive(Debug, PartialEq, Eq)]
struct Name<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

fn split(text: &str) -> Option<Name<'_>> {
    let (scheme, name, port) = match text.split(':').collect::<Vec<_>>().as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    let known = matches!(scheme, "" | "http" | "https") && !name.is_empty();
    known.then_some(Name { tls: scheme == "https", name, port })
}

fn pod(call: &Call) -> Result<Goal, ApiError> {
    let asked = &call.target.name;
    let invalid = || ApiError::bad_request(format!("invalid pod request {asked:?}"));
    let name = split(asked).ok_or_else(invalid)?;
    let place = Place { kind: call.kind, namespace: &call.target.namespace, name: name.name };
    let pod = call.server.registry.find(place).ok_or_else(|| place.not_found())?;
    let port = match name.port {
        "" => first_port(&pod),
        port => port.parse().ok().filter(|port| *port > 0).ok_or_else(invalid)?,
    };
    Ok(Goal { pod, port, tls: name.tls })
}

/// The first that its containers name.
fn first_port(pod: &Value) -> u16 {
    let ports = list(pod, "/spec/containers").iter().flat_map(|container| list(container, "/ports"));
    let first = ports.filter_map(|port| port["containerPort"].as_u64()).next();
    first.and_then(|port| u16::try_from(port).ok()).unwrap_or(DEFAULT_PORT)
}

/// One of the service's ready pods, any of them.
fn service(call: &Call) -> Result<Goal, ApiError> {
    let (server, namespace, asked) = (&call.server, &call.target.namespace, &call.target.name);
    let name = split(asked).ok_or_else(|| ApiError::bad_request(format!("invalid service request {asked:?}")))?;
    let unavailable = |why: String| ApiError::new(503, "ServiceUnavailable", why);
    let place = Place { kind: call.kind, namespace, name: name.name };
    let service = server.registry.find(place).ok_or_else(|| place.not_found())?;
    let port_name = match name.port.parse::<i64>() {
        Err(_) => name.port,
        Ok(number) => {
            let port = list(&service, "/spec/ports").iter().find(|port| port["port"].as_i64() == Some(number));
            let none = || unavailable(format!("no service port {number} found for service {:?}", name.name));
            text(port.ok_or_else(none)?, "/name")
        }
    };
    // Only to pods, and to those of the same namespace: an address that somebody wrote may lead anywhere.
    let ready = endpoints::ready(server, namespace, name.name, port_name);
    let pods: Vec<(Value, u16)> = ready
        .iter()
        .filter_map(|endpoint| {
            let place = Place { kind: &Pod, namespace, name: endpoint.pod_of(namespace)? };
            Some((server.registry.find(place)?, endpoint.port))
        })
        .collect();
    let none = || unavailable(format!("no endpoints available for service {:?}", name.name));
    let (pod, port) = pods.choose(&mut rand::rng()).cloned().ok_or_else(none)?;
    Ok(Goal { pod, port, tls: name.tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_behind_the_word() {
        for (path, prefix, rest) in [
            ("/api/v1/nodes/n/proxy/stats/summary", "/api/v1/nodes/n/proxy", "/stats/summary"),
            ("/api/v1/nodes/namespaces/proxy", "/api/v1/nodes/namespaces/proxy", ""),
            ("/api/v1/namespaces/a/pods/p/proxy", "/api/v1/namespaces/a/pods/p/proxy", ""),
            ("/api/v1/namespaces/a/pods/p/proxy/", "/api/v1/namespaces/a/pods/p/proxy", "/"),
            ("/api/v1/namespaces/proxy/pods/proxy/proxy/proxy", "/api/v1/namespaces/proxy/pods/proxy/proxy", "/proxy"),
            (
                "//api/v1/namespaces/a/services/s:80/proxy//x%2Fy/",
                "//api/v1/namespaces/a/services/s:80/proxy",
                "//x%2Fy/",
            ),
        ] {
            let namespaced = path.contains("/v1/namespaces/");
            assert_eq!(Path::of(path, namespaced), Path { prefix, rest }, "{path}");
        }
    }

    #[test]
    fn names_may_have_a_scheme_and_a_port() {
        let of = |text| split(text).map(|Name { tls, name, port }| (tls, name, port));
        assert_eq!(of("p"), Some((false, "p", "")));
        assert_eq!(of("p:80"), Some((false, "p", "80")));
        assert_eq!(of("https:p:web"), Some((true, "p", "web")));
        assert_eq!(of(":p:"), Some((false, "p", "")));
        for bad in ["", ":80", "ftp:p:80", "a:b:c:d"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_pod_is_asked_at_its_first_port() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 81}]}]}});
        assert_eq!((first_port(&pod), first_port(&json!({}))), (81, DEFAULT_PORT));
    }
}

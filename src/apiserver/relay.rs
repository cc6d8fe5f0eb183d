//! Requests that only the pod's node can answer, relayed to its HTTP API over TLS.
//!
//! The node's address is what it wrote into its Node; its certificate is checked against the cluster's
//! authority by the `ClientConfig` that the server was built with. A body is streamed through and never
//! collected: `logs -f` of a chatty pod costs one buffer.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::ApiServer;
use super::options::Query;
use super::registry::Place;
use super::status::ApiError;
use crate::kinds::meta as kmeta;
use crate::kinds::node::Node;

/// A node on the same network answers a connection within this, or is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How much of a node's complaint is passed on.
const MAX_COMPLAINT_BYTES: usize = 16 * 1024;

/// What the log endpoint passes on to the node.
const LOG_PARAMETERS: &[&str] =
    &["follow", "previous", "tailLines", "sinceSeconds", "sinceTime", "timestamps", "limitBytes", "stream"];

/// A client of the nodes' APIs.
pub type NodeClient = Client<HttpsConnector<HttpConnector>, Body>;

/// Connects with the certificate and trust of `tls`.
pub fn client(tls: rustls::ClientConfig) -> NodeClient {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    http.set_nodelay(true);
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .enable_http2()
        .wrap_connector(http);
    Client::builder(TokioExecutor::new()).build(https)
}

/// The logs of one container of `pod`.
pub async fn log(server: &ApiServer, pod: &Value, query: &Query) -> Result<Response, ApiError> {
    let (namespace, name) = (kmeta::text(pod, "namespace"), kmeta::text(pod, "name"));
    let container = container(pod, query.get("container"))?;
    check_numbers(name, query)?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        // A pod that runs nowhere has said nothing.
        return Ok(text(Body::empty()));
    }
    let address = node_address(server, node)?;
    let mut uri = format!("https://{address}/containerLogs/{namespace}/{name}/{container}?");
    for parameter in LOG_PARAMETERS {
        let value = query.get(parameter);
        if !value.is_empty() {
            uri.push_str(&format!("{parameter}={}&", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        }
    }
    relay(server, node, uri.trim_end_matches(['&', '?'])).await
}

/// What `node` answers at `path`, as it answers it.
pub async fn get(server: &ApiServer, node: &str, path: &str) -> Result<Response, ApiError> {
    let address = node_address(server, node)?;
    let request = Request::get(format!("https://{address}/{path}")).body(Body::empty()).map_err(ApiError::internal)?;
    let (parts, body) = ask(server, node, request).await?.into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = parts.status;
    if let Some(kind) = parts.headers.get(header::CONTENT_TYPE) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    Ok(response)
}

async fn relay(server: &ApiServer, node: &str, uri: &str) -> Result<Response, ApiError> {
    let request = Request::get(uri).body(Body::empty()).map_err(ApiError::internal)?;
    let response = ask(server, node, request).await?;
    if response.status() == StatusCode::OK {
        return Ok(text(Body::new(response.into_body())));
    }
    Err(complaint(node, response).await)
}

/// What a node said instead of what was asked.
pub async fn complaint(node: &str, response: http::Response<hyper::body::Incoming>) -> ApiError {
    let (parts, body) = response.into_parts();
    let complaint = Limited::new(body, MAX_COMPLAINT_BYTES).collect().await.map(|c| c.to_bytes()).unwrap_or_default();
    let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
    match parts.status {
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => ApiError::bad_request(complaint),
        status => ApiError::internal(format!("node {node:?} answered {status}: {complaint}")),
    }
}

/// A node's answer, whatever it is.
pub async fn ask(
    server: &ApiServer,
    node: &str,
    request: Request<Body>,
) -> Result<http::Response<hyper::body::Incoming>, ApiError> {
    let client = server.node_client.as_ref().ok_or_else(|| {
        ApiError::internal("this API server was started without credentials for nodes, so it cannot ask them")
    })?;
    let uri = request.uri().to_string();
    client.request(request).await.map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        ApiError::internal(format!("Get {uri:?}: node {node:?} does not answer: {cause}"))
    })
}

fn text(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The container that is meant: the named one, the annotated default, or the only one.
pub fn container(pod: &Value, wanted: &str) -> Result<String, ApiError> {
    let name = kmeta::text(pod, "name");
    let names = |group: &str| -> Vec<&str> {
        pod["spec"][group].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    if !wanted.is_empty() {
        let added = names("ephemeralContainers");
        return if main.iter().chain(&init).chain(&added).any(|known| *known == wanted) {
            Ok(wanted.to_owned())
        } else {
            Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}")))
        };
    }
    let marked = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    if let Some(marked) = marked.filter(|marked| main.contains(marked)) {
        return Ok(marked.to_owned());
    }
    match main.as_slice() {
        [only] => Ok((*only).to_owned()),
        _ => {
            let mut text =
                format!("a container name must be specified for pod {name}, choose one of: [{}]", main.join(" "));
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(ApiError::bad_request(text))
        }
    }
}

fn check_numbers(name: &str, query: &Query) -> Result<(), ApiError> {
    use crate::kinds::field::{Errors, Reason};
    let mut errors = Errors::default();
    for (parameter, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        if let Some(value) = query.int(parameter)?.filter(|value| *value < least) {
            let detail = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            errors.push(Reason::Invalid, parameter, Some(value.into()), detail);
        }
    }
    if !query.get("sinceSeconds").is_empty() && !query.get("sinceTime").is_empty() {
        errors.push(Reason::Forbidden, "", None, "at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid_kind("PodLogOptions", "", name, &errors)) }
}

/// Where the node's API listens, as the node has written it.
pub fn node_address(server: &ApiServer, node: &str) -> Result<String, ApiError> {
    let object = server.registry.find(Place { kind: &Node, namespace: "", name: node });
    let object = object.ok_or_else(|| ApiError::not_found(crate::kinds::Kind::info(&Node), node))?;
    let addresses = object["status"]["addresses"].as_array().map_or(&[][..], Vec::as_slice);
    let of = |kind: &str| addresses.iter().find(|a| a["type"] == kind).and_then(|a| a["address"].as_str());
    let host = of("InternalIP").or_else(|| of("Hostname")).filter(|host| !host.is_empty());
    let port = object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().filter(|port| *port > 0);
    match (host, port) {
        (Some(host), Some(port)) if host.contains(':') => Ok(format!("[{host}]:{port}")),
        (Some(host), Some(port)) => Ok(format!("{host}:{port}")),
        _ => {
            let text =
                format!("no preferred addresses found; node {node:?} has not told its address in its status yet");
            Err(ApiError::internal(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_is_named_marked_or_the_only_one() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(container(&one, "").ok().as_deref(), Some("a"));
        let message = |r: Result<String, ApiError>| r.err().map(|e| e.message().to_owned()).unwrap_or_default();
        assert_eq!(message(container(&one, "x")), "container x is not valid for pod p");
        let mut two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(message(container(&two, "")), "a container name must be specified for pod p, choose one of: [a b]");
        two["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "b"});
        assert_eq!(container(&two, "").ok().as_deref(), Some("b"));
    }

    #[test]
    fn numbers_are_held_against_their_least() {
        let refused = check_numbers("p", &Query::parse(Some("tailLines=-1"))).err();
        assert_eq!(
            refused.map(|e| e.message().to_owned()).as_deref(),
            Some("PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0")
        );
        assert!(check_numbers("p", &Query::parse(Some("tailLines=0&follow=true"))).is_ok());
    }
}

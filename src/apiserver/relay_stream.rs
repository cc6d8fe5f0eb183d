//! Streams that a pod's node serves (`exec` and its like), passed through as they are.
//!
//! The client's connection (a WebSocket, or SPDY/3.1) is the node's: its handshake is sent on over mutual TLS, and
//! once the node has agreed, bytes are copied both ways. Nothing in between is understood here, so the node alone
//! decides what is spoken, how long silence may last and whether the client is still there.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, Request, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::ApiServer;
use super::options::Query;
use super::relay::{ask, complaint, container, node_address};
use super::status::ApiError;
use crate::kinds::meta as kmeta;

/// Streams at a time over all nodes: each is two connections and two buffers.
pub const MAX_STREAMS: usize = 512;
/// Bytes on their way in each direction of a stream.
const COPY_BUFFER: usize = 32 << 10;

/// What of a handshake is the node's business.
const HANDSHAKE: &[&str] = &[
    "upgrade",
    "connection",
    "x-stream-protocol-version",
    "x-accepted-stream-protocol-versions",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-accept",
];

/// What is asked of a pod.
#[derive(Clone, Copy)]
pub struct Stream<'a> {
    /// The subresource.
    pub name: &'a str,
    pub query: &'a Query,
    pub headers: &'a HeaderMap,
}

/// Begins a stream; the answer is the node's.
pub async fn begin(
    server: &ApiServer,
    pod: &Value,
    stream: Stream<'_>,
    upgrade: Option<OnUpgrade>,
) -> Result<Response, ApiError> {
    let path = path(pod, stream)?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        let name = kmeta::text(pod, "name");
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let wants = stream.headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let known = |wants: &str| ["websocket", "SPDY/3.1"].iter().any(|known| wants.eq_ignore_ascii_case(known));
    let Some(upgrade) = upgrade.filter(|_| known(wants)) else {
        let what = if wants.is_empty() { "plain HTTP" } else { wants };
        let text =
            format!("Upgrade request required: {} is served over WebSocket or SPDY/3.1, not over {what}", stream.name);
        return Err(ApiError::bad_request(text));
    };
    let Ok(place) = server.streams.clone().try_acquire_owned() else {
        return Err(ApiError::too_many_requests(format!("{MAX_STREAMS} streams are open already")));
    };
    let mut request = Request::get(format!("https://{}{path}", node_address(server, node)?));
    if let Some(headers) = request.headers_mut() {
        copy_handshake(stream.headers, headers);
    }
    let request = request.body(Body::empty()).map_err(ApiError::internal)?;
    let answer = ask(server, node, request).await?;
    if answer.status() == StatusCode::FORBIDDEN {
        // Nothing in common: what the client could have had is in the headers, and it tries again.
        let (parts, body) = answer.into_parts();
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = parts.status;
        copy_handshake(&parts.headers, response.headers_mut());
        return Ok(response);
    }
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(complaint(node, answer).await);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    copy_handshake(answer.headers(), response.headers_mut());
    let server = server.clone();
    tokio::spawn(async move {
        let _place = place;
        let tunnel = tunnel(upgrade, hyper::upgrade::on(answer));
        tokio::select! {
            () = tunnel => {}
            () = server.shutdown.cancelled() => {}
        }
    });
    Ok(response)
}

fn copy_handshake(from: &HeaderMap, to: &mut HeaderMap) {
    for name in HANDSHAKE {
        for value in from.get_all(*name) {
            to.append(*name, value.clone());
        }
    }
}

/// Copies bytes both ways between two connections, once both have begun.
pub async fn tunnel(client: OnUpgrade, node: OnUpgrade) {
    // Either may go away before it has begun.
    let Ok((client, node)) = tokio::try_join!(client, node) else { return };
    let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
    let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut node, COPY_BUFFER, COPY_BUFFER).await;
}

/// Where the node serves it.
fn path(pod: &Value, stream: Stream<'_>) -> Result<String, ApiError> {
    let (namespace, name) = (kmeta::text(pod, "namespace"), kmeta::text(pod, "name"));
    let query = stream.query;
    if stream.name == "portforward" {
        return forward_path(pod, query);
    }
    let container = container(pod, query.get("container"))?;
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        let act = if stream.name == "attach" { "attach" } else { "exec into" };
        let text = format!("cannot {act} a container in a completed pod; current phase is {phase}");
        return Err(ApiError::bad_request(text));
    }
    let streams = ["stdin", "stdout", "stderr"];
    if !streams.iter().any(|stream| query.bool(stream)) {
        return Err(ApiError::bad_request("you must specify at least one of stdin, stdout, stderr"));
    }
    if !is_running(pod, &container) {
        return Err(ApiError::bad_request(format!("container {container} of pod {name} is not running")));
    }
    let mut path = format!("/{}/{namespace}/{name}/{container}?", stream.name);
    for command in query.all("command") {
        path.push_str(&format!("command={}&", utf8_percent_encode(&command, NON_ALPHANUMERIC)));
    }
    for (theirs, nodes) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        path.push_str(&format!("{nodes}={}&", u8::from(query.bool(theirs))));
    }
    Ok(path.trim_end_matches('&').to_owned())
}

/// Ports may be given here, or with each connection later: that is between the client and the node.
fn forward_path(pod: &Value, query: &Query) -> Result<String, ApiError> {
    let (namespace, name) = (kmeta::text(pod, "namespace"), kmeta::text(pod, "name"));
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if phase != "Running" {
        let text = format!("unable to forward port because pod is not running. Current status={phase}");
        return Err(ApiError::bad_request(text));
    }
    let mut path = format!("/portForward/{namespace}/{name}?");
    for ports in query.all("ports") {
        path.push_str(&format!("ports={}&", utf8_percent_encode(&ports, NON_ALPHANUMERIC)));
    }
    Ok(path.trim_end_matches(['&', '?']).to_owned())
}

/// Whether the node has said that the container runs. The node has the last word; but a client that
/// falls back to another protocol would never hear it.
fn is_running(pod: &Value, container: &str) -> bool {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let statuses = lists.iter().filter_map(|list| pod["status"][*list].as_array()).flatten();
    statuses.filter(|status| status["name"] == container).any(|status| status["state"]["running"].is_object())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(pod: &Value, query: &str) -> Result<String, String> {
        let (query, headers) = (Query::parse(Some(query)), HeaderMap::new());
        path(pod, Stream { name: "exec", query: &query, headers: &headers }).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn the_node_is_asked_in_its_own_words() {
        let mut pod = json!({
            "metadata": {"namespace": "shop", "name": "cart"},
            "spec": {"containers": [{"name": "a"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "a", "state": {"running": {}}}]},
        });
        let path = asked(&pod, "command=ls&command=%2Fda+ta&stdout=true&stderr=true&stdin=false");
        assert_eq!(
            path.as_deref(),
            Ok("/exec/shop/cart/a?command=ls&command=%2Fda%20ta&input=0&output=1&error=1&tty=0")
        );
        let refused = asked(&pod, "command=ls").unwrap_err();
        assert!(refused.contains("at least one of stdin"), "{refused}");
        pod["status"]["phase"] = json!("Succeeded");
        let refused = asked(&pod, "command=ls&stdout=1").unwrap_err();
        assert!(refused.contains("current phase is Succeeded"), "{refused}");
        pod["status"] = json!({"phase": "Pending"});
        assert!(asked(&pod, "command=ls&stdout=1").unwrap_err().contains("is not running"));
    }
}

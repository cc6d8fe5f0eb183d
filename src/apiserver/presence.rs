//! Presence: a node's open request says that the node is there, and its end that it is not.
//!
//! Each node holds `POST /coracle/v1/nodes/{name}/presence` open and sends a byte every 100 ms. A
//! process that dies closes its connection, and the kernel tells us at once; a machine that freezes goes
//! silent, and 500 ms are enough to call it. Either way the Node's Ready condition becomes Unknown by
//! the ordinary status update, which every controller watches. Only a body that ends with `bye` is a
//! clean stop, and even then the node is gone.
//!
//! Silence is only held against a node when we were listening: not in the first seconds after our own
//! start, and not when our own timer came late. Ready=True is the node's to write, each time it connects.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures::StreamExt;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::ApiServer;
use super::admission::author::Author;
use super::auth::{MASTERS, User};
use super::registry::Place;
use super::registry::update::Lane;
use super::reply;
use super::status::ApiError;
use crate::kinds::node::Node;
use crate::kinds::{Kind, meta as kmeta, time};

/// Five missed beats.
const SILENCE: Duration = Duration::from_millis(500);
/// Nodes find their way back within this after a server start.
const GRACE_AFTER_START: Duration = Duration::from_secs(10);
/// A timer that fires this much late means that we, not the node, were not running.
const OWN_LAG: Duration = Duration::from_millis(200);
/// The last word of a node that stops on purpose.
const BYE: &[u8] = b"bye";

/// Which connection speaks for each node: only the newest one's end counts.
#[derive(Clone)]
pub struct Presence {
    newest: Arc<Mutex<HashMap<String, u64>>>,
    next: Arc<AtomicU64>,
    started: Instant,
}

impl Default for Presence {
    fn default() -> Self {
        Self { newest: Arc::default(), next: Arc::default(), started: Instant::now() }
    }
}

/// How a node's connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Bye,
    Closed,
    Silent,
}

impl Presence {
    fn enter(&self, node: &str) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), id);
        id
    }

    /// True when no newer connection has taken over.
    fn leave(&self, node: &str, id: u64) -> bool {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let last = newest.get(node) == Some(&id);
        if last {
            newest.remove(node);
        }
        last
    }

    fn in_grace(&self) -> bool {
        self.started.elapsed() < GRACE_AFTER_START
    }
}

/// Holds the request of `node` open until it ends, then marks the node if nobody else speaks for it.
pub async fn attend(server: &ApiServer, user: &User, node: &str, body: Body) -> Result<Response, ApiError> {
    if user.node() != Some(node) && !user.in_group(MASTERS) {
        let why = format!("User {:?} cannot be present for node {node:?}", user.name);
        return Err(ApiError::forbidden(Node.info(), node, why));
    }
    let guard =
        Attendance { server: server.clone(), node: node.to_owned(), id: server.presence.enter(node), end: None };
    let end = listen(&server.presence, body).await;
    guard.finish(end).await;
    Ok(reply::success(StatusCode::OK, None))
}

/// Ends an attendance exactly once, also when the connection's task is dropped under it.
struct Attendance {
    server: ApiServer,
    node: String,
    id: u64,
    end: Option<End>,
}

impl Attendance {
    async fn finish(mut self, end: End) {
        self.end = Some(end);
        if self.server.presence.leave(&self.node, self.id) {
            mark_lost(&self.server, &self.node, end).await;
        }
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        if self.end.is_some() || !self.server.presence.leave(&self.node, self.id) {
            return;
        }
        // The HTTP server drops a handler when its connection dies; the marking has to go on without it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (server, node) = (self.server.clone(), std::mem::take(&mut self.node));
            runtime.spawn(async move { mark_lost(&server, &node, End::Closed).await });
        }
    }
}

async fn listen(presence: &Presence, body: Body) -> End {
    let mut beats = body.into_data_stream();
    let mut said_bye = false;
    loop {
        let due = Instant::now() + SILENCE;
        match tokio::time::timeout_at(due, beats.next()).await {
            Ok(Some(Ok(bytes))) => said_bye = bytes.ends_with(BYE),
            Ok(Some(Err(_))) => return End::Closed,
            Ok(None) => return if said_bye { End::Bye } else { End::Closed },
            Err(_) => {
                let we_lagged = Instant::now().saturating_duration_since(due) > OWN_LAG;
                if !we_lagged && !presence.in_grace() {
                    return End::Silent;
                }
            }
        }
    }
}

async fn mark_lost(server: &ApiServer, node: &str, end: End) {
    if server.shutdown.is_cancelled() {
        // Our own end closes all connections; that says nothing of the nodes.
        return;
    }
    let place = Place { kind: &Node, namespace: "", name: node };
    let change = |old: &Value| Ok(with_unknown(old, end));
    match server.registry.update(place, Lane::Status, &Author::own_by("status"), &change).await {
        Ok(_) => tracing::info!(node, ?end, "node is away"),
        // Deleted on purpose: there is nobody to mark.
        Err(error) if error.reason() == "NotFound" => {}
        Err(error) => tracing::warn!(node, %error, "cannot mark the node as away"),
    }
}

/// The Node with every condition that the agent reports turned Unknown.
fn with_unknown(old: &Value, end: End) -> Value {
    let now = time::write(Timestamp::now());
    let message = match end {
        End::Bye => "The node has stopped.",
        End::Closed => "The node's connection to the API server has closed.",
        End::Silent => "The node has gone silent.",
    };
    let mut new = old.clone();
    let conditions = kmeta::object_mut(&mut new, "status").entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return new };
    match conditions.iter_mut().find(|condition| condition["type"] == "Ready") {
        Some(ready) if ready["status"] == "Unknown" => {}
        Some(ready) => {
            ready["status"] = "Unknown".into();
            ready["reason"] = "NodeStatusUnknown".into();
            ready["message"] = message.into();
            ready["lastTransitionTime"] = now.into();
        }
        None => conditions.push(json!({
            "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })),
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silence_is_noticed() {
        let started = Instant::now().checked_sub(GRACE_AFTER_START).expect("the clock is older than that");
        let presence = Presence { started, ..Presence::default() };
        let (sender, receiver) = futures::channel::mpsc::unbounded::<Result<bytes::Bytes, std::convert::Infallible>>();
        assert_eq!(listen(&presence, Body::from_stream(receiver)).await, End::Silent);
        drop(sender);
    }

    #[test]
    fn a_server_that_has_just_started_accuses_nobody() {
        assert!(Presence::default().in_grace());
    }

    #[tokio::test]
    async fn a_last_word_is_told_from_a_cut() {
        let presence = Presence::default();
        assert_eq!(listen(&presence, Body::from("..bye")).await, End::Bye);
        assert_eq!(listen(&presence, Body::from("..")).await, End::Closed);
    }

    #[test]
    fn only_the_newest_connection_speaks_for_a_node() {
        let presence = Presence::default();
        let (first, second) = (presence.enter("n"), presence.enter("n"));
        assert!(!presence.leave("n", first));
        assert!(presence.leave("n", second));
    }

    #[test]
    fn unknown_is_said_once() {
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let lost = with_unknown(&ready, End::Closed);
        assert_eq!(lost["status"]["conditions"][0]["reason"], "NodeStatusUnknown");
        assert_eq!(with_unknown(&lost, End::Silent), lost);
    }
}

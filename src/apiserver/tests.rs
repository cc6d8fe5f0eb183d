//! The API through its public face: requests into the router, answers out.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::auth::User;
use super::{ApiConfig, ApiServer};
use crate::store::MemoryStore;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// An API in memory, asked by a master.
struct Api {
    server: ApiServer,
}

impl Api {
    async fn start() -> Self {
        let store = std::sync::Arc::new(MemoryStore::new());
        Self { server: ApiServer::start(ApiConfig::new(store)).await.expect("the server starts") }
    }

    fn router(&self) -> Router {
        self.server.router().layer(axum::Extension(User::server()))
    }

    async fn send(&self, method: Method, path: &str, content_type: &str, body: String) -> (StatusCode, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, content_type)
            .body(Body::from(body))
            .expect("a request");
        let response = self.router().oneshot(request).await.expect("a router never fails");
        let code = response.status();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.send(Method::GET, path, "application/json", String::new()).await
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.send(Method::POST, path, "application/json", body.to_string()).await
    }

    async fn delete(&self, path: &str) -> (StatusCode, Value) {
        self.send(Method::DELETE, path, "application/json", String::new()).await
    }

    async fn merge(&self, path: &str, patch: Value) -> (StatusCode, Value) {
        self.send(Method::PATCH, path, "application/merge-patch+json", patch.to_string()).await
    }

    /// The first `count` events of a watch.
    async fn watch(&self, path: &str, count: usize) -> Vec<Value> {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = self.router().oneshot(request).await.expect("a router never fails");
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let mut body = response.into_body();
        let mut text = Vec::new();
        let reading = async {
            while text.iter().filter(|b| **b == b'\n').count() < count {
                let Some(Ok(frame)) = body.frame().await else { break };
                text.extend_from_slice(&frame.into_data().unwrap_or_default());
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("events in time");
        text.split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .filter_map(|l| serde_json::from_slice(l).ok())
            .collect()
    }
}

#[tokio::test]
async fn an_object_lives_and_dies() {
    let api = Api::start().await;
    let all = "/api/v1/namespaces/default/configmaps";
    let (code, made) = api.post(all, json!({"metadata": {"name": "c"}, "data": {"a": "1"}})).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    assert_eq!(made["metadata"]["namespace"], "default");
    let one = "/api/v1/namespaces/default/configmaps/c";
    assert_eq!(api.get(one).await.1, made);
    let (code, changed) = api.merge(one, json!({"data": {"b": "2"}})).await;
    assert_eq!((code, &changed["data"]), (StatusCode::OK, &json!({"a": "1", "b": "2"})));
    let (_, same) = api.merge(one, json!({"data": {"b": "2"}})).await;
    assert_eq!(same["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"], "nothing has changed");
    assert_eq!(api.delete(one).await.1["status"], "Success");
    assert_eq!(api.get(one).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_stale_put_is_a_conflict() {
    let api = Api::start().await;
    let (_, old) = api.post("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "c"}})).await;
    let one = "/api/v1/namespaces/default/configmaps/c";
    api.merge(one, json!({"data": {"b": "2"}})).await;
    let (code, status) = api.send(Method::PUT, one, "application/json", old.to_string()).await;
    assert_eq!((code, &status["reason"]), (StatusCode::CONFLICT, &json!("Conflict")));
}

#[tokio::test]
async fn a_watch_tells_what_enters_and_leaves_its_selector() {
    let api = Api::start().await;
    let all = "/api/v1/namespaces/default/configmaps";
    let (_, made) = api.post(all, json!({"metadata": {"name": "c", "labels": {"app": "x"}}})).await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let one = format!("{all}/c");
    api.merge(&one, json!({"metadata": {"labels": {"app": "z"}}})).await;
    api.merge(&one, json!({"metadata": {"labels": {"app": "x"}}})).await;
    api.delete(&one).await;
    let events = api.watch(&format!("{all}?watch=1&resourceVersion={version}&labelSelector=app%3Dx"), 3).await;
    let types: Vec<&str> = events.iter().filter_map(|e| e["type"].as_str()).collect();
    assert_eq!(types, ["DELETED", "ADDED", "DELETED"]);
    assert_eq!(events[0]["object"]["metadata"]["labels"]["app"], "x", "as it last was for this watcher");
}

/// Serves the API over plain HTTP for `tests/oracle/replay.py`, at the address in `CORACLE_SERVE`, until
/// the process is ended.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "serves until it is ended; for replaying the oracle by hand"]
async fn serve_for_replay() {
    let address = std::env::var("CORACLE_SERVE").unwrap_or_else(|_| "127.0.0.1:8099".to_owned());
    let listener = tokio::net::TcpListener::bind(&address).await.expect("a free address");
    let api = Api::start().await;
    axum::serve(listener, api.router()).await.expect("serving");
}

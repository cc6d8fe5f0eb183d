//! The node's own HTTP API, as the kubelet's: container logs, streams, the node's pods, health and metrics.
//!
//! TLS with a client certificate, always. Only the API server and `system:masters` are answered: logs
//! are not for everybody, and nobody else has a reason to call.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use futures::stream;
use http::StatusCode;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::context::{Context, Life};
use super::log_reader;
use super::metrics;
use super::streams::{self, Sessions};
use super::summary::Snapshot;
use crate::reconcile::{ObjectKey, Shared};
use crate::telemetry::page::CONTENT_TYPE;

/// Connections at a time: the API server's, which are as many as people follow logs.
const MAX_CONNECTIONS: usize = 1024;
/// How long a caller may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Names that an API server's client certificate may have.
const API_SERVERS: [&str; 3] = ["kube-apiserver-kubelet-client", "kube-apiserver", "system:coracle"];
const MASTERS: &str = "system:masters";

/// What the handlers see.
#[derive(Clone)]
pub struct NodeApi {
    pub context: Arc<Context>,
    pub pods: Shared<Pod>,
    /// When this process began to be the node.
    pub started_at: SystemTime,
    pub sessions: Arc<Sessions>,
}

/// Serves until shutdown.
pub async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, api: NodeApi, shutdown: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls);
    let router = router(api);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: give others a moment to close theirs.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (acceptor, router, shutdown) = (acceptor.clone(), router.clone(), shutdown.clone());
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = connection(stream, acceptor, router) => {}
            }
        });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    let certificates = stream.get_ref().1.peer_certificates();
    let allowed = certificates.and_then(|chain| chain.first()).is_some_and(|leaf| may_call(leaf));
    let router = if allowed { router } else { Router::new().fallback(forbidden) };
    // A connection that breaks is its caller's affair.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
}

fn may_call(certificate: &[u8]) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let subject = certificate.subject();
    let masters = subject.iter_organization().filter_map(|group| group.as_str().ok()).any(|group| group == MASTERS);
    masters || subject.iter_common_name().filter_map(|name| name.as_str().ok()).any(|name| API_SERVERS.contains(&name))
}

async fn forbidden() -> Response {
    (StatusCode::FORBIDDEN, "only the API server and system:masters may call a node").into_response()
}

fn router(api: NodeApi) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(pods))
        .route("/stats/summary", get(stats_summary))
        .route("/metrics", get(own_metrics))
        .route("/metrics/resource", get(resource_metrics))
        .route("/metrics/cadvisor", get(cadvisor_metrics))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/attach/{namespace}/{pod}/{container}", any(streams::attach))
        .route("/exec/{namespace}/{pod}/{container}", any(streams::exec))
        .route("/portForward/{namespace}/{pod}", any(streams::forward))
        .route("/connect/{namespace}/{pod}/{port}", get(streams::connect))
        .with_state(api)
}

async fn pods(State(api): State<NodeApi>) -> Response {
    let items: Vec<_> = api.pods.list().iter().map(|pod| serde_json::to_value(&**pod).unwrap_or_default()).collect();
    axum::Json(json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items })).into_response()
}

async fn stats_summary(State(api): State<NodeApi>) -> Response {
    axum::Json(Snapshot::take(&api).to_summary()).into_response()
}

async fn own_metrics(State(api): State<NodeApi>) -> Response {
    page(metrics::own(&api.context))
}

async fn resource_metrics(State(api): State<NodeApi>) -> Response {
    page(metrics::resource(&Snapshot::take(&api)))
}

async fn cadvisor_metrics(State(api): State<NodeApi>) -> Response {
    page(metrics::cadvisor(&Snapshot::take(&api)))
}

fn page(text: String) -> Response {
    ([(http::header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

/// `PodLogOptions`, as the API server passes them on.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct LogOptions {
    follow: Option<String>,
    previous: Option<String>,
    tail_lines: Option<usize>,
    since_seconds: Option<i64>,
    since_time: Option<jiff::Timestamp>,
    timestamps: Option<String>,
    limit_bytes: Option<u64>,
}

impl LogOptions {
    fn query(&self) -> log_reader::Query {
        let flag = |value: &Option<String>| value.as_deref().is_some_and(|text| matches!(text, "true" | "1" | ""));
        let ago = |seconds| jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(seconds)).ok();
        log_reader::Query {
            follow: flag(&self.follow),
            previous: flag(&self.previous),
            tail: self.tail_lines,
            since: self.since_seconds.and_then(ago).or(self.since_time),
            timestamps: flag(&self.timestamps),
            limit_bytes: self.limit_bytes,
        }
    }
}

async fn container_logs(
    State(api): State<NodeApi>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(options): Query<LogOptions>,
) -> Response {
    let query = options.query();
    let key = ObjectKey::new(namespace.as_str(), pod.as_str());
    let Some(entry) = api.context.register.get(&key) else {
        return (StatusCode::NOT_FOUND, format!("pod {pod:?} not found on this node")).into_response();
    };
    let life = entry.get(&container);
    let life = match (life, query.previous) {
        (Some(life), false) => life,
        (Some(life), true) if life.run > 0 => Life { run: life.run - 1, log: None },
        (_, true) => {
            let text = format!("previous terminated container {container:?} in pod {pod:?} not found");
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
        (None, false) => {
            let reason = waiting_reason(api.pods.get(&key).as_deref(), &container);
            let text = format!("container {container:?} in pod {pod:?} is waiting to start: {reason}");
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    let dir = api.context.logs.container_dir(&entry.log_dir, &container);
    let progress = life.log.map(|log| log.progress());
    let chunks = log_reader::read(dir, life.run, query, progress);
    let body = stream::unfold(chunks, |mut chunks| async { chunks.recv().await.map(|chunk| (chunk, chunks)) });
    ([(http::header::CONTENT_TYPE, "text/plain")], Body::from_stream(body)).into_response()
}

fn waiting_reason(pod: Option<&Pod>, container: &str) -> String {
    let status = pod.and_then(|pod| pod.status.as_ref());
    let statuses = status
        .into_iter()
        .flat_map(|status| {
            [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
        })
        .flatten()
        .flatten();
    let waiting = statuses
        .filter(|status| status.name == container)
        .find_map(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone());
    waiting.unwrap_or_else(|| "ContainerCreating".to_owned())
}

//! Whole requests to an API server in memory: any method, path, query, type and body. It refuses or obeys; it
//! never fails, but where upstream fails too.

#![no_main]

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use coracle::apiserver::auth::User;
use coracle::apiserver::{ApiConfig, ApiServer};
use coracle::kinds::KINDS;
use coracle::store::MemoryStore;
use http::{Method, Request, header};
use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

struct Server {
    runtime: Runtime,
    api: ApiServer,
    /// A new one now and then, so that what has been made does not decide about everything that follows.
    left: u32,
}

thread_local!(static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) });

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
const TYPES: [&str; 7] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
fuzz_target!(|input: (u8, u8, u8, &str, &str, &[u8])| {
    let (pick, method, media, tail, query, body) = input;
    let info = KINDS[usize::from(pick) % KINDS.len()].info();
    let scope = if info.namespaced { "/namespaces/default" } else { "" };
    let root = if info.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", info.group) };
    let uri = format!("{root}/{}{scope}/{}{tail}?timeoutSeconds=1&{query}", info.version, info.plural);
    let request = Request::builder()
        .method(&METHODS[usize::from(method) % METHODS.len()])
        .uri(uri)
        .header(header::CONTENT_TYPE, TYPES[usize::from(media) % TYPES.len()])
        .body(Body::from(body.to_vec()));
    let Ok(request) = request else { return };
    SERVER.with_borrow_mut(|server| {
        let running = server.get_or_insert_with(start);
        running.left -= 1;
        running.runtime.block_on(ask(&running.api, request));
        if running.left == 0 {
            running.api.shutdown();
            *server = None;
        }
    });
});

fn start() -> Server {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let config = ApiConfig::new(Arc::new(MemoryStore::new()));
    let api = runtime.block_on(ApiServer::start(config)).expect("the server starts");
    Server { runtime, api, left: 2_000 }
}

async fn ask(api: &ApiServer, request: Request<Body>) {
    let what = format!("{} {}", request.method(), request.uri());
    let router = api.router().layer(axum::Extension(User::server()));
    let response = router.oneshot(request).await.expect("a router never fails");
    let status = response.status();
    let mut body = response.into_body();
    let mut text = Vec::new();
    // A watch need not be waited for.
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(Duration::from_millis(5), body.frame()).await {
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    let text = String::from_utf8_lossy(&text);
    // Where upstream fails, too, it gives no reason; our own failures say `InternalError`.
    let told = text.contains(r#""kind":"Status""#) && !text.contains(r#""reason":"InternalError""#);
    assert!(!status.is_server_error() || told || text.contains("failed calling webhook"), "{what}: {status} {text}");
}

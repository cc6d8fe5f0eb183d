//! Pulling from registries that are slow, broken or hostile. The real one is in `tests/cluster/registry.rs`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::*;

/// What a registry answers under a path, and how often it was asked.
#[derive(Default)]
struct Answers {
    content: HashMap<String, Bytes>,
    /// Bytes after which a blob breaks off, each time it is asked for.
    cut: Option<usize>,
    blobs: AtomicUsize,
    ranges: Mutex<Vec<String>>,
}

async fn answer(State(answers): State<Arc<Answers>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let Some(content) = answers.content.get(&path) else {
        let status = if path == "/v2/" { StatusCode::OK } else { StatusCode::NOT_FOUND };
        return Response::builder().status(status).body(Body::empty()).expect("an answer");
    };
    if !path.contains("/blobs/") {
        return Response::new(Body::from(content.clone()));
    }
    answers.blobs.fetch_add(1, Ordering::SeqCst);
    let range = request.headers().get(header::RANGE).and_then(|range| range.to_str().ok()).map(str::to_owned);
    let from: usize =
        range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
    answers.ranges.lock().expect("ranges").extend(range);
    let rest = content.slice(from.min(content.len())..);
    let sent = rest.slice(..answers.cut.unwrap_or(usize::MAX).min(rest.len()));
    let broken = sent.len() < rest.len();
    // The server lets go of what it has not sent yet when a body fails: it gets a moment.
    let end = futures::stream::once(async move {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        if broken { Err(std::io::Error::other("cut")) } else { Ok(Bytes::new()) }
    });
    let stream = futures::StreamExt::chain(futures::stream::iter([Ok(sent)]), end);
    let status = if from > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    Response::builder().status(status).body(Body::from_stream(stream)).expect("an answer")
}

struct Registry {
    answers: Arc<Answers>,
    reference: Reference,
    dir: tempfile::TempDir,
}

impl Registry {
    /// With the image `app:1`, whose one layer is announced as `layer` and is really `content`.
    async fn start(layer: Value, content: &[u8], cut: Option<usize>) -> Registry {
        let mut answers = Answers { cut, ..Answers::default() };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": sha256(b"{}"), "size": 2},
            "layers": [layer],
        });
        answers.content.insert("/v2/app/manifests/1".into(), manifest.to_string().into());
        let digest = layer["digest"].as_str().unwrap_or_default();
        answers.content.insert(format!("/v2/app/blobs/{digest}"), Bytes::copy_from_slice(content));
        let answers = Arc::new(answers);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().fallback(answer).with_state(answers.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let reference = format!("{address}/app:1").parse().expect("a reference");
        Registry { answers, reference, dir: tempfile::tempdir().expect("a directory") }
    }

    fn puller(&self) -> Puller {
        Puller::open(self.dir.path(), Trust::default()).expect("a puller")
    }

    async fn pull(&self) -> Result<Pulled, Error> {
        self.puller().pull(&self.reference, &Credentials::default(), &Arc::default()).await
    }
}

fn layer(content: &[u8]) -> Value {
    json!({"mediaType": "application/wasm", "digest": sha256(content), "size": content.len()})
}

#[tokio::test]
async fn a_blob_asked_for_by_many_at_once_is_brought_once() {
    let registry = Registry::start(layer(b"module"), b"module", None).await;
    let puller = registry.puller();
    let nobody = Credentials::default();
    let counted = Arc::default();
    let pulls = (0..20).map(|_| puller.pull(&registry.reference, &nobody, &counted));
    for pulled in futures::future::join_all(pulls).await {
        let pulled = pulled.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(std::fs::read(pulled.path).expect("the module"), b"module");
    }
    assert_eq!(registry.answers.blobs.load(Ordering::SeqCst), 1);
    let present = registry.puller().present(&registry.reference, &nobody).expect("still there for another process");
    assert_eq!(present.bytes, 6);
}

#[tokio::test]
async fn a_pull_that_breaks_off_goes_on_where_it_ended() {
    let content: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
    let registry = Registry::start(layer(&content), &content, Some(15_000)).await;
    let pulled = registry.pull().await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(std::fs::read(pulled.path).expect("the module"), content);
    let ranges = registry.answers.ranges.lock().expect("ranges").clone();
    assert!(!ranges.is_empty() && ranges.iter().all(|range| range.starts_with("bytes=")), "{ranges:?}");
}

#[tokio::test]
async fn what_is_not_what_the_manifest_says_is_never_kept() {
    let cases = [
        (
            json!({"mediaType": "application/wasm", "digest": sha256(b"good"), "size": 4}),
            &b"evil"[..],
            "another digest",
        ),
        (
            json!({"mediaType": "application/wasm", "digest": sha256(b"good"), "size": 4}),
            b"good and more",
            "longer than",
        ),
        (json!({"mediaType": "application/wasm", "digest": "sha512:00", "size": 4}), b"good", "taken is sha256"),
        (json!({"mediaType": "application/wasm", "digest": sha256(b"x"), "size": 1_u64 << 40}), b"x", "at most"),
        (json!({"mediaType": "application/wasm", "digest": "sha256:../../../etc/passwd", "size": 4}), b"x", "sha256"),
        (json!({"mediaType": "text/plain", "digest": sha256(b"x"), "size": 1}), b"x", "text/plain"),
    ];
    for (layer, content, words) in cases {
        let registry = Registry::start(layer, content, None).await;
        let error = registry.pull().await.expect_err("refused");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        let blobs = std::fs::read_dir(registry.dir.path().join("blobs")).expect("the store");
        assert_eq!(blobs.count(), 0, "{error}");
        assert!(registry.puller().list().is_empty());
    }
}

#[tokio::test]
async fn a_digest_in_the_reference_must_be_the_manifests() {
    let registry = Registry::start(layer(b"module"), b"module", None).await;
    let wrong = sha256(b"something else");
    let text = format!("{}/app@{wrong}", registry.reference.registry());
    let reference: Reference = text.parse().expect("a reference");
    assert!(registry.puller().pull(&reference, &Credentials::default(), &Arc::default()).await.is_err());
}

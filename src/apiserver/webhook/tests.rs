//! Calls to real servers over TLS.

use std::net::Ipv4Addr;
use std::sync::Arc;

use base64::Engine as _;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::store::{Durability, Expect, MemoryStore, Write};

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A webhook: what it answers to a path (with its query) and a question.
pub type Answer = dyn Fn(&str, Value) -> (u16, Value) + Send + Sync;

/// A webhook on loopback.
pub struct Server {
    pub port: u16,
    /// Its certificate, as a `caBundle` has it.
    pub bundle: String,
}

impl Server {
    /// Serves under the given name beside its address. The certificate signs itself and says that it
    /// is an authority if `authority` is set.
    pub async fn start(name: &str, authority: bool, answer: Arc<Answer>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned(), "127.0.0.1".to_owned()]).expect("names");
        if authority {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let cert = params.self_signed(&key).expect("a certificate");
        let der = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let tls = rustls::ServerConfig::builder().with_no_client_auth();
        let tls = tls.with_single_cert(vec![cert.der().clone()], der).expect("a server's configuration");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), answer));
        Self { port, bundle: base64::engine::general_purpose::STANDARD.encode(cert.pem()) }
    }

    pub fn config(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}{path}", self.port), "caBundle": self.bundle})
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, answer: Arc<Answer>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, answer) = (acceptor.clone(), answer.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let answer = answer.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
                    let (code, value) = answer(path, serde_json::from_slice(&body).unwrap_or_default());
                    let mut response = http::Response::new(Full::new(Bytes::from(value.to_string())));
                    *response.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
                    Ok::<_, hyper::Error>(response)
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn echo() -> Arc<Answer> {
    Arc::new(|path, question| match question["code"].as_u64() {
        Some(code) => (u16::try_from(code).unwrap_or(500), json!("oh no")),
        None => (200, json!({"path": path, "question": question})),
    })
}

async fn store_with(services: &[Value]) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    for service in services {
        let key = encoding::key(Service.info(), text(service, "/metadata/namespace"), text(service, "/metadata/name"));
        let value = Some(encoding::encode(&Service, service));
        let write = Write { key: key.into(), expect: Expect::Absent, value, durability: Durability::Synced };
        store.commit(write).await.expect("stored");
    }
    store
}

#[tokio::test]
async fn a_webhook_is_asked_at_its_url_and_told_how_long_it_has() {
    let server = Server::start("hook.example", false, echo()).await;
    let hooks = Webhooks::new(store_with(&[]).await);
    for _ in 0..2 {
        let answer = hooks.call(&server.config("/validate"), &json!({"a": 1}), PATIENCE).await.expect("an answer");
        assert_eq!(answer, json!({"path": "/validate?timeout=60s", "question": {"a": 1}}));
    }
    let refused = hooks.call(&server.config("/"), &json!({"code": 500}), PATIENCE).await.expect_err("refused");
    assert_eq!(
        refused.to_string(),
        "an error on the server (\"\\\"oh no\\\"\") has prevented the request from succeeding"
    );
}

#[tokio::test]
async fn a_service_is_reached_at_its_cluster_ip_under_its_own_name() {
    // A certificate as `openssl req -x509` makes it: its own authority.
    let server = Server::start("hook.shop.svc", true, echo()).await;
    let service = json!({"metadata": {"name": "hook", "namespace": "shop"},
        "spec": {"type": "ClusterIP", "clusterIP": "127.0.0.1", "ports": [{"port": server.port}]}});
    let hooks = Webhooks::new(store_with(&[service]).await);
    let at = |name: &str, port: u16, bundle: &str| json!({"caBundle": bundle, "service": {"name": name, "namespace": "shop", "path": "/x", "port": port}});
    let answer = hooks.call(&at("hook", server.port, &server.bundle), &json!({}), PATIENCE).await.expect("an answer");
    assert_eq!(answer["path"], "/x?timeout=60s");
    let other = Server::start("other.example", true, echo()).await;
    let cases = [
        (at("none", 443, &server.bundle), "service \"none\" not found"),
        (at("hook", 1, &server.bundle), "no service port 1 found for service \"hook\""),
        (at("hook", server.port, "AAAA"), "unable to load root certificates"),
        (at("hook", server.port, &other.bundle), "invalid peer certificate"),
        (json!({}), "webhook configuration must have either service or URL"),
    ];
    for (config, why) in cases {
        let error = hooks.call(&config, &json!({}), PATIENCE).await.expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn an_authority_that_stands_for_another_name_is_not_believed() {
    let server = Server::start("other.example", true, echo()).await;
    let service = json!({"metadata": {"name": "hook", "namespace": "shop"},
        "spec": {"type": "ClusterIP", "clusterIP": "127.0.0.1", "ports": [{"port": server.port}]}});
    let hooks = Webhooks::new(store_with(&[service]).await);
    let config = json!({"caBundle": server.bundle,
        "service": {"name": "hook", "namespace": "shop", "port": server.port}});
    let error = hooks.call(&config, &json!({}), PATIENCE).await.expect_err("another name").to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn who_never_answers_is_given_up() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let hooks = Webhooks::new(store_with(&[]).await);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let bundle = Server::start("x", false, echo()).await.bundle;
    let config = json!({"url": format!("https://127.0.0.1:{port}/"), "caBundle": bundle});
    let error = hooks.call(&config, &json!({}), Duration::from_millis(50)).await.expect_err("no answer");
    assert_eq!(
        error.to_string(),
        format!("Post \"https://127.0.0.1:{port}/?timeout=50ms\": context deadline exceeded")
    );
}

//! Another API server behind this one, over real TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::apiserver::auth::User;
use crate::apiserver::tests::Api;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// A server of `ext.example.com/v1` that says who asked for what; its address and certificate (PEM).
async fn other_server() -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(vec!["ext.default.svc".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocols")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Who does not trust this certificate ends here.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(|request: http::Request<Incoming>| async move {
                    Ok::<_, Infallible>(answer(&request))
                });
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, made.cert.pem())
}

fn answer(request: &http::Request<Incoming>) -> Response<Body> {
    let said = |name: &str| -> Vec<&str> {
        request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
    };
    let body = match request.uri().path() {
        "/apis/ext.example.com/v1" => json!({"kind": "APIResourceList", "groupVersion": "ext.example.com/v1",
            "resources": [{"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing",
                "verbs": ["get", "list"]}]}),
        path => json!({"path": path, "query": request.uri().query(), "method": request.method().as_str(),
            "user": said("x-remote-user"), "groups": said("x-remote-group")}),
    };
    Response::new(Body::from(body.to_string()))
}

async fn announce(api: &Api, address: SocketAddr, trust: Value) {
    let service = json!({"metadata": {"name": "ext"}, "spec": {"ports": [{"port": 443}]}});
    assert_eq!(api.post("/api/v1/namespaces/default/services", service).await.0, StatusCode::CREATED);
    let slice = json!({"metadata": {"name": "ext", "labels": {"kubernetes.io/service-name": "ext"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [address.ip().to_string()]}],
        "ports": [{"name": "", "port": address.port()}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let (code, made) = api.post(slices, slice).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let mut object = json!({"metadata": {"name": "v1.ext.example.com"}, "spec": {"group": "ext.example.com",
        "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
        "service": {"namespace": "default", "name": "ext"}}});
    json_patch::merge(&mut object["spec"], &trust);
    let (code, made) = api.post(SERVICES, object).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
}

#[tokio::test]
async fn requests_are_passed_on_with_who_asks() {
    let api = Api::start().await;
    let (address, certificate) = other_server().await;
    announce(&api, address, json!({"caBundle": STANDARD.encode(certificate)})).await;
    let path = "/apis/ext.example.com/v1/namespaces/shop/things";
    let (code, told) = api.get(&format!("{path}?limit=5")).await;
    assert_eq!((code, &told["path"], &told["query"]), (StatusCode::OK, &json!(path), &json!("limit=5")));
    assert_eq!(told["user"], json!(["system:coracle"]));
    assert_eq!(told["groups"], json!(["system:masters", "system:authenticated"]));
    let (_, told) = api.post(path, json!({"a": 1})).await;
    assert_eq!(told["method"], "POST");
    // Who may not do it here does not get there.
    let jo = User::new("jo", &[]);
    let headers = [("x-remote-user", "root")];
    let (code, told) = api.by(&jo, Method::GET, path, &headers, Value::Null).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    let why = "things.ext.example.com is forbidden: User \"jo\" cannot list resource \"things\" in API group \"ext.example.com\" in the namespace \"shop\"";
    assert_eq!(told["message"], why);
}

#[tokio::test]
async fn what_is_available_is_told_by_discovery() {
    let api = Api::start().await;
    let (address, _) = other_server().await;
    announce(&api, address, json!({"insecureSkipTLSVerify": true})).await;
    assert_eq!(api.get("/apis/ext.example.com").await.0, StatusCode::NOT_FOUND, "nobody has asked it yet");
    assert_eq!(api.get("/apis/ext.example.com/v1").await.1["kind"], "APIResourceList");
    let status = json!({"status": {"conditions": [{"type": "Available", "status": "True"}]}});
    let one = format!("{SERVICES}/v1.ext.example.com/status");
    let (code, patched) = api.merge(&one, status).await;
    assert_eq!(code, StatusCode::OK, "{patched}");
    assert_eq!(api.get("/apis/ext.example.com").await.1["preferredVersion"]["version"], "v1");
    let (_, groups) = api.get("/apis").await;
    let groups = groups["groups"].as_array().expect("groups").clone();
    assert!(groups.iter().any(|group| group["name"] == "ext.example.com"));
}

#[tokio::test]
async fn a_server_that_is_not_trusted_or_not_there_is_503() {
    let api = Api::start().await;
    let (address, _) = other_server().await;
    let (_, stranger) = other_server().await;
    announce(&api, address, json!({"caBundle": STANDARD.encode(stranger)})).await;
    let (code, told) = api.get("/apis/ext.example.com/v1/things").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{told}");
    assert!(told["message"].as_str().is_some_and(|why| why.contains("error trying to reach service")), "{told}");
    api.delete("/api/v1/namespaces/default/services/ext").await;
    let (code, told) = api.get("/apis/ext.example.com/v1/things").await;
    assert_eq!(
        (code, &told["message"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("service/ext in \"default\" is not present"))
    );
    let (code, _) = api.get("/apis/none.example.com/v1/things").await;
    assert_eq!(code, StatusCode::NOT_FOUND);
}

//! The room as a whole: real listeners on loopback addresses, pods that are functions.

mod policies;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::wire::{CallError, CallTimeouts, Caller, HttpBody, HttpService, OutboundError};

const DEADLINE: Duration = Duration::from_secs(20);
const SERVICE_PORT: u16 = 18_080;

/// An address that no other test, of this or another process, uses.
fn fresh_ip() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    IpAddr::V4(Ipv4Addr::new(127, 128 | (pid >> 8) as u8, pid as u8, last))
}

/// A pod that tells what it was asked, and can be told to refuse.
struct Pod {
    name: &'static str,
    calls: AtomicUsize,
    refuses: bool,
    /// Answers only when a permit is given.
    gate: Option<tokio::sync::Semaphore>,
    headers: Mutex<HeaderMap>,
}

fn pod(name: &'static str) -> Pod {
    Pod { name, calls: AtomicUsize::new(0), refuses: false, gate: None, headers: Mutex::default() }
}

#[async_trait::async_trait]
impl HttpService for Pod {
    async fn call(&self, request: Request<HttpBody>) -> Result<Response<HttpBody>, CallError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.refuses {
            return Err(CallError::Undelivered { reason: "draining".into(), request: Box::new(request) });
        }
        if let Some(gate) = &self.gate {
            gate.acquire().await.map_err(|error| CallError::Failed(error.to_string()))?.forget();
        }
        let (parts, body) = request.into_parts();
        *self.headers.lock().expect("no test panics in here") = parts.headers;
        let body = body.collect().await.map_err(|error| CallError::Failed(error.to_string()))?.to_bytes();
        let text = format!("{}: {} {} {}", self.name, parts.method, parts.uri, String::from_utf8_lossy(&body));
        Ok(Response::new(http::full(text)))
    }
}

struct Allow(&'static str);

impl OutboundPolicy for Allow {
    fn allows(&self, _: &Caller, host: &str) -> bool {
        host == self.0
    }

    /// There is nothing but this machine to test with.
    fn is_outside(&self, _: IpAddr) -> bool {
        true
    }
}

async fn network(ingress: bool) -> Network {
    network_with(ingress, None).await
}

async fn network_with(ingress: bool, roots: Option<Arc<rustls::RootCertStore>>) -> Network {
    let config = NetworkConfig {
        ingress: ingress.then(|| SocketAddr::new(fresh_ip(), 0)),
        services: true,
        dns: None,
        node_port_ip: fresh_ip(),
        threads: 1,
        policy: Arc::new(Allow("127.0.0.2")),
        roots,
    };
    Network::bind(config).await.expect("loopback addresses can be bound")
}

/// A table with the Service `shop/cart` at `ip`, an Ingress for all of `shop.example`, and these endpoints.
fn table(ip: IpAddr, endpoints: &[SocketAddr]) -> RouteTable {
    let slices: Vec<Value> = endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "metadata": {"namespace": "shop", "name": "x", "labels": {"kubernetes.io/service-name": "cart"}},
                "addressType": "IPv4", "ports": [{"name": "", "port": endpoint.port()}],
                "endpoints": [{"addresses": [endpoint.ip()]}],
            })
        })
        .collect();
    let cart = json!({
        "metadata": {"namespace": "shop", "name": "cart"},
        "spec": {"clusterIP": ip, "ports": [{"port": SERVICE_PORT, "nodePort": 30_080}]},
    });
    let out = json!({
        "metadata": {"namespace": "shop", "name": "out"}, "spec": {"type": "ExternalName", "externalName": "127.0.0.2"},
    });
    let backend = json!({"service": {"name": "cart", "port": {"number": SERVICE_PORT}}});
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
    let rules = json!([{"host": "shop.example", "http": {"paths": paths}}]);
    let ingress = json!({"metadata": {"namespace": "shop", "name": "shop"}, "spec": {"rules": rules}});
    fn typed<T: serde::de::DeserializeOwned>(value: &Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value.clone()).expect("a well-formed object"))
    }
    let objects = Objects {
        services: &[typed(&cart), typed(&out)],
        slices: &slices.iter().map(typed).collect::<Vec<_>>(),
        ingresses: &[typed(&ingress)],
        ..Objects::default()
    };
    RouteTable::build(&objects, None)
}

type TestClient = Client<HttpConnector, HttpBody>;

fn client() -> TestClient {
    Client::builder(TokioExecutor::new()).build(HttpConnector::new())
}

async fn send(client: &TestClient, request: Request<HttpBody>) -> (StatusCode, HeaderMap, String) {
    let response = tokio::time::timeout(DEADLINE, client.request(request)).await.expect("an answer in time");
    let (parts, body) = response.expect("an answer").into_parts();
    let body = body.collect().await.expect("the body comes whole").to_bytes();
    (parts.status, parts.headers, String::from_utf8_lossy(&body).into_owned())
}

fn request(method: Method, address: SocketAddr, path: &str, body: &'static str) -> Request<HttpBody> {
    Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"))
        .header("host", "shop.example")
        .body(http::full(Bytes::from_static(body.as_bytes())))
        .expect("a well-formed request")
}

async fn get(address: SocketAddr, path: &str) -> (StatusCode, String) {
    let (status, _, body) = send(&client(), request(Method::GET, address, path, "")).await;
    (status, body)
}

async fn post(address: SocketAddr, body: &'static str) -> (StatusCode, String) {
    let (status, _, body) = send(&client(), request(Method::POST, address, "/", body)).await;
    (status, body)
}

#[tokio::test]
async fn the_ingress_calls_a_local_pod_as_a_function() {
    let network = network(true).await;
    let address = network.ingress_address().expect("there is an ingress");
    let endpoint = SocketAddr::new(fresh_ip(), 8_080);
    let cart = Arc::new(pod("cart"));
    let _registration = network.local().register(endpoint.ip(), None, cart.clone());
    network.update(Arc::new(table(fresh_ip(), &[endpoint])));

    assert_eq!(post(address, "an apple").await, (StatusCode::OK, "cart: POST / an apple".into()));
    let headers = cart.headers.lock().expect("no test panics").clone();
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    assert_eq!(value("host").as_deref(), Some("shop.example"));
    assert_eq!(value("x-forwarded-host").as_deref(), Some("shop.example"));
    assert_eq!(value("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(value("x-forwarded-proto").as_deref(), Some("http"));

    let mut elsewhere = request(Method::GET, address, "/", "");
    elsewhere.headers_mut().insert("host", "blog.example".parse().expect("a value"));
    let (status, _, text) = send(&client(), elsewhere).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.contains("blog.example"), "{text}");
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_answered_too() {
    let network = network(false).await;
    let endpoint = SocketAddr::new(fresh_ip(), 8_080);
    let _registration = network.local().register(endpoint.ip(), None, Arc::new(pod("cart")));
    let cluster = SocketAddr::new(fresh_ip(), SERVICE_PORT);
    network.update(Arc::new(table(cluster.ip(), &[endpoint])));
    let client: TestClient = Client::builder(TokioExecutor::new()).http2_only(true).build(HttpConnector::new());
    let mut request = request(Method::POST, cluster, "/a?b=c", "an apple");
    request.headers_mut().remove("host");
    let (status, _, text) = send(&client, request).await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, "cart: POST /a?b=c an apple"));
}

#[tokio::test]
async fn a_request_waits_for_a_pod_that_restarts() {
    let network = network(true).await;
    let address = network.ingress_address().expect("there is an ingress");
    let endpoint = SocketAddr::new(fresh_ip(), 8_080);
    let _listener = network.listen(endpoint).await.expect("the address is free");
    network.update(Arc::new(table(fresh_ip(), &[endpoint])));
    let waiting = tokio::spawn(async move { get(address, "/").await });
    // The call is held when it has marked its place.
    until(|| network.directory.held() == 1).await;
    let _registration = network.local().register(endpoint.ip(), None, Arc::new(pod("cart")));
    let answer = waiting.await.expect("it does not panic");
    assert_eq!(answer, (StatusCode::OK, "cart: GET / ".into()));
}

#[tokio::test]
async fn a_service_without_endpoints_is_unavailable_for_now() {
    let network = network(true).await;
    let address = network.ingress_address().expect("there is an ingress");
    network.update(Arc::new(table(fresh_ip(), &[])));
    let (status, headers, text) = send(&client(), request(Method::GET, address, "/", "")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers.get("retry-after").map(|value| value.as_bytes()), Some(&b"1"[..]));
    assert!(text.contains("shop/cart"), "{text}");
}

#[tokio::test]
async fn what_one_pod_hands_back_another_takes_whole() {
    let network = network(true).await;
    let address = network.ingress_address().expect("there is an ingress");
    let (first, second) = (SocketAddr::new(fresh_ip(), 8_080), SocketAddr::new(fresh_ip(), 8_080));
    let draining = Arc::new(Pod { refuses: true, ..pod("draining") });
    let _first = network.local().register(first.ip(), None, draining.clone());
    let _second = network.local().register(second.ip(), None, Arc::new(pod("cart")));
    network.update(Arc::new(table(fresh_ip(), &[first, second])));
    for _ in 0..20 {
        assert_eq!(post(address, "an apple").await, (StatusCode::OK, "cart: POST / an apple".into()));
    }
    assert!(draining.calls.load(Ordering::SeqCst) > 0, "chance sent some to it first");
}

#[tokio::test]
async fn a_pod_of_another_node_is_called_by_socket_and_passed_over_when_it_is_away() {
    let (here, there) = (network(true).await, network(false).await);
    let address = here.ingress_address().expect("there is an ingress");
    let ends = [fresh_ip(), fresh_ip(), fresh_ip()].map(|ip| SocketAddr::new(ip, 18_081));
    // One has a container, of one it is just restarting, and one address nobody listens on.
    let _registration = there.local().register(ends[0].ip(), None, Arc::new(pod("cart")));
    let _first = there.listen(ends[0]).await.expect("the address is free");
    let _second = there.listen(ends[1]).await.expect("the address is free");
    here.update(Arc::new(table(fresh_ip(), &ends)));
    for _ in 0..20 {
        assert_eq!(post(address, "an apple").await, (StatusCode::OK, "cart: POST / an apple".into()));
    }
}

/// A server that reads a request and closes the connection without an answer.
async fn breaking() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(SocketAddr::new(fresh_ip(), 0)).await.expect("the address is free");
    let address = listener.local_addr().expect("it is bound");
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4_096];
            if stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (address, requests)
}

#[tokio::test]
async fn a_broken_connection_repeats_what_is_idempotent_and_nothing_else() {
    let network = network(true).await;
    let address = network.ingress_address().expect("there is an ingress");
    let (broken, requests) = breaking().await;
    let endpoint = SocketAddr::new(fresh_ip(), 8_080);
    let _registration = network.local().register(endpoint.ip(), None, Arc::new(pod("cart")));
    network.update(Arc::new(table(fresh_ip(), &[broken, endpoint])));
    while requests.load(Ordering::SeqCst) < 5 {
        assert_eq!(get(address, "/").await, (StatusCode::OK, "cart: GET / ".into()));
    }
    network.update(Arc::new(table(fresh_ip(), &[broken])));
    let before = requests.load(Ordering::SeqCst);
    let (status, text) = post(address, "an apple").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{text}");
    assert_eq!(requests.load(Ordering::SeqCst), before + 1, "it was sent once only");
}

#[tokio::test]
async fn cluster_ips_and_node_ports_follow_the_table() {
    let network = network(false).await;
    let endpoint = SocketAddr::new(fresh_ip(), 8_080);
    let _registration = network.local().register(endpoint.ip(), None, Arc::new(pod("cart")));
    let ip = fresh_ip();
    network.update(Arc::new(table(ip, &[endpoint])));
    assert_eq!(network.unbound(), []);
    let cluster = SocketAddr::new(ip, SERVICE_PORT);
    assert_eq!(get(cluster, "/x").await, (StatusCode::OK, "cart: GET /x ".into()));
    let node_port = SocketAddr::new(network.doors.as_ref().expect("it has doors").node_port_ip(), 30_080);
    assert_eq!(get(node_port, "/y").await, (StatusCode::OK, "cart: GET /y ".into()));

    // A client that keeps its connection is told to close it when the Service has gone.
    let keeping = client();
    send(&keeping, request(Method::GET, cluster, "/", "")).await;
    network.update(Arc::default());
    let (status, headers, _) = send(&keeping, request(Method::GET, cluster, "/", "")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers.get("connection").map(|value| value.as_bytes()), Some(&b"close"[..]));
    let refused = async {
        while TcpStream::connect(cluster).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, refused).await.expect("the listener closes");
}

#[tokio::test]
async fn what_is_not_http_is_piped_and_may_be_half_closed() {
    let network = network(false).await;
    let echo = TcpListener::bind(SocketAddr::new(fresh_ip(), 0)).await.expect("the address is free");
    let ip = fresh_ip();
    network.update(Arc::new(table(ip, &[echo.local_addr().expect("it is bound")])));
    let server = tokio::spawn(async move {
        let (mut stream, _) = echo.accept().await.expect("the router connects");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect("the client finishes");
        stream.write_all(&all).await.expect("the client still reads");
    });
    let mut client = TcpStream::connect((ip, SERVICE_PORT)).await.expect("the Service is listened on");
    client.write_all(b"\x00binary\xff").await.expect("the pipe takes it");
    client.shutdown().await.expect("one side can be closed");
    let mut back = Vec::new();
    tokio::time::timeout(DEADLINE, client.read_to_end(&mut back)).await.expect("in time").expect("it comes back");
    assert_eq!(back, b"\x00binary\xff");
    server.await.expect("the server does not panic");
}

#[tokio::test]
async fn a_shutdown_waits_for_requests_in_flight() {
    let network = Arc::new(network(true).await);
    let address = network.ingress_address().expect("there is an ingress");
    let endpoint = SocketAddr::new(fresh_ip(), 8_080);
    let slow = Arc::new(Pod { gate: Some(tokio::sync::Semaphore::new(0)), ..pod("slow") });
    let _registration = network.local().register(endpoint.ip(), None, slow.clone());
    network.update(Arc::new(table(fresh_ip(), &[endpoint])));
    let in_flight = tokio::spawn(async move { get(address, "/").await });
    until(|| slow.calls.load(Ordering::SeqCst) == 1).await;
    let shutdown = tokio::spawn({
        let network = network.clone();
        async move { network.shutdown(DEADLINE).await }
    });
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, refused).await.expect("no new connection is taken");
    slow.gate.as_ref().expect("it has a gate").add_permits(1);
    assert_eq!(in_flight.await.expect("it does not panic"), (StatusCode::OK, "slow: GET / ".into()));
    tokio::time::timeout(DEADLINE, shutdown).await.expect("it ends").expect("it does not panic");
}

/// A guest's call to `url`.
async fn guest(network: &Network, ip: IpAddr, url: &str) -> Result<String, OutboundError> {
    let caller = Caller { namespace: "shop".into(), pod: "storefront".into(), ip };
    let timeouts = CallTimeouts { connect: DEADLINE, first_byte: DEADLINE, between_bytes: DEADLINE };
    let request = Request::get(url).body(http::empty()).expect("a well-formed request");
    let response = network.outbound().send(&caller, request, timeouts).await?;
    let body = response.into_body().collect().await.expect("the body comes whole").to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn guests_call_services_pods_and_themselves_and_nobody_else() {
    let network = network(false).await;
    let (cart_at, front_at) = (SocketAddr::new(fresh_ip(), 8_080), SocketAddr::new(fresh_ip(), 8_080));
    let cart = Arc::new(pod("cart"));
    let _cart = network.local().register(cart_at.ip(), None, cart.clone());
    let _front = network.local().register(front_at.ip(), None, Arc::new(pod("front")));
    let ip = fresh_ip();
    network.update(Arc::new(table(ip, &[cart_at])));
    for (url, answer) in [
        (format!("http://cart:{SERVICE_PORT}/items?a=b"), "cart: GET /items?a=b "),
        (format!("http://cart.shop.svc.cluster.local:{SERVICE_PORT}"), "cart: GET / "),
        (format!("http://{ip}:{SERVICE_PORT}/"), "cart: GET / "),
        (format!("http://{}:8080/", cart_at.ip()), "cart: GET / "),
        ("http://localhost:8080/me".into(), "front: GET /me "),
        ("http://127.0.0.1/".into(), "front: GET / "),
    ] {
        assert_eq!(guest(&network, front_at.ip(), &url).await.expect(&url), answer, "{url}");
    }
    guest(&network, front_at.ip(), &format!("http://cart:{SERVICE_PORT}/")).await.expect("it answers");
    let host = cart.headers.lock().expect("no test panics").get("host").cloned();
    assert_eq!(host.as_ref().map(|host| host.as_bytes()), Some(format!("cart:{SERVICE_PORT}").as_bytes()));

    let error = |url: &'static str| guest(&network, front_at.ip(), url);
    assert!(matches!(error("http://cart:81/").await, Err(OutboundError::Refused(_))));
    assert!(matches!(error("http://example.com/").await, Err(OutboundError::Denied(_))));
    assert!(matches!(error("http://carrt/").await, Err(OutboundError::UnknownHost(_))));
    assert!(matches!(error("http://cart.shop.svc.cluster.local./").await, Err(OutboundError::Refused(_))));
    assert!(matches!(error("http://cart.blog.svc.cluster.local/").await, Err(OutboundError::UnknownHost(_))));
    assert!(matches!(error("http://192.0.2.1/").await, Err(OutboundError::Denied(_))));
    assert!(matches!(error("https://cart/").await, Err(OutboundError::Failed(_))));
    assert!(matches!(error("/relative").await, Err(OutboundError::UnknownHost(_))));
}

#[tokio::test]
async fn an_allowed_host_outside_is_called_also_by_an_external_name() {
    let network = network(false).await;
    network.update(Arc::new(table(fresh_ip(), &[])));
    let outside = TcpListener::bind("127.0.0.2:0").await.expect("the address is free");
    let port = outside.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = outside.accept().await {
            let mut buffer = [0; 4_096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").await;
        }
    });
    for host in ["127.0.0.2", "out"] {
        let answer = guest(&network, fresh_ip(), &format!("http://{host}:{port}/")).await;
        assert_eq!(answer.expect("the policy allows it"), "hello");
    }
}

#[tokio::test]
async fn an_allowed_host_outside_is_called_over_tls() {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let ca = params.self_signed(&ca_key).expect("an authority");
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["127.0.0.2".to_owned()]).expect("parameters");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], key).expect("a server");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let outside = TcpListener::bind("127.0.0.2:0").await.expect("the address is free");
    let port = outside.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = outside.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut buffer = [0; 4_096];
            let count = stream.read(&mut buffer).await.unwrap_or(0);
            let heard = String::from_utf8_lossy(&buffer[..count]).to_lowercase();
            let body = if heard.starts_with("get /a?b ") && heard.contains("host: 127.0.0.2:") { "yes" } else { "no!" };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).expect("an authority");
    let url = format!("https://127.0.0.2:{port}/a?b");
    let trusting = network_with(false, Some(Arc::new(roots))).await;
    assert_eq!(guest(&trusting, fresh_ip(), &url).await.expect("it is trusted"), "yes");
    // Nobody whom this one trusts has vouched for it.
    let other = rcgen::generate_simple_self_signed(vec!["other".to_owned()]).expect("a certificate");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(other.cert.der().clone()).expect("an authority");
    let wary = network_with(false, Some(Arc::new(roots))).await;
    let refused = guest(&wary, fresh_ip(), &url).await;
    assert!(
        matches!(&refused, Err(OutboundError::Failed(why)) if why.contains("invalid peer certificate")),
        "{refused:?}"
    );
}

/// Waits for a condition that another task is about to make true.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("the condition comes true in time");
}

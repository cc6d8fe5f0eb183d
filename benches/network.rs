//! What the router adds to a request: the ingress and a Service to a pod of the same process, beside a
//! bare server of the same library that answers at once; and a guest's call, which needs no socket.
//!
//! `cargo bench --bench network`. The peer for the whole, guest included, is `wasmtime serve`.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle::network::{Network, NetworkConfig, Objects, OutboundPolicy, RouteTable};
use coracle::wire::{CallError, CallTimeouts, Caller, HttpBody, HttpService};
use criterion::{Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::runtime::Runtime;

const PAGE: &[u8] = b"Hello, world!";
const REQUEST: &[u8] = b"GET /hello HTTP/1.1\r\nHost: hello.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";

struct Hello;

#[async_trait::async_trait]
impl HttpService for Hello {
    async fn call(&self, _: Request<HttpBody>) -> Result<Response<HttpBody>, CallError> {
        Ok(Response::new(page()))
    }
}

struct DenyAll;

impl OutboundPolicy for DenyAll {
    fn allows(&self, _: &Caller, _: &str) -> bool {
        false
    }
}

fn page() -> HttpBody {
    HttpBody::new(Full::new(Bytes::from_static(PAGE)).map_err(|never| match never {}))
}

/// A route table with `default/hello` at 127.96.9.9:80, its pod, and an Ingress.
fn table(pod: SocketAddr) -> RouteTable {
    let service = json!({
        "metadata": {"namespace": "default", "name": "hello"},
        "spec": {"clusterIP": "127.96.9.9", "ports": [{"port": 18_081}]},
    });
    let slice = json!({
        "metadata": {"namespace": "default", "name": "hello-x", "labels": {"kubernetes.io/service-name": "hello"}},
        "addressType": "IPv4", "ports": [{"port": pod.port()}], "endpoints": [{"addresses": [pod.ip()]}],
    });
    let backend = json!({"service": {"name": "hello", "port": {"number": 18_081}}});
    let ingress = json!({
        "metadata": {"namespace": "default", "name": "hello"},
        "spec": {"rules": [{"host": "hello.example", "http": {
            "paths": [{"path": "/", "pathType": "Prefix", "backend": backend}],
        }}]},
    });
    fn typed<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).expect("a well-formed object"))
    }
    let objects = Objects {
        services: &[typed(service)],
        slices: &[typed(slice)],
        ingresses: &[typed(ingress)],
        ..Objects::default()
    };
    RouteTable::build(&objects, None)
}

/// One keep-alive client in a closed loop.
struct Client(TcpStream, Vec<u8>);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("it is a socket");
        Self(stream, vec![0; 4_096])
    }

    fn get(&mut self) {
        self.0.write_all(REQUEST).expect("the server reads");
        let mut filled = 0;
        while !self.1[..filled].ends_with(PAGE) {
            filled += self.0.read(&mut self.1[filled..]).expect("the server answers");
        }
    }
}

/// The library alone, on one thread, as the router's threads are.
fn bare_server() -> SocketAddr {
    let (told, tell) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("the address is free");
            told.send(listener.local_addr().expect("it is bound")).expect("the bench waits");
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("it is a socket");
                let answer = |_| async { Ok::<_, std::convert::Infallible>(Response::new(page())) };
                let service = hyper::service::service_fn(answer);
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
    });
    tell.recv().expect("the server starts")
}

fn requests(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let pod = SocketAddr::from(([127, 64, 9, 9], 8_080));
    let config = NetworkConfig {
        ingress: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        services: true,
        dns: None,
        node_port_ip: IpAddr::from([127, 0, 0, 1]),
        threads: 1,
        policy: Arc::new(DenyAll),
        roots: None,
    };
    let network = runtime.block_on(Network::bind(config)).expect("the ingress binds");
    let _registration = network.local().register(pod.ip(), None, Arc::new(Hello));
    runtime.block_on(async { network.update(Arc::new(table(pod))) });

    let mut bare = Client::connect(bare_server());
    c.bench_function("a bare server answers", |bench| bench.iter(|| bare.get()));
    let mut ingress = Client::connect(network.ingress_address().expect("there is an ingress"));
    c.bench_function("ingress to a local pod", |bench| bench.iter(|| ingress.get()));
    let mut service = Client::connect(SocketAddr::from(([127, 96, 9, 9], 18_081)));
    c.bench_function("ClusterIP to a local pod", |bench| bench.iter(|| service.get()));

    let outbound = network.outbound();
    let caller = Caller { namespace: "default".into(), pod: "bench".into(), ip: IpAddr::from([127, 64, 9, 8]) };
    let second = Duration::from_secs(1);
    let timeouts = CallTimeouts { connect: second, first_byte: second, between_bytes: second };
    c.bench_function("a guest's call to a local pod", |bench| {
        bench.iter(|| {
            let empty = HttpBody::new(Empty::new().map_err(|never| match never {}));
            let request = Request::get("http://hello:18081/hello").body(empty).expect("a well-formed request");
            runtime.block_on(outbound.send(&caller, request, timeouts)).expect("the pod answers")
        });
    });
}

criterion_group!(benches, requests);
criterion_main!(benches);

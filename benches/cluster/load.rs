//! A client of the API that costs little beside the server that shares its cores: one connection, requests whose
//! bytes are ready, answers that nobody parses.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::ConfigExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where the API is, and the administrator's certificate.
#[derive(Clone)]
pub struct Door {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
}

/// One client's connection.
pub enum Client {
    /// HTTP/1.1, one request at a time: what Python's client and kube-rs speak.
    One(http1::SendRequest<Full<Bytes>>),
    /// HTTP/2, any number of requests: what client-go speaks.
    Two(http2::SendRequest<Full<Bytes>>),
}

/// A request but for what changes from one to the next.
#[derive(Clone)]
pub struct Ask {
    pub method: Method,
    pub content: &'static str,
    pub accept: &'static str,
}

pub const JSON: &str = "application/json";
/// What the generated clients of client-go accept.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf,application/json";
pub const GET: Ask = Ask { method: Method::GET, content: JSON, accept: JSON };
pub const POST: Ask = Ask { method: Method::POST, content: JSON, accept: JSON };
pub const MERGE: Ask = Ask { method: Method::PATCH, content: "application/merge-patch+json", accept: JSON };

impl Door {
    pub async fn open(kubeconfig: &Path) -> Self {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let config = config.expect("a cluster that can be used");
        let authority = config.cluster_url.authority().expect("an address").as_str();
        let tls = config.rustls_client_config().expect("certificates").into();
        Self { address: authority.parse().expect("an address"), tls }
    }

    async fn connect(&self, protocol: &[u8]) -> TokioIo<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut tls = rustls::ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await.expect("the API's port");
        stream.set_nodelay(true).expect("no delay");
        let name = ServerName::from(self.address.ip());
        TokioIo::new(TlsConnector::from(Arc::new(tls)).connect(name, stream).await.expect("a handshake"))
    }

    pub async fn one(&self) -> Client {
        let (sender, connection) = http1::handshake(self.connect(b"http/1.1").await).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        Client::One(sender)
    }

    pub async fn two(&self) -> Client {
        let builder = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(self.connect(b"h2").await).await.expect("HTTP/2");
        tokio::spawn(connection);
        Client::Two(sender)
    }
}

impl Client {
    /// Sends it; the answer's head, which must be a success, and its body as it comes.
    pub async fn open(&mut self, ask: &Ask, path: &str, body: Bytes) -> http::Response<Incoming> {
        let request = Request::builder()
            .method(ask.method.clone())
            .uri(match self {
                Self::One(_) => path.to_owned(),
                Self::Two(_) => format!("https://api{path}"),
            })
            .header(header::CONTENT_TYPE, ask.content)
            .header(header::ACCEPT, ask.accept)
            .header(header::USER_AGENT, "bench/1");
        let request = match self {
            Self::One(_) => request.header(header::HOST, "api"),
            Self::Two(_) => request,
        };
        let request = request.body(Full::new(body)).expect("a request");
        let answer = match self {
            Self::One(sender) => {
                sender.ready().await.expect("a connection");
                sender.send_request(request).await
            }
            Self::Two(sender) => sender.send_request(request).await,
        };
        answer.expect("an answer")
    }

    /// Sends it and takes the whole answer; how many bytes it has, and its type.
    pub async fn ask(&mut self, ask: &Ask, path: &str, body: Bytes) -> (usize, String) {
        let answer = self.open(ask, path, body).await;
        let status = answer.status();
        let content = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content = content.unwrap_or_default().to_owned();
        let mut body = answer.into_body();
        let (mut bytes, mut shown) = (0, Vec::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.expect("the rest of the answer").into_data().unwrap_or_default();
            bytes += frame.len();
            if status.is_client_error() || status.is_server_error() {
                shown.extend_from_slice(&frame);
            }
        }
        let (method, text) = (&ask.method, String::from_utf8_lossy(&shown));
        assert!(matches!(status, StatusCode::OK | StatusCode::CREATED), "{method} {path}: {status} {text}");
        (bytes, content)
    }
}

/// What a run of requests took.
pub struct Run {
    pub times: Vec<Duration>,
    pub took: Duration,
}

impl Run {
    pub fn rate(&self) -> f64 {
        self.times.len() as f64 / self.took.as_secs_f64()
    }
}

/// `clients` connections, each with one request at a time, until all `count` numbers have been asked.
pub async fn drive(
    door: &Door,
    clients: usize,
    ask: &Ask,
    count: usize,
    make: impl Fn(usize) -> (String, Bytes),
) -> Run {
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(door.one().await);
    }
    let next = std::cell::Cell::new(0);
    let started = Instant::now();
    let runs = connections.into_iter().map(|mut client| {
        let (next, make) = (&next, &make);
        async move {
            let mut times = Vec::with_capacity(count / clients + 1);
            loop {
                let number = next.get();
                if number == count {
                    return times;
                }
                next.set(number + 1);
                let (path, body) = make(number);
                let asked = Instant::now();
                client.ask(ask, &path, body).await;
                times.push(asked.elapsed());
            }
        }
    });
    let times = futures::future::join_all(runs).await.concat();
    Run { times, took: started.elapsed() }
}

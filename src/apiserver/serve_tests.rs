//! The door closes: what clients at the other end of a socket see of it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc;
use http::{Request, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::auth::pki::Pki;
use super::auth::tokens::Tokens;
use super::serve::Door;
use super::{ApiConfig, ApiServer};
use crate::store::MemoryStore;

const PATIENCE: Duration = Duration::from_secs(20);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

type Frames = StreamBody<mpsc::UnboundedReceiver<Result<Frame<Bytes>, Infallible>>>;

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited for {what}"))
}

/// A body that has been sent when it is made.
fn whole(text: String) -> Frames {
    let (sender, body) = mpsc::unbounded();
    sender.unbounded_send(Ok(Frame::data(text.into()))).expect("nobody has gone");
    StreamBody::new(body)
}

fn request(method: &str, path: &str, body: Frames) -> Request<Frames> {
    let request = Request::builder().method(method).uri(format!("https://api{path}")).header(header::HOST, "api");
    request.header(header::CONTENT_TYPE, "application/json").body(body).expect("a request")
}

fn map(name: &str) -> String {
    format!(r#"{{"metadata":{{"name":"{name}"}}}}"#)
}

/// An API behind its door, and how to reach it.
struct House {
    api: ApiServer,
    pki: Pki,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl House {
    async fn open() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let local = std::net::IpAddr::from([127, 0, 0, 1]);
        let pki = Pki::open(&dir.path().join("pki"), &["api".to_owned()], &[local]).expect("keys");
        let tokens = Tokens::open(&dir.path().join("token"), &pki).expect("a token");
        let door = Door::bind((local, 0).into(), &pki, tokens).await.expect("a port");
        let address = door.address().expect("an address");
        let api = ApiServer::start(ApiConfig::new(Arc::new(MemoryStore::new()))).await.expect("the server starts");
        let stop = CancellationToken::new();
        let (served, router, stopped) = (api.clone(), api.router(), stop.clone());
        let serving = tokio::spawn(async move { door.serve(&served, router, stopped).await });
        Self { api, pki, address, stop, serving, _dir: dir }
    }

    /// As the administrator.
    fn tls(&self) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(self.pki.ca_pem.as_bytes()) {
            roots.add(authority.expect("PEM")).expect("an authority");
        }
        let admin = &self.pki.admin;
        let chain = CertificateDer::pem_slice_iter(admin.cert_pem.as_bytes()).collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(admin.key_pem.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_root_certificates(roots);
        builder.with_client_auth_cert(chain, key).expect("they fit")
    }

    async fn connect(&self, protocol: &[u8]) -> TokioIo<TlsStream<TcpStream>> {
        let mut tls = self.tls();
        tls.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await.expect("the door is open");
        let name = ServerName::from(self.address.ip());
        TokioIo::new(TlsConnector::from(Arc::new(tls)).connect(name, stream).await.expect("a handshake"))
    }

    async fn one(&self) -> http1::SendRequest<Frames> {
        let (sender, connection) = http1::handshake(self.connect(b"http/1.1").await).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        sender
    }

    async fn two(&self) -> http2::SendRequest<Frames> {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), self.connect(b"h2").await).await.expect("HTTP/2");
        tokio::spawn(connection);
        sender
    }
}

/// The names that a watch tells of until its end, which must be a clean one.
async fn names(mut body: Incoming) -> BTreeSet<String> {
    let mut text = Vec::new();
    while let Some(frame) = in_time("the end of a watch", body.frame()).await {
        text.extend_from_slice(&frame.expect("a clean end").into_data().unwrap_or_default());
    }
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let events = lines.map(|line| serde_json::from_slice::<Value>(line).expect("whole lines"));
    events.map(|event| event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn a_stop_ends_watches_cleanly_and_lets_requests_finish() {
    let house = House::open().await;
    let watch = || request("GET", &format!("{MAPS}?watch=1"), whole(String::new()));
    let (mut one, mut two) = (house.one().await, house.two().await);
    let watches = [
        one.send_request(watch()).await.expect("an answer").into_body(),
        two.send_request(watch()).await.expect("an answer").into_body(),
    ];
    let mut writer = house.one().await;
    let mut written = BTreeSet::new();
    for number in 0..40 {
        let name = format!("c{number}");
        let answer = writer.send_request(request("POST", MAPS, whole(map(&name)))).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::CREATED);
        answer.into_body().collect().await.expect("an object");
        written.insert(name);
        writer.ready().await.expect("a connection");
    }

    // A request that has begun: the server waits for the rest of its body.
    let (rest, body) = mpsc::unbounded();
    let late = map("late");
    let (first, second) = late.split_at(late.len() / 2);
    rest.unbounded_send(Ok(Frame::data(first.to_owned().into()))).expect("nobody has gone");
    let mut slow = house.two().await;
    let answer = tokio::spawn(async move { slow.send_request(request("POST", MAPS, StreamBody::new(body))).await });
    in_time("the request to begin", async {
        while house.api.metrics.mutating.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    house.stop.cancel();
    house.api.shutdown();
    in_time("the door to close", async { while TcpStream::connect(house.address).await.is_ok() {} }).await;
    rest.unbounded_send(Ok(Frame::data(second.to_owned().into()))).expect("nobody has gone");
    drop(rest);
    let answer = in_time("the answer", answer).await.expect("no panic").expect("an answer");
    assert_eq!(answer.status(), StatusCode::CREATED);
    answer.into_body().collect().await.expect("all of it");
    for watch in watches {
        let seen = names(watch).await;
        assert!(seen.is_superset(&written), "lost: {:?}", written.difference(&seen));
    }
    in_time("all connections to end", house.serving).await.expect("no panic");
    let refused = async { while two.send_request(watch()).await.is_ok() {} };
    in_time("a connection that is closed to take no request", refused).await;
}

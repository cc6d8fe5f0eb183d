//! `kubectl port-forward`: connections of a client's machine, carried to a port of a pod.
//!
//! Two ways of speaking. kubectl has SPDY, inside a WebSocket or (older ones) on the connection itself, with as many
//! connections as it likes, each a pair of streams: one for bytes, one for what went wrong. Others have a pair of
//! channels a port, one connection each. Either way a connection ends in the pod's HTTP handler, called in memory, or
//! at its socket, of its loopback where the node can enter that.
//!
//! Both protocols put all connections on one transport without windows, so a pod that does not read holds
//! back the input of the others, though never any output.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::channels::message;
use super::transport::{self, CHUNK, Connection, PIECES, Source, Times};
use super::tunnel::Streams;
use super::{Protocols, spdy};
use crate::network::Network;
use crate::node::context::Entry;
use crate::node::server::NodeApi;
use crate::reconcile::ObjectKey;

/// SPDY first: it carries several connections to a port.
const PROTOCOLS: Protocols =
    Protocols { websocket: &["SPDY/3.1+portforward.k8s.io", CHANNELS], spdy: &["portforward.k8s.io"] };
const CHANNELS: &str = "v4.channel.k8s.io";

/// Ports of one request.
const MAX_PORTS: usize = 32;
/// Input of one connection on its way to the pod.
pub const PIPE: usize = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// `/portForward/{namespace}/{pod}?ports=80`
pub async fn forward(
    State(api): State<NodeApi>,
    Path((namespace, pod)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    mut request: Request<Body>,
) -> Response {
    let key = ObjectKey::new(namespace.as_str(), pod.as_str());
    let Some(found) = Pod::find(&api, key) else { return Pod::unknown(&pod) };
    let ports = match ports(query.as_deref().unwrap_or_default()) {
        Ok(ports) => ports,
        Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
    };
    let pod = Arc::new(found);
    api.sessions.begin(&mut request, &PROTOCOLS, move |connection, protocol| serve(connection, protocol, pod, ports))
}

fn ports(query: &str) -> Result<Vec<u16>, String> {
    let query = percent_encoding::percent_decode_str(query).decode_utf8_lossy();
    let given = query.split('&').filter_map(|pair| pair.strip_prefix("ports=")).filter(|value| !value.is_empty());
    let ports = given.flat_map(|value| value.split(',')).map(|port| match port.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(format!("{port:?} is not a port")),
    });
    let ports: Vec<u16> = ports.collect::<Result<_, _>>()?;
    if ports.len() > MAX_PORTS { Err(format!("at most {MAX_PORTS} ports")) } else { Ok(ports) }
}

/// Where what a pod says goes.
pub struct Out {
    pub outgoing: mpsc::Sender<Bytes>,
    pub to: To,
}

#[derive(Clone, Copy)]
pub enum To {
    Stream(u32),
    Channel(u8),
}

impl Out {
    /// Whether there is still somebody who takes it.
    async fn send(&self, bytes: &[u8]) -> bool {
        let piece = match self.to {
            To::Stream(stream) => spdy::data(stream, false, bytes),
            To::Channel(channel) => message(channel, bytes),
        };
        self.outgoing.send(piece).await.is_ok()
    }
}

/// Where connections go.
pub struct Pod {
    pub key: ObjectKey,
    ip: IpAddr,
    entry: Arc<Entry>,
    network: Arc<Network>,
}

/// Bytes both ways.
pub trait Bytewise: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytewise for T {}

/// A connection to a pod.
pub struct Opened {
    pub stream: Box<dyn Bytewise>,
    /// What answers at the other end, if it is of this process: to be run beside the connection.
    pub serving: Option<BoxFuture<'static, ()>>,
}

impl Pod {
    /// `None` where it does not run here or has no address.
    pub fn find(api: &NodeApi, key: ObjectKey) -> Option<Self> {
        let entry = api.context.register.get(&key)?;
        let ip = api.pods.get(&key)?.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        Some(Self { key, ip, entry, network: api.context.network.clone() })
    }

    /// What is said where there is none.
    pub fn unknown(name: &str) -> Response {
        let text = format!("unable to upgrade connection: pod {name:?} has no address on this node yet");
        (StatusCode::NOT_FOUND, text).into_response()
    }

    /// Carries one connection until both directions have ended. The error is for the client to show.
    pub async fn carry(&self, port: u16, input: DuplexStream, out: &Out) -> Result<(), String> {
        let opened = self.open(port).await.map_err(|why| {
            format!("error forwarding port {port} to pod {}/{}: {why}", self.key.namespace, self.key.name)
        })?;
        let serving = async {
            if let Some(serving) = opened.serving {
                serving.await;
            }
        };
        tokio::join!(serving, pump(opened.stream, input, out));
        Ok(())
    }

    /// A connection to one of its ports, also of its loopback where the node can enter that.
    pub async fn open(&self, port: u16) -> Result<Opened, String> {
        let address = SocketAddr::new(self.ip, port);
        if self.network.local().answers(address) {
            // To the pod the client is the node, as it is to a pod with a socket.
            let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let (network, (near, far)) = (self.network.clone(), tokio::io::duplex(PIPE));
            // Boxed: what a connection's server holds while it waits is not to be seen from here.
            let serving: BoxFuture<'static, ()> = Box::pin(async move { network.carry(address, peer, far).await });
            return Ok(Opened { stream: Box::new(near), serving: Some(serving) });
        }
        let socket = |stream: TcpStream| {
            let _ = stream.set_nodelay(true);
            Opened { stream: Box::new(stream), serving: None }
        };
        // Within the pod its loopback is reached, too.
        let inside = match self.entry.sandbox() {
            Some(sandbox) => sandbox.connect(port).await,
            None => None,
        };
        if let Some(Ok(stream)) = inside {
            return Ok(socket(stream));
        }
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => Ok(socket(stream)),
            Ok(Err(error)) => Err(format!("dial tcp {address}: {error}")),
            Err(_) => Err(format!("dial tcp {address}: no answer within {CONNECT_TIMEOUT:?}")),
        }
    }
}

/// Copies both ways: the client's input to the pod, what the pod says to `out`.
async fn pump(stream: impl AsyncRead + AsyncWrite, mut input: DuplexStream, out: &Out) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        let _ = tokio::io::copy(&mut input, &mut writer).await;
        let _ = writer.shutdown().await;
        // Whatever else comes has nobody to go to, and must not hold others back.
        let _ = tokio::io::copy(&mut input, &mut tokio::io::sink()).await;
    };
    let read = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            if !out.send(buffer.get(..count).unwrap_or_default()).await {
                return;
            }
        }
    };
    // Once the pod has said all, nothing that is still sent matters.
    tokio::pin!(write, read);
    tokio::select! {
        () = &mut read => {}
        () = &mut write => read.await,
    }
}

async fn serve(connection: Connection, protocol: &'static str, pod: Arc<Pod>, ports: Vec<u16>) {
    let (sink, source) = connection.split();
    let (outgoing, pieces) = mpsc::channel(PIECES);
    let times = Times::new();
    let listening = async {
        match protocol {
            CHANNELS => listen_channels(pod, &ports, outgoing, source, &times).await,
            _ => Streams::new(pod, outgoing).listen(source, &times).await,
        }
    };
    tokio::select! {
        () = listening => {}
        () = transport::pump(sink, pieces, &times) => {}
    }
}

/// One connection a port, each on its channels.
async fn listen_channels(
    pod: Arc<Pod>,
    ports: &[u16],
    outgoing: mpsc::Sender<Bytes>,
    mut source: Source,
    times: &Times,
) {
    let mut inputs = Vec::new();
    let mut connections = JoinSet::new();
    for (channel, port) in (0_u8..).step_by(2).zip(ports.iter().copied()) {
        for channel in [channel, channel + 1] {
            let _ = outgoing.send(message(channel, &port.to_le_bytes())).await;
        }
        let (input, far) = tokio::io::duplex(PIPE);
        inputs.push(Some(input));
        let (pod, outgoing) = (pod.clone(), outgoing.clone());
        connections.spawn(async move {
            let out = Out { outgoing, to: To::Channel(channel) };
            if let Err(why) = pod.carry(port, far, &out).await {
                let _ = out.outgoing.send(message(channel + 1, why.as_bytes())).await;
            }
        });
    }
    drop(outgoing);
    let listening = async {
        while let Some(bytes) = source.next(times).await {
            let Some((channel, bytes)) = bytes.split_first() else { continue };
            // Odd channels are for errors, of which clients have none to tell.
            let slot = inputs.get_mut(usize::from(channel / 2)).filter(|_| channel % 2 == 0);
            if let Some(slot) = slot
                && let Some(input) = slot
                && input.write_all(bytes).await.is_err()
            {
                *slot = None;
            }
        }
    };
    // The channels know no end of one connection: the session ends with the last of them, once all is sent.
    let ended = async {
        while connections.join_next().await.is_some() {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = listening => {}
        () = ended => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_of_which_there_are_few() {
        assert_eq!(ports("ports=80&ports=81%2C82&x=1"), Ok(vec![80, 81, 82]));
        assert_eq!(ports(""), Ok(vec![]));
        assert!(ports("ports=0").is_err() && ports("ports=70000").is_err());
        assert!(ports(&"ports=1&".repeat(MAX_PORTS + 1)).is_err());
    }
}

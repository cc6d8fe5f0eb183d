//! The connections of one kubectl: pairs of SPDY streams, one for bytes and one for what went wrong.
//!
//! The client opens the error stream first, then the data stream with the same number; the connection to
//! the pod begins with the second. When the pod has said all, both are ended.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::forward::{Out, PIPE, Pod, To};
use super::spdy::{self, Decoder, Encoder, Frame};
use super::transport::{Source, Times};

/// Connections of one session at a time; a browser opens some six.
const MAX_CONNECTIONS: usize = 128;
/// Streams that said what they are for and whose partner has not come.
const MAX_HALVES: usize = MAX_CONNECTIONS;

/// The connections of one kubectl.
pub struct Streams {
    pod: Arc<Pod>,
    outgoing: mpsc::Sender<Bytes>,
    encoder: Encoder,
    /// The error streams of connections whose bytes have not come yet, by the client's number.
    halves: HashMap<String, u32>,
    /// Where input goes, by stream.
    inputs: HashMap<u32, DuplexStream>,
    /// What can be cut, by stream, with the error stream that is to be ended then.
    cuts: HashMap<u32, (AbortHandle, u32)>,
    /// Owned here: they end with the session.
    connections: JoinSet<()>,
}

impl Streams {
    pub fn new(pod: Arc<Pod>, outgoing: mpsc::Sender<Bytes>) -> Self {
        let (halves, inputs, cuts) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { pod, outgoing, encoder: Encoder::default(), halves, inputs, cuts, connections: JoinSet::new() }
    }

    pub async fn listen(mut self, mut source: Source, times: &Times) {
        let mut decoder = Decoder::default();
        while let Some(bytes) = source.next(times).await {
            decoder.push(&bytes);
            loop {
                match decoder.frame() {
                    Ok(Some(Frame::GoAway)) => return,
                    Ok(Some(frame)) => {
                        times.note(matches!(frame, Frame::Data { .. }));
                        self.take(frame).await;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(%error, pod = %self.pod.key.name, "a port-forward ended: not SPDY as it is spoken");
                        return;
                    }
                }
            }
        }
    }

    async fn send(&self, frame: Bytes) {
        // Without a receiver the session is ending anyway.
        let _ = self.outgoing.send(frame).await;
    }

    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Open { stream, fin, headers } => {
                while self.connections.try_join_next().is_some() {}
                self.cuts.retain(|_, (connection, _)| !connection.is_finished());
                match self.open(stream, &headers) {
                    Ok(()) => {
                        let reply = self.encoder.reply(stream);
                        self.send(reply).await;
                        if fin {
                            self.inputs.remove(&stream);
                        }
                    }
                    Err(why) => {
                        tracing::debug!(why, pod = %self.pod.key.name, "a stream of a port-forward was refused");
                        self.send(spdy::reset(stream, spdy::REFUSED_STREAM)).await;
                    }
                }
            }
            Frame::Data { stream, fin, bytes } => {
                if let Some(input) = self.inputs.get_mut(&stream) {
                    let gone = input.write_all(&bytes).await.is_err();
                    if gone || fin {
                        self.inputs.remove(&stream);
                    }
                }
            }
            Frame::Reset { stream } => {
                self.inputs.remove(&stream);
                if let Some((connection, errors)) = self.cuts.remove(&stream) {
                    connection.abort();
                    // The client waits for its end; one too many is passed over there.
                    self.send(spdy::data(errors, true, b"")).await;
                }
            }
            Frame::Ping(id) if spdy::is_clients_ping(id) => self.send(spdy::ping(id)).await,
            Frame::Ping(_) | Frame::GoAway | Frame::Other => {}
        }
    }

    /// Takes note of an error stream, or begins the connection of a data stream.
    fn open(&mut self, stream: u32, headers: &[(String, String)]) -> Result<(), &'static str> {
        let text = |name: &str| headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str());
        let id = text("requestid").to_owned();
        match text("streamtype") {
            "error" if self.halves.len() >= MAX_HALVES => Err("too many error streams wait for their data streams"),
            "error" => {
                self.halves.insert(id, stream);
                Ok(())
            }
            "data" if self.connections.len() >= MAX_CONNECTIONS => Err("too many connections"),
            "data" => {
                let port: u16 = text("port").parse().map_err(|_| "no port")?;
                let errors = self.halves.remove(&id).ok_or("no error stream")?;
                let (input, far) = tokio::io::duplex(PIPE);
                self.inputs.insert(stream, input);
                let (pod, outgoing) = (self.pod.clone(), self.outgoing.clone());
                let cut = self.connections.spawn(connection(pod, port, stream, errors, far, outgoing));
                self.cuts.insert(stream, (cut, errors));
                Ok(())
            }
            _ => Err("neither error nor data"),
        }
    }
}

/// One connection, from its beginning to the ends of its two streams.
async fn connection(
    pod: Arc<Pod>,
    port: u16,
    stream: u32,
    errors: u32,
    input: DuplexStream,
    outgoing: mpsc::Sender<Bytes>,
) {
    let out = Out { outgoing, to: To::Stream(stream) };
    let complaint = pod.carry(port, input, &out).await.err().unwrap_or_default();
    for last in [spdy::data(stream, true, b""), spdy::data(errors, true, complaint.as_bytes())] {
        // Without a receiver the session is ending anyway.
        let _ = out.outgoing.send(last).await;
    }
}

//! What a session's bytes go over: the messages of a WebSocket, or a connection that was given over to SPDY.
//!
//! Everything that a session sends goes through one queue to [`pump`], which also asks the client now and
//! then whether it is there; so a client that does not read holds back its own session, and nobody else.

use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::{IDLE, PATIENCE, PING, READ_BUFFER, spdy};

/// Pieces of a session on their way to the client, of at most [`CHUNK`] bytes and a head.
pub const PIECES: usize = 16;
/// What is read from a command or a pod at a time.
pub const CHUNK: usize = 32 << 10;

pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What SPDY is spoken on: a connection that has been upgraded.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A client's connection, after both sides have agreed on what is spoken.
pub enum Connection {
    WebSocket(Box<Socket>),
    Spdy(Box<dyn Duplex>),
}

/// The half that sends.
pub enum Sink {
    WebSocket(SplitSink<Socket, Message>),
    Spdy(WriteHalf<Box<dyn Duplex>>),
}

/// The half that receives.
pub enum Source {
    WebSocket(SplitStream<Socket>),
    Spdy(ReadHalf<Box<dyn Duplex>>),
}

impl Connection {
    pub fn split(self) -> (Sink, Source) {
        match self {
            Self::WebSocket(socket) => {
                let (sink, source) = (*socket).split();
                (Sink::WebSocket(sink), Source::WebSocket(source))
            }
            Self::Spdy(stream) => {
                let (source, sink) = tokio::io::split(stream);
                (Sink::Spdy(sink), Source::Spdy(source))
            }
        }
    }
}

fn broken(error: Error) -> io::Error {
    io::Error::other(error)
}

impl Sink {
    async fn send(&mut self, piece: Bytes) -> io::Result<()> {
        match self {
            Self::WebSocket(sink) => sink.send(Message::Binary(piece)).await.map_err(broken),
            Self::Spdy(sink) => sink.write_all(&piece).await,
        }
    }

    async fn ping(&mut self) -> io::Result<()> {
        match self {
            Self::WebSocket(sink) => sink.send(Message::Ping(Bytes::new())).await.map_err(broken),
            Self::Spdy(sink) => sink.write_all(&spdy::ping(spdy::OWN_PING)).await,
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        match self {
            Self::WebSocket(sink) => {
                // Clients take a farewell without a code for a failure.
                let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
                sink.send(Message::Close(Some(normal))).await.map_err(broken)
            }
            Self::Spdy(sink) => sink.shutdown().await,
        }
    }
}

impl Source {
    /// Whether SPDY is spoken on the connection itself.
    pub fn is_spdy(&self) -> bool {
        matches!(self, Self::Spdy(_))
    }

    /// The next bytes of the client; `None` when it has gone. Only those of a WebSocket are noted as
    /// carrying something: of the others, who reads them knows.
    pub async fn next(&mut self, times: &Times) -> Option<Bytes> {
        match self {
            Self::WebSocket(source) => loop {
                let message = source.next().await?.ok()?;
                let carries = matches!(message, Message::Binary(_) | Message::Text(_));
                times.note(carries);
                match message {
                    Message::Close(_) => return None,
                    message if carries => return Some(message.into_data()),
                    _ => {}
                }
            },
            Self::Spdy(source) => {
                let mut buffer = BytesMut::with_capacity(READ_BUFFER);
                match source.read_buf(&mut buffer).await {
                    Ok(1..) => {
                        times.note(false);
                        Some(buffer.freeze())
                    }
                    _ => None,
                }
            }
        }
    }
}

/// Sends what is to be sent until nobody has anything more to send, then closes; or until the client does
/// not take it, or has been silent for too long.
pub async fn pump(mut sink: Sink, mut pieces: mpsc::Receiver<Bytes>, times: &Times) {
    let mut pings = tokio::time::interval(PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let sent = tokio::select! {
            piece = pieces.recv() => match piece {
                Some(piece) => {
                    times.note(true);
                    sink.send(piece).await
                }
                None => break,
            },
            _ = pings.tick() => {
                if times.is_over() {
                    return;
                }
                sink.ping().await
            }
        };
        if sent.is_err() {
            return;
        }
    }
    // The client may have gone already.
    let _ = sink.close().await;
}

/// When a session was last heard of, and when it last carried something.
pub struct Times(Mutex<(Instant, Instant)>);

impl Times {
    pub fn new() -> Self {
        Self(Mutex::new((Instant::now(), Instant::now())))
    }

    pub fn note(&self, carried: bool) {
        let now = Instant::now();
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.0 = now;
        if carried {
            times.1 = now;
        }
    }

    fn is_over(&self) -> bool {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.0.elapsed() > PATIENCE || times.1.elapsed() > IDLE
    }
}

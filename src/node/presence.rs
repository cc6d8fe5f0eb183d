//! The presence stream: one long request whose connection lives as long as this process does.
//!
//! A process that dies closes its connections, which the API server notices at once; a machine that
//! falls silent is noticed by the missing bytes. The stream has a connection of its own, for it is the
//! connection that speaks. When it ends from the other side, the server has gone: it is made anew as
//! soon as the server is back, and then the node says that it is ready.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::heartbeat::Heartbeat;

/// Between two bytes.
const BEAT: Duration = Duration::from_millis(100);
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_CAP: Duration = Duration::from_millis(500);
/// A server that has no presence (another Kubernetes) is asked again only now and then.
const ASK_AGAIN: Duration = Duration::from_secs(300);
/// How long the server may take to answer the last word.
const FAREWELL: Duration = Duration::from_millis(300);
/// How long making the connection may take.
const CONNECT: Duration = Duration::from_secs(2);

/// Keeps the stream up until shutdown.
pub struct Presence {
    pub server: Uri,
    pub node: String,
    pub tls: Arc<rustls::ClientConfig>,
    pub heartbeat: Arc<Heartbeat>,
}

impl Presence {
    pub async fn run(self, shutdown: CancellationToken) {
        let mut retry = RETRY_FIRST;
        while !shutdown.is_cancelled() {
            let stopped = async {
                shutdown.cancelled().await;
                tokio::time::sleep(FAREWELL).await;
            };
            let outcome = tokio::select! {
                outcome = self.stay(&shutdown) => outcome,
                () = stopped => return,
            };
            match outcome {
                Ok(StatusCode::NOT_FOUND) => retry = ASK_AGAIN,
                Ok(_) => retry = RETRY_FIRST,
                Err(error) => {
                    tracing::debug!(%error, "presence interrupted");
                    retry = (retry * 2).min(RETRY_CAP);
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(retry) => {}
            }
        }
    }

    /// One connection, from its making to its end.
    async fn stay(&self, shutdown: &CancellationToken) -> anyhow::Result<StatusCode> {
        let host = self.server.host().context("the server's URL names no host")?;
        let port = self.server.port_u16().unwrap_or(443);
        let connect = async {
            let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
            anyhow::Ok(TlsConnector::from(self.tls.clone()).connect(name, stream).await?)
        };
        let stream = tokio::time::timeout(CONNECT, connect).await??;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::post(format!("/coracle/v1/nodes/{}/presence", self.node))
            .header(http::header::HOST, host)
            .body(Beats::new(shutdown.clone()))?;
        let mut connection = std::pin::pin!(connection);
        let answer = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            // Whatever the server has to say; it says it when the stream ends.
            let _ = answer.into_body().collect().await;
            anyhow::Ok(status)
        };
        self.heartbeat.prompt();
        tokio::select! {
            answer = answer => answer,
            ended = &mut connection => {
                ended?;
                Ok(StatusCode::OK)
            }
        }
    }
}

/// The body: a byte each beat, `bye` at the end.
struct Beats {
    beat: Interval,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    over: bool,
}

impl Beats {
    fn new(shutdown: CancellationToken) -> Beats {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Beats { beat, shutdown: Box::pin(shutdown.cancelled_owned()), over: false }
    }
}

impl Body for Beats {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.shutdown.as_mut().poll(cx).is_ready() {
            self.over = true;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"bye")))));
        }
        self.beat.poll_tick(cx).map(|_| Some(Ok(Frame::data(Bytes::from_static(b".")))))
    }
}

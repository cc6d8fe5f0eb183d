//! One connection between a node and a worker: HTTP/2 over a socket that only the two have.
//!
//! Each side of a worker has two of them, one a direction: the node asks the worker to run things, the
//! worker asks the node for the way out. A connection ends with either process, at once.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::client::conn::http2::{self as client, SendRequest};
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;

use crate::wire::HttpBody;

/// Exchanges at a time: the calls in flight and in line of all containers, and one a container.
const MAX_EXCHANGES: u32 = 32_768;
/// What one exchange may have on its way that nobody has read yet.
const EXCHANGE_WINDOW: u32 = 64 << 10;
/// As much for all of them: an exchange that nobody reads must not hold up the others.
const WINDOW: u32 = (1 << 31) - 1;
/// Exchanges given up by their asker before the other side has seen them. A client beyond it would be
/// cut off for an attack; this one is ourselves, whose callers may all go away at once.
const GIVEN_UP: usize = MAX_EXCHANGES as usize;

/// How often the other side is asked whether it still answers, and how long it may take. A process that
/// does not is as good as gone.
const ASK_PERIOD: Duration = Duration::from_secs(5);
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// The asking end.
#[derive(Clone)]
pub struct Link(SendRequest<HttpBody>);

/// The connection has gone: the other process has.
#[derive(Debug)]
pub struct Lost {
    pub why: String,
    /// What was asked, if it cannot have been heard.
    pub unheard: Option<Box<Request<HttpBody>>>,
}

impl Link {
    pub async fn open(stream: UnixStream) -> io::Result<Self> {
        let (sender, connection) = client::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(EXCHANGE_WINDOW)
            .initial_connection_window_size(WINDOW)
            .initial_max_send_streams(MAX_EXCHANGES as usize)
            .max_concurrent_reset_streams(GIVEN_UP)
            .timer(TokioTimer::new())
            .keep_alive_interval(ASK_PERIOD)
            .keep_alive_timeout(ANSWER_TIME)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a worker's connection ended: {error}");
            }
        });
        Ok(Self(sender))
    }

    pub fn is_lost(&self) -> bool {
        self.0.is_closed()
    }

    /// Asks. The response's body goes on for as long as the exchange does.
    pub async fn ask(&self, request: Request<HttpBody>) -> Result<Response<HttpBody>, Lost> {
        match self.0.clone().try_send_request(request).await {
            Ok(response) => Ok(response.map(|body| body.map_err(Into::into).boxed_unsync())),
            Err(mut error) => {
                let unheard = error.take_message().map(Box::new);
                Err(Lost { why: error.into_error().to_string(), unheard })
            }
        }
    }
}

/// The answering end of a connection.
#[async_trait::async_trait]
pub trait Answers: Send + Sync + 'static {
    async fn answer(&self, request: Request<HttpBody>) -> Response<HttpBody>;
}

/// Answers until the connection ends.
pub async fn serve(stream: UnixStream, answers: Arc<dyn Answers>) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answers = answers.clone();
        async move {
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            Ok::<_, Infallible>(answers.answer(request).await)
        }
    });
    server::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(EXCHANGE_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(MAX_EXCHANGES)
        .max_pending_accept_reset_streams(GIVEN_UP)
        .max_local_error_reset_streams(GIVEN_UP)
        .max_header_list_size(1 << 20)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

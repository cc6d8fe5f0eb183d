//! The guests' way out: `wasi:http/outgoing-handler` handed to the node's [`Outbound`].
//!
//! Names, Services, policies and sockets are the node's business; here a guest's request becomes a
//! call with deadlines, and a failure becomes the one `wasi:http` error that says what happened.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderName, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::engine::Calls;
use crate::wire::{BoxError, CallTimeouts, Caller, HttpBody, Outbound, OutboundError};

/// Deadlines of calls that set none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);
const BETWEEN_BYTES_TIMEOUT: Duration = Duration::from_secs(60);
/// What a guest may ask for at most.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// Chunks of a body that a guest may write ahead of its reader: a small response never waits.
const BODY_BUFFER_CHUNKS: usize = 4;
/// The largest chunk of a body; with the above, what one body may hold in the host.
const BODY_CHUNK_BYTES: usize = 64 << 10;

type SendResult = Result<(Response<WasiBody>, IoFuture), Error>;
type IoFuture = Box<dyn Future<Output = Result<(), Error>> + Send>;

/// The hooks of one instance.
pub struct Hooks {
    pub caller: Arc<Caller>,
    pub outbound: Arc<dyn Outbound>,
    /// What the instance is of.
    pub calls: Calls,
}

impl WasiHttpHooks for Hooks {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    /// Inside a cluster plain HTTP is what is meant.
    fn default_scheme(&mut self) -> Option<Scheme> {
        Some(Scheme::HTTP)
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        BODY_BUFFER_CHUNKS
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: IoFuture,
    ) -> Box<dyn Future<Output = SendResult> + Send> {
        let (caller, outbound, calls) = (self.caller.clone(), self.outbound.clone(), self.calls);
        let timeouts = timeouts(options.unwrap_or_default());
        Box::new(async move {
            let request = request.map(|body| RequestBody(Some(body)).boxed_unsync());
            let sent = async move {
                match calls {
                    Calls::Alone => outbound.send(&caller, request, timeouts).await,
                    Calls::Concurrent => send_apart(outbound, caller, request, timeouts).await,
                }
            };
            let response = tokio::time::timeout(timeouts.connect + timeouts.first_byte, sent)
                .await
                .map_err(|_| Error::HttpResponseTimeout)?
                .map_err(error_code)?;
            let between_bytes = timeouts.between_bytes;
            let response = response.map(|body| IncomingBody { body, between_bytes, deadline: None }.boxed_unsync());
            Ok((response, Box::new(async { Ok(()) }) as IoFuture))
        })
    }
}

/// Sends from a task of its own, which also reads the response: whoever answers may be a guest of this
/// node, run by whoever asks for the answer, and wasmtime runs no guest of WASI 0.3 within the event loop
/// of another.
async fn send_apart(
    outbound: Arc<dyn Outbound>,
    caller: Arc<Caller>,
    request: Request<HttpBody>,
    timeouts: CallTimeouts,
) -> Result<Response<HttpBody>, OutboundError> {
    let (tell, told) = oneshot::channel();
    let task = tokio::spawn(async move {
        let (head, mut body) = match outbound.send(&caller, request, timeouts).await {
            Ok(response) => response.into_parts(),
            Err(error) => {
                let _ = tell.send(Err(error));
                return;
            }
        };
        let (pass, passed) = mpsc::channel(1);
        if tell.send(Ok((head, body.size_hint(), passed))).is_err() {
            return;
        }
        while let Some(frame) = body.frame().await {
            if pass.send(frame).await.is_err() {
                return;
            }
        }
    });
    let task = AbortOnDrop(task.abort_handle());
    let ended = || OutboundError::Failed("the host failed while it made the call".to_owned());
    let (head, size, passed) = told.await.map_err(|_| ended())??;
    Ok(Response::from_parts(head, Passed { passed, size, _task: task }.boxed_unsync()))
}

/// Whoever no longer waits for an answer ends the call.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A response's body as its task passes it on.
struct Passed {
    passed: mpsc::Receiver<Result<Frame<Bytes>, BoxError>>,
    size: SizeHint,
    _task: AbortOnDrop,
}

impl Body for Passed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = self.passed.poll_recv(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            // Of an answer whose length is known less is left; of another nothing was known.
            self.size = self
                .size
                .exact()
                .map_or_else(SizeHint::default, |size| SizeHint::with_exact(size.saturating_sub(bytes)));
        }
        frame
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

fn timeouts(options: RequestOptions) -> CallTimeouts {
    let or = |asked: Option<Duration>, default| asked.unwrap_or(default).min(MAX_TIMEOUT);
    CallTimeouts {
        connect: or(options.connect_timeout, CONNECT_TIMEOUT),
        first_byte: or(options.first_byte_timeout, FIRST_BYTE_TIMEOUT),
        between_bytes: or(options.between_bytes_timeout, BETWEEN_BYTES_TIMEOUT),
    }
}

/// The `wasi:http` error for each way a call fails.
fn error_code(error: OutboundError) -> Error {
    match error {
        OutboundError::UnknownHost(_) => Error::DnsError { rcode: Some("NXDOMAIN".to_owned()), info_code: None },
        OutboundError::Denied(_) => Error::HttpRequestDenied,
        OutboundError::Refused(_) => Error::ConnectionRefused,
        OutboundError::Timeout(_) => Error::HttpResponseTimeout,
        OutboundError::Failed(why) => Error::InternalError(Some(why)),
    }
}

/// A guest's request body. A callee that answers without reading it must not make the guest's own
/// writes fail: on a socket they would end in buffers. So what is left when the callee lets go is read
/// and thrown away.
struct RequestBody(Option<WasiBody>);

/// How much of an unwanted body is thrown away, and for how long; then the guest's writes do fail.
const UNWANTED_BYTES: usize = 1 << 20;
const UNWANTED_TIME: Duration = Duration::from_secs(10);

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx).map_err(|error| Box::new(error) as BoxError);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.0 = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(UNWANTED_TIME, throw_away(body)));
        }
    }
}

async fn throw_away(mut body: WasiBody) {
    let mut left = UNWANTED_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        left = match left.checked_sub(length) {
            Some(left) => left,
            None => return,
        };
    }
}

/// A response's body as a guest reads it: fails when its sender falls silent.
struct IncomingBody {
    body: HttpBody,
    between_bytes: Duration,
    /// Armed while a frame is awaited.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.deadline = None;
            return Poll::Ready(
                frame.map(|frame| frame.map_err(|error| Error::InternalError(Some(error.to_string())))),
            );
        }
        let until = Instant::now() + this.between_bytes;
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        deadline.as_mut().poll(cx).map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_code() {
        let text = || "cart".to_owned();
        let cases = [
            (OutboundError::UnknownHost(text()), "DNS error: rcode NXDOMAIN"),
            (OutboundError::Denied(text()), "HTTP request denied"),
            (OutboundError::Refused(text()), "connection refused"),
            (OutboundError::Timeout(Duration::ZERO), "HTTP response timeout"),
            (OutboundError::Failed(text()), "internal error: cart"),
        ];
        for (error, code) in cases {
            assert_eq!(error_code(error).to_string(), code);
        }
    }

    #[test]
    fn deadlines_are_the_guests_within_bounds() {
        let asked = RequestOptions { connect_timeout: Some(Duration::MAX), ..RequestOptions::default() };
        let timeouts = timeouts(asked);
        assert_eq!(timeouts.connect, MAX_TIMEOUT);
        assert_eq!(timeouts.first_byte, FIRST_BYTE_TIMEOUT);
    }

    #[tokio::test]
    async fn a_body_whose_sender_falls_silent_fails() {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
        let stream = futures::stream::unfold(receiver, |mut receiver| async {
            let bytes = receiver.recv().await?;
            Some((Ok::<_, BoxError>(Frame::data(bytes)), receiver))
        });
        let body = http_body_util::StreamBody::new(stream).boxed_unsync();
        let mut body = IncomingBody { body, between_bytes: Duration::from_millis(5), deadline: None };
        sender.send(Bytes::from_static(b"one")).await.unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        assert!(matches!(body.frame().await, Some(Err(Error::ConnectionReadTimeout))));
    }
}

//! Answering calls by CGI: a program that knows no HTTP, an instance per request.
//!
//! The request is told in the environment and on standard input; what the program prints is the answer
//! ([`super::cgi`]); standard error is the log, as ever. So languages that have WASI 0.1 and nothing
//! more can serve. Bodies are held whole, charged to the container's memory and bounded. A program that
//! fails fails its call alone, as a process of its own would; only memory beyond the limit ends the
//! container, for that limit is the container's.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::AsyncWrite;
use tokio::sync::{OwnedSemaphorePermit, watch};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::super::{Container, ExecCommand, ExecEnd, ExecStreams, InstancePolicy, RunState, Stream, Usage};
use super::cgi::{self, Answer};
use super::command::Script;
use super::exec;
use super::guest::{CallIo, Io, Surroundings};
use super::http::{RETRY_AFTER, undelivered};
use super::life::{Ending, Life, NotAdmitted, Verdict};
use super::limits::{Limiter, OutOfMemory};
use super::run::{Guarded, Halt};
use crate::wire::{CallError, HttpBody, HttpService};

/// The largest request body; more is answered with 413.
const MAX_BODY_BYTES: usize = 8 << 20;
/// The most a program may print for one answer.
const MAX_OUTPUT_BYTES: usize = 32 << 20;
/// Local redirects that one request may take: a loop must end.
const MAX_LOCAL_REDIRECTS: usize = 5;
/// Bytes a program may print at a time.
const WRITE_PERMIT: usize = 64 << 10;

/// A program that answers by CGI, in its one life.
#[derive(Clone)]
pub struct WagiContainer(Arc<Server>);

struct Server {
    life: Arc<Life>,
    script: Script,
    surroundings: Arc<Surroundings>,
    policy: InstancePolicy,
}

impl WagiContainer {
    pub fn new(life: Arc<Life>, script: Script, surroundings: Arc<Surroundings>, policy: InstancePolicy) -> Self {
        Self(Arc::new(Server { life, script, surroundings, policy }))
    }
}

#[async_trait::async_trait]
impl Container for WagiContainer {
    fn state(&self) -> watch::Receiver<RunState> {
        self.0.life.state()
    }

    fn http(&self) -> Option<Arc<dyn HttpService>> {
        Some(Arc::new(self.clone()))
    }

    async fn stop(&self, grace: Duration) {
        self.0.life.end_calls(grace).await;
    }

    fn usage(&self) -> Usage {
        self.0.life.usage()
    }

    async fn exec(&self, command: ExecCommand, streams: ExecStreams) -> Result<ExecEnd, String> {
        exec::run(&self.0.life, &self.0.surroundings, Some(&self.0.script), command, streams).await
    }
}

#[async_trait::async_trait]
impl HttpService for WagiContainer {
    async fn call(&self, request: Request<HttpBody>) -> Result<Response<HttpBody>, CallError> {
        let server = &self.0;
        let policy = server.policy;
        let _ticket = match server.life.admit(policy.max_queued, policy.request_timeout).await {
            Ok(ticket) => ticket,
            Err(NotAdmitted::Closed) => return Err(undelivered("the container has ended", Box::new(request))),
            Err(NotAdmitted::Full) => return Err(CallError::Overloaded { retry_after: RETRY_AFTER }),
        };
        let timeout = policy.request_timeout;
        let line = format!("{} {}", request.method(), request.uri().path());
        match tokio::time::timeout(timeout, server.answer(request, &line)).await {
            Ok(answer) => answer,
            Err(_) => {
                server.note(&line, &format!("no answer within {timeout:?}"));
                Err(CallError::Timeout(timeout))
            }
        }
    }
}

/// How one run of the program ended.
enum Ran {
    /// Well; what it printed is its answer.
    Printed(Bytes),
    /// Badly: why.
    Failed(String),
}

impl Server {
    async fn answer(self: &Arc<Self>, request: Request<HttpBody>, line: &str) -> Result<Response<HttpBody>, CallError> {
        let (mut head, body) = request.into_parts();
        let mut held = self.surroundings.limiter();
        let mut body = match collect(body, &mut held).await {
            Ok(body) => body,
            Err(status) => return Ok(plain(status)),
        };
        for _ in 0..=MAX_LOCAL_REDIRECTS {
            let Some(slot) = self.life.host.place_soon().await else {
                return Err(CallError::Overloaded { retry_after: RETRY_AFTER });
            };
            let output = match self.run(slot, &head, body).await? {
                Ran::Printed(output) => output,
                Ran::Failed(why) => {
                    self.note(line, &why);
                    return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR));
                }
            };
            match cgi::parse(output) {
                Ok(Answer::Response(response)) => return Ok(response.map(whole)),
                Ok(Answer::Elsewhere(path)) => head = cgi::redirected(head, path),
                Err(why) => {
                    self.note(line, &format!("what it printed is no answer: {why}"));
                    return Ok(plain(StatusCode::BAD_GATEWAY));
                }
            }
            body = Bytes::new();
        }
        self.note(line, &format!("more than {MAX_LOCAL_REDIRECTS} local redirects"));
        Ok(plain(StatusCode::BAD_GATEWAY))
    }

    /// Runs the program once, on an instance of its own.
    async fn run(self: &Arc<Self>, slot: OwnedSemaphorePermit, head: &Parts, body: Bytes) -> Result<Ran, CallError> {
        let stdout = Captured::new(self.surroundings.limiter());
        let io = CallIo { env: cgi::variables(head, body.len()), stdin: body, stdout: stdout.clone() };
        let server = self.clone();
        let guest = async move {
            let _occupied = server.life.count_instance(slot);
            server.script.clone().run(&server.life, &server.surroundings, Io::Call(io)).await
        };
        let ending = match Guarded::new(self.life.clone(), guest).await {
            Ok(Ok(ending)) => ending,
            Ok(Err(error)) => match Verdict::of(&error) {
                Verdict::End(ending) if error.is::<OutOfMemory>() => {
                    self.life.end(ending.clone());
                    return Err(CallError::Failed(ending.message));
                }
                Verdict::End(ending) => ending,
                Verdict::NoRoom(_) => return Err(CallError::Overloaded { retry_after: RETRY_AFTER }),
            },
            Err(Halt::Killed) => {
                return Err(CallError::Failed("interrupted: the container was stopped".to_owned()));
            }
            Err(Halt::Panicked(what)) => {
                let ending = Ending::host_panic(&what);
                self.life.end(ending.clone());
                return Err(CallError::Failed(ending.message));
            }
        };
        Ok(match (ending.code, ending.message.is_empty()) {
            (0, _) => Ran::Printed(stdout.take()),
            (code, true) => Ran::Failed(format!("it ended with exit code {code}")),
            (_, false) => Ran::Failed(ending.message),
        })
    }

    /// A line in the container's log.
    fn note(&self, request: &str, why: &str) {
        self.surroundings.log(Stream::Stderr, &format!("wagi: {request}: {why}\n"));
    }
}

/// A request's body, whole, or the status that refuses it.
async fn collect(mut body: HttpBody, held: &mut Limiter) -> Result<Bytes, StatusCode> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
        let Some(data) = frame.data_ref() else { continue };
        let fits = bytes.len() + data.len() <= MAX_BODY_BYTES && held.charge(data.len() as u64).is_ok();
        if !fits {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes.into())
}

fn whole(body: Bytes) -> HttpBody {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

fn plain(status: StatusCode) -> Response<HttpBody> {
    let text = format!("{} {}\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let mut response = Response::new(whole(text.into()));
    *response.status_mut() = status;
    response
}

/// What a program prints, held until it has ended.
#[derive(Clone)]
pub struct Captured(Arc<Mutex<Capture>>);

struct Capture {
    bytes: Vec<u8>,
    held: Limiter,
}

impl Captured {
    fn new(held: Limiter) -> Self {
        Self(Arc::new(Mutex::new(Capture { bytes: Vec::new(), held })))
    }

    fn push(&self, bytes: &[u8]) -> wasmtime::Result<()> {
        let mut capture = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if capture.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(wasmtime::format_err!("it printed more than {MAX_OUTPUT_BYTES} bytes"));
        }
        capture.held.charge(bytes.len() as u64)?;
        capture.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn take(&self) -> Bytes {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes).into()
    }
}

impl IsTerminal for Captured {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Captured {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Captured {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.push(bytes).map(|()| bytes.len()).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait::async_trait]
impl Pollable for Captured {
    async fn ready(&mut self) {}
}

impl OutputStream for Captured {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes).map_err(StreamError::Trap)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_PERMIT)
    }
}

//! A worker's side: the ordinary host, run for a node that asks through a socket.
//!
//! It has no files but those that its pods mount, no environment, no way to gain rights, and ends with
//! the socket. What it is told it believes: the compiled code comes from the node.

use std::collections::VecDeque;
use std::fmt::Display;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use dashmap::DashMap;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, watch};

use super::super::wasm::{Compiled, WasmConfig, WasmRuntime};
use super::super::{
    Container, ContainerSpec, ExecCommand, ExecStreams, Image, Isolation, LinuxContainer, LinuxSandbox, Output, Reader,
    RunState, Runtime as _, Sandbox, SandboxSpec, StartError, Stream, Usage,
};
use super::calls::{about, answered, call_failed, failed, full, unpack, whole};
use super::frames::{self, CHUNK_BYTES, Channel, Frame, Incoming};
use super::link::{self, Answers, Link};
use super::outside::ThroughNode;
use super::process::KEPT_IMAGES;
use super::protocol::{Begin, Exec, Executed, ImageAbout, LifeId, PodAbout, Refusal, State, Stop, Told, worker};
use crate::wire::{CallError, HttpBody};

/// Instances of all the worker's containers that may live at a time.
const MAX_INSTANCES: u32 = 1024;
/// Compiled code of one image: the compiler makes no more.
const MAX_CODE_BYTES: usize = 1 << 30;
/// How often what a container has used is told, if it has changed.
const TELL_PERIOD: Duration = Duration::from_millis(250);
/// How long calls that outlive their container are still counted.
const AFTERMATH: Duration = Duration::from_secs(10);
/// Output of a container that the node has not taken yet; more is dropped, and told.
const SPOOL_BYTES: usize = 1 << 20;
/// What a stream of a command may hold that the other side has not taken.
const PIPE_BYTES: usize = 64 << 10;

/// The whole of a worker's life: until its node closes the socket, which is its standard input.
///
/// # Errors
/// What keeps it from beginning.
pub async fn run() -> anyhow::Result<()> {
    confine().context("cannot give up rights")?;
    let asked = socket(std::io::stdin().as_fd()).context("standard input is not a node's socket")?;
    let asks = socket(std::io::stdout().as_fd()).context("standard output is not a node's socket")?;
    let config = WasmConfig { max_instances: Some(MAX_INSTANCES), ..WasmConfig::default() };
    let host = Host {
        runtime: WasmRuntime::new(config)?,
        node: Link::open(asks).await?,
        images: Mutex::default(),
        pods: DashMap::new(),
        lives: Arc::default(),
    };
    // However the connection ends, there is nobody left to work for.
    let _ = link::serve(asked, Arc::new(host)).await;
    Ok(())
}

fn socket(fd: std::os::fd::BorrowedFd<'_>) -> anyhow::Result<UnixStream> {
    let stream = StdUnixStream::from(fd.try_clone_to_owned()?);
    stream.set_nonblocking(true)?;
    Ok(UnixStream::from_std(stream)?)
}

/// No right can be gained by any program that it might be made to run, and no core file tells of guests.
fn confine() -> std::io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

struct Host {
    runtime: WasmRuntime,
    node: Link,
    /// The latest last.
    images: Mutex<VecDeque<Arc<dyn Image>>>,
    /// By uid.
    pods: DashMap<String, Arc<dyn Sandbox>>,
    lives: Lives,
}

type Lives = Arc<DashMap<LifeId, Arc<dyn Container>>>;

fn refuse(why: impl Display) -> Response<HttpBody> {
    failed("failed", None, &why.to_string())
}

#[async_trait::async_trait]
impl Answers for Host {
    async fn answer(&self, request: Request<HttpBody>) -> Response<HttpBody> {
        let path = request.uri().path().to_owned();
        let answered = match path.as_str() {
            worker::CALL => self.call(request).await,
            worker::IMAGE => self.image(request).await,
            worker::POD => {
                let (head, _) = request.into_parts();
                self.pod(&head.headers).await
            }
            worker::FORGET => self.forget(request.headers()),
            worker::START => self.start(request).await,
            worker::STOP => {
                let (head, _) = request.into_parts();
                self.stop(&head.headers).await
            }
            worker::EXEC => self.exec(request),
            _ => Err(format!("nothing is at {path}")),
        };
        answered.unwrap_or_else(refuse)
    }
}

type Answer = Result<Response<HttpBody>, String>;

impl Host {
    async fn call(&self, request: Request<HttpBody>) -> Answer {
        let life = about(request.headers())?;
        let http = self.lives.get(&life).and_then(|container| container.http());
        let Some(http) = http else { return Ok(failed("undelivered", None, "the container has ended")) };
        match http.call(unpack(request)?).await {
            Ok(response) => Ok(answered(response)),
            Err(error) => {
                // Dropped before it is told: what is left of the body goes back to the node.
                let told = call_failed(&error);
                if let CallError::Undelivered { request, .. } = error {
                    drop(request);
                }
                Ok(told)
            }
        }
    }

    async fn image(&self, request: Request<HttpBody>) -> Answer {
        let ImageAbout { name, form } = about(request.headers())?;
        let code = whole(request.into_body(), MAX_CODE_BYTES).await?;
        let image = self.runtime.adopt("the pod's image", &name, &Compiled { form, code }).await;
        let image = image.map_err(|error| error.to_string())?;
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.push_back(image);
        if images.len() > KEPT_IMAGES {
            images.pop_front();
        }
        Ok(Response::new(full("")))
    }

    async fn pod(&self, headers: &HeaderMap) -> Answer {
        let PodAbout { uid, namespace, name, hostname, ip, memory_limit, cpu_limit_millis } = about(headers)?;
        let outbound = Arc::new(ThroughNode { pod: uid.clone(), node: self.node.clone() });
        let spec = SandboxSpec {
            uid: uid.clone(),
            namespace,
            name,
            hostname,
            ip,
            memory_limit,
            cpu_limit_millis,
            isolation: Isolation::Shared,
            outbound,
            linux: LinuxSandbox::default(),
        };
        let sandbox = self.runtime.sandbox(spec).await.map_err(|error| error.to_string())?;
        self.pods.insert(uid, sandbox);
        Ok(Response::new(full("")))
    }

    fn forget(&self, headers: &HeaderMap) -> Answer {
        let uid: String = about(headers)?;
        self.pods.remove(&uid);
        Ok(Response::new(full("")))
    }

    async fn start(&self, request: Request<HttpBody>) -> Answer {
        let mut heard = Incoming::new(request.into_body());
        let Some(Frame::Say(begin)) = heard.next::<Begin>().await? else {
            return Err("no container was named".to_owned());
        };
        let life = begin.life;
        let (tell, body) = frames::outgoing();
        let input = begin.input.then(|| {
            let (reader, writer) = tokio::io::duplex(PIPE_BYTES);
            tokio::spawn(pour(heard, writer));
            Box::new(reader) as Reader
        });
        let spool = Arc::new(Spool::new(input));
        let started = match self.begin(begin, spool.clone()).await {
            Ok(container) => {
                let state = State::from(&*container.state().borrow());
                self.lives.insert(life, container.clone());
                tokio::spawn(account(self.lives.clone(), life, container.clone(), spool, tell));
                Told::Started { http: container.http().is_some(), state }
            }
            Err(error) => Told::Refused(Refusal::from(error)),
        };
        // What it has said since it began comes behind this.
        let first = futures::stream::once(async move { Ok(http_body::Frame::data(frames::message(&started))) });
        let rest = http_body_util::BodyStream::new(body);
        let body = http_body_util::StreamBody::new(futures::StreamExt::chain(first, rest));
        Ok(Response::new(BodyExt::boxed_unsync(body)))
    }

    async fn begin(&self, begin: Begin, output: Arc<dyn Output>) -> Result<Arc<dyn Container>, StartError> {
        let unknown = |what: &str| StartError::Other(format!("the worker process was not told of the {what}"));
        let known = |name: &str| {
            let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
            images.iter().find(|image| image.digest() == name).cloned()
        };
        let image = known(&begin.image).ok_or_else(|| unknown("image"))?;
        let sandbox = self.pods.get(&begin.pod).map(|sandbox| sandbox.clone()).ok_or_else(|| unknown("pod"))?;
        let spec = ContainerSpec {
            name: begin.name,
            image,
            args: begin.args,
            env: begin.env,
            mounts: begin.mounts,
            deferred: None,
            memory_limit: begin.memory_limit,
            cpu_limit_millis: begin.cpu_limit_millis,
            cpu_request_millis: begin.cpu_request_millis,
            output,
            grants: begin.grants,
            instances: begin.instances,
            run: 0,
            linux: LinuxContainer { tty: begin.terminal, ..LinuxContainer::default() },
            target: None,
        };
        sandbox.start(&spec).await
    }

    async fn stop(&self, headers: &HeaderMap) -> Answer {
        let Stop { life, grace } = about(headers)?;
        let container = self.lives.get(&life).map(|container| container.clone());
        if let Some(container) = container {
            container.stop(grace).await;
        }
        Ok(Response::new(full("")))
    }

    fn exec(&self, request: Request<HttpBody>) -> Answer {
        let Exec { life, args, program_names, terminal } = about(request.headers())?;
        let container = self.lives.get(&life).map(|container| container.clone());
        let container = container.ok_or("the container has ended")?;
        let (tell, body) = frames::outgoing();
        let pipe = || tokio::io::duplex(PIPE_BYTES);
        let ((stdin, input), (stdout, out), (stderr, err)) = (pipe(), pipe(), pipe());
        tokio::spawn(pour(Incoming::new(request.into_body()), input));
        let terminal = terminal.map(|size| watch::channel(size).1);
        let (stdin, stdout, stderr) = (Box::new(stdin), Box::new(stdout), Box::new(stderr));
        let streams = ExecStreams { stdin, stdout, stderr, terminal };
        tokio::spawn(async move {
            let work = async {
                let run = container.exec(ExecCommand { args, program_names }, streams);
                let (end, (), ()) = tokio::join!(
                    run,
                    draw(out, Channel::Output(Stream::Stdout), &tell),
                    draw(err, Channel::Output(Stream::Stderr), &tell)
                );
                let _ = tell.send(frames::message(&Executed(end.map(|end| (end.code, end.message))))).await;
            };
            tokio::select! { () = work => (), () = tell.closed() => () }
        });
        Ok(Response::new(body))
    }
}

/// Writes the input that comes by an exchange, to its end.
async fn pour(mut heard: Incoming, mut to: DuplexStream) {
    while let Ok(Some(frame)) = heard.next::<()>().await {
        match frame {
            Frame::Bytes(Channel::Input, bytes) if bytes.is_empty() => return,
            Frame::Bytes(Channel::Input, bytes) => {
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Frame::Bytes(Channel::Output(_), _) | Frame::Say(()) => {}
        }
    }
}

/// Sends what a command says, as fast as the node takes it.
async fn draw(mut from: DuplexStream, channel: Channel, tell: &mpsc::Sender<Bytes>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if tell.send(frames::bytes(channel, &buffer[..count])).await.is_err() {
            return;
        }
    }
}

/// Tells what a container says, what it uses and how it ends.
async fn account(
    lives: Lives,
    life: LifeId,
    container: Arc<dyn Container>,
    spool: Arc<Spool>,
    tell: mpsc::Sender<Bytes>,
) {
    let work = async {
        let mut state = container.state();
        let mut ticks = tokio::time::interval(TELL_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = None;
        let ended = loop {
            spool.drain(&tell).await;
            tell_usage(&*container, &mut told, &tell).await;
            tokio::select! {
                () = spool.filled.notified() => {}
                _ = ticks.tick() => {}
                ended = state.wait_for(|state| matches!(state, RunState::Exited(_))) => {
                    break ended.ok().map(|state| State::from(&*state));
                }
            }
        };
        spool.drain(&tell).await;
        tell_usage(&*container, &mut told, &tell).await;
        if let Some(ended) = ended {
            let _ = tell.send(frames::message(&Told::Exited(ended))).await;
        }
        lives.remove(&life);
        // The end of a life is seen before the last of its calls is over.
        let over = tokio::time::Instant::now() + AFTERMATH;
        while container.usage().instances > 0 && tokio::time::Instant::now() < over {
            ticks.tick().await;
            spool.drain(&tell).await;
            tell_usage(&*container, &mut told, &tell).await;
        }
    };
    // The node may let go of it before.
    tokio::select! { () = work => (), () = tell.closed() => () }
    lives.remove(&life);
}

async fn tell_usage(container: &dyn Container, told: &mut Option<Usage>, tell: &mpsc::Sender<Bytes>) {
    let usage = container.usage();
    if *told != Some(usage) {
        *told = Some(usage);
        let _ = tell.send(frames::message(&Told::Usage(usage))).await;
    }
}

/// A container's output, on its way to the node.
struct Spool {
    waiting: Mutex<Waiting>,
    filled: Notify,
    input: Mutex<Option<Reader>>,
}

#[derive(Default)]
struct Waiting {
    parts: Vec<(Stream, BytesMut)>,
    bytes: usize,
    /// What did not fit.
    dropped: usize,
}

impl Spool {
    fn new(input: Option<Reader>) -> Self {
        Self { waiting: Mutex::default(), filled: Notify::new(), input: Mutex::new(input) }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what waits, as fast as the node takes it.
    async fn drain(&self, tell: &mpsc::Sender<Bytes>) {
        loop {
            let Waiting { parts, dropped, .. } = std::mem::take(&mut *self.waiting());
            if parts.is_empty() && dropped == 0 {
                return;
            }
            for (stream, bytes) in parts {
                for chunk in bytes.chunks(CHUNK_BYTES) {
                    let _ = tell.send(frames::bytes(Channel::Output(stream), chunk)).await;
                }
            }
            if dropped > 0 {
                let words = format!("[coracle: {dropped} bytes of output were dropped here, which came too fast]\n");
                let _ = tell.send(frames::bytes(Channel::Output(Stream::Stderr), words.as_bytes())).await;
            }
        }
    }
}

impl Output for Spool {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.bytes + bytes.len() > SPOOL_BYTES {
            waiting.dropped += bytes.len();
            return;
        }
        waiting.bytes += bytes.len();
        match waiting.parts.last_mut() {
            Some((last, part)) if *last == stream => part.extend_from_slice(bytes),
            _ => waiting.parts.push((stream, BytesMut::from(bytes))),
        }
        drop(waiting);
        self.filled.notify_one();
    }

    fn input(&self) -> Option<Reader> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

//! Pods whose containers live in a worker, as the node's agent sees them: like any other.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};

use super::super::wasm::{Compiled, WasmRuntime};
use super::super::{
    Container, ContainerSpec, ExecCommand, ExecEnd, ExecStreams, Exit, Output, Reader, RunState, Sandbox, SandboxSpec,
    StartError, Stream, Usage,
};
use super::calls::{call_error, exchange, full, outcome, pack};
use super::frames::{self, CHUNK_BYTES, Channel, Frame, Incoming};
use super::process::{KEPT_IMAGES, Worker};
use super::protocol::{Begin, Exec, Executed, ImageAbout, LifeId, PodAbout, Stop, Told, worker};
use super::{Key, Workers};
use crate::wire::replay::Tape;
use crate::wire::{CallError, Caller, HttpBody, HttpService};

/// A pod in a worker.
pub struct IsolatedSandbox {
    workers: Arc<Workers>,
    key: Key,
    spec: SandboxSpec,
    /// Where it ran last; another takes its place when that one has gone.
    worker: Mutex<Option<Arc<Worker>>>,
}

impl IsolatedSandbox {
    pub fn new(workers: Arc<Workers>, key: Key, spec: SandboxSpec) -> Self {
        Self { workers, key, spec, worker: Mutex::default() }
    }

    fn present(&self) -> std::sync::MutexGuard<'_, Option<Arc<Worker>>> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker that knows the pod and the image.
    async fn ready(&self, spec: &ContainerSpec) -> Result<Arc<Worker>, StartError> {
        let worker = self.workers.of(&self.key).await?;
        *self.present() = Some(worker.clone());
        let mut known = worker.known.lock().await;
        let (uid, name) = (&self.spec.uid, WasmRuntime::name_of(&*spec.image)?);
        if !known.pods.contains(uid) {
            let SandboxSpec { namespace, name, ip, outbound, .. } = &self.spec;
            let caller = Caller { namespace: namespace.as_str().into(), pod: name.as_str().into(), ip: *ip };
            worker.ways_out.add(uid, caller, outbound.clone());
            tell(&worker, exchange(worker::POD, &PodAbout::from(&self.spec), full(""))).await?;
            known.pods.insert(uid.clone());
        }
        if !known.images.iter().any(|known| known == name) {
            let Compiled { form, code } = WasmRuntime::compiled(&*spec.image)?;
            tell(&worker, exchange(worker::IMAGE, &ImageAbout { name: name.to_owned(), form }, full(code))).await?;
            known.images.push_back(name.to_owned());
            if known.images.len() > KEPT_IMAGES {
                known.images.pop_front();
            }
        }
        drop(known);
        Ok(worker)
    }
}

/// Tells a worker something; the error is a container's that cannot start without.
async fn tell(worker: &Worker, request: Request<HttpBody>) -> Result<Response<HttpBody>, StartError> {
    match worker.link.ask(request).await {
        Ok(response) => outcome(response).await.map_err(|failure| StartError::Other(failure.words)),
        Err(_) => Err(StartError::Other(format!("the pod's worker process {}", worker.ended().await.how))),
    }
}

#[async_trait::async_trait]
impl Sandbox for IsolatedSandbox {
    async fn start(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, StartError> {
        // Another process cannot ask for them later.
        spec.mounted().await?;
        let worker = self.ready(spec).await?;
        let life = worker.next_life();
        let input = spec.output.input();
        let begin = Begin {
            life,
            pod: self.spec.uid.clone(),
            name: spec.name.clone(),
            image: WasmRuntime::name_of(&*spec.image)?.to_owned(),
            args: spec.args.clone(),
            env: spec.env.clone(),
            mounts: spec.mounts.clone(),
            memory_limit: spec.memory_limit,
            cpu_limit_millis: spec.cpu_limit_millis,
            cpu_request_millis: spec.cpu_request_millis,
            input: input.is_some(),
            terminal: spec.linux.tty,
            grants: spec.grants.clone(),
            instances: spec.instances,
        };
        let (sender, body) = frames::outgoing();
        let _ = sender.send(frames::message(&begin)).await;
        if let Some(input) = input {
            tokio::spawn(feed(input, sender));
        }
        let response = tell(&worker, exchange(worker::START, &life, body)).await?;
        let mut told = Incoming::new(response.into_body());
        match told.next::<Told>().await {
            Ok(Some(Frame::Say(Told::Started { http, state }))) => {
                let container = Arc::new(Remote {
                    life,
                    http,
                    state: watch::Sender::new(RunState::from(state)),
                    usage: Mutex::default(),
                    worker,
                });
                tokio::spawn(follow(container.clone(), told, spec.output.clone()));
                Ok(Arc::new(IsolatedContainer(container)))
            }
            Ok(Some(Frame::Say(Told::Refused(refusal)))) => Err(refusal.into()),
            Ok(other) => Err(StartError::Other(format!("the worker process answered {other:?}"))),
            Err(_) => Err(StartError::Other(format!("the pod's worker process {}", worker.ended().await.how))),
        }
    }
}

impl Drop for IsolatedSandbox {
    fn drop(&mut self) {
        let Some(worker) = self.present().take() else { return };
        let uid = self.spec.uid.clone();
        worker.ways_out.remove(&uid);
        // Whoever has the last pod ends the process; otherwise the others go on without this one.
        let Ok(tokio) = tokio::runtime::Handle::try_current() else { return };
        tokio.spawn(async move {
            worker.known.lock().await.pods.remove(&uid);
            let _ = worker.link.ask(exchange(worker::FORGET, &uid, full(""))).await;
        });
    }
}

/// A container in its one life. The worker is held by it: a process does not end before its containers.
struct Remote {
    life: LifeId,
    http: bool,
    state: watch::Sender<RunState>,
    usage: Mutex<Usage>,
    worker: Arc<Worker>,
}

impl Remote {
    /// Ends it, unless it has ended.
    fn end(&self, state: RunState) {
        self.state.send_if_modified(|present| {
            let changes = matches!(present, RunState::Running { .. });
            if changes {
                *present = state;
            }
            changes
        });
    }

    /// The process is gone, and whatever ran in it.
    async fn lost(&self) {
        let ended = self.worker.ended().await;
        // One that only hangs must not come back to life.
        self.worker.end();
        let started_at = match &*self.state.borrow() {
            RunState::Running { started_at } => *started_at,
            RunState::Exited(_) => return,
        };
        let message = format!("the container's worker process {}", ended.how);
        self.usage.lock().unwrap_or_else(PoisonError::into_inner).memory_bytes = 0;
        let finished_at = SystemTime::now();
        self.end(RunState::Exited(Exit { code: ended.code, reason: "Error", message, started_at, finished_at }));
    }
}

/// Does what the worker tells of a life, to its end.
async fn follow(remote: Arc<Remote>, mut told: Incoming, output: Arc<dyn Output>) {
    loop {
        match told.next::<Told>().await {
            Ok(Some(Frame::Bytes(Channel::Output(stream), bytes))) => output.write(stream, &bytes),
            Ok(Some(Frame::Say(Told::Usage(usage)))) => {
                *remote.usage.lock().unwrap_or_else(PoisonError::into_inner) = usage;
            }
            Ok(Some(Frame::Say(Told::Exited(state)))) => remote.end(state.into()),
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(why) => {
                tracing::debug!(life = remote.life.0, "a worker's account of a container ended: {why}");
                break;
            }
        }
    }
    remote.lost().await;
}

/// Passes input on until either side ends.
async fn feed(mut input: Reader, to: mpsc::Sender<bytes::Bytes>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let count = input.read(&mut buffer).await.unwrap_or(0);
        let sent = to.send(frames::bytes(Channel::Input, &buffer[..count])).await;
        if count == 0 || sent.is_err() {
            return;
        }
    }
}

/// What the agent and the router hold.
#[derive(Clone)]
struct IsolatedContainer(Arc<Remote>);

#[async_trait::async_trait]
impl Container for IsolatedContainer {
    fn state(&self) -> watch::Receiver<RunState> {
        self.0.state.subscribe()
    }

    fn http(&self) -> Option<Arc<dyn HttpService>> {
        let service: Arc<dyn HttpService> = Arc::new(self.clone());
        self.0.http.then_some(service)
    }

    async fn stop(&self, grace: Duration) {
        let stop = Stop { life: self.0.life, grace };
        let asked = self.0.worker.link.ask(exchange(worker::STOP, &stop, full(""))).await;
        if let Err(lost) = asked {
            tracing::debug!("a container whose worker has gone needs no stopping: {}", lost.why);
        }
        let mut state = self.0.state.subscribe();
        let _ = state.wait_for(|state| matches!(state, RunState::Exited(_))).await;
    }

    fn usage(&self) -> Usage {
        *self.0.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn exec(&self, command: ExecCommand, mut streams: ExecStreams) -> Result<ExecEnd, String> {
        let ExecCommand { args, program_names } = command;
        let terminal = streams.terminal_size().await;
        let about = Exec { life: self.0.life, args, program_names, terminal };
        let (input, body) = frames::outgoing();
        let gone = || async { format!("the container's worker process {}", self.0.worker.ended().await.how) };
        let response = match self.0.worker.link.ask(exchange(worker::EXEC, &about, body)).await {
            Ok(response) => response,
            Err(_) => return Err(gone().await),
        };
        let response = outcome(response).await.map_err(|failure| failure.words)?;
        let ExecStreams { stdin, mut stdout, mut stderr, .. } = streams;
        let feeding = tokio::spawn(feed(stdin, input));
        // Whoever no longer waits for the command ends it by letting go of the exchange.
        let _feeding = AbortOnDrop(feeding);
        let mut told = Incoming::new(response.into_body());
        loop {
            match told.next::<Executed>().await {
                Ok(Some(Frame::Bytes(Channel::Output(stream), bytes))) => {
                    let to = if stream == Stream::Stdout { &mut stdout } else { &mut stderr };
                    // A client that has closed one stream may still want the other.
                    let _ = to.write_all(&bytes).await;
                    let _ = to.flush().await;
                }
                Ok(Some(Frame::Bytes(Channel::Input, _))) => {}
                Ok(Some(Frame::Say(Executed(end)))) => return end.map(|(code, message)| ExecEnd { code, message }),
                Ok(None) | Err(_) => return Err(gone().await),
            }
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[async_trait::async_trait]
impl HttpService for IsolatedContainer {
    async fn call(&self, request: Request<HttpBody>) -> Result<Response<HttpBody>, CallError> {
        let remote = &self.0;
        let (head, body) = request.into_parts();
        let tape = Tape::new(body);
        let lent = Request::from_parts(head.clone(), HttpBody::new(tape.lend()));
        let asked = remote.worker.link.ask(pack(worker::CALL, &remote.life, lent)).await;
        let whole = || tape.rewind().map(|body| Box::new(Request::from_parts(head, body)));
        match asked {
            Ok(response) => match outcome(response).await {
                Ok(response) => Ok(response),
                // Only what no guest has seen is handed back.
                Err(failure) if failure.kind == "undelivered" => Err(call_error(failure, whole())),
                Err(failure) => Err(call_error(failure, None)),
            },
            Err(lost) => match lost.unheard.and_then(|_| whole()) {
                Some(request) => {
                    Err(CallError::Undelivered { reason: "the worker process has ended".to_owned(), request })
                }
                None => Err(CallError::Failed(format!("the worker process ended during the call: {}", lost.why))),
            },
        }
    }
}

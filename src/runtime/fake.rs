//! A runtime whose containers do what a test tells them: how they start, answer and end.
//!
//! It runs nothing, so tests of the node agent can make a container trap, hang or run out of memory at
//! the very moment they choose. Every container that was started stays reachable through
//! [`FakeRuntime::containers`], in order, with its specification.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::watch;

use super::{
    Container, ContainerSpec, Exit, Image, ImageError, ImageSource, RunState, Runtime, Sandbox, SandboxSpec,
    StartError, Usage,
};
use crate::wire::{CallError, HttpBody, HttpService};

/// What happens when a container starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Runs until it is stopped or a test ends it; answers HTTP calls with this text.
    Serve(String),
    /// Runs until it is stopped or a test ends it; has no HTTP handler.
    Run,
    /// Has ended as soon as it started.
    ExitAtOnce { code: i32, reason: &'static str, message: String },
    /// Does not start.
    FailToStart(String),
    /// The image cannot be made ready.
    BadImage(String),
}

type Script = dyn Fn(&str) -> Behaviour + Send + Sync;

/// A [`Runtime`] for tests. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct FakeRuntime {
    script: Arc<Script>,
    containers: Arc<Mutex<Vec<Arc<FakeContainer>>>>,
    reclaimed: Arc<AtomicBool>,
}

impl FakeRuntime {
    /// `script` says, by image reference, how a container of that image behaves. It is asked at each
    /// start, so it may answer differently the second time.
    pub fn new(script: impl Fn(&str) -> Behaviour + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), containers: Arc::default(), reclaimed: Arc::default() }
    }

    /// Whether it was asked to give up what it keeps on disk.
    pub fn reclaimed(&self) -> bool {
        self.reclaimed.load(Ordering::SeqCst)
    }

    /// Every container serves `ok`.
    pub fn serving() -> Self {
        Self::new(|_| Behaviour::Serve("ok".to_owned()))
    }

    /// All containers started so far, in order; ended ones too.
    pub fn containers(&self) -> Vec<Arc<FakeContainer>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The latest container started for this pod and container name.
    pub fn latest(&self, pod: &str, container: &str) -> Option<Arc<FakeContainer>> {
        self.containers().into_iter().rev().find(|c| c.pod == pod && c.name == container)
    }
}

struct FakeImage {
    reference: String,
    digest: String,
}

impl Image for FakeImage {
    fn digest(&self) -> &str {
        &self.digest
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[async_trait::async_trait]
impl Runtime for FakeRuntime {
    fn name(&self) -> &'static str {
        "wasm"
    }

    fn version(&self) -> String {
        "fake://1".to_owned()
    }

    async fn prepare(&self, source: &ImageSource) -> Result<Arc<dyn Image>, ImageError> {
        match (self.script)(&source.reference) {
            Behaviour::BadImage(why) => Err(ImageError::Invalid(why)),
            _ => Ok(Arc::new(FakeImage { reference: source.reference.clone(), digest: source.digest.clone() })),
        }
    }

    async fn reclaim(&self, _keep: &[String], _bytes: u64) -> u64 {
        self.reclaimed.store(true, Ordering::SeqCst);
        0
    }

    async fn sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, StartError> {
        Ok(Arc::new(FakeSandbox { runtime: self.clone(), spec, started: Mutex::default() }))
    }
}

struct FakeSandbox {
    runtime: FakeRuntime,
    spec: SandboxSpec,
    started: Mutex<Vec<Arc<FakeContainer>>>,
}

#[async_trait::async_trait]
impl Sandbox for FakeSandbox {
    async fn start(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, StartError> {
        let reference = match spec.image.as_any().downcast_ref::<FakeImage>() {
            Some(image) => image.reference.clone(),
            None => return Err(StartError::Other("the image was prepared by another runtime".to_owned())),
        };
        let behaviour = (self.runtime.script)(&reference);
        if let Behaviour::FailToStart(why) | Behaviour::BadImage(why) = &behaviour {
            return Err(StartError::Other(why.clone()));
        }
        let container = FakeContainer::new(&self.spec.name, spec, behaviour);
        self.started.lock().unwrap_or_else(PoisonError::into_inner).push(container.clone());
        self.runtime.containers.lock().unwrap_or_else(PoisonError::into_inner).push(container.clone());
        Ok(container)
    }
}

impl Drop for FakeSandbox {
    fn drop(&mut self) {
        for container in self.started.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            container.end(137, "Error", "the sandbox was removed");
        }
    }
}

/// A container that does what it is told.
pub struct FakeContainer {
    pub pod: String,
    pub name: String,
    pub spec: ContainerSpec,
    me: Weak<FakeContainer>,
    behaviour: Behaviour,
    started_at: SystemTime,
    state: watch::Sender<RunState>,
    stopping: AtomicBool,
    calls: AtomicU64,
    memory: AtomicU64,
}

impl FakeContainer {
    fn new(pod: &str, spec: &ContainerSpec, behaviour: Behaviour) -> Arc<Self> {
        let started_at = SystemTime::now();
        let container = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            pod: pod.to_owned(),
            name: spec.name.clone(),
            spec: spec.clone(),
            behaviour,
            started_at,
            state: watch::Sender::new(RunState::Running { started_at }),
            stopping: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            memory: AtomicU64::new(0),
        });
        if let Behaviour::ExitAtOnce { code, reason, message } = &container.behaviour {
            container.end(*code, reason, message);
        }
        container
    }

    /// Ends the container, once; later calls change nothing.
    pub fn end(&self, code: i32, reason: &'static str, message: &str) {
        self.state.send_if_modified(|state| {
            if matches!(state, RunState::Exited(_)) {
                return false;
            }
            *state = RunState::Exited(Exit {
                code,
                reason,
                message: message.to_owned(),
                started_at: self.started_at,
                finished_at: SystemTime::now(),
            });
            true
        });
    }

    /// Ends it as a trap would.
    pub fn trap(&self, message: &str) {
        self.end(134, "Error", message);
    }

    /// Lets it seem to hold so much memory.
    pub fn hold(&self, bytes: u64) {
        self.memory.store(bytes, Ordering::SeqCst);
    }

    /// Whether `stop` was called.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn running(&self) -> bool {
        matches!(*self.state.borrow(), RunState::Running { .. })
    }
}

#[async_trait::async_trait]
impl Container for FakeContainer {
    fn state(&self) -> watch::Receiver<RunState> {
        self.state.subscribe()
    }

    fn http(&self) -> Option<Arc<dyn HttpService>> {
        let me: Arc<dyn HttpService> = self.me.upgrade()?;
        matches!(self.behaviour, Behaviour::Serve(_)).then_some(me)
    }

    async fn stop(&self, _grace: Duration) {
        self.stopping.store(true, Ordering::SeqCst);
        match self.behaviour {
            Behaviour::Serve(_) => self.end(0, "Completed", ""),
            _ => self.end(137, "Error", "interrupted"),
        }
    }

    fn usage(&self) -> Usage {
        let memory_bytes = self.memory.load(Ordering::SeqCst);
        Usage { calls: self.calls.load(Ordering::SeqCst), memory_bytes, ..Usage::default() }
    }
}

#[async_trait::async_trait]
impl HttpService for FakeContainer {
    async fn call(&self, request: Request<HttpBody>) -> Result<Response<HttpBody>, CallError> {
        if !self.running() || self.stopping() {
            return Err(CallError::Undelivered {
                reason: "the container has ended".to_owned(),
                request: Box::new(request),
            });
        }
        self.calls.fetch_add(1, Ordering::SeqCst);
        let text = match &self.behaviour {
            Behaviour::Serve(text) => text.clone(),
            _ => String::new(),
        };
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
        Ok(Response::new(body))
    }
}

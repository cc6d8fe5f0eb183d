//! Answering calls by [`super::handler`], an instance per request.
//!
//! A call runs the guest inside the task that wants the answer: no task is spawned and no thread is
//! crossed, so a small answer is complete after one poll of the guest and its instance is gone before
//! the response is sent. An answer that streams carries its guest along in the response's body, where
//! reading the body runs the guest. An idle container is this structure and nothing else: no instance,
//! no task, no timer.
//!
//! A caller that goes away takes its guest with it. A trap fails its call and ends the life; calls on
//! other instances finish. With [`InstancePolicy::max_requests_per_instance`] above one, an instance
//! that ended well waits a while for the next call; [`shared`] is about those that need not wait.

mod call;
mod shared;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::header::HOST;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::Instant;
use wasmtime::Store;

use self::call::Call;
pub use self::call::StreamingGuest;
use self::shared::Shared;
use super::super::{Container, ExecCommand, ExecEnd, ExecStreams, InstancePolicy, RunState, Usage};
use super::exec;
use super::guest::{Guest, Io, Surroundings};
use super::handler::{Answer, Failure, Handler, HandlerPre};
use super::instance::new_store;
use super::life::{Ending, KILLED_EXIT_CODE, Life, NotAdmitted, Occupied, Verdict};
use super::room::{Asked, Holder};
use super::run::{Guarded, Halt};
use crate::wire::{CallError, HttpBody, HttpService};

/// Instances kept for reuse in one container; more at a time are thrown away after their call.
const MAX_IDLE_INSTANCES: usize = 64;
/// What a refused caller is told to wait.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A `wasi:http` container in its one life.
#[derive(Clone)]
pub struct HttpContainer(Arc<Server>);

pub struct Server {
    life: Arc<Life>,
    pre: HandlerPre,
    surroundings: Arc<Surroundings>,
    policy: InstancePolicy,
    idle: Mutex<Idle>,
    /// Those in which there are several calls.
    shared: Mutex<Vec<Arc<Shared>>>,
}

/// Instances that wait for their next call; empty unless the policy allows reuse or keeps some ready.
#[derive(Default)]
struct Idle {
    /// The latest last: it is the one taken, its memory being the warmest.
    instances: Vec<(Instant, Box<Live>)>,
    reaping: bool,
    refilling: bool,
    /// In the host's line of those that have idle instances.
    in_line: bool,
}

/// An instance between or during calls.
pub struct Live {
    store: Store<Guest>,
    handler: Handler,
    served: u32,
    _occupied: Occupied,
    /// Dropped last, when the instance is no longer counted.
    _refill: Option<Refill>,
}

/// Sees to it that an instance that goes is followed by another.
struct Refill(Weak<Server>);

impl Drop for Refill {
    fn drop(&mut self) {
        if let Some(server) = self.0.upgrade() {
            server.refill();
        }
    }
}

/// What the guest's execution of one call comes to.
enum Outcome {
    /// It ran to its end; the instance is sound.
    Returned(Box<Live>),
    /// No instance could be made. The guest has not seen the request.
    NotMade(wasmtime::Error, Box<Request<HttpBody>>),
    Failed(Failure),
}

/// The same after the life was told of it.
enum Settled {
    Returned(Box<Live>),
    Handed(CallError),
    Failed(String),
}

impl HttpContainer {
    pub fn new(life: Arc<Life>, pre: HandlerPre, surroundings: Arc<Surroundings>, policy: InstancePolicy) -> Self {
        let (idle, shared) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Server { life, pre, surroundings, policy, idle, shared }))
    }

    /// Makes one instance and, unless some are to be kept ready, throws it away: a guest that cannot start
    /// ends its life now, not with the first call.
    pub async fn probe(&self) {
        let made = self.0.make_beforehand().await;
        if let Some(live) = made.filter(|_| self.0.policy.min_instances > 0) {
            self.0.keep(live);
            self.0.refill();
        }
    }
}

#[async_trait::async_trait]
impl Container for HttpContainer {
    fn state(&self) -> watch::Receiver<RunState> {
        self.0.life.state()
    }

    fn http(&self) -> Option<Arc<dyn HttpService>> {
        Some(Arc::new(self.clone()))
    }

    async fn stop(&self, grace: Duration) {
        let life = &self.0.life;
        life.close();
        self.0.forget_idle();
        life.end_calls(grace).await;
    }

    fn usage(&self) -> Usage {
        self.0.life.usage()
    }

    async fn exec(&self, command: ExecCommand, streams: ExecStreams) -> Result<ExecEnd, String> {
        exec::run(&self.0.life, &self.0.surroundings, None, command, streams).await
    }
}

#[async_trait::async_trait]
impl HttpService for HttpContainer {
    async fn call(&self, request: Request<HttpBody>) -> Result<Response<HttpBody>, CallError> {
        let server = &self.0;
        let policy = server.policy;
        let arrived = Instant::now();
        let ticket = match server.life.admit(policy.max_queued, policy.request_timeout).await {
            Ok(ticket) => ticket,
            Err(NotAdmitted::Closed) => return Err(undelivered("the container has ended", Box::new(request))),
            Err(NotAdmitted::Full) => return Err(CallError::Overloaded { retry_after: RETRY_AFTER }),
        };
        let Some(request) = with_authority(request) else { return Ok(bad_request()) };
        if server.shares() {
            return shared::call(server, request, ticket, arrived + policy.request_timeout).await;
        }
        let (tell_head, head) = oneshot::channel();
        let guest = match server.take_idle() {
            Some(live) => Guarded::new(server.life.clone(), serve(live, request, tell_head)),
            None => {
                let Some(slot) = server.life.host.place_soon().await else {
                    return Err(CallError::Overloaded { retry_after: RETRY_AFTER });
                };
                let theirs = server.clone();
                Guarded::new(server.life.clone(), async move {
                    match theirs.make(slot).await {
                        Ok(live) => serve(live, request, tell_head).await,
                        Err(error) => Outcome::NotMade(error, Box::new(request)),
                    }
                })
            }
        };
        let due = arrived + policy.request_timeout;
        Call { server: server.clone(), guest, head, ticket, due }.answer().await
    }
}

impl Server {
    /// An instance that no call waits for. One that cannot be made ends the life, unless there is only no
    /// room for it.
    async fn make_beforehand(self: &Arc<Self>) -> Option<Box<Live>> {
        let slot = self.life.host.place_soon().await?;
        let server = self.clone();
        let made = Guarded::new(self.life.clone(), async move { server.make(slot).await });
        let timeout = self.policy.request_timeout;
        let ending = match tokio::time::timeout(timeout, made).await {
            Ok(Ok(Ok(live))) => return Some(live),
            Ok(Ok(Err(error))) => match Verdict::of(&error) {
                Verdict::End(ending) => ending,
                Verdict::NoRoom(_) => return None,
            },
            Ok(Err(Halt::Killed)) => return None,
            Ok(Err(Halt::Panicked(what))) => Ending::host_panic(&what),
            Err(_) => Ending::error(KILLED_EXIT_CODE, format!("no instance was ready within {timeout:?}")),
        };
        self.life.end(ending);
        None
    }

    /// Makes the instances that are to be ready, as long as there are fewer.
    fn refill(self: &Arc<Self>) {
        if !self.is_full() && !std::mem::replace(&mut self.idle().refilling, true) {
            // A call may end when Tokio is already gone; then there is nothing to be ready for.
            if let Ok(tokio) = tokio::runtime::Handle::try_current() {
                tokio.spawn(self.clone().fill());
            }
        }
    }

    async fn fill(self: Arc<Self>) {
        loop {
            while !self.is_full() {
                let Some(live) = self.make_beforehand().await else {
                    self.idle().refilling = false;
                    return;
                };
                self.keep(live);
            }
            self.idle().refilling = false;
            // One may have gone meanwhile, and have seen that this was at work.
            if self.is_full() || std::mem::replace(&mut self.idle().refilling, true) {
                return;
            }
        }
    }

    fn is_full(&self) -> bool {
        self.life.is_closed() || self.life.live_instances() >= self.policy.min_instances as u64
    }

    /// A fresh instance.
    async fn make(self: &Arc<Self>, slot: OwnedSemaphorePermit) -> wasmtime::Result<Box<Live>> {
        let occupied = self.life.count_instance(slot);
        let mut store =
            new_store(&self.life.host.engine.engine, self.surroundings.guest(Io::Log), |guest| &mut guest.limiter);
        let handler = self.pre.instantiate(&mut store).await?;
        let refill = (self.policy.min_instances > 0).then(|| Refill(Arc::downgrade(self)));
        Ok(Box::new(Live { store, handler, served: 0, _occupied: occupied, _refill: refill }))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self) -> Option<Box<Live>> {
        if self.policy.max_requests_per_instance <= 1 && self.policy.min_instances == 0 {
            return None;
        }
        self.idle().instances.pop().map(|(_, live)| live)
    }

    /// Keeps a sound instance for the next call, or drops it.
    fn keep(self: &Arc<Self>, live: Box<Live>) {
        if live.served >= self.policy.max_requests_per_instance || self.life.is_closed() {
            return;
        }
        let mut idle = self.idle();
        let surplus = idle.instances.len() >= self.policy.min_instances;
        if idle.instances.len() >= MAX_IDLE_INSTANCES || (surplus && self.life.host.room.is_short()) {
            return;
        }
        let now = Instant::now();
        idle.instances.push((now, live));
        if surplus && !std::mem::replace(&mut idle.in_line, true) {
            let holder: Weak<dyn Holder> = Arc::downgrade(&(self.clone() as Arc<dyn Holder>));
            self.life.host.room.holds(holder, now);
        }
        if !std::mem::replace(&mut idle.reaping, true) {
            tokio::spawn(reap(Arc::downgrade(self), self.policy.idle_timeout));
        }
    }

    fn forget_idle(&self) {
        let forgotten = std::mem::take(&mut self.idle().instances);
        drop(forgotten);
    }

    /// Tells the life how a call's execution ended.
    fn settle(&self, outcome: Result<Outcome, Halt>) -> Settled {
        let (error, request) = match outcome {
            Ok(Outcome::Returned(live)) => return Settled::Returned(live),
            Ok(Outcome::Failed(Failure::NotPut(error))) => {
                return Settled::Failed(format!("the call could not be made: {error:#}"));
            }
            Err(Halt::Killed) => return Settled::Failed("interrupted: the container was stopped".to_owned()),
            Err(Halt::Panicked(what)) => {
                let ending = Ending::host_panic(&what);
                let text = ending.message.clone();
                self.life.end(ending);
                return Settled::Failed(text);
            }
            Ok(Outcome::NotMade(error, request)) => (error, Some(request)),
            Ok(Outcome::Failed(Failure::Ended(error))) => (error, None),
        };
        let text = match Verdict::of(&error) {
            Verdict::End(ending) => {
                let text = describe(&ending);
                self.life.end(ending);
                self.forget_idle();
                text
            }
            Verdict::NoRoom(_) => return Settled::Handed(CallError::Overloaded { retry_after: RETRY_AFTER }),
        };
        match request {
            Some(request) => Settled::Handed(undelivered(&text, request)),
            None => Settled::Failed(text),
        }
    }
}

impl Holder for Server {
    fn give_way(&self, since: Instant) -> Asked {
        let mut idle = self.idle();
        let oldest = |idle: &Idle| {
            let surplus = idle.instances.len() > self.policy.min_instances;
            idle.instances.first().filter(|_| surplus).map(|(since, _)| *since)
        };
        let asked = match oldest(&idle) {
            None => Asked::Nothing { gave: false },
            Some(oldest) if oldest > since => Asked::Fresher(oldest),
            Some(_) => {
                let gone = idle.instances.remove(0);
                idle.in_line = oldest(&idle).is_some();
                let asked = oldest(&idle).map_or(Asked::Nothing { gave: true }, Asked::Gave);
                drop(idle);
                drop(gone);
                return asked;
            }
        };
        idle.in_line = !matches!(asked, Asked::Nothing { .. });
        asked
    }
}

fn describe(ending: &Ending) -> String {
    if ending.message.is_empty() {
        return format!("the guest exited with code {} while it answered", ending.code);
    }
    ending.message.clone()
}

/// Puts the request to an instance and runs it to the end.
async fn serve(mut live: Box<Live>, request: Request<HttpBody>, tell: oneshot::Sender<Answer>) -> Outcome {
    live.served += 1;
    let Live { store, handler, .. } = &mut *live;
    match handler.handle(store, request, tell).await {
        Ok(()) => Outcome::Returned(live),
        Err(failure) => Outcome::Failed(failure),
    }
}

/// Drops instances that no call has wanted for a while; ends when none is left but those to be kept.
async fn reap(server: Weak<Server>, idle_timeout: Duration) {
    loop {
        tokio::time::sleep(idle_timeout).await;
        let Some(server) = server.upgrade() else { return };
        let mut expired = Vec::new();
        let mut idle = server.idle();
        let fresh = idle.instances.iter().position(|(since, _)| since.elapsed() < idle_timeout);
        let surplus = idle.instances.len().saturating_sub(server.policy.min_instances);
        let count = fresh.unwrap_or(idle.instances.len()).min(surplus);
        expired.extend(idle.instances.drain(..count));
        if count == surplus {
            idle.reaping = false;
            return;
        }
    }
}

pub fn undelivered(reason: &str, request: Box<Request<HttpBody>>) -> CallError {
    CallError::Undelivered { reason: reason.to_owned(), request }
}

/// A guest is always told an authority. A `Host` that is no text never reaches it: `None`.
fn with_authority(mut request: Request<HttpBody>) -> Option<Request<HttpBody>> {
    if request.uri().authority().is_none() {
        match request.headers().get(HOST) {
            Some(host) => _ = host.to_str().ok()?,
            None => _ = request.headers_mut().insert(HOST, HeaderValue::from_static("localhost")),
        }
    }
    Some(request)
}

fn bad_request() -> Response<HttpBody> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

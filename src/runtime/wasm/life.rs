//! A container's one life: its state, who is in it, how it ends.
//!
//! A life ends once and for one reason; whatever happens later changes nothing. Ending by a trap lets
//! calls in flight on other instances finish (they hold the life until they are done) but admits no
//! new ones; killing interrupts everything that still runs.

use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError, watch};
use tokio_util::sync::CancellationToken;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::super::{ContainerSpec, Exit, RunState, Usage};
use super::cpu::Meter;
use super::engine::{Calls, HostEngine};
use super::heavy::Heavy;
use super::limits::{Account, OutOfMemory};
use super::room::Room;
use super::shares::{Shares, Turn};

/// How often the log says that calls are refused for want of room.
const SAY_FULL_EVERY: Duration = Duration::from_secs(60);
/// What Kubernetes keeps of a termination message.
const MAX_MESSAGE_BYTES: usize = 4096;

/// 128 + SIGABRT, as of a process that aborts.
pub const TRAP_EXIT_CODE: i32 = 134;
/// How long killed calls may take to unwind before `stop` returns without them.
const UNWIND_TIME: Duration = Duration::from_secs(5);
/// 128 + SIGKILL.
pub const KILLED_EXIT_CODE: i32 = 137;
/// 128 + SIGTERM, as of a process that does not handle it.
pub const TERMINATED_EXIT_CODE: i32 = 143;

/// What all lives on one of this machine's engines share.
pub struct Host {
    pub engine: HostEngine,
    /// A place per instance that may live.
    pub room: Room,
    pub shares: Arc<Shares>,
    pub heavy: Arc<Heavy>,
    said_full: Mutex<Option<Instant>>,
}

impl Host {
    /// Makes the engine. The cores that `shares` shares out and the threads of `heavy` are the same for all.
    pub fn new(
        calls: Calls,
        max_instances: Option<u32>,
        shares: Arc<Shares>,
        heavy: Arc<Heavy>,
    ) -> anyhow::Result<Arc<Self>> {
        let engine = HostEngine::new(calls, max_instances)
            .map_err(anyhow::Error::from)
            .context("cannot set up the WebAssembly engine on this machine")?;
        tracing::debug!(?calls, instances = engine.capacity, pooled = engine.pooled, "WebAssembly host ready");
        let room = Room::new(engine.capacity);
        Ok(Arc::new(Self { engine, room, shares, heavy, said_full: Mutex::default() }))
    }

    /// A place for an instance that a call waits for; `None` if the host stays full for a while, which is
    /// told in the node's log, with what would help.
    pub async fn place_soon(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.room.soon().await;
        if place.is_none() {
            let mut said = self.said_full.lock().unwrap_or_else(PoisonError::into_inner);
            if said.is_none_or(|at| at.elapsed() >= SAY_FULL_EVERY) {
                *said = Some(Instant::now());
                tracing::warn!("calls are refused: {}", super::engine::full(&self.engine));
            }
        }
        place
    }
}

pub struct Life {
    pub host: Arc<Host>,
    pub cpu: Meter,
    cpu_request_millis: Option<u64>,
    /// Its name in the competition for the cores.
    number: u64,
    memory: Arc<Account>,
    started_at: SystemTime,
    state: watch::Sender<RunState>,
    /// No new calls.
    closed: AtomicBool,
    /// One permit per call that the guests may answer at a time; closed with the life, so that those
    /// who wait in line are handed back.
    places: Arc<Semaphore>,
    queued: AtomicUsize,
    in_flight: AtomicUsize,
    drained: Notify,
    kill: CancellationToken,
    instances: AtomicU64,
    calls: AtomicU64,
    computes: Arc<AtomicBool>,
}

impl Life {
    /// `computes` is the container's mark, which its lives hand on.
    pub fn begin(host: Arc<Host>, memory: Arc<Account>, spec: &ContainerSpec, computes: Arc<AtomicBool>) -> Arc<Self> {
        let started_at = SystemTime::now();
        Arc::new(Self {
            number: host.shares.number(),
            host,
            cpu: Meter::new(spec.cpu_limit_millis),
            cpu_request_millis: spec.cpu_request_millis,
            memory,
            started_at,
            state: watch::Sender::new(RunState::Running { started_at }),
            closed: AtomicBool::new(false),
            places: Arc::new(Semaphore::new(spec.instances.max_concurrent.clamp(1, Semaphore::MAX_PERMITS))),
            queued: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            drained: Notify::new(),
            kill: CancellationToken::new(),
            instances: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            computes,
        })
    }

    pub fn state(&self) -> watch::Receiver<RunState> {
        self.state.subscribe()
    }

    /// Ends the life for this reason, unless it has ended.
    pub fn end(&self, ending: Ending) {
        self.close();
        self.state.send_if_modified(|state| {
            if matches!(state, RunState::Exited(_)) {
                return false;
            }
            *state = RunState::Exited(Exit {
                code: ending.code,
                reason: ending.reason,
                message: bounded(ending.message),
                started_at: self.started_at,
                finished_at: SystemTime::now(),
            });
            true
        });
    }

    /// Takes no new calls from now on.
    pub fn close(&self) {
        self.closed.store(true, SeqCst);
        self.places.close();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Interrupts everything that still runs.
    pub fn kill(&self) {
        self.close();
        self.kill.cancel();
    }

    pub fn kill_token(&self) -> &CancellationToken {
        &self.kill
    }

    /// A place for one more call: at once, or in line behind others until `patience` is over.
    pub async fn admit(self: &Arc<Self>, max_queued: usize, patience: Duration) -> Result<Ticket, NotAdmitted> {
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(TryAcquireError::Closed) => return Err(NotAdmitted::Closed),
            Err(TryAcquireError::NoPermits) => {
                let _queued = Queued::join(&self.queued, max_queued).ok_or(NotAdmitted::Full)?;
                match tokio::time::timeout(patience, self.places.clone().acquire_owned()).await {
                    Ok(Ok(place)) => place,
                    Ok(Err(_)) => return Err(NotAdmitted::Closed),
                    Err(_) => return Err(NotAdmitted::Full),
                }
            }
        };
        self.in_flight.fetch_add(1, SeqCst);
        // Made before the look at `closed`, so that dropping it undoes the count on either way out.
        let ticket = Ticket { life: self.clone(), _place: place };
        if self.is_closed() {
            return Err(NotAdmitted::Closed);
        }
        self.calls.fetch_add(1, SeqCst);
        Ok(ticket)
    }

    /// A guest of this life has used up its tick: from now on it takes turns with others.
    pub fn take_turns(&self) -> Turn {
        Turn::join(&self.host.shares, self.number, self.cpu_request_millis)
    }

    /// Whether its guests use up their ticks: then they run among those that do.
    pub fn computes(&self) -> bool {
        self.computes.load(Relaxed)
    }

    pub fn set_computes(&self, computes: bool) {
        self.computes.store(computes, Relaxed);
    }

    /// Waits until no call is in flight.
    pub async fn wait_drained(&self) {
        loop {
            let notified = self.drained.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.in_flight.load(SeqCst) == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Like [`Self::wait_drained`], for at most this long. Whether it drained.
    pub async fn drained_within(&self, grace: Duration) -> bool {
        self.in_flight.load(SeqCst) == 0 || tokio::time::timeout(grace, self.wait_drained()).await.is_ok()
    }

    /// Ends a life that answers calls: those in flight have `grace` to finish, then they are interrupted.
    pub async fn end_calls(&self, grace: Duration) {
        self.close();
        if self.drained_within(grace).await {
            self.end(Ending::completed());
            return;
        }
        self.kill();
        self.drained_within(UNWIND_TIME).await;
        let message = format!("calls were still in flight after {grace:?} and were interrupted");
        self.end(Ending::error(KILLED_EXIT_CODE, message));
    }

    pub fn count_instance(self: &Arc<Self>, slot: OwnedSemaphorePermit) -> Occupied {
        self.instances.fetch_add(1, SeqCst);
        Occupied { life: self.clone(), _slot: slot }
    }

    pub fn live_instances(&self) -> u64 {
        self.instances.load(SeqCst)
    }

    pub fn usage(&self) -> Usage {
        Usage {
            cpu: self.cpu.used(),
            memory_bytes: self.memory.used(),
            memory_peak_bytes: self.memory.peak(),
            throttled: self.cpu.throttled(),
            instances: self.instances.load(SeqCst),
            calls: self.calls.load(SeqCst),
        }
    }
}

/// Why a call got no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdmitted {
    /// The life takes no new calls.
    Closed,
    /// The line is full, or did not move in time.
    Full,
}

/// A place in line; given up when dropped.
struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    fn join(queued: &'a AtomicUsize, max: usize) -> Option<Self> {
        let place = Self(queued);
        (queued.fetch_add(1, SeqCst) < max).then_some(place)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// A call in flight.
pub struct Ticket {
    life: Arc<Life>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.life.in_flight.fetch_sub(1, SeqCst) == 1 && self.life.is_closed() {
            self.life.drained.notify_waiters();
        }
    }
}

/// A live instance: its place among the host's instances and in the life's count.
pub struct Occupied {
    life: Arc<Life>,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.life.instances.fetch_sub(1, SeqCst);
    }
}

/// Why a life ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub code: i32,
    pub reason: &'static str,
    pub message: String,
}

impl Ending {
    pub fn completed() -> Self {
        Self { code: 0, reason: "Completed", message: String::new() }
    }

    pub fn error(code: i32, message: impl Into<String>) -> Self {
        Self { code, reason: "Error", message: message.into() }
    }

    fn exited(code: i32) -> Self {
        if code == 0 { Self::completed() } else { Self::error(code, "") }
    }

    /// The host itself failed while it ran this guest: only this life pays.
    pub fn host_panic(what: &str) -> Self {
        Self::error(TRAP_EXIT_CODE, format!("the host failed while running this container: {what}"))
    }
}

/// What an error out of the engine means for the container.
#[derive(Debug)]
pub enum Verdict {
    /// The life ends like this.
    End(Ending),
    /// The machine has no room for one more instance; the container is not to blame.
    NoRoom(String),
}

impl Verdict {
    pub fn of(error: &wasmtime::Error) -> Self {
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            return Self::End(Ending::exited(exit.0));
        }
        if let Some(oom) = error.downcast_ref::<OutOfMemory>() {
            let message = oom.to_string();
            return Self::End(Ending { code: KILLED_EXIT_CODE, reason: "OOMKilled", message });
        }
        if let Some(full) = error.downcast_ref::<PoolConcurrencyLimitError>() {
            return Self::NoRoom(full.to_string());
        }
        Self::End(Ending::error(TRAP_EXIT_CODE, explain(error)))
    }
}

/// The trap in words, then where it happened.
fn explain(error: &wasmtime::Error) -> String {
    let cause = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    match error.downcast_ref::<WasmBacktrace>() {
        Some(backtrace) => format!("{cause}\n{backtrace}"),
        None => {
            let whole = format!("{error:#}");
            if whole.contains(&cause) { whole } else { format!("{whole}: {cause}") }
        }
    }
}

/// Cut to what fits, at a character's boundary.
pub fn bounded(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        let end = message.floor_char_boundary(MAX_MESSAGE_BYTES - 4);
        message.truncate(end);
        message.push_str(" ...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_and_traps_become_what_kubernetes_shows() {
        let end = |error: wasmtime::Error| match Verdict::of(&error) {
            Verdict::End(ending) => (ending.code, ending.reason),
            Verdict::NoRoom(_) => (-1, "NoRoom"),
        };
        assert_eq!(end(I32Exit(0).into()), (0, "Completed"));
        assert_eq!(end(I32Exit(3).into()), (3, "Error"));
        assert_eq!(end(Trap::UnreachableCodeReached.into()), (134, "Error"));
        let oom = OutOfMemory { scope: super::super::limits::Scope::Pod, limit: 1, used: 1, asked: 1 };
        assert_eq!(end(wasmtime::Error::from(oom).context("in a grown memory")), (137, "OOMKilled"));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let message = bounded("é".repeat(MAX_MESSAGE_BYTES));
        assert!(message.len() <= MAX_MESSAGE_BYTES && message.ends_with("é ..."));
        assert_eq!(bounded("short".to_owned()), "short");
    }
}

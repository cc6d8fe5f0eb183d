//! The one clock that interrupts guests.
//!
//! Compiled code looks at the engine's epoch at each loop and call; this thread advances it every
//! [`TICK`], and whoever has run past a tick yields its thread. A thread of its own, since the threads
//! that serve are the very ones that a looping guest holds. It sleeps while nothing runs: an idle node
//! wakes for no one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use wasmtime::Engine;

/// How long a guest may hold a thread before it must yield. Short enough that a request waits little
/// behind a busy loop; long enough that the wake-ups cost nothing.
pub const TICK: Duration = Duration::from_millis(2);

/// Ticks without work after which the thread goes to sleep until work returns.
const IDLE_TICKS: u32 = 100;

#[derive(Default)]
struct Shared {
    /// Guest code ran since the last tick.
    busy: AtomicBool,
    /// The thread sleeps, or is about to; who clears it must wake it.
    asleep: AtomicBool,
    stop: AtomicBool,
}

/// Owns the ticker's thread; dropping it ends the thread.
pub struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
    join: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts ticking for `engine`.
    pub fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let join = std::thread::Builder::new()
            .name("wasm-epoch".to_owned())
            .spawn(move || tick_until_stopped(&theirs, &engine))?;
        Ok(Self { shared, thread: join.thread().clone(), join: Some(join) })
    }

    /// Says that guest code is about to run. Called before every poll of a guest, so it mostly reads.
    #[inline]
    pub fn note_work(&self) {
        if self.shared.busy.load(SeqCst) {
            return;
        }
        self.shared.busy.store(true, SeqCst);
        if self.shared.asleep.swap(false, SeqCst) {
            self.thread.unpark();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.thread.unpark();
        if let Some(join) = self.join.take() {
            // The engine may be dropped by the ticker's own last reference; then there is nobody to join.
            if join.thread().id() != std::thread::current().id() {
                let _ = join.join();
            }
        }
    }
}

fn tick_until_stopped(shared: &Shared, engine: &Engine) {
    let mut idle = 0;
    while !shared.stop.load(SeqCst) {
        std::thread::park_timeout(TICK);
        engine.increment_epoch();
        idle = if shared.busy.swap(false, SeqCst) { 0 } else { idle + 1 };
        if idle >= IDLE_TICKS {
            sleep_until_work(shared);
            idle = 0;
        }
    }
}

/// Announces sleep before the last look at `busy`, so that work noted in between is never missed.
fn sleep_until_work(shared: &Shared) {
    shared.asleep.store(true, SeqCst);
    while !shared.busy.load(SeqCst) && shared.asleep.load(SeqCst) && !shared.stop.load(SeqCst) {
        std::thread::park();
    }
    shared.asleep.store(false, SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falls_asleep_when_idle_and_wakes_for_work() {
        let ticker = Ticker::start(Engine::default()).unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(20);
        let wait = |what: &dyn Fn() -> bool| {
            while !what() {
                assert!(std::time::Instant::now() < until, "condition not met in time");
                std::thread::yield_now();
            }
        };
        wait(&|| ticker.shared.asleep.load(SeqCst));
        ticker.note_work();
        // The work is consumed by a tick: the thread is awake again.
        wait(&|| !ticker.shared.busy.load(SeqCst));
    }
}

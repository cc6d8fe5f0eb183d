//! The threads that serve connections: one single-threaded executor each.
//!
//! A connection stays on the thread it was given to, and with it the request, the guest's call and the
//! answer: no task is stolen, nothing is woken across cores. That is worth more than an even spread of
//! the last percent of load, which connections, being many, give anyway.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The threads; they end, with all that runs on them, when this is dropped.
pub(super) struct Cores {
    handles: Vec<Handle>,
    next: AtomicUsize,
    _stop: DropGuard,
}

impl Cores {
    /// Starts `threads` of them; 0: as many as the machine has processors.
    pub(super) fn start(threads: usize) -> io::Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism()?.get(),
            threads => threads,
        };
        let stop = CancellationToken::new();
        let handles = (0..threads).map(|core| start_one(core, stop.clone())).collect::<io::Result<Vec<_>>>()?;
        Ok(Self { handles, next: AtomicUsize::new(0), _stop: stop.drop_guard() })
    }

    /// Runs `task` on the thread whose turn it is.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(handle) = self.handles.get(turn % self.handles.len().max(1)) {
            handle.spawn(task);
        }
    }
}

fn start_one(core: usize, stop: CancellationToken) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name(format!("serve-{core}")).spawn(move || runtime.block_on(stop.cancelled()))?;
    Ok(handle)
}

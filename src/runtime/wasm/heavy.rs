//! Threads for guests that compute.
//!
//! The threads that serve answer every pod's calls, so whoever holds one of them holds up all. A guest that
//! has used up its tick is moved here: to as many threads as there are cores, nicer than those that serve, so
//! that the kernel lets a call in between at once, however many guests are busy. Among themselves they take
//! turns by their weights ([`super::shares`]). What such a guest starts (timers, connections, tasks) belongs to
//! Tokio as before; only its own code runs here.

use std::future::Future;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

use super::cpu::be_nice;

/// How much nicer than the threads that serve. A core that both want goes to these for about a tenth.
const NICENESS: i32 = 10;

/// The threads; made when the first guest comes.
pub struct Heavy {
    threads: usize,
    runtime: OnceLock<Option<Runtime>>,
}

impl Heavy {
    pub fn new(threads: usize) -> Self {
        Self { threads, runtime: OnceLock::new() }
    }

    /// Runs `guest` to its end; dropping the handle drops it. Where the machine gives no more threads, those
    /// that serve have to do.
    pub fn run<T: Send + 'static>(&self, guest: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
        let runtime = self.runtime.get_or_init(|| threads(self.threads));
        let handle = runtime.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone());
        AbortOnDropHandle::new(handle.spawn(guest))
    }
}

impl Drop for Heavy {
    /// A host may be dropped by one of its own tasks, which cannot wait for the threads.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take().flatten() {
            runtime.shutdown_background();
        }
    }
}

fn threads(count: usize) -> Option<Runtime> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(count)
        .thread_name("wasm-heavy")
        .on_thread_start(|| be_nice(NICENESS))
        .build();
    runtime.inspect_err(|error| tracing::warn!("no threads for guests that compute: {error}")).ok()
}

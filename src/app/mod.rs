//! The composition root: it alone names every room, and builds a process out of them.
//!
//! Three processes, one binary. [`server`] holds state and runs no guest code; [`node`] runs guests and
//! holds no state (and starts a worker for pods that want one, [`crate::runtime::isolated`]); [`up`] is
//! a small supervisor that starts one server and some nodes of this same binary, starts again what
//! dies, and stops them in order. Each is built, bound, then spawned, and
//! stops when its token is cancelled.

pub mod join;
pub mod kubeconfig;
pub mod node;
pub mod server;
pub mod supervisor;
pub mod up;

use std::io::BufRead as _;

use tokio_util::sync::CancellationToken;

/// Cancelled by the first SIGINT or SIGTERM; a second one ends the process at once.
pub fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        for count in 0.. {
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
            if count == 0 {
                token.cancel();
            } else {
                std::process::exit(130);
            }
        }
    });
    Ok(stop)
}

/// Cancels `stop` when the supervisor is gone: its end of our standard input closes with it, however it
/// died. A cluster whose supervisor was killed must not linger and hold the ports. What is returned is ready
/// when the supervisor has said a line: who stands by begins then.
pub fn stop_with_supervisor(stop: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
    let (called, call) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("supervisor-watch".to_owned())
        .spawn(move || {
            let mut stdin = std::io::stdin().lock();
            if stdin.read_line(&mut String::new()).is_ok_and(|bytes| bytes > 0) {
                let _ = called.send(());
                let _ = std::io::copy(&mut stdin, &mut std::io::sink());
            }
            stop.cancel();
        })
        .map(drop)
        .unwrap_or_else(|error| tracing::warn!(%error, "cannot watch the supervisor"));
    async move {
        if call.await.is_err() {
            // It will not be called any more.
            std::future::pending().await
        }
    }
}

/// Each connection and each pod's listener is a file descriptor: take as many as the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files; many clients or pods may not fit");
    }
}

//! A worker's process, as its node has it: started from this program's own file, with nothing but two
//! sockets to the node, and ended with its last pod.

use std::collections::{HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::link::{self, Link};
use super::outside::WaysOut;
use super::protocol::LifeId;

/// The command that is a worker; not for people.
pub const SUBCOMMAND: &str = "guest-worker";
/// How long the end of a process may take to be told after its connection has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How a worker ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// As a shell tells it: 128 and the signal's number.
    pub code: i32,
    pub how: String,
}

/// A running worker. Dropping it ends the process.
pub struct Worker {
    pub link: Link,
    pub ways_out: Arc<WaysOut>,
    /// What has been told to it. Held while something is told.
    pub known: tokio::sync::Mutex<Known>,
    ended: watch::Receiver<Option<Ended>>,
    next_life: AtomicU64,
    kill: DropGuard,
}

/// What a worker has been told.
#[derive(Default)]
pub struct Known {
    /// Uids.
    pub pods: HashSet<String>,
    /// By name, the latest last.
    pub images: VecDeque<String>,
}

/// Images that a worker keeps for containers to come. Both sides count in the same order, so that the node
/// knows what the worker has let go of.
pub const KEPT_IMAGES: usize = 32;

impl Worker {
    /// Starts a process. `whose` is only for those who look at the list of processes.
    pub async fn start(program: &Path, whose: &str) -> anyhow::Result<Arc<Self>> {
        let (asks, asked) = pair().context("cannot make a socket")?;
        let (answers, answered) = pair().context("cannot make a socket")?;
        let child = Command::new(program)
            .args([SUBCOMMAND, whose])
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(asked))
            .stdout(OwnedFd::from(answered))
            .stderr(Stdio::inherit())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let ways_out = Arc::new(WaysOut::default());
        let answering = link::serve(UnixStream::from_std(answers)?, ways_out.clone());
        tokio::spawn(async move {
            if let Err(error) = answering.await {
                tracing::debug!("a worker's way out ended: {error}");
            }
        });
        let link = Link::open(UnixStream::from_std(asks)?).await.context("cannot speak to it")?;
        let kill = CancellationToken::new();
        let (tell, ended) = watch::channel(None);
        tracing::info!(whose, pid = child.id(), "a worker process runs");
        tokio::spawn(wait(child, kill.clone(), tell, whose.to_owned()));
        Ok(Arc::new(Self {
            link,
            ways_out,
            known: tokio::sync::Mutex::default(),
            ended,
            next_life: AtomicU64::new(0),
            kill: kill.drop_guard(),
        }))
    }

    pub fn is_gone(&self) -> bool {
        self.link.is_lost() || self.ended.borrow().is_some()
    }

    pub fn next_life(&self) -> LifeId {
        LifeId(self.next_life.fetch_add(1, Ordering::Relaxed))
    }

    /// Ends the process, if it has not ended.
    pub fn end(&self) {
        self.kill.token().cancel();
    }

    /// How it ended, told once its connection has.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let told = tokio::time::timeout(LAST_WORDS, ended.wait_for(Option::is_some)).await;
        let told = told.ok().and_then(Result::ok).and_then(|ended| ended.clone());
        told.unwrap_or_else(|| Ended { code: 137, how: "stopped answering".to_owned() })
    }
}

fn pair() -> std::io::Result<(StdUnixStream, StdUnixStream)> {
    let (near, far) = StdUnixStream::pair()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    Ok((near, far))
}

async fn wait(mut child: Child, kill: CancellationToken, tell: watch::Sender<Option<Ended>>, whose: String) {
    let status = tokio::select! {
        status = child.wait() => status,
        () = kill.cancelled() => {
            // Nobody is left to be told.
            let _ = child.kill().await;
            return;
        }
    };
    let ended = match status {
        Ok(status) => describe(status),
        Err(error) => Ended { code: 137, how: format!("was lost: {error}") },
    };
    tracing::warn!(whose, "a worker process {}", ended.how);
    tell.send_replace(Some(ended));
}

fn describe(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (_, Some(signal)) => {
            Ended { code: 128 + signal, how: format!("was killed by signal {signal}{}", named(signal)) }
        }
        (code, None) => {
            let code = code.unwrap_or(1);
            Ended { code, how: format!("ended with exit code {code}") }
        }
    }
}

fn named(signal: i32) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        _ => "",
    }
}

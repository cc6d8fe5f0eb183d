//! Keeps child processes running.
//!
//! A child that ends is started again: at once the first time, then with a growing pause while it keeps dying young.
//! Behind a child whose start takes a while another can stand by ([`Program::standby`]), as ready as it can be
//! without doing the work: it is called in the moment that the first one ends. Children sit in process groups of
//! their own, so that a Ctrl-C at the terminal reaches only the supervisor, which then stops them in order.

use std::convert::Infallible;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio_util::sync::CancellationToken;

/// What to run, and under which name it is known.
#[derive(Debug, Clone)]
pub struct Program {
    pub name: String,
    pub args: Vec<String>,
    /// Where its output goes.
    pub log: PathBuf,
    /// Where its process id is written.
    pub pid_file: PathBuf,
    /// What it is told more when it is to stand by until it reads a line; `None`: nobody stands by.
    pub standby: Option<&'static str>,
}

/// Something the user should hear of.
#[derive(Debug)]
pub enum Notice {
    Ended { name: String, pid: u32, how: String },
    Restarted { name: String, pid: u32 },
    CannotStart { name: String, error: String },
}

/// A child that lived this long was healthy; its next death is answered at once.
const HEALTHY: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A log longer than this is put aside when its program starts.
const LOG_BYTES: u64 = 10 << 20;
/// A child that lived this long has begun: what stands by does not take the cores from its start.
const BEGUN: Duration = Duration::from_secs(1);

/// A running program. Waiting for a child would close the pipe to its standard input, by whose end it
/// knows that we are gone: hence we hold that ourselves.
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
}

/// A program that is kept running until its guard is stopped.
pub struct Supervised {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Supervised {
    /// Starts the program; fails if even the first start does.
    pub fn start(program: Program, notices: tokio::sync::mpsc::Sender<Notice>) -> Result<Self> {
        let process = spawn(&program, None)?;
        announce(&process, &program)?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep_running(program, process, notices, stop.clone()));
        Ok(Self { stop, task })
    }

    /// Asks the program to end, and returns when it has.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

async fn keep_running(
    program: Program,
    mut process: Process,
    notices: tokio::sync::mpsc::Sender<Notice>,
    stop: CancellationToken,
) {
    let mut pause = Duration::ZERO;
    let mut standby = Standby::default();
    loop {
        let (started, pid) = (Instant::now(), process.child.id().unwrap_or_default());
        let status = tokio::select! {
            status = process.child.wait() => status,
            never = standby.keep(&program) => match never {},
            () = stop.cancelled() => {
                standby.dismiss().await;
                return end(process, &program).await;
            }
        };
        let how = status.as_ref().map_or_else(ToString::to_string, describe);
        let _ = notices.try_send(Notice::Ended { name: program.name.clone(), pid, how });
        pause =
            if started.elapsed() > HEALTHY { Duration::ZERO } else { (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE) };
        process = loop {
            tokio::select! { () = tokio::time::sleep(pause) => (), () = stop.cancelled() => return standby.dismiss().await }
            let next = match standby.call().await {
                Some(process) => Ok(process),
                None => spawn(&program, None),
            };
            match next.and_then(|process| announce(&process, &program).map(|()| process)) {
                Ok(process) => break process,
                Err(error) => {
                    let error = format!("{error:#}");
                    let _ = notices.try_send(Notice::CannotStart { name: program.name.clone(), error });
                    pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                }
            }
        };
        let pid = process.child.id().unwrap_or_default();
        let _ = notices.try_send(Notice::Restarted { name: program.name.clone(), pid });
    }
}

/// Who stands by for a program, if anybody does. Dropping it ends them.
#[derive(Default)]
struct Standby(Option<Process>);

impl Standby {
    /// Sees to it that somebody stands by, for as long as it is polled; a poll may be its last.
    async fn keep(&mut self, program: &Program) -> Infallible {
        let Some(more) = program.standby else { return std::future::pending().await };
        let mut pause = BEGUN;
        loop {
            if let Some(process) = &mut self.0 {
                let _ = process.child.wait().await;
                self.0 = None;
            } else {
                tokio::time::sleep(pause).await;
                self.0 =
                    spawn(program, Some(more)).inspect_err(|error| tracing::debug!("nobody stands by: {error:#}")).ok();
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Lets whoever stands by begin; `None` if nobody does, or they do not hear.
    async fn call(&mut self) -> Option<Process> {
        let mut process = self.0.take()?;
        process.stdin.as_mut()?.write_all(b"\n").await.ok()?;
        Some(process)
    }

    /// Who stands by has done nothing that takes time to end.
    async fn dismiss(&mut self) {
        if let Some(mut process) = self.0.take() {
            drop(process.stdin.take());
            if tokio::time::timeout(BEGUN, process.child.wait()).await.is_err() {
                let _ = process.child.kill().await;
            }
        }
    }
}

/// Starts the program, with `more` arguments.
fn spawn(program: &Program, more: Option<&str>) -> Result<Process> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let log = open_log(&program.log)?;
    let mut child = Command::new(own)
        .args(&program.args)
        .args(more)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", program.name))?;
    Ok(Process { stdin: child.stdin.take(), child })
}

/// Says which process is the program now.
fn announce(process: &Process, program: &Program) -> Result<()> {
    let pid = process.child.id().unwrap_or_default();
    std::fs::write(&program.pid_file, format!("{pid}\n"))
        .with_context(|| format!("cannot write {}", program.pid_file.display()))
}

fn open_log(path: &Path) -> Result<File> {
    if std::fs::metadata(path).is_ok_and(|file| file.len() > LOG_BYTES) {
        std::fs::rename(path, path.with_extension("old.log"))?;
    }
    File::options().create(true).append(true).open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// SIGTERM, then, if that does not help in time, SIGKILL.
async fn end(mut process: Process, program: &Program) {
    let child = &mut process.child;
    const PATIENCE: Duration = Duration::from_secs(20);
    if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        tracing::warn!(program = program.name, "did not stop in time; killed");
        let _ = child.kill().await;
    }
    let _ = std::fs::remove_file(&program.pid_file);
}

fn describe(status: &ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

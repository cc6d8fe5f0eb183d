//! Programs that run by themselves: `wasi:cli/run` and a core module's `_start`.
//!
//! A core module without `_start` is a reactor: made to be called. Its `_initialize` is run, and then
//! the export that the container's command names (`command: [tick]`), as `_start` would be.
//!
//! One instance and one task per life. WASI knows no signals, so a command that is stopped ends as a
//! process that handles none: at once, with 143 (SIGTERM), or 137 when no grace was given.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use wasmtime::{InstancePre, Store};
use wasmtime_wasi::{p2, p3};

use super::super::{Container, ExecCommand, ExecEnd, ExecStreams, RunState, Usage};
use super::exec;
use super::guest::{CoreGuest, Guest, Io, Surroundings};
use super::instance::new_store;
use super::life::{Ending, KILLED_EXIT_CODE, Life, TERMINATED_EXIT_CODE, Verdict};
use super::linker::{INITIALIZE, START};
use super::run::{Guarded, Halt};
use crate::wire::HttpService;

/// A command in its one life.
pub struct CommandContainer {
    life: Arc<Life>,
    /// Held while it runs: a stopped command is drained when its task is gone.
    ending: watch::Sender<Option<Ending>>,
    program: Script,
    surroundings: Arc<Surroundings>,
}

impl CommandContainer {
    /// Starts the program.
    pub fn start(life: Arc<Life>, script: Script, surroundings: Arc<Surroundings>, slot: OwnedSemaphorePermit) -> Self {
        let (theirs, around, program) = (life.clone(), surroundings.clone(), script.clone());
        let guest = async move {
            let _occupied = theirs.count_instance(slot);
            program.run(&theirs, &around, Io::Container).await
        };
        Self::spawn(life, guest, script, surroundings)
    }

    fn spawn(
        life: Arc<Life>,
        guest: impl Future<Output = wasmtime::Result<Ending>> + Send + 'static,
        program: Script,
        surroundings: Arc<Surroundings>,
    ) -> Self {
        let run = Guarded::new(life.clone(), guest);
        let ending = watch::Sender::new(None);
        let (theirs, stopped) = (life.clone(), ending.subscribe());
        tokio::spawn(async move {
            let ending = ending_of(run.await, || stopped.borrow().clone().unwrap_or_else(killed));
            theirs.end(ending);
        });
        Self { life, ending, program, surroundings }
    }
}

/// A program with a beginning and an end.
#[derive(Clone)]
pub enum Script {
    /// `wasi:cli/run`.
    Component(RunPre),
    /// A core module's `_start`, or the function that a reactor's caller names.
    Core(InstancePre<CoreGuest>),
}

impl Script {
    /// Runs it once, to its end: for the container's life, for one call, or beside it.
    pub async fn run(self, life: &Arc<Life>, surroundings: &Arc<Surroundings>, io: Io) -> wasmtime::Result<Ending> {
        match self {
            Self::Component(pre) => run_component(life, &pre, surroundings.guest(io)).await,
            Self::Core(pre) => {
                let entry = surroundings.command().to_owned();
                run_core(life, &pre, surroundings.core_guest(io).await?, &entry).await
            }
        }
    }
}

/// A component that is run, ready to be instantiated.
#[derive(Clone)]
pub enum RunPre {
    Wasi2(p2::bindings::CommandPre<Guest>),
    Wasi3(p3::bindings::CommandPre<Guest>),
}

impl RunPre {
    async fn run(&self, store: &mut Store<Guest>) -> wasmtime::Result<Result<(), ()>> {
        match self {
            Self::Wasi2(pre) => pre.instantiate_async(&mut *store).await?.wasi_cli_run().call_run(store).await,
            Self::Wasi3(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                let ran = store.run_concurrent(async |guest| {
                    let said = command.wasi_cli_run().call_run(guest).await?;
                    // It may have left tasks that are not done with what it started.
                    poll_fn(|cx| guest.poll_no_interesting_tasks(cx)).await;
                    Ok(said)
                });
                ran.await?
            }
        }
    }
}

async fn run_component(life: &Life, pre: &RunPre, guest: Guest) -> wasmtime::Result<Ending> {
    let mut store = new_store(&life.host.engine.engine, guest, |guest| &mut guest.limiter);
    // `run` says only whether it went well; other codes come as `exit-with-code`.
    Ok(match pre.run(&mut store).await? {
        Ok(()) => Ending::completed(),
        Err(()) => Ending::error(1, ""),
    })
}

/// A command's `_start`; of a reactor `_initialize` and then the export that the container's command
/// names, if it has one.
async fn run_core(
    life: &Life,
    pre: &InstancePre<CoreGuest>,
    guest: CoreGuest,
    command: &str,
) -> wasmtime::Result<Ending> {
    let mut store = new_store(&life.host.engine.engine, guest, |guest| &mut guest.limiter);
    let instance = pre.instantiate_async(&mut store).await?;
    let entry = if instance.get_func(&mut store, START).is_some() { START } else { command };
    let names = if entry == INITIALIZE { &[INITIALIZE][..] } else { &[INITIALIZE, entry] };
    for name in names {
        let function = instance.get_func(&mut store, name).and_then(|export| export.typed::<(), ()>(&store).ok());
        if let Some(function) = function {
            function.call_async(&mut store, ()).await?;
        }
    }
    Ok(Ending::completed())
}

/// What a command's run comes to; `killed` says how it ends that was interrupted.
pub fn ending_of(run: Result<wasmtime::Result<Ending>, Halt>, killed: impl FnOnce() -> Ending) -> Ending {
    match run {
        Ok(Ok(ending)) => ending,
        Ok(Err(error)) => match Verdict::of(&error) {
            Verdict::End(ending) => ending,
            Verdict::NoRoom(why) => Ending::error(KILLED_EXIT_CODE, why),
        },
        Err(Halt::Panicked(what)) => Ending::host_panic(&what),
        Err(Halt::Killed) => killed(),
    }
}

pub fn killed() -> Ending {
    Ending::error(KILLED_EXIT_CODE, "interrupted")
}

#[async_trait::async_trait]
impl Container for CommandContainer {
    fn state(&self) -> watch::Receiver<RunState> {
        self.life.state()
    }

    fn http(&self) -> Option<Arc<dyn HttpService>> {
        None
    }

    async fn stop(&self, grace: Duration) {
        let ending = if grace.is_zero() { killed() } else { Ending::error(TERMINATED_EXIT_CODE, "terminated") };
        self.ending.send_replace(Some(ending));
        self.life.kill();
        let mut state = self.life.state();
        let _ = state.wait_for(|state| matches!(state, RunState::Exited(_))).await;
    }

    fn usage(&self) -> Usage {
        self.life.usage()
    }

    async fn exec(&self, command: ExecCommand, streams: ExecStreams) -> Result<ExecEnd, String> {
        exec::run(&self.life, &self.surroundings, Some(&self.program), command, streams).await
    }
}

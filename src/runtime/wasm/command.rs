//! Programs that run by themselves: `wasi:cli/run` and a core module's `_start`.
//!
//! One instance and one task per life. WASI knows no signals, so a command that is stopped ends as a
//! process that handles none: at once, with 143 (SIGTERM), or 137 when no grace was given.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use wasmtime::InstancePre;
use wasmtime_wasi::p2::bindings::CommandPre;

use super::super::{Container, ExecCommand, ExecEnd, ExecStreams, RunState, StartError, Usage};
use super::exec;
use super::guest::{CoreGuest, Guest, Surroundings};
use super::instance::new_store;
use super::life::{Ending, KILLED_EXIT_CODE, Life, TERMINATED_EXIT_CODE, Verdict};
use super::linker::Program;
use super::run::{Guarded, Halt};
use crate::wire::HttpService;

/// A command in its one life.
pub struct CommandContainer {
    life: Arc<Life>,
    /// Held while it runs: a stopped command is drained when its task is gone.
    ending: watch::Sender<Option<Ending>>,
    program: Program,
    surroundings: Arc<Surroundings>,
}

impl CommandContainer {
    /// Starts a component's `run`.
    pub fn component(
        life: Arc<Life>,
        pre: CommandPre<Guest>,
        surroundings: Arc<Surroundings>,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let guest = run_component(life.clone(), pre.clone(), surroundings.command_guest(), slot);
        Self::spawn(life, guest, Program::Command(pre), surroundings)
    }

    /// Starts a core module's `_start`.
    pub fn core(
        life: Arc<Life>,
        pre: InstancePre<CoreGuest>,
        surroundings: Arc<Surroundings>,
        slot: OwnedSemaphorePermit,
    ) -> Result<Self, StartError> {
        let guest = run_core(life.clone(), pre.clone(), surroundings.core_guest()?, slot);
        Ok(Self::spawn(life, guest, Program::Core(pre), surroundings))
    }

    fn spawn(
        life: Arc<Life>,
        guest: impl Future<Output = wasmtime::Result<Ending>> + Send + 'static,
        program: Program,
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

/// Runs a component's `run` to its end.
pub async fn run_component(
    life: Arc<Life>,
    pre: CommandPre<Guest>,
    guest: Guest,
    slot: OwnedSemaphorePermit,
) -> wasmtime::Result<Ending> {
    let _occupied = life.count_instance(slot);
    let mut store = new_store(&life.host.engine.engine, guest, |guest| &mut guest.limiter);
    let command = pre.instantiate_async(&mut store).await?;
    // `run` says only whether it went well; other codes come as `exit-with-code`.
    Ok(match command.wasi_cli_run().call_run(&mut store).await? {
        Ok(()) => Ending::completed(),
        Err(()) => Ending::error(1, ""),
    })
}

/// Runs a core module's `_start` to its end.
pub async fn run_core(
    life: Arc<Life>,
    pre: InstancePre<CoreGuest>,
    guest: CoreGuest,
    slot: OwnedSemaphorePermit,
) -> wasmtime::Result<Ending> {
    let _occupied = life.count_instance(slot);
    let mut store = new_store(&life.host.engine.engine, guest, |guest| &mut guest.limiter);
    let instance = pre.instantiate_async(&mut store).await?;
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
    start.call_async(&mut store, ()).await?;
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

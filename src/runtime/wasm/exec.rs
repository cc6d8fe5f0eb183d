//! Commands that are run in a container beside what runs there.
//!
//! A command is the image's own program with other arguments, where the image is a command, or one of
//! the host's [`toolbox`]. Either way it has the container's files, variables and way out; what it uses
//! is charged to the container, and it ends with the container's life.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::cli::{AsyncStdinStream, AsyncStdoutStream, StdoutStream as _};
use wasmtime_wasi::p2::OutputStream;

use super::super::toolbox::{self, NOT_FOUND, base_name};
use super::super::{ExecCommand, ExecEnd, ExecStreams, RunState, StartError};
use super::command::{Script, ending_of, killed};
use super::cpu::thread_time;
use super::guest::{Io, Surroundings};
use super::instance::slot_now;
use super::life::{KILLED_EXIT_CODE, Life};
use super::output::OnTerminal;
use super::run::Guarded;

/// Bytes of output that a guest may be ahead of its reader, beside what the reader's own pipe holds.
const OUTPUT_BUDGET: usize = 16 << 10;

/// Runs `command`. `program` is the image's own, where it is a command.
pub async fn run(
    life: &Arc<Life>,
    surroundings: &Surroundings,
    program: Option<&Script>,
    command: ExecCommand,
    mut streams: ExecStreams,
) -> Result<ExecEnd, String> {
    let Some(name) = command.args.first().cloned() else { return Err("no command was given".to_owned()) };
    let own = command.program_names.iter().any(|own| own == base_name(&name));
    let work = async {
        let on_terminal = streams.terminal_size().await.map(|size| surroundings.on_terminal(size));
        let surroundings = on_terminal.as_ref().unwrap_or(surroundings);
        match program {
            Some(program) if own => run_program(life, surroundings, program, command.args, streams).await,
            _ if toolbox::has(&name) => run_tool(life, surroundings, command.args, streams).await,
            program => {
                let own = program.and(command.program_names.first()).map(String::as_str);
                Ok(ExecEnd { code: NOT_FOUND, message: toolbox::unknown(&name, own) })
            }
        }
    };
    let mut state = life.state();
    tokio::select! {
        end = work => end,
        _ = state.wait_for(|state| matches!(state, RunState::Exited(_))) => {
            Ok(ExecEnd { code: KILLED_EXIT_CODE, message: "the container has ended\n".to_owned() })
        }
    }
}

async fn run_program(
    life: &Arc<Life>,
    surroundings: &Surroundings,
    program: &Script,
    args: Vec<String>,
    streams: ExecStreams,
) -> Result<ExecEnd, String> {
    let refused = |error: StartError| error.to_string();
    let slot = slot_now(&life.host).map_err(refused)?;
    let surroundings = Arc::new(surroundings.with_args(args));
    let (mut drains, connect) = connect(streams);
    let (script, theirs) = (program.clone(), life.clone());
    let guest = async move {
        let _occupied = theirs.count_instance(slot);
        script.run(&theirs, &surroundings, Io::Beside(Box::new(connect))).await
    };
    let run = Guarded::new(life.clone(), guest).await;
    for drain in &mut drains {
        // A stream that is closed already has nothing left to give.
        if drain.flush().is_ok() {
            drain.ready().await;
        }
    }
    let ending = ending_of(run, killed);
    let message = if ending.message.is_empty() { String::new() } else { format!("{}\n", ending.message) };
    Ok(ExecEnd { code: ending.code, message })
}

/// The streams as guests want them, and the outputs once more: what a guest has written and not flushed
/// must still come out when it has ended.
fn connect(streams: ExecStreams) -> (Vec<Box<dyn OutputStream>>, impl FnOnce(&mut WasiCtxBuilder)) {
    let stdout = AsyncStdoutStream::new(OUTPUT_BUDGET, streams.stdout);
    let stderr = AsyncStdoutStream::new(OUTPUT_BUDGET, streams.stderr);
    let drains = vec![stdout.p2_stream(), stderr.p2_stream()];
    let stdin = AsyncStdinStream::new(streams.stdin);
    let connect = move |builder: &mut WasiCtxBuilder| {
        match streams.terminal {
            Some(_) => builder.stdin(OnTerminal(stdin)).stdout(OnTerminal(stdout)).stderr(OnTerminal(stderr)),
            None => builder.stdin(stdin).stdout(stdout).stderr(stderr),
        };
    };
    (drains, connect)
}

async fn run_tool(
    life: &Arc<Life>,
    surroundings: &Surroundings,
    args: Vec<String>,
    streams: ExecStreams,
) -> Result<ExecEnd, String> {
    surroundings.mounted().await.map_err(|error| error.to_string())?;
    let (sight, theirs) = (surroundings.sight(), life.clone());
    let stop = CancellationToken::new();
    // Whoever no longer waits for the command ends it, and so does the end of the pod.
    let _stop = stop.clone().drop_guard();
    let handle = Handle::current();
    let work = tokio::task::spawn_blocking(move || {
        let before = thread_time();
        let code = toolbox::run(sight, &args, streams, stop, handle);
        theirs.cpu.charge(thread_time().saturating_sub(before));
        code
    });
    match work.await {
        Ok(code) => Ok(ExecEnd { code, message: String::new() }),
        Err(error) => Err(format!("the host failed while running the command: {error}")),
    }
}

//! One more command in a running container.
//!
//! The engine offers no way to end a command that it has begun. One whose client has gone loses its input
//! and its outputs, which ends most; the rest end with the container.

use bollard::container::LogOutput;
use bollard::exec::{ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;

use super::super::{ExecCommand, ExecEnd, ExecStreams, TerminalSize};
use super::engine::Engine;

/// Runs a command to its end.
pub async fn run(engine: &Engine, id: &str, command: ExecCommand, streams: ExecStreams) -> Result<ExecEnd, String> {
    let client = engine.client().await.map_err(|failure| failure.to_string())?;
    let failed = |error| engine.failure(error).to_string();
    let ExecStreams { mut stdin, mut stdout, mut stderr, terminal } = streams;
    let config = ExecConfig {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(terminal.is_some()),
        cmd: Some(command.args),
        ..Default::default()
    };
    let exec = client.create_exec(id, config).await.map_err(failed)?.id;
    let options = StartExecOptions { detach: false, tty: terminal.is_some(), output_capacity: None };
    let StartExecResults::Attached { mut output, mut input } =
        client.start_exec(&exec, Some(options)).await.map_err(failed)?
    else {
        return Err("the engine began the command without its streams".to_owned());
    };
    let typing = async {
        let _ = tokio::io::copy(&mut stdin, &mut input).await;
        let _ = input.shutdown().await;
        std::future::pending::<()>().await;
    };
    let sizing = resize(&client, &exec, terminal);
    let listening = async {
        while let Some(piece) = output.next().await {
            let piece = piece.map_err(failed)?;
            let written = match &piece {
                LogOutput::StdErr { message } => stderr.write_all(message).await,
                LogOutput::StdOut { message } | LogOutput::Console { message } | LogOutput::StdIn { message } => {
                    stdout.write_all(message).await
                }
            };
            written.map_err(|_| "the client has gone".to_owned())?;
        }
        Ok::<(), String>(())
    };
    tokio::select! {
        heard = listening => heard?,
        () = typing => {}
        () = sizing => {}
    }
    let end = client.inspect_exec(&exec).await.map_err(failed)?;
    let code = end.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1);
    Ok(ExecEnd { code, message: String::new() })
}

/// Keeps the command's terminal as large as its client's.
async fn resize(client: &bollard::Docker, exec: &str, terminal: Option<watch::Receiver<TerminalSize>>) {
    let Some(mut terminal) = terminal else { return std::future::pending().await };
    loop {
        let TerminalSize { columns, rows } = *terminal.borrow_and_update();
        if columns > 0 && rows > 0 {
            // A command that has ended has no terminal any more.
            let _ = client.resize_exec(exec, ResizeExecOptions { height: rows, width: columns }).await;
        }
        if terminal.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

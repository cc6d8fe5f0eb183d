//! Small commands for looking into a container that has no programs of its own: `ls`, `cat`, `tar`, …
//!
//! A Wasm image is one program; there is no shell in it and no `/bin`. What `kubectl exec`, `kubectl cp`
//! and exec probes need all the same is here, as host code that sees exactly what the container sees:
//! its mounted directories (each path is resolved beneath the mount by the kernel, read-only mounts stay
//! so), its variables, its way out. There is no way from here to the host's own files.
//!
//! A tool is a function that reads and writes its streams and blocks while it does, so each command has
//! a thread while it runs; whoever starts commands bounds their number. A new tool is one row of
//! [`TOOLS`].

mod archive;
mod fetch;
mod files;
mod simple;
mod view;

use std::io::{self, Read, Write};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{ExecStreams, Mount, Reader, Writer};
use crate::wire::{Caller, Outbound};
use view::View;

/// As shells say it.
pub const NOT_FOUND: i32 = 127;
/// What a usage error ends with.
const USAGE: i32 = 2;
/// 128 + SIGPIPE: nobody reads the output any more.
const BROKEN_PIPE: i32 = 141;
/// 128 + SIGKILL: the container has ended, or whoever asked has gone.
const KILLED: i32 = 137;

/// One command.
struct Tool {
    name: &'static str,
    usage: &'static str,
    run: fn(&mut Session, &[String]) -> io::Result<i32>,
}

/// Every command there is, by name.
const TOOLS: &[Tool] = &[
    Tool { name: "cat", usage: "cat [FILE]...", run: files::cat },
    Tool { name: "echo", usage: "echo [-n] [WORD]...", run: simple::echo },
    Tool { name: "env", usage: "env", run: simple::env },
    Tool { name: "false", usage: "false", run: simple::no },
    Tool { name: "ls", usage: "ls [-a1dl] [PATH]...", run: files::ls },
    Tool { name: "sleep", usage: "sleep SECONDS", run: simple::sleep },
    Tool { name: "stat", usage: "stat [-c FORMAT] PATH...", run: files::stat },
    Tool { name: "tar", usage: "tar c|x|t[vm]f ARCHIVE|- [-C DIRECTORY] [PATH]...", run: archive::tar },
    Tool { name: "test", usage: "test -e|-d|-f|-s PATH", run: files::test },
    Tool { name: "true", usage: "true", run: simple::yes },
    Tool { name: "wget", usage: "wget [-q] [-O FILE] URL", run: fetch::wget },
];

/// What people ask for out of habit.
const SHELLS: &[&str] = &["sh", "bash", "ash", "dash", "zsh", "busybox"];

/// What the commands of a container may see and use.
#[derive(Clone)]
pub struct Sight {
    pub mounts: Vec<Mount>,
    pub env: Vec<(String, String)>,
    pub caller: Arc<Caller>,
    pub outbound: Arc<dyn Outbound>,
}

/// One command while it runs.
struct Session {
    view: View,
    sight: Sight,
    /// The command's own name, for its complaints.
    name: &'static str,
    usage: &'static str,
    stdin: Blocking<Reader>,
    stdout: Blocking<Writer>,
    stderr: Blocking<Writer>,
    stop: CancellationToken,
    handle: Handle,
}

/// The name without the directories before it: `/bin/ls` is `ls`.
pub fn base_name(command: &str) -> &str {
    command.rsplit('/').next().unwrap_or(command)
}

/// Whether there is a command of this name.
pub fn has(command: &str) -> bool {
    find(command).is_some()
}

fn find(command: &str) -> Option<&'static Tool> {
    let name = base_name(command);
    TOOLS.iter().find(|tool| tool.name == name)
}

/// What to say of a command that there is not. `program`: the image's own, where it can be run.
pub fn unknown(command: &str, program: Option<&str>) -> String {
    let names: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
    let offered = names.join(", ");
    let own =
        program.map(|name| format!("the image's own program ({name}) with other arguments, or ")).unwrap_or_default();
    if SHELLS.contains(&base_name(command)) {
        return format!(
            "{command}: a Wasm pod has no shell; what can be run is {own}one of: {offered} (give the command itself, without sh -c)\n"
        );
    }
    format!("{command}: not found; what can be run in a Wasm pod is {own}one of: {offered}\n")
}

/// Runs a command; it blocks, so it wants a thread where that is allowed. `args` begin with the command's name.
/// The exit code comes back once all output has been taken.
pub fn run(sight: Sight, args: &[String], streams: ExecStreams, stop: CancellationToken, handle: Handle) -> i32 {
    let Some((tool, arguments)) = args.split_first().and_then(|(name, rest)| Some((find(name)?, rest))) else {
        return NOT_FOUND;
    };
    let mut session = Session {
        view: View::new(&sight.mounts),
        sight,
        name: tool.name,
        usage: tool.usage,
        stdin: Blocking::new(streams.stdin, &stop, &handle),
        stdout: Blocking::new(streams.stdout, &stop, &handle),
        stderr: Blocking::new(streams.stderr, &stop, &handle),
        stop,
        handle,
    };
    let ended = (tool.run)(&mut session, arguments).and_then(|code| session.stdout.flush().map(|()| code));
    match ended {
        Ok(code) => code,
        Err(_) if session.stop.is_cancelled() => KILLED,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => BROKEN_PIPE,
        Err(error) => session.complain(&explain(&error)).unwrap_or(BROKEN_PIPE),
    }
}

impl Session {
    /// Says what is wrong; the code is that of a command that failed.
    fn complain(&mut self, what: &str) -> io::Result<i32> {
        writeln!(self.stderr, "{}: {what}", self.name)?;
        Ok(1)
    }

    /// Says what is wrong with a path.
    fn blame(&mut self, path: &str, error: &io::Error) -> io::Result<i32> {
        let mut text = format!("{path}: {}", explain(error));
        if error.kind() == io::ErrorKind::NotFound
            && let Some(hint) = self.view.hint(path)
        {
            text.push_str(&hint);
        }
        self.complain(&text)
    }

    /// Says how the command is used.
    fn misused(&mut self, why: &str) -> io::Result<i32> {
        writeln!(self.stderr, "{}: {why}\nusage: {}", self.name, self.usage)?;
        Ok(USAGE)
    }

    /// Fails once the command is to end: for loops that do not touch the streams.
    fn check(&self) -> io::Result<()> {
        if self.stop.is_cancelled() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}

/// An error without the number that Rust adds.
fn explain(error: &io::Error) -> String {
    if error.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error()) {
        return "the path leads out of the mounted directory".to_owned();
    }
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// A stream as a blocking tool reads and writes it; ends when the command is to end.
struct Blocking<T> {
    inner: T,
    stop: CancellationToken,
    handle: Handle,
}

impl<T> Blocking<T> {
    fn new(inner: T, stop: &CancellationToken, handle: &Handle) -> Self {
        Self { inner, stop: stop.clone(), handle: handle.clone() }
    }
}

impl Read for Blocking<Reader> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.handle.block_on(unless(&self.stop, self.inner.read(buffer)))
    }
}

impl Write for Blocking<Writer> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.handle.block_on(unless(&self.stop, self.inner.write(buffer)))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.handle.block_on(unless(&self.stop, self.inner.flush()))
    }
}

async fn unless<R>(stop: &CancellationToken, work: impl Future<Output = io::Result<R>>) -> io::Result<R> {
    tokio::select! {
        done = work => done,
        () = stop.cancelled() => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

/// Bytes moved at a time.
const CHUNK: usize = 32 << 10;

#[cfg(test)]
mod tests;

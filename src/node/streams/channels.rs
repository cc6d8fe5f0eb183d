//! A command and its client: input one way, output, the end and the terminal's size the other.
//!
//! ```text
//! 0 stdin · 1 stdout · 2 stderr · 3 the end, as a Status · 4 the terminal's size · 255 N: N is closed (v5)
//! ```
//!
//! These are the channels of one WebSocket, where each binary message begins with its number. Older clients
//! open a SPDY stream for each ([`Opened`]); to the command there is no difference.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use futures::FutureExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};

use super::opened::{Numbers, Opened};
use super::terminal::{self, Keyboard, Typed};
use super::transport::{CHUNK, Connection, PIECES, Source, Times, pump};
use super::{Protocols, spdy};
use crate::runtime::{ExecEnd, ExecStreams, TerminalSize};

/// What is on its way between a command and its client, in each direction and stream.
const PIPE: usize = 64 << 10;
/// How long a client may take to close its side once all has been said.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(2);

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const ERROR: u8 = 3;
pub const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// How many of them a session may have.
pub const CHANNELS: usize = 5;

/// What is spoken with a client of exec and attach, the preferred first. Over SPDY, the older ones say the
/// end in words, and the oldest know no size of a terminal.
pub const PROTOCOLS: Protocols = Protocols {
    websocket: &["v5.channel.k8s.io", "v4.channel.k8s.io"],
    spdy: &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"],
};

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// One terminal: what is written to either output comes as one.
    pub tty: bool,
    /// The terminal is a real one, which does all that itself.
    pub raw: bool,
}

impl Wanted {
    /// Whether a terminal is to be played to the client.
    fn plays(self) -> bool {
        self.tty && !self.raw
    }

    /// The channels that a client opens for it; the size of a terminal only where the protocol has it.
    pub fn channels(self, resizes: bool) -> Vec<u8> {
        let channels = [
            (ERROR, true),
            (STDIN, self.stdin),
            (STDOUT, self.stdout),
            (STDERR, self.stderr && !self.tty),
            (RESIZE, self.tty && resizes),
        ];
        channels.into_iter().filter(|(_, wanted)| *wanted).map(|(channel, _)| channel).collect()
    }
}

/// Why a client's side ended before the command.
enum Left {
    /// It has gone.
    Gone,
    /// It pressed the key that interrupts.
    Interrupted,
}

/// What a client says.
pub enum Heard {
    Bytes(u8, Bytes),
    End(u8),
}

/// Where it is heard.
enum Ear {
    Channels(Source),
    Streams(Box<Opened>),
}

impl Ear {
    /// `None` when the client has gone.
    async fn next(&mut self, times: &Times) -> Option<Heard> {
        let source = match self {
            Self::Streams(streams) => return streams.next(times).await,
            Self::Channels(source) => source,
        };
        loop {
            let mut message = source.next(times).await?;
            if !message.is_empty() {
                let channel = message.split_to(1);
                return Some(match (channel.first().copied().unwrap_or_default(), message.first()) {
                    (CLOSE, Some(closed)) => Heard::End(*closed),
                    (channel, _) => Heard::Bytes(channel, message),
                });
            }
        }
    }

    /// Hears the client out.
    async fn drain(&mut self, times: &Times) {
        while self.next(times).await.is_some() {}
    }
}

/// How the client is spoken to.
struct Voice {
    outgoing: mpsc::Sender<Bytes>,
    /// The streams of SPDY; a WebSocket's channels need no numbers but their own.
    numbers: Option<Numbers>,
    /// Whether the end is told as a Status, not in words.
    tells_status: bool,
}

impl Voice {
    fn number(&self, channel: u8) -> Option<u32> {
        self.numbers?.get(usize::from(channel)).copied()
    }

    async fn send(&self, piece: Bytes) -> io::Result<()> {
        self.outgoing.send(piece).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    async fn say(&self, channel: u8, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(CHUNK) {
            match self.number(channel) {
                None => self.send(message(channel, piece)).await?,
                // A stream that was never opened takes nothing.
                Some(0) => {}
                Some(number) => self.send(spdy::data(number, false, piece)).await?,
            }
        }
        Ok(())
    }

    /// Ends a stream. The channels of a WebSocket end with it.
    async fn end(&self, channel: u8) -> io::Result<()> {
        match self.number(channel) {
            None | Some(0) => Ok(()),
            Some(number) => self.send(spdy::data(number, true, b"")).await,
        }
    }

    /// Says how the command ended.
    async fn tell(&self, wanted: Wanted, end: Result<ExecEnd, String>) -> io::Result<()> {
        if let Ok(end) = &end
            && (wanted.stderr || wanted.tty)
        {
            let channel = if wanted.tty { STDOUT } else { STDERR };
            self.say(channel, &shown(end.message.as_bytes(), wanted.plays())).await?;
        }
        for channel in [STDOUT, STDERR] {
            self.end(channel).await?;
        }
        let status = status(&end);
        match status["message"].as_str() {
            _ if self.tells_status => self.say(ERROR, status.to_string().as_bytes()).await?,
            Some(failure) => self.say(ERROR, failure.as_bytes()).await?,
            None => {}
        }
        self.end(ERROR).await
    }
}

/// Connects a command to its client, until either ends.
pub async fn serve<F>(
    connection: Connection,
    protocol: &'static str,
    wanted: Wanted,
    work: impl FnOnce(ExecStreams) -> F,
) where
    F: Future<Output = Result<ExecEnd, String>>,
{
    let (sink, source) = connection.split();
    let (outgoing, pieces) = mpsc::channel(PIECES);
    let times = Times::new();
    let times = &times;
    let pumping = pump(sink, pieces, times);
    let session = async {
        let (mut ear, numbers) = if source.is_spdy() {
            let resizes = matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
            let opened = Opened::accept(source, &outgoing, wanted, resizes, times).await?;
            let numbers = opened.numbers();
            (Ear::Streams(Box::new(opened)), Some(numbers))
        } else {
            (Ear::Channels(source), None)
        };
        let tells_status = numbers.is_none() || protocol == "v4.channel.k8s.io";
        let voice = Voice { outgoing, numbers, tells_status };
        converse(&mut ear, &voice, wanted, work, times).await;
        Some(ear)
    };
    tokio::pin!(pumping);
    let mut ear = tokio::select! {
        // All has been said.
        Some(ear) = session => ear,
        // Nobody takes it, or nobody has opened anything.
        () = &mut pumping => return,
    };
    tokio::select! {
        () = &mut pumping => drop(tokio::time::timeout(FAREWELL, ear.drain(times)).await),
        () = ear.drain(times) => {}
    }
}

/// Returns when the command has ended and that has been said, or when the client has left.
async fn converse<F>(ear: &mut Ear, voice: &Voice, wanted: Wanted, work: impl FnOnce(ExecStreams) -> F, times: &Times)
where
    F: Future<Output = Result<ExecEnd, String>>,
{
    let (stdin, input) = tokio::io::duplex(PIPE);
    let (stdout, output) = tokio::io::duplex(PIPE);
    let (stderr, errors) = tokio::io::duplex(PIPE);
    let (screen, echo) = tokio::io::duplex(PIPE);
    let (size, sizes) = watch::channel(TerminalSize::default());
    let streams = ExecStreams {
        stdin: if wanted.stdin { Box::new(input) } else { Box::new(tokio::io::empty()) },
        stdout: Box::new(stdout),
        stderr: Box::new(stderr),
        terminal: wanted.tty.then_some(sizes),
    };
    let end = tokio::select! {
        (end, talked) = futures::future::join(work(streams), talk(voice, wanted, [output, errors, echo])) => match talked {
            Ok(()) => end,
            // Nobody is there to hear how it ended.
            Err(_) => return,
        },
        left = listen(ear, Input { pipe: Some(stdin), screen }, wanted, &size, times) => match left {
            Left::Gone => return,
            Left::Interrupted => Ok(ExecEnd { code: 130, message: "^C\n".to_owned() }),
        },
    };
    // Who has gone meanwhile does not hear it.
    let _ = voice.tell(wanted, end).await;
}

/// The Status that clients read the exit code from.
fn status(end: &Result<ExecEnd, String>) -> Value {
    match end {
        Ok(ExecEnd { code: 0, .. }) => json!({"metadata": {}, "status": "Success"}),
        Ok(ExecEnd { code, .. }) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(why) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("error executing command in container: {why}"),
            "reason": "InternalError",
            "code": 500,
        }),
    }
}

pub fn message(channel: u8, bytes: &[u8]) -> Bytes {
    let mut text = BytesMut::with_capacity(bytes.len() + 1);
    text.put_u8(channel);
    text.put_slice(bytes);
    text.freeze()
}

/// A program's output as the client is to have it.
fn shown(bytes: &[u8], tty: bool) -> Bytes {
    if tty && bytes.contains(&b'\n') { terminal::shown(bytes) } else { Bytes::copy_from_slice(bytes) }
}

/// Passes the command's output on until both streams have ended, and between it what the terminal shows of
/// the keys.
async fn talk(voice: &Voice, wanted: Wanted, [mut output, mut errors, mut echo]: [DuplexStream; 3]) -> io::Result<()> {
    let (mut out, mut err, mut keys) = (vec![0; CHUNK], vec![0; CHUNK], vec![0; CHUNK]);
    let (mut out_open, mut err_open, mut echo_open) = (true, true, wanted.plays());
    while out_open || err_open {
        let (bytes, open, channel, asked, plays) = tokio::select! {
            count = output.read(&mut out), if out_open => {
                (out.get(..count?), &mut out_open, STDOUT, wanted.stdout, wanted.plays())
            }
            count = errors.read(&mut err), if err_open => {
                (err.get(..count?), &mut err_open, STDERR, wanted.stderr || wanted.tty, wanted.plays())
            }
            count = echo.read(&mut keys), if echo_open => {
                (keys.get(..count?), &mut echo_open, STDOUT, true, false)
            }
        };
        let bytes = bytes.unwrap_or_default();
        *open = !bytes.is_empty();
        if *open && asked {
            let channel = if wanted.tty { STDOUT } else { channel };
            voice.say(channel, &shown(bytes, plays)).await?;
        }
    }
    Ok(())
}

/// Where a client's input goes.
struct Input {
    /// To the command; `None` once it is closed, by either side.
    pipe: Option<DuplexStream>,
    /// What a terminal shows of the keys.
    screen: DuplexStream,
}

impl Input {
    /// Waits until the command takes it. One that has stopped reading does not end its client's session.
    async fn pass_on(&mut self, bytes: &[u8]) {
        if let Some(pipe) = &mut self.pipe
            && pipe.write_all(bytes).await.is_err()
        {
            self.pipe = None;
        }
    }

    /// Keys are heard even while the command reads none: what finds no room any more is lost, with a bell.
    fn typed(&mut self, typed: &Typed) {
        // What a terminal shows of keys is no reason to wait.
        let _ = self.screen.write_all(&typed.echo).now_or_never();
        let Some(pipe) = &mut self.pipe else { return };
        match pipe.write(&typed.bytes).now_or_never() {
            Some(Err(_)) => self.pipe = None,
            Some(Ok(count)) if count == typed.bytes.len() => {}
            _ => _ = self.screen.write_all(&terminal::refused()).now_or_never(),
        }
        if typed.ends {
            self.pipe = None;
        }
    }
}

/// Passes the client's input on; returns when it has left.
async fn listen(
    ear: &mut Ear,
    mut input: Input,
    wanted: Wanted,
    size: &watch::Sender<TerminalSize>,
    times: &Times,
) -> Left {
    let mut keyboard = wanted.plays().then(Keyboard::default);
    while let Some(heard) = ear.next(times).await {
        match (heard, &mut keyboard) {
            (Heard::Bytes(STDIN, bytes), None) => input.pass_on(&bytes).await,
            (Heard::Bytes(STDIN, keys), Some(keyboard)) => {
                let typed = keyboard.press(&keys);
                input.typed(&typed);
                if typed.interrupts {
                    return Left::Interrupted;
                }
            }
            (Heard::End(STDIN), _) => input.pipe = None,
            (Heard::Bytes(RESIZE, bytes), _) => {
                // A Wasm program hears of it once, when it starts: nobody listens then.
                if let Some(now) = parse_size(&bytes) {
                    size.send_replace(now);
                }
            }
            (Heard::Bytes(..) | Heard::End(_), _) => {}
        }
    }
    Left::Gone
}

/// `{"Width":80,"Height":24}`
fn parse_size(bytes: &[u8]) -> Option<TerminalSize> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let of = |name: &str| value.get(name)?.as_u64()?.try_into().ok();
    Some(TerminalSize { columns: of("Width")?, rows: of("Height")? })
}

#[cfg(test)]
mod tests;

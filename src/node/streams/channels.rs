//! The channels of one WebSocket: each binary message begins with the number of its stream.
//!
//! ```text
//! 0 stdin · 1 stdout · 2 stderr · 3 the end, as a Status · 4 the terminal's size · 255 N: N is closed (v5)
//! ```

use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::{IDLE, PATIENCE, PING, Socket};
use crate::runtime::{ExecEnd, ExecStreams, TerminalSize};

/// What is on its way between a command and its client, in each direction and stream.
const PIPE: usize = 64 << 10;
/// The largest message sent.
const CHUNK: usize = 32 << 10;
/// How long a client may take to close its side once all has been said.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(2);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What is spoken over the channels.
pub struct Protocol;

impl Protocol {
    /// The preferred first.
    pub const ALL: &'static [&'static str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];
}

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// One terminal: what is written to either output comes as one, lines end as terminals want them, and
    /// the keys that interrupt and end input do.
    pub tty: bool,
    /// The terminal is a real one, which does all that itself.
    pub raw: bool,
}

impl Wanted {
    /// Whether a terminal is to be played to the client.
    fn plays(self) -> bool {
        self.tty && !self.raw
    }
}

/// When a session was last heard of, and when it last carried something.
pub struct Times(Mutex<(Instant, Instant)>);

impl Times {
    pub fn new() -> Self {
        Self(Mutex::new((Instant::now(), Instant::now())))
    }

    pub fn note(&self, carried: bool) {
        let now = Instant::now();
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.0 = now;
        if carried {
            times.1 = now;
        }
    }

    pub fn is_over(&self) -> bool {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.0.elapsed() > PATIENCE || times.1.elapsed() > IDLE
    }
}

/// Why a client's side ended before the command.
enum Left {
    /// It has gone.
    Gone,
    /// It pressed the key that interrupts.
    Interrupted,
}

/// Connects a command to its client, until either ends.
pub async fn serve<F>(socket: Socket, wanted: Wanted, work: impl FnOnce(ExecStreams) -> F)
where
    F: Future<Output = Result<ExecEnd, String>>,
{
    let (mut sink, mut source) = socket.split();
    let (stdin, input) = tokio::io::duplex(PIPE);
    let (stdout, output) = tokio::io::duplex(PIPE);
    let (stderr, errors) = tokio::io::duplex(PIPE);
    let times = Times::new();
    let (size, sizes) = watch::channel(TerminalSize::default());
    let streams = ExecStreams {
        stdin: if wanted.stdin { Box::new(input) } else { Box::new(tokio::io::empty()) },
        stdout: Box::new(stdout),
        stderr: Box::new(stderr),
        terminal: (wanted.tty && wanted.raw).then_some(sizes),
    };
    let end = {
        let listening = listen(&mut source, stdin, wanted, &size, &times);
        let talking = talk(&mut sink, wanted, output, errors, &times);
        tokio::select! {
            (end, talked) = futures::future::join(work(streams), talking) => match talked {
                Ok(()) => end,
                // Nobody is there to hear how it ended.
                Err(_) => return,
            },
            left = listening => match left {
                Left::Gone => return,
                Left::Interrupted => Ok(ExecEnd { code: 130, message: String::new() }),
            },
        }
    };
    let _ = tokio::time::timeout(FAREWELL, tell(&mut sink, wanted, end)).await;
    let _ = tokio::time::timeout(FAREWELL, async { while let Some(Ok(_)) = source.next().await {} }).await;
}

/// Says how the command ended, and closes.
async fn tell(
    sink: &mut SplitSink<Socket, Message>,
    wanted: Wanted,
    end: Result<ExecEnd, String>,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    if let Ok(end) = &end
        && !end.message.is_empty()
        && (wanted.stderr || wanted.tty)
    {
        let channel = if wanted.tty { STDOUT } else { STDERR };
        for piece in end.message.as_bytes().chunks(CHUNK) {
            sink.send(message(channel, &shown(piece, wanted.plays()))).await?;
        }
    }
    sink.send(message(ERROR, status(&end).to_string().as_bytes())).await?;
    // Clients take a farewell without a code for a failure.
    let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    sink.send(Message::Close(Some(normal))).await
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

pub fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut text = BytesMut::with_capacity(bytes.len() + 1);
    text.put_u8(channel);
    text.put_slice(bytes);
    Message::Binary(text.freeze())
}

/// As a terminal shows it: each line's end takes the cursor back to the left.
fn shown(bytes: &[u8], tty: bool) -> Bytes {
    if !tty || !bytes.contains(&b'\n') {
        return Bytes::copy_from_slice(bytes);
    }
    let mut text = BytesMut::with_capacity(bytes.len() + 16);
    for byte in bytes {
        if *byte == b'\n' {
            text.put_u8(b'\r');
        }
        text.put_u8(*byte);
    }
    text.freeze()
}

/// Passes the command's output on until both streams have ended. Now and then it asks whether the client
/// is still there.
async fn talk(
    sink: &mut SplitSink<Socket, Message>,
    wanted: Wanted,
    mut output: DuplexStream,
    mut errors: DuplexStream,
    times: &Times,
) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    let mut pings = tokio::time::interval(PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        let (channel, count) = tokio::select! {
            count = read(&mut output, &mut out), if out_open => (STDOUT, count?),
            count = read(&mut errors, &mut err), if err_open => (STDERR, count?),
            _ = pings.tick() => {
                if times.is_over() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                sink.send(Message::Ping(Bytes::new())).await.map_err(gone)?;
                continue;
            }
        };
        let (bytes, open, asked) = match channel {
            STDOUT => (&out, &mut out_open, wanted.stdout),
            _ => (&err, &mut err_open, wanted.stderr || wanted.tty),
        };
        *open = count > 0;
        if count > 0 && asked {
            times.note(true);
            let channel = if wanted.tty { STDOUT } else { channel };
            let piece = shown(bytes.get(..count).unwrap_or_default(), wanted.plays());
            sink.send(message(channel, &piece)).await.map_err(gone)?;
        }
    }
    Ok(())
}

async fn read(from: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> io::Result<usize> {
    from.read(buffer).await
}

/// Passes the client's input on; returns when it has left.
async fn listen(
    source: &mut SplitStream<Socket>,
    stdin: DuplexStream,
    wanted: Wanted,
    size: &watch::Sender<TerminalSize>,
    times: &Times,
) -> Left {
    let mut stdin = Some(stdin);
    while let Some(Ok(message)) = source.next().await {
        let (Message::Binary(_) | Message::Text(_)) = &message else {
            times.note(false);
            if message.is_close() {
                return Left::Gone;
            }
            continue;
        };
        times.note(true);
        let bytes = message.into_data();
        let Some((channel, rest)) = bytes.split_first() else { continue };
        match (*channel, rest) {
            (STDIN, bytes) => {
                let typed = typed(bytes, wanted.plays());
                if let Some(pipe) = &mut stdin
                    // A command that has stopped reading does not end its client's session.
                    && (pipe.write_all(&typed.bytes).await.is_err() || typed.ends)
                {
                    stdin = None;
                }
                if typed.interrupts {
                    return Left::Interrupted;
                }
            }
            (CLOSE, [STDIN]) => stdin = None,
            (RESIZE, bytes) => {
                // A Wasm program has no window whose size could change: nobody listens then.
                if let Some(now) = parse_size(bytes) {
                    size.send_replace(now);
                }
            }
            _ => {}
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

/// What a terminal makes of keys.
struct Typed {
    bytes: Bytes,
    ends: bool,
    interrupts: bool,
}

fn typed(bytes: &[u8], tty: bool) -> Typed {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    if !tty {
        return Typed { bytes: Bytes::copy_from_slice(bytes), ends: false, interrupts: false };
    }
    let stop = bytes.iter().position(|byte| matches!(*byte, CTRL_C | CTRL_D));
    let (before, key) = match stop {
        Some(at) => (bytes.get(..at).unwrap_or_default(), bytes.get(at).copied()),
        None => (bytes, None),
    };
    let lines = before.iter().map(|byte| if *byte == b'\r' { b'\n' } else { *byte });
    Typed { bytes: lines.collect(), ends: key == Some(CTRL_D), interrupts: key == Some(CTRL_C) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_says_what_clients_look_for() {
        let end = |code| Ok(ExecEnd { code, message: String::new() });
        assert_eq!(status(&end(0)), json!({"metadata": {}, "status": "Success"}));
        let failed = status(&end(3));
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"], json!([{"reason": "ExitCode", "message": "3"}]));
        assert_eq!(status(&Err("no".into()))["reason"], "InternalError");
    }

    #[test]
    fn a_terminal_translates_lines_and_keys() {
        assert_eq!(shown(b"a\nb", true), Bytes::from_static(b"a\r\nb"));
        assert_eq!(shown(b"a\nb", false), Bytes::from_static(b"a\nb"));
        let plain = typed(b"a\r\x03", false);
        assert!(plain.bytes == Bytes::from_static(b"a\r\x03") && !plain.interrupts);
        let keys = typed(b"a\r\x04b", true);
        assert!(keys.bytes == Bytes::from_static(b"a\n") && keys.ends && !keys.interrupts);
        assert!(typed(b"\x03", true).interrupts);
        let size = parse_size(br#"{"Width":80,"Height":24}"#);
        assert_eq!(size, Some(TerminalSize { columns: 80, rows: 24 }));
        assert_eq!(parse_size(b"wide"), None);
    }
}

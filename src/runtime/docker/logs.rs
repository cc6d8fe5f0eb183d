//! What a container says, from the engine's log of it to the node's.
//!
//! The engine keeps what is said whether or not anybody listens, with the time of each piece. So a node that
//! was away goes on behind the last piece that it wrote down. A container with a terminal or an input is
//! attached to instead: its prompts have no line's end, and what it said to nobody is gone.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bollard::container::LogOutput;
use bollard::query_parameters::{AttachContainerOptionsBuilder, LogsOptionsBuilder};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use super::super::{Output, Stream};
use super::engine::{Engine, Failure};

/// Before a stream that ended under a running container is opened again.
const PAUSE: Duration = Duration::from_millis(500);

/// Passes on what the container says until it has said all. Dropped when that is of no use any more.
pub async fn follow(engine: Arc<Engine>, id: String, output: Arc<dyn Output>) {
    let mut last = output.heard_until();
    loop {
        let mut returns = engine.returns();
        if let Ok(client) = engine.client().await {
            let since = last.map_or(0, |at| i32::try_from(since_epoch(at).as_secs()).unwrap_or(i32::MAX));
            let options =
                LogsOptionsBuilder::new().follow(true).stdout(true).stderr(true).timestamps(true).since(since);
            let mut pieces = client.logs(&id, Some(options.build()));
            let mut broke = false;
            while let Some(piece) = pieces.next().await {
                match piece {
                    Ok(piece) => pass_on(piece, &mut last, output.as_ref()),
                    Err(error) => {
                        if matches!(engine.failure(error), Failure::NotFound(_)) {
                            return;
                        }
                        broke = true;
                        break;
                    }
                }
            }
            // It ends when the container does; not, though, if it is the engine that ended.
            let running = client
                .inspect_container(&id, None)
                .await
                .map(|known| known.state.and_then(|state| state.running).unwrap_or(false));
            match running.map_err(|error| engine.failure(error)) {
                Ok(false) if !broke => return,
                Err(Failure::NotFound(_)) => return,
                _ => {}
            }
        }
        tokio::select! {
            _ = returns.changed() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// One piece begins with its time. What is not later than the last is known.
fn pass_on(piece: LogOutput, last: &mut Option<SystemTime>, output: &dyn Output) {
    let (stream, message) = match piece {
        LogOutput::StdErr { message } => (Stream::Stderr, message),
        LogOutput::StdOut { message } | LogOutput::Console { message } | LogOutput::StdIn { message } => {
            (Stream::Stdout, message)
        }
    };
    let Some((at, text)) = split(&message) else {
        return output.write(stream, &message);
    };
    if last.is_some_and(|last| at <= last) {
        return;
    }
    *last = Some(at);
    output.write_at(stream, text, at);
}

/// The time before the first space, and what follows.
fn split(message: &Bytes) -> Option<(SystemTime, &[u8])> {
    let space = message.iter().position(|byte| *byte == b' ')?;
    let text = std::str::from_utf8(message.get(..space)?).ok()?;
    Some((super::time(text)?, message.get(space + 1..)?))
}

fn since_epoch(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// A container's streams, held from before its start.
pub struct Attached {
    streams: bollard::container::AttachContainerResults,
}

impl Attached {
    pub async fn to(engine: &Engine, id: &str) -> Result<Attached, Failure> {
        let client = engine.client().await?;
        let options = AttachContainerOptionsBuilder::new().stream(true).stdin(true).stdout(true).stderr(true);
        let streams = client.attach_container(id, Some(options.build())).await;
        Ok(Attached { streams: streams.map_err(|error| engine.failure(error))? })
    }

    /// Carries both ways until the container has said all.
    pub async fn carry(self, output: Arc<dyn Output>) {
        let bollard::container::AttachContainerResults { output: mut said, input: mut keyboard } = self.streams;
        let typing = async {
            if let Some(mut input) = output.input() {
                let _ = tokio::io::copy(&mut input, &mut keyboard).await;
            }
            // Its input ends; without one it must end too, or a program would wait for it.
            let _ = keyboard.shutdown().await;
            std::future::pending::<()>().await;
        };
        let listening = async {
            while let Some(Ok(piece)) = said.next().await {
                let stream = if matches!(piece, LogOutput::StdErr { .. }) { Stream::Stderr } else { Stream::Stdout };
                output.write(stream, &piece.into_bytes());
            }
        };
        tokio::select! {
            () = typing => {}
            () = listening => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<(Stream, String)>>);

    impl Output for Heard {
        fn write(&self, stream: Stream, bytes: &[u8]) {
            self.0.lock().expect("no panic").push((stream, String::from_utf8_lossy(bytes).into_owned()));
        }
    }

    #[test]
    fn each_piece_is_passed_on_once() {
        let (heard, mut last) = (Heard::default(), None);
        let out = |text: &'static str| LogOutput::StdOut { message: Bytes::from_static(text.as_bytes()) };
        for text in [
            "2026-01-01T00:00:00.000000001Z one\n",
            "2026-01-01T00:00:00.000000001Z one\n",
            "2026-01-01T00:00:00.000000002Z two\n",
        ] {
            pass_on(out(text), &mut last, &heard);
        }
        let error = LogOutput::StdErr { message: Bytes::from_static(b"2026-01-01T00:00:01Z oh no\n") };
        pass_on(error, &mut last, &heard);
        pass_on(out("without a time"), &mut last, &heard);
        let said = heard.0.lock().expect("no panic");
        let said: Vec<(Stream, &str)> = said.iter().map(|(stream, text)| (*stream, text.as_str())).collect();
        let wanted = [
            (Stream::Stdout, "one\n"),
            (Stream::Stdout, "two\n"),
            (Stream::Stderr, "oh no\n"),
            (Stream::Stdout, "without a time"),
        ];
        assert_eq!(said, wanted);
    }
}

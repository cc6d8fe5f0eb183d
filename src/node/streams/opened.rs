//! A command's streams over SPDY: the client opens one for each, and says in its headers what it is for.
//!
//! The session begins when all that the request promised have been opened. A stream more than those is
//! refused; what comes on a stream that nobody reads is passed over.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::channels::{CHANNELS, ERROR, Heard, RESIZE, STDERR, STDIN, STDOUT, Wanted};
use super::spdy::{self, Decoder, Encoder, Frame};
use super::transport::{Source, Times};

/// How long a client may take to open its streams: the kubelet's.
const OPENING: Duration = Duration::from_secs(30);
/// What a client may send before it has opened all of them.
const MAX_EARLY: usize = 16;

/// The SPDY stream of each channel; 0 for none.
pub type Numbers = [u32; CHANNELS];

/// The streams of one session, and what comes on them.
pub struct Opened {
    source: Source,
    decoder: Decoder,
    encoder: Encoder,
    numbers: Numbers,
    /// Held weakly: the session ends when it has nothing more to say, whatever is asked of it then.
    outgoing: mpsc::WeakSender<Bytes>,
    ready: VecDeque<Heard>,
}

impl Opened {
    /// Waits for the streams of a session; `None` where they do not come.
    pub async fn accept(
        source: Source,
        outgoing: &mpsc::Sender<Bytes>,
        wanted: Wanted,
        resizes: bool,
        times: &Times,
    ) -> Option<Self> {
        let mut opened = Self {
            source,
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            numbers: Numbers::default(),
            outgoing: outgoing.downgrade(),
            ready: VecDeque::new(),
        };
        let promised = wanted.channels(resizes);
        let all = async {
            while promised.iter().any(|channel| opened.number(*channel) == 0) {
                let frame = opened.frame(times).await?;
                opened.take(frame, &promised, times).await?;
                if opened.ready.len() > MAX_EARLY {
                    return None;
                }
            }
            Some(())
        };
        tokio::time::timeout(OPENING, all).await.ok()??;
        Some(opened)
    }

    pub fn numbers(&self) -> Numbers {
        self.numbers
    }

    fn number(&self, channel: u8) -> u32 {
        self.numbers.get(usize::from(channel)).copied().unwrap_or(0)
    }

    /// What comes next on one of the streams; `None` when the client has gone.
    pub async fn next(&mut self, times: &Times) -> Option<Heard> {
        loop {
            if let Some(heard) = self.ready.pop_front() {
                return Some(heard);
            }
            let frame = self.frame(times).await?;
            self.take(frame, &[], times).await?;
        }
    }

    async fn frame(&mut self, times: &Times) -> Option<Frame> {
        loop {
            match self.decoder.frame() {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "a session ended: not SPDY as it is spoken");
                    return None;
                }
            }
            let bytes = self.source.next(times).await?;
            self.decoder.push(&bytes);
        }
    }

    async fn send(&mut self, frame: Bytes) -> Option<()> {
        self.outgoing.upgrade()?.send(frame).await.ok()
    }

    /// Takes a frame in; `None` when the client leaves with it. Streams of `promised` may be opened.
    async fn take(&mut self, frame: Frame, promised: &[u8], times: &Times) -> Option<()> {
        match frame {
            Frame::Open { stream, fin, headers } => {
                let kind = headers.iter().find(|(name, _)| name == "streamtype").map_or("", |(_, kind)| kind.as_str());
                let free = |channel: &u8| promised.contains(channel) && self.number(*channel) == 0;
                let Some(channel) = channel(kind).filter(free) else {
                    return self.send(spdy::reset(stream, spdy::REFUSED_STREAM)).await;
                };
                if let Some(number) = self.numbers.get_mut(usize::from(channel)) {
                    *number = stream;
                }
                if fin {
                    self.ready.push_back(Heard::End(channel));
                }
                let reply = self.encoder.reply(stream);
                self.send(reply).await
            }
            Frame::Data { stream, fin, bytes } => {
                times.note(true);
                let channel = (0_u8..).zip(self.numbers).find(|(_, number)| *number == stream);
                if let Some((channel, _)) = channel {
                    if !bytes.is_empty() {
                        self.ready.push_back(Heard::Bytes(channel, bytes));
                    }
                    if fin {
                        self.ready.push_back(Heard::End(channel));
                    }
                }
                Some(())
            }
            Frame::Reset { stream } => {
                if stream == self.number(STDIN) {
                    self.ready.push_back(Heard::End(STDIN));
                }
                Some(())
            }
            Frame::Ping(id) if spdy::is_clients_ping(id) => self.send(spdy::ping(id)).await,
            Frame::GoAway => None,
            Frame::Ping(_) | Frame::Other => Some(()),
        }
    }
}

fn channel(stream_type: &str) -> Option<u8> {
    match stream_type {
        "stdin" => Some(STDIN),
        "stdout" => Some(STDOUT),
        "stderr" => Some(STDERR),
        "error" => Some(ERROR),
        "resize" => Some(RESIZE),
        _ => None,
    }
}

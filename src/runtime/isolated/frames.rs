//! What an exchange with a worker carries beside HTTP: messages and the bytes of streams, in order.
//!
//! A frame is a kind (one byte), a length (four bytes, big-endian) and so many bytes: JSON for a message,
//! raw for a stream. Streams end with an empty frame of theirs.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::super::Stream;
use crate::wire::{BoxError, HttpBody};

/// The longest frame that is taken: variables and ConfigMaps of a container fit many times over.
const MAX_FRAME_BYTES: usize = 16 << 20;
/// Bytes of a stream in one frame; more are cut.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Frames that wait to be sent. Of a container's output what comes beyond it is dropped.
const WAITING: usize = 128;
const HEAD_BYTES: usize = 5;

/// A stream of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Input,
    Output(Stream),
}

/// One step of an exchange.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<M> {
    Say(M),
    Bytes(Channel, Bytes),
}

const MESSAGE: u8 = 0;
const CHANNELS: [(u8, Channel); 3] =
    [(1, Channel::Input), (2, Channel::Output(Stream::Stdout)), (3, Channel::Output(Stream::Stderr))];

fn framed(kind: u8, content: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + content.len());
    frame.put_u8(kind);
    // What is sent is bounded far below this.
    frame.put_u32(u32::try_from(content.len()).unwrap_or(u32::MAX));
    frame.put_slice(content);
    frame.freeze()
}

/// A message as it is sent.
pub fn message(message: &impl Serialize) -> Bytes {
    // The messages are plain structures: nothing in them can fail to be JSON.
    framed(MESSAGE, &serde_json::to_vec(message).unwrap_or_default())
}

/// Bytes of a stream as they are sent; none: its end.
pub fn bytes(channel: Channel, content: &[u8]) -> Bytes {
    let kind = CHANNELS.iter().find(|(_, known)| *known == channel).map_or(MESSAGE, |(kind, _)| *kind);
    framed(kind, content)
}

/// A body of frames, and where they are put in.
pub fn outgoing() -> (mpsc::Sender<Bytes>, HttpBody) {
    let (sender, mut frames) = mpsc::channel::<Bytes>(WAITING);
    let frames = stream::poll_fn(move |cx| {
        frames.poll_recv(cx).map(|frame| frame.map(|frame| Ok::<_, BoxError>(http_body::Frame::data(frame))))
    });
    (sender, BodyExt::boxed_unsync(StreamBody::new(frames)))
}

/// The frames of a body.
pub struct Incoming {
    body: HttpBody,
    buffer: BytesMut,
}

impl Incoming {
    pub fn new(body: HttpBody) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next frame; `None` at the end. The error says what is wrong with what came.
    pub async fn next<M: DeserializeOwned>(&mut self) -> Result<Option<Frame<M>>, String> {
        loop {
            if let Some(frame) = take(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(error.to_string()),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err("the exchange ended within a frame".to_owned()),
            }
        }
    }
}

/// The first frame of what has come, if it is whole.
fn take<M: DeserializeOwned>(buffer: &mut BytesMut) -> Result<Option<Frame<M>>, String> {
    let Some((head, rest)) = buffer.split_at_checked(HEAD_BYTES) else { return Ok(None) };
    let (kind, length) = (head[0], (&head[1..]).get_u32() as usize);
    if length > MAX_FRAME_BYTES {
        return Err(format!("a frame of {length} bytes; at most {MAX_FRAME_BYTES} are taken"));
    }
    if rest.len() < length {
        return Ok(None);
    }
    buffer.advance(HEAD_BYTES);
    let content = buffer.split_to(length).freeze();
    if kind == MESSAGE {
        return serde_json::from_slice(&content).map(|message| Some(Frame::Say(message))).map_err(|e| e.to_string());
    }
    let channel = CHANNELS.iter().find(|(known, _)| *known == kind).ok_or_else(|| format!("a frame of kind {kind}"))?;
    Ok(Some(Frame::Bytes(channel.1, content)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_as_they_were_sent_however_they_are_cut() {
        let sent = [message(&"hello"), bytes(Channel::Input, b"in"), bytes(Channel::Output(Stream::Stderr), b"")];
        let whole = sent.concat();
        for size in 1..whole.len() {
            let parts: Vec<_> =
                whole.chunks(size).map(|part| Ok(http_body::Frame::data(Bytes::copy_from_slice(part)))).collect();
            let mut frames = Incoming::new(BodyExt::boxed_unsync(StreamBody::new(stream::iter(parts))));
            assert_eq!(frames.next::<String>().await, Ok(Some(Frame::Say("hello".to_owned()))));
            assert_eq!(frames.next::<String>().await, Ok(Some(Frame::Bytes(Channel::Input, "in".into()))));
            let end = Frame::Bytes(Channel::Output(Stream::Stderr), Bytes::new());
            assert_eq!(frames.next::<String>().await, Ok(Some(end)));
            assert_eq!(frames.next::<String>().await, Ok(None));
        }
    }

    #[tokio::test]
    async fn what_is_no_frame_is_an_error() {
        for (bytes, words) in [
            (&b"\x09\0\0\0\0"[..], "kind 9"),
            (b"\x01\xff\xff\xff\xff", "at most"),
            (b"\0\0\0\0\x01\"", "EOF"),
            (b"\x01\0\0\0\x09abc", "within a frame"),
        ] {
            let body = http_body_util::Full::new(Bytes::copy_from_slice(bytes)).map_err(|never| match never {});
            let error = Incoming::new(BodyExt::boxed_unsync(body)).next::<String>().await.expect_err(words);
            assert!(error.contains(words), "{error}");
        }
    }
}

//! Request bodies that can be taken back.
//!
//! A request that goes to another process is given away with its body. When the connection fails before
//! the peer can have acted on it, the request must go elsewhere whole. A [`Tape`] keeps the body and
//! lends it out; what the borrower reads is remembered, up to a limit, by sharing the very bytes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{BoxError, HttpBody};

/// Longer bodies are streamed and cannot be taken back once more than this has been read: enough for
/// what APIs send, little enough for thousands of calls at once.
const REMEMBERED_BYTES: usize = 64 << 10;

/// The owner's end.
pub struct Tape(Arc<Mutex<Reel>>);

/// The borrower's end.
pub struct Lent(Arc<Mutex<Reel>>);

struct Reel {
    /// What has been read of `rest`, while it can be read again.
    read: Vec<Bytes>,
    read_bytes: usize,
    rest: Option<HttpBody>,
    can_rewind: bool,
}

impl Tape {
    pub fn new(body: HttpBody) -> Self {
        let reel = Reel { read: Vec::new(), read_bytes: 0, rest: Some(body), can_rewind: true };
        Self(Arc::new(Mutex::new(reel)))
    }

    pub fn lend(&self) -> Lent {
        Lent(self.0.clone())
    }

    /// The body from its beginning; `None` when too much of it has been read. What was lent is then at
    /// its end.
    pub fn rewind(&self) -> Option<HttpBody> {
        let mut reel = lock(&self.0);
        let rest = reel.rest.take().filter(|_| reel.can_rewind)?;
        if reel.read.is_empty() {
            return Some(rest);
        }
        let read = std::mem::take(&mut reel.read);
        Some(HttpBody::new(Rewound { read: read.into_iter(), rest }))
    }
}

fn lock(reel: &Mutex<Reel>) -> MutexGuard<'_, Reel> {
    reel.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Body for Lent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut reel = lock(&self.0);
        let Some(rest) = reel.rest.as_mut() else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(rest).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) if reel.can_rewind && reel.read_bytes + data.len() <= REMEMBERED_BYTES => {
                    reel.read_bytes += data.len();
                    reel.read.push(data.clone());
                }
                // Too long, or trailers, which come only once.
                _ => reel.give_up(),
            },
            Some(Err(_)) => reel.give_up(),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).rest.as_ref().is_none_or(|rest| rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).rest.as_ref().map_or_else(|| SizeHint::with_exact(0), |rest| rest.size_hint())
    }
}

impl Reel {
    fn give_up(&mut self) {
        self.can_rewind = false;
        self.read = Vec::new();
    }
}

/// A body taken back: what had been read, then the rest.
struct Rewound {
    read: std::vec::IntoIter<Bytes>,
    rest: HttpBody,
}

impl Body for Rewound {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.read.next() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.len() == 0 && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read: u64 = self.read.as_slice().iter().map(|data| data.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn body(frames: Vec<Bytes>) -> HttpBody {
        HttpBody::new(StreamBody::new(stream::iter(frames.into_iter().map(|data| Ok(Frame::data(data))))))
    }

    async fn text(body: HttpBody) -> String {
        let bytes = body.collect().await.expect("the body has no error").to_bytes();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[tokio::test]
    async fn a_body_can_be_taken_back_untouched_half_read_and_read() {
        for frames_read in 0..=3 {
            let tape = Tape::new(body(vec!["one ".into(), "two ".into(), "three".into()]));
            let mut lent = tape.lend();
            for _ in 0..frames_read {
                lent.frame().await.expect("a frame").expect("no error");
            }
            let again = tape.rewind().expect("it is short");
            assert!(lent.frame().await.is_none(), "what was lent has been taken back");
            assert_eq!(text(again).await, "one two three");
        }
    }

    #[tokio::test]
    async fn a_long_body_cannot_be_taken_back_once_read() {
        let long = vec![Bytes::from(vec![0; REMEMBERED_BYTES]), Bytes::from_static(b"x")];
        let tape = Tape::new(body(long));
        let mut lent = tape.lend();
        while lent.frame().await.is_some() {}
        assert!(tape.rewind().is_none());
    }
}

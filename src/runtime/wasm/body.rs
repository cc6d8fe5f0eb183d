//! Response bodies as they come out of a guest.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::http::StreamingGuest;
use super::life::Ticket;
use crate::wire::{BoxError, HttpBody};

pub const UNFINISHED: &str = "the guest ended without finishing its response";

/// What is in the body now. Its channel is Tokio's, which says "not yet" to a task that has done enough
/// for one turn, whatever is in it: for a guest that has ended, that would be the end of its answer.
fn poll_all(
    body: &mut HyperOutgoingBody,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, wasmtime_wasi_http::Error>>> {
    pin!(tokio::task::unconstrained(poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)))).poll(cx)
}

/// The body of a guest that has ended.
pub enum Collected {
    /// Everything is here, so that its length is known.
    Whole(HttpBody),
    /// What is here, and what may come.
    Unfinished(HttpBody),
}

/// Takes what a guest that has ended has written.
pub fn collect_ready(mut body: HyperOutgoingBody) -> Result<Collected, String> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut frames = VecDeque::new();
    loop {
        match poll_all(&mut body, &mut cx) {
            Poll::Ready(Some(Ok(frame))) => frames.push_back(frame),
            Poll::Ready(Some(Err(error))) => return Err(format!("the guest's response failed: {error}")),
            Poll::Ready(None) => break,
            Poll::Pending => {
                let rest = body.map_err(Into::into).boxed_unsync();
                return Ok(Collected::Unfinished(Begun { frames: Frames(frames), rest }.boxed_unsync()));
            }
        }
    }
    if frames.len() <= 1 && frames.iter().all(Frame::is_data) {
        let data = frames.pop_front().and_then(|frame| frame.into_data().ok()).unwrap_or_default();
        return Ok(Collected::Whole(Full::new(data).map_err(|never| match never {}).boxed_unsync()));
    }
    Ok(Collected::Whole(Frames(frames).boxed_unsync()))
}

/// Several frames, all here.
struct Frames(VecDeque<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.0.iter().filter_map(|frame| frame.data_ref()).map(|data| data.len() as u64).sum();
        SizeHint::with_exact(length)
    }
}

/// Several frames that are here, and then others.
struct Begun {
    frames: Frames,
    rest: HttpBody,
}

impl Body for Begun {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.frames.0.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }
}

/// A body that goes on without its guest, within the call that it answers.
pub struct Relayed {
    pub body: HttpBody,
    pub _ticket: Ticket,
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

/// A body whose guest is still at work on it: reading it runs the guest.
pub struct StreamingBody {
    body: HyperOutgoingBody,
    /// `None` once the body has ended, or failed.
    guest: Option<StreamingGuest>,
    /// Bytes the head announced and that have not come; a reader that counts stops after them and
    /// never asks for the end.
    missing: Option<u64>,
}

impl StreamingBody {
    pub fn new(body: HyperOutgoingBody, guest: StreamingGuest, length: Option<u64>) -> Self {
        Self { body, guest: Some(guest), missing: length }
    }

    fn fail(&mut self, why: String) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.guest = None;
        Poll::Ready(Some(Err(why.into())))
    }

    /// What the guest has written, if anything new.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Poll::Ready(frame) = poll_all(&mut self.body, cx) else { return Poll::Pending };
        match frame {
            Some(Ok(frame)) => {
                if let (Some(missing), Some(data)) = (&mut self.missing, frame.data_ref()) {
                    *missing = missing.saturating_sub(data.len() as u64);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => self.fail(format!("the guest's response failed: {error}")),
            None => {
                if let Some(guest) = self.guest.take() {
                    guest.finish();
                }
                Poll::Ready(None)
            }
        }
    }
}

impl Body for StreamingBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = this.poll_written(cx) {
            return Poll::Ready(frame);
        }
        let Some(guest) = &mut this.guest else { return Poll::Ready(None) };
        let ended = match guest.poll_end(cx) {
            Poll::Ready(Err(why)) => return this.fail(why),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        // The guest may have written while it ran.
        match this.poll_written(cx) {
            Poll::Ready(frame) => Poll::Ready(frame),
            Poll::Pending if ended && !this.guest.as_mut().is_some_and(StreamingGuest::leave_body) => {
                this.fail(UNFINISHED.to_owned())
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for StreamingBody {
    fn drop(&mut self) {
        if self.missing == Some(0)
            && let Some(guest) = self.guest.take()
        {
            guest.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::stream;
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;

    use super::*;

    /// A channel with so many messages in it, and nobody to send more.
    fn filled<T>(messages: impl IntoIterator<Item = T>) -> mpsc::UnboundedReceiver<T> {
        let (sender, receiver) = mpsc::unbounded_channel();
        messages.into_iter().for_each(|message| sender.send(message).unwrap_or_default());
        receiver
    }

    #[tokio::test]
    async fn a_finished_answer_is_read_whole_by_a_task_that_has_done_enough_for_one_turn() {
        let mut chunks = filled(["one", "two"].map(|text| Ok(Frame::data(Bytes::from(text)))));
        let body: HyperOutgoingBody = StreamBody::new(stream::poll_fn(move |cx| chunks.poll_recv(cx))).boxed_unsync();
        let mut work = filled(0..10_000);
        while work.recv().now_or_never().is_some() {}
        assert!(!work.is_empty(), "Tokio says \"not yet\" although there is more");
        let Ok(Collected::Whole(body)) = collect_ready(body) else { panic!("something is missing") };
        assert_eq!(body.collect().await.expect("a body").to_bytes(), "onetwo");
    }
}

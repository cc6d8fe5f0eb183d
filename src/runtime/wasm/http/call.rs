//! One call: the guest's execution beside the response that it writes.
//!
//! The response begins when the guest has told its head. If the guest is done by then, the whole answer is
//! here and its instance is free before anything is sent; otherwise the body carries the guest along.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Response;
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::super::body::{Collected, Relayed, StreamingBody, UNFINISHED, collect_ready};
use super::super::handler::Answer;
use super::super::life::Ticket;
use super::super::run::Guarded;
use super::{Live, Outcome, Server, Settled};
use crate::wire::{CallError, HttpBody};

/// A call whose response has not begun.
pub struct Call {
    pub(super) server: Arc<Server>,
    pub(super) guest: Guarded<Outcome>,
    pub(super) head: oneshot::Receiver<Answer>,
    pub(super) ticket: Ticket,
    /// When the head of the response must be there.
    pub(super) due: Instant,
}

/// What came first.
enum First {
    Response(Response<HyperOutgoingBody>, Option<Box<Live>>),
    Refusal(Error, Option<Box<Live>>),
    Handed(CallError),
    Failed(String),
    TimedOut,
}

impl Call {
    pub(super) async fn answer(mut self) -> Result<Response<HttpBody>, CallError> {
        let mut deadline: Option<Pin<Box<Sleep>>> = None;
        match poll_fn(|cx| self.poll_first(cx, &mut deadline)).await {
            First::Response(response, Some(live)) => self.buffered(response, live),
            First::Response(response, None) => Ok(self.streaming(response)),
            First::Refusal(code, live) => {
                if let Some(live) = live {
                    self.server.keep(live);
                }
                Err(CallError::Failed(format!("the guest answered with an error: {code:?}")))
            }
            First::Handed(error) => Err(error),
            First::Failed(text) => Err(CallError::Failed(text)),
            // The guest is dropped with the call, in the middle of whatever it did.
            First::TimedOut => Err(CallError::Timeout(self.server.policy.request_timeout)),
        }
    }

    /// The head is set by the guest while it is polled, so it is looked for after each poll and needs
    /// no wake-up of its own, unless the guest runs elsewhere.
    fn poll_first(&mut self, cx: &mut Context<'_>, deadline: &mut Option<Pin<Box<Sleep>>>) -> Poll<First> {
        let settled = match Pin::new(&mut self.guest).poll(cx) {
            Poll::Ready(outcome) => Some(self.server.settle(outcome)),
            Poll::Pending => None,
        };
        let live = match settled {
            None => None,
            Some(Settled::Returned(live)) => Some(live),
            Some(Settled::Handed(error)) => return Poll::Ready(First::Handed(error)),
            // Even if a head was set: nothing of it has been sent, and the truth is better.
            Some(Settled::Failed(text)) => return Poll::Ready(First::Failed(text)),
        };
        let head = match Pin::new(&mut self.head) {
            head if self.guest.is_elsewhere() => match head.poll(cx) {
                Poll::Ready(told) => told.ok(),
                Poll::Pending => None,
            },
            mut head => head.try_recv().ok(),
        };
        match (head, live) {
            (Some(Ok(response)), live) => return Poll::Ready(First::Response(response, live)),
            (Some(Err(code)), live) => return Poll::Ready(First::Refusal(code, live)),
            (None, Some(_)) => {
                return Poll::Ready(First::Failed("the guest returned without a response".to_owned()));
            }
            (None, None) => {}
        }
        let due = self.due;
        let deadline = deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        deadline.as_mut().poll(cx).map(|()| First::TimedOut)
    }

    /// The guest is done: its whole answer is here, and its instance is free before it is sent.
    fn buffered(self, response: Response<HyperOutgoingBody>, live: Box<Live>) -> Result<Response<HttpBody>, CallError> {
        let (head, body) = response.into_parts();
        match collect_ready(body) {
            Ok(Collected::Whole(body)) => {
                self.server.keep(live);
                Ok(Response::from_parts(head, body))
            }
            // Without its instance: a body that the guest left unfinished ends with that.
            Ok(Collected::Unfinished(body)) if self.server.pre.relays_bodies() => {
                drop(live);
                let body = Relayed { body, _ticket: self.ticket }.boxed_unsync();
                Ok(Response::from_parts(head, body))
            }
            Ok(Collected::Unfinished(_)) => Err(CallError::Failed(UNFINISHED.to_owned())),
            Err(why) => Err(CallError::Failed(why)),
        }
    }

    fn streaming(self, response: Response<HyperOutgoingBody>) -> Response<HttpBody> {
        let (head, body) = response.into_parts();
        let length = head.headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let guest = StreamingGuest { server: self.server, guest: Some(self.guest), live: None, _ticket: self.ticket };
        Response::from_parts(head, StreamingBody::new(body, guest, length).boxed_unsync())
    }
}

/// The rest of a guest's execution once its response has begun.
pub struct StreamingGuest {
    server: Arc<Server>,
    /// `None` once it has ended.
    guest: Option<Guarded<Outcome>>,
    live: Option<Box<Live>>,
    _ticket: Ticket,
}

impl StreamingGuest {
    /// Runs the guest on. Ready when it has ended; `Err` if badly.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        let Some(guest) = &mut self.guest else { return Poll::Ready(Ok(())) };
        let Poll::Ready(outcome) = Pin::new(guest).poll(cx) else { return Poll::Pending };
        self.guest = None;
        Poll::Ready(match self.server.settle(outcome) {
            Settled::Returned(live) => {
                self.live = Some(live);
                Ok(())
            }
            Settled::Handed(error) => Err(error.to_string()),
            Settled::Failed(text) => Err(text),
        })
    }

    /// Whether the body may go on when the guest has ended; then without its instance, which would keep
    /// open what the guest left unfinished.
    pub fn leave_body(&mut self) -> bool {
        self.live = None;
        self.server.pre.relays_bodies()
    }

    /// The response was read to its end: whatever the guest still does runs on by itself for a while,
    /// then its instance may serve again.
    pub fn finish(mut self) {
        if let Some(live) = self.live.take() {
            self.server.keep(live);
        } else if self.guest.is_some() {
            let limit = self.server.policy.request_timeout;
            // A body may be dropped when the runtime is already gone; then there is nothing to run on.
            let Ok(tokio) = tokio::runtime::Handle::try_current() else { return };
            tokio.spawn(async move {
                let ended = tokio::time::timeout(limit, poll_fn(|cx| self.poll_end(cx))).await;
                if let (Ok(Ok(())), Some(live)) = (ended, self.live.take()) {
                    self.server.keep(live);
                }
            });
        }
    }
}

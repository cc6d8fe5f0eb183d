//! The door between a pod's callers and the present life of its container.
//!
//! A container that restarts in place is away for less than a millisecond, yet the table of local pods
//! would refuse what comes in that moment. So callers meet a [`Gate`], which outlives the lives behind
//! it: while a restart is under way calls wait in front of it, bounded in number and in time, and then
//! go to the next life. What cannot wait, or waited in vain, is handed back whole
//! ([`CallError::Undelivered`]) for another endpoint to take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::watch;
use tokio::time::Instant;

use super::pod::Door;
use crate::wire::{CallError, HttpBody, HttpService};

/// Calls that wait in front of one gate: more than that means that the restart does not keep up, and
/// others should have them.
const MAX_WAITING: usize = 1024;
/// How long a call waits. Longer than any restart in place; short enough to try elsewhere.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// One container's callers' side.
pub struct Gate {
    opening: watch::Sender<Opening>,
    waiting: AtomicUsize,
    max_wait: Duration,
}

#[derive(Clone)]
enum Opening {
    Open(Life),
    Held,
    Shut,
}

/// One life of a container, as callers see it.
#[derive(Clone)]
struct Life {
    service: Arc<dyn HttpService>,
    /// It has answered a call.
    served: Arc<AtomicBool>,
}

impl Default for Gate {
    fn default() -> Self {
        Gate { opening: watch::Sender::new(Opening::Shut), waiting: AtomicUsize::new(0), max_wait: MAX_WAIT }
    }
}

impl Gate {
    /// Lets callers in to a new life. The flag that comes back says, later, whether it served any.
    pub fn open(&self, service: Arc<dyn HttpService>) -> Arc<AtomicBool> {
        let served = Arc::new(AtomicBool::new(false));
        self.opening.send_replace(Opening::Open(Life { service, served: served.clone() }));
        served
    }

    /// Follows the state of the container. Opening is [`Gate::open`]'s, for it needs the service.
    pub fn follow(&self, door: Door) {
        self.opening.send_if_modified(|opening| {
            let next = match (door, &*opening) {
                (Door::Open, _) | (Door::Held, Opening::Held) | (Door::Shut, Opening::Shut) => return false,
                (Door::Held, _) => Opening::Held,
                (Door::Shut, _) => Opening::Shut,
            };
            *opening = next;
            true
        });
    }

    /// The handler of the present life, for probes, which must not wait for the next.
    pub fn present(&self) -> Option<Arc<dyn HttpService>> {
        match &*self.opening.borrow() {
            Opening::Open(life) => Some(life.service.clone()),
            Opening::Held | Opening::Shut => None,
        }
    }
}

#[async_trait::async_trait]
impl HttpService for Gate {
    async fn call(&self, mut request: Request<HttpBody>) -> Result<Response<HttpBody>, CallError> {
        let mut opening = self.opening.subscribe();
        let mut deadline = None;
        loop {
            let now = opening.borrow_and_update().clone();
            if let Opening::Open(life) = now {
                match life.service.call(request).await {
                    // It ended before the call reached a guest: the next life may be a moment away.
                    Err(CallError::Undelivered { request: returned, .. }) => request = *returned,
                    answer => {
                        if answer.is_ok() && !life.served.load(Ordering::Relaxed) {
                            life.served.store(true, Ordering::Relaxed);
                        }
                        return answer;
                    }
                }
            } else if matches!(now, Opening::Shut) {
                return Err(undelivered("the container is not running", request));
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.max_wait);
            let Some(_place) = Place::take(&self.waiting) else {
                return Err(undelivered("too many calls wait for the container's restart", request));
            };
            if !matches!(tokio::time::timeout_at(deadline, opening.changed()).await, Ok(Ok(()))) {
                return Err(undelivered("the container did not come back in time", request));
            }
        }
    }
}

fn undelivered(reason: &str, request: Request<HttpBody>) -> CallError {
    CallError::Undelivered { reason: reason.to_owned(), request: Box::new(request) }
}

/// A place among those who wait; given up when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Place<'a>> {
        let before = waiting.fetch_add(1, Ordering::AcqRel);
        let place = Place(waiting);
        (before < MAX_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty};

    use super::*;

    struct Answers(u16);

    #[async_trait::async_trait]
    impl HttpService for Answers {
        async fn call(&self, request: Request<HttpBody>) -> Result<Response<HttpBody>, CallError> {
            if self.0 == 0 {
                return Err(undelivered("ended", request));
            }
            let mut response = Response::new(empty());
            *response.status_mut() = http::StatusCode::from_u16(self.0).expect("a status");
            Ok(response)
        }
    }

    fn empty() -> HttpBody {
        Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync()
    }

    fn request() -> Request<HttpBody> {
        Request::new(empty())
    }

    #[tokio::test]
    async fn a_call_waits_for_the_restart_and_reaches_the_next_life() {
        let gate = Arc::new(Gate::default());
        gate.open(Arc::new(Answers(0)));
        let call = tokio::spawn({
            let gate = gate.clone();
            async move { gate.call(request()).await.map(|response| response.status().as_u16()) }
        });
        tokio::task::yield_now().await;
        gate.follow(Door::Held);
        tokio::task::yield_now().await;
        let served = gate.open(Arc::new(Answers(200)));
        assert!(matches!(call.await, Ok(Ok(200))));
        assert!(served.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_call_that_waited_in_vain_is_handed_back() {
        let gate = Gate { max_wait: Duration::from_millis(5), ..Gate::default() };
        gate.open(Arc::new(Answers(200)));
        gate.follow(Door::Held);
        assert!(matches!(gate.call(request()).await, Err(CallError::Undelivered { .. })));
        assert_eq!(gate.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_shut_gate_refuses_at_once_and_an_overfull_one_too() {
        let gate = Gate::default();
        assert!(matches!(gate.call(request()).await, Err(CallError::Undelivered { .. })));
        gate.open(Arc::new(Answers(200)));
        gate.follow(Door::Held);
        gate.waiting.store(MAX_WAITING, Ordering::Relaxed);
        assert!(matches!(gate.call(request()).await, Err(CallError::Undelivered { .. })));
    }
}

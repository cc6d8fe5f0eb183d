//! Instances that answer several calls at a time.
//!
//! Only those of WASI 0.3 can, and only where the pod says so: what one call does wrong is then the end of
//! those beside it. Such an instance runs in a task of its own, for no call is its owner, as long as somebody
//! is in it; when the last has left and the guest has nothing more to do it waits among the idle ones, like any
//! other that may be used again.
//!
//! A call gets a seat in an instance that waits for something. While a guest computes it takes none: the call
//! is sooner answered by another instance than behind that work. wasmtime cannot take a call back that it has
//! put to a guest: an instance in which one has timed out gets no more, and goes when the others are done. One that
//! only computes from then on lets nobody in it be done, and is ended from outside.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, SetOnce, mpsc, oneshot};
use tokio::time::Instant;
use wasmtime::component::Accessor;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p3::bindings::Service;

use super::super::cpu::thread_time;
use super::super::guest::Guest;
use super::super::handler::{Answer, Failure, Handler, answer};
use super::super::life::Ticket;
use super::super::run::{FULL_TICK, Guarded};
use super::{Live, Outcome, RETRY_AFTER, Server, Settled, undelivered};
use crate::wire::{BoxError, CallError, HttpBody};

/// A call on its way to an instance.
struct Put {
    request: Box<Request<HttpBody>>,
    tell: oneshot::Sender<Result<Answer, CallError>>,
}

/// An instance in which there are calls.
pub struct Shared {
    /// Never more than there are seats.
    puts: mpsc::UnboundedSender<Put>,
    /// Calls that it has been given, those of its earlier times among them.
    given: AtomicUsize,
    /// Callers who wait for an answer or read one.
    callers: AtomicUsize,
    /// Calls that the guest has not answered, also of callers who have gone.
    running: AtomicUsize,
    /// It takes no more.
    closed: AtomicBool,
    /// The guest waits for something.
    waits: AtomicBool,
    /// How often it has come to wait.
    rests: AtomicUsize,
    left: Notify,
    /// Somebody left: the last one, or one whose time was over.
    overdue: Notify,
    /// Why it ended before its callers left.
    failed: SetOnce<String>,
}

/// A caller's place in an instance.
struct Seat(Arc<Shared>);

impl Drop for Seat {
    fn drop(&mut self) {
        if self.0.callers.fetch_sub(1, SeqCst) == 1 {
            self.0.left.notify_one();
            self.0.overdue.notify_one();
        }
    }
}

/// Answers a call that has been admitted.
pub async fn call(
    server: &Arc<Server>,
    request: Request<HttpBody>,
    ticket: Ticket,
    due: Instant,
) -> Result<Response<HttpBody>, CallError> {
    let (tell, head) = oneshot::channel();
    let seat = match server.seat(Put { request: Box::new(request), tell }) {
        Ok(seat) => seat,
        Err(put) => {
            let made = match server.take_idle() {
                Some(live) => Source::Idle(live),
                None => match server.life.host.place_soon().await {
                    Some(slot) => Source::Fresh(slot),
                    None => return Err(CallError::Overloaded { retry_after: RETRY_AFTER }),
                },
            };
            server.open(made, put)
        }
    };
    match tokio::time::timeout_at(due, head).await {
        Ok(Ok(Ok(Ok(response)))) => {
            let (head, body) = response.into_parts();
            Ok(Response::from_parts(head, Seated { body, seat, _ticket: ticket }.boxed_unsync()))
        }
        Ok(Ok(Ok(Err(code)))) => Err(CallError::Failed(format!("the guest answered with an error: {code:?}"))),
        Ok(Ok(Err(error))) => Err(error),
        Ok(Err(_)) => Err(CallError::Failed(seat.0.failed.wait().await.clone())),
        Err(_) => {
            seat.0.closed.store(true, SeqCst);
            seat.0.overdue.notify_one();
            Err(CallError::Timeout(server.policy.request_timeout))
        }
    }
}

/// Where an instance comes from.
enum Source {
    Idle(Box<Live>),
    Fresh(OwnedSemaphorePermit),
}

impl Server {
    /// Whether its instances answer several calls at a time.
    pub(super) fn shares(&self) -> bool {
        self.pre.is_concurrent()
            && self.policy.max_concurrent_per_instance > 1
            && self.policy.max_requests_per_instance > 1
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Shared>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat in an instance that there is, the fullest one: the others can go the sooner.
    fn seat(&self, mut put: Put) -> Result<Seat, Put> {
        let mut shared = self.shared();
        shared.retain(|one| !one.closed.load(SeqCst));
        let seats = self.policy.max_concurrent_per_instance;
        let mut free: Vec<(usize, &Arc<Shared>)> = shared
            .iter()
            .map(|one| (one.callers.load(SeqCst).max(one.running.load(SeqCst)), one))
            .filter(|(taken, one)| *taken < seats && one.waits.load(SeqCst) && one.given.load(SeqCst) < self.most())
            .collect();
        free.sort_by_key(|(taken, _)| std::cmp::Reverse(*taken));
        for (_, one) in free {
            match one.take(put) {
                Ok(seat) => return Ok(seat),
                Err(back) => put = back,
            }
        }
        Err(put)
    }

    fn most(&self) -> usize {
        usize::try_from(self.policy.max_requests_per_instance).unwrap_or(usize::MAX)
    }

    /// One more instance, for this call first.
    fn open(self: &Arc<Self>, source: Source, put: Put) -> Seat {
        let (puts, calls) = mpsc::unbounded_channel();
        let given = match &source {
            Source::Idle(live) => usize::try_from(live.served).unwrap_or(usize::MAX),
            Source::Fresh(_) => 0,
        };
        let one = Arc::new(Shared {
            puts,
            given: AtomicUsize::new(given),
            callers: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            rests: AtomicUsize::new(0),
            left: Notify::new(),
            overdue: Notify::new(),
            failed: SetOnce::new(),
        });
        // Nobody else has it yet, and its receiver is here.
        let seat = one.take(put).unwrap_or_else(|_| Seat(one.clone()));
        self.shared().push(one.clone());
        tokio::spawn(run(self.clone(), one, source, calls));
        seat
    }

    /// Whether an instance without callers is to end now: then it gets none any more.
    fn close(&self, one: &Arc<Shared>) -> bool {
        let mut shared = self.shared();
        if one.callers.load(SeqCst) > 0 {
            return false;
        }
        one.closed.store(true, SeqCst);
        shared.retain(|other| !Arc::ptr_eq(other, one));
        true
    }
}

impl Shared {
    fn take(self: &Arc<Self>, put: Put) -> Result<Seat, Put> {
        self.callers.fetch_add(1, SeqCst);
        self.running.fetch_add(1, SeqCst);
        let seat = Seat(self.clone());
        match self.puts.send(put) {
            Ok(()) => {
                self.given.fetch_add(1, SeqCst);
                Ok(seat)
            }
            Err(unsent) => Err(unsent.0),
        }
    }

    /// Ready when the guest has computed for `limit` on end after somebody left: its event loop does not turn
    /// meanwhile, so that nothing inside it would end it.
    async fn overrun(&self, limit: Duration) {
        loop {
            self.overdue.notified().await;
            let rests = self.rests.load(SeqCst);
            tokio::time::sleep(limit).await;
            if !self.waits.load(SeqCst) && self.rests.load(SeqCst) == rests {
                return;
            }
        }
    }

    fn fail(&self, why: String) {
        self.closed.store(true, SeqCst);
        // The first reason is the one that counts.
        let _ = self.failed.set(why);
    }
}

/// An instance's time with its callers, and what becomes of it then.
async fn run(server: Arc<Server>, one: Arc<Shared>, source: Source, calls: mpsc::UnboundedReceiver<Put>) {
    let (theirs, shared) = (server.clone(), one.clone());
    let mut guest = Guarded::new(server.life.clone(), async move {
        let live = match source {
            Source::Idle(live) => Ok(live),
            Source::Fresh(slot) => theirs.make(slot).await,
        };
        match live {
            Ok(live) => host(&theirs, shared, live, calls).await,
            Err(error) => {
                hand_back(&theirs, &shared, error, calls);
                None
            }
        }
    });
    let limit = server.policy.request_timeout;
    let ended = tokio::select! {
        biased;
        ended = &mut guest => ended,
        () = one.overrun(limit) => {
            one.fail(format!("interrupted: a call in the same instance computed on for {limit:?} after its time"));
            return;
        }
    };
    match ended {
        Ok(Some(live)) => server.keep(live),
        Ok(None) => {}
        Err(halt) => {
            if let Settled::Failed(why) = server.settle(Err(halt)) {
                one.fail(why);
            }
        }
    }
}

/// The guest has seen none of those who came for it.
fn hand_back(
    server: &Arc<Server>,
    shared: &Arc<Shared>,
    error: wasmtime::Error,
    mut calls: mpsc::UnboundedReceiver<Put>,
) {
    shared.fail("no instance could be made".to_owned());
    calls.close();
    let Ok(Put { request, tell }) = calls.try_recv() else { return };
    let Settled::Handed(first) = server.settle(Ok(Outcome::NotMade(error, request))) else { return };
    let (full, reason) = (matches!(first, CallError::Overloaded { .. }), first.to_string());
    let _ = tell.send(Err(first));
    while let Ok(Put { request, tell }) = calls.try_recv() {
        let _ = tell.send(Err(match full {
            true => CallError::Overloaded { retry_after: RETRY_AFTER },
            false => undelivered(&reason, request),
        }));
    }
}

/// Says why an instance's callers are left alone, if nobody has, before the instance goes: a body that ends with it
/// has not come to its end.
struct Farewell(Arc<Shared>);

impl Drop for Farewell {
    fn drop(&mut self) {
        if self.0.callers.load(SeqCst) > 0 {
            self.0.fail("interrupted: the container was stopped".to_owned());
        }
    }
}

/// Runs an instance for its callers; `None` unless it may serve again.
async fn host(
    server: &Arc<Server>,
    shared: Arc<Shared>,
    mut live: Box<Live>,
    calls: mpsc::UnboundedReceiver<Put>,
) -> Option<Box<Live>> {
    let farewell = Farewell(shared.clone());
    let Live { store, handler, .. } = &mut *live;
    let Handler::Service(service) = handler else { return None };
    let ran = {
        let work = store.run_concurrent(async |guest| attend(guest, service, server, &shared, calls).await);
        let mut work = pin!(work);
        poll_fn(|cx| {
            let before = thread_time();
            let polled = work.as_mut().poll(cx);
            // What the clock has interrupted computes on.
            let waits = polled.is_pending() && thread_time().saturating_sub(before) < FULL_TICK;
            shared.waits.store(waits, SeqCst);
            if waits {
                shared.rests.fetch_add(1, SeqCst);
            }
            polled
        })
        .await
    };
    match ran.flatten() {
        Ok(quiet) => {
            drop(farewell);
            live.served = u32::try_from(shared.given.load(SeqCst)).unwrap_or(u32::MAX);
            quiet.then_some(live)
        }
        Err(error) => {
            if let Settled::Failed(why) = server.settle(Ok(Outcome::Failed(Failure::Ended(error)))) {
                shared.fail(why);
            }
            drop(farewell);
            None
        }
    }
}

/// Puts the calls to the guest until the last caller has left, and then gives it time for what it still does.
/// Whether it has come to rest.
async fn attend(
    guest: &Accessor<Guest>,
    service: &Service,
    server: &Arc<Server>,
    shared: &Arc<Shared>,
    mut calls: mpsc::UnboundedReceiver<Put>,
) -> wasmtime::Result<bool> {
    let mut unanswered = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(done) = unanswered.next(), if !unanswered.is_empty() => {
                shared.running.fetch_sub(1, SeqCst);
                done?;
            }
            Some(Put { request, tell }) = calls.recv() => {
                // It may compute from now on; if it waits, that will show.
                shared.waits.store(false, SeqCst);
                unanswered.push(async move {
                    let answer = answer(guest, service, *request).await?;
                    let _ = tell.send(Ok(answer));
                    wasmtime::Result::<()>::Ok(())
                });
            }
            () = shared.left.notified() => {
                if server.close(shared) {
                    break;
                }
            }
        }
    }
    let rest = async {
        while let Some(done) = unanswered.next().await {
            done?;
        }
        poll_fn(|cx| guest.poll_no_interesting_tasks(cx)).await;
        wasmtime::Result::<()>::Ok(())
    };
    match tokio::time::timeout(server.policy.request_timeout, rest).await {
        Ok(ended) => ended.map(|()| true),
        Err(_) => Ok(false),
    }
}

/// A body that is read from an instance where others are.
struct Seated {
    body: HyperOutgoingBody,
    seat: Seat,
    _ticket: Ticket,
}

impl Body for Seated {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        Pin::new(&mut this.body).poll_frame(cx).map(|frame| match (frame, this.seat.0.failed.get()) {
            (None | Some(Err(_)), Some(why)) => Some(Err(why.clone().into())),
            (frame, _) => {
                frame.map(|frame| frame.map_err(|error| format!("the guest's response failed: {error}").into()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.seat.0.failed.get().is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! Running guest code: every poll of a guest goes through here.
//!
//! [`Guarded`] wraps the future that is a guest's execution. Each poll is announced to the ticker,
//! timed and charged; a container in debt is not polled until its tokens are back; a killed life is
//! not polled again; and a panic of the host inside the poll ends this guest alone.
//!
//! A guest that uses up its tick computes rather than answers. It goes on where such guests run
//! ([`super::heavy`]), so that the threads that serve are free for others at once; the calls after it of the
//! same container begin there, in this life and the next, until one ends within a tick.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinError;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tokio_util::task::AbortOnDropHandle;

use super::cpu::thread_time;
use super::life::Life;
use super::shares::Turn;
use super::ticker::TICK;

/// A poll that took this long was ended by the clock rather than by the guest; the clock is not exact.
pub const FULL_TICK: Duration = TICK.checked_div(2).expect("two is not zero");

/// After so many polls in a row that took less, a guest that runs on for ever (a server made of sockets)
/// comes back to the threads that serve.
const LIGHT_AGAIN: u32 = 64;

/// Why a guest was ended from outside.
#[derive(Debug)]
pub enum Halt {
    /// The life was killed.
    Killed,
    /// The host panicked, saying this.
    Panicked(String),
}

impl Halt {
    /// What it means that a thread of [`super::heavy`] did not bring a guest to its end.
    fn of(error: JoinError) -> Self {
        match error.try_into_panic() {
            Ok(panic) => Self::Panicked(panic_text(panic.as_ref())),
            Err(_) => Self::Killed,
        }
    }
}

/// A guest's execution under its life's rules. Not to be polled after it is ready. Dropping it ends it, if
/// it runs elsewhere as soon as its thread comes to it.
pub struct Guarded<T> {
    life: Arc<Life>,
    at: At<T>,
}

/// Where a guest runs.
enum At<T> {
    /// In the task that waits for it.
    Here(Watched<T>),
    /// Among those that compute.
    Elsewhere(AbortOnDropHandle<Left<T>>),
    /// On its way, or at its end.
    Nowhere,
}

/// How a guest left those that compute.
enum Left<T> {
    Ended(Result<T, Halt>),
    /// It has been light for a while.
    Back(Watched<T>),
}

/// A guest that is watched while it runs.
struct Watched<T> {
    life: Arc<Life>,
    guest: Pin<Box<dyn Future<Output = T> + Send>>,
    throttled: Option<Throttled>,
    /// Made when the guest first uses up a tick: most end before.
    turn: Option<Turn>,
    /// Made when the guest first waits: most answer in one poll.
    killed: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Polls in a row that did not use up a tick.
    light: u32,
    /// What it has used in polls that did, one after the other.
    spent: Duration,
}

/// Not to be polled for now.
struct Throttled {
    since: Instant,
    until: Pin<Box<Sleep>>,
    why: Why,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Its container is in debt.
    Limit,
    /// Others are behind it.
    Turn,
}

impl<T: Send + 'static> Guarded<T> {
    /// Within a Tokio runtime, whose clock it may need. A container already in debt starts throttled:
    /// short calls must not slip through one poll at a time.
    pub fn new(life: Arc<Life>, guest: impl Future<Output = T> + Send + 'static) -> Self {
        let debt = life.cpu.debt();
        let guest = Box::pin(guest);
        let mut watched = Watched {
            life: life.clone(),
            guest,
            throttled: None,
            turn: None,
            killed: None,
            light: 0,
            spent: Duration::ZERO,
        };
        if let Some(wait) = debt {
            watched.throttle(wait, Why::Limit);
        }
        Self { life, at: At::Here(watched) }
    }

    /// Whether it runs on another thread than the one that polls it, and wakes nobody but by its end.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self.at, At::Elsewhere(_))
    }

    /// Sends the guest to those that compute.
    fn leave(&mut self) {
        if let At::Here(watched) = std::mem::replace(&mut self.at, At::Nowhere) {
            let tokio = Handle::current();
            let away = Away { watched: Some(watched), tokio };
            self.at = At::Elsewhere(self.life.host.heavy.run(away));
        }
    }
}

impl<T: Send + 'static> Future for Guarded<T> {
    type Output = Result<T, Halt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut came_back = false;
        loop {
            match &mut this.at {
                At::Here(_) if this.life.computes() && !came_back => this.leave(),
                At::Here(watched) => {
                    let polled = Pin::new(&mut *watched).poll(cx);
                    if polled.is_ready() || watched.spent < TICK {
                        return polled;
                    }
                    this.life.set_computes(true);
                    this.leave();
                }
                At::Elsewhere(handle) => match ready!(Pin::new(handle).poll(cx)) {
                    Ok(Left::Ended(end)) => {
                        this.at = At::Nowhere;
                        return Poll::Ready(end);
                    }
                    Err(error) => {
                        this.at = At::Nowhere;
                        return Poll::Ready(Err(Halt::of(error)));
                    }
                    // Polled here at least once: whom it wakes is still the other thread.
                    Ok(Left::Back(watched)) => {
                        this.at = At::Here(watched);
                        came_back = true;
                    }
                },
                At::Nowhere => return Poll::Pending,
            }
        }
    }
}

/// A guest's execution on another thread, in the same surroundings of Tokio.
struct Away<T> {
    /// Until it has left.
    watched: Option<Watched<T>>,
    tokio: Handle,
}

impl<T> Future for Away<T> {
    type Output = Left<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let _tokio = this.tokio.enter();
        let Some(watched) = &mut this.watched else { return Poll::Pending };
        let polled = Pin::new(&mut *watched).poll(cx);
        if watched.light > 0 && (polled.is_ready() || watched.light >= LIGHT_AGAIN) {
            watched.life.set_computes(false);
        }
        match polled {
            Poll::Ready(end) => {
                // Gone before anybody hears of its end.
                this.watched = None;
                Poll::Ready(Left::Ended(end))
            }
            Poll::Pending if watched.light >= LIGHT_AGAIN => match this.watched.take() {
                Some(watched) => Poll::Ready(Left::Back(watched)),
                None => Poll::Pending,
            },
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T> Drop for Away<T> {
    /// What a guest leaves behind may want Tokio, too.
    fn drop(&mut self) {
        let _tokio = self.tokio.enter();
        self.watched = None;
    }
}

impl<T> Watched<T> {
    /// Waits for tokens; ready when the guest may run.
    fn poll_throttled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(throttled) = &mut self.throttled {
            if throttled.until.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let (since, why) = (throttled.since, throttled.why);
            self.throttled = None;
            if why == Why::Limit {
                self.life.cpu.note_throttled(since.elapsed());
            }
            // Others of the container may have used what has come in meanwhile.
            if let Some(wait) = self.life.cpu.debt() {
                self.throttle(wait, Why::Limit);
            } else if let Some(wait) = self.turn.as_mut().and_then(|turn| turn.next(Duration::ZERO)) {
                self.throttle(wait, Why::Turn);
            }
        }
        Poll::Ready(())
    }

    fn throttle(&mut self, wait: Duration, why: Why) {
        let since = Instant::now();
        self.throttled = Some(Throttled { since, until: Box::pin(tokio::time::sleep_until(since + wait)), why });
    }

    /// Whether others come first now.
    fn next_turn(&mut self, used: Duration) -> Option<Duration> {
        if self.turn.is_none() && used < FULL_TICK {
            return None;
        }
        self.turn.get_or_insert_with(|| self.life.take_turns()).next(used)
    }

    /// Whether the life was killed; otherwise the task is woken when it is.
    fn poll_killed(&mut self, cx: &mut Context<'_>) -> bool {
        let life = &self.life;
        let killed = self.killed.get_or_insert_with(|| Box::pin(life.kill_token().clone().cancelled_owned()));
        killed.as_mut().poll(cx).is_ready()
    }

    fn poll_guest(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Halt>> {
        self.life.host.engine.ticker.note_work();
        let before = thread_time();
        let polled = catch_unwind(AssertUnwindSafe(|| self.guest.as_mut().poll(cx)));
        let used = thread_time().saturating_sub(before);
        let wait = self.life.cpu.charge(used);
        let full = used >= FULL_TICK;
        self.light = if full { 0 } else { self.light.saturating_add(1) };
        self.spent = if full { self.spent + used } else { Duration::ZERO };
        match polled {
            Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
            Err(panic) => Poll::Ready(Err(Halt::Panicked(panic_text(panic.as_ref())))),
            Ok(Poll::Pending) => {
                // Both count what was used; the debt is what takes longer to be paid.
                let turn = self.next_turn(used);
                let wait = wait.map(|wait| (wait, Why::Limit)).or(turn.map(|wait| (wait, Why::Turn)));
                if let Some((wait, why)) = wait {
                    self.throttle(wait, why);
                    // Registers the wake-up; a debt paid that fast is simply polled again.
                    if self.poll_throttled(cx).is_ready() {
                        cx.waker().wake_by_ref();
                    }
                }
                Poll::Pending
            }
        }
    }
}

impl<T> Future for Watched<T> {
    type Output = Result<T, Halt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.life.kill_token().is_cancelled() {
            return Poll::Ready(Err(Halt::Killed));
        }
        if this.poll_throttled(cx).is_ready()
            && let Poll::Ready(done) = this.poll_guest(cx)
        {
            return Poll::Ready(done);
        }
        if this.poll_killed(cx) { Poll::Ready(Err(Halt::Killed)) } else { Poll::Pending }
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

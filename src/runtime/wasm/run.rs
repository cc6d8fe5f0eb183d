//! Running guest code: every poll of a guest goes through here.
//!
//! [`Guarded`] wraps the future that is a guest's execution. Each poll is announced to the ticker,
//! timed and charged; a container in debt is not polled until its tokens are back; a killed life is
//! not polled again; and a panic of the host inside the poll ends this guest alone.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::cpu::thread_time;
use super::life::Life;
use super::shares::Turn;
use super::ticker::TICK;

/// A poll that took this long was ended by the clock rather than by the guest; the clock is not exact.
const FULL_TICK: Duration = TICK.checked_div(2).expect("two is not zero");

/// Why a guest was ended from outside.
#[derive(Debug)]
pub enum Halt {
    /// The life was killed.
    Killed,
    /// The host panicked, saying this.
    Panicked(String),
}

/// A guest's execution under its life's rules. Not to be polled after it is ready.
pub struct Guarded<T> {
    life: Arc<Life>,
    guest: Pin<Box<dyn Future<Output = T> + Send>>,
    throttled: Option<Throttled>,
    /// Made when the guest first uses up a tick: most end before.
    turn: Option<Turn>,
    /// Made when the guest first waits: most answer in one poll.
    killed: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
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

impl<T> Guarded<T> {
    /// Within a Tokio runtime, whose clock it may need. A container already in debt starts throttled:
    /// short calls must not slip through one poll at a time.
    pub fn new(life: Arc<Life>, guest: impl Future<Output = T> + Send + 'static) -> Self {
        let debt = life.cpu.debt();
        let mut guarded = Self { life, guest: Box::pin(guest), throttled: None, turn: None, killed: None };
        if let Some(wait) = debt {
            guarded.throttle(wait, Why::Limit);
        }
        guarded
    }

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

impl<T> Future for Guarded<T> {
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

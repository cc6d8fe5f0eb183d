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

use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::cpu::thread_time;
use super::life::Life;

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
    /// Made when the guest first waits: most answer in one poll.
    killed: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

struct Throttled {
    since: Instant,
    until: Pin<Box<Sleep>>,
}

impl<T> Guarded<T> {
    /// Within a Tokio runtime, whose clock it may need. A container already in debt starts throttled:
    /// short calls must not slip through one poll at a time.
    pub fn new(life: Arc<Life>, guest: impl Future<Output = T> + Send + 'static) -> Self {
        let debt = life.cpu.debt();
        let mut guarded = Self { life, guest: Box::pin(guest), throttled: None, killed: None };
        if let Some(wait) = debt {
            guarded.throttle(wait);
        }
        guarded
    }

    /// Waits for tokens; ready when the guest may run.
    fn poll_throttled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(throttled) = &mut self.throttled {
            if throttled.until.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.life.cpu.note_throttled(throttled.since.elapsed());
            self.throttled = None;
            // Others of the container may have used what has come in meanwhile.
            if let Some(wait) = self.life.cpu.debt() {
                self.throttle(wait);
            }
        }
        Poll::Ready(())
    }

    fn throttle(&mut self, wait: std::time::Duration) {
        let since = Instant::now();
        self.throttled = Some(Throttled { since, until: Box::pin(tokio::time::sleep_until(since + wait)) });
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
        let wait = self.life.cpu.charge(thread_time().saturating_sub(before));
        match polled {
            Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
            Err(panic) => Poll::Ready(Err(Halt::Panicked(panic_text(panic.as_ref())))),
            Ok(Poll::Pending) => {
                if let Some(wait) = wait {
                    self.throttle(wait);
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

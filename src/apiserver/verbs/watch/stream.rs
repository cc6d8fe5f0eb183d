//! The stream of one watch: what is there, what changes, bookmarks, and the end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::event::{Writer, error_line};
use crate::apiserver::ApiServer;
use crate::apiserver::registry::encoding::Stored;
use crate::apiserver::status::ApiError;
use crate::store::{Change, Error, Watch};

/// Upstream's pace. A quiet kind's watchers learn from bookmarks that they are not behind.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// The last bookmark comes this much before the end, so that the next watch begins where this one ended.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// One watch on its way to one client.
pub struct Stream {
    /// `None` once the watch has ended.
    running: Option<Running>,
    ready: VecDeque<Bytes>,
}

struct Running {
    watch: Watch,
    writer: Writer,
    server: ApiServer,
    /// The server stops, or the kind has changed. Made once, so that a step costs no registration.
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    initial: VecDeque<Stored>,
    /// The bookmark that ends the initial events, still to be sent.
    end_of_initial: Option<u64>,
    deadline: Instant,
    /// When the next bookmark is due; `None` when the client wants none.
    bookmark: Option<Instant>,
    /// Goes off at the next bookmark or the deadline. Kept, so that an event sets no timer.
    timer: Pin<Box<Sleep>>,
}

impl Stream {
    pub fn new(
        watch: Watch,
        writer: Writer,
        server: ApiServer,
        stop: CancellationToken,
        deadline: Instant,
        bookmarks: bool,
    ) -> Self {
        let bookmark = bookmarks.then(|| next_bookmark(Instant::now(), deadline));
        let stop = Box::pin(stop.cancelled_owned());
        let (initial, end_of_initial) = (VecDeque::new(), None);
        let timer = Box::pin(sleep_until(deadline));
        let running = Running { watch, writer, server, stop, initial, end_of_initial, deadline, bookmark, timer };
        Self { running: Some(running), ready: VecDeque::new() }
    }

    /// Begins with what is there at `revision`.
    pub fn with_initial(mut self, initial: Vec<Stored>, revision: u64, mark_end: bool) -> Self {
        if let Some(running) = &mut self.running {
            running.initial = initial.into();
            running.end_of_initial = mark_end.then_some(revision);
        }
        self
    }

    /// A watch that only says that it is too late.
    pub fn expired(requested: u64, current: u64) -> Self {
        let error = ApiError::expired(format!("too old resource version: {requested} ({current})"));
        Self { running: None, ready: VecDeque::from([error_line(&error)]) }
    }

    /// The lines, as a body takes them.
    pub fn into_chunks(self) -> impl futures::Stream<Item = Result<Bytes, Infallible>> + Send {
        futures::stream::unfold(self, |mut stream| async move {
            let line = stream.next().await?;
            Some((Ok(line), stream))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            let running = self.running.as_mut()?;
            match running.step().await {
                Step::Line(line) => return Some(line),
                Step::Nothing => {}
                Step::End(last) => {
                    self.running = None;
                    self.ready.extend(last);
                }
            }
        }
    }
}

enum Step {
    Line(Bytes),
    /// Something happened that this watcher is not told.
    Nothing,
    /// The watch is over, with a last line perhaps.
    End(Option<Bytes>),
}

impl Running {
    async fn step(&mut self) -> Step {
        if let Some(stored) = self.initial.pop_front() {
            return self.writer.initial(&stored).map_or(Step::Nothing, Step::Line);
        }
        if let Some(revision) = self.end_of_initial.take() {
            return Step::Line(self.writer.bookmark(revision, true));
        }
        // A busy watch must not run past its deadline.
        if Instant::now() >= self.deadline {
            return Step::End(None);
        }
        let wake = self.bookmark.unwrap_or(self.deadline).min(self.deadline);
        if self.timer.deadline() != wake {
            self.timer.as_mut().reset(wake);
        }
        tokio::select! {
            biased;
            change = self.watch.next() => match change {
                Some(Ok(change)) => self.changed(change).await,
                Some(Err(error)) => Step::End(Some(error_line(&lost(error)))),
                // The store has been closed: clients watch again elsewhere, or after the restart.
                None => Step::End(None),
            },
            () = &mut self.stop => Step::End(None),
            () = &mut self.timer => self.on_time(),
        }
    }

    /// A change, in the version that is watched.
    async fn changed(&mut self, change: Arc<Change>) -> Step {
        let kind = self.writer.kind();
        let shown = match self.writer.takes_as_stored() {
            true => Ok(change),
            false => tokio::select! {
                shown = self.server.registry.shown_change(kind, change, self.writer.selects()) => shown,
                () = &mut self.stop => return Step::End(None),
            },
        };
        match shown {
            Ok(change) => {
                let shared = self.server.changes.get(kind, change);
                self.writer.change(&shared).map_or(Step::Nothing, Step::Line)
            }
            Err(error) => Step::End(Some(error_line(&error))),
        }
    }

    fn on_time(&mut self) -> Step {
        let now = Instant::now();
        match self.bookmark {
            Some(due) if due <= now && due < self.deadline => {
                self.bookmark = Some(next_bookmark(now, self.deadline));
                Step::Line(self.writer.bookmark(self.watch.progress(), false))
            }
            _ if now >= self.deadline => Step::End(None),
            _ => Step::Nothing,
        }
    }
}

/// A minute on, or just before the deadline if that is sooner; never twice at one moment.
fn next_bookmark(now: Instant, deadline: Instant) -> Instant {
    let last = deadline.checked_sub(LAST_BOOKMARK).unwrap_or(now);
    let regular = now + BOOKMARK_INTERVAL;
    if regular < last || last <= now { regular } else { last }
}

/// What a watcher is told that the history has left behind.
fn lost(error: Error) -> ApiError {
    match error {
        Error::Lagged | Error::Compacted { .. } => {
            ApiError::expired("too old resource version: the watch fell behind the history kept; list again")
        }
        other @ (Error::Conflict { .. } | Error::Future { .. } | Error::Broken(_)) => ApiError::internal(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bookmarks_come_each_minute_and_before_the_end() {
        let now = Instant::now();
        let deadline = now + Duration::from_secs(90);
        let first = next_bookmark(now, deadline);
        assert_eq!(first, now + Duration::from_secs(60));
        let second = next_bookmark(first, deadline);
        assert_eq!(second, deadline - LAST_BOOKMARK);
        assert!(next_bookmark(second, deadline) > deadline);
    }
}

//! The one order of writes.
//!
//! Each write is decided in memory the moment it comes, against what the key will be when all earlier
//! writes are done: a write that still waits for the disk counts. So the disk is never asked twice and
//! may take any number of writes at once. What is decided becomes visible strictly in that order, a
//! synced write only after its sync. Everything behind a waiting write waits with it, an eventual one
//! too: revisions have no gaps that fill later.
//!
//! A backend's thread calls [`Sequencer::take`] for the next batch and [`Sequencer::settle`] when it is
//! durable, or [`Sequencer::fail`] when it cannot know that it is.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::feed::Feed;
use super::{Change, Durability, Entry, Error, Expect, Write};

/// How many revisions may be given out beyond the last durable one. After a crash the count goes on
/// behind them, so that no revision that anyone has seen is ever given out again.
const RESERVE_REVISIONS: u64 = 20_000;
/// How long eventual writes may gather before they go to disk together.
const GATHER: Duration = Duration::from_millis(200);
/// Beyond so many writes on the way to disk, eventual ones wait for it too: the disk sets the pace.
const BACKLOG_WRITES: usize = 16_384;

/// Whether writes are made durable by a backend, or are done when they are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Durable,
    Volatile,
}

pub(super) struct Sequencer {
    feed: Arc<Feed>,
    mode: Mode,
    inner: Mutex<Inner>,
    /// Wakes the backend's thread.
    work: Condvar,
    /// Of the batches of even and of odd numbers. While one is on its way to disk the next gathers: those who
    /// wait for the one are not woken for the other.
    progress: [watch::Sender<Progress>; 2],
}

/// How far writes have come; what waiting writers look at.
#[derive(Debug, Clone, Default)]
struct Progress {
    visible: u64,
    broken: Option<Arc<str>>,
}

struct Inner {
    /// The last revision given out.
    last: u64,
    /// Revisions up to this are reserved on disk.
    ceiling: u64,
    /// The number of the batch that gathers.
    batch: usize,
    /// What each key will be, where that is not visible yet.
    pending: HashMap<Arc<str>, Pending>,
    /// Decided, not yet taken by the backend; in order.
    queue: Vec<Ordered>,
    queue_since: Option<Instant>,
    /// Whether something in the queue has a writer waiting for it.
    urgent: bool,
    /// How many decided writes are not visible yet.
    invisible: usize,
    closing: bool,
    broken: Option<Arc<str>>,
}

struct Pending {
    revision: u64,
    batch: usize,
    entry: Option<Entry>,
}

/// A decided write on its way to disk.
pub(super) struct Ordered {
    pub(super) change: Arc<Change>,
    /// Readers have seen it before it is durable.
    visible: bool,
}

/// What the backend is to make durable in one go.
pub(super) struct Batch {
    pub(super) writes: Vec<Ordered>,
    number: usize,
    /// The last revision of this batch, or given out before it.
    pub(super) last: u64,
    /// The reservation to record with it.
    pub(super) ceiling: u64,
    /// No batch follows: the store is being closed.
    pub(super) is_final: bool,
}

/// What became of a write the moment it came.
enum Decision {
    Done(u64),
    /// It is done once this revision, of the batch with this number, is visible.
    Wait(u64, usize),
    /// It lost to a write that is not visible yet; to be judged again when that one is.
    Retry(u64, usize),
}

impl Sequencer {
    pub(super) fn new(feed: Arc<Feed>, mode: Mode) -> Self {
        let last = feed.revision();
        let inner = Inner {
            last,
            ceiling: last,
            batch: 0,
            pending: HashMap::new(),
            queue: Vec::new(),
            queue_since: None,
            urgent: false,
            invisible: 0,
            closing: false,
            broken: None,
        };
        let progress = || watch::Sender::new(Progress { visible: last, broken: None });
        Self { feed, mode, inner: Mutex::new(inner), work: Condvar::new(), progress: [progress(), progress()] }
    }

    pub(super) async fn commit(&self, write: Write) -> Result<u64, Error> {
        loop {
            match self.decide(&write)? {
                Decision::Done(revision) => return Ok(revision),
                Decision::Wait(revision, batch) => {
                    self.visible(revision, batch).await?;
                    return Ok(revision);
                }
                Decision::Retry(revision, batch) => self.visible(revision, batch).await?,
            }
        }
    }

    fn decide(&self, write: &Write) -> Result<Decision, Error> {
        let mut inner = self.inner();
        if let Some(broken) = &inner.broken {
            return Err(Error::Broken(broken.to_string()));
        }
        if inner.closing {
            return Err(Error::Broken("the store has been closed".into()));
        }
        let seen = self.feed.read(|state| state.get(&write.key).cloned());
        let current = match inner.pending.get(&write.key) {
            // It lost to a write that nobody can see yet. A loser told now could read, find the old
            // value and lose again, for as long as the sync takes.
            Some(next) if !holds(write.expect, next.entry.as_ref()) && holds(write.expect, seen.as_ref()) => {
                return Ok(Decision::Retry(next.revision, next.batch));
            }
            Some(next) if holds(write.expect, next.entry.as_ref()) => next.entry.clone(),
            Some(_) => return Err(Error::Conflict { current: seen }),
            None if holds(write.expect, seen.as_ref()) => seen,
            None => return Err(Error::Conflict { current: seen }),
        };
        let waits = match self.mode {
            Mode::Volatile => false,
            Mode::Durable => inner.must_wait(write.durability),
        };
        inner.last += 1;
        let revision = inner.last;
        let change = Arc::new(Change {
            key: current.as_ref().map_or_else(|| write.key.clone(), |entry| entry.key.clone()),
            revision,
            value: write.value.clone(),
            previous: current,
        });
        if waits {
            inner.invisible += 1;
            inner.urgent = true;
            let pending = Pending { revision, batch: inner.batch, entry: change.entry() };
            inner.pending.insert(change.key.clone(), pending);
        } else {
            self.feed.publish([change.clone()]);
        }
        if self.mode == Mode::Durable {
            let was_idle = inner.queue.is_empty();
            inner.queue_since.get_or_insert_with(Instant::now);
            inner.queue.push(Ordered { change, visible: !waits });
            if waits || was_idle {
                self.work.notify_one();
            }
        }
        Ok(if waits { Decision::Wait(revision, inner.batch) } else { Decision::Done(revision) })
    }

    /// Waits until `revision`, of the batch with this number, is visible.
    async fn visible(&self, revision: u64, batch: usize) -> Result<(), Error> {
        let mut progress = self.progress_of(batch).subscribe();
        let seen = progress.wait_for(|progress| progress.visible >= revision || progress.broken.is_some()).await;
        match seen {
            Ok(progress) if progress.visible >= revision => Ok(()),
            Ok(progress) => Err(Error::Broken(progress.broken.as_deref().unwrap_or("closed").into())),
            Err(_) => Err(Error::Broken("the store has been closed".into())),
        }
    }

    /// The next batch: at once when a writer waits, otherwise when eventual writes have gathered.
    pub(super) fn take(&self) -> Batch {
        let mut inner = self.inner();
        loop {
            let gathered = inner.queue_since.map(|since| since.elapsed());
            if inner.closing || inner.urgent || gathered.is_some_and(|gathered| gathered >= GATHER) {
                return inner.take();
            }
            inner = match gathered {
                Some(gathered) => {
                    let left = GATHER.saturating_sub(gathered);
                    self.work.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.work.wait(inner).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// The batch is durable: what of it was not visible becomes so, and its writers go on.
    pub(super) fn settle(&self, batch: Batch) {
        let unseen = || batch.writes.iter().filter(|write| !write.visible).map(|write| &write.change);
        self.feed.publish(unseen().cloned());
        {
            let mut inner = self.inner();
            inner.ceiling = inner.ceiling.max(batch.ceiling);
            for change in unseen() {
                inner.invisible -= 1;
                // A later write of the key may be on its way already.
                if inner.pending.get(&change.key).is_some_and(|pending| pending.revision == change.revision) {
                    inner.pending.remove(&change.key);
                }
            }
        }
        let progress = self.progress_of(batch.number);
        progress.send_modify(|progress| progress.visible = progress.visible.max(batch.last));
    }

    /// The disk failed: nothing is known of the last batch, and no write is taken any more.
    pub(super) fn fail(&self, reason: &str) {
        let reason: Arc<str> = reason.into();
        self.inner().broken = Some(reason.clone());
        for progress in &self.progress {
            progress.send_modify(|progress| progress.broken = Some(reason.clone()));
        }
    }

    /// Takes no more writes; the backend gets a last batch.
    pub(super) fn close(&self) {
        self.inner().closing = true;
        self.work.notify_all();
    }

    fn progress_of(&self, batch: usize) -> &watch::Sender<Progress> {
        let [even, odd] = &self.progress;
        if batch.is_multiple_of(2) { even } else { odd }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether a write may only be seen when it is durable.
    fn must_wait(&self, durability: Durability) -> bool {
        durability == Durability::Synced
            || self.invisible > 0
            || self.last >= self.ceiling
            || self.queue.len() >= BACKLOG_WRITES
    }

    fn take(&mut self) -> Batch {
        self.urgent = false;
        self.queue_since = None;
        let ceiling = if self.closing {
            self.last
        } else if self.last + RESERVE_REVISIONS / 2 > self.ceiling {
            self.last + RESERVE_REVISIONS
        } else {
            self.ceiling
        };
        let number = self.batch;
        self.batch += 1;
        Batch { writes: std::mem::take(&mut self.queue), number, last: self.last, ceiling, is_final: self.closing }
    }
}

impl Change {
    /// The entry that this change leaves.
    pub(super) fn entry(&self) -> Option<Entry> {
        self.value.as_ref().map(|value| Entry {
            key: self.key.clone(),
            value: value.clone(),
            mod_revision: self.revision,
            create_revision: self.previous.as_ref().map_or(self.revision, |entry| entry.create_revision),
        })
    }
}

fn holds(expect: Expect, current: Option<&Entry>) -> bool {
    match (expect, current) {
        (Expect::Absent, None) => true,
        (Expect::Revision(revision), Some(entry)) => entry.mod_revision == revision,
        (Expect::Absent, Some(_)) | (Expect::Revision(_), None) => false,
    }
}

//! The state behind its lock, and the fan-out of its changes.
//!
//! Watches of one prefix share a *topic*: a window on the history that holds only the changes with that
//! prefix. A change is put once into each topic it concerns and their watchers are woken; the others
//! sleep on. A watcher owns no queue, only its place in the topic, so a slow one costs nothing and
//! blocks nobody: when the history it has not read falls out of the ring, it is told so and cut off.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use tokio::sync::watch;

use super::state::State;
use super::{Change, Error};

/// How many changes a watcher takes from its topic at a time: few enough to be nothing in memory,
/// enough that the topic's lock is not felt.
const TAKE_CHANGES: usize = 64;

pub(super) struct Feed {
    shared: RwLock<Shared>,
    /// The revision of the last change visible.
    revision: AtomicU64,
    closed: AtomicBool,
}

struct Shared {
    state: State,
    topics: Topics,
}

/// The topics that have watchers, by prefix.
#[derive(Default)]
struct Topics {
    /// Prefixes that end at a `/`: a key's own are found by cutting it there.
    regular: HashMap<Arc<str>, Arc<Topic>>,
    /// All other prefixes, to be tried one by one; nobody in this program uses many.
    irregular: HashMap<Arc<str>, Arc<Topic>>,
}

struct Topic {
    log: Mutex<TopicLog>,
    /// Marks each growth of the log; watchers wait on it.
    grown: watch::Sender<()>,
    watchers: AtomicU64,
}

struct TopicLog {
    changes: VecDeque<Arc<Change>>,
    /// The newest change of this topic that has fallen out of the history.
    floor: u64,
}

impl Feed {
    pub(super) fn new(state: State) -> Self {
        Self {
            revision: AtomicU64::new(state.revision()),
            shared: RwLock::new(Shared { state, topics: Topics::default() }),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Looks at the state; `look` must be short, for writers wait.
    pub(super) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared().state)
    }

    /// Makes changes visible, in order, all at once.
    pub(super) fn publish(&self, changes: impl IntoIterator<Item = Arc<Change>>) {
        let now = Instant::now();
        let mut grown: Vec<Arc<Topic>> = Vec::new();
        {
            let mut shared = self.shared_mut();
            let Shared { state, topics } = &mut *shared;
            for change in changes {
                topics.each(&change.key, |topic| {
                    topic.log().changes.push_back(change.clone());
                    if !grown.iter().any(|known| Arc::ptr_eq(known, topic)) {
                        grown.push(topic.clone());
                    }
                });
                for evicted in state.apply(change, now) {
                    topics.each(&evicted.key, |topic| topic.log().forget(&evicted));
                }
            }
            self.revision.store(state.revision(), Ordering::Release);
        }
        for topic in grown {
            topic.grown.send_replace(());
        }
    }

    /// A watch of `prefix` from after `from`.
    pub(super) fn watch(self: &Arc<Self>, prefix: &str, from: u64) -> Result<Watch, Error> {
        let mut shared = self.shared_mut();
        shared.state.check(from)?;
        let Shared { state, topics } = &mut *shared;
        let topic = topics.open(prefix, state);
        topic.watchers.fetch_add(1, Ordering::Relaxed);
        let grown = topic.grown.subscribe();
        Ok(Watch {
            feed: self.clone(),
            prefix: prefix.into(),
            topic,
            grown,
            taken: VecDeque::new(),
            position: from,
            over: false,
        })
    }

    /// Ends all watches.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let shared = self.shared();
        for topic in shared.topics.regular.values().chain(shared.topics.irregular.values()) {
            topic.grown.send_replace(());
        }
    }

    fn leave(&self, prefix: &Arc<str>, topic: &Arc<Topic>) {
        let mut shared = self.shared_mut();
        if topic.watchers.fetch_sub(1, Ordering::Relaxed) == 1 {
            shared.topics.map(prefix).remove(prefix);
        }
    }

    fn shared(&self) -> RwLockReadGuard<'_, Shared> {
        // Nothing that runs under the lock can leave the state half changed by unwinding.
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared_mut(&self) -> RwLockWriteGuard<'_, Shared> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Topics {
    fn map(&mut self, prefix: &str) -> &mut HashMap<Arc<str>, Arc<Topic>> {
        if prefix.is_empty() || prefix.ends_with('/') { &mut self.regular } else { &mut self.irregular }
    }

    /// The topic of `prefix`, made from the history when it is new.
    fn open(&mut self, prefix: &str, state: &State) -> Arc<Topic> {
        let topics = self.map(prefix);
        if let Some(topic) = topics.get(prefix) {
            return topic.clone();
        }
        let changes = state.changes_after(state.floor()).filter(|c| c.key.starts_with(prefix)).cloned().collect();
        let topic = Arc::new(Topic {
            log: Mutex::new(TopicLog { changes, floor: state.floor() }),
            grown: watch::Sender::new(()),
            watchers: AtomicU64::new(0),
        });
        topics.insert(prefix.into(), topic.clone());
        topic
    }

    /// Visits the topics that `key` belongs to.
    fn each(&self, key: &str, mut visit: impl FnMut(&Arc<Topic>)) {
        if !self.regular.is_empty() {
            let cuts = key.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at + 1);
            for cut in std::iter::once(0).chain(cuts) {
                let topic = key.get(..cut).and_then(|prefix| self.regular.get(prefix));
                topic.into_iter().for_each(&mut visit);
            }
        }
        for (prefix, topic) in &self.irregular {
            if key.starts_with(&**prefix) {
                visit(topic);
            }
        }
    }
}

impl Topic {
    fn log(&self) -> MutexGuard<'_, TopicLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TopicLog {
    /// Drops `evicted`, which can only be the oldest.
    fn forget(&mut self, evicted: &Arc<Change>) {
        if self.changes.front().is_some_and(|oldest| oldest.revision == evicted.revision) {
            self.changes.pop_front();
            self.floor = evicted.revision;
        }
    }

    fn take_after(&self, position: u64, into: &mut VecDeque<Arc<Change>>) -> Result<(), Error> {
        if position < self.floor {
            return Err(Error::Lagged);
        }
        let start = self.changes.partition_point(|change| change.revision <= position);
        into.extend(self.changes.range(start..).take(TAKE_CHANGES).cloned());
        Ok(())
    }
}

/// A running watch: each change of its prefix once, in order. Dropping it ends it.
pub struct Watch {
    feed: Arc<Feed>,
    prefix: Arc<str>,
    topic: Arc<Topic>,
    grown: watch::Receiver<()>,
    /// Taken from the topic, not yet given out.
    taken: VecDeque<Arc<Change>>,
    /// The last change taken from the topic, or where the watch began.
    position: u64,
    over: bool,
}

impl Watch {
    /// The next change. `None` when the store has been closed. [`Error::Lagged`] when the reader was so
    /// slow that changes it has not seen are forgotten; that is the last thing it gives. May be
    /// dropped before it is ready without losing a change.
    pub async fn next(&mut self) -> Option<Result<Arc<Change>, Error>> {
        loop {
            if let Some(next) = self.try_next() {
                return Some(next);
            }
            if self.over || self.feed.closed.load(Ordering::Acquire) || self.grown.changed().await.is_err() {
                return None;
            }
        }
    }

    /// The next change, if there is one already.
    pub fn try_next(&mut self) -> Option<Result<Arc<Change>, Error>> {
        if self.over {
            return None;
        }
        if self.taken.is_empty() {
            // Marked before looking, so that a change that comes after the look wakes the next wait.
            self.grown.borrow_and_update();
            if let Err(error) = self.topic.log().take_after(self.position, &mut self.taken) {
                self.over = true;
                return Some(Err(error));
            }
            self.position = self.taken.back().map_or(self.position, |change| change.revision);
        }
        self.taken.pop_front().map(Ok)
    }

    /// A revision that this watch has come to: every change up to it has been given out. What a
    /// bookmark may say.
    pub fn progress(&self) -> u64 {
        if let Some(next) = self.taken.front() {
            return next.revision.saturating_sub(1);
        }
        // Read before the topic is looked at: a change is in its topics before it is visible here.
        let visible = self.feed.revision();
        let log = self.topic.log();
        let first_unseen = log.changes.partition_point(|change| change.revision <= self.position);
        match log.changes.get(first_unseen) {
            Some(unseen) => unseen.revision.saturating_sub(1).min(visible).max(self.position),
            None if log.floor > self.position => self.position,
            None => visible.max(self.position),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.feed.leave(&self.prefix, &self.topic);
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("prefix", &self.prefix).field("position", &self.position).finish_non_exhaustive()
    }
}

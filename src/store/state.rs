//! The whole state in memory: an ordered map of what is, and a bounded ring of what changed.
//!
//! Older revisions are not stored. Each change carries the value before it, so the state at an older
//! revision is the present with the later changes taken back; the ring is as deep as that can go. Pure
//! and single-threaded: [`super::feed`] puts the lock round it.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Change, Entry, Error, Page};

/// How much history is kept for watches that resume and lists that continue.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Changes older than this may go. Kubernetes clients expect about five minutes.
    pub age: Duration,
    /// At most so many changes, so that taking them back stays quick.
    pub changes: usize,
    /// At most so many bytes of keys and values: the only part of the server's memory that grows with
    /// the rate of writes rather than with the state.
    pub bytes: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age: Duration::from_secs(300), changes: 100_000, bytes: 48 << 20 }
    }
}

/// What a change costs in the ring besides its key and value.
const CHANGE_OVERHEAD_BYTES: usize = 160;

pub(super) struct State {
    entries: BTreeMap<Arc<str>, Entry>,
    ring: VecDeque<(Instant, Arc<Change>)>,
    ring_bytes: usize,
    retention: Retention,
    /// The last change applied.
    revision: u64,
    /// The history after this revision is complete; what was before it is forgotten.
    floor: u64,
}

impl State {
    /// The state as recovered: no history before `revision`.
    pub(super) fn new(entries: BTreeMap<Arc<str>, Entry>, revision: u64, retention: Retention) -> Self {
        Self { entries, ring: VecDeque::new(), ring_bytes: 0, retention, revision, floor: revision }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Makes `change`, the next one in order, visible. Returns the changes that fell out of the ring.
    pub(super) fn apply(&mut self, change: Arc<Change>, now: Instant) -> Vec<Arc<Change>> {
        debug_assert!(change.revision > self.revision, "changes are applied in order");
        self.revision = change.revision;
        match &change.value {
            Some(value) => {
                let create_revision = change.previous.as_ref().map_or(change.revision, |e| e.create_revision);
                let entry = Entry {
                    key: change.key.clone(),
                    value: value.clone(),
                    mod_revision: change.revision,
                    create_revision,
                };
                self.entries.insert(change.key.clone(), entry);
            }
            None => {
                self.entries.remove(&change.key);
            }
        }
        self.ring_bytes += cost(&change);
        self.ring.push_back((now, change));
        self.evict(now)
    }

    fn evict(&mut self, now: Instant) -> Vec<Arc<Change>> {
        let mut evicted = Vec::new();
        while let Some((made, change)) = self.ring.front() {
            let over = self.ring.len() > self.retention.changes || self.ring_bytes > self.retention.bytes;
            if !over && now.saturating_duration_since(*made) <= self.retention.age {
                break;
            }
            self.floor = change.revision;
            self.ring_bytes -= cost(change);
            evicted.extend(self.ring.pop_front().map(|(_, change)| change));
        }
        evicted
    }

    /// Whether the history reaches back to `revision` and the present has come to it.
    pub(super) fn check(&self, revision: u64) -> Result<(), Error> {
        if revision > self.revision {
            return Err(Error::Future { requested: revision, current: self.revision });
        }
        if revision < self.floor {
            return Err(Error::Compacted { requested: revision, oldest: self.floor });
        }
        Ok(())
    }

    /// The changes after `revision`, oldest first.
    pub(super) fn changes_after(&self, revision: u64) -> impl DoubleEndedIterator<Item = &Arc<Change>> {
        let start = self.ring.partition_point(|(_, change)| change.revision <= revision);
        self.ring.range(start..).map(|(_, change)| change)
    }

    pub(super) fn get_at(&self, key: &str, revision: u64) -> Result<Option<Entry>, Error> {
        self.check(revision)?;
        // The first change after `revision` knows what was there before it.
        match self.changes_after(revision).find(|change| &*change.key == key) {
            Some(change) => Ok(change.previous.clone()),
            None => Ok(self.entries.get(key).cloned()),
        }
    }

    pub(super) fn count(&self, prefix: &str) -> usize {
        self.entries_after(prefix, None).count()
    }

    pub(super) fn list(&self, prefix: &str, after: Option<&str>, limit: usize, at: Option<u64>) -> Result<Page, Error> {
        let revision = at.unwrap_or(self.revision);
        self.check(revision)?;
        if revision == self.revision {
            return Ok(cut(self.entries_after(prefix, after).map(|(_, entry)| entry), limit, revision));
        }
        let past = self.past(prefix, after, revision);
        Ok(cut(past.values().copied(), limit, revision))
    }

    /// The entries with `prefix` behind `after` as they were at `revision`.
    fn past<'a>(&'a self, prefix: &'a str, after: Option<&'a str>, revision: u64) -> BTreeMap<&'a str, &'a Entry> {
        let mut past: BTreeMap<&str, &Entry> =
            self.entries_after(prefix, after).map(|(key, entry)| (&**key, entry)).collect();
        let mut taken_back = HashSet::new();
        for change in self.changes_after(revision) {
            let key = &*change.key;
            if !key.starts_with(prefix) || after.is_some_and(|after| key <= after) || !taken_back.insert(key) {
                continue;
            }
            match &change.previous {
                Some(entry) => past.insert(key, entry),
                None => past.remove(key),
            };
        }
        past
    }

    fn entries_after<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Entry)> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.entries.range::<str, _>((start, Bound::Unbounded)).take_while(move |(key, _)| key.starts_with(prefix))
    }
}

/// The first `limit` of `entries` (0: all), and how many follow.
fn cut<'a>(mut entries: impl Iterator<Item = &'a Entry>, limit: usize, revision: u64) -> Page {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let page: Vec<Entry> = entries.by_ref().take(limit).cloned().collect();
    Page { entries: page, revision, remaining: entries.count() }
}

fn cost(change: &Change) -> usize {
    // The value before it is shared with an earlier change or was the state's own.
    change.key.len() + change.value.as_ref().map_or(0, Bytes::len) + CHANGE_OVERHEAD_BYTES
}

//! What is to be looked at: each key once, one run of a key at a time, later where asked.
//!
//! A key that is added while it runs, runs once more afterwards. A key that fails comes back after a delay that
//! doubles. What it does is counted ([`super::figures`]). The queue is bounded by the number of different keys, which
//! are objects that the process holds in its stores anyway.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::figures::{Figures, Moment};
use super::key::{ObjectKey, owner_uid};
use super::shared::{Shared, Watched};

/// A handle on the queue; clones share it.
#[derive(Debug)]
pub struct Queue<T = ObjectKey> {
    inner: Arc<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    state: Mutex<State<T>>,
    notify: Notify,
}

#[derive(Debug)]
struct State<T> {
    ready: VecDeque<T>,
    /// What `ready` holds, and what runs and is to run again; since when it waits.
    dirty: HashMap<T, Instant>,
    /// Since when.
    running: HashMap<T, Instant>,
    /// By time; the number keeps equal times apart.
    delayed: BTreeMap<(Instant, u64), T>,
    due: HashMap<T, (Instant, u64)>,
    failures: HashMap<T, u32>,
    next_number: u64,
    figures: Figures,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T: Hash + Eq + Clone> Default for Queue<T> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            running: HashMap::new(),
            delayed: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            next_number: 0,
            figures: Figures::default(),
        };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), notify: Notify::new() }) }
    }
}

impl<T: Hash + Eq + Clone> Queue<T> {
    /// Look at it now.
    pub fn add(&self, item: T) {
        self.lock().add(item);
        self.inner.notify.notify_one();
    }

    /// Look at it no later than after `delay`.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        self.lock().add_at(item, Instant::now() + delay);
        self.inner.notify.notify_one();
    }

    /// It failed: look at it again after `first`, doubled with each failure up to `max`.
    pub fn retry(&self, item: T, first: Duration, max: Duration) {
        self.lock().retry(item, Instant::now(), first, max);
        self.inner.notify.notify_one();
    }

    /// It went well: the next failure begins with a short delay again.
    pub fn forget(&self, item: &T) {
        self.lock().failures.remove(item);
    }

    /// The next to look at; [`Queue::done`] must follow. Safe to cancel. For one consumer.
    pub async fn next(&self) -> T {
        loop {
            let due = {
                let mut state = self.lock();
                state.promote(Instant::now());
                if let Some(item) = state.take() {
                    return item;
                }
                state.delayed.keys().next().map(|(at, _)| *at)
            };
            match due {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, self.inner.notify.notified()).await;
                }
                None => self.inner.notify.notified().await,
            }
        }
    }

    /// The run that `next` began has ended.
    pub fn done(&self, item: &T) {
        let mut state = self.lock();
        if let Some(since) = state.running.remove(item) {
            state.figures.worked.add(since.elapsed());
        }
        if state.dirty.contains_key(item) {
            state.ready.push_back(item.clone());
        }
        drop(state);
        self.inner.notify.notify_one();
    }

    /// What it has done so far, and how it stands now.
    pub(super) fn figures(&self) -> (Figures, Moment) {
        let state = self.lock();
        let now = Instant::now();
        let running = state.running.values().map(|since| now.saturating_duration_since(*since));
        let moment = Moment {
            depth: state.ready.len(),
            unfinished: running.clone().sum(),
            longest: running.max().unwrap_or_default(),
        };
        (state.figures.clone(), moment)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue<ObjectKey> {
    /// Looks at each object of a kind that changes.
    pub fn follow<K: Watched>(&self, shared: &Shared<K>) {
        let queue = self.clone();
        shared.on_change(move |old, new| {
            if let Some(object) = new.or(old) {
                queue.add(ObjectKey::of(object));
            }
            true
        });
    }

    /// Looks at those of its namespace that want a child that nobody controls.
    pub fn follow_orphans<C: Watched, K: Watched>(
        &self,
        children: &Shared<C>,
        owners: &Shared<K>,
        want: impl Fn(&K, &C) -> bool + Send + Sync + 'static,
    ) {
        let (queue, owners) = (self.clone(), owners.clone());
        children.on_change(move |_, child| {
            let Some(child) = child.filter(|child| owner_uid(child.meta()).is_none()) else { return true };
            for owner in owners.list_in(child.meta().namespace.as_deref().unwrap_or_default()) {
                if want(&owner, child) {
                    queue.add(ObjectKey::of(&*owner));
                }
            }
            true
        });
    }

    /// Looks at the object of kind `owner_kind` that controls a child that changes.
    pub fn follow_children<K: Watched>(&self, shared: &Shared<K>, owner_kind: &'static str) {
        let queue = self.clone();
        shared.on_change(move |old, new| {
            let (before, after) = (old.map(kube::Resource::meta), new.map(kube::Resource::meta));
            let same = before.and_then(owner_uid) == after.and_then(owner_uid);
            for meta in [before.filter(|_| !same || after.is_none()), after].into_iter().flatten() {
                let owners = meta.owner_references.as_deref().unwrap_or_default();
                if let Some(owner) = owners.iter().find(|o| o.controller == Some(true) && o.kind == owner_kind) {
                    let namespace = meta.namespace.as_deref().unwrap_or_default();
                    queue.add(ObjectKey::new(namespace, owner.name.as_str()));
                }
            }
            true
        });
    }
}

impl<T: Hash + Eq + Clone> State<T> {
    fn add(&mut self, item: T) {
        if let Some(due) = self.due.remove(&item) {
            self.delayed.remove(&due);
        }
        if self.dirty.contains_key(&item) {
            return;
        }
        self.dirty.insert(item.clone(), Instant::now());
        self.figures.adds += 1;
        if !self.running.contains_key(&item) {
            self.ready.push_back(item);
        }
    }

    fn add_at(&mut self, item: T, at: Instant) {
        if let Some(due) = self.due.get(&item) {
            if due.0 <= at {
                return;
            }
            self.delayed.remove(due);
        }
        self.next_number += 1;
        let due = (at, self.next_number);
        self.due.insert(item.clone(), due);
        self.delayed.insert(due, item);
    }

    fn retry(&mut self, item: T, now: Instant, first: Duration, max: Duration) {
        self.figures.retries += 1;
        let failures = self.failures.entry(item.clone()).or_default();
        let delay = first.saturating_mul(1 << (*failures).min(20)).min(max);
        *failures = failures.saturating_add(1);
        self.add_at(item, now + delay);
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let item = entry.remove();
            self.due.remove(&item);
            self.add(item);
        }
    }

    fn take(&mut self) -> Option<T> {
        let item = self.ready.pop_front()?;
        let now = Instant::now();
        if let Some(since) = self.dirty.remove(&item) {
            self.figures.queued.add(now.saturating_duration_since(since));
        }
        self.running.insert(item.clone(), now);
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn now(queue: &Queue<u32>) -> Option<u32> {
        queue.next().now_or_never()
    }

    #[test]
    fn a_key_runs_once_at_a_time_and_again_when_it_changed_meanwhile() {
        let queue = Queue::default();
        queue.add(1);
        queue.add(1);
        assert_eq!(now(&queue), Some(1));
        queue.add(1);
        assert!(queue.lock().ready.is_empty(), "it is still running");
        queue.done(&1);
        assert_eq!(now(&queue), Some(1));
        queue.done(&1);
        assert!(queue.lock().ready.is_empty());
    }

    #[test]
    fn the_earliest_of_several_delays_counts() {
        let queue = Queue::default();
        let (mut state, start) = (queue.lock(), Instant::now());
        for seconds in [60, 1, 30] {
            state.add_at(1, start + Duration::from_secs(seconds));
        }
        state.promote(start);
        assert_eq!(state.take(), None);
        state.promote(start + Duration::from_secs(1));
        assert_eq!(state.take(), Some(1));
        assert!(state.delayed.is_empty() && state.due.is_empty());
    }

    #[test]
    fn adding_now_overtakes_a_delay() {
        let queue = Queue::default();
        queue.add_after(1, Duration::from_secs(60));
        queue.add(1);
        assert_eq!(now(&queue), Some(1));
        assert!(queue.lock().delayed.is_empty());
    }

    #[test]
    fn failures_back_off_until_one_run_goes_well() {
        let queue = Queue::default();
        let (first, max) = (Duration::from_millis(10), Duration::from_millis(50));
        let start = Instant::now();
        for expected in [10, 20, 40, 50, 50] {
            let mut state = queue.lock();
            state.retry(1, start, first, max);
            assert_eq!(state.due[&1].0, start + Duration::from_millis(expected));
            state.promote(start + max);
            assert_eq!(state.take(), Some(1));
            drop(state);
            queue.done(&1);
        }
        queue.forget(&1);
        assert!(queue.lock().failures.is_empty());
    }

    #[test]
    fn it_counts_what_it_does() {
        let queue = Queue::default();
        queue.add(1);
        queue.add(1);
        queue.add(2);
        assert_eq!(now(&queue), Some(1));
        queue.retry(1, Duration::from_secs(60), Duration::from_secs(60));
        let (figures, moment) = queue.figures();
        assert_eq!((figures.adds, figures.retries, moment.depth), (2, 1, 1));
        assert_eq!(moment.unfinished, moment.longest, "one runs");
        queue.done(&1);
        assert_eq!(queue.figures().1.unfinished, Duration::ZERO);
    }
}

//! A bounded, coalescing feed of "look again": which objects may have changed since the last look.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use super::key::ObjectKey;

/// Beyond this many different objects a full look is cheaper than remembering each, and memory stays
/// bounded however slow the reader is.
const MAX_PENDING: usize = 16 * 1024;

/// What to look at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T = ObjectKey> {
    /// This object was added, changed or removed, once or many times.
    Object(T),
    /// Anything may have changed: look at everything. Each feed begins with it.
    Rescan,
}

/// The receiving end. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Changes<T = ObjectKey> {
    inner: Arc<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    pending: Mutex<Pending<T>>,
    notify: Notify,
}

#[derive(Debug)]
struct Pending<T> {
    rescan: bool,
    known: HashSet<T>,
    order: VecDeque<T>,
}

/// The sending end; it does not keep the feed alive.
#[derive(Debug)]
pub(super) struct Sender<T = ObjectKey> {
    inner: Weak<Inner<T>>,
}

impl<T: Hash + Eq + Clone> Changes<T> {
    pub(super) fn new() -> (Sender<T>, Self) {
        let pending = Pending { rescan: true, known: HashSet::new(), order: VecDeque::new() };
        let inner = Arc::new(Inner { pending: Mutex::new(pending), notify: Notify::new() });
        (Sender { inner: Arc::downgrade(&inner) }, Self { inner })
    }

    /// The next thing to look at; waits until there is one. Safe to cancel.
    pub async fn next(&mut self) -> Change<T> {
        loop {
            if let Some(change) = self.try_next() {
                return change;
            }
            self.inner.notify.notified().await;
        }
    }

    /// The next thing to look at, if there is one now.
    pub fn try_next(&mut self) -> Option<Change<T>> {
        let mut pending = self.inner.lock();
        if std::mem::take(&mut pending.rescan) {
            pending.known.clear();
            pending.order.clear();
            return Some(Change::Rescan);
        }
        let item = pending.order.pop_front()?;
        pending.known.remove(&item);
        Some(Change::Object(item))
    }
}

impl<T> Inner<T> {
    /// A panic in another holder leaves the set usable: it holds no invariant across statements.
    fn lock(&self) -> MutexGuard<'_, Pending<T>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Hash + Eq + Clone> Sender<T> {
    /// False when nobody listens any more.
    pub(super) fn send(&self, item: T) -> bool {
        let Some(inner) = self.inner.upgrade() else { return false };
        let mut pending = inner.lock();
        if !pending.rescan && pending.known.insert(item.clone()) {
            pending.order.push_back(item);
            if pending.order.len() > MAX_PENDING {
                pending.rescan = true;
                pending.known.clear();
                pending.order.clear();
            }
        }
        drop(pending);
        inner.notify.notify_one();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_coalesce_and_begin_with_a_full_look() {
        let (sender, mut changes) = Changes::new();
        assert!(sender.send(1));
        assert_eq!(changes.try_next(), Some(Change::Rescan));
        assert_eq!(changes.try_next(), None, "the rescan covers what was sent before it");
        for item in [1, 2, 1, 1] {
            sender.send(item);
        }
        assert_eq!(changes.try_next(), Some(Change::Object(1)));
        assert_eq!(changes.try_next(), Some(Change::Object(2)));
        assert_eq!(changes.try_next(), None);
        drop(changes);
        assert!(!sender.send(3), "nobody listens");
    }

    #[test]
    fn a_flood_collapses_into_one_rescan() {
        let (sender, mut changes) = Changes::new();
        changes.try_next();
        for item in 0..=MAX_PENDING {
            sender.send(item);
        }
        assert_eq!(changes.try_next(), Some(Change::Rescan));
        assert_eq!(changes.try_next(), None);
    }
}

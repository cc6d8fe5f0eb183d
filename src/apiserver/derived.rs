//! What is compiled from stored objects, and made anew by the first request after one of them has
//! changed.
//!
//! Upstream keeps such things in caches that lag behind; here the objects are at hand, so what is
//! written holds from that moment on. Making it costs in proportion to the objects, and is rare; reading
//! it is a pointer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use serde_json::Value;

use super::registry::encoding;
use crate::kinds::{Kind, KindInfo};
use crate::store::Store;

/// A value made from the objects of an API group.
pub struct Derived<T> {
    store: Arc<dyn Store>,
    group: &'static str,
    make: fn(&dyn Store) -> T,
    /// Counts the writes of those objects.
    writes: AtomicU64,
    current: ArcSwap<Made<T>>,
    /// One at a time makes it; the others wait for that rather than do the same work.
    making: Mutex<()>,
}

struct Made<T> {
    /// The number of writes that it shows; more may already be in it.
    writes: u64,
    value: Arc<T>,
}

impl<T: Default> Derived<T> {
    pub fn new(store: Arc<dyn Store>, group: &'static str, make: fn(&dyn Store) -> T) -> Self {
        // Nothing has been made yet, so the first request finds it out of date.
        let current = ArcSwap::from_pointee(Made { writes: 0, value: Arc::default() });
        Self { store, group, make, writes: AtomicU64::new(1), current, making: Mutex::new(()) }
    }
}

impl<T> Derived<T> {
    /// Must be called after each write of an object: notes those that the value is made of.
    pub fn written(&self, info: &KindInfo) {
        if info.group == self.group {
            self.writes.fetch_add(1, Ordering::Release);
        }
    }

    /// The value now.
    pub fn current(&self) -> Arc<T> {
        let made = self.current.load();
        if made.writes == self.writes.load(Ordering::Acquire) {
            return made.value.clone();
        }
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        // Read before the objects: a write in between makes the next request compile again.
        let writes = self.writes.load(Ordering::Acquire);
        let made = self.current.load();
        if made.writes == writes {
            return made.value.clone();
        }
        let value = Arc::new((self.make)(&*self.store));
        self.current.store(Arc::new(Made { writes, value: value.clone() }));
        value
    }
}

/// A kind's objects, by name. What cannot be read is left out.
pub fn objects(store: &dyn Store, kind: &dyn Kind) -> Vec<Value> {
    let prefix = encoding::prefix(kind.info(), "");
    let page = store.list(&prefix, None, 0, None).unwrap_or_default();
    let entries = page.entries.iter();
    entries.filter_map(|entry| encoding::decode(kind, &entry.value, entry.mod_revision).ok()).collect()
}

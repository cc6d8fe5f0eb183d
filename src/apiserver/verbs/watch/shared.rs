//! What watchers of one process share of a change: it is decoded and written out once.
//!
//! A change comes to its watchers within moments, so a small ring indexed by revision finds it; a change
//! that has been pushed out is simply worked out again.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use serde_json::Value;

use crate::apiserver::registry::decoded::Decoded;
use crate::kinds::Kind;
use crate::store::Change;

/// Watchers of one process are at most so many changes apart when they share. Each slot may keep two decoded
/// objects, tens of KiB for a pod, long after the last watcher has read them.
const SLOTS: usize = 128;

/// The ring, shared by all watches.
#[derive(Clone)]
pub struct Changes {
    ring: Arc<Vec<Mutex<Option<Arc<Shared>>>>>,
    decoded: Decoded,
}

/// One change and what has been made of it.
pub struct Shared {
    pub change: Arc<Change>,
    decoded: Decoded,
    new: OnceLock<Arc<Value>>,
    old: OnceLock<Arc<Value>>,
    /// With the owners of fields, and without.
    lines: [OnceLock<Bytes>; 2],
}

impl Changes {
    pub fn new(decoded: Decoded) -> Self {
        Self { ring: Arc::new((0..SLOTS).map(|_| Mutex::new(None)).collect()), decoded }
    }

    /// The shared form of `change`, as `kind` sees it. Who sees another form than the stored one does not
    /// share.
    pub fn get(&self, kind: &dyn Kind, change: Arc<Change>) -> Arc<Shared> {
        let fresh = |change| {
            let (new, old, lines) = Default::default();
            Arc::new(Shared { change, decoded: self.decoded.clone(), new, old, lines })
        };
        if kind.conversion().is_some() || kind.custom().is_some() {
            return fresh(change);
        }
        let index = usize::try_from(change.revision).unwrap_or(0) % self.ring.len();
        let Some(slot) = self.ring.get(index) else { return fresh(change) };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(known) if Arc::ptr_eq(&known.change, &change) => known.clone(),
            _ => {
                let made = fresh(change);
                *slot = Some(made.clone());
                made
            }
        }
    }
}

impl Shared {
    /// The object after the change; `Null` after a deletion.
    pub fn after(&self, kind: &dyn Kind) -> &Value {
        self.new.get_or_init(|| match &self.change.value {
            Some(bytes) => self.decoded.get(kind, bytes, self.change.revision).unwrap_or_default(),
            None => Arc::default(),
        })
    }

    /// The object before the change; `Null` at a creation.
    pub fn before(&self, kind: &dyn Kind) -> &Value {
        self.old.get_or_init(|| match &self.change.previous {
            Some(entry) => self.decoded.get(kind, &entry.value, entry.mod_revision).unwrap_or_default(),
            None => Arc::default(),
        })
    }

    /// The event as a line of JSON, for watchers without a selector.
    pub fn line(&self, owners: bool, write: impl FnOnce() -> Bytes) -> Bytes {
        let [with, without] = &self.lines;
        if owners { with } else { without }.get_or_init(write).clone()
    }
}

//! Bytes and revisions. This room knows no Kubernetes.
//!
//! One counter orders everything: each committed write has the next revision. The whole state lives in
//! memory (an ordered map plus a bounded ring of recent changes); a backend makes it durable. What
//! holds, for every backend, is in the contract suite: an acknowledged durable write survives
//! `kill -9`; the revision only rises, across crashes too; a watch has no gap, no duplicate and no
//! reordering and equals list + replay; no compare-and-swap succeeds on a stale revision.
//!
//! The way of a write: `sequencer` decides it in memory, in one order for all; the backend makes it
//! durable (one sync for everything that waits); `feed` shows it to readers and watchers, in the same
//! order. [`RedbStore`] keeps it on disk, [`MemoryStore`] forgets.

mod feed;
mod memory;
mod redb;
mod sequencer;
mod state;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod crash;

use std::sync::Arc;

use bytes::Bytes;

pub use feed::Watch;
pub use memory::MemoryStore;
pub use redb::{OpenError, RedbStore};
pub use state::Retention;

/// A stored value. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Arc<str>,
    pub value: Bytes,
    /// The revision of the last write of this key.
    pub mod_revision: u64,
    /// The revision of the write that created it.
    pub create_revision: u64,
}

/// What must hold of the key for a write to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key's `mod_revision` is this.
    Revision(u64),
}

/// How soon a write must be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Acknowledged only when synced. All that waits shares one sync.
    Synced,
    /// Acknowledged at once; the disk follows. For Leases and Events, whose loss costs nothing. The
    /// revision still never goes backwards.
    Eventual,
}

#[derive(Debug, Clone)]
pub struct Write {
    pub key: Arc<str>,
    pub expect: Expect,
    /// `None` deletes.
    pub value: Option<Bytes>,
    pub durability: Durability,
}

/// A page of a list, all of one revision.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// The revision that the page shows.
    pub revision: u64,
    /// Whether keys follow the last entry, and how many.
    pub remaining: usize,
}

/// One change, as watchers see it. Shared, never copied.
#[derive(Debug, Clone)]
pub struct Change {
    pub key: Arc<str>,
    pub revision: u64,
    /// The value after the change; `None` after a deletion.
    pub value: Option<Bytes>,
    /// The value before it; `None` at creation.
    pub previous: Option<Entry>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The compare-and-swap lost; the entry as it is now.
    #[error("the key has changed")]
    Conflict { current: Option<Entry> },
    /// The revision asked for is older than the history kept.
    #[error("revision {requested} has been compacted; the oldest is {oldest}")]
    Compacted { requested: u64, oldest: u64 },
    /// The revision asked for has not been made yet.
    #[error("revision {requested} is in the future; the current one is {current}")]
    Future { requested: u64, current: u64 },
    /// The reader of a watch fell too far behind and was cut off.
    #[error("the watch fell behind the history kept")]
    Lagged,
    /// The disk failed. The store refuses all further writes: after a failed sync nothing is known.
    #[error("storage failed: {0}")]
    Broken(String),
}

/// A backend of the API server. Reads never wait for the disk.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// The revision of the last write that readers may see.
    fn revision(&self) -> u64;

    fn get(&self, key: &str) -> Option<Entry>;

    /// The entry as it was at `revision`.
    fn get_at(&self, key: &str, revision: u64) -> Result<Option<Entry>, Error>;

    /// Up to `limit` entries (0: all) with `prefix`, after the key `after`, as of `at` (`None`: now).
    fn list(&self, prefix: &str, after: Option<&str>, limit: usize, at: Option<u64>) -> Result<Page, Error>;

    /// How many keys have `prefix`.
    fn count(&self, prefix: &str) -> usize;

    /// One write, if its expectation holds. Readers and watchers see it no later than the caller does,
    /// and a `Synced` one only once it is durable. Returns the revision of the write.
    async fn commit(&self, write: Write) -> Result<u64, Error>;

    /// All changes of keys with `prefix` after `from` (exclusive), then those to come.
    fn watch(&self, prefix: &str, from: u64) -> Result<Watch, Error>;

    /// Syncs what is eventual and stops the backend.
    async fn close(&self);
}

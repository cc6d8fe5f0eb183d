//! The backend that forgets: for tests and benchmarks. The same order, state and feed as on disk, so
//! that it differs in nothing but what a crash leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::feed::{Feed, Watch};
use super::sequencer::{Mode, Sequencer};
use super::state::{Retention, State};
use super::{Entry, Error, Page, Store, Write};

/// A store without a disk.
pub struct MemoryStore {
    feed: Arc<Feed>,
    sequencer: Sequencer,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::with_retention(Retention::default())
    }

    pub fn with_retention(retention: Retention) -> Self {
        let feed = Arc::new(Feed::new(State::new(BTreeMap::new(), 0, retention)));
        Self { sequencer: Sequencer::new(feed.clone(), Mode::Volatile), feed }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    fn revision(&self) -> u64 {
        self.feed.revision()
    }

    fn get(&self, key: &str) -> Option<Entry> {
        self.feed.read(|state| state.get(key).cloned())
    }

    fn get_at(&self, key: &str, revision: u64) -> Result<Option<Entry>, Error> {
        self.feed.read(|state| state.get_at(key, revision))
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize, at: Option<u64>) -> Result<Page, Error> {
        self.feed.read(|state| state.list(prefix, after, limit, at))
    }

    fn count(&self, prefix: &str) -> usize {
        self.feed.read(|state| state.count(prefix))
    }

    async fn commit(&self, write: Write) -> Result<u64, Error> {
        self.sequencer.commit(write).await
    }

    fn watch(&self, prefix: &str, from: u64) -> Result<Watch, Error> {
        self.feed.watch(prefix, from)
    }

    async fn close(&self) {
        self.sequencer.close();
        self.feed.close();
    }
}

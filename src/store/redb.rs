//! The durable backend: one redb file, one thread that writes it.
//!
//! All writes that wait when the thread is free share one transaction and one sync; while it runs, the
//! next gather. One sync a transaction is enough here: redb checks its pages' checksums on opening
//! after a crash and falls back to the transaction before; its two-phase mode would double the time of
//! every write to close a hole that needs an attacker who also orders the disk's writes.
//!
//! After an error of the disk nothing is known about what it holds: nothing is tried again, all later
//! writes are refused, and a person (or the supervisor, by a restart that recovers) has to look.
//! Reading is from memory and goes on.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::feed::{Feed, Watch};
use super::sequencer::{Batch, Mode, Sequencer};
use super::state::{Retention, State};
use super::{Entry, Error, Page, Store, Write};

/// Key → create revision, mod revision (both little endian), value.
const ENTRIES: TableDefinition<&str, &[u8]> = TableDefinition::new("entries");
/// `revision`: the last one that is durable. `reserved`: the last one that may have been given out.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
const RESERVED: &str = "reserved";
/// The revisions in front of a value.
const HEADER_BYTES: usize = 16;
/// Everything is read from memory, so redb's own cache only has to hold the pages that writes touch.
const CACHE_BYTES: usize = 8 << 20;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} is in use by another coracle server; stop it first or choose another --data-dir")]
    Locked { path: PathBuf },
    #[error("cannot open the state file {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("the state file {path} cannot be used: {reason}; restore it from a copy or move it away to start empty")]
    Unusable { path: PathBuf, reason: String },
}

/// The store on disk.
pub struct RedbStore {
    feed: Arc<Feed>,
    sequencer: Arc<Sequencer>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl RedbStore {
    /// Opens the file at `path`, or makes it, and takes it for this process alone.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, Retention::default())
    }

    pub fn open_with(path: &Path, retention: Retention) -> Result<Self, OpenError> {
        make_private(path).map_err(|source| OpenError::Io { path: path.into(), source })?;
        let database = builder().create(path).map_err(|error| explain(path, error))?;
        Self::start(database, retention).map_err(|reason| OpenError::Unusable { path: path.into(), reason })
    }

    /// A store over any storage that redb can write: what fault tests use.
    pub fn open_backend(backend: impl StorageBackend, retention: Retention) -> Result<Self, OpenError> {
        let path = Path::new("(custom storage)");
        let database = builder().create_with_backend(backend).map_err(|error| explain(path, error))?;
        Self::start(database, retention).map_err(|reason| OpenError::Unusable { path: path.into(), reason })
    }

    fn start(database: Database, retention: Retention) -> Result<Self, String> {
        let (entries, revision) = load(&database)?;
        let feed = Arc::new(Feed::new(State::new(entries, revision, retention)));
        let sequencer = Arc::new(Sequencer::new(feed.clone(), Mode::Durable));
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn({
                let sequencer = sequencer.clone();
                move || write_batches(database, &sequencer)
            })
            .map_err(|error| format!("cannot start its writer thread: {error}"))?;
        Ok(Self { feed, sequencer, writer: Mutex::new(Some(writer)) })
    }

    /// Asks the writer to finish; its handle, the first time.
    fn stop(&self) -> Option<JoinHandle<()>> {
        self.sequencer.close();
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Makes the file if there is none, for this user alone: it holds Secrets. Its directory is synced, or
/// a power failure could take the whole file with all that was written safely into it.
fn make_private(path: &Path) -> io::Result<()> {
    let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(file) => file.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    }
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => File::open(directory)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn explain(path: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::Locked { path: path.into() }
        }
        DatabaseError::Storage(redb::StorageError::Io(source)) => OpenError::Io { path: path.into(), source },
        other => OpenError::Unusable { path: path.into(), reason: other.to_string() },
    }
}

/// The whole state, and the revision to go on from.
fn load(database: &Database) -> Result<(BTreeMap<Arc<str>, Entry>, u64), String> {
    load_tables(database).map_err(|error| error.to_string())?
}

type Loaded = Result<(BTreeMap<Arc<str>, Entry>, u64), String>;

fn load_tables(database: &Database) -> Result<Loaded, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(ENTRIES) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Ok((BTreeMap::new(), 0))),
        Err(error) => return Err(error.into()),
    };
    let meta = transaction.open_table(META)?;
    let number = |name| meta.get(name).map(|value| value.map_or(0, |value| value.value()));
    let mut revision = number(REVISION)?.max(number(RESERVED)?);
    let mut entries = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let Some(entry) = decode(key.value(), value.value()) else {
            return Ok(Err(format!("the record of {} is cut short", key.value())));
        };
        revision = revision.max(entry.mod_revision);
        entries.push((entry.key.clone(), entry));
    }
    // Sorted already, so that the map is built in one pass.
    Ok(Ok((entries.into_iter().collect(), revision)))
}

fn decode(key: &str, record: &[u8]) -> Option<Entry> {
    let (header, value) = record.split_at_checked(HEADER_BYTES)?;
    let (create, modified) = header.split_at_checked(HEADER_BYTES / 2)?;
    Some(Entry {
        key: key.into(),
        value: Bytes::copy_from_slice(value),
        create_revision: u64::from_le_bytes(create.try_into().ok()?),
        mod_revision: u64::from_le_bytes(modified.try_into().ok()?),
    })
}

fn encode(entry: &Entry, record: &mut Vec<u8>) {
    record.clear();
    record.extend_from_slice(&entry.create_revision.to_le_bytes());
    record.extend_from_slice(&entry.mod_revision.to_le_bytes());
    record.extend_from_slice(&entry.value);
}

/// The writer thread: until the store closes or the disk fails.
fn write_batches(database: Database, sequencer: &Sequencer) {
    let mut record = Vec::new();
    loop {
        let batch = sequencer.take();
        if let Err(error) = write_batch(&database, &batch, &mut record) {
            tracing::error!(%error, "writing the state failed: all further writes are refused until a restart");
            sequencer.fail(&error.to_string());
            return;
        }
        let is_final = batch.is_final;
        sequencer.settle(batch);
        if is_final {
            return;
        }
    }
}

/// One transaction, one sync.
fn write_batch(database: &Database, batch: &Batch, record: &mut Vec<u8>) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        // Only the last write of a key counts, and keys in order touch each page once.
        let last: BTreeMap<&str, _> = batch.writes.iter().map(|write| (&*write.change.key, &write.change)).collect();
        let mut entries = transaction.open_table(ENTRIES)?;
        for (key, change) in last {
            match change.entry() {
                Some(entry) => {
                    encode(&entry, record);
                    entries.insert(key, record.as_slice())?;
                }
                None => {
                    entries.remove(key)?;
                }
            }
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert(REVISION, batch.last)?;
        meta.insert(RESERVED, batch.ceiling)?;
    }
    transaction.commit()?;
    Ok(())
}

#[async_trait::async_trait]
impl Store for RedbStore {
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
        if let Some(writer) = self.stop() {
            // The last sync may take as long as the disk likes; it must not hold up a serving thread.
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
        self.feed.close();
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        if let Some(writer) = self.stop() {
            let _ = writer.join();
        }
        self.feed.close();
    }
}

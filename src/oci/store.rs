//! What was pulled, on disk: modules under their digests, and which reference meant which.
//!
//! ```text
//! blobs/HEX       a module, verified and synced before it had this name
//! partial/HEX     a blob that is coming in; what is there is continued
//! names/HEX.json  a Record; its time of change is when it was last used
//! ```

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::layers::Startup;

/// What nothing refers to is kept this long: a pull may be about to.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);
/// Accounts remembered for an image; of more, the latest.
const MAX_GRANTS: usize = 64;

/// A reference that was pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub reference: String,
    /// The digest of the manifest.
    pub manifest: String,
    /// The digest of the module.
    pub module: String,
    pub bytes: u64,
    /// Fingerprints of the accounts that the registry gave it to; empty: to anybody.
    pub grants: Vec<String>,
    #[serde(default)]
    pub startup: Startup,
}

impl Record {
    /// Takes over who else was given the same image.
    pub fn with_grants_of(mut self, before: Option<Record>) -> Record {
        let before = before.filter(|before| before.manifest == self.manifest);
        // What anybody may have once stays so.
        if before.as_ref().is_some_and(|before| before.grants.is_empty()) {
            self.grants.clear();
        } else if !self.grants.is_empty() {
            let known = before.into_iter().flat_map(|before| before.grants);
            self.grants.extend(known);
            self.grants.dedup();
            self.grants.truncate(MAX_GRANTS);
        }
        self
    }
}

/// A pulled image and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub reference: String,
    /// The digest of its module.
    pub module: String,
    pub bytes: u64,
    pub used: SystemTime,
}

/// The directory of one node.
pub(super) struct Store {
    dir: PathBuf,
    /// Who is bringing which blob; the others wait for it.
    busy: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// Held while records and what they refer to are changed.
    books: Mutex<()>,
}

impl Store {
    pub fn open(dir: &Path) -> io::Result<Store> {
        for part in ["blobs", "partial", "names"] {
            fs::create_dir_all(dir.join(part))?;
        }
        Ok(Store { dir: dir.to_owned(), busy: Mutex::default(), books: Mutex::default() })
    }

    /// The lock of a blob, held while it is brought.
    pub fn turn(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = busy.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        busy.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        busy.insert(digest.to_owned(), Arc::downgrade(&lock));
        lock
    }

    pub fn blob(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(hex(digest))
    }

    pub fn partial(&self, digest: &str) -> PathBuf {
        self.dir.join("partial").join(hex(digest))
    }

    /// A temporary file on the same file system.
    pub fn scratch(&self) -> io::Result<tempfile::NamedTempFile> {
        tempfile::Builder::new().prefix("scratch-").tempfile_in(self.dir.join("partial"))
    }

    /// Makes the file the blob of this digest, if it is; removes it otherwise. Blocks.
    pub fn commit(&self, file: &Path, digest: &str) -> io::Result<bool> {
        let found = digest_of_file(file)?;
        if found != digest {
            fs::remove_file(file)?;
            return Ok(false);
        }
        File::open(file)?.sync_all()?;
        let blob = self.blob(digest);
        fs::rename(file, &blob)?;
        File::open(self.dir.join("blobs"))?.sync_all()?;
        Ok(true)
    }

    pub fn record(&self, reference: &str) -> Option<Record> {
        let text = fs::read(self.name_file(reference)).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (record.reference == reference && is_digest(&record.module)).then_some(record)
    }

    pub fn keep(&self, record: Record) -> io::Result<()> {
        let _books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.record(&record.reference);
        let record = record.with_grants_of(before);
        let mut file = tempfile::NamedTempFile::new_in(self.dir.join("names"))?;
        serde_json::to_writer(&mut file, &record)?;
        file.as_file().sync_all()?;
        file.persist(self.name_file(&record.reference)).map_err(|error| error.error)?;
        File::open(self.dir.join("names"))?.sync_all()
    }

    /// Notes that the image was used just now.
    pub fn touch(&self, reference: &str) {
        if let Ok(file) = File::open(self.name_file(reference)) {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    fn name_file(&self, reference: &str) -> PathBuf {
        self.dir.join("names").join(format!("{}.json", hex(&super::sha256(reference.as_bytes()))))
    }

    /// All records. Blocks.
    pub fn list(&self) -> Vec<Usage> {
        let entries = fs::read_dir(self.dir.join("names")).into_iter().flatten().flatten();
        let usage = entries.filter_map(|entry| {
            let record: Record = serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()?;
            let used = entry.metadata().ok()?.modified().ok()?;
            Some(Usage { reference: record.reference, module: record.module, bytes: record.bytes, used })
        });
        usage.collect()
    }

    /// Forgets a reference; its module goes with the last reference to it. Returns the bytes freed. Blocks.
    pub fn remove(&self, usage: &Usage) -> io::Result<u64> {
        let _books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        fs::remove_file(self.name_file(&usage.reference))?;
        if self.list().iter().any(|other| other.module == usage.module) {
            return Ok(0);
        }
        fs::remove_file(self.blob(&usage.module))?;
        Ok(usage.bytes)
    }

    /// Removes what no record refers to and nobody is bringing: the remains of a crash. Blocks.
    pub fn sweep(&self, now: SystemTime) {
        let _books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let known: Vec<String> = self.list().iter().map(|usage| hex(&usage.module).to_owned()).collect();
        for dir in ["blobs", "partial"] {
            for entry in fs::read_dir(self.dir.join(dir)).into_iter().flatten().flatten() {
                let changed = entry.metadata().and_then(|about| about.modified()).unwrap_or(now);
                let old = now.duration_since(changed).is_ok_and(|age| age > ORPHAN_AGE);
                if old && !known.iter().any(|hex| entry.file_name() == hex.as_str()) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }
}

/// Only what [`is_digest`] accepts becomes part of a path.
fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// Whether it is a sha256 digest as registries write it; no other is taken.
pub(super) fn is_digest(text: &str) -> bool {
    let digits = |hex: &str| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    text.strip_prefix("sha256:").is_some_and(digits)
}

pub(super) fn digest_of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(super::hex_digest(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(reference: &str, module: &str, grants: &[&str]) -> Record {
        Record {
            reference: reference.into(),
            manifest: "sha256:m".into(),
            module: module.into(),
            bytes: 4,
            grants: grants.iter().map(|grant| (*grant).to_owned()).collect(),
            startup: Startup::default(),
        }
    }

    fn put(store: &Store, bytes: &[u8]) -> String {
        let digest = super::super::sha256(bytes);
        fs::write(store.partial(&digest), bytes).expect("written");
        assert!(store.commit(&store.partial(&digest), &digest).expect("committed"));
        digest
    }

    #[test]
    fn a_blob_that_is_not_what_it_should_be_never_gets_its_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("a store");
        let digest = super::super::sha256(b"good");
        fs::write(store.partial(&digest), b"evil").expect("written");
        assert!(!store.commit(&store.partial(&digest), &digest).expect("looked at"));
        assert!(!store.blob(&digest).exists() && !store.partial(&digest).exists());
    }

    #[test]
    fn a_module_goes_with_its_last_reference() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("a store");
        let module = put(&store, b"code");
        store.keep(record("a/a:1", &module, &[])).expect("kept");
        store.keep(record("a/a:2", &module, &[])).expect("kept");
        let mut freed = Vec::new();
        for usage in store.list() {
            freed.push(store.remove(&usage).expect("removed"));
        }
        assert_eq!(freed, [0, 4]);
        assert!(!store.blob(&module).exists() && store.record("a/a:1").is_none());
    }

    #[test]
    fn accounts_add_up_and_what_is_public_stays_so() {
        let private = record("a/a:1", "x", &["one"]).with_grants_of(Some(record("a/a:1", "x", &["two"])));
        assert_eq!(private.grants, ["one", "two"]);
        assert!(record("a/a:1", "x", &["one"]).with_grants_of(Some(record("a/a:1", "x", &[]))).grants.is_empty());
        assert!(record("a/a:1", "x", &[]).with_grants_of(Some(record("a/a:1", "x", &["two"]))).grants.is_empty());
    }

    #[test]
    fn remains_are_swept_once_they_are_old() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("a store");
        let (kept, orphan) = (put(&store, b"kept"), put(&store, b"orphan"));
        store.keep(record("a/a:1", &kept, &[])).expect("kept");
        store.sweep(SystemTime::now());
        assert!(store.blob(&orphan).exists());
        store.sweep(SystemTime::now() + ORPHAN_AGE * 2);
        assert!(store.blob(&kept).exists() && !store.blob(&orphan).exists());
    }

    #[test]
    fn only_whole_digests_count() {
        assert!(is_digest(&super::super::sha256(b"")));
        for bad in ["", "sha256:", "sha512:00", "sha256:../../etc", &super::super::sha256(b"").to_uppercase()] {
            assert!(!is_digest(bad), "{bad}");
        }
    }
}

//! What the disk keeps: restarts, `kill -9` of a writing process, a disk that fails, two processes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::{Durability, Error, Expect, OpenError, RedbStore, Retention, Store, Write};

/// Tells a copy of this test program that it is the one to be killed, and where to write.
const VICTIM: &str = "CORACLE_TEST_STORE_VICTIM";

fn put(key: &str, expect: Expect, value: &str, durability: Durability) -> Write {
    Write { key: key.into(), expect, value: Some(Bytes::copy_from_slice(value.as_bytes())), durability }
}

async fn create(store: &RedbStore, key: &str, durability: Durability) -> u64 {
    store.commit(put(key, Expect::Absent, key, durability)).await.expect("the key is new")
}

#[tokio::test]
async fn a_clean_restart_keeps_everything_and_counts_on() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state.redb");
    let store = RedbStore::open(&path).expect("a new file opens");
    let first = create(&store, "/a", Durability::Synced).await;
    let second = create(&store, "/b", Durability::Eventual).await;
    let third = store
        .commit(Write {
            key: "/a".into(),
            expect: Expect::Revision(first),
            value: None,
            durability: Durability::Eventual,
        })
        .await
        .expect("the revision is right");
    store.close().await;
    drop(store);

    let store = RedbStore::open(&path).expect("it opens again");
    assert_eq!(store.revision(), third, "a clean stop wastes no revision");
    assert_eq!(store.get("/a"), None);
    assert_eq!(store.get("/b").map(|entry| entry.mod_revision), Some(second));
    assert!(matches!(store.watch("/", first), Err(Error::Compacted { .. })), "the history does not survive");
    assert_eq!(create(&store, "/c", Durability::Synced).await, third + 1);
}

#[tokio::test]
async fn a_second_opener_is_refused_in_plain_words() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state.redb");
    let _store = RedbStore::open(&path).expect("a new file opens");
    let error = RedbStore::open(&path).err().expect("the file is taken");
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("in use by another"), "{error}");
}

#[test]
fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state.redb");
    let _store = RedbStore::open(&path).expect("a new file opens");
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "Secrets are in it");
    let missing = RedbStore::open(&directory.path().join("missing/state.redb")).err().expect("no directory");
    assert!(matches!(missing, OpenError::Io { .. }), "{missing}");
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state.redb");
    std::fs::write(&path, vec![7; 100_000]).expect("the file is written");
    let error = RedbStore::open(&path).err().expect("that is no store");
    assert!(error.to_string().contains("state.redb"), "{error}");
}

/// A disk that can be told to fail its syncs.
#[derive(Debug)]
struct FailingDisk {
    storage: InMemoryBackend,
    broken: Arc<AtomicBool>,
}

impl StorageBackend for FailingDisk {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.storage.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.storage.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.storage.set_len(len)
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        match self.broken.load(Ordering::SeqCst) {
            true => Err(std::io::Error::from_raw_os_error(5)),
            false => self.storage.sync_data(),
        }
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.storage.write(offset, data)
    }
}

#[tokio::test]
async fn after_a_failed_sync_no_write_is_taken_and_reading_goes_on() {
    let broken = Arc::new(AtomicBool::new(false));
    let disk = FailingDisk { storage: InMemoryBackend::new(), broken: broken.clone() };
    let store = RedbStore::open_backend(disk, Retention::default()).expect("an empty storage opens");
    let revision = create(&store, "/a", Durability::Synced).await;
    broken.store(true, Ordering::SeqCst);
    let failed = store.commit(put("/b", Expect::Absent, "x", Durability::Synced)).await;
    assert!(matches!(failed, Err(Error::Broken(_))), "{failed:?}");
    assert_eq!((store.get("/b"), store.revision()), (None, revision), "what is not durable is not seen");
    broken.store(false, Ordering::SeqCst);
    for durability in [Durability::Synced, Durability::Eventual] {
        let refused = store.commit(put("/c", Expect::Absent, "x", durability)).await;
        assert!(matches!(refused, Err(Error::Broken(_))), "{refused:?}");
    }
    assert!(store.get("/a").is_some());
}

/// Not a test by itself: the process that `no_acknowledged_write_is_lost_by_kill_9` starts and kills.
/// It writes for ever and says on its standard output what has been acknowledged, and only then.
#[test]
fn victim() {
    let Ok(path) = std::env::var(VICTIM) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime starts");
    let store = Arc::new(RedbStore::open(Path::new(&path)).expect("the store opens"));
    println!("open {}", store.revision());
    runtime.block_on(async {
        let writers = (0..8).map(|writer| tokio::spawn(write_for_ever(store.clone(), writer)));
        futures::future::join_all(writers).await;
    });
}

/// Each writer has one synced key that it counts up, and one eventual key.
async fn write_for_ever(store: Arc<RedbStore>, writer: u32) {
    for (kind, durability) in [("synced", Durability::Synced), ("eventual", Durability::Eventual)].iter().cycle() {
        let key = format!("/{kind}/{writer}");
        let current = store.get(&key);
        let expect = current.as_ref().map_or(Expect::Absent, |entry| Expect::Revision(entry.mod_revision));
        let count = current.map_or(0, |entry| count(&entry.value)) + 1;
        let write = put(&key, expect, &count.to_string(), *durability);
        let revision = store.commit(write).await.expect("nobody else writes this key");
        println!("{key} {count} {revision}");
    }
}

fn count(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).expect("a number")
}

fn start_victim(path: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["store::crash::victim", "--exact", "--nocapture", "--test-threads=1"])
        .env(VICTIM, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this program can start itself")
}

#[test]
fn no_acknowledged_write_is_lost_by_kill_9() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state.redb");
    let mut highest = 0;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for round in 1..=4 {
        let mut victim = start_victim(&path);
        let mut lines = BufReader::new(victim.stdout.take().expect("its output is piped")).lines();
        let mut acknowledged = 0;
        // Killed in the middle of its work: after it has come so far, while it writes on.
        while acknowledged < 150 * round {
            let line = lines.next().expect("it writes until it is killed").expect("its output is text");
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["open", revision] => assert!(number(revision) >= highest, "the revision went back at {line}"),
                [key, count, revision] if key.starts_with('/') => {
                    acknowledged += 1;
                    highest = highest.max(number(revision));
                    counts.insert((*key).to_owned(), number(count));
                }
                _ => {}
            }
        }
        victim.kill().expect("it can be killed");
        // What it said before it died counts too.
        for line in lines.map_while(Result::ok) {
            if let [key, count, revision] = line.split(' ').collect::<Vec<_>>().as_slice()
                && key.starts_with('/')
            {
                highest = highest.max(number(revision));
                counts.insert((*key).to_owned(), number(count));
            }
        }
        victim.wait().expect("it is gone");
        verify(&path, highest, &counts);
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("a number, not {text:?}"))
}

fn verify(path: &Path, highest: u64, counts: &BTreeMap<String, u64>) {
    let store = RedbStore::open(path).expect("the store opens after a crash");
    assert!(store.revision() >= highest, "revision {} after {highest} was given out", store.revision());
    for (key, said) in counts.iter().filter(|(key, _)| key.starts_with("/synced/")) {
        let entry = store.get(key).unwrap_or_else(|| panic!("{key} was acknowledged and is lost"));
        let found = count(&entry.value);
        assert!(found == *said || found == said + 1, "{key}: {said} was acknowledged, {found} is there");
    }
}

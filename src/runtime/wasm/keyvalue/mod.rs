//! `wasi:keyvalue`: a store for the containers of a pod, where the pod asks for one.
//!
//! | file | owns |
//! |---|---|
//! | `memory` | a store that lives as long as the pod, charged to its memory |
//! | `durable` | a store in a file of one of the pod's volumes, safe once an operation has answered |
//! | `redis`, `resp` | a store on a Redis server, and its protocol |
//! | `host` | the interfaces `store`, `atomics` and `batch` |
//!
//! A store has any number of buckets, by name; the empty name is one of them. Lives and instances of
//! the pod's containers share it. What one operation writes is written whole or not at all.

mod durable;
mod host;
mod memory;
mod redis;
mod resp;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;
use wasmtime::component::{ComponentType, Lift, Lower};

pub use self::host::add_to_linker;
use super::super::{KeyValue, Mount, StartError};
use super::limits::Account;
use super::place::Place;
use super::sockets::PodNetwork;

/// The draft that is offered.
pub const VERSION: &str = "0.2.0-draft";
/// What it is called to people.
const STORE: &str = "key-value store";
/// The longest key, and name of a bucket.
const MAX_KEY_BYTES: usize = 1024;
/// The largest value.
const MAX_VALUE_BYTES: usize = 4 << 20;
/// Keys in one answer to a listing.
const PAGE: usize = 1000;
/// Operations of one store that may wait, at a time; each takes a thread.
const MAX_AT_ONCE: usize = 4;

/// Why an operation failed, as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum Error {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

impl Error {
    fn other(why: impl ToString) -> Self {
        Self::Other(why.to_string())
    }
}

type Result<T> = std::result::Result<T, Error>;
type Change = (String, Option<Vec<u8>>);

/// What keeps the values. Each call is one transaction; it may wait for a disk or a server if `waits` says so.
trait Backend: Send + Sync {
    fn waits(&self) -> bool;
    /// The values of some keys, in their order.
    fn read(&self, bucket: &str, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>>;
    /// Sets values, or removes where there is none.
    fn write(&self, bucket: &str, changes: Vec<Change>) -> Result<()>;
    /// At most [`PAGE`] keys, in order, past the first `skip`.
    fn keys(&self, bucket: &str, skip: usize) -> Result<Vec<String>>;
    /// Adds to a number that is kept as decimal digits; absent is zero.
    fn increment(&self, bucket: &str, key: &str, delta: u64) -> Result<u64>;
}

/// The number after an increment.
fn incremented(value: Option<&[u8]>, delta: u64) -> Result<u64> {
    let text = std::str::from_utf8(value.unwrap_or(b"0")).map_err(Error::other)?;
    let number: u64 = text.parse().map_err(|_| Error::other("the value is no number"))?;
    number.checked_add(delta).ok_or_else(|| Error::other("the number would be too large"))
}

fn check_key(key: &str) -> Result<()> {
    match key.len() <= MAX_KEY_BYTES {
        true => Ok(()),
        false => Err(Error::Other(format!("a key has {} bytes; at most {MAX_KEY_BYTES} are taken", key.len()))),
    }
}

fn check(changes: &[Change]) -> Result<()> {
    for (key, value) in changes {
        check_key(key)?;
        let bytes = value.as_ref().map_or(0, Vec::len);
        if bytes > MAX_VALUE_BYTES {
            return Err(Error::Other(format!("a value has {bytes} bytes; at most {MAX_VALUE_BYTES} are taken")));
        }
    }
    Ok(())
}

/// A store that a container may use.
pub struct KeyValueStore {
    backend: Box<dyn Backend>,
    places: Semaphore,
}

impl KeyValueStore {
    fn new(backend: impl Backend + 'static) -> Arc<Self> {
        Arc::new(Self { backend: Box::new(backend), places: Semaphore::new(MAX_AT_ONCE) })
    }
}

/// The stores of a pod.
pub struct Stores {
    memory: Mutex<Option<Arc<KeyValueStore>>>,
    /// By file. A container that starts again finds its store; nobody else may open the file.
    durable: tokio::sync::Mutex<HashMap<PathBuf, Weak<KeyValueStore>>>,
    account: Arc<Account>,
}

impl Stores {
    /// No store yet; what memory holds is charged to `account`.
    pub fn new(account: Arc<Account>) -> Self {
        Self { memory: Mutex::default(), durable: tokio::sync::Mutex::default(), account }
    }

    /// The store that a container with these mounts asks for.
    pub async fn open(
        &self,
        wanted: &KeyValue,
        mounts: &[Mount],
        network: impl FnOnce() -> Arc<PodNetwork>,
    ) -> std::result::Result<Arc<KeyValueStore>, StartError> {
        let directory = match wanted {
            KeyValue::Memory => {
                let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
                let made = || KeyValueStore::new(memory::MemoryStore::new(self.account.clone()));
                return Ok(memory.get_or_insert_with(made).clone());
            }
            KeyValue::Redis(server) => {
                return Ok(KeyValueStore::new(redis::RedisStore::new(server.clone(), network())));
            }
            KeyValue::Directory(directory) => directory,
        };
        let place = Place::of(STORE, directory, mounts).map_err(StartError::Other)?;
        let mut open = self.durable.lock().await;
        if let Some(store) = open.get(&place.shown()).and_then(Weak::upgrade) {
            return Ok(store);
        }
        let name = place.shown();
        let opened = tokio::task::spawn_blocking(move || durable::DurableStore::open(&place)).await;
        let opened = opened.unwrap_or_else(|_| Err("its file is damaged".to_owned()));
        let failed = |why| StartError::Other(format!("cannot open the key-value store in {directory}: {why}"));
        let store = KeyValueStore::new(opened.map_err(failed)?);
        open.insert(name, Arc::downgrade(&store));
        Ok(store)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::super::super::Redis;
    use super::super::limits::Scope;
    use super::*;
    use crate::wire::{CallTimeouts, Caller, HttpBody, Named, Outbound, OutboundError, Transport};

    fn account(limit: u64) -> Arc<Account> {
        Arc::new(Account::new(Scope::Pod, Some(limit)))
    }

    fn mount(dir: &tempfile::TempDir, read_only: bool) -> Mount {
        Mount::new(dir.path(), "/data", read_only)
    }

    /// What every backend does.
    fn contract(backend: &dyn Backend) {
        let keys = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let set = |key: &str, value: &str| (key.to_owned(), Some(value.as_bytes().to_vec()));
        assert_eq!(backend.read("b", &keys(&["k"])), Ok(vec![None]));
        backend.write("b", vec![set("k", "v"), set("a", "1"), set("gone", "x"), ("gone".to_owned(), None)]).unwrap();
        assert_eq!(
            backend.read("b", &keys(&["a", "gone", "k"])),
            Ok(vec![Some(b"1".to_vec()), None, Some(b"v".to_vec())])
        );
        assert_eq!(backend.read("other", &keys(&["k"])), Ok(vec![None]), "buckets are apart");
        assert_eq!((backend.keys("b", 0), backend.keys("b", 1)), (Ok(keys(&["a", "k"])), Ok(keys(&["k"]))));
        assert_eq!(backend.keys("b", 9), Ok(Vec::new()));
        assert_eq!((backend.increment("b", "n", 2), backend.increment("b", "n", 3)), (Ok(2), Ok(5)));
        assert_eq!(backend.read("b", &keys(&["n"])), Ok(vec![Some(b"5".to_vec())]));
        assert!(backend.increment("b", "k", 1).is_err(), "no number");
        assert!(backend.increment("b", "n", u64::MAX).is_err(), "too large");
        assert!(backend.write("b", vec![set("good", "1"), set(&"k".repeat(2000), "1")]).is_err());
        assert_eq!(backend.read("b", &keys(&["good"])), Ok(vec![None]), "all or nothing");
    }

    #[test]
    fn memory_keeps_the_contract_and_its_limit() {
        let account = account(10_000);
        let store = memory::MemoryStore::new(account.clone());
        contract(&store);
        let used = account.used();
        assert!(used > 0);
        let large = |bytes| vec![("large".to_owned(), Some(vec![0; bytes]))];
        assert!(store.write("b", large(20_000)).is_err());
        assert_eq!(account.used(), used, "what was refused is not charged");
        store.write("b", large(5000)).unwrap();
        store.write("b", vec![("large".to_owned(), None)]).unwrap();
        assert_eq!(account.used(), used);
        drop(store);
        assert_eq!(account.used(), 0);
    }

    #[test]
    fn the_disk_keeps_the_contract_and_the_values() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(STORE, "/data/deep/er", &[mount(&dir, false)]).unwrap();
        let store = durable::DurableStore::open(&place).unwrap();
        contract(&store);
        assert!(durable::DurableStore::open(&place).is_err(), "one at a time");
        drop(store);
        let store = durable::DurableStore::open(&place).unwrap();
        assert_eq!(store.read("b", &["k".to_owned()]), Ok(vec![Some(b"v".to_vec())]));
        assert!(dir.path().join("deep/er/keyvalue.redb").is_file());
    }

    /// Everything is where it says, and `cache` is this machine.
    struct Near;

    #[async_trait::async_trait]
    impl Outbound for Near {
        async fn send(
            &self,
            _: &Caller,
            _: http::Request<HttpBody>,
            _: CallTimeouts,
        ) -> std::result::Result<http::Response<HttpBody>, OutboundError> {
            Err(OutboundError::Failed("not asked here".to_owned()))
        }

        async fn route(
            &self,
            _: &Caller,
            to: SocketAddr,
            _: Transport,
        ) -> std::result::Result<SocketAddr, OutboundError> {
            if to.port() == 1 { Err(OutboundError::Denied(to.to_string())) } else { Ok(to) }
        }

        async fn resolve(&self, _: &Caller, host: &str) -> std::result::Result<Named, OutboundError> {
            match host {
                "cache" => Ok(Named { addresses: vec![IpAddr::from([127, 0, 0, 1])], outside: false }),
                other => Err(OutboundError::UnknownHost(other.to_owned())),
            }
        }
    }

    #[tokio::test]
    async fn redis_keeps_the_contract_and_the_values() {
        let Some(server) = redis::tests::Server::start() else { return };
        let store = |host: &str, port, password: &str| {
            let caller = Caller { namespace: "ns".into(), pod: "p".into(), ip: IpAddr::from([127, 0, 0, 1]) };
            let network = PodNetwork::new(Arc::new(caller), Arc::new(Near));
            let password = Some(password.to_owned());
            let server = Redis { host: host.to_owned(), port, database: 3, username: None, password };
            redis::RedisStore::new(server, network)
        };
        let done = tokio::task::spawn_blocking(move || {
            let ours = store("cache", server.port, "sesame");
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while let Err(error) = ours.read("b", &["k".to_owned()]) {
                assert!(std::time::Instant::now() < deadline, "{error:?}");
                std::thread::yield_now();
            }
            contract(&ours);
            let others = store("cache", server.port, "sesame");
            assert_eq!(others.read("b", &["k".to_owned()]), Ok(vec![Some(b"v".to_vec())]), "it is one store");
            for (wrong, words) in [
                (store("cache", server.port, "wrong"), "WRONGPASS"),
                (store("nowhere", server.port, "sesame"), "its name is not known"),
                (store("cache", 1, "sesame"), "the pod may not connect to it"),
            ] {
                let Err(Error::Other(why)) = wrong.read("b", &["k".to_owned()]) else { panic!("answered") };
                assert!(why.starts_with("redis server ") && why.contains(words), "{why}");
            }
            // The connection that was kept is found closed.
            drop(server);
            assert!(ours.read("b", &["k".to_owned()]).is_err());
        });
        done.await.unwrap();
    }

    #[test]
    fn a_guests_own_links_and_files_lead_nowhere() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), dir.path().join("out")).unwrap();
        let open = |directory: &str| {
            let place = Place::of(STORE, directory, &[mount(&dir, false)])?;
            durable::DurableStore::open(&place).map(drop)
        };
        assert!(open("/data/out").is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        std::os::unix::fs::symlink(outside.path().join("f"), dir.path().join("keyvalue.redb")).unwrap();
        assert!(open("/data").is_err() && !outside.path().join("f").exists());
        std::fs::create_dir(dir.path().join("bad")).unwrap();
        std::fs::write(dir.path().join("bad/keyvalue.redb"), "not a store").unwrap();
        assert!(open("/data/bad").is_err());
    }

    #[test]
    fn the_directory_is_one_of_a_writable_volume() {
        let dir = tempfile::tempdir().unwrap();
        for (directory, read_only, why) in [
            ("/elsewhere", false, "/elsewhere is on none of the container's volumes"),
            ("/database", false, "is on none of the container's volumes"),
            ("/data/../x", false, "has `..` in it"),
            ("/data", true, "is mounted read-only"),
        ] {
            let error = Place::of(STORE, directory, &[mount(&dir, read_only)]).err().unwrap();
            assert!(error.contains(why), "{directory}: {error}");
        }
    }
}

//! One watch of one kind, shared by everybody in the process.
//!
//! A [`Shared`] lists and watches its kind in a task of its own and keeps what it saw. It survives the
//! server: when the connection ends it asks again after ten milliseconds, and goes on from the last
//! revision it saw if the server still has it, else from a fresh list whose difference to the store is
//! reported like any other change. Readers never wait for the network; what they read is at most one
//! watch delay old, and includes the own writes that were [`Shared::observe`]d.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;

use super::changes::Changes;
use super::key::{ObjectKey, owner_uid};
use super::store::{Diff, Store};

/// After a broken watch: quick enough that a restarted server is noticed before anybody else notices.
const RETRY_FIRST: Duration = Duration::from_millis(10);
/// Slow enough that a server which stays away is not hammered.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// A watch that cannot be resumed this many times in a row begins again with a list: the server may
/// not know the revision any more and say so in a way that resuming does not understand.
const RESUME_ATTEMPTS: u32 = 8;
/// How often own writes that no watch confirmed are looked through.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);
/// The built-in index: children by the uid of the owner that controls them.
const OWNER: &str = "owner";

/// What a kind must be to be watched; every type of `k8s_openapi` is.
pub trait Watched: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

impl<K> Watched for K where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// Called with an object before and after each change; false ends the subscription.
type Listener<K> = Box<dyn Fn(Option<&K>, Option<&K>) -> bool + Send + Sync>;

/// A handle on the watch; clones share it. The watch ends with the last handle.
pub struct Shared<K> {
    inner: Arc<Inner<K>>,
    _task: Arc<WatchTask>,
}

struct Inner<K> {
    store: RwLock<Store<K>>,
    listeners: Mutex<Vec<Arc<Listener<K>>>>,
    synced: tokio::sync::watch::Sender<bool>,
}

/// Ends the watch when the last handle goes.
struct WatchTask(AbortHandle);

impl Drop for WatchTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<K> Clone for Shared<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), _task: self._task.clone() }
    }
}

impl<K: Watched> Shared<K> {
    /// Begins to watch; needs a tokio runtime around it.
    pub(super) fn start(api: Api<K>, config: watcher::Config) -> Self {
        let mut store = Store::new();
        store.add_index(OWNER, Box::new(|o: &K| owner_uid(o.meta()).map(str::to_owned).into_iter().collect()));
        let inner = Arc::new(Inner {
            store: RwLock::new(store),
            listeners: Mutex::new(Vec::new()),
            synced: tokio::sync::watch::Sender::new(false),
        });
        let task = tokio::spawn(follow(inner.clone(), api, config));
        Self { inner, _task: Arc::new(WatchTask(task.abort_handle())) }
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.inner.read().get(key)
    }

    /// All objects, in the order of their keys.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.inner.read().list()
    }

    /// The objects of one namespace, in the order of their names.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.inner.read().list_in(namespace)
    }

    pub fn keys(&self) -> Vec<ObjectKey> {
        self.inner.read().keys()
    }

    pub fn len(&self) -> usize {
        self.inner.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an index: `extract` names the values an object is found under. Idempotent by `name`.
    pub fn add_index(&self, name: &'static str, extract: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        self.inner.write().add_index(name, Box::new(extract));
    }

    /// The objects that an index added before holds under `value`.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        self.inner.read().by_index(name, value)
    }

    /// The objects that the owner with this uid controls.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.inner.read().by_index(OWNER, uid)
    }

    /// A feed of the objects that change. It begins with [`super::Change::Rescan`].
    pub fn subscribe(&self) -> Changes {
        let (sender, changes) = Changes::new();
        self.on_change(move |old, new| match new.or(old) {
            Some(object) => sender.send(ObjectKey::of(object)),
            None => true,
        });
        changes
    }

    /// Calls `listener` after each change with the object before and after it, in the task of whoever
    /// made the change: it must be quick and must not block. It is not called for what is stored now.
    pub fn on_change(&self, listener: impl Fn(Option<&K>, Option<&K>) -> bool + Send + Sync + 'static) {
        self.inner.listeners().push(Arc::new(Box::new(listener)));
    }

    /// Waits until the first complete list is in the store.
    pub async fn synced(&self) {
        // An error means that the sender is gone, which this handle excludes.
        let _ = self.inner.synced.subscribe().wait_for(|synced| *synced).await;
    }

    pub fn is_synced(&self) -> bool {
        *self.inner.synced.borrow()
    }

    /// Takes in the answer to an own write, so that nobody in this process acts on what was before.
    pub fn observe(&self, mut object: K) {
        trim(&mut object);
        let diff = self.inner.write().written(object, Instant::now());
        self.inner.tell(diff);
    }

    /// Takes in that the object with this uid is gone for good.
    pub fn observe_gone(&self, key: &ObjectKey, uid: &str) {
        let diff = self.inner.write().deleted(key, uid, Instant::now());
        self.inner.tell(diff);
    }
}

impl<K> Inner<K> {
    // A panic in a listener cannot leave the store half changed: listeners run outside the lock.
    fn read(&self) -> RwLockReadGuard<'_, Store<K>> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Store<K>> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Listener<K>>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, diffs: impl IntoIterator<Item = Diff<K>>) {
        let listeners = self.listeners().clone();
        for diff in diffs {
            for listener in &listeners {
                if !listener(diff.old.as_deref(), diff.new.as_deref()) {
                    self.listeners().retain(|l| !Arc::ptr_eq(l, listener));
                }
            }
        }
    }
}

/// managedFields are half of a typical object and nobody here reads them.
fn trim<K: kube::Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Watches for ever; begins anew with a list whenever resuming does not help.
async fn follow<K: Watched>(inner: Arc<Inner<K>>, api: Api<K>, config: watcher::Config) {
    let mut retry = RETRY_FIRST;
    loop {
        let events = watcher(api.clone(), config.clone());
        follow_one(&inner, std::pin::pin!(events), &mut retry).await;
    }
}

/// Takes in events until the stream cannot be resumed.
async fn follow_one<K: Watched>(
    inner: &Inner<K>,
    mut events: std::pin::Pin<&mut (impl Stream<Item = watcher::Result<Event<K>>> + Send)>,
    retry: &mut Duration,
) {
    let mut fresh = Vec::new();
    let mut failures = 0;
    let mut expire = tokio::time::interval(EXPIRE_EVERY);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = expire.tick() => {
                let diffs = inner.write().expire(Instant::now());
                inner.tell(diffs);
                continue;
            }
        };
        match event {
            Some(Ok(event)) => {
                (failures, *retry) = (0, RETRY_FIRST);
                take_in(inner, event, &mut fresh);
            }
            Some(Err(error)) => {
                tracing::debug!(kind = %K::kind(&()), %error, "watch interrupted, trying again");
                failures += 1;
                tokio::time::sleep(*retry).await;
                *retry = (*retry * 2).min(RETRY_MAX);
                if failures >= RESUME_ATTEMPTS || cannot_resume(&error) {
                    return;
                }
            }
            None => return,
        }
    }
}

/// The server says that it does not know the revision to go on from.
fn cannot_resume(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 400 | 410 | 504),
        watcher::Error::WatchError(status) => matches!(status.code, 410 | 504),
        _ => false,
    }
}

fn take_in<K: Watched>(inner: &Inner<K>, event: Event<K>, fresh: &mut Vec<K>) {
    match event {
        Event::Apply(mut object) => {
            trim(&mut object);
            let diff = inner.write().shown(object);
            inner.tell(diff);
        }
        Event::Delete(object) => {
            let diff = inner.write().removed(&object, Instant::now());
            inner.tell(diff);
        }
        Event::Init => fresh.clear(),
        Event::InitApply(mut object) => {
            trim(&mut object);
            fresh.push(object);
        }
        Event::InitDone => {
            let diffs = inner.write().replace(std::mem::take(fresh), Instant::now());
            inner.synced.send_replace(true);
            inner.tell(diffs);
        }
    }
}

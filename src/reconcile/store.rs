//! What one watch has shown, plus what this process has written and the watch has not shown yet.
//!
//! Pure: no clock, no task. Revisions of the server are one rising sequence, so of two states of an
//! object the one with the higher revision is the later, whichever way it came in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Resource;

use super::key::{ObjectKey, revision};

/// How long an own write counts although the watch does not confirm it. Far above any delay of a live
/// watch; short enough that an object which came and went in a gap of the watch does not haunt us.
const UNCONFIRMED: Duration = Duration::from_secs(30);

/// More recent deletions than this are not remembered: only the protection against a late event is
/// lost then, and the next event repairs it.
const MAX_GONE: usize = 64 * 1024;

type Extract<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct Index {
    entries: HashMap<String, BTreeSet<ObjectKey>>,
}

/// An object before and after; both `None` never happens.
pub(super) struct Diff<K> {
    pub old: Option<Arc<K>>,
    pub new: Option<Arc<K>>,
}

struct Unconfirmed {
    since: Instant,
    /// A complete list has been seen since that did not contain the object.
    missing_from_list: bool,
}

pub(super) struct Store<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    indexes: Vec<(&'static str, Extract<K>, Index)>,
    unconfirmed: HashMap<ObjectKey, Unconfirmed>,
    /// Uids known to be gone, whatever a late event or the late answer to an own write says.
    gone: HashMap<String, Gone>,
}

struct Gone {
    since: Instant,
    /// What is shown of the object at a later revision is news: it left a selection and is back.
    revision: u64,
}

impl<K: Resource> Store<K> {
    pub(super) fn new() -> Self {
        Self { objects: BTreeMap::new(), indexes: Vec::new(), unconfirmed: HashMap::new(), gone: HashMap::new() }
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.objects.get(key).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn list(&self) -> Vec<Arc<K>> {
        self.objects.values().cloned().collect()
    }

    pub(super) fn keys(&self) -> Vec<ObjectKey> {
        self.objects.keys().cloned().collect()
    }

    pub(super) fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = ObjectKey::new(namespace, "");
        self.objects.range(from..).take_while(|(k, _)| &*k.namespace == namespace).map(|(_, o)| o.clone()).collect()
    }

    /// Adds an index over what is stored now and later. A second one of the same name changes nothing.
    pub(super) fn add_index(&mut self, name: &'static str, extract: Extract<K>) {
        if self.indexes.iter().any(|(n, _, _)| *n == name) {
            return;
        }
        let mut index = Index { entries: HashMap::new() };
        for (key, object) in &self.objects {
            index.add(key, extract(object));
        }
        self.indexes.push((name, extract, index));
    }

    pub(super) fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let index = self.indexes.iter().find(|(n, _, _)| *n == name).map(|(_, _, index)| index);
        debug_assert!(index.is_some(), "no index named {name}");
        let keys = index.and_then(|i| i.entries.get(value)).into_iter().flatten();
        keys.filter_map(|key| self.objects.get(key).cloned()).collect()
    }

    /// The watch shows an object.
    pub(super) fn shown(&mut self, object: K) -> Option<Diff<K>> {
        let key = ObjectKey::of(&object);
        let held = self.objects.get(&key).map_or(0, |o| revision(o.meta()));
        if revision(object.meta()) >= held {
            self.unconfirmed.remove(&key);
        }
        self.put(key, object)
    }

    /// The answer to an own write shows an object.
    pub(super) fn written(&mut self, object: K, now: Instant) -> Option<Diff<K>> {
        let key = ObjectKey::of(&object);
        let diff = self.put(key.clone(), object)?;
        self.unconfirmed.insert(key, Unconfirmed { since: now, missing_from_list: false });
        Some(diff)
    }

    /// The watch shows the end of an object.
    pub(super) fn removed(&mut self, object: &K, now: Instant) -> Option<Diff<K>> {
        if let Some(uid) = object.meta().uid.as_deref() {
            // The answer to an own write may come after the end that followed it.
            self.remember(uid, Gone { since: now, revision: revision(object.meta()) });
        }
        let key = ObjectKey::of(object);
        let held = self.objects.get(&key)?;
        // A successor of the same name may be known already from an own write.
        let same = held.meta().uid == object.meta().uid || revision(held.meta()) < revision(object.meta());
        if same { self.take(&key) } else { None }
    }

    /// An own deletion is known to be complete.
    pub(super) fn deleted(&mut self, key: &ObjectKey, uid: &str, now: Instant) -> Option<Diff<K>> {
        self.remember(uid, Gone { since: now, revision: u64::MAX });
        if self.objects.get(key)?.meta().uid.as_deref() == Some(uid) { self.take(key) } else { None }
    }

    fn remember(&mut self, uid: &str, gone: Gone) {
        if self.gone.len() >= MAX_GONE {
            self.gone.retain(|_, known| gone.since.duration_since(known.since) < UNCONFIRMED);
        }
        if self.gone.len() < MAX_GONE {
            self.gone.insert(uid.to_owned(), gone);
        }
    }

    /// A complete list: everything else is gone, except what was written so lately that the list may
    /// be older.
    pub(super) fn replace(&mut self, objects: Vec<K>, now: Instant) -> Vec<Diff<K>> {
        let listed: BTreeSet<ObjectKey> = objects.iter().map(ObjectKey::of).collect();
        let mut diffs: Vec<_> = objects.into_iter().filter_map(|o| self.shown(o)).collect();
        let absent: Vec<ObjectKey> = self.objects.keys().filter(|k| !listed.contains(*k)).cloned().collect();
        for key in absent {
            match self.unconfirmed.get_mut(&key) {
                Some(own) if now.duration_since(own.since) < UNCONFIRMED => own.missing_from_list = true,
                _ => diffs.extend(self.take(&key)),
            }
        }
        diffs
    }

    /// Forgets own writes that no watch has confirmed for long.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Diff<K>> {
        self.gone.retain(|_, gone| now.duration_since(gone.since) < UNCONFIRMED);
        let old = self.unconfirmed.iter().filter(|(_, u)| now.duration_since(u.since) >= UNCONFIRMED);
        let old: Vec<(ObjectKey, bool)> = old.map(|(k, u)| (k.clone(), u.missing_from_list)).collect();
        let mut diffs = Vec::new();
        for (key, missing) in old {
            self.unconfirmed.remove(&key);
            if missing {
                diffs.extend(self.take(&key));
            }
        }
        diffs
    }

    fn put(&mut self, key: ObjectKey, object: K) -> Option<Diff<K>> {
        let gone = object.meta().uid.as_ref().and_then(|uid| self.gone.get(uid));
        if gone.is_some_and(|gone| revision(object.meta()) <= gone.revision) {
            return None;
        }
        let old = self.objects.get(&key).cloned();
        if let Some(held) = &old {
            let (held, new) = (revision(held.meta()), revision(object.meta()));
            if held != 0 && new != 0 && new <= held {
                return None;
            }
        }
        let new = Arc::new(object);
        for (_, extract, index) in &mut self.indexes {
            if let Some(old) = &old {
                index.remove(&key, extract(old));
            }
            index.add(&key, extract(&new));
        }
        self.objects.insert(key, new.clone());
        Some(Diff { old, new: Some(new) })
    }

    fn take(&mut self, key: &ObjectKey) -> Option<Diff<K>> {
        let old = self.objects.remove(key)?;
        self.unconfirmed.remove(key);
        for (_, extract, index) in &mut self.indexes {
            index.remove(key, extract(&old));
        }
        Some(Diff { old: Some(old), new: None })
    }
}

impl Index {
    fn add(&mut self, key: &ObjectKey, values: Vec<String>) {
        for value in values {
            self.entries.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, values: Vec<String>) {
        for value in values {
            if let Some(keys) = self.entries.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.entries.remove(&value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn object(name: &str, uid: &str, revision: u64) -> ConfigMap {
        let metadata = ObjectMeta {
            namespace: Some("ns".into()),
            name: Some(name.into()),
            uid: Some(uid.into()),
            resource_version: Some(revision.to_string()),
            ..Default::default()
        };
        ConfigMap { metadata, ..Default::default() }
    }

    fn held(store: &Store<ConfigMap>, name: &str) -> Option<String> {
        store.get(&ObjectKey::new("ns", name)).and_then(|o| o.metadata.resource_version.clone())
    }

    #[test]
    fn a_late_event_does_not_undo_an_own_write() {
        let (mut store, now) = (Store::new(), Instant::now());
        store.shown(object("a", "1", 5));
        assert!(store.written(object("a", "1", 9), now).is_some());
        assert!(store.shown(object("a", "1", 7)).is_none());
        assert_eq!(held(&store, "a").as_deref(), Some("9"));
        assert!(store.shown(object("a", "1", 9)).is_none(), "the confirmation is no change");
        assert!(store.unconfirmed.is_empty());
    }

    #[test]
    fn a_deleted_uid_does_not_come_back_but_its_name_may() {
        let (mut store, now) = (Store::new(), Instant::now());
        store.shown(object("a", "1", 5));
        assert!(store.deleted(&ObjectKey::new("ns", "a"), "1", now).is_some());
        assert!(store.shown(object("a", "1", 6)).is_none());
        assert!(store.written(object("a", "2", 8), now).is_some());
        assert!(
            store.removed(&object("a", "1", 7), now).is_none(),
            "the end of the first is not the end of the second"
        );
        assert_eq!(held(&store, "a").as_deref(), Some("8"));
    }

    #[test]
    fn the_late_answer_to_a_write_does_not_revive_what_has_gone_since() {
        let (mut store, now) = (Store::new(), Instant::now());
        store.shown(object("a", "1", 5));
        assert!(store.removed(&object("a", "1", 7), now).is_some());
        assert!(store.written(object("a", "1", 6), now).is_none());
        assert_eq!(held(&store, "a"), None);
        assert!(store.shown(object("a", "1", 8)).is_some(), "it left a selection and is back");
    }

    #[test]
    fn a_list_removes_what_it_lacks_except_fresh_own_writes() {
        let (mut store, now) = (Store::new(), Instant::now());
        store.shown(object("listed", "1", 1));
        store.shown(object("lost", "2", 2));
        store.written(object("own", "3", 9), now);
        let diffs = store.replace(vec![object("listed", "1", 1)], now);
        assert_eq!(diffs.len(), 1);
        assert_eq!(held(&store, "lost"), None);
        assert_eq!(held(&store, "own").as_deref(), Some("9"));
        assert!(store.expire(now).is_empty());
        assert_eq!(store.expire(now + UNCONFIRMED).len(), 1, "never confirmed and not listed: it is gone");
    }

    #[test]
    fn an_index_follows_every_change() {
        let mut store = Store::new();
        store.shown(object("a", "1", 1));
        store.add_index("uid", Box::new(|o: &ConfigMap| o.metadata.uid.iter().cloned().collect()));
        store.shown(object("b", "2", 2));
        assert_eq!(store.by_index("uid", "1").len(), 1);
        store.shown(object("b", "3", 3));
        assert!(store.by_index("uid", "2").is_empty());
        store.removed(&object("b", "3", 4), Instant::now());
        assert!(store.by_index("uid", "3").is_empty());
    }
}

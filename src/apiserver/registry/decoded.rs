//! Objects that have just been written or read, as values.
//!
//! A pod on its way to Ready is written five times within milliseconds, and each time it is decoded again for
//! the next write and for the watchers' selectors, on both sides of the change. A store's revision names one
//! version of one object, so a small ring indexed by revision finds what somebody has decoded, or made, a
//! moment ago; what has been pushed out is simply decoded again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::encoding::{self, api_version};
use crate::kinds::meta as kmeta;
use crate::kinds::{Kind, KindInfo};
use crate::store::Entry;

/// Versions of objects that are kept, at some tens of KiB for a pod.
const SLOTS: usize = 256;

/// The ring, shared by all who read and write.
#[derive(Clone)]
pub struct Decoded(Arc<[Mutex<Option<Kept>>]>);

struct Kept {
    revision: u64,
    /// As which kind it is shown: two may be views of one object.
    info: &'static KindInfo,
    object: Arc<Value>,
}

impl Default for Decoded {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| Mutex::new(None)).collect())
    }
}

impl Decoded {
    /// The object that lies in the store as `stored` since `revision`, as `kind` shows it.
    pub fn get(&self, kind: &dyn Kind, stored: &[u8], revision: u64) -> Result<Arc<Value>, serde_json::Error> {
        // What a custom resource is shown as changes with its definition.
        if kind.custom().is_some() {
            return encoding::decode(kind, stored, revision).map(Arc::new);
        }
        let info = kind.info();
        let slot = self.slot(revision);
        let known = slot.and_then(|slot| {
            let slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.as_ref().filter(|kept| kept.is(revision, info)).map(|kept| kept.object.clone())
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let object = Arc::new(encoding::decode(kind, stored, revision)?);
        self.put(Kept { revision, info, object: object.clone() });
        Ok(object)
    }

    /// Keeps what has been written at `revision`.
    pub fn written(&self, kind: &dyn Kind, mut object: Value, revision: u64) {
        // What was sent in another form than the stored one need not be what comes back.
        if kind.custom().is_some() || kind.conversion().is_some() {
            return;
        }
        let info = kind.info();
        if let Some(fields) = object.as_object_mut() {
            fields.insert("apiVersion".into(), api_version(info).into());
            fields.insert("kind".into(), info.kind.into());
        }
        kmeta::metadata_mut(&mut object).insert("resourceVersion".into(), revision.to_string().into());
        self.put(Kept { revision, info, object: Arc::new(object) });
    }

    fn put(&self, kept: Kept) {
        // Of no use to anybody: nobody reads what changes so often.
        if matches!(kept.info.plural, "events" | "leases") {
            return;
        }
        let Some(slot) = self.slot(kept.revision) else { return };
        // What was there is dropped when the lock is free again.
        let _before = slot.lock().unwrap_or_else(PoisonError::into_inner).replace(kept);
    }

    /// `None` for what has no revision yet: a dry run.
    fn slot(&self, revision: u64) -> Option<&Mutex<Option<Kept>>> {
        let index = usize::try_from(revision).ok()?;
        if index == 0 { None } else { self.0.get(index % self.0.len()) }
    }
}

impl Kept {
    fn is(&self, revision: u64, info: &'static KindInfo) -> bool {
        self.revision == revision && std::ptr::eq(self.info, info)
    }
}

/// Objects that are seldom written and that many requests are held against: namespaces, accounts, classes. Each
/// is decoded once a version, however many pods are created.
#[derive(Default)]
pub struct Lasting(Mutex<HashMap<Arc<str>, Version>>);

/// An object as it is at a revision.
type Version = (u64, Arc<Value>);

/// More than that are begun anew with; at some KiB each.
const LASTING: usize = 2048;

impl Lasting {
    pub fn get(&self, kind: &dyn Kind, entry: &Entry) -> Result<Arc<Value>, serde_json::Error> {
        {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, object)) = known.get(&entry.key).filter(|(revision, _)| *revision == entry.mod_revision) {
                return Ok(object.clone());
            }
        }
        let object = Arc::new(encoding::decode(kind, &entry.value, entry.mod_revision)?);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= LASTING {
            known.clear();
        }
        known.insert(entry.key.clone(), (entry.mod_revision, object.clone()));
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::{event::Event, event_v1::EventV1, pod::Pod};

    #[test]
    fn what_was_written_is_what_would_be_decoded() {
        let decoded = Decoded::default();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "a", "resourceVersion": "3", "managedFields": [{ "manager": "m" }] },
            "spec": { "n": 1.0, "none": null },
        });
        let stored = encoding::encode(&Pod, &object);
        decoded.written(&Pod, object, 7);
        let kept = decoded.get(&Pod, b"never looked at", 7).expect("kept");
        assert_eq!(*kept, encoding::decode(&Pod, &stored, 7).expect("an object"));
        assert!(decoded.get(&Pod, b"", 7 + SLOTS as u64).is_err(), "another revision in the same place");
        assert!(Arc::ptr_eq(&kept, &decoded.get(&Pod, b"", 7).expect("still kept")));
        assert!(decoded.get(&Pod, b"", 0).is_err(), "a dry run has no revision");
    }

    #[test]
    fn two_views_of_one_object_are_two() {
        let decoded = Decoded::default();
        let stored = encoding::encode(&Event, &json!({ "metadata": {}, "message": "m" }));
        let core = decoded.get(&Event, &stored, 5).expect("core's");
        let view = decoded.get(&EventV1, &stored, 5).expect("the other");
        assert_eq!((&core["message"], &view["note"]), (&json!("m"), &json!("m")));
    }

    #[test]
    fn what_lasts_is_decoded_once_a_version() {
        let (lasting, stored) = (Lasting::default(), encoding::encode(&Pod, &json!({ "metadata": { "name": "a" } })));
        let entry = |revision, value| Entry { key: "/a".into(), value, mod_revision: revision, create_revision: 1 };
        let first = lasting.get(&Pod, &entry(3, stored.clone())).expect("an object");
        assert!(Arc::ptr_eq(&first, &lasting.get(&Pod, &entry(3, "".into())).expect("known")));
        assert_eq!(lasting.get(&Pod, &entry(4, stored)).expect("another")["metadata"]["resourceVersion"], "4");
    }
}

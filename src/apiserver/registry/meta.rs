//! What deletion writes into `metadata`: pure changes to a value. The rest is `kinds::meta`'s.

use jiff::Timestamp;
use rand::Rng;
use serde_json::Value;

use crate::apiserver::options::Propagation;
use crate::kinds::meta::{self, metadata_mut};
use crate::kinds::time;

const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;

pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";

/// Five letters that spell no words.
pub fn random_suffix() -> String {
    let mut rng = rand::rng();
    (0..SUFFIX_LENGTH).map(|_| char::from(SUFFIX_LETTERS[rng.random_range(0..SUFFIX_LETTERS.len())])).collect()
}

pub fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

pub fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Whether nothing holds a deleted object any more.
pub fn may_go(object: &Value) -> bool {
    is_deleting(object)
        && finalizers(object).is_empty()
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

/// Marks an object as deleted `grace` seconds from now.
pub fn mark_deleted(object: &mut Value, now: Timestamp, grace: i64) {
    let at = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
    let metadata = metadata_mut(object);
    metadata.insert("deletionTimestamp".into(), time::write(at).into());
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|g| *g > 0) {
        metadata.insert("generation".into(), (generation + 1).into());
    }
}

/// Sets the garbage collector's finalizers as the policy wants them: the option, else what the object
/// already carries, else `default`, else (`Background`) none. True when they changed.
pub fn apply_propagation(object: &mut Value, policy: Option<Propagation>, default: Option<&'static str>) -> bool {
    let old = finalizers(object);
    let wanted = match policy {
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Background) => None,
        None => [ORPHAN, FOREGROUND].into_iter().find(|f| old.contains(f)).or(default),
    };
    let has_wanted = wanted.is_none_or(|w| old.contains(&w));
    let has_other = old.iter().any(|f| (*f == ORPHAN || *f == FOREGROUND) && Some(*f) != wanted);
    if has_wanted && !has_other {
        return false;
    }
    let mut new: Vec<String> =
        old.iter().filter(|f| **f != ORPHAN && **f != FOREGROUND).map(|f| (*f).to_owned()).collect();
    new.extend(wanted.map(str::to_owned));
    metadata_mut(object).insert("finalizers".into(), new.into());
    meta::normalize(object);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies_exclude_each_other() {
        let mut object = json!({"metadata": {"finalizers": ["x", "orphan"]}});
        assert!(!apply_propagation(&mut object, None, None));
        assert!(apply_propagation(&mut object, Some(Propagation::Foreground), None));
        assert_eq!(finalizers(&object), ["x", "foregroundDeletion"]);
        assert!(apply_propagation(&mut object, Some(Propagation::Background), None));
        assert_eq!(finalizers(&object), ["x"]);
    }

    #[test]
    fn a_marked_object_goes_when_nothing_holds_it() {
        let mut object = json!({"metadata": {"generation": 1, "finalizers": ["x"]}});
        mark_deleted(&mut object, Timestamp::UNIX_EPOCH, 0);
        assert_eq!(object["metadata"]["generation"], 2);
        assert!(!may_go(&object));
        object["metadata"]["finalizers"] = json!([]);
        assert!(may_go(&object));
        mark_deleted(&mut object, Timestamp::UNIX_EPOCH, 30);
        assert!(!may_go(&object));
        assert_eq!(object["metadata"]["deletionTimestamp"], "1970-01-01T00:00:30Z");
    }
}

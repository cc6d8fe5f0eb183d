//! Leaves out what upstream's types leave out when they write, and fills in what they always write.
//!
//! A client may send `tolerations: []`, `hostNetwork: false` or `nodeName: ""`. Upstream decodes that
//! into a struct whose empty fields are not written again, so answers, stored bytes and comparisons
//! never see the difference. Values here have no struct, hence this pass. It knows names, not types:
//! what is dropped as zero is listed, since a `0` behind a pointer (`replicas: 0`) must stay.

use serde_json::{Map, Value};

/// Fields whose `false` or `0` is their absence.
const ZERO_IS_ABSENT: &[&str] = &[
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPort",
    "initialDelaySeconds",
    "minReadySeconds",
    "observedGeneration",
    "paused",
    "publishNotReadyAddresses",
    "readOnly",
    "stdin",
    "stdinOnce",
    "tty",
    "unschedulable",
];

/// Maps from strings to values: their entries are the user's, empty or not.
const MAPS: &[&str] = &[
    "allocatable",
    "allocatedResources",
    "annotations",
    "binaryData",
    "capacity",
    "data",
    "deprecatedTopology",
    "labels",
    "limits",
    "matchLabels",
    "nodeSelector",
    "options",
    "overhead",
    "requests",
    "selector",
    "stringData",
    "volumeAttributes",
];

/// Strings that stay although empty: behind pointers, or valid when empty and always written.
/// Each with the field of the object (or list) it stands in.
const EMPTY_STRINGS: &[(&str, &str)] = &[
    ("httpHeaders", "value"),
    ("sysctls", "value"),
    ("options", "value"),
    ("hostPath", "type"),
    ("grpc", "service"),
    ("nodeInfo", "*"),
    ("containerStatuses", "image"),
    ("containerStatuses", "imageID"),
    ("initContainerStatuses", "image"),
    ("initContainerStatuses", "imageID"),
    ("ephemeralContainerStatuses", "image"),
    ("ephemeralContainerStatuses", "imageID"),
];

/// Times that are written as `null` when unset.
const NULL_TIMES: &[&str] =
    &["finishedAt", "lastHeartbeatTime", "lastProbeTime", "lastTransitionTime", "lastUpdateTime", "startedAt"];

/// Drops what carries nothing from `value`, which is the field `parent` of something.
pub fn tidy(value: &mut Value, parent: &str) {
    match value {
        Value::Object(map) => tidy_object(map, parent),
        Value::Array(list) => list.iter_mut().for_each(|item| tidy(item, parent)),
        _ => {}
    }
}

fn tidy_object(map: &mut Map<String, Value>, parent: &str) {
    for (name, value) in map.iter_mut() {
        // A map's entries are not fields; but a list or struct may share its name with a map.
        if !(MAPS.contains(&name.as_str()) && is_plain_map(value)) {
            tidy(value, name);
        }
    }
    map.retain(|name, value| match value {
        Value::Null => NULL_TIMES.contains(&name.as_str()),
        Value::Array(list) => !list.is_empty(),
        Value::Object(entries) => !entries.is_empty() || !MAPS.contains(&name.as_str()) || stays_empty(parent, name),
        Value::String(text) => !text.is_empty() || keeps_empty(parent, name),
        Value::Bool(false) => !ZERO_IS_ABSENT.contains(&name.as_str()),
        Value::Number(number) => number.as_i64() != Some(0) || !ZERO_IS_ABSENT.contains(&name.as_str()),
        Value::Bool(true) => true,
    });
}

fn is_plain_map(value: &Value) -> bool {
    value.as_object().is_some_and(|map| map.values().all(|entry| !entry.is_object() && !entry.is_array()))
}

/// A label selector of a workload's spec is a struct behind a pointer: `{}` is not absence.
fn stays_empty(parent: &str, name: &str) -> bool {
    parent == "spec" && name == "selector"
}

fn keeps_empty(parent: &str, name: &str) -> bool {
    EMPTY_STRINGS.iter().any(|(within, field)| *within == parent && (*field == name || *field == "*"))
}

/// Sets `name` unless something stands there already.
pub fn set_default(map: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    if map.get(name).is_none_or(Value::is_null) {
        map.insert(name.to_owned(), value.into());
    }
}

/// [`set_default`] for fields whose zero (`""`, `0`) counts as absent.
pub fn set_default_zero(map: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    let absent = map
        .get(name)
        .is_none_or(|current| current.is_null() || current.as_str() == Some("") || current.as_i64() == Some(0));
    if absent {
        map.insert(name.to_owned(), value.into());
    }
}

/// The objects in the list `name`.
pub fn objects<'a>(map: &'a mut Map<String, Value>, name: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// The object `name`, where there is one.
pub fn object<'a>(map: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(name).and_then(Value::as_object_mut)
}

/// The times that each condition of a status always shows, `null` where unset.
pub fn fill_conditions(status: &mut Map<String, Value>, times: &[&str]) {
    for condition in objects(status, "conditions") {
        for time in times {
            condition.entry(*time).or_insert(Value::Null);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_carries_nothing_goes() {
        let mut value = json!({
            "tolerations": [], "nodeName": "", "hostNetwork": false, "replicas": 0, "automount": false,
            "nodeSelector": {}, "securityContext": {}, "emptyDir": {},
            "labels": {"a": ""}, "hostPath": {"path": "/x", "type": ""},
            "conditions": [{"type": "Ready", "message": "", "lastProbeTime": null}],
            "httpHeaders": [{"name": "A", "value": ""}], "env": [{"name": "A", "value": ""}],
        });
        tidy(&mut value, "");
        assert_eq!(
            value,
            json!({
                "replicas": 0, "automount": false, "securityContext": {}, "emptyDir": {},
                "labels": {"a": ""}, "hostPath": {"path": "/x", "type": ""},
                "conditions": [{"type": "Ready", "lastProbeTime": null}],
                "httpHeaders": [{"name": "A", "value": ""}], "env": [{"name": "A"}],
            })
        );
    }
}

//! Event of `events.k8s.io/v1`: the newer view of the stored `v1` Event.
//!
//! Its own rules are stricter: an event must say when, by whom, what was done and why, and may not
//! use the counters of the older form.

use serde_json::{Map, Value};

use super::common::{set_default, text};
use super::event::{self, Event};
use super::field::{Errors, Field};
use super::{ALL_VERBS, Column, Conversion, Kind, KindInfo, NameRule, column, meta};

pub struct EventV1;

static INFO: KindInfo = KindInfo {
    group: "events.k8s.io",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.events.v1.Event",
    storage: "events",
    storage_version_hash: "r2yiGXH7wu8=",
};

static COLUMNS: &[Column] = &[
    column("Last Seen", "string", "", 0),
    column("Type", "string", "", 0),
    column("Reason", "string", "", 0),
    column("Object", "string", "", 0),
    column("Subobject", "string", "", 1),
    column("Source", "string", "", 1),
    column("Message", "string", "", 0),
    column("First Seen", "string", "", 1),
    column("Count", "string", "", 1),
    column("Name", "string", "name", 1),
];

/// What may not change once an event was reported; only its series counts on.
const FIXED: &[&str] = &[
    "regarding",
    "reason",
    "note",
    "deprecatedSource",
    "deprecatedFirstTimestamp",
    "deprecatedLastTimestamp",
    "deprecatedCount",
    "eventTime",
    "action",
    "related",
    "reportingController",
    "reportingInstance",
    "type",
];

impl Kind for EventV1 {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        let Value::Object(map) = object else { return };
        for time in ["eventTime", "deprecatedFirstTimestamp", "deprecatedLastTimestamp"] {
            map.entry(time).or_insert(Value::Null);
        }
        for part in ["regarding", "deprecatedSource"] {
            set_default(object, part, Map::new());
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        event::check(&mut errors, &event::to_core(object.clone()), "reportingController");
        let root = Field::root(object);
        check_series(&mut errors, &root.get("series"));
        if !root.get("eventTime").exists() {
            errors.required(&root.get("eventTime"), "");
        }
        let kind = root.get("type");
        if !matches!(kind.str(), "Normal" | "Warning") {
            errors.invalid_value(&kind, "", format!("has invalid value: {}", kind.str()));
        }
        check_unset(&mut errors, &root);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        // An event of the older form, seen through this view, keeps the older form's rules.
        if old.get("eventTime").is_none_or(Value::is_null) {
            event::check(&mut errors, &event::to_core(new.clone()), "reportingController");
            return errors;
        }
        let root = Field::root(new);
        check_series(&mut errors, &root.get("series"));
        for name in FIXED {
            meta::immutable(&mut errors, &root.get(name), &Field::root(old).get(name));
        }
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        Event.row(&event::to_core(object.clone()), now)
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        let at = |name: &str| text(object, &format!("/{}", name.replace('.', "/"))).to_owned();
        SELECTABLE.iter().map(|name| (*name, at(name))).collect()
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        SELECTABLE
    }

    fn conversion(&self) -> Option<&dyn Conversion> {
        Some(self)
    }
}

impl Conversion for EventV1 {
    fn to_stored(&self, object: Value) -> Value {
        event::to_core(object)
    }

    fn from_stored(&self, stored: Value) -> Value {
        event::to_v1(stored)
    }
}

static SELECTABLE: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

fn check_series(errors: &mut Errors, series: &Field<'_>) {
    if !series.exists() {
        return;
    }
    if series.get("count").int().unwrap_or(0) < 2 {
        errors.invalid_value(&series.get("count"), "", "should be at least 2");
    }
    if !series.get("lastObservedTime").exists() {
        errors.required(&series.get("lastObservedTime"), "");
    }
}

/// The older form's counters. The errors name them as the core form does, which is upstream's way too.
fn check_unset(errors: &mut Errors, root: &Field<'_>) {
    let source = root.get("deprecatedSource");
    let set = [
        ("firstTimestamp", root.get("deprecatedFirstTimestamp").exists()),
        ("lastTimestamp", root.get("deprecatedLastTimestamp").exists()),
        ("count", root.get("deprecatedCount").int().unwrap_or(0) != 0),
        ("source", !source.get("component").is_empty() || !source.get("host").is_empty()),
    ];
    for (name, _) in set.iter().filter(|(_, set)| *set) {
        errors.invalid_value(&root.get(name), "", "needs to be unset");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scheduled() -> Value {
        let mut event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": "one", "namespace": "shop"}, "eventTime": "2024-01-01T00:00:00.000000Z",
            "regarding": {"kind": "Pod", "name": "p", "namespace": "shop"}, "action": "Binding",
            "reason": "Scheduled", "note": "hello", "type": "Normal",
            "reportingController": "default-scheduler", "reportingInstance": "here"});
        EventV1.default(&mut event);
        event
    }

    #[test]
    fn a_whole_event_is_valid_and_is_stored_in_the_core_form() {
        assert_eq!(EventV1.validate(&scheduled()), Errors::default());
        let mut stored = event::to_core(scheduled());
        Event.default(&mut stored);
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(stored["message"], "hello");
        assert_eq!(stored["involvedObject"]["name"], "p");
        assert_eq!(event::to_v1(stored), scheduled());
    }

    #[test]
    fn what_the_newer_form_demands() {
        let mut event = scheduled();
        event["eventTime"] = Value::Null;
        event["type"] = "Odd".into();
        event["deprecatedCount"] = 3.into();
        event["series"] = json!({"count": 1});
        let paths: Vec<String> = EventV1.validate(&event).0.into_iter().map(|error| error.path).collect();
        assert_eq!(paths, ["series.count", "series.lastObservedTime", "eventTime", "type", "count"]);
    }

    #[test]
    fn only_the_series_counts_on() {
        let mut event = scheduled();
        event["series"] = json!({"count": 2, "lastObservedTime": "2024-01-01T00:00:01.000000Z"});
        assert!(EventV1.validate_update(&event, &scheduled()).is_empty());
        event["note"] = "other".into();
        assert_eq!(EventV1.validate_update(&event, &scheduled()).0[0].path, "note");
    }
}

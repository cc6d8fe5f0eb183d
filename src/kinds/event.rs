//! Event of `v1`: something that happened to an object.
//!
//! This is the form in which events are stored. `events.k8s.io/v1` (the next file) shows the same
//! object under other field names; [`to_core`] and [`to_v1`] translate, losing nothing either way.

use serde_json::{Map, Value};

use super::common::{set_default, text};
use super::field::{Errors, Field};
use super::{ALL_VERBS, Column, Kind, KindInfo, NameRule, column, names, time};

pub struct Event;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.core.v1.Event",
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

/// Which field of the core form is which in `events.k8s.io/v1`; all others have one name in both.
const RENAMED: &[(&str, &str)] = &[
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("involvedObject", "regarding"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
];

/// Limits of the newer form, in bytes.
const MAX_WORD_BYTES: usize = 128;
const MAX_MESSAGE_BYTES: usize = 1024;

impl Kind for Event {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    /// Upstream writes these fields even when they are empty, and clients rely on finding them.
    fn default(&self, object: &mut Value) {
        let Value::Object(map) = object else { return };
        for time in ["eventTime", "firstTimestamp", "lastTimestamp"] {
            map.entry(time).or_insert(Value::Null);
        }
        for part in ["involvedObject", "source"] {
            set_default(object, part, Map::new());
        }
        for name in ["reportingComponent", "reportingInstance"] {
            set_default(object, name, "");
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        check(&mut errors, object, "reportingComponent");
        errors
    }

    /// Events are named after their object, whose own name rule may be looser than any other.
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let root = Field::root(object);
        let since = |name: &str| root.get(name).exists().then(|| time::age(root.get(name).value, now));
        let unknown = || "<unknown>".to_owned();
        let first = since("firstTimestamp").or_else(|| since("eventTime")).unwrap_or_else(unknown);
        let mut last = since("lastTimestamp").unwrap_or_else(|| first.clone());
        // An event of the newer form that happened once carries no count.
        let mut count = root.get("count").int().filter(|count| *count != 0).unwrap_or(1);
        let series = root.get("series");
        if series.exists() {
            last = time::age(series.get("lastObservedTime").value, now);
            count = series.get("count").int().unwrap_or(0);
        }
        let about = root.get("involvedObject");
        let mut target = about.get("kind").str().to_lowercase();
        if !about.get("name").is_empty() {
            target = format!("{target}/{}", about.get("name").str());
        }
        vec![
            last.into(),
            root.get("type").str().into(),
            root.get("reason").str().into(),
            target.into(),
            about.get("fieldPath").str().into(),
            reporter(&root).into(),
            root.get("message").str().trim().into(),
            first.into(),
            count.into(),
            text(object, "/metadata/name").into(),
        ]
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        SELECTABLE.iter().map(|name| (*name, selected(object, name))).collect()
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        SELECTABLE
    }
}

static SELECTABLE: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// The value of one of [`SELECTABLE`]. `source` also finds events of the newer form by their controller.
fn selected(object: &Value, name: &str) -> String {
    let value = match name {
        "source" => match text(object, "/source/component") {
            "" => text(object, "/reportingComponent"),
            component => component,
        },
        _ => text(object, &format!("/{}", name.replace('.', "/"))),
    };
    value.to_owned()
}

/// `component, host` of whichever form the reporter used.
fn reporter(root: &Field<'_>) -> String {
    let either = |old: &str, new: &str| match root.get("source").get(old).str() {
        "" => root.get(new).str().to_owned(),
        given => given.to_owned(),
    };
    let component = either("component", "reportingComponent");
    match either("host", "reportingInstance").as_str() {
        "" => component,
        instance => format!("{component}, {instance}"),
    }
}

/// The rules that both forms share, on the core form; `controller` is what the caller's form calls
/// the reporting controller.
pub(super) fn check(errors: &mut Errors, object: &Value, controller: &str) {
    let root = Field::root(object);
    let own = text(object, "/metadata/namespace");
    let about = root.get("involvedObject").get("namespace");
    let new_form = root.get("eventTime").exists();
    // Objects without a namespace have their events in `default`; the newer form also allows kube-system.
    let agrees = match about.str() {
        "" => own.is_empty() || own == "default" || (new_form && own == "kube-system"),
        namespace => namespace == own,
    };
    if !agrees {
        errors.invalid_value(&about, about.str(), "does not match event.namespace");
    }
    if new_form {
        check_new_form(errors, &root, controller);
    }
    if !own.is_empty() {
        for message in names::dns1123_subdomain(own) {
            errors.invalid_value(&root.get("namespace"), own, message);
        }
    }
}

/// An event with an `eventTime` must say who reports what.
fn check_new_form(errors: &mut Errors, root: &Field<'_>, controller: &str) {
    let reporting = Field { path: controller.to_owned(), ..root.get("reportingComponent") };
    if reporting.is_empty() {
        errors.required(&reporting, "");
    }
    for message in names::qualified_name(reporting.str()) {
        errors.invalid_value(&reporting, reporting.str(), message);
    }
    for name in ["reportingInstance", "action", "reason"] {
        let word = root.get(name);
        if word.is_empty() {
            errors.required(&word, "");
        }
        if word.len() > MAX_WORD_BYTES {
            errors.invalid_value(&word, "", format!("can have at most {MAX_WORD_BYTES} characters"));
        }
    }
    let message = root.get("message");
    if message.len() > MAX_MESSAGE_BYTES {
        errors.invalid_value(&message, "", format!("can have at most {MAX_MESSAGE_BYTES} characters"));
    }
}

/// The core form of an `events.k8s.io/v1` Event.
pub fn to_core(object: Value) -> Value {
    translate(object, "v1", |name| RENAMED.iter().find(|(_, v1)| *v1 == name).map(|(core, _)| *core))
}

/// The `events.k8s.io/v1` form of a core Event.
pub fn to_v1(object: Value) -> Value {
    translate(object, "events.k8s.io/v1", |name| RENAMED.iter().find(|(core, _)| *core == name).map(|(_, v1)| *v1))
}

fn translate(object: Value, api_version: &str, rename: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(map) = object else { return object };
    let mut translated: Map<String, Value> =
        map.into_iter().map(|(name, value)| (rename(&name).map_or(name, str::to_owned), value)).collect();
    if translated.contains_key("apiVersion") {
        translated.insert("apiVersion".to_owned(), api_version.into());
    }
    Value::Object(translated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn started() -> Value {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "one", "namespace": "shop"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "shop"},
            "reason": "Started", "message": "hello ", "type": "Normal", "count": 3, "source": {"component": "me"}})
    }

    #[test]
    fn the_two_forms_translate_into_each_other() {
        let mut core = started();
        Event.default(&mut core);
        let v1 = to_v1(core.clone());
        assert_eq!(v1["apiVersion"], "events.k8s.io/v1");
        assert_eq!(v1["note"], "hello ");
        assert_eq!(v1["regarding"]["name"], "p");
        assert_eq!(v1["deprecatedSource"]["component"], "me");
        assert!(v1.get("message").is_none());
        assert_eq!(to_core(v1), core);
    }

    #[test]
    fn a_row_of_each_age() {
        let now: jiff::Timestamp = "2024-01-01T00:10:00Z".parse().expect("a valid time");
        let mut event = started();
        let row = Event.row(&event, now);
        let expected = json!(["<unknown>", "Normal", "Started", "pod/p", "", "me", "hello", "<unknown>", 3, "one"]);
        assert_eq!(Value::from(row), expected);
        event["eventTime"] = json!("2024-01-01T00:09:00.000000Z");
        event["series"] = json!({"count": 7, "lastObservedTime": "2024-01-01T00:09:30.000000Z"});
        let row = Event.row(&event, now);
        assert_eq!((&row[0], &row[7], &row[8]), (&json!("30s"), &json!("60s"), &json!(7)));
    }

    #[test]
    fn an_event_is_in_the_namespace_of_its_object() {
        let mut event = started();
        assert!(Event.validate(&event).is_empty());
        event["involvedObject"]["namespace"] = "elsewhere".into();
        let errors = Event.validate(&event);
        assert_eq!(
            errors.0[0].to_string(),
            "involvedObject.namespace: Invalid value: \"elsewhere\": does not match event.namespace"
        );
        event["involvedObject"] = json!({"kind": "Node", "name": "n"});
        assert!(!Event.validate(&event).is_empty());
        event["metadata"]["namespace"] = "default".into();
        assert!(Event.validate(&event).is_empty());
    }

    #[test]
    fn events_are_selected_by_what_they_are_about() {
        let selectable = Event.selectable(&started());
        assert!(selectable.contains(&("involvedObject.name", "p".to_owned())));
        assert!(selectable.contains(&("source", "me".to_owned())));
        assert_eq!(selectable.len(), Event.selectable_names().len());
    }
}

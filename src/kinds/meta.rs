//! Object metadata: what every kind has, and what holds for it whatever the kind.
//!
//! The API core calls these around a kind's own rules: `normalize` after decoding, `prepare_create`
//! or `prepare_update` before the kind's, `validate_create` or `validate_update` before the kind's
//! errors, since upstream reports metadata first. Randomness and the clock come in as a [`Stamp`].

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::field::{Errors, Field, Reason};
use super::{KindInfo, NameRule, names, time};

/// The bytes that all keys and values of an object's annotations may have together.
pub const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
/// A generated name is the base, cut to this, and five random characters: a DNS label in total.
pub const GENERATE_NAME_BASE_MAX: usize = 58;

const FINALIZER_ORPHAN: &str = "orphan";
const FINALIZER_FOREGROUND: &str = "foregroundDeletion";

/// What a new object gets from outside this room.
#[derive(Debug, Clone)]
pub struct Stamp {
    pub now: Timestamp,
    pub uid: String,
    /// The five characters that complete a `generateName`.
    pub suffix: String,
}

/// The object's metadata map; creates it where it is absent.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    object_mut(object, "metadata")
}

/// The child `name` of an object as a map, replacing whatever else stands there.
pub fn object_mut<'a>(parent: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !parent.is_object() {
        *parent = Value::Object(Map::new());
    }
    let child = &mut parent[name];
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    child.as_object_mut().expect("made an object just above")
}

/// A string of the metadata, or "".
pub fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"][name].as_str().unwrap_or("")
}

/// `metadata.generation`; 0 where the kind does not count.
pub fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

/// Sets `metadata.generation`.
pub fn set_generation(object: &mut Value, generation: i64) {
    metadata_mut(object).insert("generation".to_owned(), generation.into());
}

/// Sets the generation of a new object to 1.
pub fn start_generation(object: &mut Value) {
    set_generation(object, 1);
}

/// Sets `new`'s generation to `old`'s, plus one if `changed`.
pub fn carry_generation(new: &mut Value, old: &Value, changed: bool) {
    let generation = generation(old) + i64::from(changed);
    if generation > 0 {
        set_generation(new, generation);
    }
}

/// Copies a top-level field from `old` to `new`, absence included.
pub fn take_from(new: &mut Value, old: &Value, field: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) if !value.is_null() => map.insert(field.to_owned(), value.clone()),
        _ => map.remove(field),
    };
}

/// An update of all but the status: a new spec is a new generation.
pub fn update_spec(new: &mut Value, old: &Value) {
    take_from(new, old, "status");
    count_spec(new, old);
}

/// A new spec is a new generation.
pub fn count_spec(new: &mut Value, old: &Value) {
    let changed = !same(&new["spec"], &old["spec"]);
    carry_generation(new, old, changed);
}

/// An update of the status: the spec and its generation stay.
pub fn update_status(new: &mut Value, old: &Value) {
    take_from(new, old, "spec");
    carry_generation(new, old, false);
}

/// Drops the entries that carry nothing: upstream's types leave them out when they write.
pub fn normalize(object: &mut Value) {
    let metadata = metadata_mut(object);
    metadata.retain(|name, value| !is_empty(value) && (name != "generation" || value.as_i64() != Some(0)));
    metadata.remove("selfLink");
    if let Some(references) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) {
        for reference in references {
            fill_reference(reference);
        }
    }
}

/// An owner reference always has its four required strings.
fn fill_reference(reference: &mut Value) {
    let Some(map) = reference.as_object_mut() else { return };
    map.retain(|_, value| !value.is_null());
    for name in ["apiVersion", "kind", "name", "uid"] {
        map.entry(name).or_insert_with(|| "".into());
    }
}

/// Null, "", {} and [].
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Gives a new object its identity: name, uid, creation time; takes away what it cannot have yet.
pub fn prepare_create(object: &mut Value, stamp: &Stamp) {
    let metadata = metadata_mut(object);
    for name in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        metadata.remove(name);
    }
    metadata.insert("uid".to_owned(), stamp.uid.clone().into());
    metadata.insert("creationTimestamp".to_owned(), time::write(stamp.now).into());
    let named = metadata.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    let base = metadata.get("generateName").and_then(Value::as_str).unwrap_or("");
    if !named && !base.is_empty() {
        let name = generated_name(base, &stamp.suffix);
        metadata.insert("name".to_owned(), name.into());
    }
}

/// The base, cut on a character boundary, and the suffix.
pub fn generated_name(base: &str, suffix: &str) -> String {
    let mut end = base.len().min(GENERATE_NAME_BASE_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &base[..end])
}

/// Keeps what an update cannot change: identity, times of creation and deletion, generation.
pub fn prepare_update(new: &mut Value, old: &Value) {
    let before = &old["metadata"];
    let metadata = metadata_mut(new);
    metadata.remove("selfLink");
    let mut keep = |name: &str, only_if_absent: bool| {
        let kept = &before[name];
        let absent = metadata.get(name).is_none_or(is_empty);
        if kept.is_null() {
            return;
        }
        if absent || !only_if_absent {
            metadata.insert(name.to_owned(), kept.clone());
        }
    };
    keep("creationTimestamp", false);
    keep("generation", false);
    keep("deletionTimestamp", false);
    keep("uid", true);
    keep("deletionGracePeriodSeconds", true);
    if before["generation"].is_null() {
        metadata.remove("generation");
    }
}

/// What may be wrong with a new object's metadata.
pub fn validate_create(object: &Value, info: &KindInfo, rule: NameRule) -> Errors {
    let mut errors = Errors::default();
    let metadata = Field::root(object).get("metadata");
    let generate_name = metadata.get("generateName");
    if !generate_name.is_empty() {
        errors.invalid_each(&generate_name, names::object_name(rule, generate_name.str(), true));
    }
    let name = metadata.get("name");
    if name.is_empty() {
        errors.required(&name, "name or generateName is required");
    } else {
        errors.invalid_each(&name, names::object_name(rule, name.str(), false));
    }
    validate_namespace(&mut errors, &metadata.get("namespace"), info.namespaced);
    let generation = metadata.get("generation");
    if generation.int().is_some_and(|g| g < 0) {
        errors.invalid(&generation, "must be greater than or equal to 0");
    }
    validate_common(&mut errors, &metadata);
    errors
}

fn validate_namespace(errors: &mut Errors, namespace: &Field<'_>, namespaced: bool) {
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.required(namespace, ""),
        (true, false) => errors.invalid_each(namespace, names::dns1123_label(namespace.str())),
        (false, false) => errors.forbidden(namespace, "not allowed on this type"),
        (false, true) => {}
    }
}

/// What may be wrong with an updated object's metadata, and with the change from `old`.
pub fn validate_update(new: &Value, old: &Value) -> Errors {
    let mut errors = Errors::default();
    let metadata = Field::root(new).get("metadata");
    let before = Field::root(old).get("metadata");
    if before.get("deletionTimestamp").exists() {
        validate_no_new_finalizers(&mut errors, &metadata.get("finalizers"), &before.get("finalizers"));
    }
    let version = metadata.get("resourceVersion");
    if version.is_empty() {
        errors.invalid_str(&version, "must be specified for an update");
    }
    let generation = metadata.get("generation");
    if generation.int().unwrap_or(0) < before.get("generation").int().unwrap_or(0) {
        errors.invalid_value(&generation, generation.int().unwrap_or(0), "must not be decremented");
    }
    for name in ["name", "namespace", "uid"] {
        let field = metadata.get(name);
        if field.str() != before.get(name).str() {
            errors.invalid_str(&field, "field is immutable");
        }
    }
    for name in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(&mut errors, &metadata.get(name), &before.get(name));
    }
    validate_common(&mut errors, &metadata);
    errors
}

/// `field is immutable`, unless both are the same or both absent.
pub fn immutable(errors: &mut Errors, new: &Field<'_>, old: &Field<'_>) {
    if !same(new.value, old.value) {
        errors.invalid(new, "field is immutable");
    }
}

/// Equality as upstream's types see it: null, "", [] and {} inside objects are as good as absent.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(key, value)| same(value, b.get(key).unwrap_or(&Value::Null)))
                && b.iter().all(|(key, value)| a.contains_key(key) || is_empty(value))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b || (is_empty(a) && is_empty(b)),
    }
}

fn validate_no_new_finalizers(errors: &mut Errors, new: &Field<'_>, old: &Field<'_>) {
    let before: Vec<&str> = old.value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut extra: Vec<&str> = new.value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    extra.retain(|finalizer| !before.contains(finalizer));
    extra.sort_unstable();
    extra.dedup();
    if !extra.is_empty() {
        let quoted: Vec<_> = extra.iter().map(|finalizer| super::field::quote(finalizer)).collect();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            quoted.join(", ")
        );
        errors.forbidden(new, detail);
    }
}

/// What is checked of labels, annotations, owners and finalizers whenever an object is written.
///
/// Upstream looks at them in several layers on an update, and its answers list each finding as often.
pub fn validate_content(object: &Value) -> Errors {
    let mut errors = Errors::default();
    validate_common(&mut errors, &Field::root(object).get("metadata"));
    errors
}

fn validate_common(errors: &mut Errors, metadata: &Field<'_>) {
    validate_labels(errors, &metadata.get("labels"));
    validate_annotations(errors, &metadata.get("annotations"));
    validate_owner_references(errors, &metadata.get("ownerReferences"));
    validate_finalizers(errors, &metadata.get("finalizers"));
    validate_managed_fields(errors, &metadata.get("managedFields"));
}

/// The longest name of a subresource in `managedFields`, in bytes.
const SUBRESOURCE_MAX_BYTES: usize = 256;

fn validate_managed_fields(errors: &mut Errors, managers: &Field<'_>) {
    for entry in managers.items() {
        validate_field_manager(errors, &entry.get("manager"));
        let subresource = entry.get("subresource");
        if subresource.str().len() > SUBRESOURCE_MAX_BYTES {
            errors.too_long(&subresource, SUBRESOURCE_MAX_BYTES);
        }
    }
}

/// Keys and values of a map of labels; errors name the map, not the entry, as upstream's do.
pub fn validate_labels(errors: &mut Errors, labels: &Field<'_>) {
    for (key, value) in labels.entries() {
        for message in names::qualified_name(key) {
            errors.invalid_value(labels, key, message);
        }
        for message in names::label_value(value.str()) {
            errors.invalid_value(labels, value.str(), message);
        }
    }
}

/// The longest name of a field manager, in bytes.
pub const FIELD_MANAGER_MAX_BYTES: usize = 128;

/// What may be wrong with the name of a field manager.
pub fn validate_field_manager(errors: &mut Errors, manager: &Field<'_>) {
    if manager.str().len() > FIELD_MANAGER_MAX_BYTES {
        errors.too_long(manager, FIELD_MANAGER_MAX_BYTES);
    }
    for (at, c) in manager.str().char_indices().filter(|(_, c)| c.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        errors.invalid_str(manager, detail);
    }
}

/// Keys as labels have them, whatever the case, and the total size.
pub fn validate_annotations(errors: &mut Errors, annotations: &Field<'_>) {
    let mut total = 0;
    for (key, value) in annotations.entries() {
        total += key.len() + value.str().len();
        for message in names::qualified_name(&key.to_ascii_lowercase()) {
            errors.invalid_value(annotations, key, message);
        }
    }
    if total > ANNOTATIONS_MAX_BYTES {
        errors.too_long(annotations, ANNOTATIONS_MAX_BYTES);
    }
}

fn validate_owner_references(errors: &mut Errors, references: &Field<'_>) {
    let mut controller: Option<String> = None;
    for reference in references.items() {
        validate_owner_reference(errors, references, &reference);
        if !reference.get("controller").bool() {
            continue;
        }
        let this = format!("{}/{}", reference.get("kind").str(), reference.get("name").str());
        match &controller {
            None => controller = Some(this),
            Some(first) => {
                let shown: Vec<_> = references.items().map(|r| reference_text(&r)).collect();
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                errors.push_text(Reason::Invalid, &references.path, format!("[{}]", shown.join(",")), detail);
            }
        }
    }
}

/// The errors' paths have no index: upstream passes the list's path on.
fn validate_owner_reference(errors: &mut Errors, references: &Field<'_>, reference: &Field<'_>) {
    let at = |name: &str| Field::new(format!("{}.{name}", references.path), reference.get(name).value);
    let api_version = at("apiVersion");
    if api_version.str().rsplit('/').next().is_none_or(str::is_empty) {
        errors.invalid_str(&api_version, "version must not be empty");
    }
    for name in ["kind", "name", "uid"] {
        let field = at(name);
        if field.is_empty() {
            errors.invalid_str(&field, "must not be empty");
        }
    }
    if api_version.str() == "v1" && reference.get("kind").str() == "Event" {
        let detail = "/v1, Kind=Event is disallowed from being an owner";
        errors.push_text(Reason::Invalid, &references.path, reference_text(reference), detail);
    }
}

/// A reference in the order of upstream's struct.
fn reference_text(reference: &Field<'_>) -> String {
    let mut parts = Vec::new();
    for name in ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"] {
        let value = reference.get(name);
        if value.exists() {
            parts.push(format!("\"{name}\":{}", value.value));
        }
    }
    format!("{{{}}}", parts.join(","))
}

fn validate_finalizers(errors: &mut Errors, finalizers: &Field<'_>) {
    let (mut orphan, mut foreground) = (false, false);
    for finalizer in finalizers.items() {
        for message in names::qualified_name(finalizer.str()) {
            errors.invalid_value(finalizers, finalizer.str(), message);
        }
        orphan |= finalizer.str() == FINALIZER_ORPHAN;
        foreground |= finalizer.str() == FINALIZER_FOREGROUND;
    }
    if orphan && foreground {
        let detail = format!("finalizer {FINALIZER_ORPHAN} and {FINALIZER_FOREGROUND} cannot be both set");
        errors.invalid(finalizers, detail);
    }
    for finalizer in finalizers.items() {
        validate_standard_finalizer(errors, &finalizer);
    }
}

/// A finalizer without a domain must be one of upstream's own.
pub fn validate_standard_finalizer(errors: &mut Errors, at: &Field<'_>) {
    let standard = ["kubernetes", FINALIZER_ORPHAN, FINALIZER_FOREGROUND];
    if !at.str().contains('/') && !standard.contains(&at.str()) {
        errors.invalid_str(at, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kind as _;
    use serde_json::json;

    fn stamp() -> Stamp {
        Stamp { now: Timestamp::UNIX_EPOCH, uid: "u".to_owned(), suffix: "abcde".to_owned() }
    }

    #[test]
    fn names_are_generated_from_a_cut_base() {
        let mut object =
            json!({"metadata": {"generateName": "x".repeat(70), "deletionTimestamp": "y", "generation": 7}});
        prepare_create(&mut object, &stamp());
        assert_eq!(text(&object, "name"), format!("{}abcde", "x".repeat(58)));
        assert_eq!(object["metadata"]["creationTimestamp"], "1970-01-01T00:00:00Z");
        assert!(object["metadata"].get("deletionTimestamp").is_none());
        assert_eq!(generation(&object), 0);
        assert_eq!(generated_name(&"ä".repeat(40), "z").len(), 59);
    }

    #[test]
    fn an_update_cannot_change_identity() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "3", "generation": 2,
            "creationTimestamp": "2026-01-01T00:00:00Z"}});
        let mut new = json!({"metadata": {"name": "a", "resourceVersion": "3", "generation": 9,
            "creationTimestamp": "2020-01-01T00:00:00Z"}});
        prepare_update(&mut new, &old);
        assert_eq!(new["metadata"], old["metadata"]);
        assert!(validate_update(&new, &old).is_empty());
        new["metadata"]["uid"] = "2".into();
        new["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let texts: Vec<_> = validate_update(&new, &old).0.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "metadata.uid: Invalid value: \"2\": field is immutable",
                "metadata.deletionTimestamp: Invalid value: \"2026-01-01T00:00:00Z\": field is immutable"
            ]
        );
    }

    #[test]
    fn finalizers_of_a_dying_object_only_shrink() {
        let old = json!({"metadata": {"resourceVersion": "1", "deletionTimestamp": "t", "finalizers": ["a/b"]}});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["a/b", "example.com/c"]);
        let errors = validate_update(&new, &old);
        assert_eq!(
            errors.0[0].to_string(),
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, \
             found new finalizers []string{\"example.com/c\"}"
        );
    }

    #[test]
    fn metadata_is_checked_in_order() {
        let object = json!({"metadata": {
            "labels": {"a b": "-x"}, "annotations": {"A": "x".repeat(ANNOTATIONS_MAX_BYTES)},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "1", "controller": true},
                {"apiVersion": "apps/", "kind": "", "name": "e", "uid": "1", "controller": true}],
            "finalizers": ["orphan", "foregroundDeletion"],
        }});
        let errors = validate_create(&object, crate::kinds::pod::Pod.info(), NameRule::DnsSubdomain);
        let paths: Vec<_> = errors.0.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "metadata.name",
                "metadata.namespace",
                "metadata.labels",
                "metadata.labels",
                "metadata.annotations",
                "metadata.ownerReferences",
                "metadata.ownerReferences.apiVersion",
                "metadata.ownerReferences.kind",
                "metadata.ownerReferences",
                "metadata.finalizers",
            ]
        );
    }

    #[test]
    fn empty_is_the_same_as_absent() {
        assert!(same(&json!({"a": []}), &json!({})));
        assert!(same(&json!({}), &json!({"a": null})));
        assert!(!same(&json!({"a": 0}), &json!({})));
        let mut object = json!({"metadata": {"labels": {}, "name": "x", "namespace": ""}});
        normalize(&mut object);
        assert_eq!(object, json!({"metadata": {"name": "x"}}));
    }
}

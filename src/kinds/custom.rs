//! A kind made from one version of a CustomResourceDefinition.
//!
//! The trait [`Kind`] hands out facts that live as long as the program, because those of all other kinds
//! do. So what is small and seldom changes (names, columns, subresources, paths) is a [`Custom`] that is
//! never freed, and what is large and changes while an author works on it, the schema, is exchanged in it.
//! Who makes them keeps each and uses it again for a definition that says the same, and counts what they
//! cost ([`Custom::cost`]).

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use serde_json::Value;

use super::field::{Errors, Field};
use super::model::Model;
use super::structural::paths::JsonPath;
use super::structural::{Schema, defaults, is_meta, prune, rules, validate};
use super::{Column, Kind, KindInfo, ScalePaths, Subresource, column, meta, time};

/// The verbs of custom resources, in upstream's order.
pub(super) const VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

/// One served version of a definition.
pub struct Custom {
    info: &'static KindInfo,
    list_kind: &'static str,
    columns: &'static [Column],
    /// What the columns after the name show.
    printed: Vec<JsonPath>,
    selectable: &'static [&'static str],
    selected: Vec<JsonPath>,
    scale: Option<ScalePaths>,
    deprecation: Option<&'static str>,
    has_status: bool,
    /// Memory that is never freed, in bytes, about.
    cost: usize,
    schema: ArcSwap<Schema>,
    /// Objects of up to this revision may have been written by another schema.
    since: AtomicU64,
}

/// A text that stays. The owner of the table of kinds bounds how much.
fn keep(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

fn keep_all(texts: &Value) -> &'static [&'static str] {
    let texts: Vec<&'static str> = texts.as_array().into_iter().flatten().filter_map(Value::as_str).map(keep).collect();
    Box::leak(texts.into_boxed_slice())
}

impl Custom {
    /// Makes the kind of one version (an entry of `spec.versions`) of a definition, with the names that
    /// were accepted.
    pub fn new(definition: &Value, version: &Value) -> &'static Self {
        let (spec, names) = (&definition["spec"], &definition["status"]["acceptedNames"]);
        let text = |value: &Value| keep(value.as_str().unwrap_or_default());
        let (group, name) = (text(&spec["group"]), text(&version["name"]));
        let (kind, plural) = (text(&names["kind"]), text(&names["plural"]));
        let subresources = &version["subresources"];
        let has_status = subresources["status"].is_object();
        let mut subs = Vec::new();
        if has_status {
            subs.push(Subresource::status(kind));
        }
        if subresources["scale"].is_object() {
            subs.push(Subresource::SCALE);
        }
        let info: &'static KindInfo = Box::leak(Box::new(KindInfo {
            group,
            version: name,
            kind,
            plural,
            singular: text(&names["singular"]),
            short_names: keep_all(&names["shortNames"]),
            categories: keep_all(&names["categories"]),
            namespaced: spec["scope"] == "Namespaced",
            verbs: VERBS,
            subresources: Box::leak(subs.into_boxed_slice()),
            schema: keep(&openapi_name(group, name, kind)),
            storage: keep(&format!("{group}/{plural}")),
            storage_version_hash: "",
        }));
        let (columns, printed) = columns(version);
        let selectable = version["selectableFields"].as_array().into_iter().flatten();
        let selectable: Vec<(&'static str, JsonPath)> = selectable
            .filter_map(|field| field["jsonPath"].as_str())
            .filter_map(|path| Some((keep(path.trim_start_matches('.')), JsonPath::parse(path)?)))
            .collect();
        let (selectable, selected): (Vec<_>, Vec<_>) = selectable.into_iter().unzip();
        Box::leak(Box::new(Self {
            info,
            list_kind: text(&names["listKind"]),
            columns,
            printed,
            selectable: Box::leak(selectable.into_boxed_slice()),
            selected,
            scale: scale(&subresources["scale"]),
            deprecation: deprecation(info, version),
            has_status,
            cost: size_of::<Self>() + 2 * identity(definition, version).len(),
            schema: ArcSwap::from_pointee(Schema::anything()),
            since: AtomicU64::new(u64::MAX),
        }))
    }

    /// What of a version and its definition makes another kind: all but the schema.
    pub fn identity(definition: &Value, version: &Value) -> String {
        identity(definition, version)
    }

    pub fn cost(&self) -> usize {
        self.cost
    }

    /// The type of the objects now.
    pub fn current(&self) -> Arc<Schema> {
        self.schema.load_full()
    }

    /// Exchanges the schema; objects written up to `revision` may be of another.
    pub fn set_schema(&self, schema: Schema, revision: u64) {
        self.since.store(u64::MAX, Ordering::Release);
        self.schema.store(Arc::new(schema));
        self.since.store(revision, Ordering::Release);
    }

    /// Whether an object of this revision was written by the schema of now.
    pub fn is_current(&self, revision: u64) -> bool {
        revision > self.since.load(Ordering::Acquire)
    }

    /// Makes of a stored object what the schema of now says it is.
    pub fn bring_up(&self, object: &mut Value) {
        self.prune(object);
        defaults::default(&self.current(), object);
    }

    /// Takes out of an object what the schema of now does not name.
    pub fn prune(&self, object: &mut Value) {
        prune::prune(&self.current(), object, &mut Vec::new());
    }

    fn check(&self, new: &Value, old: Option<&Value>) -> Errors {
        let schema = self.current();
        let mut errors = validate::validate(&schema, new, old);
        self.check_scale(&mut errors, new);
        errors.extend(validate::validate_lists(&schema, new, old));
        if schema.has_rules {
            if rules::blocked(&errors) {
                errors.push(super::field::Reason::Invalid, "<nil>", None, rules::NOT_CHECKED);
            } else {
                errors.extend(rules::validate(&schema, new, old));
            }
        }
        errors
    }

    fn check_scale(&self, errors: &mut Errors, object: &Value) {
        let Some(paths) = self.scale else { return };
        for pointer in [paths.spec_replicas, paths.status_replicas] {
            let path = pointer.trim_start_matches('/').replace('/', ".");
            let count = Field::new(path, object.pointer(pointer).unwrap_or(&Value::Null));
            if count.int().is_some_and(|count| count < 0) {
                errors.invalid(&count, "should be a non-negative integer");
            } else if count.int().is_some_and(|count| count > i64::from(i32::MAX)) {
                errors.invalid(&count, format!("should be less than or equal to {}", i32::MAX));
            }
        }
    }

    /// Whether anything has changed that makes a new generation.
    fn changed(&self, new: &Value, old: &Value) -> bool {
        let counted = |name: &str| !(is_meta(name) || self.has_status && name == "status");
        let names = [new, old].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys());
        names.filter(|name| counted(name)).any(|name| new.get(name) != old.get(name))
    }
}

fn identity(definition: &Value, version: &Value) -> String {
    let spec = &definition["spec"];
    let mut facts = version.clone();
    if let Some(map) = facts.as_object_mut() {
        for changes in ["schema", "storage", "served"] {
            map.remove(changes);
        }
    }
    serde_json::json!([spec["group"], spec["scope"], definition["status"]["acceptedNames"], facts]).to_string()
}

/// `com.example.v1.Widget`
fn openapi_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

fn columns(version: &Value) -> (&'static [Column], Vec<JsonPath>) {
    let mut columns = vec![column("Name", "string", "name", 0)];
    let mut printed = Vec::new();
    for said in version["additionalPrinterColumns"].as_array().into_iter().flatten() {
        let text = |name: &str| said[name].as_str().unwrap_or_default();
        let Some(path) = JsonPath::parse(text("jsonPath")) else { continue };
        let description = match text("description") {
            "" => format!("Custom resource definition column (in JSONPath format): {}", text("jsonPath")),
            own => own.to_owned(),
        };
        columns.push(Column {
            name: keep(text("name")),
            kind: keep(text("type")),
            format: keep(text("format")),
            description: keep(&description),
            priority: said["priority"].as_i64().and_then(|priority| priority.try_into().ok()).unwrap_or(0),
        });
        printed.push(path);
    }
    if printed.is_empty() {
        columns.push(column("Age", "date", "", 0));
        printed.extend(JsonPath::parse(".metadata.creationTimestamp"));
    }
    (Box::leak(columns.into_boxed_slice()), printed)
}

/// A place that no object has.
const NOWHERE: &str = "/metadata//";

fn scale(scale: &Value) -> Option<ScalePaths> {
    let pointer = |name: &str| -> Option<&'static str> {
        let path = JsonPath::parse(scale[name].as_str()?)?;
        Some(keep(&format!("/{}", path.names()?.join("/"))))
    };
    Some(ScalePaths {
        spec_replicas: pointer("specReplicasPath")?,
        status_replicas: pointer("statusReplicasPath")?,
        selector: pointer("labelSelectorPath").unwrap_or(NOWHERE),
    })
}

fn deprecation(info: &KindInfo, version: &Value) -> Option<&'static str> {
    if version["deprecated"] != true {
        return None;
    }
    Some(match version["deprecationWarning"].as_str() {
        Some(own) => keep(own),
        None => keep(&format!("{}/{} {} is deprecated", info.group, info.version, info.kind)),
    })
}

impl Kind for Custom {
    fn info(&self) -> &'static KindInfo {
        self.info
    }

    fn list_kind(&self) -> Cow<'static, str> {
        self.list_kind.into()
    }

    fn model(&self) -> Option<Model> {
        Some(Model::Custom(self.current()))
    }

    fn custom(&self) -> Option<&Custom> {
        Some(self)
    }

    fn default(&self, object: &mut Value) {
        defaults::default(&self.current(), object);
    }

    fn prepare_create(&self, object: &mut Value) {
        if self.has_status
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        if self.has_status {
            meta::take_from(new, old, "status");
        }
        let changed = self.changed(new, old);
        meta::carry_generation(new, old, changed);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        let mut whole = old.clone();
        meta::take_from(&mut whole, new, "status");
        // Who owns the status is in the metadata, of which nothing else changes.
        let owners = new["metadata"]["managedFields"].take();
        let metadata = meta::metadata_mut(&mut whole);
        if owners.is_null() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), owners);
        }
        *new = whole;
    }

    fn validate(&self, object: &Value) -> Errors {
        self.check(object, None)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        self.check(new, Some(old))
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Errors {
        self.check(new, Some(old))
    }

    fn columns(&self) -> &'static [Column] {
        self.columns
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let cells = self.columns.iter().skip(1).zip(&self.printed);
        let name = Value::from(meta::text(object, "name"));
        std::iter::once(name).chain(cells.map(|(column, path)| cell(column.kind, path.find(object), now))).collect()
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        let values = self.selectable.iter().zip(&self.selected);
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        values.map(|(name, path)| (*name, path.find(object).map(text).unwrap_or_default())).collect()
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        self.selectable
    }

    fn deprecation(&self) -> Option<&'static str> {
        self.deprecation
    }

    fn scale(&self) -> Option<ScalePaths> {
        self.scale
    }
}

/// A value as a column of a type shows it; one of another type shows nothing.
fn cell(kind: &str, value: Option<&Value>, now: jiff::Timestamp) -> Value {
    let Some(value) = value else { return Value::Null };
    match kind {
        "string" => match value {
            Value::String(text) => text.as_str().into(),
            other => other.to_string().into(),
        },
        "integer" => {
            value.as_i64().or_else(|| value.as_f64().map(|float| float as i64)).map_or(Value::Null, Value::from)
        }
        "number" if value.is_number() => value.clone(),
        "boolean" if value.is_boolean() => value.clone(),
        "date" => time::age(value, now).into(),
        _ => Value::Null,
    }
}

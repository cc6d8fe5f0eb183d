//! Server-side apply: who owns which field of an object, and what becomes of it when they disagree.
//!
//! The model is that of KEP-555. Each manager of an object has a set of fields ([`set`]) that it last
//! asserted. To apply a configuration is to merge it into the live object ([`merge`]), to take away what
//! the manager had applied before, applies no more and nobody else owns, and to be refused where it
//! would change what another manager owns, unless it insists. Every other write takes ownership of
//! what it changes ([`mod@compare`]), and never fails for it.
//!
//! Everything here is a pure function over JSON values and the schema table; the time comes in as
//! text. How the types say what is a list by key, a set or one value is in [`shape`].
//!
//! What a manager owns is compared at the version that it wrote in ([`versions`]). The few built-in kinds that
//! are served at two versions name their fields alike, so there an entry of the other version is held
//! against the same fields.

pub mod compare;
pub mod fields;
pub mod managers;
pub mod merge;
pub mod migrate;
pub mod scale;
pub mod set;
pub mod shape;
pub mod versions;

use serde_json::Value;

use crate::kinds::common::equal;
use crate::kinds::model::Model;
use fields::{check, fields_of, with_structs};
use managers::{Entry, Managers};
use set::FieldSet;
use shape::Place;
use versions::{Alike, Changes, Unconverted, Version, Versions};

/// The manager that gets what was there before anybody's fields were told apart.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Fields of the metadata that nobody owns: they are the object's identity, or the server's.
const NOBODYS: &[&str] = &[
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Who writes, and through what.
#[derive(Debug, Clone)]
pub struct Writer<'a> {
    pub manager: &'a str,
    /// `apps/v1`
    pub api_version: &'a str,
    /// Empty for the main endpoint.
    pub subresource: &'a str,
    /// Fields that this endpoint does not take, as paths of names: nobody owns anything in them by it.
    pub reset: &'a [&'a [&'a str]],
    /// Now, as the API writes times.
    pub now: &'a str,
}

/// Why a configuration cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 400.
    #[error("{0}")]
    BadRequest(String),
    /// 500 without a reason: upstream does not say whose fault it is.
    #[error("{0}")]
    Failed(String),
    /// 409, with a cause for each.
    #[error("{}", conflict_text(.0))]
    Conflict(Conflicts),
    /// Not known yet: what the object is in a version that somebody wrote in.
    #[error("the object is not known in the version of one of its field managers")]
    Unconverted,
}

/// The fields that other managers own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conflicts {
    pub listed: Vec<Conflict>,
    /// How many more there are than are listed.
    pub more: usize,
}

/// How much text of conflicts is listed. A path may be as long as a request, and there may be as many.
const MAX_CONFLICT_BYTES: usize = 256 << 10;

/// A field that another manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// As messages name the owner.
    pub manager: String,
    /// `.spec.replicas`
    pub field: String,
}

impl Conflicts {
    /// Of each manager, as messages name it, the fields at stake.
    fn new(taken: &[(String, FieldSet)]) -> Self {
        let (mut conflicts, mut bytes) = (Self::default(), 0);
        for (manager, fields) in taken {
            for path in fields.paths() {
                if bytes > MAX_CONFLICT_BYTES {
                    conflicts.more += 1;
                    continue;
                }
                let field = set::show(&path);
                bytes += field.len();
                conflicts.listed.push(Conflict { manager: manager.clone(), field });
            }
        }
        conflicts
    }
}

fn conflict_text(conflicts: &Conflicts) -> String {
    let Conflicts { listed: conflicts, more } = conflicts;
    if let ([one], 0) = (conflicts.as_slice(), more) {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.field);
    }
    let mut managers: Vec<&str> = conflicts.iter().map(|conflict| conflict.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let mut lines = Vec::new();
    for manager in managers {
        lines.push(format!("conflicts with {manager}:"));
        let fields = conflicts.iter().filter(|conflict| conflict.manager == manager);
        lines.extend(fields.map(|conflict| format!("- {}", conflict.field)));
    }
    if *more > 0 {
        lines.push(format!("and {more} more"));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len() + more, lines.join("\n"))
}

impl Writer<'_> {
    fn entry(&self, applied: bool, fields: FieldSet) -> Entry {
        Entry {
            manager: if self.manager.is_empty() { "unknown" } else { self.manager }.to_owned(),
            applied,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: self.now.to_owned(),
            fields,
        }
    }

    /// Takes out of a set what the endpoint does not take.
    fn without_reset(&self, mut set: FieldSet) -> FieldSet {
        for field in self.reset {
            set.remove_tree(field);
        }
        set
    }
}

/// Takes out what nobody owns.
fn strip(set: &mut FieldSet) {
    for name in ["apiVersion", "kind", "metadata"] {
        set.remove_field(&[name]);
    }
    for name in NOBODYS {
        set.remove_field(&["metadata", name]);
    }
}

/// Writes into `new` who owns its fields, after an update of any sort but apply. `live` is the object
/// before, or the empty object of its type where there was none.
pub fn track_update<'s>(root: impl Into<Place<'s>>, live: &Value, new: &mut Value, writer: &Writer<'_>) {
    // What is alike is always known.
    let _ = track_across(root, live, new, writer, &Alike);
}

/// The same for an object that has other versions. `new` is to be thrown away where one is not known.
pub fn track_across<'s>(
    root: impl Into<Place<'s>>,
    live: &Value,
    new: &mut Value,
    writer: &Writer<'_>,
    versions: &dyn Versions,
) -> Result<(), Unconverted> {
    let mut managers = managers_of_update(live, new, writer);
    let existed = live["metadata"]["uid"].is_string();
    // An object whose managers have been cleared stays without until somebody applies.
    if managers.is_empty() && existed {
        return Ok(());
    }
    match Changes::new(root.into(), live, new, writer, versions) {
        Ok(mut changes) => take(&mut managers, &mut changes, writer)?,
        // An object whose list elements cannot be told apart has no field sets.
        Err(_) => return Ok(()),
    }
    put_managers(new, managers);
    Ok(())
}

/// The managers that an update starts from; takes the list out of `new`. A client may write the list
/// itself; one that sends none, or one that cannot be read, leaves what is there.
fn managers_of_update(live: &Value, new: &mut Value, writer: &Writer<'_>) -> Managers {
    let sent = new.get_mut("metadata").and_then(Value::as_object_mut).and_then(|map| map.remove("managedFields"));
    if writer.subresource.is_empty()
        && let Some(sent) = sent
    {
        if is_reset(&sent) {
            return Managers::default();
        }
        // Most clients send back what they have read.
        if sent == live["metadata"]["managedFields"] {
            return Managers::stored(sent);
        }
        if let Ok(managers) = Managers::sent(sent)
            && !managers.is_empty()
        {
            return managers;
        }
    }
    Managers::stored(live["metadata"]["managedFields"].clone())
}

/// A list of one empty entry asks for the managers to be forgotten. An empty list does not: clients
/// that do not know the field must not clear it by accident.
fn is_reset(sent: &Value) -> bool {
    matches!(sent.as_array().map(Vec::as_slice), Some([Value::Object(only)]) if only.values().all(Value::is_null))
}

/// Gives the writer what it changed, and takes it from everybody else.
fn take(managers: &mut Managers, changes: &mut Changes<'_>, writer: &Writer<'_>) -> Result<(), Unconverted> {
    if changes.own().is_empty() {
        return Ok(());
    }
    for entry in &mut managers.0 {
        match changes.at(&entry.api_version)? {
            Some(comparison) => {
                entry.fields.subtract(&comparison.changed());
                entry.fields.subtract(&comparison.removed);
            }
            None => entry.fields = FieldSet::default(),
        }
    }
    managers.drop_empty();
    let mut taken = changes.own().changed();
    strip(&mut taken);
    if !taken.is_empty() {
        managers.give(writer.entry(false, taken));
    }
    managers.cap();
    Ok(())
}

fn put_managers(object: &mut Value, managers: Managers) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    match managers.into_value() {
        Some(list) => metadata.insert("managedFields".to_owned(), list),
        None => metadata.remove("managedFields"),
    };
}

/// Applies `config` to `live`, which is the empty object of its type where there is none yet. The
/// result is typed, but not defaulted.
pub fn apply(
    model: &Model,
    live: &Value,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    apply_across(model, live, config, writer, force, &Alike)
}

/// The same to an object that has other versions.
pub fn apply_across(
    model: &Model,
    live: &Value,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
    versions: &dyn Versions,
) -> Result<Value, ApplyError> {
    let mut managers = Managers::stored(live["metadata"]["managedFields"].clone());
    let mut live = live.clone();
    if let Some(metadata) = live.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    if managers.is_empty() {
        let before = Writer { manager: BEFORE_FIRST_APPLY, ..writer.clone() };
        let nothing = model.empty();
        let first = Changes::new(model.into(), &nothing, &live, &before, &Alike);
        take(&mut managers, &mut first.map_err(|fault| live_fault(&live, &fault))?, &before)?;
    }
    if !config["metadata"]["managedFields"].is_null() {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    check(model, config).map_err(|fault| config_fault(config, &fault))?;
    let merge = Merging { root: model.into(), live: &live, config, writer, versions };
    let Merged { object: mut new, managers, taken } = merge.run(managers)?;
    if !force && !taken.is_empty() && !migrate::allows(model, &live, writer, &taken) {
        return Err(ApplyError::Conflict(Conflicts::new(&taken)));
    }
    migrate::refresh_last_applied(&mut new, config, writer);
    model.conform(&mut new, &mut Vec::new()).map_err(|mismatch| {
        ApplyError::Failed(format!(
            "failed to convert new object ({}) to proper version ({}): {mismatch}",
            identity(&new),
            writer.api_version
        ))
    })?;
    if let Some(map) = new.as_object_mut() {
        map.insert("apiVersion".to_owned(), config["apiVersion"].clone());
        map.insert("kind".to_owned(), config["kind"].clone());
    }
    put_managers(&mut new, managers);
    Ok(new)
}

fn live_fault(live: &Value, fault: &str) -> ApplyError {
    ApplyError::Failed(format!("failed to create typed live object ({}): {fault}", identity(live)))
}

fn config_fault(config: &Value, fault: &str) -> ApplyError {
    ApplyError::Failed(format!("failed to create typed patch object ({}): {fault}", identity(config)))
}

/// `namespace/name; apps/v1, Kind=Deployment`, with what the object says of itself.
fn identity(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
    format!("{namespace}/{name}; {}", group_version_kind(object))
}

/// `apps/v1, Kind=Deployment`; the core group shows as nothing before the slash.
pub fn group_version_kind(object: &Value) -> String {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    format!("{group}/{version}, Kind={}", object["kind"].as_str().unwrap_or_default())
}

/// One application of a configuration.
struct Merging<'a> {
    root: Place<'a>,
    live: &'a Value,
    config: &'a Value,
    writer: &'a Writer<'a>,
    versions: &'a dyn Versions,
}

/// What comes of it if the manager has its way.
struct Merged {
    object: Value,
    managers: Managers,
    /// What it takes from others, by their names in messages.
    taken: Vec<(String, FieldSet)>,
}

impl Merging<'_> {
    fn run(&self, mut managers: Managers) -> Result<Merged, ApplyError> {
        let Self { root, live, config, writer, versions } = *self;
        let failed = |error: String| ApplyError::Failed(format!("failed to merge config: {error}"));
        let merged = merge::merge(root, live, config).map_err(failed)?;
        let set = writer.without_reset(fields_of(root, config).map_err(failed)?);
        let mut entry = writer.entry(true, set);
        let previous = managers.find(&entry).cloned();
        managers.put(entry.clone());
        let new = match &previous {
            Some(last) if !last.fields.is_empty() => {
                let last = Entry { fields: writer.without_reset(last.fields.clone()), ..last.clone() };
                self.prune(merged, &managers, &last)?
            }
            _ => merged,
        };
        let mut changes = Changes::new(root, live, &new, writer, versions).map_err(failed)?;
        let mut all_taken = Vec::new();
        for other in managers.0.iter_mut().filter(|other| !other.is_same(&entry)) {
            let Some(comparison) = changes.at(&other.api_version)? else {
                other.fields = FieldSet::default();
                continue;
            };
            let taken = other.fields.intersection(&comparison.changed());
            other.fields.subtract(&taken);
            other.fields.subtract(&comparison.removed);
            if !taken.is_empty() {
                all_taken.push((other.shown(), taken));
            }
        }
        strip(&mut entry.fields);
        // One that asserts only what is there already keeps the time at which it last did something.
        if let Some(previous) = previous.filter(|_| equal(live, &new)) {
            entry.time = previous.time;
        }
        managers.put(entry);
        managers.drop_empty();
        Ok(Merged { object: new, managers, taken: all_taken })
    }

    /// Takes out of `merged` what its manager had applied before (`last`) and nobody owns any more.
    fn prune(&self, merged: Value, managers: &Managers, last: &Entry) -> Result<Value, ApplyError> {
        let failed = |error: String| ApplyError::Failed(format!("failed to merge config: {error}"));
        let at_last = self.at(&last.api_version, merged)?;
        let root = at_last.root(self.root);
        let last_fields = with_structs(root, &last.fields);
        let mut pruned = merge::remove(root, &at_last.object, &last_fields);
        // Owned by somebody, the new configuration included: back again. First what is owned at the same
        // version: a conversion may need it.
        let mut owned: Vec<(&str, FieldSet)> = vec![(&last.api_version, FieldSet::default())];
        for entry in &managers.0 {
            match owned.iter_mut().find(|(version, _)| *version == entry.api_version) {
                Some((_, fields)) => fields.unite(&entry.fields),
                None => owned.push((&entry.api_version, entry.fields.clone())),
            }
        }
        for (version, owned) in owned {
            let (Some(merged), Some(at)) = (self.at_other(version, &at_last.object)?, self.at_other(version, &pruned)?)
            else {
                continue;
            };
            let root = merged.root(self.root);
            let mut gone = with_structs(root, &fields_of(root, &merged.object).map_err(failed)?);
            gone.subtract(&with_structs(root, &fields_of(root, &at.object).map_err(failed)?));
            gone.subtract(&with_structs(root, &owned));
            pruned = merge::remove(root, &merged.object, &gone);
        }
        // Only what the manager itself had applied may go.
        let pruned = self.at(&last.api_version, pruned)?;
        let mut gone = with_structs(root, &fields_of(root, &at_last.object).map_err(failed)?);
        gone.subtract(&with_structs(root, &fields_of(root, &pruned.object).map_err(failed)?));
        let pruned = merge::remove(root, &at_last.object, &gone.intersection(&last_fields));
        Ok(self.at(self.writer.api_version, pruned)?.object)
    }

    /// An object at a version; as it is where there is no such version.
    fn at(&self, version: &str, object: Value) -> Result<Versioned, Unconverted> {
        Ok(self.at_other(version, &object)?.unwrap_or(Versioned { model: None, object }))
    }

    fn at_other(&self, version: &str, object: &Value) -> Result<Option<Versioned>, Unconverted> {
        Ok(match self.versions.at(version, object)? {
            Version::Alike => Some(Versioned { model: None, object: object.clone() }),
            Version::Gone => None,
            Version::Other(model, object) => Some(Versioned { model: Some(model), object }),
        })
    }
}

/// An object with what gives it its types, where that is not what gives them to the request's.
struct Versioned {
    model: Option<Model>,
    object: Value,
}

impl Versioned {
    fn root<'s>(&'s self, own: Place<'s>) -> Place<'s> {
        self.model.as_ref().map_or(own, Place::from)
    }
}

#[cfg(test)]
mod tests;

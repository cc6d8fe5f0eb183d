//! Which of the names that a definition asks for it gets: those that no other of its group has.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::kinds::custom_resource_definition::approval::{self, Approval};
use crate::kinds::custom_resource_definition::{holds, set_condition};
use crate::kinds::meta;

/// The definition with the names and conditions that it should have, given all definitions.
pub fn settle(definition: &Value, all: &[Value], now: Timestamp) -> Value {
    let mut new = definition.clone();
    let taken = Taken::by_others(definition, all);
    let asked = &definition["spec"]["names"];
    let mut accepted = definition["status"]["acceptedNames"].as_object().cloned().unwrap_or_default();
    let conflict = accept(asked, &mut accepted, &taken);
    new["status"]["acceptedNames"] = Value::Object(accepted);
    match &conflict {
        None => set_condition(&mut new, ("NamesAccepted", true), "NoConflicts", "no conflicts found", now),
        Some((reason, message)) => set_condition(&mut new, ("NamesAccepted", false), reason, message, now),
    }
    // Established once is established for good: its objects may be there.
    if conflict.is_none() && !holds(definition, "Established") {
        let message = "the initial names have been accepted";
        set_condition(&mut new, ("Established", true), "InitialNamesAccepted", message, now);
    } else if !holds(definition, "Established") {
        set_condition(&mut new, ("Established", false), "NotAccepted", "not all names are accepted", now);
    }
    if approval::is_protected(definition["spec"]["group"].as_str().unwrap_or_default()) {
        let annotation = definition["metadata"]["annotations"][approval::ANNOTATION].as_str().unwrap_or_default();
        let found = Approval::of(annotation);
        let condition = (approval::CONFORMANT, found == Approval::Approved);
        set_condition(&mut new, condition, found.reason(), &found.message(annotation), now);
    }
    new
}

/// The names that other definitions of a group have.
#[derive(Default)]
struct Taken {
    resources: Vec<String>,
    kinds: Vec<String>,
}

impl Taken {
    fn by_others(definition: &Value, all: &[Value]) -> Self {
        let mut taken = Self::default();
        let own = meta::text(definition, "name");
        let others = all.iter().filter(|other| meta::text(other, "name") != own);
        for other in others.filter(|other| other["spec"]["group"] == definition["spec"]["group"]) {
            let names = &other["status"]["acceptedNames"];
            let text = |name: &str| names[name].as_str().map(str::to_owned);
            let short = names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str);
            taken.resources.extend(text("plural").into_iter().chain(text("singular")).chain(short.map(str::to_owned)));
            taken.kinds.extend(text("kind").into_iter().chain(text("listKind")));
        }
        taken
    }
}

/// Moves the names that are free into `accepted`; the reason and sentence of the last that is not.
fn accept(asked: &Value, accepted: &mut Map<String, Value>, taken: &Taken) -> Option<(&'static str, String)> {
    let mut conflict = None;
    let single = [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ];
    let mut refuse = |reason, name: &str| conflict = Some((reason, format!("{name:?} is already in use")));
    for (field, reason, taken) in single {
        let Some(name) = asked[field].as_str().filter(|name| !name.is_empty()) else { continue };
        if accepted.get(field).and_then(Value::as_str) == Some(name) {
            continue;
        }
        if taken.iter().any(|other| other == name) {
            refuse(reason, name);
        } else {
            accepted.insert(field.to_owned(), name.into());
        }
    }
    let short: Vec<&str> = asked["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match short.iter().find(|name| taken.resources.iter().any(|other| other == *name)) {
        Some(name) => refuse("ShortNamesConflict", name),
        None if short.is_empty() => drop(accepted.remove("shortNames")),
        None => drop(accepted.insert("shortNames".to_owned(), json!(short))),
    }
    match asked["categories"].as_array().filter(|list| !list.is_empty()) {
        Some(list) => accepted.insert("categories".to_owned(), json!(list)),
        None => accepted.remove("categories"),
    };
    conflict
}

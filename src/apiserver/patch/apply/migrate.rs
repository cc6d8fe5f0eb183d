//! From client-side apply to server-side apply: kubectl's annotation with what it last applied.
//!
//! An object that kubectl has applied from its own side is owned by a manager that updates. When
//! kubectl then applies from the server's side, it would conflict with itself; so a conflict about a
//! field that is still as the annotation says is none. The annotation is kept up to date, so that the
//! way back stays open.

use serde_json::Value;

use super::Writer;
use super::compare::compare;
use super::fields::fields_of;
use super::set::FieldSet;
use crate::kinds::meta::ANNOTATIONS_MAX_BYTES;
use crate::kinds::model::Model;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The one manager that all this is for.
const KUBECTL: &str = "kubectl";

/// Whether all that is taken from others is what the writer itself has applied from the client's side.
pub fn allows(model: &Model, live: &Value, writer: &Writer<'_>, taken: &[(String, FieldSet)]) -> bool {
    if writer.manager != KUBECTL {
        return false;
    }
    let Some(own) = last_applied_fields(model, live, writer) else { return false };
    taken.iter().all(|(_, fields)| {
        let mut others = fields.clone();
        others.subtract(&own);
        others.is_empty()
    })
}

/// The fields of the annotation that are still as it says.
fn last_applied_fields(model: &Model, live: &Value, writer: &Writer<'_>) -> Option<FieldSet> {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str()?;
    let mut last: Value = serde_json::from_str(text).ok()?;
    if last["apiVersion"].as_str() != Some(writer.api_version) {
        return None;
    }
    let mut fields = fields_of(model, &last).ok()?;
    // As the server would write it, or `0.5` would not be `500m`.
    model.conform(&mut last, &mut Vec::new()).ok()?;
    let difference = compare(model, &last, live).ok()?;
    fields.subtract(&difference.modified);
    fields.subtract(&difference.added);
    fields.subtract(&difference.removed);
    Some(fields)
}

/// Writes the configuration into the annotation, where the object has it.
pub fn refresh_last_applied(object: &mut Value, config: &Value, writer: &Writer<'_>) {
    if writer.manager != KUBECTL {
        return;
    }
    let Some(annotations) = object["metadata"].get_mut("annotations").and_then(Value::as_object_mut) else { return };
    if !annotations.contains_key(LAST_APPLIED) {
        return;
    }
    let mut config = config.clone();
    if let Some(own) = config["metadata"].get_mut("annotations").and_then(Value::as_object_mut) {
        own.remove(LAST_APPLIED);
    }
    let text = format!("{config}\n");
    let others: usize = annotations
        .iter()
        .filter(|(key, _)| *key != LAST_APPLIED)
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if others + LAST_APPLIED.len() + text.len() > ANNOTATIONS_MAX_BYTES {
        annotations.remove(LAST_APPLIED);
    } else {
        annotations.insert(LAST_APPLIED.to_owned(), text.into());
    }
}

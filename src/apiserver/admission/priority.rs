//! Priority: from the class's name to the number that the scheduler compares.
//!
//! The two classes that upstream has built in are known; PriorityClass is not served yet, so no other
//! name can be found.

use serde_json::Value;

use super::{Operation, Request};
use crate::apiserver::status::ApiError;

const SYSTEM_CLASSES: &[(&str, i64)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
const DEFAULT_PREEMPTION: &str = "PreemptLowerPriority";

pub fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    if request.is(Operation::Update, "pods") {
        keep(object, request.old);
        return Ok(());
    }
    if !request.is(Operation::Create, "pods") {
        return Ok(());
    }
    let class = object["spec"]["priorityClassName"].as_str().unwrap_or_default();
    let computed = match SYSTEM_CLASSES.iter().find(|(name, _)| *name == class) {
        Some((_, value)) => *value,
        None if class.is_empty() => 0,
        None => return Err(request.forbidden(format!("no PriorityClass with name {class} was found"))),
    };
    let given = object["spec"]["priority"].as_i64();
    if let Some(given) = given.filter(|given| *given != computed) {
        return Err(request.forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {computed} from the given PriorityClass name"
        )));
    }
    let policy = object["spec"]["preemptionPolicy"].as_str();
    if let Some(policy) = policy.filter(|policy| *policy != DEFAULT_PREEMPTION) {
        return Err(request.forbidden(format!(
            "the string value of PreemptionPolicy ({policy}) must not be provided in pod spec; priority admission controller computed {DEFAULT_PREEMPTION} from the given PriorityClass name"
        )));
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("priority".into(), computed.into());
        spec.insert("preemptionPolicy".into(), DEFAULT_PREEMPTION.into());
    }
    Ok(())
}

/// An update that leaves the numbers out does not mean to remove them.
fn keep(object: &mut Value, old: Option<&Value>) {
    let (Some(spec), Some(old)) = (object.get_mut("spec").and_then(Value::as_object_mut), old) else { return };
    for field in ["priority", "preemptionPolicy"] {
        let was = &old["spec"][field];
        if spec.get(field).is_none_or(Value::is_null) && !was.is_null() {
            spec.insert(field.into(), was.clone());
        }
    }
}

//! Priority: from the class's name to the number that the scheduler compares.
//!
//! A pod that names no class has that of the class marked as the default for all, or none.

use std::sync::Arc;

use serde_json::Value;

use super::{Operation, Request};
use crate::apiserver::registry::Place;
use crate::apiserver::status::ApiError;
use crate::kinds::priority_class::{PriorityClass, SYSTEM_CLASSES};

const DEFAULT_PREEMPTION: &str = "PreemptLowerPriority";

pub fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    if request.is(Operation::Update, "pods") {
        keep(object, request.old);
        return Ok(());
    }
    if !request.is(Operation::Create, "pods") {
        return Ok(());
    }
    let named = object["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let class = if named.is_empty() { default_class(request)? } else { Some(class(request, &named)?) };
    let computed = class.as_ref().and_then(|class| class["value"].as_i64()).unwrap_or(0);
    let told = class.as_ref().and_then(|class| class["preemptionPolicy"].as_str());
    let wanted = told.unwrap_or(DEFAULT_PREEMPTION).to_owned();
    let given = object["spec"]["priority"].as_i64();
    if let Some(given) = given.filter(|given| *given != computed) {
        return Err(request.forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {computed} from the given PriorityClass name"
        )));
    }
    let policy = object["spec"]["preemptionPolicy"].as_str();
    if let Some(policy) = policy.filter(|policy| *policy != wanted) {
        return Err(request.forbidden(format!(
            "the string value of PreemptionPolicy ({policy}) must not be provided in pod spec; priority admission controller computed {wanted} from the given PriorityClass name"
        )));
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("priority".into(), computed.into());
        spec.insert("preemptionPolicy".into(), wanted.into());
        if let Some(class) = class.filter(|_| named.is_empty()) {
            spec.insert("priorityClassName".into(), class["metadata"]["name"].clone());
        }
    }
    Ok(())
}

/// The class of this name; the system's own are known even before they are stored.
fn class(request: &Request<'_>, name: &str) -> Result<Arc<Value>, ApiError> {
    if let Some((_, value, _)) = SYSTEM_CLASSES.iter().find(|(known, ..)| *known == name) {
        return Ok(Arc::new(serde_json::json!({"value": value})));
    }
    let found = request.registry.known(Place { kind: &PriorityClass, namespace: "", name });
    found.ok_or_else(|| request.forbidden(format!("no PriorityClass with name {name} was found")))
}

/// Of the classes marked as the default for all, the one with the lowest value.
fn default_class(request: &Request<'_>) -> Result<Option<Arc<Value>>, ApiError> {
    let mut lowest: Option<Arc<Value>> = None;
    for class in request.registry.all_known(&PriorityClass, "")? {
        let value = |class: &Value| class["value"].as_i64().unwrap_or(0);
        if class["globalDefault"] == true && lowest.as_ref().is_none_or(|known| value(&class) < value(known)) {
            lowest = Some(class);
        }
    }
    Ok(lowest)
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

//! RuntimeClass: a pod's class must exist, and gives the pod its overhead and where it may run.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Operation, Request, list_mut};
use crate::apiserver::registry::Place;
use crate::apiserver::status::ApiError;
use crate::kinds::runtime_class::RuntimeClass;

pub fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    if !request.is(Operation::Create, "pods") {
        return Ok(());
    }
    let name = object["spec"]["runtimeClassName"].as_str().unwrap_or_default();
    let class = match name {
        "" => Arc::default(),
        name => {
            let place = Place { kind: &RuntimeClass, namespace: "", name };
            let missing = || request.forbidden(format!("pod rejected: RuntimeClass {name:?} not found"));
            request.registry.known(place).ok_or_else(missing)?
        }
    };
    set_overhead(request, object, &class["overhead"]["podFixed"])?;
    add_node_selector(request, object, &class["scheduling"]["nodeSelector"])?;
    add_tolerations(object, &class["scheduling"]["tolerations"]);
    Ok(())
}

fn set_overhead(request: &Request<'_>, object: &mut Value, overhead: &Value) -> Result<(), ApiError> {
    let given = &object["spec"]["overhead"];
    let is_given = given.as_object().is_some_and(|map| !map.is_empty());
    if overhead.is_null() {
        let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
        return if is_given { Err(request.forbidden(why)) } else { Ok(()) };
    }
    if is_given && given != overhead {
        let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
        return Err(request.forbidden(why));
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("overhead".into(), overhead.clone());
    }
    Ok(())
}

fn add_node_selector(request: &Request<'_>, object: &mut Value, selector: &Value) -> Result<(), ApiError> {
    let Some(wanted) = selector.as_object().filter(|map| !map.is_empty()) else { return Ok(()) };
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    let entry = spec.entry("nodeSelector").or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::Object(Map::new());
    }
    let Some(own) = entry.as_object_mut() else { return Ok(()) };
    for (key, value) in wanted {
        if own.get(key).is_some_and(|mine| mine != value) {
            let why =
                format!("conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}", value.as_str().unwrap_or(""));
            return Err(request.forbidden(why));
        }
        own.insert(key.clone(), value.clone());
    }
    Ok(())
}

fn add_tolerations(object: &mut Value, tolerations: &Value) {
    let Some(wanted) = tolerations.as_array().filter(|list| !list.is_empty()) else { return };
    let Some(own) = list_mut(object, &["spec", "tolerations"]) else { return };
    for toleration in wanted {
        if !own.contains(toleration) {
            own.push(toleration.clone());
        }
    }
}

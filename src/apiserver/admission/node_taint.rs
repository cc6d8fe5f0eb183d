//! TaintNodesByCondition: a new Node takes no pods until the node lifecycle controller has seen it ready.

use serde_json::{Value, json};

use super::{Operation, Request, list_mut};
use crate::apiserver::status::ApiError;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    if !request.is(Operation::Create, "nodes") {
        return Ok(());
    }
    let Some(taints) = list_mut(object, &["spec", "taints"]) else { return Ok(()) };
    if !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule") {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
    Ok(())
}

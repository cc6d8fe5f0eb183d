//! DefaultTolerationSeconds: how long a pod stays on a node that is lost, unless it says otherwise.

use serde_json::{Value, json};

use super::{Operation, Request, list_mut};
use crate::apiserver::status::ApiError;

const TAINTS: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const TOLERATION_SECONDS: i64 = 300;

pub fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    if !request.is(Operation::Create, "pods") && !request.is(Operation::Update, "pods") {
        return Ok(());
    }
    let given = object["spec"]["tolerations"].as_array().map_or(&[][..], Vec::as_slice);
    let missing: Vec<&str> = TAINTS.iter().copied().filter(|key| !given.iter().any(|t| tolerates(t, key))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let Some(tolerations) = list_mut(object, &["spec", "tolerations"]) else { return Ok(()) };
    for key in missing {
        tolerations.push(json!({
            "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
        }));
    }
    Ok(())
}

fn tolerates(toleration: &Value, taint: &str) -> bool {
    let text = |field: &str| toleration[field].as_str().unwrap_or_default();
    (text("key").is_empty() || text("key") == taint) && (text("effect").is_empty() || text("effect") == "NoExecute")
}

//! POST `pods/binding`: the scheduler's decision.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Call;
use crate::apiserver::admission::Operation;
use crate::apiserver::admission::author::Author;
use crate::apiserver::body;
use crate::apiserver::codec::Expected;
use crate::apiserver::options::WriteOptions;
use crate::apiserver::registry::meta;
use crate::apiserver::registry::update::Lane;
use crate::apiserver::reply;
use crate::apiserver::status::{ApiError, Details};
use crate::kinds::meta as kmeta;
use crate::kinds::time;

pub async fn bind(call: &Call, body: Body) -> Result<Response, ApiError> {
    let options = WriteOptions::from_query(&call.query, "CreateOptions")?;
    let expected = Expected::named("", "v1", "Binding", "io.k8s.api.core.v1.Binding")
        .ok_or_else(|| ApiError::internal("the type Binding is not known"))?;
    let mut binding = body::expected(body, &call.headers, &expected, options.field_validation).await?.object;
    let name = kmeta::text(&binding, "name");
    if !name.is_empty() && name != call.target.name {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    check_target(&binding)?;
    call.review(Operation::Create, &options, &expected, &mut binding).await?;
    let now = time::write(Timestamp::now());
    let change = |pod: &Value| assign(call, pod, &binding, &now);
    call.server
        .registry
        .update(call.place(), Lane::Server, &Author { dry_run: options.dry_run, ..Author::unowned() }, &change)
        .await?;
    Ok(reply::success(StatusCode::CREATED, None))
}

fn check_target(binding: &Value) -> Result<(), ApiError> {
    let kind = binding["target"]["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        let text = format!("target.kind: Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\"");
        return Err(ApiError::new(500, "", text));
    }
    if binding["target"]["name"].as_str().unwrap_or_default().is_empty() {
        return Err(ApiError::new(500, "", "target.name: Required value"));
    }
    Ok(())
}

/// The pod with its node, its condition and the binding's annotations and labels.
fn assign(call: &Call, pod: &Value, binding: &Value, now: &str) -> Result<Value, ApiError> {
    let name = &call.target.name;
    let refuse = |why: String| {
        let details = Details { name: name.clone(), kind: "pods/binding".into(), ..Details::default() };
        let message = format!("Operation cannot be fulfilled on pods/binding {name:?}: {why}");
        Err(ApiError::new(409, "Conflict", message).with_details(details))
    };
    let uid = kmeta::text(binding, "uid");
    if !uid.is_empty() && uid != kmeta::text(pod, "uid") {
        let have = kmeta::text(pod, "uid");
        return refuse(format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {have}"));
    }
    if meta::is_deleting(pod) {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        return refuse(format!("pod {name} is already assigned to node {node:?}"));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = pod.clone();
    kmeta::object_mut(&mut new, "spec").insert("nodeName".into(), binding["target"]["name"].clone());
    for field in ["annotations", "labels"] {
        if let Some(more) = binding["metadata"][field].as_object() {
            let metadata = kmeta::metadata_mut(&mut new);
            let own = metadata.entry(field).or_insert_with(|| json!({}));
            if let Some(own) = own.as_object_mut() {
                own.extend(more.clone());
            }
        }
    }
    set_scheduled(&mut new, now);
    Ok(new)
}

fn set_scheduled(pod: &mut Value, now: &str) {
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let status = kmeta::object_mut(pod, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    match conditions.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(existing) => *existing = condition,
        None => conditions.push(condition),
    }
}

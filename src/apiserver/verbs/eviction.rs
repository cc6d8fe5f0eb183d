//! POST `pods/eviction`: a deletion that asks the pod's disruption budget first.
//!
//! The budget is taken from in one compare-and-swap, so two evictions never spend the same one. What is
//! spent is noted in the budget's status until its controller has seen the pod go.

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
use crate::apiserver::options::{DeleteOptions, WriteOptions};
use crate::apiserver::registry::update::Lane;
use crate::apiserver::registry::{self, Place, encoding, meta};
use crate::apiserver::reply;
use crate::apiserver::status::{ApiError, Details};
use crate::kinds::Kind;
use crate::kinds::pod_disruption_budget::PodDisruptionBudget;
use crate::kinds::{meta as kmeta, time, workload};

/// Evictions that a budget's controller has not confirmed yet; more are refused.
const MAX_UNCONFIRMED: usize = 2_000;
/// When to try again while the controller has not looked at the budget yet.
const RETRY_SECONDS: u32 = 10;
const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

pub async fn evict(call: &Call, body: Body) -> Result<Response, ApiError> {
    let options = WriteOptions::from_query(&call.query, "CreateOptions")?;
    let expected = Expected::named("policy", "v1", "Eviction", "io.k8s.api.policy.v1.Eviction")
        .ok_or_else(|| ApiError::internal("the type Eviction is not known"))?;
    let mut eviction = body::expected(body, &call.headers, &expected, options.field_validation).await?.object;
    let name = kmeta::text(&eviction, "name");
    if !name.is_empty() && name != call.target.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    call.review(Operation::Create, &options, &expected, &mut eviction).await?;
    let mut deletion = DeleteOptions::read(&call.query, Some(&eviction["deleteOptions"]))?;
    deletion.dry_run |= options.dry_run;
    let pod = call.server.registry.find(call.place()).ok_or_else(|| call.place().not_found())?;
    if !is_free(&pod) {
        match budgets(call, &pod)?.as_slice() {
            [] => {}
            [budget] => spend(call, &pod, budget, &mut deletion).await?,
            _ => {
                let message =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(ApiError::new(500, "InternalError", message));
            }
        }
    }
    check_preconditions(call, &pod, &deletion)?;
    if !deletion.dry_run && !meta::is_deleting(&pod) {
        tell(call).await?;
    }
    call.server.registry.delete(call.place(), &deletion, &Author::unowned()).await?;
    Ok(reply::success(StatusCode::CREATED, None))
}

/// Pods that serve nobody are no loss to any budget.
fn is_free(pod: &Value) -> bool {
    meta::is_deleting(pod) || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// The budgets of the pod's namespace that select it.
fn budgets(call: &Call, pod: &Value) -> Result<Vec<Value>, ApiError> {
    let registry = &call.server.registry;
    let prefix = encoding::prefix(PodDisruptionBudget.info(), &call.target.namespace);
    let page = registry.store.list(&prefix, None, 0, None).map_err(registry::store_error)?;
    let place = Place { kind: &PodDisruptionBudget, namespace: &call.target.namespace, name: "" };
    let mut found = Vec::new();
    for entry in &page.entries {
        let budget = registry::decode(place, entry)?;
        let selector = &budget["spec"]["selector"];
        if !selector.is_null() && workload::selects(selector, &pod["metadata"]["labels"]) {
            found.push(budget);
        }
    }
    Ok(found)
}

/// Takes one disruption from the budget, or refuses.
async fn spend(call: &Call, pod: &Value, budget: &Value, deletion: &mut DeleteOptions) -> Result<(), ApiError> {
    let count = |name: &str| budget["status"][name].as_i64().unwrap_or(0);
    if !is_ready(pod) {
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        let healthy = count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0;
        if always || healthy {
            // Should it become ready meanwhile, it counts again.
            deletion.precondition_version.get_or_insert_with(|| kmeta::text(pod, "resourceVersion").to_owned());
            return Ok(());
        }
    }
    let place =
        Place { kind: &PodDisruptionBudget, namespace: &call.target.namespace, name: kmeta::text(budget, "name") };
    let now = time::write(Timestamp::now());
    let change = |budget: &Value| spent(budget, &call.target.name, &now);
    let author = Author { dry_run: deletion.dry_run, ..Author::own_by("status") };
    call.server.registry.update(place, Lane::Status, &author, &change).await.map(|_| ())
}

/// The budget with one disruption less.
fn spent(budget: &Value, pod: &str, now: &str) -> Result<Value, ApiError> {
    let (status, name) = (&budget["status"], kmeta::text(budget, "name"));
    let refuse = |why: &str| ApiError::forbidden(PodDisruptionBudget.info(), name, why);
    if status["observedGeneration"].as_i64().unwrap_or(0) < kmeta::generation(budget) {
        return Err(ApiError::too_many_requests(VIOLATES).retry_after(RETRY_SECONDS));
    }
    let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
    if allowed < 0 {
        return Err(refuse("pdb disruptions allowed is negative"));
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MAX_UNCONFIRMED) {
        return Err(refuse("DisruptedPods map too big - too many evictions not confirmed by PDB controller"));
    }
    if allowed == 0 {
        return Err(ApiError::new(429, "TooManyRequests", VIOLATES).with_details(Details::default()));
    }
    let mut new = budget.clone();
    let status = kmeta::object_mut(&mut new, "status");
    status.insert("disruptionsAllowed".to_owned(), (allowed - 1).into());
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    if let Some(disrupted) = disrupted.as_object_mut() {
        disrupted.insert(pod.to_owned(), now.into());
    }
    if allowed == 1 {
        for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
            if condition["type"] == "DisruptionAllowed" && condition["status"] == "True" {
                condition["status"] = "False".into();
                condition["reason"] = "InsufficientPods".into();
                condition["lastTransitionTime"] = now.into();
            }
        }
    }
    Ok(new)
}

/// The deletion's own check comes after the pod was told of it: a wrong one is refused before.
fn check_preconditions(call: &Call, pod: &Value, deletion: &DeleteOptions) -> Result<(), ApiError> {
    let differs = |wanted: &Option<String>, name: &str| wanted.as_deref().is_some_and(|w| w != kmeta::text(pod, name));
    if differs(&deletion.precondition_uid, "uid") || differs(&deletion.precondition_version, "resourceVersion") {
        return registry::delete::check_preconditions(call.place(), deletion, pod);
    }
    Ok(())
}

/// The condition by which whoever made the pod knows why it goes.
async fn tell(call: &Call) -> Result<(), ApiError> {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": time::write(Timestamp::now())});
    let change = |pod: &Value| {
        let mut new = pod.clone();
        let conditions = kmeta::object_mut(&mut new, "status").entry("conditions").or_insert_with(|| json!([]));
        if let Some(conditions) = conditions.as_array_mut() {
            conditions.retain(|c| c["type"] != "DisruptionTarget");
            conditions.push(condition.clone());
        }
        Ok(new)
    };
    call.server.registry.update(call.place(), Lane::Server, &Author::unowned(), &change).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64) -> Value {
        json!({"metadata": {"name": "b", "generation": 2}, "status": {"observedGeneration": 2,
            "disruptionsAllowed": allowed, "conditions": [{"type": "DisruptionAllowed", "status": "True"}]}})
    }

    #[test]
    fn a_budget_is_spent_one_by_one() {
        let one = spent(&budget(2), "p", "t").expect("it is allowed");
        assert_eq!(one["status"]["disruptionsAllowed"], 1);
        assert_eq!(one["status"]["disruptedPods"], json!({"p": "t"}));
        let none = spent(&one, "q", "t").expect("it is allowed");
        assert_eq!(none["status"]["conditions"][0]["reason"], "InsufficientPods");
        assert_eq!(spent(&none, "r", "t").expect_err("nothing is left").reason(), "TooManyRequests");
        let mut unseen = budget(5);
        unseen["metadata"]["generation"] = json!(3);
        assert!(spent(&unseen, "p", "t").is_err());
    }
}

//! HorizontalPodAutoscaler: as many pods as their use asks for.
//!
//! Every few seconds each autoscaler reads its target's scale, the pods that the scale selects and what
//! `metrics.k8s.io` says of them, and decides ([`decide`], pure) after upstream's algorithm: the ratio of
//! use to target ([`usage`]), what is held back of it by windows and rates ([`behavior`]). Anything with
//! a scale subresource can be a target; which resource a reference means, discovery says.
//!
//! What was recommended before is remembered ([`Memory`]), as upstream's controller does it: after a
//! restart the windows begin anew from the number of replicas that there is, which errs towards leaving
//! it. No API of custom or external metrics is served, and an autoscaler that asks for one is told so.

mod behavior;
mod decide;
mod gather;
mod status;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use serde_json::{Value, json};

use super::diff::merge_patch;
use crate::reconcile::{Cluster, EventKind, ObjectKey, Queue, Recorder, Shared, Write, WriteError, reason, work};
use behavior::Memory;
use decide::{Decision, Rescale};
use gather::Scale;

/// How often an autoscaler looks. Upstream looks every 15 seconds because its pods take longer to start;
/// rates are averages over five to ten.
const PERIOD: Duration = Duration::from_secs(5);
/// Autoscalers beside each other; each asks the API a few times.
const WORKERS: usize = 8;

/// What is remembered, by autoscaler.
type Memories = Arc<Mutex<HashMap<ObjectKey, Memory>>>;

/// Runs the controller until its task is aborted.
pub(super) async fn run(cluster: Cluster) {
    let (autoscalers, pods) = (cluster.watch::<HorizontalPodAutoscaler>(), cluster.watch::<Pod>());
    let recorder = Recorder::start(cluster.client().clone(), "horizontal-pod-autoscaler", "");
    let queue = cluster.queue("horizontalpodautoscaler");
    follow(&queue, &autoscalers);
    autoscalers.synced().await;
    pods.synced().await;
    let memories = Memories::default();
    let scanned = autoscalers.clone();
    let handle = move |key: ObjectKey| {
        let (cluster, recorder, memories) = (cluster.clone(), recorder.clone(), memories.clone());
        let (autoscaler, pods) = (autoscalers.get(&key), pods.clone());
        async move {
            let Some(autoscaler) = autoscaler.filter(|a| a.metadata.deletion_timestamp.is_none()) else {
                memories.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                return Ok(None);
            };
            look(&cluster, &recorder, &pods, &memories, &key, &autoscaler).await?;
            Ok(Some(PERIOD))
        }
    };
    work("horizontal-pod-autoscaler", queue, WORKERS, move || scanned.keys(), handle).await;
}

/// A new or changed spec is looked at at once. The status is this controller's own.
fn follow(queue: &Queue, autoscalers: &Shared<HorizontalPodAutoscaler>) {
    let queue = queue.clone();
    autoscalers.on_change(move |old, new| {
        if old.map(|a| &a.spec) != new.map(|a| &a.spec)
            && let Some(autoscaler) = new.or(old)
        {
            queue.add(ObjectKey::of(autoscaler));
        }
        true
    });
}

/// Looks at one autoscaler, and does what is to be done.
async fn look(
    cluster: &Cluster,
    recorder: &Recorder,
    pods: &Shared<Pod>,
    memories: &Memories,
    key: &ObjectKey,
    autoscaler: &HorizontalPodAutoscaler,
) -> Result<(), WriteError> {
    let mut sight = gather::gather(cluster.client(), autoscaler, pods).await;
    let decision = {
        let mut memories = memories.lock().unwrap_or_else(PoisonError::into_inner);
        sight.rivals = rivals(&memories, key, &sight.pods);
        let memory = memories.entry(key.clone()).or_default();
        decide::decide(Timestamp::now(), autoscaler, &sight, memory)
    };
    for (kind, reason, message) in &decision.events {
        recorder.record(autoscaler, *kind, reason, message);
    }
    let outcome = match (&decision.rescale, &sight.scale) {
        (Some(rescale), Ok(scale)) => Some(write_scale(cluster.client(), scale, rescale.to).await),
        _ => None,
    };
    if let (Some(outcome), Some(rescale)) = (&outcome, &decision.rescale) {
        tell(recorder, autoscaler, rescale, outcome);
        if outcome.is_ok() {
            let mut memories = memories.lock().unwrap_or_else(PoisonError::into_inner);
            memories.entry(key.clone()).or_default().rescaled(Timestamp::now(), rescale.from, rescale.to);
        }
    }
    write_status(cluster, recorder, autoscaler, decision, outcome).await
}

fn tell(recorder: &Recorder, autoscaler: &HorizontalPodAutoscaler, rescale: &Rescale, outcome: &Result<(), String>) {
    let Rescale { to, reason, .. } = rescale;
    match outcome {
        Ok(()) => {
            let message = format!("New size: {to}; reason: {reason}");
            recorder.record(autoscaler, EventKind::Normal, "SuccessfulRescale", &message);
        }
        Err(error) => {
            let message = format!("New size: {to}; reason: {reason}; error: {error}");
            recorder.record(autoscaler, EventKind::Warning, "FailedRescale", &message);
        }
    }
}

/// The other autoscalers of the namespace that have selected one of these pods.
fn rivals(memories: &HashMap<ObjectKey, Memory>, key: &ObjectKey, pods: &[Arc<Pod>]) -> Vec<ObjectKey> {
    let others = memories.iter().filter(|(other, _)| other.namespace == key.namespace && *other != key);
    let mut rivals: Vec<ObjectKey> =
        others.filter(|(_, memory)| memory.selects_any(pods)).map(|(other, _)| other.clone()).collect();
    rivals.sort();
    rivals
}

/// Writes the target's replicas, if its scale is still the one that was read.
async fn write_scale(client: &Client, scale: &Scale, replicas: i32) -> Result<(), String> {
    let mut body = scale.object.clone();
    body["spec"] = json!({"replicas": replicas});
    let request = Request::builder()
        .method(Method::PUT)
        .uri(&scale.path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.to_string().into_bytes());
    let request = request.map_err(|error| error.to_string())?;
    client.request::<Value>(request).await.map(drop).map_err(|error| reason(&error))
}

async fn write_status(
    cluster: &Cluster,
    recorder: &Recorder,
    autoscaler: &HorizontalPodAutoscaler,
    decision: Decision,
    outcome: Option<Result<(), String>>,
) -> Result<(), WriteError> {
    let old = autoscaler.status.clone().unwrap_or_default();
    let new = status::after(Timestamp::now(), &old, decision, outcome);
    match merge_patch(&old, &new) {
        Some(patch) => Write::patch(autoscaler, "status", json!({"status": patch})).execute(cluster, recorder).await,
        None => Ok(()),
    }
}

//! The two writes of the scheduler: a pod's binding, and why it has none.

use std::time::Duration;

use futures::StreamExt;
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::snapshot::PodInfo;
use crate::reconcile::{ObjectKey, ResourceType};

/// A binding that takes longer is given up, so that a server which hangs does not keep its slot.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Conditions that wait to be written. Beyond it they are dropped: the next attempt tells them again.
const WAITING_REPORTS: usize = 4096;
/// Written beside each other: bindings come first, these are for reading only.
const PARALLEL_REPORTS: usize = 8;

/// Why a pod was not bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("binding pod {pod} to node {node}: {source}")]
    Refused { pod: ObjectKey, node: String, source: Box<kube::Error> },
    #[error("binding pod {pod}: {why}")]
    Volumes { pod: ObjectKey, why: String },
    #[error("binding pod {pod} to node {node}: no answer within {TIMEOUT:?}")]
    Timeout { pod: ObjectKey, node: String },
}

/// Binds a pod, this very one and not a namesake, to a node.
pub async fn bind(client: &Client, pod: &PodInfo, node: &str) -> Result<(), BindError> {
    let path = format!("{}/binding", ResourceType::of::<Pod>().object_path(&pod.key));
    let body = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": &*pod.key.name, "namespace": pod.namespace(), "uid": pod.uid()},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let request = Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.to_string().into_bytes())
        .expect("an escaped path and a constant header make a request");
    match tokio::time::timeout(TIMEOUT, client.request::<Value>(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(source)) => {
            Err(BindError::Refused { pod: pod.key.clone(), node: node.to_owned(), source: Box::new(source) })
        }
        Err(_) => Err(BindError::Timeout { pod: pod.key.clone(), node: node.to_owned() }),
    }
}

/// The condition that says why a pod has no node.
#[derive(Debug)]
pub struct Report {
    pub pod: ObjectKey,
    pub condition: PodCondition,
}

impl Report {
    /// `None` when the pod says so already.
    pub fn new(pod: &Pod, message: &str, now: Timestamp) -> Option<Self> {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let before = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
        let told = |before: &PodCondition| {
            before.status == "False"
                && before.reason.as_deref() == Some("Unschedulable")
                && before.message.as_deref() == Some(message)
        };
        if before.is_some_and(told) {
            return None;
        }
        let since =
            before.filter(|before| before.status == "False").and_then(|before| before.last_transition_time.clone());
        let condition = PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some("Unschedulable".to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: Some(since.unwrap_or(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now))),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        };
        Some(Self { pod: ObjectKey::of(pod), condition })
    }
}

/// Writes reports in a task of its own, which ends with the sender.
pub fn reporter(client: Client) -> mpsc::Sender<Report> {
    let (sender, reports) = mpsc::channel::<Report>(WAITING_REPORTS);
    let reports = futures::stream::unfold(reports, async |mut reports| Some((reports.recv().await?, reports)));
    tokio::spawn(reports.for_each_concurrent(PARALLEL_REPORTS, move |report| write(client.clone(), report)));
    sender
}

async fn write(client: Client, report: Report) {
    let api: Api<Pod> = Api::namespaced(client, &report.pod.namespace);
    let patch = json!({"status": {"conditions": [report.condition]}});
    // A strategic patch touches this condition alone, whoever else writes conditions.
    let written = api.patch_status(&report.pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    if let Err(error) = written {
        tracing::debug!(pod = %report.pod, %error, "the reason why a pod is not scheduled was not written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_made_once_and_keeps_the_time_of_the_transition() {
        let now = Timestamp::UNIX_EPOCH;
        let mut pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "shop"}})).expect("a pod");
        let first = Report::new(&pod, "0/1 nodes are available: 1 Too many pods.", now).expect("nothing was told");
        pod.status.get_or_insert_default().conditions = Some(vec![first.condition.clone()]);
        assert!(Report::new(&pod, "0/1 nodes are available: 1 Too many pods.", now).is_none());
        let later = now + jiff::SignedDuration::from_secs(60);
        let second = Report::new(&pod, "other", later).expect("another reason");
        assert_eq!(second.condition.last_transition_time, first.condition.last_transition_time);
    }
}

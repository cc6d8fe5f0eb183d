//! The writes by which pods make room: where the pod is expected, and the end of those who have to go.

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use super::preempt::Plan;
use super::snapshot::PodInfo;
use crate::reconcile::ObjectKey;

/// Victims of one plan that are told at once.
const PARALLEL: usize = 16;

/// What became of a plan.
#[derive(Debug)]
pub struct Evicted {
    /// The pod that room was made for.
    pub pod: ObjectKey,
    /// Those who did not go.
    pub left: Vec<ObjectKey>,
}

/// Says where the pod is expected, and ends the victims: each this very pod and not a namesake, with the time it has
/// for its end.
pub async fn evict(client: Client, pod: ObjectKey, plan: Plan) -> Evicted {
    nominate(&client, &pod, Some(&plan.node)).await;
    let ended = futures::stream::iter(plan.victims).map(|victim| {
        let client = client.clone();
        async move {
            let ended = end(&client, &victim).await;
            if let Err(error) = &ended {
                tracing::debug!(pod = %victim.key, %error, "a pod that was to make room was not deleted");
            }
            ended.is_err().then(|| victim.key.clone())
        }
    });
    let left = ended.buffer_unordered(PARALLEL).filter_map(std::future::ready).collect().await;
    Evicted { pod, left }
}

/// Writes where a waiting pod is expected, or that it is nowhere.
pub async fn nominate(client: &Client, pod: &ObjectKey, node: Option<&str>) {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let patch = json!({"status": {"nominatedNodeName": node}});
    if let Err(error) = api.patch_status(&pod.name, &PatchParams::default(), &Patch::Merge(patch)).await {
        tracing::debug!(%pod, %error, "where a pod is expected was not written");
    }
}

/// In upstream's words.
async fn end(client: &Client, victim: &PodInfo) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), victim.namespace());
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{}: preempting to accommodate a higher priority pod", super::NAME),
        "lastTransitionTime": Timestamp::now(),
    });
    let patch = json!({"metadata": {"uid": victim.uid()}, "status": {"conditions": [condition]}});
    api.patch_status(&victim.key.name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(victim.uid().to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    api.delete(&victim.key.name, &params).await?;
    Ok(())
}

//! The two writes that a pod's worker makes: its status, and the deletion that ends it.

use k8s_openapi::api::core::v1 as core;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::Request;
use serde::Deserialize;

use super::context::Context;
use super::status;

/// What became of a status write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Yes {
        /// The pod's revision after it.
        revision: u64,
    },
    /// The pod is gone, or another of its name has come.
    NoSuchPod,
    /// To be tried again.
    Failed,
}

/// The part of the answer that is looked at: the rest is not worth decoding.
#[derive(Deserialize)]
struct Answer {
    metadata: AnswerMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerMeta {
    resource_version: Option<String>,
}

pub async fn write_status(context: &Context, pod: &core::Pod, wanted: &core::PodStatus) -> Written {
    // The semaphore is never closed; without a place the write would merely not wait its turn.
    let _place = context.writing.acquire().await.ok();
    match try_write(context, pod, wanted).await {
        Ok(answer) => {
            let revision = answer.metadata.resource_version.and_then(|text| text.parse().ok()).unwrap_or(0);
            Written::Yes { revision }
        }
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Written::NoSuchPod,
        Err(error) => {
            tracing::debug!(pod = %super::plan::display(pod), %error, "status not written, trying again");
            Written::Failed
        }
    }
}

async fn try_write(context: &Context, pod: &core::Pod, wanted: &core::PodStatus) -> kube::Result<Answer> {
    let patch = status::patch(pod, wanted).map_err(kube::Error::SerdeError)?;
    let request = request_for(pod)
        .patch_subresource("status", name(pod), &PatchParams::default(), &Patch::Strategic(patch))
        .map_err(kube::Error::BuildRequest)?;
    context.client.request(request).await
}

/// Ends the pod's object. Returns whether it is gone; `false` means: to be tried again.
pub async fn remove(context: &Context, pod: &core::Pod) -> bool {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    let outcome = match request_for(pod).delete(name(pod), &params) {
        Ok(request) => context.client.request::<serde::de::IgnoredAny>(request).await.map(drop),
        Err(error) => Err(kube::Error::BuildRequest(error)),
    };
    match outcome {
        Ok(()) => true,
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => true,
        Err(_) => {
            tokio::time::sleep(RETRY).await;
            false
        }
    }
}

/// Between attempts to delete.
const RETRY: std::time::Duration = std::time::Duration::from_millis(200);

fn request_for(pod: &core::Pod) -> Request {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Request::new(<core::Pod as kube::Resource>::url_path(&(), Some(namespace)))
}

fn name(pod: &core::Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

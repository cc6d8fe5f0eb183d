//! Which runtime a pod is for.
//!
//! What runs already stays where it runs. Then the pod's RuntimeClass decides; where it names none, and the
//! node has more than one runtime, the image of the pod's first container does: a module is for the first
//! runtime, what an engine has, or a registry as an ordinary image, is for the engine's. What nobody knows
//! is for the first, which then says what is wrong with it. A module that has a container's image to fall
//! back to ([`super::fallback`]) is made ready first: if it cannot be, or if what it imports or exports lets
//! no container of it start, the pod is for the engine.

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::context::Context;
use super::images::{PullPolicy, Wanted};
use super::plan::{Index, Plan};
use super::pod::Note;
use super::{compose, fallback, instances, pull_secrets};
use crate::oci::Credentials;
use crate::reconcile::ObjectKey;
use crate::runtime::Runtime;

/// The runtime of a pod, or why this node has none for it.
pub async fn runtime(context: &Context, pod: &core::Pod) -> Result<Arc<dyn Runtime>, String> {
    if let Some(running) = context.runtimes.iter().find(|runtime| began_it(pod, runtime.name())) {
        return Ok(running.clone());
    }
    let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref()).filter(|name| !name.is_empty());
    let Some(class) = class else { return by_image(context, pod).await };
    // A class may be called otherwise than the handler it names.
    let known = context.classes.get(&ObjectKey::cluster(class));
    let handler = known.as_ref().map_or(class, |known| known.handler.as_str());
    let named = context.runtimes.iter().find(|runtime| runtime.name() == handler);
    named.cloned().ok_or_else(|| missing(handler))
}

async fn by_image(context: &Context, pod: &core::Pod) -> Result<Arc<dyn Runtime>, String> {
    let first = context.runtimes.first().cloned().ok_or_else(|| "this node has no runtime".to_owned())?;
    let engines = context.runtimes.iter().filter_map(|runtime| Some((runtime, runtime.images()?)));
    let engines: Vec<_> = engines.collect();
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let reference = container.and_then(|container| container.image.as_deref()).unwrap_or_default();
    let Some((engine, _)) = engines.first() else { return Ok(first) };
    // Of the first of the main containers.
    let index = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref()).map_or(0, Vec::len);
    let credentials = pull_secrets::credentials(context, pod, index).await;
    if may_fall_back(pod) {
        let unusable = fallback::is_drawn(pod)? || falls_back(context, pod, &first, &credentials).await?;
        return Ok(if unusable { (*engine).clone() } else { first });
    }
    if context.images.is_known_module(reference, &credentials) {
        return Ok(first);
    }
    for (runtime, images) in &engines {
        if images.find(reference).await.is_ok_and(|image| image.is_some()) {
            return Ok((*runtime).clone());
        }
    }
    match context.images.is_module_elsewhere(reference, &credentials).await {
        Some(false) => Ok((*engine).clone()),
        Some(true) | None => Ok(first),
    }
}

fn may_fall_back(pod: &core::Pod) -> bool {
    fallible(pod).next().is_some()
}

/// The containers that may run as other images, and these.
fn fallible(pod: &core::Pod) -> impl Iterator<Item = (Index, Cow<'_, core::Container>, &str)> {
    let own = (0..).take_while(|index| Plan::ephemeral(pod, *index).is_none());
    let own = own.map_while(|index| Some((index, Plan::container(pod, index)?)));
    own.filter_map(|(index, container)| {
        let instead = fallback::image(pod, &container.name)?;
        Some((index, container, instead))
    })
}

/// Whether one of the pod's modules cannot be had, or cannot be run whatever is done; an event then says which,
/// and why.
async fn falls_back(
    context: &Context,
    pod: &core::Pod,
    runtime: &Arc<dyn Runtime>,
    credentials: &Credentials,
) -> Result<bool, String> {
    for (index, container, instead) in fallible(pod) {
        let wanted = Wanted {
            reference: container.image.as_deref().unwrap_or_default(),
            policy: PullPolicy::of(container.image_pull_policy.as_deref()),
            snapshot: instances::snapshot(pod, &container.name)?,
            credentials: std::future::ready(credentials.clone()),
            came: Arc::default(),
        };
        // What is missing in a part may be in another.
        let whole = compose::role(pod, &container.name)? == compose::Role::Runs(Vec::new());
        let why = match context.images.obtain(runtime, wanted, || ()).await {
            Err(refusal) => Some(refusal.message),
            Ok(obtained) => obtained.image.problem().filter(|_| whole).map(str::to_owned),
        };
        if let Some(why) = why {
            let message = format!("{why}; the image {instead:?} runs in its place");
            context.tell(pod, &Note { index: Some(index), warning: true, reason: "FallbackImage", message });
            return Ok(true);
        }
    }
    Ok(false)
}

fn missing(handler: &str) -> String {
    let help = match handler {
        "docker" => "; start the node with --docker, or bind the pod to a node that was",
        _ => "",
    };
    format!("no runtime for \"{handler}\" is configured on this node{help}")
}

/// Whether a container of the pod has been started by the runtime, as its status tells.
fn began_it(pod: &core::Pod, runtime: &str) -> bool {
    let Some(status) = &pod.status else { return false };
    let known = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let mut ids = known.filter_map(|known| known.container_id.as_deref());
    ids.any(|id| is_of(id, runtime))
}

/// Whether an id, `docker://…`, is of the runtime.
pub fn is_of(id: &str, runtime: &str) -> bool {
    id.strip_prefix(runtime).is_some_and(|rest| rest.starts_with("://"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_runs_stays_where_it_runs() {
        let of = |id: &str| {
            let pod = json!({ "metadata": {}, "status": { "containerStatuses": [
                { "name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0, "containerID": id },
            ] } });
            let pod: core::Pod = serde_json::from_value(pod).expect("a pod");
            (began_it(&pod, "docker"), began_it(&pod, "wasm"))
        };
        assert_eq!(of("docker://5f"), (true, false));
        assert_eq!(of("wasm://u.a.0"), (false, true));
        assert_eq!(of("dockershim://5f"), (false, false));
    }

    #[test]
    fn a_missing_runtime_is_told_of_with_what_to_do() {
        assert!(missing("docker").contains("start the node with --docker"));
        assert_eq!(missing("kata"), "no runtime for \"kata\" is configured on this node");
    }
}

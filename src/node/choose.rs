//! Which runtime a pod is for.
//!
//! What runs already stays where it runs; then the pod's RuntimeClass decides.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::context::Context;
use crate::reconcile::ObjectKey;
use crate::runtime::Runtime;

/// The runtime of a pod, or why this node has none for it.
pub fn runtime(context: &Context, pod: &core::Pod) -> Result<Arc<dyn Runtime>, String> {
    if let Some(running) = context.runtimes.iter().find(|runtime| began_it(pod, runtime.name())) {
        return Ok(running.clone());
    }
    let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref()).filter(|name| !name.is_empty());
    let Some(class) = class else {
        return context.runtimes.first().cloned().ok_or_else(|| "this node has no runtime".to_owned());
    };
    // A class may be called otherwise than the handler it names.
    let known = context.classes.get(&ObjectKey::cluster(class));
    let handler = known.as_ref().map_or(class, |known| known.handler.as_str());
    let named = context.runtimes.iter().find(|runtime| runtime.name() == handler);
    named.cloned().ok_or_else(|| missing(handler))
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

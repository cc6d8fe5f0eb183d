//! Where the traffic of a Service may go: EndpointSlices, and Endpoints for older clients.
//!
//! Three controllers: `slices` writes the slices of Services with a selector, `legacy` their
//! Endpoints, and `mirror` turns hand-written Endpoints of a Service without one into slices. The time
//! from a pod's readiness to the slice is time that a request waits, so each writes as soon as it
//! hears, and only what changed.

pub(super) mod legacy;
pub(super) mod mirror;
pub(super) mod slices;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pods;
use crate::reconcile::{ObjectKey, Queue, Shared};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// The Service's selector, if it has one that anything can match.
fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    let routed = spec.type_.as_deref() != Some("ExternalName");
    spec.selector.as_ref().filter(|s| routed && !s.is_empty())
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    selector(service).is_some_and(|s| s.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v)))
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true)
}

fn service_ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default()
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// The pod's port that a Service's port leads to; named ports differ from pod to pod.
fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(if *number == 0 { port.port } else { *number }),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
            spec.containers.iter().chain(sidecars).find_map(|c| container_port(c, name, protocol(port)))
        }
    }
}

fn container_port(container: &Container, name: &str, protocol: &str) -> Option<i32> {
    let mut ports = container.ports.iter().flatten();
    let named = ports.find(|p| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol);
    named.map(|p| p.container_port)
}

/// The pod's addresses, the first being its own.
fn addresses(pod: &Pod) -> Vec<String> {
    let Some(status) = pod.status.as_ref() else { return Vec::new() };
    let listed: Vec<String> = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    if listed.is_empty() { status.pod_ip.iter().filter(|ip| !ip.is_empty()).cloned().collect() } else { listed }
}

/// The name under which a headless Service gives this pod alone.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let of_service = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|h| of_service && !h.is_empty())
}

fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..Default::default()
    }
}

/// The pods of a Service's namespace that it selects.
fn selected(service: &Service, pods: &Shared<Pod>) -> Vec<Arc<Pod>> {
    let mut pods = pods.list_in(service.metadata.namespace.as_deref().unwrap_or_default());
    pods.retain(|pod| selects(service, pod));
    pods
}

/// Looks at the Services that select a pod, before or after a change that matters to them.
fn follow_pods(queue: &Queue, pods: &Shared<Pod>, services: &Shared<Service>) {
    let (queue, services) = (queue.clone(), services.clone());
    pods.on_change(move |old, new| {
        if old.zip(new).is_some_and(|(old, new)| same_endpoint(old, new)) {
            return true;
        }
        let either = [old, new];
        let Some(namespace) = either.iter().flatten().find_map(|p| p.metadata.namespace.as_deref()) else {
            return true;
        };
        for service in services.list_in(namespace) {
            if either.iter().flatten().any(|pod| selects(&service, pod)) {
                queue.add(ObjectKey::of(&*service));
            }
        }
        true
    });
}

/// Nothing changed that any endpoint shows.
fn same_endpoint(old: &Pod, new: &Pod) -> bool {
    old.metadata.labels == new.metadata.labels
        && old.metadata.uid == new.metadata.uid
        && old.metadata.deletion_timestamp.is_some() == new.metadata.deletion_timestamp.is_some()
        && pods::node(old) == pods::node(new)
        && pods::is_ready(old) == pods::is_ready(new)
        && pods::is_finished(old) == pods::is_finished(new)
        && addresses(old) == addresses(new)
}

//! Endpoints, the older form of EndpointSlices, of the Services with a selector.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::diff::merge_patch;
use super::super::pods;
use super::{HEADLESS, slices};
use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Shared, Write};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// As upstream: an object must stay within what the API takes.
const MAX_ADDRESSES: usize = 1_000;

/// The controller.
pub(in super::super) struct Legacy {
    services: Shared<Service>,
    pods: Shared<Pod>,
    endpoints: Shared<Endpoints>,
}

/// All that concerns the Endpoints of one Service.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct View {
    pub service: Option<Arc<Service>>,
    pub pods: Vec<Arc<Pod>>,
    pub endpoints: Option<Arc<Endpoints>>,
}

impl Legacy {
    pub(in super::super) fn new(cluster: &Cluster) -> Self {
        Self { services: cluster.watch(), pods: cluster.watch(), endpoints: cluster.watch() }
    }
}

impl Reconciler for Legacy {
    type View = View;

    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.services);
        super::follow_pods(queue, &self.pods, &self.services);
        let queue = queue.clone();
        self.endpoints.on_change(move |old, new| {
            if let Some(endpoints) = new.or(old).filter(|e| is_managed(e)) {
                queue.add(ObjectKey::of(endpoints));
            }
            true
        });
    }

    async fn synced(&self) {
        self.services.synced().await;
        self.pods.synced().await;
        self.endpoints.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        let managed = self.endpoints.list().into_iter().filter(|e| is_managed(e));
        self.services.keys().into_iter().chain(managed.map(|e| ObjectKey::of(&*e))).collect()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let service = self.services.get(key);
        let pods = service.as_ref().map(|s| super::selected(s, &self.pods)).unwrap_or_default();
        Some(View { service, pods, endpoints: self.endpoints.get(key) })
    }

    fn plan(&self, _now: Timestamp, view: View) -> Plan {
        plan(&view)
    }
}

fn is_managed(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|m| m == CONTROLLER)
}

/// Decides what the Endpoints of one Service are.
pub(super) fn plan(view: &View) -> Plan {
    let mut plan = Plan::nothing();
    let Some(service) = view.service.as_deref() else {
        // Endpoints go with their Service; this only runs for a Service that was there.
        plan.batch(view.endpoints.iter().map(|e| Write::delete(&**e)).collect());
        return plan;
    };
    if service.metadata.deletion_timestamp.is_some() || super::selector(service).is_none() {
        return plan;
    }
    let mut addresses = addresses(service, &view.pods);
    let over_capacity = truncate(&mut addresses);
    let total = addresses.iter().map(|(_, a)| a.len()).sum();
    let subsets = subsets(addresses);
    let wanted = wanted(service, view.endpoints.as_deref(), subsets, over_capacity);
    match view.endpoints.as_deref() {
        None => plan.write(Write::create(&wanted)),
        Some(present) => {
            if let Some(patch) = merge_patch(present, &wanted) {
                plan.write(Write::patch(present, "", patch));
            }
        }
    }
    plan.rest_for(total, 10, Duration::from_millis(100));
    plan
}

fn wanted(
    service: &Service,
    present: Option<&Endpoints>,
    subsets: Vec<EndpointSubset>,
    over_capacity: bool,
) -> Endpoints {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if super::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), CONTROLLER.into());
    let mut metadata = present.map(|e| e.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..Default::default()
    });
    metadata.labels = Some(labels);
    let mut annotations = metadata.annotations.take().unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if over_capacity {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    metadata.annotations = Some(annotations).filter(|a| !a.is_empty());
    Endpoints { metadata, subsets: Some(subsets).filter(|s| !s.is_empty()) }
}

/// Addresses in the order in which they are shown.
type AddressKey = (Option<IpAddr>, String, Option<String>);

/// For each set of ports, the addresses that have them and whether they are ready.
type ByPorts = Vec<(Vec<slices::Port>, BTreeMap<AddressKey, (EndpointAddress, bool)>)>;

fn addresses(service: &Service, pods: &[Arc<Pod>]) -> ByPorts {
    let publishes = super::publishes_unready(service);
    let mut by_ports: BTreeMap<Vec<slices::Port>, BTreeMap<_, _>> = BTreeMap::new();
    for pod in pods.iter().filter(|p| !pods::is_finished(p)) {
        if pod.metadata.deletion_timestamp.is_some() && !publishes {
            continue;
        }
        let Some(ip) = super::addresses(pod).into_iter().next() else { continue };
        let mut ports: Vec<slices::Port> = super::service_ports(service)
            .iter()
            .filter_map(|port| {
                Some(slices::Port {
                    name: port.name.clone().unwrap_or_default(),
                    port: Some(super::target_port(port, pod)?),
                    protocol: super::protocol(port).to_owned(),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        if ports.is_empty() && !(super::is_headless(service) && super::service_ports(service).is_empty()) {
            continue;
        }
        ports.sort();
        let key = (ip.parse().ok(), ip.clone(), pod.metadata.uid.clone());
        let address = EndpointAddress {
            ip,
            hostname: super::hostname(service, pod),
            node_name: pods::node(pod).map(str::to_owned),
            target_ref: Some(super::pod_reference(pod)),
        };
        by_ports.entry(ports).or_default().insert(key, (address, publishes || pods::is_ready(pod)));
    }
    by_ports.into_iter().collect()
}

/// Keeps as many addresses as fit, ready ones first. True when some had to go.
fn truncate(addresses: &mut ByPorts) -> bool {
    let total: usize = addresses.iter().map(|(_, a)| a.len()).sum();
    if total <= MAX_ADDRESSES {
        return false;
    }
    let mut room = MAX_ADDRESSES;
    for wanted_ready in [true, false] {
        for (_, group) in addresses.iter_mut() {
            group.retain(|_, (_, ready)| {
                if *ready != wanted_ready {
                    return true;
                }
                let fits = room > 0;
                room = room.saturating_sub(1);
                fits
            });
        }
    }
    true
}

fn subsets(addresses: ByPorts) -> Vec<EndpointSubset> {
    let subset = |(ports, group): (Vec<slices::Port>, BTreeMap<AddressKey, (EndpointAddress, bool)>)| {
        let (ready, unready): (Vec<_>, Vec<_>) = group.into_values().partition(|(_, ready)| *ready);
        let list = |addresses: Vec<(EndpointAddress, bool)>| {
            let addresses: Vec<EndpointAddress> = addresses.into_iter().map(|(a, _)| a).collect();
            Some(addresses).filter(|a| !a.is_empty())
        };
        EndpointSubset {
            addresses: list(ready),
            not_ready_addresses: list(unready),
            ports: Some(ports.into_iter().map(port).collect::<Vec<_>>()).filter(|p| !p.is_empty()),
        }
    };
    addresses.into_iter().filter(|(_, group)| !group.is_empty()).map(subset).collect()
}

fn port(port: slices::Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name).filter(|n| !n.is_empty()),
        port: port.port.unwrap_or_default(),
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    }
}

//! EndpointSlices of the Services with a selector.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::claim::controller_reference;
use super::super::diff::merge_patch;
use super::super::pods;
use super::{HEADLESS, MANAGED_BY, SERVICE_NAME};
use crate::reconcile::{Cluster, ObjectKey, Plan, Queue, Reconciler, Shared, Write};

const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";
/// As upstream: small enough that one pod's change is a small write.
const MAX_ENDPOINTS: usize = 100;
/// Index over slices: by Service, for this controller's own.
const BY_SERVICE: &str = "service";

/// The controller.
pub(in super::super) struct Slices {
    services: Shared<Service>,
    pods: Shared<Pod>,
    nodes: Shared<Node>,
    slices: Shared<EndpointSlice>,
}

/// All that concerns the slices of one Service.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct View {
    pub service: Arc<Service>,
    /// The pods that it selects.
    pub pods: Vec<Arc<Pod>>,
    /// The zones of nodes that are in one.
    pub zones: HashMap<String, String>,
    /// The slices there are, of this controller.
    pub slices: Vec<Arc<EndpointSlice>>,
}

impl Slices {
    pub(in super::super) fn new(cluster: &Cluster) -> Self {
        let slices = cluster.watch::<EndpointSlice>();
        slices.add_index(BY_SERVICE, |slice: &EndpointSlice| {
            let key = service_of(slice, CONTROLLER);
            key.map(|key| key.to_string()).into_iter().collect()
        });
        Self { services: cluster.watch(), pods: cluster.watch(), nodes: cluster.watch(), slices }
    }

    /// Somebody else's change of a slice is put right.
    fn follow_slices(&self, queue: &Queue) {
        let queue = queue.clone();
        self.slices.on_change(move |old, new| {
            for slice in [old, new].into_iter().flatten() {
                if let Some(key) = service_of(slice, CONTROLLER) {
                    queue.add(key);
                }
            }
            true
        });
    }
}

/// The Service whose traffic a slice describes, if this controller manages the slice.
pub(super) fn service_of(slice: &EndpointSlice, controller: &str) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let own = labels.get(MANAGED_BY).is_some_and(|m| m == controller);
    let service = labels.get(SERVICE_NAME).filter(|_| own)?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service.as_str()))
}

impl Reconciler for Slices {
    type View = View;

    fn name(&self) -> &'static str {
        "endpoint-slice-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.services);
        super::follow_pods(queue, &self.pods, &self.services);
        self.follow_slices(queue);
    }

    async fn synced(&self) {
        self.services.synced().await;
        self.pods.synced().await;
        self.nodes.synced().await;
        self.slices.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.services.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        // Without the Service its slices have lost their owner, and garbage collection takes them.
        let service = self.services.get(key)?;
        let slices = self.slices.by_index(BY_SERVICE, &key.to_string());
        let pods = super::selected(&service, &self.pods);
        let mut zones = HashMap::new();
        for name in pods.iter().filter_map(|p| pods::node(p)) {
            let node = self.nodes.get(&ObjectKey::cluster(name));
            let labels = node.as_ref().and_then(|n| n.metadata.labels.as_ref());
            if let Some(zone) = labels.and_then(|l| l.get(ZONE)) {
                zones.insert(name.to_owned(), zone.clone());
            }
        }
        Some(View { service, pods, zones, slices })
    }

    fn plan(&self, _now: Timestamp, view: View) -> Plan {
        plan(&view)
    }
}

/// Decides which slices one Service has.
pub(super) fn plan(view: &View) -> Plan {
    let mut plan = Plan::nothing();
    if view.service.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let mut groups = BTreeMap::new();
    if super::selector(&view.service).is_some() {
        groups = endpoints(view);
        // A Service without endpoints says so with an empty slice.
        if groups.is_empty() {
            groups.insert((family(&view.service), Vec::new()), Vec::new());
        }
    }
    let total = groups.values().map(Vec::len).sum();
    let labels = labels(&view.service, CONTROLLER, view.service.metadata.labels.as_ref());
    let owner = controller_reference(&*view.service);
    let name = view.service.metadata.name.as_deref().unwrap_or_default();
    let template = EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: view.service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        ..Default::default()
    };
    distribute(&template, groups, &view.slices, &mut plan);
    plan.rest_for(total, 20, Duration::from_millis(25));
    plan
}

/// Endpoints that may share a slice: of one address type and with the same ports.
pub(super) type Groups = BTreeMap<(&'static str, Vec<Port>), Vec<Endpoint>>;

/// A port, comparable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub name: String,
    pub port: Option<i32>,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

fn endpoints(view: &View) -> Groups {
    let mut groups = Groups::new();
    for pod in view.pods.iter().filter(|p| !pods::is_finished(p)) {
        let ports: Vec<Port> = super::service_ports(&view.service)
            .iter()
            .filter_map(|port| {
                Some(Port {
                    name: port.name.clone().unwrap_or_default(),
                    port: Some(super::target_port(port, pod)?),
                    protocol: super::protocol(port).to_owned(),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        for address in super::addresses(pod) {
            let kind = address_type(&address);
            if families(&view.service).contains(&kind) {
                groups.entry((kind, ports.clone())).or_default().push(endpoint(view, pod, address));
            }
        }
    }
    groups
}

fn endpoint(view: &View, pod: &Pod, address: String) -> Endpoint {
    let (serving, terminating) = (pods::is_ready(pod), pod.metadata.deletion_timestamp.is_some());
    let ready = super::publishes_unready(&view.service) || (serving && !terminating);
    let node = pods::node(pod);
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: super::hostname(&view.service, pod),
        node_name: node.map(str::to_owned),
        zone: node.and_then(|n| view.zones.get(n).cloned()),
        target_ref: Some(super::pod_reference(pod)),
        ..Default::default()
    }
}

pub(super) fn address_type(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

fn families(service: &Service) -> Vec<&str> {
    let listed = service.spec.as_ref().and_then(|s| s.ip_families.as_ref());
    let listed: Vec<&str> = listed.into_iter().flatten().map(String::as_str).collect();
    if listed.is_empty() { vec!["IPv4"] } else { listed }
}

fn family(service: &Service) -> &'static str {
    if families(service).first() == Some(&"IPv6") { "IPv6" } else { "IPv4" }
}

pub(super) fn labels(
    service: &Service,
    controller: &str,
    inherited: Option<&BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let mut labels = inherited.cloned().unwrap_or_default();
    labels.remove(HEADLESS);
    if super::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), controller.into());
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels
}

/// Spreads the endpoints over slices with the fewest writes: each stays in its slice, new ones fill
/// the room there is, what is left gets slices of its own, and slices left without endpoints go. A
/// group without endpoints gets one empty slice.
pub(super) fn distribute(
    template: &EndpointSlice,
    mut groups: Groups,
    present: &[Arc<EndpointSlice>],
    plan: &mut Plan,
) {
    let (mut used, mut spare) = (Vec::new(), Vec::new());
    for slice in present.iter().filter(|s| s.metadata.deletion_timestamp.is_none()) {
        let kept = keep(slice, &mut groups);
        if kept.is_empty() {
            spare.push(slice);
        } else {
            used.push((slice, with(template, slice, kept)));
        }
    }
    let mut created = Vec::new();
    for ((kind, ports), endpoints) in groups {
        let fits = |slice: &EndpointSlice| slice.address_type == kind && ports_of(slice) == ports;
        let mut left = endpoints.into_iter().peekable();
        let mut shown = false;
        for (_, slice) in used.iter_mut().filter(|(_, s)| fits(s)) {
            let held = slice.endpoints.get_or_insert_default();
            held.extend(left.by_ref().take(MAX_ENDPOINTS.saturating_sub(held.len())));
            shown = true;
        }
        while !shown || left.peek().is_some() {
            shown = true;
            let endpoints: Vec<Endpoint> = left.by_ref().take(MAX_ENDPOINTS).collect();
            let shape = shaped(template, kind, &ports);
            match spare.iter().position(|s| s.address_type == kind) {
                Some(place) => {
                    let slice = spare.remove(place);
                    let reused = EndpointSlice { ports: shape.ports, ..with(template, slice, endpoints) };
                    used.push((slice, reused));
                }
                None => created.push(EndpointSlice { endpoints: Some(endpoints), ..shape }),
            }
        }
    }
    write(used, spare, created, plan);
}

/// Takes the endpoints that this slice holds out of their group, as they are to be now.
fn keep(slice: &EndpointSlice, groups: &mut Groups) -> Vec<Endpoint> {
    let kind = if slice.address_type == "IPv6" { "IPv6" } else { "IPv4" };
    let Some(group) = groups.get_mut(&(kind, ports_of(slice))) else { return Vec::new() };
    let held: HashMap<_, usize> = slice.endpoints.iter().flatten().enumerate().map(|(i, e)| (identity(e), i)).collect();
    let (mut kept, mut others) = (Vec::new(), Vec::new());
    for endpoint in std::mem::take(group) {
        match held.get(&identity(&endpoint)) {
            Some(place) => kept.push((*place, endpoint)),
            None => others.push(endpoint),
        }
    }
    *group = others;
    kept.sort_by_key(|(place, _)| *place);
    kept.into_iter().map(|(_, endpoint)| endpoint).collect()
}

/// What makes two endpoints the same place.
fn identity(endpoint: &Endpoint) -> (Option<String>, Option<String>) {
    let uid = endpoint.target_ref.as_ref().and_then(|r| r.uid.clone());
    (uid, endpoint.addresses.first().cloned())
}

pub(super) fn ports_of(slice: &EndpointSlice) -> Vec<Port> {
    let port = |p: &EndpointPort| Port {
        name: p.name.clone().unwrap_or_default(),
        port: p.port,
        protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
        app_protocol: p.app_protocol.clone(),
    };
    slice.ports.iter().flatten().map(port).collect()
}

fn shaped(template: &EndpointSlice, kind: &str, ports: &[Port]) -> EndpointSlice {
    let port = |p: &Port| EndpointPort {
        name: Some(p.name.clone()),
        port: p.port,
        protocol: Some(p.protocol.clone()),
        app_protocol: p.app_protocol.clone(),
    };
    let ports: Vec<EndpointPort> = ports.iter().map(port).collect();
    EndpointSlice { address_type: kind.to_owned(), ports: Some(ports).filter(|p| !p.is_empty()), ..template.clone() }
}

/// The slice with other endpoints and the labels and owner that it should have.
fn with(template: &EndpointSlice, slice: &EndpointSlice, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut wanted = slice.clone();
    wanted.metadata.labels = template.metadata.labels.clone();
    wanted.metadata.owner_references = template.metadata.owner_references.clone();
    wanted.endpoints = Some(endpoints);
    wanted
}

fn write(
    used: Vec<(&Arc<EndpointSlice>, EndpointSlice)>,
    spare: Vec<&Arc<EndpointSlice>>,
    created: Vec<EndpointSlice>,
    plan: &mut Plan,
) {
    let mut writes = Vec::new();
    for (before, after) in used {
        if let Some(patch) = merge_patch(&normal(before), &normal(&after)) {
            writes.push(Write::patch(&**before, "", patch));
        }
    }
    writes.extend(created.iter().map(|slice| Write::create(&normal(slice))));
    plan.batch(writes);
    // Last, so that there is no moment in which an endpoint is nowhere.
    plan.batch(spare.into_iter().map(|s| Write::delete(&**s)).collect());
}

/// An empty list means the same as none.
fn normal(slice: &EndpointSlice) -> EndpointSlice {
    let mut slice = slice.clone();
    slice.endpoints = slice.endpoints.filter(|e| !e.is_empty());
    slice.ports = slice.ports.filter(|p| !p.is_empty());
    slice
}

//! What the scheduler knows when it decides: the nodes, and what is placed on them.
//!
//! Fed from the shared watches, plus the pods that were placed here and whose binding the watch has
//! not shown yet: they are *assumed*, and count like any other, so that a second decision in the same
//! breath sees the first. Sums are kept, not recomputed: a change costs the same however full a node
//! is. Taking a pod off is the exact inverse of putting it on, because both use the same [`PodInfo`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint};

use super::resources::{Resources, assumed_usage, pod_requests};
use super::volumes::Needs;
use crate::kinds::placement::{Labels, is_over};
use crate::reconcile::{ObjectKey, owner_uid};

/// A port that a pod claims on the node's own address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// The wildcard address meets every other.
    pub fn clashes_with(&self, other: &Self) -> bool {
        let everywhere = |ip: &str| ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || everywhere(&self.ip) || everywhere(&other.ip))
    }
}

static NO_SPEC: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
static NO_LABELS: Labels = Labels::new();

/// A pod, with what decisions need worked out once. The object is the shared store's, not a copy.
#[derive(Debug)]
pub struct PodInfo {
    pub key: ObjectKey,
    pub pod: Arc<Pod>,
    pub owner: Option<String>,
    pub requests: Resources,
    /// CPU and memory for comparing nodes, never zero.
    pub usage: (i64, i64),
    pub ports: Vec<HostPort>,
    /// What its claims demand; only known of a pod that is being decided on.
    pub volumes: Needs,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let spec = pod.spec.as_ref().unwrap_or(&NO_SPEC);
        let requests = pod_requests(spec);
        Self {
            key: ObjectKey::of(&*pod),
            owner: owner_uid(&pod.metadata).map(str::to_owned),
            usage: assumed_usage(spec, &requests),
            ports: host_ports(spec),
            volumes: Needs::default(),
            requests,
            pod,
        }
    }

    #[must_use]
    pub fn with_volumes(self, volumes: Needs) -> Self {
        Self { volumes, ..self }
    }

    pub fn spec(&self) -> &PodSpec {
        self.pod.spec.as_ref().unwrap_or(&NO_SPEC)
    }

    pub fn labels(&self) -> &Labels {
        self.pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS)
    }

    /// As admission has written it.
    pub fn priority(&self) -> i32 {
        self.spec().priority.unwrap_or(0)
    }

    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        &self.key.namespace
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let text = |value: &Option<String>, default: &str| match value.as_deref() {
                None | Some("") => default.to_owned(),
                Some(given) => given.to_owned(),
            };
            let number = port.host_port.filter(|number| *number > 0)?;
            Some(HostPort { ip: text(&port.host_ip, "0.0.0.0"), protocol: text(&port.protocol, "TCP"), port: number })
        })
        .collect()
}

/// A node and what is placed on it.
#[derive(Debug, Default, Clone)]
pub struct NodeInfo {
    pub name: String,
    /// False for a node that pods name but that the watch has not shown, or does not show any more.
    pub exists: bool,
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub cordoned: bool,
    pub allocatable: Resources,
    pub max_pods: i64,
    pub requested: Resources,
    /// CPU and memory for comparing nodes.
    pub usage: (i64, i64),
    pub pods: BTreeMap<ObjectKey, Arc<PodInfo>>,
    /// How many pods of each controller are here, by its uid.
    pub owners: HashMap<String, usize>,
    /// How many pods of each priority are here.
    priorities: BTreeMap<i32, usize>,
    /// Pods for which others make room here.
    pub expected: BTreeMap<ObjectKey, Arc<PodInfo>>,
}

impl NodeInfo {
    fn describe(&mut self, node: &Node) {
        let spec = node.spec.clone().unwrap_or_default();
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.clone()).unwrap_or_default();
        self.exists = true;
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        self.cordoned = spec.unschedulable.unwrap_or(false);
        self.taints = spec.taints.unwrap_or_default();
        self.taints.extend(readiness_taint(node, &self.taints));
        let pods = allocatable.get("pods").and_then(|pods| pods.0.parse::<crate::kinds::quantity::Quantity>().ok());
        self.max_pods = pods.map_or(0, |pods| pods.units());
        self.allocatable = Resources::of(&allocatable);
    }

    /// What about a node, besides its pods, may let a pod fit that did not.
    fn same_offer(&self, before: &Self) -> bool {
        self.exists == before.exists
            && self.labels == before.labels
            && self.taints == before.taints
            && self.cordoned == before.cordoned
            && self.allocatable == before.allocatable
            && self.max_pods == before.max_pods
    }

    /// Whether anybody here matters less than `pod`.
    pub fn has_lower(&self, pod: &PodInfo) -> bool {
        self.priorities.first_key_value().is_some_and(|(lowest, _)| *lowest < pod.priority())
    }

    /// Those for whom room is kept from `pod`: that are expected here and matter as much.
    pub fn before<'a>(&'a self, pod: &'a PodInfo) -> impl Iterator<Item = &'a Arc<PodInfo>> {
        self.expected.values().filter(|other| other.key != pod.key && other.priority() >= pod.priority())
    }

    fn put(&mut self, info: Arc<PodInfo>) {
        self.requested.add(&info.requests);
        self.usage.0 = self.usage.0.saturating_add(info.usage.0);
        self.usage.1 = self.usage.1.saturating_add(info.usage.1);
        if let Some(owner) = &info.owner {
            *self.owners.entry(owner.clone()).or_insert(0) += 1;
        }
        *self.priorities.entry(info.priority()).or_insert(0) += 1;
        self.pods.insert(info.key.clone(), info);
    }

    fn take_off(&mut self, key: &ObjectKey) {
        let Some(info) = self.pods.remove(key) else { return };
        self.requested.subtract(&info.requests);
        self.usage.0 = self.usage.0.saturating_sub(info.usage.0);
        self.usage.1 = self.usage.1.saturating_sub(info.usage.1);
        if let Some(count) = self.priorities.get_mut(&info.priority()) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.priorities.remove(&info.priority());
            }
        }
        if let Some(owner) = &info.owner
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
    }
}

/// A node that is not ready gets its taint from the lifecycle controller a moment later. Acting on
/// the condition as if the taint were there already keeps replacements off a node that just died.
fn readiness_taint(node: &Node, taints: &[Taint]) -> Option<Taint> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    let key = match ready.status.as_str() {
        "True" => return None,
        "False" => "node.kubernetes.io/not-ready",
        _ => "node.kubernetes.io/unreachable",
    };
    let present = taints.iter().any(|taint| taint.key == key && taint.effect == "NoSchedule");
    (!present).then(|| Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() })
}

#[derive(Debug, Clone)]
struct Placed {
    node: String,
    uid: String,
    /// Placed here, and not yet shown by the watch.
    assumed: bool,
}

/// What one change meant for pods that did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effect {
    /// A node came or offers something else.
    pub node: bool,
    /// A placed pod went, or asks for less.
    pub freed: bool,
    /// A pod was placed, or has other labels.
    pub placed: bool,
}

impl Effect {
    pub fn merge(&mut self, other: Self) {
        self.node |= other.node;
        self.freed |= other.freed;
        self.placed |= other.placed;
    }

    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeInfo>,
    placed: HashMap<ObjectKey, Placed>,
    /// Placed pods that refuse neighbours; kept apart because every decision must ask them.
    unsociable: BTreeSet<ObjectKey>,
    /// Waiting pods, each with the node on which others make room for it.
    nominated: HashMap<ObjectKey, String>,
    namespaces: BTreeMap<String, Labels>,
}

impl Snapshot {
    /// The nodes that exist, in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|node| node.exists)
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name)
    }

    /// Each placed pod with its node.
    pub fn pods(&self) -> impl Iterator<Item = (&NodeInfo, &Arc<PodInfo>)> {
        self.nodes().flat_map(|node| node.pods.values().map(move |pod| (node, pod)))
    }

    /// The placed pods that have required anti-affinity, with their nodes.
    pub fn unsociable(&self) -> impl Iterator<Item = (&NodeInfo, &Arc<PodInfo>)> {
        self.unsociable.iter().filter_map(|key| {
            let node = self.nodes.get(&self.placed.get(key)?.node)?;
            Some((node, node.pods.get(key)?))
        })
    }

    pub fn namespace_labels(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace)
    }

    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
    }

    /// Takes in what the watch shows of a node now.
    pub fn set_node(&mut self, name: &str, node: Option<&Node>) -> Effect {
        let info = self.nodes.entry(name.to_owned()).or_default();
        let mut fresh = NodeInfo { name: name.to_owned(), ..NodeInfo::default() };
        if let Some(node) = node {
            fresh.describe(node);
        }
        let changed = !fresh.same_offer(info);
        fresh.requested = std::mem::take(&mut info.requested);
        fresh.usage = info.usage;
        fresh.pods = std::mem::take(&mut info.pods);
        fresh.owners = std::mem::take(&mut info.owners);
        fresh.priorities = std::mem::take(&mut info.priorities);
        fresh.expected = std::mem::take(&mut info.expected);
        *info = fresh;
        self.drop_if_unused(name);
        Effect { node: changed && node.is_some(), ..Effect::default() }
    }

    /// Takes in what the watch shows of a pod now. An assumption holds until the watch confirms or
    /// refutes it: a pod of this uid that is shown without a node is merely shown late.
    pub fn set_pod(&mut self, key: &ObjectKey, pod: Option<&Arc<Pod>>) -> Effect {
        let node = pod.filter(|pod| !is_over(pod)).and_then(|pod| node_name(pod));
        match (pod, node) {
            (Some(pod), Some(node)) => self.place(Arc::new(PodInfo::new(pod.clone())), node, false),
            (Some(pod), None) if !is_over(pod) && self.assumes(key, pod.metadata.uid.as_deref()) => Effect::default(),
            (Some(pod), None) if !is_over(pod) => {
                let effect = self.remove(key);
                let told = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
                if let Some(node) = told.filter(|node| !node.is_empty()) {
                    self.nominate(Arc::new(PodInfo::new(pod.clone())), node);
                }
                effect
            }
            _ => {
                let expected = self.no_longer_expect(key);
                let mut effect = self.remove(key);
                effect.freed |= expected;
                effect
            }
        }
    }

    /// Keeps room for a waiting pod on a node, until it is placed or gone.
    pub fn nominate(&mut self, info: Arc<PodInfo>, node: &str) {
        self.no_longer_expect(&info.key);
        let Some(entry) = self.nodes.get_mut(node) else { return };
        self.nominated.insert(info.key.clone(), node.to_owned());
        entry.expected.insert(info.key.clone(), info);
    }

    /// Where room is kept for a pod.
    pub fn nomination(&self, key: &ObjectKey) -> Option<&str> {
        self.nominated.get(key).map(String::as_str)
    }

    /// The waiting pods that are expected on a node and matter less than `pod`.
    pub fn expected_below(&self, node: &str, pod: &PodInfo) -> Vec<ObjectKey> {
        let expected = self.nodes.get(node).into_iter().flat_map(|node| node.expected.values());
        expected.filter(|other| other.priority() < pod.priority()).map(|other| other.key.clone()).collect()
    }

    /// Whether room was kept for it.
    pub fn no_longer_expect(&mut self, key: &ObjectKey) -> bool {
        let Some(node) = self.nominated.remove(key) else { return false };
        if let Some(node) = self.nodes.get_mut(&node) {
            node.expected.remove(key);
        }
        true
    }

    /// Counts a pod on a node before the API server knows of it.
    pub fn assume(&mut self, info: Arc<PodInfo>, node: &str) {
        self.place(info, node, true);
    }

    /// Thinks a placed pod away.
    pub fn take_out(&mut self, key: &ObjectKey) {
        self.remove(key);
    }

    /// Takes an assumption back; the watch's word on the pod is untouched.
    pub fn forget(&mut self, key: &ObjectKey) -> Effect {
        match self.placed.get(key) {
            Some(placed) if placed.assumed => self.remove(key),
            _ => Effect::default(),
        }
    }

    /// Whether this very pod is placed, assumed or not.
    pub fn is_placed(&self, key: &ObjectKey, uid: &str) -> bool {
        self.placed.get(key).is_some_and(|placed| placed.uid == uid)
    }

    pub fn placed_keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.placed.keys()
    }

    pub fn node_names(&self) -> impl Iterator<Item = &String> {
        self.nodes.keys()
    }

    pub fn namespace_names(&self) -> impl Iterator<Item = &String> {
        self.namespaces.keys()
    }

    fn assumes(&self, key: &ObjectKey, uid: Option<&str>) -> bool {
        self.placed.get(key).is_some_and(|placed| placed.assumed && Some(placed.uid.as_str()) == uid)
    }

    fn place(&mut self, info: Arc<PodInfo>, node: &str, assumed: bool) -> Effect {
        let before = self.placed.get(&info.key).and_then(|placed| {
            let old = self.nodes.get(&placed.node)?.pods.get(&info.key)?;
            Some((old.requests == info.requests && placed.node == node, old.labels() == info.labels()))
        });
        self.remove(&info.key);
        self.no_longer_expect(&info.key);
        let key = info.key.clone();
        if has_anti_affinity(info.spec()) {
            self.unsociable.insert(key.clone());
        }
        let placed = Placed { node: node.to_owned(), uid: info.uid().to_owned(), assumed };
        let entry = self.nodes.entry(node.to_owned()).or_default();
        node.clone_into(&mut entry.name);
        entry.put(info);
        self.placed.insert(key, placed);
        match before {
            None => Effect { placed: true, ..Effect::default() },
            // Other labels may end an attraction as well as a repulsion.
            Some((same_place, same_labels)) => {
                Effect { freed: !(same_place && same_labels), placed: !same_labels, node: false }
            }
        }
    }

    fn remove(&mut self, key: &ObjectKey) -> Effect {
        self.unsociable.remove(key);
        let Some(placed) = self.placed.remove(key) else { return Effect::default() };
        if let Some(node) = self.nodes.get_mut(&placed.node) {
            node.take_off(key);
        }
        self.drop_if_unused(&placed.node);
        Effect { freed: true, ..Effect::default() }
    }

    /// A node that is gone is remembered only as long as pods name it.
    fn drop_if_unused(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|node| !node.exists && node.pods.is_empty()) {
            self.nodes.remove(name);
        }
    }
}

/// The node that a pod is bound to.
pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn has_anti_affinity(spec: &PodSpec) -> bool {
    let anti = spec.affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    anti.and_then(|anti| anti.required_during_scheduling_ignored_during_execution.as_ref())
        .is_some_and(|terms| !terms.is_empty())
}

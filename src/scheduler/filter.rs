//! Whether a pod can run on a node, and why not, in upstream's words and order.

use std::fmt;

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::snapshot::{HostPort, NodeInfo, PodInfo};
use super::topology::Neighbours;
use crate::kinds::placement::{node_affinity_holds, tolerates};

/// Why a pod cannot run on a node. The text is what events show.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Blocker {
    Cordoned,
    OtherNode,
    Taint {
        key: String,
        value: String,
    },
    NodeAffinity,
    Ports,
    /// This resource is short.
    Insufficient(String),
    TooManyPods,
    /// A claim keeps the pod from every node.
    Claim(String),
    /// A claim's volume is elsewhere.
    Volume(&'static str),
    NoSpreadLabel,
    Spread,
    PodAffinity,
    PodAntiAffinity,
    ExistingAntiAffinity,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cordoned => f.write_str("node(s) were unschedulable"),
            Self::OtherNode => f.write_str("node(s) didn't match the requested node name"),
            Self::Taint { key, value } => write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::NodeAffinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Ports => f.write_str("node(s) didn't have free ports for the requested pod ports"),
            Self::Insufficient(resource) => write!(f, "Insufficient {resource}"),
            Self::TooManyPods => f.write_str("Too many pods"),
            Self::Claim(why) => f.write_str(why),
            Self::Volume(why) => f.write_str(why),
            Self::NoSpreadLabel => {
                f.write_str("node(s) didn't match pod topology spread constraints (missing required label)")
            }
            Self::Spread => f.write_str("node(s) didn't match pod topology spread constraints"),
            Self::PodAffinity => f.write_str("node(s) didn't match pod affinity rules"),
            Self::PodAntiAffinity => f.write_str("node(s) didn't match pod anti-affinity rules"),
            Self::ExistingAntiAffinity => f.write_str("node(s) didn't satisfy existing pods anti-affinity rules"),
        }
    }
}

/// Empty when the pod can run there. The first rule that fails is told; of resources, all that are
/// short.
pub fn blockers(pod: &PodInfo, node: &NodeInfo, neighbours: &Neighbours) -> Vec<Blocker> {
    if let Some(why) = &pod.volumes.blocked {
        return vec![Blocker::Claim(why.clone())];
    }
    let first = cordoned(pod, node)
        .or_else(|| untolerated(pod, node))
        .or_else(|| (!matches_node_affinity(pod, node)).then_some(Blocker::NodeAffinity))
        .or_else(|| clashes(pod, node).then_some(Blocker::Ports));
    if let Some(blocker) = first {
        return vec![blocker];
    }
    if let Some(conflict) = pod.volumes.conflict(&node.name, &node.labels) {
        return vec![Blocker::Volume(conflict)];
    }
    let short = shortages(pod, node);
    if !short.is_empty() {
        return short;
    }
    neighbours.blocker(node).into_iter().collect()
}

fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.spec().tolerations.as_deref().unwrap_or_default()
}

/// Cordoning counts as a taint that a pod may tolerate.
fn cordoned(pod: &PodInfo, node: &NodeInfo) -> Option<Blocker> {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    (node.cordoned && !tolerations(pod).iter().any(|t| tolerates(t, &taint))).then_some(Blocker::Cordoned)
}

/// The first taint that keeps the pod away.
pub fn untolerated(pod: &PodInfo, node: &NodeInfo) -> Option<Blocker> {
    let repels = |taint: &&Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !tolerations(pod).iter().any(|toleration| tolerates(toleration, taint))
    };
    let taint = node.taints.iter().find(repels)?;
    Some(Blocker::Taint { key: taint.key.clone(), value: taint.value.clone().unwrap_or_default() })
}

/// `PreferNoSchedule` taints that the pod does not tolerate.
pub fn dislikes(pod: &PodInfo, node: &NodeInfo) -> usize {
    let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    soft.filter(|taint| !tolerations(pod).iter().any(|toleration| tolerates(toleration, taint))).count()
}

/// `nodeSelector` and required node affinity, both of which must hold.
pub fn matches_node_affinity(pod: &PodInfo, node: &NodeInfo) -> bool {
    node_affinity_holds(pod.spec(), &node.name, &node.labels)
}

fn clashes(pod: &PodInfo, node: &NodeInfo) -> bool {
    let taken = |port: &HostPort| {
        let there = node.pods.values().chain(node.before(pod)).flat_map(|other| &other.ports);
        there.into_iter().any(|other| other.clashes_with(port))
    };
    pod.ports.iter().any(taken)
}

/// Resources of which the node has too little left, also for those who are expected there. What a pod does not ask
/// for cannot be short.
fn shortages(pod: &PodInfo, node: &NodeInfo) -> Vec<Blocker> {
    let mut short = Vec::new();
    let (mut used, mut pods) = (std::borrow::Cow::Borrowed(&node.requested), node.pods.len());
    for other in node.before(pod) {
        used.to_mut().add(&other.requests);
        pods += 1;
    }
    if i64::try_from(pods).unwrap_or(i64::MAX) >= node.max_pods {
        short.push(Blocker::TooManyPods);
    }
    let (asked, used, all) = (&pod.requests, &*used, &node.allocatable);
    let mut check = |name: &str, asked: i64, used: i64, all: i64| {
        if asked > 0 && asked > all.saturating_sub(used) {
            short.push(Blocker::Insufficient(name.to_owned()));
        }
    };
    check("cpu", asked.cpu_millis, used.cpu_millis, all.cpu_millis);
    check("memory", asked.memory_bytes, used.memory_bytes, all.memory_bytes);
    check("ephemeral-storage", asked.ephemeral_bytes, used.ephemeral_bytes, all.ephemeral_bytes);
    for (name, amount) in &asked.others {
        let of = |resources: &super::resources::Resources| resources.others.get(name).copied().unwrap_or(0);
        check(name, *amount, of(used), of(all));
    }
    short
}

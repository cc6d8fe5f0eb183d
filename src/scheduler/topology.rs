//! Rules between pods: affinity, anti-affinity and even spreading over topology domains.
//!
//! They depend on where all other pods are, so what concerns one pod is worked out once
//! ([`Neighbours::of`]) and then asked for each node. A pod without such rules, among pods without
//! such rules, costs nothing here.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm, TopologySpreadConstraint};

use super::filter::{Blocker, matches_node_affinity};
use super::snapshot::{NodeInfo, PodInfo, Snapshot};
use crate::kinds::placement::{Labels, matches};

/// What the other pods mean for one pod.
#[derive(Debug, Default)]
pub struct Neighbours {
    wanted: Vec<Domains>,
    /// No pod anywhere is wanted, but the pod is of the kind it wants: it may be the first.
    first_of_its_kind: bool,
    unwanted: Vec<Domains>,
    /// Topology label and value where a placed pod refuses this one.
    refused: BTreeSet<(String, String)>,
    spread: Vec<Spread>,
    /// Topology label, value → how much the pod likes to be there.
    liked: BTreeMap<(String, String), i64>,
    softly_spread: Vec<Spread>,
}

/// The domains of one topology label in which a term's pods are.
#[derive(Debug)]
struct Domains {
    key: String,
    values: BTreeSet<String>,
}

/// How the pods of one constraint are spread now.
#[derive(Debug)]
struct Spread {
    key: String,
    max_skew: i64,
    /// The pod itself counts towards its constraint.
    own: i64,
    counts: BTreeMap<String, i64>,
    fewest: i64,
}

impl Neighbours {
    pub fn of(pod: &PodInfo, snapshot: &Snapshot) -> Self {
        let mut neighbours = Self::default();
        let spec = pod.spec();
        if let Some(affinity) = &spec.affinity {
            neighbours.read_affinity(affinity, pod, snapshot);
        }
        neighbours.refused = refusals(pod, snapshot);
        for constraint in spec.topology_spread_constraints.iter().flatten() {
            let spread = Spread::now(constraint, pod, snapshot);
            match constraint.when_unsatisfiable.as_str() {
                "DoNotSchedule" => neighbours.spread.push(spread),
                _ => neighbours.softly_spread.push(spread),
            }
        }
        neighbours
    }

    fn read_affinity(&mut self, affinity: &Affinity, pod: &PodInfo, snapshot: &Snapshot) {
        if let Some(wish) = &affinity.pod_affinity {
            let terms = wish.required_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default();
            self.wanted = terms.iter().map(|term| Domains::of(term, pod, snapshot)).collect();
            self.first_of_its_kind = self.wanted.iter().all(|domains| domains.values.is_empty())
                && terms.iter().all(|term| concerns(term, pod, pod, snapshot));
            for weighted in wish.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
                self.like(&weighted.pod_affinity_term, i64::from(weighted.weight), pod, snapshot);
            }
        }
        if let Some(dislike) = &affinity.pod_anti_affinity {
            let terms = dislike.required_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default();
            self.unwanted = terms.iter().map(|term| Domains::of(term, pod, snapshot)).collect();
            for weighted in dislike.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
                self.like(&weighted.pod_affinity_term, -i64::from(weighted.weight), pod, snapshot);
            }
        }
    }

    fn like(&mut self, term: &PodAffinityTerm, weight: i64, pod: &PodInfo, snapshot: &Snapshot) {
        for (node, other) in snapshot.pods() {
            if let Some(value) = node.labels.get(&term.topology_key)
                && concerns(term, pod, other, snapshot)
            {
                *self.liked.entry((term.topology_key.clone(), value.clone())).or_insert(0) += weight;
            }
        }
    }

    /// Why the pod may not go to the node, as far as other pods are concerned.
    pub fn blocker(&self, node: &NodeInfo) -> Option<Blocker> {
        for spread in &self.spread {
            let Some(value) = node.labels.get(&spread.key) else { return Some(Blocker::NoSpreadLabel) };
            let there = spread.counts.get(value).copied().unwrap_or(0);
            if there + spread.own - spread.fewest > spread.max_skew {
                return Some(Blocker::Spread);
            }
        }
        let labelled = |domains: &Domains| node.labels.contains_key(&domains.key);
        let near = self.wanted.iter().all(|domains| domains.include(node));
        let may_be_first = self.first_of_its_kind && self.wanted.iter().all(labelled);
        if !near && !may_be_first {
            return Some(Blocker::PodAffinity);
        }
        if self.unwanted.iter().any(|domains| domains.include(node)) {
            return Some(Blocker::PodAntiAffinity);
        }
        let refuses = |(key, value): &(String, String)| node.labels.get(key) == Some(value);
        self.refused.iter().any(refuses).then_some(Blocker::ExistingAntiAffinity)
    }

    /// How much the pod likes the neighbourhood of a node; may be negative.
    pub fn liking(&self, node: &NodeInfo) -> i64 {
        let near = |(key, value): &(String, String)| node.labels.get(key) == Some(value);
        self.liked.iter().filter(|(domain, _)| near(domain)).map(|(_, weight)| weight).sum()
    }

    /// How many of the pods that it is to be kept apart from are in the node's domains; `None` when
    /// no constraint asks.
    pub fn crowd(&self, node: &NodeInfo) -> Option<i64> {
        let there = |spread: &Spread| {
            let value = node.labels.get(&spread.key);
            // A node outside every domain comes last.
            value.map_or(i64::from(i32::MAX), |value| spread.counts.get(value).copied().unwrap_or(0))
        };
        (!self.softly_spread.is_empty()).then(|| self.softly_spread.iter().map(there).sum())
    }
}

impl Domains {
    fn of(term: &PodAffinityTerm, pod: &PodInfo, snapshot: &Snapshot) -> Self {
        let others = snapshot.pods().filter(|(_, other)| concerns(term, pod, other, snapshot));
        let values = others.filter_map(|(node, _)| node.labels.get(&term.topology_key).cloned()).collect();
        Self { key: term.topology_key.clone(), values }
    }

    fn include(&self, node: &NodeInfo) -> bool {
        node.labels.get(&self.key).is_some_and(|value| self.values.contains(value))
    }
}

/// Whether a term of `pod` speaks of `other`.
fn concerns(term: &PodAffinityTerm, pod: &PodInfo, other: &PodInfo, snapshot: &Snapshot) -> bool {
    matches(term.label_selector.as_ref(), other.labels())
        && in_namespaces(term, pod, other.namespace(), snapshot)
        && agree(term.match_label_keys.as_deref(), pod.labels(), other.labels(), true)
        && agree(term.mismatch_label_keys.as_deref(), pod.labels(), other.labels(), false)
}

/// Whether the two have equal (or unequal) values of labels that the first one has.
fn agree(keys: Option<&[String]>, own: &Labels, other: &Labels, equal: bool) -> bool {
    let mut known = keys.unwrap_or_default().iter().filter(|key| own.contains_key(*key));
    known.all(|key| (own.get(key) == other.get(key)) == equal)
}

/// The term's namespaces: those it lists and those it selects; the pod's own when it says neither.
fn in_namespaces(term: &PodAffinityTerm, pod: &PodInfo, namespace: &str, snapshot: &Snapshot) -> bool {
    let listed = term.namespaces.as_deref().unwrap_or_default();
    if listed.is_empty() && term.namespace_selector.is_none() {
        return namespace == pod.namespace();
    }
    let selected = || {
        let labels = snapshot.namespace_labels(namespace);
        term.namespace_selector.is_some() && matches(term.namespace_selector.as_ref(), labels.unwrap_or(&Labels::new()))
    };
    listed.iter().any(|name| name == namespace) || selected()
}

/// Where placed pods refuse this one.
fn refusals(pod: &PodInfo, snapshot: &Snapshot) -> BTreeSet<(String, String)> {
    let mut refused = BTreeSet::new();
    for (node, other) in snapshot.unsociable() {
        let anti = other.spec().affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let terms = anti.and_then(|anti| anti.required_during_scheduling_ignored_during_execution.as_deref());
        for term in terms.unwrap_or_default() {
            if let Some(value) = node.labels.get(&term.topology_key)
                && concerns(term, other, pod, snapshot)
            {
                refused.insert((term.topology_key.clone(), value.clone()));
            }
        }
    }
    refused
}

impl Spread {
    fn now(constraint: &TopologySpreadConstraint, pod: &PodInfo, snapshot: &Snapshot) -> Self {
        let key = &constraint.topology_key;
        let counts_too = |other: &PodInfo| {
            other.namespace() == pod.namespace()
                && other.pod.metadata.deletion_timestamp.is_none()
                && matches(constraint.label_selector.as_ref(), other.labels())
                && agree(constraint.match_label_keys.as_deref(), pod.labels(), other.labels(), true)
        };
        let honours = |policy: &Option<String>, default: bool| match policy.as_deref() {
            Some("Honor") => true,
            Some("Ignore") => false,
            _ => default,
        };
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for node in snapshot.nodes() {
            let Some(value) = node.labels.get(key) else { continue };
            let reachable = !honours(&constraint.node_affinity_policy, true) || matches_node_affinity(pod, node);
            let tolerable =
                !honours(&constraint.node_taints_policy, false) || super::filter::untolerated(pod, node).is_none();
            if reachable && tolerable {
                let here = node.pods.values().filter(|other| counts_too(other)).count();
                *counts.entry(value.clone()).or_insert(0) += i64::try_from(here).unwrap_or(i64::MAX);
            }
        }
        let enough = counts.len() >= usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1);
        let fewest = if enough { counts.values().min().copied().unwrap_or(0) } else { 0 };
        let own = i64::from(matches(constraint.label_selector.as_ref(), pod.labels()));
        Self { key: key.clone(), max_skew: i64::from(constraint.max_skew), own, counts, fewest }
    }
}

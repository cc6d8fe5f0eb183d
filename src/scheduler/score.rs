//! Which of the nodes that a pod fits on suits it best.
//!
//! Each aspect gives a node 0 to 100 points, compared with the other candidates where it has no
//! natural scale; the weights are upstream's for the aspects that upstream has.

use super::filter::dislikes;
use super::snapshot::{NodeInfo, PodInfo};
use super::topology::Neighbours;
use crate::kinds::placement::term_matches;

const BEST: i64 = 100;

const WEIGHT_LEAST_ALLOCATED: i64 = 1;
const WEIGHT_SPREAD: i64 = 2;
const WEIGHT_NODE_AFFINITY: i64 = 2;
const WEIGHT_POD_AFFINITY: i64 = 2;
const WEIGHT_TAINTS: i64 = 3;

/// The best of the candidates. Among equals the one with fewer pods, then the first by name, so that
/// the choice follows from the state alone.
pub fn best<'a>(pod: &PodInfo, candidates: &[&'a NodeInfo], neighbours: &Neighbours) -> Option<&'a NodeInfo> {
    let spread = lower_is_better(candidates, |node| crowd(pod, node, neighbours));
    let taints = lower_is_better(candidates, |node| i64::try_from(dislikes(pod, node)).unwrap_or(i64::MAX));
    let affinity = higher_is_better(candidates, |node| preference(pod, node));
    let company = higher_is_better(candidates, |node| neighbours.liking(node));
    let total = |i: usize, node: &NodeInfo| {
        let at = |points: &[i64]| points.get(i).copied().unwrap_or(0);
        WEIGHT_LEAST_ALLOCATED * least_allocated(pod, node)
            + WEIGHT_SPREAD * at(&spread)
            + WEIGHT_TAINTS * at(&taints)
            + WEIGHT_NODE_AFFINITY * at(&affinity)
            + WEIGHT_POD_AFFINITY * at(&company)
    };
    let ranked = candidates.iter().enumerate();
    let key = |(i, node): &(usize, &&NodeInfo)| (-total(*i, node), node.pods.len());
    ranked.min_by_key(key).map(|(_, node)| *node)
}

/// The share of CPU and memory that is left once the pod is there, in percent, averaged.
fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let left = |used: i64, more: i64, all: i64| {
        let used = used.saturating_add(more);
        if all <= 0 || used > all {
            0
        } else {
            i64::try_from(i128::from(all - used) * 100 / i128::from(all)).unwrap_or(0)
        }
    };
    let cpu = left(node.usage.0, pod.usage.0, node.allocatable.cpu_millis);
    let memory = left(node.usage.1, pod.usage.1, node.allocatable.memory_bytes);
    (cpu + memory) / 2
}

/// How many pods are there that this one should be kept apart from: those its soft spread
/// constraints name, else those of its own controller.
fn crowd(pod: &PodInfo, node: &NodeInfo, neighbours: &Neighbours) -> i64 {
    let siblings = || {
        let owner = pod.owner.as_ref()?;
        node.owners.get(owner).and_then(|count| i64::try_from(*count).ok())
    };
    neighbours.crowd(node).unwrap_or_else(|| siblings().unwrap_or(0))
}

/// The weights of the preferred node affinity terms that match.
fn preference(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let affinity = pod.spec().affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let matching = terms.unwrap_or_default().iter().filter(|term| {
        let preference = &term.preference;
        let empty = preference.match_expressions.is_none() && preference.match_fields.is_none();
        empty || term_matches(preference, &node.name, &node.labels)
    });
    matching.map(|term| i64::from(term.weight)).sum()
}

/// Points from 100 for the lowest amount to 0 for the highest; all 100 where they do not differ.
fn lower_is_better(candidates: &[&NodeInfo], amount: impl Fn(&NodeInfo) -> i64) -> Vec<i64> {
    higher_is_better(candidates, |node| amount(node).saturating_neg())
}

fn higher_is_better(candidates: &[&NodeInfo], amount: impl Fn(&NodeInfo) -> i64) -> Vec<i64> {
    let amounts: Vec<i64> = candidates.iter().map(|node| amount(node)).collect();
    let (low, high) = (amounts.iter().min().copied().unwrap_or(0), amounts.iter().max().copied().unwrap_or(0));
    let span = i128::from(high) - i128::from(low);
    let points = |amount: i64| {
        if span == 0 {
            BEST
        } else {
            i64::try_from((i128::from(amount) - i128::from(low)) * i128::from(BEST) / span).unwrap_or(BEST)
        }
    };
    amounts.into_iter().map(points).collect()
}

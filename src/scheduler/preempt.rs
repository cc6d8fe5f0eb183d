//! Making room: which pods of lower priority have to go so that one of higher priority fits, and where. Pure.
//!
//! As upstream's `DefaultPreemption` has it. On each node where less company would help, all pods of lower priority
//! are thought away. If the pod fits then, they are let back one by one as long as it still does, the most important
//! first and before all those that a disruption budget protects; whoever is left out is a victim. Of the nodes that
//! could take the pod, the one is taken on which the fewest budgets are broken and the least is lost.
//!
//! The pod is then *nominated* to the node ([`Snapshot::nominate`]): until it is there, what its victims leave is not
//! given to pods that are less important. It is scheduled anew when they have gone, wherever that is.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::filter::{Blocker, blockers};
use super::snapshot::{NodeInfo, PodInfo, Snapshot};
use super::topology::Neighbours;
use crate::kinds::placement::matches;
use crate::reconcile::ObjectKey;

/// Nodes that are looked at for one pod; upstream's least number.
const MAX_CANDIDATES: usize = 100;

/// Who has to go, and where the pod may be then.
#[derive(Debug)]
pub struct Plan {
    pub node: String,
    pub victims: Vec<Arc<PodInfo>>,
}

/// Why nobody makes room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoPlan {
    /// The pod asks nobody to.
    Never,
    /// Others are leaving already.
    Waits,
    /// How many nodes each reason speaks against.
    Nowhere { nodes: usize, reasons: BTreeMap<String, usize> },
}

impl fmt::Display for NoPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("not eligible due to preemptionPolicy=Never."),
            Self::Waits => f.write_str("not eligible due to a terminating pod on the nominated node."),
            Self::Nowhere { nodes, reasons } => {
                let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
                write!(f, "0/{nodes} nodes are available: {}.", reasons.join(", "))
            }
        }
    }
}

/// What a disruption budget still allows.
#[derive(Debug)]
struct Budget<'a> {
    of: &'a PodDisruptionBudget,
    left: i32,
}

/// Who has to go so that a pod which fits nowhere fits somewhere. `leaves` tells who is about to go anyway.
pub fn plan(
    snapshot: &Snapshot,
    pod: &PodInfo,
    budgets: &[Arc<PodDisruptionBudget>],
    leaves: impl Fn(&PodInfo) -> bool,
) -> Result<Plan, NoPlan> {
    if pod.spec().preemption_policy.as_deref() == Some("Never") {
        return Err(NoPlan::Never);
    }
    let is_lower = |other: &PodInfo| other.priority() < pod.priority();
    let nominated = snapshot.nomination(&pod.key).and_then(|name| snapshot.node(name));
    if nominated.is_some_and(|node| node.pods.values().any(|other| is_lower(other) && leaves(other))) {
        return Err(NoPlan::Waits);
    }
    let neighbours = Neighbours::of(pod, snapshot);
    let mut reasons = BTreeMap::new();
    let mut against = |reason: String| *reasons.entry(reason).or_insert(0) += 1;
    let (mut nodes, mut best): (usize, Option<(Cost, Plan)>) = (0, None);
    let mut candidates = Vec::new();
    for node in snapshot.nodes() {
        nodes += 1;
        if !blockers(pod, node, &neighbours).iter().all(|blocker| may_end(blocker, pod, node)) {
            against("Preemption is not helpful for scheduling".to_owned());
        } else if !node.has_lower(pod) {
            against("No preemption victims found for incoming pod".to_owned());
        } else if candidates.len() < MAX_CANDIDATES {
            candidates.push(node);
        }
    }
    // Every trial is undone; a copy is only made where one is worth it.
    let mut trial = if candidates.is_empty() { Snapshot::default() } else { snapshot.clone() };
    for node in candidates {
        match victims_on(&mut trial, node, pod, budgets) {
            Ok((victims, broken)) => {
                let cost = Cost::of(&victims, broken);
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, Plan { node: node.name.clone(), victims }));
                }
            }
            Err(blockers) => blockers.iter().for_each(|blocker| against(blocker.to_string())),
        }
    }
    best.map(|(_, plan)| plan).ok_or(NoPlan::Nowhere { nodes, reasons })
}

/// Whether a reason may end when pods go.
fn may_end(blocker: &Blocker, pod: &PodInfo, node: &NodeInfo) -> bool {
    match blocker {
        // Not where even the empty node has too little.
        Blocker::Insufficient(resource) => pod.requests.amount(resource) <= node.allocatable.amount(resource),
        Blocker::Ports | Blocker::TooManyPods => true,
        Blocker::Spread | Blocker::PodAffinity | Blocker::PodAntiAffinity | Blocker::ExistingAntiAffinity => true,
        Blocker::Cordoned | Blocker::OtherNode | Blocker::Taint { .. } | Blocker::NodeAffinity => false,
        Blocker::NoSpreadLabel | Blocker::Claim(_) | Blocker::Volume(_) => false,
    }
}

/// Who of a node would have to go, and how many of them a budget protects; or what is against the pod even then.
/// `trial` is left as it was.
fn victims_on(
    trial: &mut Snapshot,
    node: &NodeInfo,
    pod: &PodInfo,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Result<(Vec<Arc<PodInfo>>, usize), Vec<Blocker>> {
    let lower = node.pods.values().filter(|other| other.priority() < pod.priority());
    let mut lower: Vec<Arc<PodInfo>> = lower.cloned().collect();
    lower.sort_by_key(|other| importance(other));
    for other in &lower {
        trial.take_out(&other.key);
    }
    let against = |trial: &Snapshot| match trial.node(&node.name) {
        Some(there) => blockers(pod, there, &Neighbours::of(pod, trial)),
        None => vec![Blocker::OtherNode],
    };
    let still = against(trial);
    let mut victims = Vec::new();
    let mut broken = 0;
    if still.is_empty() {
        let (protected, others) = split(&lower, budgets);
        let count = protected.len();
        for (index, other) in protected.into_iter().chain(others).enumerate() {
            trial.assume(other.clone(), &node.name);
            if !against(trial).is_empty() {
                trial.take_out(&other.key);
                broken += usize::from(index < count);
                victims.push(other);
            }
        }
        victims.iter().for_each(|victim| trial.assume(victim.clone(), &node.name));
        victims.sort_by_key(|victim| importance(victim));
        return Ok((victims, broken));
    }
    lower.iter().for_each(|other| trial.assume(other.clone(), &node.name));
    Err(still)
}

/// The most important first: by priority, then who has run for longest.
fn importance(pod: &PodInfo) -> (Reverse<i32>, Timestamp, ObjectKey) {
    (Reverse(pod.priority()), started(pod), pod.key.clone())
}

/// A pod that has not started is as one that starts now.
fn started(pod: &PodInfo) -> Timestamp {
    let started = pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    started.map_or(Timestamp::MAX, |time| time.0)
}

/// Those whose going would break a budget, and the others.
fn split(pods: &[Arc<PodInfo>], budgets: &[Arc<PodDisruptionBudget>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let left = |of: &PodDisruptionBudget| of.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or(0);
    let mut budgets: Vec<Budget<'_>> = budgets.iter().map(|of| Budget { of, left: left(of) }).collect();
    pods.iter().cloned().partition(|pod| {
        let mut breaks = false;
        for budget in budgets.iter_mut().filter(|budget| covers(budget.of, pod)) {
            budget.left -= 1;
            breaks |= budget.left < 0;
        }
        breaks
    })
}

/// Whether a budget is about a pod that it does not count as gone already.
fn covers(budget: &PodDisruptionBudget, pod: &PodInfo) -> bool {
    let spec = budget.spec.as_ref();
    let gone = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
    budget.metadata.namespace.as_deref() == Some(pod.namespace())
        && matches(spec.and_then(|spec| spec.selector.as_ref()), pod.labels())
        && !gone.is_some_and(|gone| gone.contains_key(&*pod.key.name))
}

/// What a plan costs, the dearest first: budgets, the most important victim, their importance together, their number,
/// and that the most important ones have run for long.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    broken: usize,
    highest: i32,
    sum: i64,
    victims: usize,
    earliest: Reverse<Timestamp>,
}

impl Cost {
    fn of(victims: &[Arc<PodInfo>], broken: usize) -> Self {
        let highest = victims.iter().map(|victim| victim.priority()).max().unwrap_or(i32::MIN);
        let at_top = victims.iter().filter(|victim| victim.priority() == highest);
        Self {
            broken,
            highest,
            // None counts for less than nothing, so that fewer are better.
            sum: victims.iter().map(|victim| i64::from(victim.priority()) + i64::from(i32::MAX) + 1).sum(),
            victims: victims.len(),
            earliest: Reverse(at_top.map(|victim| started(victim)).min().unwrap_or(Timestamp::MAX)),
        }
    }
}

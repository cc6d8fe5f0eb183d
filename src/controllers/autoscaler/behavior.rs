//! What holds an autoscaler back: windows over which it waits for a steadier opinion, rates at which it
//! may change, and the bounds of its spec.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};
use k8s_openapi::api::core::v1::Pod;

use super::gather;
use crate::controllers::pods;

/// The longest window that a spec can ask for, and the longest period of a policy.
const LONGEST: SignedDuration = SignedDuration::from_hours(1);
/// How long a recommendation to shrink waits where nothing is said.
const DEFAULT_DOWN_WINDOW_SECONDS: i32 = 300;
/// More opinions than fit into an hour at one a look.
const MAX_KEPT: usize = 1024;

/// What one autoscaler has thought and done lately.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    selector: String,
    /// What was recommended, before anything held it back.
    recommendations: VecDeque<(Timestamp, i32)>,
    /// By how many the replicas were changed.
    changes: VecDeque<(Timestamp, i32)>,
}

impl Memory {
    /// Remembers the selector, and that the replicas which are there were once wanted.
    pub fn begin(&mut self, now: Timestamp, selector: &str, replicas: i32) {
        selector.clone_into(&mut self.selector);
        if self.recommendations.is_empty() {
            self.recommendations.push_back((now, replicas));
        }
    }

    pub fn recommend(&mut self, now: Timestamp, replicas: i32) {
        keep(&mut self.recommendations, now, replicas);
    }

    pub fn rescaled(&mut self, now: Timestamp, from: i32, to: i32) {
        keep(&mut self.changes, now, to.saturating_sub(from));
    }

    pub fn selects_any(&self, pods: &[Arc<Pod>]) -> bool {
        let Some(selector) = gather::selector(&self.selector) else { return false };
        pods.iter().any(|pod| pods::matches(&selector, pod.metadata.labels.as_ref()))
    }

    /// The recommendations of the last so many seconds.
    fn recent(&self, now: Timestamp, seconds: i32) -> impl Iterator<Item = i32> {
        let since = before(now, seconds);
        self.recommendations.iter().filter(move |(at, _)| *at > since).map(|(_, replicas)| *replicas)
    }

    /// How many replicas there were so many seconds ago.
    fn at_the_start_of(&self, now: Timestamp, seconds: i32, replicas: i32) -> i32 {
        let since = before(now, seconds);
        let changed: i32 = self.changes.iter().filter(|(at, _)| *at > since).map(|(_, by)| *by).sum();
        replicas.saturating_sub(changed)
    }
}

fn before(now: Timestamp, seconds: i32) -> Timestamp {
    now.checked_sub(SignedDuration::from_secs(seconds.into())).unwrap_or(Timestamp::MIN)
}

fn keep(list: &mut VecDeque<(Timestamp, i32)>, now: Timestamp, value: i32) {
    let since = now.checked_sub(LONGEST).unwrap_or(Timestamp::MIN);
    list.retain(|(at, _)| *at > since);
    if list.len() >= MAX_KEPT {
        list.pop_front();
    }
    list.push_back((now, value));
}

/// What is wanted, and within what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub now: Timestamp,
    /// How many there are.
    pub current: i32,
    /// How many the metrics ask for.
    pub desired: i32,
    pub least: i32,
    pub most: i32,
    pub behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
}

/// A reason and a message of a condition.
pub(super) type Words = (&'static str, &'static str);

/// What comes of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    pub replicas: i32,
    /// Why the metrics' opinion was not followed.
    pub stabilized: Option<Words>,
    /// Whether a bound or a rate was met, and which.
    pub limited: (bool, Words),
}

const WITHIN: Words = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FEW: Words = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: Words = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const UP_LIMIT: Words = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Words =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const UP_STABILIZED: Words = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: Words = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);

/// Holds a wish back, and remembers it.
pub(super) fn grant(wish: &Wish<'_>, memory: &mut Memory) -> Granted {
    let up = wish.behavior.and_then(|behavior| behavior.scale_up.as_ref());
    let down = wish.behavior.and_then(|behavior| behavior.scale_down.as_ref());
    let window =
        |rules: Option<&HPAScalingRules>, none| rules.and_then(|r| r.stabilization_window_seconds).unwrap_or(none);
    let lowest = memory.recent(wish.now, window(up, 0)).fold(wish.desired, i32::min);
    let highest = memory.recent(wish.now, window(down, DEFAULT_DOWN_WINDOW_SECONDS)).fold(wish.desired, i32::max);
    memory.recommend(wish.now, wish.desired);
    // As many as there are, unless even the window's lowest is more, or its highest less.
    let steady = match wish.behavior {
        Some(_) => wish.current.max(lowest).min(highest),
        None => highest,
    };
    let words = if wish.behavior.is_some() && wish.desired >= wish.current { UP_STABILIZED } else { DOWN_STABILIZED };
    let (replicas, words_of_limit) = match wish.behavior {
        Some(_) if steady > wish.current => {
            let limit = up_limit(wish, memory, up);
            at_most(steady, wish.most, limit)
        }
        Some(_) if steady < wish.current => {
            let limit = down_limit(wish, memory, down);
            let (bound, words) = if limit > wish.least { (limit, DOWN_LIMIT) } else { (wish.least, TOO_FEW) };
            if steady < bound { (bound, words) } else { (steady, WITHIN) }
        }
        Some(_) => (steady, WITHIN),
        None if steady < wish.least => (wish.least, TOO_FEW),
        None => at_most(steady, wish.most, wish.current.saturating_mul(2).max(4)),
    };
    Granted {
        replicas,
        stabilized: (steady != wish.desired).then_some(words),
        limited: (replicas != steady, words_of_limit),
    }
}

fn at_most(wanted: i32, most: i32, limit: i32) -> (i32, Words) {
    let (bound, words) = if most > limit { (limit, UP_LIMIT) } else { (most, TOO_MANY) };
    if wanted > bound { (bound, words) } else { (wanted, WITHIN) }
}

/// The most that the policies of growing allow.
fn up_limit(wish: &Wish<'_>, memory: &Memory, rules: Option<&HPAScalingRules>) -> i32 {
    let grown = |policy: &HPAScalingPolicy| {
        let start = memory.at_the_start_of(wish.now, policy.period_seconds, wish.current);
        match policy.type_.as_str() {
            "Pods" => start.saturating_add(policy.value),
            _ => share(start, 100 + i64::from(policy.value), true),
        }
    };
    limit(wish.current, rules, grown, false).max(wish.current)
}

/// The least that the policies of shrinking allow.
fn down_limit(wish: &Wish<'_>, memory: &Memory, rules: Option<&HPAScalingRules>) -> i32 {
    let shrunk = |policy: &HPAScalingPolicy| {
        let start = memory.at_the_start_of(wish.now, policy.period_seconds, wish.current);
        match policy.type_.as_str() {
            "Pods" => start.saturating_sub(policy.value),
            _ => share(start, 100 - i64::from(policy.value), false),
        }
    };
    limit(wish.current, rules, shrunk, true).min(wish.current)
}

/// The limit of the policy that the rules choose: `Max` is the one that changes most.
fn limit(current: i32, rules: Option<&HPAScalingRules>, of: impl Fn(&HPAScalingPolicy) -> i32, shrinking: bool) -> i32 {
    let Some(rules) = rules else { return current };
    let limits = rules.policies.iter().flatten().map(of);
    // What changes least is the lowest limit of growing, and the highest of shrinking.
    let least = match rules.select_policy.as_deref() {
        Some("Disabled") => return current,
        policy => policy == Some("Min"),
    };
    let chosen = if least == shrinking { limits.max() } else { limits.min() };
    chosen.unwrap_or(current)
}

/// So many percent of a number, rounded up or towards zero.
fn share(number: i32, percent: i64, up: bool) -> i32 {
    let product = i64::from(number) * percent;
    let whole = product / 100 + i64::from(up && product % 100 > 0);
    i32::try_from(whole).unwrap_or(i32::MAX)
}

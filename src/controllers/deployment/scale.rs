//! How many pods each ReplicaSet of a Deployment may have: arithmetic only.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::sets::{Set, recreates};

pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// What a Deployment asks for, resolved to pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub desired: i32,
    pub surge: i32,
    pub unavailable: i32,
}

impl Bounds {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let Some(spec) = deployment.spec.as_ref() else { return Self { desired: 0, surge: 0, unavailable: 0 } };
        let desired = spec.replicas.unwrap_or(1).max(0);
        if recreates(deployment) {
            return Self { desired, surge: 0, unavailable: 0 };
        }
        let (surge, unavailable) = fence_posts(spec, desired);
        Self { desired, surge, unavailable: unavailable.min(desired) }
    }

    /// Pods at most.
    pub(super) fn most(&self) -> i32 {
        self.desired.saturating_add(self.surge)
    }

    /// Available pods at least.
    pub(super) fn least(&self) -> i32 {
        self.desired - self.unavailable
    }
}

/// maxSurge rounded up and maxUnavailable rounded down; if both come to nothing, one may be
/// unavailable, or the rollout could not move.
fn fence_posts(spec: &DeploymentSpec, desired: i32) -> (i32, i32) {
    let rolling = spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let quarter = || IntOrString::String("25%".to_owned());
    let surge = rolling.and_then(|r| r.max_surge.clone()).unwrap_or_else(quarter);
    let unavailable = rolling.and_then(|r| r.max_unavailable.clone()).unwrap_or_else(quarter);
    let (surge, unavailable) = (resolve(&surge, desired, true), resolve(&unavailable, desired, false));
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

fn resolve(value: &IntOrString, of: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(n) => (*n).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0).clamp(0, 1_000_000);
            let hundredths = i64::from(of) * percent + if round_up { 99 } else { 0 };
            i32::try_from(hundredths / 100).unwrap_or(i32::MAX)
        }
    }
}

/// How many pods the new set may have now in a rolling update.
pub(super) fn room_for_new(bounds: Bounds, new: &Set, old: &[&Set]) -> i32 {
    let current: i32 = old.iter().map(|s| s.at_most()).sum::<i32>() + new.at_most();
    // An old set that has yet to notice its new size may still have more pods than anybody knows.
    if current >= bounds.most() || !old.iter().all(|s| s.is_settled()) {
        return new.replicas();
    }
    let more = (bounds.most() - current).min(bounds.desired - new.replicas());
    new.replicas() + more.max(0)
}

/// The new sizes of the old sets, in their order, in a rolling update: first without the pods that
/// are not available, then as many as availability allows.
pub(super) fn sizes_of_old(bounds: Bounds, new: Option<&Set>, old: &[&Set]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|s| s.replicas()).collect();
    let new_replicas = new.map_or(0, Set::replicas);
    let new_available = new.map_or(0, Set::available);
    let all: i32 = sizes.iter().sum::<i32>() + new_replicas;
    let mut spare = all - bounds.least() - (new_replicas - new_available);
    if spare <= 0 {
        return sizes;
    }
    for (set, size) in old.iter().zip(&mut sizes) {
        let go = spare.min(*size - set.available()).max(0);
        *size -= go;
        spare -= go;
    }
    let available: i32 = old.iter().zip(&sizes).map(|(s, size)| s.available().min(*size)).sum::<i32>() + new_available;
    let mut spare = (available - bounds.least()).min(spare);
    for size in &mut sizes {
        let go = spare.min(*size).max(0);
        *size -= go;
        spare -= go;
    }
    sizes
}

/// Proportional scaling: `sets` (those that have pods) share the change of size by their parts of the
/// whole, and the greatest takes what rounding leaves. Returns the new sizes in the order given.
pub(super) fn proportional(bounds: Bounds, fallback_max: i32, sets: &[&Set]) -> Vec<i32> {
    let mut sizes: Vec<i32> = sets.iter().map(|s| s.replicas()).collect();
    let allowed = if bounds.desired > 0 { bounds.most() } else { 0 };
    let to_add = allowed - sizes.iter().sum::<i32>();
    if to_add == 0 {
        return sizes;
    }
    let mut order: Vec<usize> = (0..sets.len()).collect();
    // The greatest first; of equals the younger when growing, the older when shrinking.
    order.sort_by(|&a, &b| {
        let (left, right) = (&sets[a], &sets[b]);
        let age = left.age_key().cmp(&right.age_key());
        right.replicas().cmp(&left.replicas()).then(if to_add > 0 { age.reverse() } else { age })
    });
    let mut added = 0;
    for &i in &order {
        let share = share(bounds, fallback_max, sets[i]);
        let left = to_add - added;
        let share = if to_add > 0 { share.min(left).max(0) } else { share.max(left).min(0) };
        sizes[i] = (sizes[i] + share).max(0);
        added += share;
    }
    if let Some(&first) = order.first() {
        sizes[first] = (sizes[first] + to_add - added).max(0);
    }
    sizes
}

/// How much a set would grow if it kept its part of the whole.
fn share(bounds: Bounds, fallback_max: i32, set: &Set) -> i32 {
    let replicas = set.replicas();
    if bounds.desired == 0 {
        return -replicas;
    }
    let recorded = set.annotation(MAX).and_then(|m| m.parse().ok()).filter(|m: &i32| *m > 0);
    let before = f64::from(recorded.unwrap_or(fallback_max).max(1));
    let scaled = (f64::from(replicas) * f64::from(bounds.most()) / before).round();
    // In range: a count of pods times a ratio of counts, and `as` saturates.
    scaled as i32 - replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_surge_up_and_unavailable_down() {
        let percent = |p: &str| IntOrString::String(p.to_owned());
        for (value, of, up, down) in
            [("25%", 10, 3, 2), ("25%", 4, 1, 1), ("25%", 1, 1, 0), ("0%", 9, 0, 0), ("100%", 7, 7, 7)]
        {
            assert_eq!(resolve(&percent(value), of, true), up, "{value} of {of}");
            assert_eq!(resolve(&percent(value), of, false), down, "{value} of {of}");
        }
        assert_eq!(resolve(&IntOrString::Int(3), 10, true), 3);
        assert_eq!(resolve(&percent("nonsense"), 10, true), 0);
    }
}

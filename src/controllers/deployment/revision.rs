//! The numbers by which `kubectl rollout history` and `undo` know the ReplicaSets, and how many old
//! ones are kept.

use k8s_openapi::api::apps::v1::Deployment;

use super::scale::{DESIRED, MAX};
use super::sets::Set;
use crate::reconcile::Write;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Older numbers fall off the history beyond this many characters.
const MAX_HISTORY: usize = 2_000;
/// Annotations of a Deployment that say nothing about a ReplicaSet.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
];

pub(super) fn revision(set: &Set) -> i64 {
    set.annotation(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// The revision that the new set has, given all sets.
pub(super) fn next_revision<'a>(old: impl Iterator<Item = &'a Set>) -> i64 {
    old.map(revision).max().unwrap_or(0).saturating_add(1)
}

/// Copies the Deployment's annotations to its new set and gives it the revision. A set that had an
/// earlier one (a rollback) remembers it.
pub(super) fn annotate(set: &mut Set, deployment: &Deployment, next: i64) {
    for (name, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&name.as_str()) {
            set.set_annotation(name, value.clone());
        }
    }
    let had = set.annotation(REVISION).map(str::to_owned);
    if revision(set) >= next {
        return;
    }
    set.set_annotation(REVISION, next.to_string());
    if let Some(had) = had {
        let history = with(set.annotation(HISTORY), had);
        set.set_annotation(HISTORY, history);
    }
}

fn with(history: Option<&str>, revision: String) -> String {
    let mut revisions: Vec<&str> = history.unwrap_or_default().split(',').filter(|r| !r.is_empty()).collect();
    revisions.push(&revision);
    while revisions.len() > 1 && revisions.iter().map(|r| r.len() + 1).sum::<usize>() > MAX_HISTORY {
        revisions.remove(0);
    }
    revisions.join(",")
}

/// The deletions that bring the old sets down to the history's limit: the earliest revisions first,
/// and none that still has or wants pods.
pub(super) fn clean_up(deployment: &Deployment, old: &[&Set]) -> Vec<Write> {
    let limit = deployment.spec.as_ref().and_then(|s| s.revision_history_limit);
    let Some(limit) = limit.and_then(|l| usize::try_from(l).ok()) else { return Vec::new() };
    let mut alive: Vec<&&Set> = old.iter().filter(|s| s.wanted.metadata.deletion_timestamp.is_none()).collect();
    alive.sort_by_key(|s| revision(s));
    let surplus = alive.len().saturating_sub(limit);
    let idle = |set: &&&&Set| set.replicas() == 0 && set.status().replicas == 0 && set.is_settled();
    let gone = alive.iter().take(surplus).filter(idle);
    gone.filter_map(|set| set.before.as_deref()).map(Write::delete).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_grows_and_forgets_its_beginning() {
        assert_eq!(with(None, "1".into()), "1");
        assert_eq!(with(Some("1,3"), "5".into()), "1,3,5");
        let long = (0..1_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let history = with(Some(&long), "1000".into());
        assert!(history.len() <= MAX_HISTORY && history.ends_with(",1000"), "{history}");
    }
}

//! From one template to the next: old pods go first within `maxUnavailable`, or new ones come first
//! within `maxSurge`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Context;
use super::nodes::{Changes, Place};

/// A number, or that part of `total`, rounded up.
fn scaled(value: Option<&IntOrString>, total: usize) -> usize {
    match value {
        None => 0,
        Some(IntOrString::Int(n)) => usize::try_from(*n).unwrap_or(0),
        Some(IntOrString::String(text)) => {
            let percent: usize = text.trim_end_matches('%').parse().unwrap_or(0);
            (total * percent).div_ceil(100)
        }
    }
}

/// `maxUnavailable` and `maxSurge`; `None` where the user deletes old pods by hand.
fn limits(context: &Context<'_>, desired: usize) -> Option<(usize, usize)> {
    let strategy = context.spec.update_strategy.as_ref();
    if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        return None;
    }
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), desired);
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), desired);
    // Percentages of few nodes may both come to nothing: it must go on.
    Some(if unavailable == 0 && surge == 0 { (1, 0) } else { (unavailable, surge) })
}

/// Whether new pods come before old ones go.
pub(super) fn surges(context: &Context<'_>) -> bool {
    limits(context, context.nodes.len()).is_some_and(|(_, surge)| surge > 0)
}

/// A pod, where there is one.
type Found<'a> = Option<&'a Arc<Pod>>;

/// The new and the old pod of a node; `None` where there are more, which is not the rollout's to solve.
fn pair<'a>(context: &Context<'a>, pods: &[&'a Arc<Pod>]) -> Option<(Found<'a>, Found<'a>)> {
    let (mut new, mut old) = (None, None);
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let place = if context.is_current(pod) { &mut new } else { &mut old };
        if place.replace(*pod).is_some() {
            return None;
        }
    }
    Some((new, old))
}

/// The next step of a rollout, for a set whose nodes all have their pods.
pub(super) fn roll<'a>(context: &Context<'a>, places: &BTreeMap<String, Place>) -> Changes<'a> {
    let nodes: Vec<&String> = places.iter().filter(|(_, place)| **place == Place::Runs).map(|(node, _)| node).collect();
    match limits(context, nodes.len()) {
        None => Changes::default(),
        Some((unavailable, 0)) => delete_first(context, &nodes, unavailable),
        Some((_, surge)) => create_first(context, &nodes, surge),
    }
}

fn delete_first<'a>(context: &Context<'a>, nodes: &[&String], max_unavailable: usize) -> Changes<'a> {
    let (mut unavailable, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
    for node in nodes {
        match pair(context, context.pods_on(node)) {
            Some((Some(new), None)) => unavailable += usize::from(!context.is_available(new)),
            // It serves nobody: replacing it costs nothing.
            Some((None, Some(old))) if !context.is_available(old) => {
                broken.push(old);
                unavailable += 1;
            }
            Some((None, Some(old))) => candidates.push(old),
            _ => unavailable += 1,
        }
    }
    candidates.truncate(max_unavailable.saturating_sub(unavailable));
    broken.append(&mut candidates);
    Changes { delete: broken, create: Vec::new() }
}

fn create_first<'a>(context: &Context<'a>, nodes: &[&String], max_surge: usize) -> Changes<'a> {
    let (mut surging, mut delete, mut broken, mut candidates) = (0, Vec::new(), Vec::new(), Vec::new());
    for node in nodes {
        match pair(context, context.pods_on(node)) {
            None => surging += 1,
            Some((_, None)) => {}
            Some((None, Some(old))) if !context.is_available(old) => broken.push((*node).clone()),
            Some((None, Some(_))) => candidates.push((*node).clone()),
            Some((Some(new), Some(old))) if context.is_available(new) => delete.push(old),
            Some((Some(_), Some(_))) => surging += 1,
        }
    }
    candidates.truncate(max_surge.saturating_sub(surging));
    broken.append(&mut candidates);
    Changes { delete, create: broken }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_rounded_up() {
        let percent = |text: &str| Some(IntOrString::String(text.to_owned()));
        for (value, total, wanted) in
            [(percent("10%"), 5, 1), (percent("50%"), 4, 2), (Some(IntOrString::Int(3)), 1, 3), (None, 9, 0)]
        {
            assert_eq!(scaled(value.as_ref(), total), wanted);
        }
    }
}

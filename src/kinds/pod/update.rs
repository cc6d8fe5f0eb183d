//! What may change in a pod once it is there: hardly anything.

use serde_json::{Value, json};

use super::{container, dump, scheduling};
use crate::kinds::field::{Errors, Field, Reason};
use crate::kinds::{diff, meta, names};

const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
`spec.tolerations` (only additions to existing tolerations),\
`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// The mirror annotation names a pod that a node made of a file; only the node may set it.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// The main endpoint; the new pod has been checked as a whole before.
pub fn validate(errors: &mut Errors, new: &Value, old: &Value) {
    annotations(errors, new, old);
    let (new_spec, old_spec) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
    for list in ["containers", "initContainers"] {
        let (new_list, old_list) = (new_spec.get(list), old_spec.get(list));
        if new_list.len() != old_list.len() {
            errors.forbidden(&new_list, "pod updates may not add or remove containers");
            return;
        }
        for container in new_list.items() {
            let image = container.get("image");
            if image.is_empty() {
                errors.required(&image, "");
            }
            container::image_padding(errors, &container);
        }
    }
    if !deadline(errors, &new_spec.get("activeDeadlineSeconds"), &old_spec.get("activeDeadlineSeconds")) {
        return;
    }
    tolerations(errors, &new_spec.get("tolerations"), &old_spec.get("tolerations"));
    gates(errors, &new_spec.get("schedulingGates"), &old_spec.get("schedulingGates"));
    the_rest(errors, &new_spec, &old_spec);
}

fn annotations(errors: &mut Errors, new: &Value, old: &Value) {
    let at = Field::root(new).get("metadata").get("annotations").key(MIRROR_ANNOTATION);
    let before = &old["metadata"]["annotations"][MIRROR_ANNOTATION];
    if at.value == before {
        return;
    }
    match before.is_null() {
        true => errors.forbidden(&at, "may not add mirror pod annotation"),
        false => errors.forbidden(&at, "may not remove or update mirror pod annotation"),
    }
}

/// May be set, and may only shrink. Returns whether upstream goes on looking.
fn deadline(errors: &mut Errors, new: &Field<'_>, old: &Field<'_>) -> bool {
    match (new.int(), old.int()) {
        (Some(seconds), _) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            errors.invalid(new, names::range(0, i64::from(i32::MAX)));
            false
        }
        (Some(seconds), Some(before)) if before < seconds => {
            errors.invalid(new, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            errors.invalid(new, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

/// Existing tolerations stay, but for their seconds.
fn tolerations(errors: &mut Errors, new: &Field<'_>, old: &Field<'_>) {
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        if let Some(map) = toleration.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        toleration
    };
    let kept = |before: &Field<'_>| {
        let before = without_seconds(before.value);
        new.items().any(|toleration| meta::same(&without_seconds(toleration.value), &before))
    };
    if !old.items().all(|before| kept(&before)) {
        errors.forbidden(new, "existing toleration can not be modified except its tolerationSeconds");
        return;
    }
    scheduling::tolerations(errors, new);
}

/// Gates are only ever taken away.
fn gates(errors: &mut Errors, new: &Field<'_>, old: &Field<'_>) {
    for gate in new.items() {
        let name = gate.get("name");
        if !old.items().any(|before| before.get("name").str() == name.str()) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", name.str());
            errors.forbidden(&name, detail);
        }
    }
}

/// Puts back what may change, and refuses any other difference, showing it.
fn the_rest(errors: &mut Errors, new: &Field<'_>, old: &Field<'_>) {
    if meta::same(new.value, old.value) {
        return;
    }
    let mut munged = new.value.clone();
    for list in ["containers", "initContainers"] {
        let containers = munged.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, before) in containers.zip(old.get(list).items()) {
            container["image"] = before.get("image").value.clone();
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        meta::take_from(&mut munged, old.value, field);
    }
    let grace = |spec: &Value| spec["terminationGracePeriodSeconds"].as_i64();
    if grace(old.value).is_some_and(|seconds| seconds < 0) && grace(&munged) == Some(1) {
        meta::take_from(&mut munged, old.value, "terminationGracePeriodSeconds");
    }
    if !old.get("schedulingGates").is_empty() {
        gated(errors, &mut munged, new, old);
    }
    if !meta::same(&munged, old.value) {
        let difference = diff::unified(&dump::lines(old.value), &dump::lines(&munged));
        errors.forbidden(new, format!("{MUTABLE}\n{difference}"));
    }
}

/// A pod that waits at a gate may still be told where to run: its node selector may grow, its
/// required node affinity may be narrowed.
fn gated(errors: &mut Errors, munged: &mut Value, new: &Field<'_>, old: &Field<'_>) {
    let (selector, before) = (new.get("nodeSelector"), old.get("nodeSelector"));
    if !meta::same(selector.value, before.value) {
        let kept = before.entries().all(|(key, value)| selector.key(key).value == value.value);
        if !kept {
            errors.push(
                Reason::Invalid,
                &selector.path,
                Some(selector.value.clone()),
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            );
        }
        meta::take_from(munged, old.value, "nodeSelector");
    }
    let at = new.get("affinity").get("nodeAffinity");
    let before = old.get("affinity").get("nodeAffinity");
    if meta::same(at.value, before.value) {
        return;
    }
    node_affinity(errors, &at, &before);
    let mut affinity = if munged["affinity"].is_object() { munged["affinity"].take() } else { json!({}) };
    if let Some(map) = affinity.as_object_mut() {
        match before.exists() {
            true => map.insert("nodeAffinity".to_owned(), before.value.clone()),
            false => map.remove("nodeAffinity"),
        };
    }
    let empty = meta::is_empty(&affinity) && !old.get("affinity").exists();
    munged["affinity"] = if empty { Value::Null } else { affinity };
}

/// Terms of a required node affinity may only get more requirements.
fn node_affinity(errors: &mut Errors, new: &Field<'_>, old: &Field<'_>) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let before = old.get(REQUIRED);
    if !before.exists() {
        return;
    }
    let now = new.get(REQUIRED);
    if !now.exists() {
        errors.invalid(new, "no deletions are allowed");
        return;
    }
    let (terms, old_terms) = (now.get("nodeSelectorTerms"), before.get("nodeSelectorTerms"));
    if !old_terms.is_empty() && terms.len() != old_terms.len() {
        errors.invalid(&terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed");
        return;
    }
    for (term, old_term) in terms.items().zip(old_terms.items()) {
        let grown = ["matchExpressions", "matchFields"].iter().all(|list| {
            let (list, old_list) = (term.get(list), old_term.get(list));
            list.len() >= old_list.len()
                && list.items().zip(old_list.items()).all(|(a, b)| meta::same(a.value, b.value))
        });
        if !grown {
            errors.invalid(&term, "only additions are allowed (no mutations or deletions)");
        }
    }
}

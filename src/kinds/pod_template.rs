//! The pod template of a workload, and the workload's selector, which must select what it makes.

use serde_json::Value;

use super::field::{Errors, Field, Reason};
use super::pod::spec::{self, Context};
use super::pod::warnings;
use super::{meta, selector, workload};

/// Upstream's words for a selector that does not select its own template.
pub const NO_MATCH: &str = "`selector` does not match template `labels`";

/// `spec.selector` and `spec.template` of a Deployment or ReplicaSet.
pub fn validate(errors: &mut Errors, owner_spec: &Field<'_>) {
    let selector = owner_spec.get("selector");
    match selector.value {
        Value::Null => errors.required(&selector, ""),
        _ => {
            selector::validate(errors, &selector);
            // Upstream says "deployment" for ReplicaSets, too.
            validate_selects_some(errors, &selector, "deployment");
        }
    }
    if selector.exists() && !is_well_formed(selector.value) {
        errors.push_text(Reason::Invalid, &selector.path, selector_text(selector.value), "invalid label selector");
        return;
    }
    let template = owner_spec.get("template");
    let labels = template.get("metadata").get("labels");
    // No selector selects nothing; an empty one selects everything.
    if !selector.exists() || !workload::selects(selector.value, labels.value) {
        errors.invalid(&labels, NO_MATCH);
    }
    validate_template(errors, &template);
    validate_runs_for_ever(errors, &template.get("spec"), "ReplicaSet");
}

/// A workload may not select every pod; `whose` is as upstream's words have it.
pub fn validate_selects_some(errors: &mut Errors, selector: &Field<'_>, whose: &str) {
    if selector.value.as_object().is_some_and(|map| map.values().all(meta::is_empty)) {
        let why = format!("empty selector is invalid for {whose}");
        errors.push_text(Reason::Invalid, &selector.path, selector_text(selector.value), why);
    }
}

/// What pods that are to run for ever cannot ask for; `kind` is as upstream's words have it.
pub fn validate_runs_for_ever(errors: &mut Errors, pod_spec: &Field<'_>, kind: &str) {
    let restart = pod_spec.get("restartPolicy");
    if restart.str() != "Always" {
        errors.not_supported(&restart, &["Always"]);
    }
    let deadline = pod_spec.get("activeDeadlineSeconds");
    if deadline.exists() {
        errors.forbidden(&deadline, format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

/// A template, but for what its kind demands of the restart policy and the like.
pub fn validate_template(errors: &mut Errors, template: &Field<'_>) {
    let metadata = template.get("metadata");
    meta::validate_labels(errors, &metadata.get("labels"));
    meta::validate_annotations(errors, &metadata.get("annotations"));
    let spec = template.get("spec");
    spec::validate(errors, &spec, &Context { is_pod: false, pod_name: "" });
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        errors.forbidden(&ephemeral, "ephemeral containers not allowed in pod template");
    }
}

/// Whether a selector can be evaluated at all.
pub fn is_well_formed(selector: &Value) -> bool {
    let mut errors = Errors::default();
    selector::validate(&mut errors, &Field::root(selector));
    errors.is_empty()
}

/// A selector as upstream's struct writes it: labels before expressions; `null` for none.
pub fn selector_text(selector: &Value) -> String {
    if selector.is_null() {
        return "null".to_owned();
    }
    let mut parts = Vec::new();
    for name in ["matchLabels", "matchExpressions"] {
        if let Some(value) = selector.get(name).filter(|value| !meta::is_empty(value)) {
            parts.push(format!("\"{name}\":{value}"));
        }
    }
    format!("{{{}}}", parts.join(","))
}

/// A workload's selector decides which pods are its own: it never changes.
pub fn validate_selector_update(errors: &mut Errors, new: &Value, old: &Value) {
    let (new, old) = (Field::root(new).get("spec").get("selector"), &old["spec"]["selector"]);
    if !meta::same(new.value, old) {
        errors.push_text(Reason::Invalid, &new.path, selector_text(new.value), "field is immutable");
    }
}

/// The warnings of a workload's template, unless it is what it was.
pub fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    match old {
        Some(old) if meta::same(&new["spec"]["template"], &old["spec"]["template"]) => Vec::new(),
        _ => warnings::of(&Field::root(new).get("spec").get("template").get("spec")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_selector_is_shown_in_the_struct_s_order() {
        assert_eq!(selector_text(&Value::Null), "null");
        assert_eq!(selector_text(&json!({})), "{}");
        let selector = json!({"matchExpressions": [{"key": "a", "operator": "Exists"}], "matchLabels": {"b": "c"}});
        assert_eq!(
            selector_text(&selector),
            r#"{"matchLabels":{"b":"c"},"matchExpressions":[{"key":"a","operator":"Exists"}]}"#
        );
    }
}

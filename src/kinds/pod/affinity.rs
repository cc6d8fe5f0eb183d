//! Node affinity, pod affinity and anti-affinity.

use crate::kinds::field::{Errors, Field};
use crate::kinds::names;
use crate::kinds::selector;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub fn validate(errors: &mut Errors, at: &Field<'_>) {
    let node = at.get("nodeAffinity");
    let required = node.get(REQUIRED);
    if required.exists() {
        node_selector(errors, &required);
    }
    for term in node.get(PREFERRED).items() {
        weight(errors, &term);
        node_selector_term(errors, &term.get("preference"), false);
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let pods = at.get(name);
        for term in pods.get(REQUIRED).items() {
            pod_term(errors, &term);
        }
        for term in pods.get(PREFERRED).items() {
            weight(errors, &term);
            pod_term(errors, &term.get("podAffinityTerm"));
        }
    }
}

fn weight(errors: &mut Errors, term: &Field<'_>) {
    let weight = term.get("weight");
    let value = weight.int().unwrap_or(0);
    if !(1..=100).contains(&value) {
        errors.invalid_value(&weight, value, "must be in the range 1-100");
    }
}

/// A selector of nodes: terms of which one must match.
pub fn node_selector(errors: &mut Errors, at: &Field<'_>) {
    let terms = at.get("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&terms, "must have at least one node selector term");
    }
    for term in terms.items() {
        node_selector_term(errors, &term, true);
    }
}

/// Preferred terms may have values that no label can have: they always could.
fn node_selector_term(errors: &mut Errors, term: &Field<'_>, check_values: bool) {
    for requirement in term.get("matchExpressions").items() {
        node_requirement(errors, &requirement, check_values);
    }
    for requirement in term.get("matchFields").items() {
        node_field(errors, &requirement);
    }
}

fn node_requirement(errors: &mut Errors, at: &Field<'_>, check_values: bool) {
    let (operator, values, key) = (at.get("operator"), at.get("values"), at.get("key"));
    match operator.str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(&values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        _ => errors.invalid_str(&operator, "not a valid selector operator"),
    }
    for message in names::qualified_name(key.str()) {
        errors.invalid_str(&key, message);
    }
    if check_values {
        for value in values.items() {
            errors.invalid_each(&value, names::label_value(value.str()));
        }
    }
}

fn node_field(errors: &mut Errors, at: &Field<'_>) {
    let (operator, values, key) = (at.get("operator"), at.get("values"), at.get("key"));
    match operator.str() {
        "In" | "NotIn" if values.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(&values, detail);
        }
        "In" | "NotIn" => {}
        _ => errors.invalid_str(&operator, "not a valid selector operator"),
    }
    if key.str() != "metadata.name" {
        errors.invalid_str(&key, "not a valid field selector key");
        return;
    }
    for value in values.items() {
        errors.invalid_each(&value, names::dns1123_subdomain(value.str()));
    }
}

fn pod_term(errors: &mut Errors, term: &Field<'_>) {
    for name in ["labelSelector", "namespaceSelector"] {
        selector::validate(errors, &term.get(name));
    }
    for namespace in term.get("namespaces").items() {
        let at = Field::new(format!("{}.namespace", term.path), namespace.value);
        errors.invalid_each(&at, names::dns1123_label(at.str()));
    }
    label_keys(errors, term);
    let key = term.get("topologyKey");
    if key.is_empty() {
        errors.required(&key, "can not be empty");
    }
    for message in names::qualified_name(key.str()) {
        errors.invalid_str(&key, message);
    }
}

/// `matchLabelKeys` and `mismatchLabelKeys` need a selector to be merged into, and no key twice.
fn label_keys(errors: &mut Errors, term: &Field<'_>) {
    let (same, different) = (term.get("matchLabelKeys"), term.get("mismatchLabelKeys"));
    let without_selector = !term.get("labelSelector").exists();
    for list in [&same, &different] {
        if without_selector && !list.is_empty() {
            errors.forbidden(list, "must not be specified when labelSelector is not set");
        }
        for key in list.items() {
            errors.invalid_each(&key, names::qualified_name(key.str()));
        }
    }
    for key in same.items() {
        if different.items().any(|other| other.value == key.value) {
            errors.invalid(&key, "exists in both matchLabelKeys and mismatchLabelKeys");
        }
    }
}

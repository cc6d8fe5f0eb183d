//! Limits and requests.

use serde_json::Value;

use crate::kinds::field::{Errors, Field};
use crate::kinds::names;
use crate::kinds::quantity::Quantity;

const STANDARD: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];
const HUGE_PAGES: &str = "hugepages-";

/// The resources of a container: limits first, then requests against them.
pub fn container(errors: &mut Errors, at: &Field<'_>, claims: &[&str]) {
    let (limits, requests) = (at.get("limits"), at.get("requests"));
    let mut huge = false;
    let mut compute = false;
    for (name, limit) in limits.entries() {
        resource_name(errors, &limit, name);
        amount(errors, &limit, name);
        huge |= name.starts_with(HUGE_PAGES);
        compute |= matches!(name, "cpu" | "memory");
    }
    for (name, request) in requests.entries() {
        resource_name(errors, &request, name);
        amount(errors, &request, name);
        against_limit(errors, &requests, &limits, name, request.value);
        huge |= name.starts_with(HUGE_PAGES);
        compute |= matches!(name, "cpu" | "memory");
    }
    if huge && !compute {
        errors.forbidden(at, "HugePages require cpu or memory");
    }
    resource_claims(errors, &at.get("claims"), claims);
}

/// A request may not exceed its limit; what cannot be overcommitted must equal it.
fn against_limit(errors: &mut Errors, requests: &Field<'_>, limits: &Field<'_>, name: &str, request: &Value) {
    let (Ok(request), limit) = (Quantity::from_json(request), limits.value.get(name)) else { return };
    let overcommit = is_native(name) && !name.starts_with(HUGE_PAGES);
    match limit.and_then(|limit| Quantity::from_json(limit).ok()) {
        Some(limit) if !overcommit && request != limit => {
            errors.invalid_value(requests, request.to_string(), format!("must be equal to {name} limit of {limit}"));
        }
        Some(limit) if request > limit => {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.invalid_value(requests, request.to_string(), detail);
        }
        Some(_) => {}
        None if !overcommit => errors.required(limits, "Limit must be set for non overcommitable resources"),
        None => {}
    }
}

/// No prefix, or one of the project's own domain.
fn is_native(name: &str) -> bool {
    name.split_once('/').is_none_or(|(prefix, _)| prefix.ends_with("kubernetes.io"))
}

fn resource_name(errors: &mut Errors, at: &Field<'_>, name: &str) {
    for message in names::qualified_name(name) {
        errors.invalid_value(at, name, message);
    }
    if names::qualified_name(name).is_empty()
        && !name.contains('/')
        && !STANDARD.contains(&name)
        && !name.starts_with(HUGE_PAGES)
    {
        errors.invalid_value(at, name, "must be a standard resource for containers");
    }
}

/// Not negative, and whole where parts make no sense.
pub fn amount(errors: &mut Errors, at: &Field<'_>, name: &str) {
    let Ok(amount) = Quantity::from_json(at.value) else { return };
    if amount.is_negative() {
        errors.invalid_value(at, amount.to_string(), "must be greater than or equal to 0");
    }
    let whole = matches!(name, "pods" | "services" | "replicationcontrollers" | "resourcequotas" | "secrets")
        || !is_native(name);
    if whole && !amount.is_integer() {
        errors.invalid_value(at, amount.to_string(), "must be an integer");
    }
}

fn resource_claims(errors: &mut Errors, at: &Field<'_>, names: &[&str]) {
    let mut seen: Vec<(String, String)> = Vec::new();
    for claim in at.items() {
        let (name, request) = (claim.get("name"), claim.get("request"));
        if name.is_empty() {
            errors.required(&name, "");
            continue;
        }
        let key = (name.str().to_owned(), request.str().to_owned());
        if seen.contains(&key) {
            errors.duplicate(&claim.get(if request.is_empty() { "name" } else { "request" }));
        } else {
            seen.push(key);
        }
        if !names.contains(&name.str()) {
            errors.not_found(&name);
        }
    }
}

//! What may be wrong with an autoscaler's spec, in upstream's order and words.

use serde_json::Value;

use crate::kinds::field::{Errors, Field};
use crate::kinds::names;
use crate::kinds::quantity::Quantity;

/// The longest memory of recommendations.
const MAX_STABILIZATION_SECONDS: i64 = 3600;
/// The longest time over which a policy counts.
const MAX_PERIOD_SECONDS: i64 = 1800;

/// (`type`, the field that holds what is said about it), in the order in which they are looked at.
const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

pub fn spec(spec: &Field<'_>) -> Errors {
    let mut errors = Errors::default();
    let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    if least.int().is_some_and(|least| least < 1) {
        errors.invalid(&least, "must be greater than or equal to 1");
    }
    if most.int().unwrap_or(0) < 1 {
        errors.required(&most, "must be set and greater than 0");
    }
    if least.int().is_some_and(|least| most.int().unwrap_or(0) < least) {
        errors.invalid(&most, "must be greater than or equal to `minReplicas`");
    }
    reference(&mut errors, &spec.get("scaleTargetRef"));
    metrics(&mut errors, &spec.get("metrics"), least.int());
    for direction in ["scaleUp", "scaleDown"] {
        rules(&mut errors, &spec.get("behavior").get(direction));
    }
    errors
}

fn reference(errors: &mut Errors, at: &Field<'_>) {
    for name in ["kind", "name"] {
        let part = at.get(name);
        if part.is_empty() {
            errors.required(&part, "");
        } else {
            errors.invalid_each(&part, names::path_segment(part.str(), false));
        }
    }
}

fn metrics(errors: &mut Errors, at: &Field<'_>, least: Option<i64>) {
    let mut counts_outside = false;
    for metric in at.items() {
        counts_outside |= matches!(metric.get("type").str(), "Object" | "External");
        source(errors, &metric);
    }
    if least == Some(0) && !counts_outside {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(at, why);
    }
}

fn source(errors: &mut Errors, metric: &Field<'_>) {
    let kind = metric.get("type");
    if kind.is_empty() {
        errors.required(&kind, "must specify a metric source type");
    }
    let known = SOURCES.iter().find(|(name, _)| *name == kind.str());
    if known.is_none() {
        errors.not_supported(&kind, &["ContainerResource", "External", "Object", "Pods", "Resource"]);
    }
    let present: Vec<&str> =
        SOURCES.iter().map(|(_, field)| *field).filter(|field| metric.get(field).exists()).collect();
    // Only the first is looked at; that there are more is the error.
    if let Some(first) = present.first() {
        details(errors, &metric.get(first), first);
    }
    let Some((_, expected)) = known else { return };
    if !metric.get(expected).exists() {
        errors.required(&metric.get(expected), "must populate information for the given metric source");
    }
    if present.len() != 1 {
        for other in present.iter().filter(|field| *field != expected) {
            errors.forbidden(&metric.get(other), "must populate the given metric source only");
        }
    }
}

fn details(errors: &mut Errors, at: &Field<'_>, source: &str) {
    let goal = at.get("target");
    let (value, average) = (goal.get("value"), goal.get("averageValue"));
    match source {
        "object" => {
            reference(errors, &at.get("describedObject"));
            identifier(errors, &at.get("metric"));
            target(errors, &goal);
            if !value.exists() && !average.exists() {
                errors.required(&average, "must set either a target value or averageValue");
            }
        }
        "external" => {
            identifier(errors, &at.get("metric"));
            target(errors, &goal);
            if !value.exists() && !average.exists() {
                errors.required(&average, "must set either a target value for metric or a per-pod target");
            }
            if value.exists() && average.exists() {
                errors.forbidden(&value, "may not set both a target value for metric and a per-pod target");
            }
        }
        "pods" => {
            identifier(errors, &at.get("metric"));
            target(errors, &goal);
            if !is_positive(average.value) {
                errors.required(&average, "must specify a positive target averageValue");
            }
        }
        _ => resource(errors, at, source == "containerResource"),
    }
}

fn resource(errors: &mut Errors, at: &Field<'_>, of_container: bool) {
    if at.get("name").is_empty() {
        errors.required(&at.get("name"), "must specify a resource name");
    }
    if of_container && at.get("container").is_empty() {
        errors.required(&at.get("container"), "must specify a container");
    }
    let goal = at.get("target");
    target(errors, &goal);
    let (utilization, average) = (goal.get("averageUtilization"), goal.get("averageValue"));
    if !utilization.exists() && !average.exists() {
        errors.required(&utilization, "must set either a target raw value or a target utilization");
    }
    if utilization.exists() && average.exists() {
        errors.forbidden(&average, "may not set both a target raw value and a target utilization");
    }
}

fn target(errors: &mut Errors, at: &Field<'_>) {
    let kind = at.get("type");
    if kind.is_empty() {
        errors.required(&kind, "must specify a metric target type");
    }
    if !matches!(kind.str(), "Utilization" | "Value" | "AverageValue") {
        errors.invalid_str(&kind, "must be either Utilization, Value, or AverageValue");
    }
    for amount in [at.get("value"), at.get("averageValue")] {
        if amount.exists() && !is_positive(amount.value) {
            errors.invalid(&amount, "must be positive");
        }
    }
    let utilization = at.get("averageUtilization");
    if utilization.int().is_some_and(|percent| percent < 1) {
        errors.invalid(&utilization, "must be greater than 0");
    }
}

fn is_positive(amount: &Value) -> bool {
    Quantity::from_json(amount).is_ok_and(|amount| amount > Quantity::ZERO)
}

fn identifier(errors: &mut Errors, metric: &Field<'_>) {
    let name = metric.get("name");
    if name.is_empty() {
        errors.required(&name, "must specify a metric name");
    } else {
        errors.invalid_each(&name, names::path_segment(name.str(), false));
    }
}

fn rules(errors: &mut Errors, at: &Field<'_>) {
    if !at.exists() {
        return;
    }
    let window = at.get("stabilizationWindowSeconds");
    if window.int().is_some_and(|seconds| seconds < 0) {
        errors.invalid(&window, "must be greater than or equal to zero");
    }
    if window.int().is_some_and(|seconds| seconds > MAX_STABILIZATION_SECONDS) {
        errors.invalid(&window, format!("must be less than or equal to {MAX_STABILIZATION_SECONDS}"));
    }
    let select = at.get("selectPolicy");
    if select.exists() && !matches!(select.str(), "Max" | "Min" | "Disabled") {
        errors.not_supported(&select, &["Disabled", "Max", "Min"]);
    }
    let policies = at.get("policies");
    if policies.is_empty() {
        errors.required(&policies, "must specify at least one Policy");
    }
    for policy in policies.items() {
        self::policy(errors, &policy);
    }
    let tolerance = at.get("tolerance");
    if Quantity::from_json(tolerance.value).is_ok_and(Quantity::is_negative) {
        errors.invalid(&tolerance, "must be greater than or equal to 0");
    }
}

fn policy(errors: &mut Errors, at: &Field<'_>) {
    if !matches!(at.get("type").str(), "Pods" | "Percent") {
        errors.not_supported(&at.get("type"), &["Percent", "Pods"]);
    }
    for name in ["value", "periodSeconds"] {
        let number = at.get(name);
        if number.int().unwrap_or(0) <= 0 {
            errors.invalid_value(&number, number.int().unwrap_or(0), "must be greater than zero");
        }
    }
    let period = at.get("periodSeconds");
    if period.int().is_some_and(|seconds| seconds > MAX_PERIOD_SECONDS) {
        errors.invalid(&period, format!("must be less than or equal to {MAX_PERIOD_SECONDS}"));
    }
}

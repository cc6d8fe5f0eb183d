//! Probes and lifecycle hooks: what is done to a container from outside.

use crate::kinds::field::{Errors, Field};
use crate::kinds::names;
use crate::kinds::workload::non_negative;

pub fn lifecycle(errors: &mut Errors, at: &Field<'_>, grace_seconds: Option<i64>) {
    for name in ["postStart", "preStop"] {
        let hook = at.get(name);
        if hook.exists() {
            handler(errors, &hook, &["exec", "httpGet", "tcpSocket", "sleep"], grace_seconds);
        }
    }
}

/// The three probes of a container.
pub fn probes(errors: &mut Errors, container: &Field<'_>) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let at = container.get(name);
        if !at.exists() {
            continue;
        }
        probe(errors, &at);
        if name == "readinessProbe" {
            let grace = at.get("terminationGracePeriodSeconds");
            if grace.exists() {
                errors.invalid(&grace, "must not be set for readinessProbes");
            }
            continue;
        }
        let threshold = at.get("successThreshold");
        if threshold.int().unwrap_or(0) != 1 {
            errors.invalid_value(&threshold, threshold.int().unwrap_or(0), "must be 1");
        }
    }
}

fn probe(errors: &mut Errors, at: &Field<'_>) {
    handler(errors, at, &["exec", "httpGet", "tcpSocket", "grpc"], None);
    for name in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        non_negative(errors, &at.get(name));
    }
    let grace = at.get("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|seconds| seconds <= 0) {
        errors.invalid(&grace, "must be greater than 0");
    }
}

/// Exactly one of `kinds`, and that one valid.
fn handler(errors: &mut Errors, at: &Field<'_>, kinds: &[&str], grace_seconds: Option<i64>) {
    let mut any = false;
    for kind in kinds {
        let action = at.get(kind);
        if !action.exists() {
            continue;
        }
        if any {
            errors.forbidden(&action, "may not specify more than 1 handler type");
            continue;
        }
        any = true;
        match *kind {
            "exec" if action.get("command").is_empty() => errors.required(&action.get("command"), ""),
            "httpGet" => http_get(errors, &action),
            "tcpSocket" | "grpc" => port(errors, &action.get("port")),
            "sleep" => sleep(errors, &action, grace_seconds),
            _ => {}
        }
    }
    if !any {
        errors.required(at, "must specify a handler type");
    }
}

fn http_get(errors: &mut Errors, action: &Field<'_>) {
    let path = action.get("path");
    if path.is_empty() {
        errors.required(&path, "");
    }
    port(errors, &action.get("port"));
    let scheme = action.get("scheme");
    if !matches!(scheme.str(), "HTTP" | "HTTPS") {
        errors.not_supported(&scheme, &["HTTP", "HTTPS"]);
    }
    let headers = action.get("httpHeaders");
    for header in headers.items() {
        let name = header.get("name");
        for message in names::http_header_name(name.str()) {
            errors.invalid_value(&headers, name.str(), message);
        }
    }
}

/// A number, or the name of a port of the container.
pub fn port(errors: &mut Errors, at: &Field<'_>) {
    match at.value.as_str() {
        Some(name) => errors.invalid_each(at, names::port_name(name)),
        None => {
            let number = at.int().unwrap_or(0);
            for message in names::port_number(number) {
                errors.invalid_value(at, number, message);
            }
        }
    }
}

fn sleep(errors: &mut Errors, action: &Field<'_>, grace_seconds: Option<i64>) {
    let seconds = action.get("seconds").int().unwrap_or(0);
    let Some(grace) = grace_seconds else { return };
    if !(0..=grace).contains(&seconds) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid_value(action, seconds, detail);
    }
}

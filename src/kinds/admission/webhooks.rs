//! What mutating and validating webhooks share: where they are, what they are asked about, and what
//! becomes of a request when they do not answer.

use serde_json::{Value, json};

use super::rules;
use crate::kinds::common::{list, set_default, set_default_text, text};
use crate::kinds::field::{Errors, Field};
use crate::kinds::{Column, column, meta, names, time};

pub static COLUMNS: &[Column] =
    &[column("Name", "string", "name", 0), column("Webhooks", "integer", "", 0), column("Age", "string", "", 0)];

const DEFAULT_PORT: i64 = 443;
const DEFAULT_TIMEOUT_SECONDS: i64 = 10;
const TIMEOUT_SECONDS: std::ops::RangeInclusive<i64> = 1..=30;
/// The versions of AdmissionReview that upstream speaks.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
const URL_FORM: &str = "; desired format: https://host[/path]";

pub fn default(configuration: &mut Value, mutating: bool) {
    for hook in configuration.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
        set_default_text(hook, "failurePolicy", "Fail");
        set_default_text(hook, "matchPolicy", "Equivalent");
        set_default(hook, "namespaceSelector", json!({}));
        set_default(hook, "objectSelector", json!({}));
        set_default(hook, "timeoutSeconds", DEFAULT_TIMEOUT_SECONDS);
        if mutating {
            set_default_text(hook, "reinvocationPolicy", "Never");
        }
        rules::default_rules(hook, "rules");
        if let Some(service) = hook.pointer_mut("/clientConfig/service").filter(|service| service.is_object()) {
            set_default(service, "port", DEFAULT_PORT);
        }
    }
}

pub fn prepare_update(new: &mut Value, old: &Value) {
    meta::carry_generation(new, old, !meta::same(&new["webhooks"], &old["webhooks"]));
}

pub fn validate(configuration: &Value) -> Errors {
    let mut errors = Errors::default();
    let mut known = Vec::new();
    for hook in Field::root(configuration).get("webhooks").items() {
        validate_hook(&mut errors, &hook);
        validate_versions(&mut errors, &hook.get("admissionReviewVersions"));
        rules::unique(&mut errors, &hook.get("name"), &mut known);
    }
    errors
}

pub fn row(configuration: &Value, now: jiff::Timestamp) -> Vec<Value> {
    vec![
        text(configuration, "/metadata/name").into(),
        list(configuration, "/webhooks").len().into(),
        time::object_age(configuration, now).into(),
    ]
}

fn validate_hook(errors: &mut Errors, hook: &Field<'_>) {
    validate_name(errors, &hook.get("name"));
    for rule in hook.get("rules").items() {
        rules::validate_rule(errors, &rule);
    }
    rules::one_of(errors, &hook.get("failurePolicy"), rules::FAILURE_POLICIES);
    rules::one_of(errors, &hook.get("matchPolicy"), rules::MATCH_POLICIES);
    let effects = hook.get("sideEffects");
    if effects.exists() {
        rules::one_of(errors, &effects, SIDE_EFFECTS);
    } else {
        errors.required(&effects, format!("must specify one of {}", SIDE_EFFECTS.join(", ")));
    }
    let timeout = hook.get("timeoutSeconds");
    if timeout.int().is_some_and(|seconds| !TIMEOUT_SECONDS.contains(&seconds)) {
        errors.invalid(&timeout, "the timeout value must be between 1 and 30 seconds");
    }
    rules::validate_selector(errors, hook, "namespaceSelector");
    rules::validate_selector(errors, hook, "objectSelector");
    rules::one_of(errors, &hook.get("reinvocationPolicy"), rules::REINVOCATION_POLICIES);
    validate_client(errors, &hook.get("clientConfig"));
    rules::validate_conditions(errors, &hook.get("matchConditions"));
}

/// A domain of three parts or more.
fn validate_name(errors: &mut Errors, name: &Field<'_>) {
    if name.is_empty() {
        return errors.required(name, "");
    }
    let wrong = names::dns1123_subdomain(name.str());
    if !wrong.is_empty() {
        errors.invalid(name, wrong.join(","));
    } else if name.str().split('.').count() < 3 {
        errors.invalid(name, "should be a domain with at least three segments separated by dots");
    }
}

/// Where a webhook is: a URL or a Service.
pub fn validate_client(errors: &mut Errors, client: &Field<'_>) {
    let (url, service) = (client.get("url"), client.get("service"));
    match (url.exists(), service.exists()) {
        (true, false) => validate_url(errors, &url),
        (false, true) => validate_service(errors, &service),
        _ => errors.required(client, "exactly one of url or service is required"),
    }
}

fn validate_url(errors: &mut Errors, at: &Field<'_>) {
    let (scheme, rest) = at.str().split_once("://").unwrap_or(("", at.str()));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if at.str().bytes().any(|byte| byte.is_ascii_control()) {
        let why = format!("url must be a valid URL: parse {:?}: net/url: invalid control character in URL", at.str());
        return errors.required(at, why + URL_FORM);
    }
    let mut wrong = |value: &str, why: String| errors.invalid_value(at, value, why);
    if scheme != "https" {
        wrong(scheme, format!("'https' is the only allowed URL scheme{URL_FORM}"));
    }
    if host.is_empty() {
        wrong(host, format!("host must be provided{URL_FORM}"));
    }
    for (part, what) in [(user, "user information is"), (fragment, "fragments are"), (query, "query parameters are")] {
        if !part.is_empty() {
            wrong(part, format!("{what} not permitted in the URL"));
        }
    }
}

fn validate_service(errors: &mut Errors, service: &Field<'_>) {
    for (name, why) in [("name", "service name is required"), ("namespace", "service namespace is required")] {
        let at = service.get(name);
        if at.is_empty() {
            errors.required(&at, why);
        }
    }
    let port = service.get("port");
    let wrong = names::port_number(port.int().unwrap_or(DEFAULT_PORT));
    if !wrong.is_empty() {
        errors.invalid(&port, format!("port is not valid: {}", wrong.join(", ")));
    }
    let path = service.get("path");
    match path.str() {
        "" | "/" => return,
        "//" => return errors.invalid(&path, "segment[0] may not be empty"),
        _ => {}
    }
    if !path.str().starts_with('/') {
        errors.invalid(&path, "must start with a '/'");
    }
    let steps = path.str().strip_prefix('/').unwrap_or(path.str());
    for (i, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(&path, format!("segment[{i}] may not be empty"));
            continue;
        }
        for failure in names::dns1123_subdomain(step) {
            errors.invalid(&path, format!("segment[{i}]: {failure}"));
        }
    }
}

fn validate_versions(errors: &mut Errors, versions: &Field<'_>) {
    if versions.is_empty() {
        return errors.required(versions, format!("must specify one of {}", REVIEW_VERSIONS.join(", ")));
    }
    let mut known: Vec<&str> = Vec::new();
    for version in versions.items() {
        if known.contains(&version.str()) {
            errors.invalid(&version, "duplicate version");
            continue;
        }
        known.push(version.str());
        errors.invalid_each(&version, names::dns1035_label(version.str()));
    }
    if !known.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        errors.invalid(versions, format!("must include at least one of {}", REVIEW_VERSIONS.join(", ")));
    }
}

//! Which requests a webhook or policy is about: operations, groups, versions, resources, scope; and the
//! conditions that narrow it down.

use serde_json::Value;

use crate::kinds::common::set_default_text;
use crate::kinds::field::{Errors, Field};
use crate::kinds::{names, selector};

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
pub const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
pub const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
pub const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const MAX_CONDITIONS: usize = 64;

/// A rule without a scope is about both.
pub fn default_rules(owner: &mut Value, name: &str) {
    for rule in owner.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten() {
        set_default_text(rule, "scope", "*");
    }
}

/// Something chosen from `supported`, where it is given.
pub fn one_of(errors: &mut Errors, at: &Field<'_>, supported: &[&str]) {
    if at.exists() && !supported.contains(&at.str()) {
        errors.not_supported(at, supported);
    }
}

/// Operations and what they are about.
pub fn validate_rule(errors: &mut Errors, rule: &Field<'_>) {
    let operations = rule.get("operations");
    if operations.is_empty() {
        errors.required(&operations, "");
    }
    alone(errors, &operations, "operations");
    for operation in operations.items() {
        one_of(errors, &operation, OPERATIONS);
    }
    let groups = rule.get("apiGroups");
    if groups.is_empty() {
        errors.required(&groups, "");
    }
    alone(errors, &groups, "API groups");
    let versions = rule.get("apiVersions");
    if versions.is_empty() {
        errors.required(&versions, "");
    }
    alone(errors, &versions, "API versions");
    for version in versions.items().filter(Field::is_empty) {
        errors.required(&version, "");
    }
    validate_resources(errors, &rule.get("resources"));
    one_of(errors, &rule.get("scope"), SCOPES);
}

/// The wildcard stands for all, so it stands alone.
fn alone(errors: &mut Errors, list: &Field<'_>, others: &str) {
    if list.len() > 1 && list.items().any(|item| item.str() == "*") {
        errors.invalid(list, format!("if '*' is present, must not specify other {others}"));
    }
}

/// `pods`, `pods/status`, `pods/*`, `*/status`, `*` or `*/*`, none of which says what another one said.
fn validate_resources(errors: &mut Errors, list: &Field<'_>) {
    if list.is_empty() {
        errors.required(list, "");
    }
    let (mut all_of, mut of_all): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut plain = false;
    for at in list.items() {
        let text = at.str();
        let Some((resource, sub)) = text.split_once('/') else {
            match text {
                "" => errors.required(&at, ""),
                // As upstream has it, the last one decides.
                text => plain = text != "*",
            }
            continue;
        };
        if all_of.contains(&resource) {
            errors.invalid(&at, format!("if '{resource}/*' is present, must not specify {text}"));
        }
        if of_all.contains(&sub) {
            errors.invalid(&at, format!("if '*/{sub}' is present, must not specify {text}"));
        }
        if sub == "*" {
            all_of.push(resource);
        }
        if resource == "*" {
            of_all.push(sub);
        }
    }
    let has = |wildcard: &str| list.items().any(|item| item.str() == wildcard);
    if list.len() > 1 && has("*/*") {
        errors.invalid(list, "if '*/*' is present, must not specify other resources");
    }
    if has("*") && plain {
        errors.invalid(list, "if '*' is present, must not specify other resources without subresources");
    }
}

/// The selector `name` of a webhook or of match resources.
pub fn validate_selector(errors: &mut Errors, owner: &Field<'_>, name: &str) {
    selector::validate(errors, &owner.get(name));
}

/// The CEL conditions under which a request is a concern at all.
pub fn validate_conditions(errors: &mut Errors, list: &Field<'_>) {
    if list.len() > MAX_CONDITIONS {
        errors.too_many(list, list.len(), MAX_CONDITIONS);
    }
    let mut known: Vec<&str> = Vec::new();
    for condition in list.items() {
        let (name, expression) = (condition.get("name"), condition.get("expression"));
        if expression.str().trim().is_empty() {
            errors.required(&expression, "");
        }
        if name.is_empty() {
            errors.required(&name, "");
            continue;
        }
        errors.invalid_each(&name, names::qualified_name(name.str()));
        if known.contains(&name.str()) {
            errors.duplicate(&name);
        }
        known.push(name.str());
    }
}

/// A name that is taken already by one of `known`.
pub fn unique<'a>(errors: &mut Errors, at: &Field<'a>, known: &mut Vec<&'a str>) {
    if at.is_empty() {
        return;
    }
    if known.contains(&at.str()) {
        errors.duplicate(at);
    }
    known.push(at.str());
}

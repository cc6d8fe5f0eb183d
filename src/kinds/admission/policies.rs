//! What policies and their bindings share: what they are about, their parameters, their expressions.

use serde_json::{Value, json};

use super::rules;
use crate::cel;
use crate::kinds::common::{set_default, set_default_text, text};
use crate::kinds::field::{Errors, Field};
use crate::kinds::{Column, column, names, time, workload};

const MAX_AUDIT_ANNOTATIONS: usize = 20;
const MAX_VALUE_EXPRESSION_BYTES: usize = 5 * 1024;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];

/// The match resources under `name`, where they are given.
pub fn default_match(spec: &mut Value, name: &str) {
    let Some(resources) = spec.get_mut(name).filter(|resources| resources.is_object()) else { return };
    set_default_text(resources, "matchPolicy", "Equivalent");
    set_default(resources, "namespaceSelector", json!({}));
    set_default(resources, "objectSelector", json!({}));
    rules::default_rules(resources, "resourceRules");
    rules::default_rules(resources, "excludeResourceRules");
}

pub fn validate_match(errors: &mut Errors, at: &Field<'_>) {
    if !at.exists() {
        return;
    }
    rules::one_of(errors, &at.get("matchPolicy"), rules::MATCH_POLICIES);
    rules::validate_selector(errors, at, "namespaceSelector");
    rules::validate_selector(errors, at, "objectSelector");
    for name in ["resourceRules", "excludeResourceRules"] {
        for rule in at.get(name).items() {
            validate_resource_names(errors, &rule.get("resourceNames"));
            rules::validate_rule(errors, &rule);
        }
    }
}

fn validate_resource_names(errors: &mut Errors, list: &Field<'_>) {
    let mut known: Vec<&str> = Vec::new();
    for name in list.items() {
        errors.invalid_each(&name, names::path_segment(name.str(), false));
        rules::unique(errors, &name, &mut known);
    }
}

/// What every policy has: what it is about, its conditions, variables and kind of parameters.
pub fn validate_common(errors: &mut Errors, spec: &Field<'_>) {
    let failure = spec.get("failurePolicy");
    if failure.exists() {
        rules::one_of(errors, &failure, rules::FAILURE_POLICIES);
    } else {
        errors.required(&failure, "");
    }
    if spec.get("paramKind").exists() {
        validate_param_kind(errors, &spec.get("paramKind"));
    }
    let constraints = spec.get("matchConstraints");
    if constraints.exists() {
        validate_match(errors, &constraints);
        if constraints.get("resourceRules").is_empty() {
            errors.required(&constraints.get("resourceRules"), "");
        }
    } else {
        errors.required(&constraints, "");
    }
    rules::validate_conditions(errors, &spec.get("matchConditions"));
    for variable in spec.get("variables").items() {
        validate_variable(errors, &variable);
    }
}

fn validate_param_kind(errors: &mut Errors, at: &Field<'_>) {
    let (version, kind) = (at.get("apiVersion"), at.get("kind"));
    match version.str().split('/').collect::<Vec<_>>().as_slice() {
        [""] => errors.required(&version, ""),
        [only] => validate_version(errors, &version, only),
        [group, number] => {
            let wrong = if group.is_empty() { Vec::new() } else { names::dns1123_subdomain(group) };
            if !wrong.is_empty() {
                errors.invalid_value(&version, *group, wrong.join(","));
            }
            validate_version(errors, &version, number);
        }
        _ => errors.invalid(&version, format!("unexpected GroupVersion string: {}", version.str())),
    }
    if kind.is_empty() {
        return errors.required(&kind, "");
    }
    let wrong = names::dns1035_label(&kind.str().to_lowercase());
    if !wrong.is_empty() {
        errors.invalid(&kind, format!("may have mixed case, but should otherwise match: {}", wrong.join(",")));
    }
}

fn validate_version(errors: &mut Errors, at: &Field<'_>, version: &str) {
    if version.is_empty() {
        return errors.invalid(at, "version must be specified");
    }
    let wrong = names::dns1035_label(version);
    if !wrong.is_empty() {
        errors.invalid_value(at, version, wrong.join(","));
    }
}

fn validate_variable(errors: &mut Errors, variable: &Field<'_>) {
    let (name, expression) = (variable.get("name"), variable.get("expression"));
    if name.str().trim().is_empty() {
        errors.required(&name, "name is not specified");
    } else if !is_identifier(name.str()) {
        errors.invalid(&name, "name is not a valid CEL identifier");
    }
    if expression.str().trim().is_empty() {
        errors.required(&expression, "expression is not specified");
    }
}

fn is_identifier(name: &str) -> bool {
    let word = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
    !name.as_bytes().first().is_none_or(u8::is_ascii_digit) && name.bytes().all(word) && !cel::RESERVED.contains(&name)
}

pub fn validate_validation(errors: &mut Errors, at: &Field<'_>) {
    let (expression, by_expression) = (at.get("expression"), at.get("messageExpression"));
    let (message, reason) = (at.get("message"), at.get("reason"));
    if expression.str().trim().is_empty() {
        errors.required(&expression, "expression is not specified");
    }
    if !by_expression.is_empty() && by_expression.str().trim().is_empty() {
        errors.invalid(&by_expression, "must be non-empty if specified");
    }
    if !message.is_empty() && message.str().trim().is_empty() {
        errors.invalid(&message, "message must be non-empty if specified");
    } else if message.str().trim().contains(['\n', '\r']) {
        errors.invalid(&message, "message must not contain line breaks");
    }
    rules::one_of(errors, &reason, REASONS);
}

/// Annotations for the audit log, whose keys the policy's name makes unique.
pub fn validate_audit_annotations(errors: &mut Errors, policy: &str, list: &Field<'_>) {
    if list.len() > MAX_AUDIT_ANNOTATIONS {
        errors.invalid(list, format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations"));
    }
    let mut known: Vec<&str> = Vec::new();
    for at in list.items() {
        let (key, value) = (at.get("key"), at.get("valueExpression"));
        if policy.is_empty() {
            errors.invalid(&key, "requires metadata.name be non-empty");
        } else {
            let whole = format!("{policy}/{}", key.str());
            for why in names::qualified_name(&whole) {
                errors.invalid_value(&key, whole.as_str(), why);
            }
        }
        match value.str().trim().len() {
            0 => errors.required(&value, "valueExpression is not specified"),
            size if size > MAX_VALUE_EXPRESSION_BYTES => {
                errors.required(&value, format!("must not exceed {MAX_VALUE_EXPRESSION_BYTES} bytes in length"));
            }
            _ => {}
        }
        if known.contains(&key.str()) {
            errors.duplicate(&key);
        }
        known.push(key.str());
    }
}

/// What every binding has: its policy and the parameters.
pub fn validate_binding(errors: &mut Errors, spec: &Field<'_>) {
    let policy = spec.get("policyName");
    if policy.is_empty() {
        errors.required(&policy, "");
    } else {
        errors.invalid_each(&policy, names::dns1123_subdomain(policy.str()));
    }
    validate_param_ref(errors, &spec.get("paramRef"));
    validate_match(errors, &spec.get("matchResources"));
}

fn validate_param_ref(errors: &mut Errors, at: &Field<'_>) {
    if !at.exists() {
        return;
    }
    let (name, selector, missing) = (at.get("name"), at.get("selector"), at.get("parameterNotFoundAction"));
    let both = !name.is_empty() && selector.exists();
    if !name.is_empty() {
        errors.invalid_each(&name, names::path_segment(name.str(), false));
        if both {
            errors.forbidden(&name, "name and selector are mutually exclusive");
        }
    }
    rules::validate_selector(errors, at, "selector");
    if both {
        errors.forbidden(&selector, "name and selector are mutually exclusive");
    }
    if name.is_empty() && !selector.exists() {
        errors.required(at, "one of name or selector must be specified");
    }
    if missing.is_empty() {
        errors.required(&missing, "");
    } else {
        rules::one_of(errors, &missing, &["Deny", "Allow"]);
    }
}

/// The cell that shows a policy's kind of parameters.
pub fn param_kind_cell(policy: &Value) -> String {
    match policy.pointer("/spec/paramKind").filter(|kind| kind.is_object()) {
        Some(kind) => format!("{}/{}", text(kind, "/apiVersion"), text(kind, "/kind")),
        None => "<unset>".to_owned(),
    }
}

/// The cell that shows a binding's parameters.
fn param_ref_cell(binding: &Value) -> String {
    let reference = &binding["spec"]["paramRef"];
    let (namespace, name) = (text(reference, "/namespace"), text(reference, "/name"));
    match (namespace, name) {
        (_, "") if reference["selector"].is_object() => workload::selector_text(&reference["selector"]),
        (_, "") => "<unset>".to_owned(),
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

/// The columns of bindings of both kinds.
pub static BINDING_COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("PolicyName", "string", "", 0),
    column("ParamRef", "string", "", 0),
    column("Age", "string", "", 0),
];

pub fn binding_row(binding: &Value, now: jiff::Timestamp) -> Vec<Value> {
    vec![
        text(binding, "/metadata/name").into(),
        text(binding, "/spec/policyName").into(),
        param_ref_cell(binding).into(),
        time::object_age(binding, now).into(),
    ]
}

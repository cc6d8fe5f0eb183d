//! What may I do here? SelfSubjectRulesReview, the list behind `kubectl auth can-i --list`.

use serde_json::{Value, json};

use super::kinds::AUTHORIZATION;
use super::refuse;
use crate::apiserver::auth::MASTERS;
use crate::apiserver::auth::rbac::rule::Rule;
use crate::apiserver::status::ApiError;
use crate::apiserver::verbs::Call;
use crate::kinds::field::{Errors, Field};

pub fn own(call: &Call, review: &Value) -> Result<Value, ApiError> {
    let namespace = Field::root(review).get("spec").get("namespace");
    if namespace.is_empty() {
        let mut errors = Errors::default();
        errors.required(&namespace, "namespace is required");
        refuse(AUTHORIZATION, &errors)?;
    }
    let mut rules = call.server.registry.policies.current().rules(&call.user, namespace.str());
    // Masters may do everything even where no role says so.
    if call.user.in_group(MASTERS) && rules.is_empty() {
        rules = everything();
    }
    let (paths, resources): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|rule| !rule.paths.is_empty());
    let resources: Vec<Value> = resources
        .into_iter()
        .map(|rule| {
            json!({
                "verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources,
                "resourceNames": rule.names,
            })
        })
        .collect();
    let paths: Vec<Value> =
        paths.into_iter().map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths})).collect();
    // A node's own rights are not rules, so a list of rules does not tell all.
    let incomplete = call.user.node().is_some();
    Ok(json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete}))
}

fn everything() -> Vec<Rule> {
    let all = || vec!["*".to_owned()];
    vec![
        Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), paths: all(), ..Rule::default() },
    ]
}

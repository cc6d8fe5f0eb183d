//! Policies: expressions that a request must satisfy ([`validate`]), or that change what is written
//! ([`mutate`](mutate::mutate)); put in force by bindings.
//!
//! [`evaluate`] says what a policy thinks of a request, purely; here is which policies are asked, with
//! which parameters, and what becomes of what they say: a refusal, a warning, a line in the audit log.
//! A policy that cannot be evaluated fails as its `failurePolicy` says.

mod evaluate;
pub mod mutate;
mod params;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::matching::{Constraints, Labels};
use super::webhooks::review;
use super::{Asker, Request, authority};
use crate::apiserver::registry::Place;
use crate::apiserver::status::{ApiError, Cause, Details};
use crate::cel::{Scope, value};
use crate::kinds::common::{list, text};
use crate::kinds::namespace::Namespace;
use evaluate::{Decision, Rules};

/// The annotation of the audit log that says what was violated.
const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";
/// More of an annotation is not kept.
const MAX_ANNOTATION_BYTES: usize = 10 * 1024;

/// A policy with its bindings.
#[derive(Debug)]
pub struct Policy {
    name: String,
    constraints: Constraints,
    /// `apiVersion` and `kind` of its parameters.
    param_kind: Option<(String, String)>,
    rules: Rules,
    bindings: Vec<Binding>,
}

#[derive(Debug)]
struct Binding {
    name: String,
    /// `None`: whatever the policy is about.
    constraints: Option<Constraints>,
    param_ref: Value,
    actions: Vec<String>,
}

impl Policy {
    /// The policies that are in force.
    pub fn all(policies: &[Value], bindings: &[Value]) -> Vec<Self> {
        bound(policies, bindings).map(|(policy, bindings)| Self::new(policy, bindings)).collect()
    }

    fn new(policy: &Value, bindings: Vec<Binding>) -> Self {
        let spec = &policy["spec"];
        Self {
            name: text(policy, "/metadata/name").to_owned(),
            constraints: Constraints::of_resources(&spec["matchConstraints"]),
            param_kind: param_kind(spec),
            rules: Rules::new(spec),
            bindings,
        }
    }
}

/// `apiVersion` and `kind` of a policy's parameters.
fn param_kind(spec: &Value) -> Option<(String, String)> {
    let kind = Some(&spec["paramKind"]).filter(|kind| kind.is_object())?;
    Some((text(kind, "/apiVersion").to_owned(), text(kind, "/kind").to_owned()))
}

/// The policies that are bound, with their bindings. One without is not in force.
fn bound<'a>(policies: &'a [Value], bindings: &'a [Value]) -> impl Iterator<Item = (&'a Value, Vec<Binding>)> {
    let bound = |policy| (policy, Binding::of(policy, bindings));
    policies.iter().map(bound).filter(|(_, bindings)| !bindings.is_empty())
}

impl Binding {
    /// The bindings of a policy.
    fn of(policy: &Value, bindings: &[Value]) -> Vec<Self> {
        let name = text(policy, "/metadata/name");
        bindings.iter().filter(|binding| text(binding, "/spec/policyName") == name).map(Self::new).collect()
    }

    fn new(binding: &Value) -> Self {
        let spec = &binding["spec"];
        let actions = list(spec, "/validationActions").iter().filter_map(Value::as_str);
        Self {
            name: text(binding, "/metadata/name").to_owned(),
            constraints: spec["matchResources"].is_object().then(|| Constraints::of_resources(&spec["matchResources"])),
            param_ref: spec["paramRef"].clone(),
            actions: actions.map(str::to_owned).collect(),
        }
    }

    fn concerns(&self, request: &Request<'_>, labels: &Labels<'_>, object: &Value) -> Result<bool, ApiError> {
        let Some(constraints) = &self.constraints else { return Ok(true) };
        Ok(constraints.kind(request, true).is_some() && constraints.selects(labels, object, request.old)?)
    }
}

/// The first refusal, and by which binding.
struct Denial<'a> {
    policy: &'a str,
    binding: &'a str,
    decision: Decision,
}

/// Lets the policies in force refuse `object`.
pub async fn validate(
    policies: &[Policy],
    request: &Request<'_>,
    asker: &Asker<'_>,
    object: &Value,
) -> Result<(), ApiError> {
    let labels = Labels::new(request);
    let mut denial: Option<Denial<'_>> = None;
    for policy in policies {
        let Some(kind) = policy.constraints.kind(request, false) else { continue };
        if !policy.constraints.selects(&labels, object, request.old)? {
            continue;
        }
        let (registry, own) = (request.registry, request.place.kind);
        let shown = registry.convert(own, kind, object).await?;
        let old = registry.convert(own, kind, request.old.unwrap_or(&Value::Null)).await?;
        let mut scope = Scope::default();
        scope.set("object", value::from_json(&shown));
        scope.set("oldObject", value::from_json(&old));
        scope.set("request", value::from_json(&review::request(request, asker, kind, "")));
        scope.set("namespaceObject", value::from_json(&namespace(request)?));
        scope.set("authorizer", authority::authorizer(request, asker, kind));
        let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for binding in &policy.bindings {
            if !binding.concerns(request, &labels, object)? {
                continue;
            }
            for decision in judge(policy, binding, request, &scope, &mut annotations).await {
                act(policy, binding, asker, &decision);
                if binding.actions.iter().any(|action| action == "Deny") {
                    denial.get_or_insert(Denial { policy: &policy.name, binding: &binding.name, decision });
                }
            }
        }
        for (key, values) in annotations {
            asker.said.annotate(format!("{}/{key}", policy.name), values.join(", "));
        }
    }
    denial.map_or(Ok(()), |denial| Err(refuse(request, &denial)))
}

/// What the policy objects to under a binding, with each of its parameters.
async fn judge(
    policy: &Policy,
    binding: &Binding,
    request: &Request<'_>,
    scope: &Scope,
    annotations: &mut BTreeMap<String, Vec<String>>,
) -> Vec<Decision> {
    let params = match params::collect(request, policy.param_kind.as_ref(), &binding.param_ref).await {
        Ok(params) => params,
        Err(_) if policy.rules.ignores_failure() => return Vec::new(),
        Err(why) => return vec![Decision::misconfigured(format!("failed to configure binding: {why}"))],
    };
    let mut decisions = Vec::new();
    for param in params {
        let mut scope = scope.clone();
        scope.set("params", value::from_json(&param));
        let outcome = policy.rules.evaluate(scope);
        decisions.extend(outcome.decisions);
        for (key, mut text) in outcome.annotations {
            truncate(&mut text, MAX_ANNOTATION_BYTES);
            let values = annotations.entry(key).or_default();
            if !values.contains(&text) {
                values.push(text);
            }
        }
    }
    decisions
}

fn truncate(text: &mut String, max: usize) {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

/// Warns of a violation, or notes it for the audit log.
fn act(policy: &Policy, binding: &Binding, asker: &Asker<'_>, decision: &Decision) {
    let (policy, binding_name, message) = (&policy.name, &binding.name, &decision.message);
    for action in &binding.actions {
        match action.as_str() {
            "Warn" => asker.said.warn(format!(
                "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding_name}': {message}"
            )),
            "Audit" => {
                let failure = json!([{"message": message, "policy": policy, "binding": binding_name,
                    "expressionIndex": decision.index, "validationActions": binding.actions}]);
                asker.said.annotate(FAILURE, failure.to_string());
            }
            _ => {}
        }
    }
}

fn refuse(request: &Request<'_>, denial: &Denial<'_>) -> ApiError {
    let Denial { policy, binding, decision } = denial;
    let who = format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}'");
    refuse_by(request, &who, &decision.message, &decision.reason)
}

/// A refusal by a policy, for one of upstream's reasons.
fn refuse_by(request: &Request<'_>, who: &str, why: &str, reason: &str) -> ApiError {
    let message = format!("{who} denied request: {why}");
    let (code, reason) = match reason {
        "Forbidden" => (403, "Forbidden"),
        "Unauthorized" => (401, "Unauthorized"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        _ => (422, "Invalid"),
    };
    let forbidden = request.forbidden(&message);
    let info = request.place.info();
    ApiError::new(code, reason, forbidden.message()).with_details(Details {
        name: request.place.name.to_owned(),
        group: info.group.to_owned(),
        kind: info.plural.to_owned(),
        causes: vec![Cause { message, ..Cause::default() }],
        ..Details::default()
    })
}

/// The Namespace that the object is in; null for what belongs to the cluster.
fn namespace(request: &Request<'_>) -> Result<Value, ApiError> {
    match request.place.namespace {
        "" => Ok(Value::Null),
        name => {
            let home = Place { kind: &Namespace, namespace: "", name };
            request.registry.find(home).ok_or_else(|| home.not_found())
        }
    }
}

#[cfg(test)]
mod tests;

//! MutatingAdmissionPolicies: expressions that make a change of the object, put in force by bindings.
//!
//! A mutation is a JSON patch, or a part of an object that is merged into the whole as server-side apply
//! would merge it, by whom nothing is owned. Each one sees what those before it have made.

use jiff::Timestamp;
use serde_json::Value;

use super::evaluate::{Begun, Expression, Rules};
use super::{Binding, bound, namespace, param_kind, params, refuse_by};
use crate::apiserver::admission::matching::{Constraints, Labels};
use crate::apiserver::admission::webhooks::review;
use crate::apiserver::admission::{Asker, Request, authority};
use crate::apiserver::codec::{Expected, FieldValidation};
use crate::apiserver::patch::apply::{self, Writer};
use crate::apiserver::patch::{self, PatchType};
use crate::apiserver::status::ApiError;
use crate::cel::{Scope, value};
use crate::kinds::common::{list, text};
use crate::kinds::{Kind, meta as kmeta, time};

/// A policy with its bindings.
#[derive(Debug)]
pub struct MutatingPolicy {
    name: String,
    constraints: Constraints,
    param_kind: Option<(String, String)>,
    rules: Rules,
    mutations: Vec<Mutation>,
    bindings: Vec<Binding>,
    /// Evaluated again when others change the object after it.
    pub again: bool,
}

#[derive(Debug)]
enum Mutation {
    /// Evaluates to a part of the object.
    Apply(Expression),
    /// Evaluates to a list of operations.
    JsonPatch(Expression),
}

impl MutatingPolicy {
    /// The policies that are in force.
    pub fn all(policies: &[Value], bindings: &[Value]) -> Vec<Self> {
        bound(policies, bindings).map(|(policy, bindings)| Self::new(policy, bindings)).collect()
    }

    fn new(policy: &Value, bindings: Vec<Binding>) -> Self {
        let spec = &policy["spec"];
        let mutation = |mutation: &Value| match text(mutation, "/patchType") {
            "JSONPatch" => Mutation::JsonPatch(Expression::new(mutation, "/jsonPatch/expression")),
            _ => Mutation::Apply(Expression::new(mutation, "/applyConfiguration/expression")),
        };
        Self {
            name: text(policy, "/metadata/name").to_owned(),
            constraints: Constraints::of_resources(&spec["matchConstraints"]),
            param_kind: param_kind(spec),
            rules: Rules::new(spec),
            mutations: list(spec, "/mutations").iter().map(mutation).collect(),
            bindings,
            again: spec["reinvocationPolicy"] == "IfNeeded",
        }
    }
}

/// Lets policies change `object`; whether one of them has.
pub async fn mutate<'a>(
    policies: impl Iterator<Item = &'a MutatingPolicy>,
    request: &Request<'_>,
    asker: &Asker<'_>,
    object: &mut Value,
) -> Result<bool, ApiError> {
    let labels = Labels::new(request);
    let before = object.clone();
    for policy in policies {
        let Some(kind) = policy.constraints.kind(request, false).filter(|_| object.is_object()) else { continue };
        if !policy.constraints.selects(&labels, object, request.old)? {
            continue;
        }
        for binding in &policy.bindings {
            if !binding.concerns(request, &labels, object)? {
                continue;
            }
            match policy.change_with_all(request, asker, kind, binding, object.clone()).await {
                Ok(changed) => *object = changed,
                Err(_) if policy.rules.ignores_failure() => {}
                Err(why) => {
                    let who = format!("MutatingAdmissionPolicy '{}' with binding '{}'", policy.name, binding.name);
                    return Err(refuse_by(request, &who, &why, "Invalid"));
                }
            }
        }
    }
    Ok(*object != before)
}

impl MutatingPolicy {
    /// What the mutations make of the object with each parameter of a binding.
    async fn change_with_all(
        &self,
        request: &Request<'_>,
        asker: &Asker<'_>,
        kind: &'static dyn Kind,
        binding: &Binding,
        mut object: Value,
    ) -> Result<Value, String> {
        let params = params::collect(request, self.param_kind.as_ref(), &binding.param_ref).await;
        for param in params.map_err(|why| format!("failed to configure binding: {why}"))? {
            object = self.change(request, asker, kind, &param, object).await?;
        }
        Ok(object)
    }

    /// What the mutations make of the object with one parameter.
    async fn change(
        &self,
        request: &Request<'_>,
        asker: &Asker<'_>,
        kind: &'static dyn Kind,
        param: &Value,
        object: Value,
    ) -> Result<Value, String> {
        let own = request.place.kind;
        let expected = request.expected(asker, kind).map_err(|error| error.message().to_owned())?;
        let namespace = namespace(request).map_err(|error| error.message().to_owned())?;
        let (registry, said) = (request.registry, |error: ApiError| error.message().to_owned());
        let old = registry.convert(own, kind, request.old.unwrap_or(&Value::Null)).await.map_err(said)?;
        let mut object = object;
        for mutation in &self.mutations {
            let shown = registry.convert(own, kind, &object).await.map_err(said)?;
            let changed = {
                let mut scope = Scope::default();
                scope.set("object", value::from_json(&shown));
                scope.set("oldObject", value::from_json(&old));
                scope.set("request", value::from_json(&review::request(request, asker, kind, "")));
                scope.set("namespaceObject", value::from_json(&namespace));
                scope.set("params", value::from_json(param));
                scope.set("authorizer", authority::authorizer(request, asker, kind));
                let mut at = match self.rules.begin(scope) {
                    Begun::Ready(at) => at,
                    Begun::NoConcern => return Ok(object),
                    Begun::Failed(why) => return Err(why),
                };
                let (Mutation::Apply(expression) | Mutation::JsonPatch(expression)) = mutation;
                let result = expression.eval(&mut at).map_err(|why| expression.failed(&why))?;
                let result = value::to_json(&result).ok_or_else(|| expression.failed("it comes to no JSON"))?;
                match mutation {
                    Mutation::Apply(_) => merged(&expected, &shown, result)?,
                    Mutation::JsonPatch(_) => patched(&expected, &shown, &result)?,
                }
            };
            let mut changed = registry.convert(kind, own, &changed).await.map_err(said)?;
            if request.is_whole(asker) {
                kmeta::normalize(&mut changed);
                own.default(&mut changed);
            }
            object = changed;
        }
        Ok(object)
    }
}

fn patched(expected: &Expected<'_>, object: &Value, operations: &Value) -> Result<Value, String> {
    let text = operations.to_string();
    let patched = patch::apply_as(expected, object, PatchType::Json, text.as_bytes(), FieldValidation::Ignore);
    patched.map(|patched| patched.object).map_err(|error| format!("JSON Patch: {error}"))
}

/// The object with a part merged into it. Who owns what stays as it was.
fn merged(expected: &Expected<'_>, object: &Value, mut part: Value) -> Result<Value, String> {
    let Some(fields) = part.as_object_mut() else {
        return Err("ApplyConfiguration: the expression must come to an Object".to_owned());
    };
    let version = expected.api_version();
    fields.insert("apiVersion".to_owned(), version.as_str().into());
    fields.insert("kind".to_owned(), expected.kind.into());
    let now = time::write(Timestamp::now());
    // A manager of its own, so that nothing is taken away; it is forgotten again.
    let writer = Writer { manager: "admission", api_version: &version, subresource: "", reset: &[], now: &now };
    let merged = apply::apply(&expected.model, object, &part, &writer, true);
    let mut merged = merged.map_err(|error| format!("ApplyConfiguration: {error}"))?;
    let owners = object["metadata"]["managedFields"].clone();
    let metadata = kmeta::metadata_mut(&mut merged);
    match owners {
        Value::Null => metadata.remove("managedFields"),
        owners => metadata.insert("managedFields".to_owned(), owners),
    };
    Ok(merged)
}

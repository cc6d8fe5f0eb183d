//! What happens to an object between decoding and the kind's own rules, and before it is stored.
//!
//! First a list of plugins, upstream's names and order. A plugin looks at other objects (in the store, in
//! memory: no plugin waits) and changes the new object or refuses it. What a kind can decide from the
//! object alone is not here but in `kinds`. Then whoever else has a say, if the cluster's objects name
//! them: mutating [`policies`] and [`webhooks`]; and when nothing changes any more, [`pod_security`],
//! validating policies and webhooks. With none of these, asking them costs a pointer.
//!
//! A plugin is part of the server and holds for its own writes, too. The others are asked about
//! requests only ([`Author`]), and never about the objects that configure them.

pub mod author;
mod authority;
mod certificate_subject;
mod claim_resize;
mod conditions;
mod default_ingress_class;
mod default_storage_class;
pub mod expressions;
pub mod in_force;
mod limit_ranger;
mod matching;
mod namespace_lifecycle;
mod node_restriction;
mod node_taint;
mod pod_security;
mod policies;
mod priority;
mod runtime_class;
mod service_account;
mod storage_protection;
mod tolerations;
mod webhooks;

use serde_json::Value;

use super::codec::Expected;
use super::registry::{Place, Registry};
use super::status::ApiError;
use crate::kinds::Kind;
use author::{Asker, Author, Through};
use in_force::InForce;

pub use service_account::wait_for_prerequisites;
pub use webhooks::review::user_info;

/// What is being done to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// A connection to what the object stands for: exec, a proxy.
    Connect,
}

impl Operation {
    /// As rules and reviews name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub registry: &'a Registry,
    pub place: Place<'a>,
    pub operation: Operation,
    /// The object as it is; only on updates and deletions.
    pub old: Option<&'a Value>,
    pub author: &'a Author<'a>,
}

impl<'a> Request<'a> {
    fn is(&self, operation: Operation, plural: &str) -> bool {
        self.operation == operation && self.place.info().group.is_empty() && self.place.info().plural == plural
    }

    fn forbidden(&self, why: impl std::fmt::Display) -> ApiError {
        ApiError::forbidden(self.place.info(), self.place.name, why)
    }

    fn subresource(&self) -> &'a str {
        self.author.asker.as_ref().map_or("", |asker| asker.subresource)
    }

    /// The namespace that the request is in; a Namespace is in itself.
    fn namespace(&self) -> &'a str {
        let info = self.place.info();
        if info.group.is_empty() && info.plural == "namespaces" { self.place.name } else { self.place.namespace }
    }

    /// Whether the request is about the stored object, of the kind's own type.
    fn is_whole(&self, asker: &Asker<'_>) -> bool {
        matches!(asker.through, Through::Itself) && self.operation != Operation::Delete
    }

    /// The type of the object that the request shows, were it one for `kind`.
    fn expected(&self, asker: &Asker<'a>, kind: &'a dyn Kind) -> Result<Expected<'a>, ApiError> {
        match asker.through {
            Through::Itself => Expected::of_kind(kind)
                .ok_or_else(|| ApiError::internal(format!("the type {} is not known", kind.info().kind))),
            Through::Instead(expected) => Ok(expected.clone()),
            Through::Part(view) => Ok(view.expected()),
        }
    }
}

type Plugin = fn(&Request<'_>, &mut Value) -> Result<(), ApiError>;

/// In the order in which they act.
const CHAIN: &[Plugin] = &[
    namespace_lifecycle::admit,
    limit_ranger::admit,
    service_account::admit,
    node_taint::admit,
    priority::admit,
    tolerations::admit,
    runtime_class::admit,
    certificate_subject::admit,
    default_ingress_class::admit,
    default_storage_class::admit,
    storage_protection::admit,
    claim_resize::admit,
];

/// Lets every plugin see `object`; for a deletion it is `Null`.
pub fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    CHAIN.iter().try_for_each(|plugin| plugin(request, object))
}

/// Lets the plugins, then policies and webhooks change `object`, or refuse it.
pub async fn mutate(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    admit(request, object)?;
    mutate_beyond(request, object, &|object| admit(request, object)).await
}

/// Lets all but the plugins have their say, about what is no object of its own, or is to be deleted.
pub async fn review(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    mutate_without_plugins(request, object).await?;
    validate(request, object).await
}

/// Lets policies and webhooks change `object`, or refuse it: the plugins have no say in subresources.
pub async fn mutate_without_plugins(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    mutate_beyond(request, object, &|_| Ok(())).await
}

async fn mutate_beyond(
    request: &Request<'_>,
    object: &mut Value,
    plugins: &(dyn Fn(&mut Value) -> Result<(), ApiError> + Sync),
) -> Result<(), ApiError> {
    let Some(asker) = asker(request) else { return Ok(()) };
    let in_force = request.registry.registered.current();
    if in_force.mutating.is_empty() && in_force.mutating_policies.is_empty() {
        return Ok(());
    }
    // Boxed: most requests never get here, and need not carry its state.
    let Through::Part(view) = asker.through else {
        return Box::pin(mutate_by_others(&in_force, request, asker, object, plugins)).await;
    };
    let old = request.old.map(|old| view.show(old));
    let shown = Request { old: old.as_ref(), ..*request };
    let mut part = view.show(object);
    let before = part.clone();
    Box::pin(mutate_by_others(&in_force, &shown, asker, &mut part, &|_| Ok(()))).await?;
    if part != before {
        *object = view.write_back(object, &part)?;
    }
    Ok(())
}

/// Policies first, then webhooks; then the policies that want to see what webhooks have made.
async fn mutate_by_others(
    in_force: &InForce,
    request: &Request<'_>,
    asker: &Asker<'_>,
    object: &mut Value,
    plugins: &(dyn Fn(&mut Value) -> Result<(), ApiError> + Sync),
) -> Result<(), ApiError> {
    if policies::mutate::mutate(in_force.mutating_policies.iter(), request, asker, object).await? {
        plugins(object)?;
    }
    if in_force.mutating.is_empty() {
        return Ok(());
    }
    let before = object.clone();
    webhooks::mutate(&in_force.mutating, request, asker, object, plugins).await?;
    let again = in_force.mutating_policies.iter().filter(|policy| policy.again);
    if *object != before && policies::mutate::mutate(again, request, asker, object).await? {
        plugins(object)?;
    }
    Ok(())
}

/// Lets those refuse `object` who only look at it, when nothing changes any more.
pub async fn validate(request: &Request<'_>, object: &Value) -> Result<(), ApiError> {
    let Some(asker) = asker(request) else { return Ok(()) };
    node_restriction::validate(request, asker, object)?;
    pod_security::validate(request, asker, object)?;
    let in_force = request.registry.registered.current();
    if in_force.validating.is_empty() && in_force.policies.is_empty() {
        return Ok(());
    }
    let Through::Part(view) = asker.through else {
        policies::validate(&in_force.policies, request, asker, object).await?;
        return Box::pin(webhooks::validate(&in_force.validating, request, asker, object)).await;
    };
    let (part, old) = (view.show(object), request.old.map(|old| view.show(old)));
    let shown = Request { old: old.as_ref(), ..*request };
    policies::validate(&in_force.policies, &shown, asker, &part).await?;
    Box::pin(webhooks::validate(&in_force.validating, &shown, asker, &part)).await
}

/// Who asks, if others than the plugins are to be asked about it.
fn asker<'a>(request: &Request<'a>) -> Option<&'a Asker<'a>> {
    request.author.asker.as_ref().filter(|_| !matching::is_exempt(request.place.info()))
}

/// The list at `path` of an object, made when there is none. `None` where something on the way is not
/// what it should be: validation will say so.
fn list_mut<'a>(object: &'a mut Value, path: &[&str]) -> Option<&'a mut Vec<Value>> {
    let mut at = object;
    for (i, name) in path.iter().enumerate() {
        let empty = if i + 1 == path.len() { Value::Array(Vec::new()) } else { Value::Object(Default::default()) };
        let fields = at.as_object_mut()?;
        let child = fields.entry(*name).or_insert(Value::Null);
        if child.is_null() {
            *child = empty;
        }
        at = child;
    }
    at.as_array_mut()
}

#[cfg(test)]
mod tests;

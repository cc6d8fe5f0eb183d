//! What happens to an object between decoding and the kind's own rules: a list of plugins, upstream's
//! names and order.
//!
//! A plugin looks at other objects (in the store, in memory: no plugin waits) and changes the new object
//! or refuses it. What a kind can decide from the object alone is not here but in `kinds`.

mod certificate_subject;
mod default_ingress_class;
mod default_storage_class;
mod limit_ranger;
mod namespace_lifecycle;
mod node_taint;
mod priority;
mod runtime_class;
mod service_account;
mod storage_protection;
mod tolerations;

use serde_json::Value;

use super::registry::{Place, Registry};
use super::status::ApiError;

pub use service_account::wait_for_prerequisites;

/// What is being done to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// What a plugin is told.
pub struct Request<'a> {
    pub registry: &'a Registry,
    pub place: Place<'a>,
    pub operation: Operation,
    /// The object as it is; only on updates.
    pub old: Option<&'a Value>,
}

impl Request<'_> {
    fn is(&self, operation: Operation, plural: &str) -> bool {
        self.operation == operation && self.place.info().group.is_empty() && self.place.info().plural == plural
    }

    fn forbidden(&self, why: impl std::fmt::Display) -> ApiError {
        ApiError::forbidden(self.place.info(), self.place.name, why)
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
];

/// Lets every plugin see `object`; for a deletion it is `Null`.
pub fn admit(
    registry: &Registry,
    place: Place<'_>,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let request = Request { registry, place, operation, old };
    CHAIN.iter().try_for_each(|plugin| plugin(&request, object))
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

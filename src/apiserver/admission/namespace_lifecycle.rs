//! NamespaceLifecycle: nothing is made in a namespace that is not there or is going, and some
//! namespaces never go.

use serde_json::Value;

use super::{Operation, Request};
use crate::apiserver::registry::{Place, meta};
use crate::apiserver::status::{ApiError, Cause, Details};
use crate::kinds::namespace::Namespace;

/// The cluster does not work without these.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub fn admit(request: &Request<'_>, _object: &mut Value) -> Result<(), ApiError> {
    let place = request.place;
    if request.is(Operation::Delete, "namespaces") && IMMORTAL.contains(&place.name) {
        return Err(request.forbidden("this namespace may not be deleted"));
    }
    if request.operation != Operation::Create || !place.info().namespaced {
        return Ok(());
    }
    let home = Place { kind: &Namespace, namespace: "", name: place.namespace };
    match request.registry.known(home) {
        None => Err(home.not_found()),
        Some(found) if meta::is_deleting(&found) => Err(terminating(place)),
        Some(_) => Ok(()),
    }
}

fn terminating(place: Place<'_>) -> ApiError {
    let namespace = place.namespace;
    let cause = Cause {
        reason: "NamespaceTerminating".into(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".into(),
    };
    let info = place.info();
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    ApiError::forbidden(info, place.name, why).with_details(Details {
        name: place.name.to_owned(),
        group: info.group.to_owned(),
        kind: info.plural.to_owned(),
        causes: vec![cause],
        ..Details::default()
    })
}

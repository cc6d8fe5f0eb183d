//! DefaultIngressClass: a new Ingress that names no class gets the one marked as the default.

use serde_json::Value;

use super::{Operation, Request};
use crate::apiserver::registry::{self, Place, encoding};
use crate::apiserver::status::ApiError;
use crate::kinds::Kind;
use crate::kinds::ingress_class::{DEFAULT_ANNOTATION, IngressClass, OLD_ANNOTATION};
use crate::kinds::meta;

pub fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    let info = request.place.info();
    if request.operation != Operation::Create || (info.group, info.plural) != ("networking.k8s.io", "ingresses") {
        return Ok(());
    }
    let named = !object["spec"]["ingressClassName"].is_null();
    if named || !object["metadata"]["annotations"][OLD_ANNOTATION].is_null() {
        return Ok(());
    }
    let class = default_class(request)?;
    if let (Some(class), Some(spec)) = (class, object.get_mut("spec").and_then(Value::as_object_mut)) {
        spec.insert("ingressClassName".into(), class.into());
    }
    Ok(())
}

/// The name of the newest class that is marked; of equally old ones the first by name.
fn default_class(request: &Request<'_>) -> Result<Option<String>, ApiError> {
    let prefix = encoding::prefix(IngressClass.info(), "");
    let page = request.registry.store.list(&prefix, None, 0, None).map_err(registry::store_error)?;
    let place = Place { kind: &IngressClass, namespace: "", name: "" };
    let mut newest: Option<(String, String)> = None;
    for entry in &page.entries {
        let class = registry::decode(place, entry)?;
        if class["metadata"]["annotations"][DEFAULT_ANNOTATION] != "true" {
            continue;
        }
        let made = meta::text(&class, "creationTimestamp").to_owned();
        if newest.as_ref().is_none_or(|(known, _)| made > *known) {
            newest = Some((made, meta::text(&class, "name").to_owned()));
        }
    }
    Ok(newest.map(|(_, name)| name))
}

//! PersistentVolumeClaimResize: a claim grows only where its class says that volumes can.

use serde_json::Value;

use super::{Operation, Request};
use crate::apiserver::registry::Place;
use crate::apiserver::status::ApiError;
use crate::kinds::common::text;
use crate::kinds::quantity::Quantity;
use crate::kinds::storage_class::StorageClass;

pub fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    let Some(old) = request.old.filter(|_| request.is(Operation::Update, "persistentvolumeclaims")) else {
        return Ok(());
    };
    let wanted = |claim: &Value| Quantity::of(&claim["spec"]["resources"]["requests"], "storage");
    // Of what is not bound yet, nothing can grow: validation says so.
    if wanted(object) <= wanted(old) || text(old, "/status/phase") != "Bound" {
        return Ok(());
    }
    let class = text(object, "/spec/storageClassName");
    let class = request.registry.find(Place { kind: &StorageClass, namespace: "", name: class });
    if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    Err(request.forbidden(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    ))
}

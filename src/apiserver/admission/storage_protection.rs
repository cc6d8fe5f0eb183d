//! StorageObjectInUseProtection: volumes and claims bear the finalizers that keep them while in use.

use serde_json::Value;

use super::{Operation, Request, list_mut};
use crate::apiserver::status::ApiError;
use crate::kinds::{persistent_volume, persistent_volume_claim};

pub fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    let finalizer = if request.is(Operation::Create, "persistentvolumeclaims") {
        persistent_volume_claim::PROTECTION
    } else if request.is(Operation::Create, "persistentvolumes") {
        persistent_volume::PROTECTION
    } else {
        return Ok(());
    };
    if let Some(finalizers) = list_mut(object, &["metadata", "finalizers"])
        && !finalizers.iter().any(|has| has == finalizer)
    {
        finalizers.push(finalizer.into());
    }
    Ok(())
}

//! DefaultStorageClass: a new claim that names no class gets the one marked as the default. The empty
//! name says that it wants none.

use serde_json::Value;

use super::{Operation, Request};
use crate::apiserver::registry::{self, Place, encoding};
use crate::apiserver::status::ApiError;
use crate::kinds::Kind;
use crate::kinds::meta;
use crate::kinds::storage_class::{self, StorageClass};

pub fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    if !request.is(Operation::Create, "persistentvolumeclaims") || !object["spec"]["storageClassName"].is_null() {
        return Ok(());
    }
    let class = default_class(request)?;
    if let (Some(class), Some(spec)) = (class, object.get_mut("spec").and_then(Value::as_object_mut)) {
        spec.insert("storageClassName".into(), class.into());
    }
    Ok(())
}

/// The name of the newest class that is marked; of equally old ones the first by name.
fn default_class(request: &Request<'_>) -> Result<Option<String>, ApiError> {
    let prefix = encoding::prefix(StorageClass.info(), "");
    let page = request.registry.store.list(&prefix, None, 0, None).map_err(registry::store_error)?;
    let place = Place { kind: &StorageClass, namespace: "", name: "" };
    let mut newest: Option<(String, String)> = None;
    for entry in &page.entries {
        let class = registry::decode(place, entry)?;
        let made = meta::text(&class, "creationTimestamp").to_owned();
        if storage_class::is_default(&class) && newest.as_ref().is_none_or(|(known, _)| made > *known) {
            newest = Some((made, meta::text(&class, "name").to_owned()));
        }
    }
    Ok(newest.map(|(_, name)| name))
}

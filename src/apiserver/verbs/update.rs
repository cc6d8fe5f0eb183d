//! PUT: the whole object, or its status.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use serde_json::Value;

use super::Call;
use crate::apiserver::body;
use crate::apiserver::options::WriteOptions;
use crate::apiserver::registry::update::{allows_create_on_update, check_uid};
use crate::apiserver::reply::Look;
use crate::apiserver::status::ApiError;
use crate::kinds::meta as kmeta;

pub async fn update(call: &Call, body: Body) -> Result<Response, ApiError> {
    let look = Look::of_objects(&call.headers, &call.query)?;
    let options = WriteOptions::from_query(&call.query, "UpdateOptions")?;
    let decoded = body::object(body, &call.headers, call.kind, options.field_validation).await?;
    let (mut object, mut warnings) = (decoded.object, decoded.warnings);
    check_place(call, &mut object)?;
    let registry = &call.server.registry;
    let change = |old: &Value| {
        check_uid(call.place(), &object, old)?;
        call.guard(&object, Some(old))?;
        Ok(object.clone())
    };
    let author = call.author(&options);
    let written = match registry.update(call.place(), call.lane(), &author, &change).await {
        Err(error) if may_create(call, &error, &object) => {
            call.may_create()?;
            registry.create(call.kind, &call.target.namespace, object, &author).await?
        }
        result => result?,
    };
    warnings.extend(written.warnings);
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    look.object(call.kind, code, &written.stored, &warnings)
}

/// Whether the object is not there, may be made by a PUT, and the client does not expect it to exist.
fn may_create(call: &Call, error: &ApiError, object: &Value) -> bool {
    error.reason() == "NotFound"
        && call.target.subresource.is_empty()
        && allows_create_on_update(call.kind.info().own_plural())
        && kmeta::text(object, "uid").is_empty()
        && kmeta::text(object, "resourceVersion").is_empty()
}

/// Holds the object's name and namespace against the URL's.
pub fn check_place(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    let target = &call.target;
    let name = kmeta::text(object, "name").to_owned();
    if name.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            target.name
        )));
    }
    if name != target.name {
        let url = &target.name;
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({url})"
        )));
    }
    if call.kind.info().namespaced {
        let namespace = kmeta::text(object, "namespace");
        if !namespace.is_empty() && namespace != target.namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        kmeta::metadata_mut(object).insert("namespace".into(), target.namespace.as_str().into());
    }
    Ok(())
}

//! PUT `namespaces/finalize`: the namespace controller says that the namespace is empty.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use serde_json::Value;

use super::Call;
use super::update::check_place;
use crate::apiserver::body;
use crate::apiserver::options::WriteOptions;
use crate::apiserver::registry::update::{Lane, check_uid};
use crate::apiserver::reply::Look;
use crate::apiserver::status::ApiError;
use crate::kinds::meta as kmeta;

pub async fn finalize(call: &Call, body: Body) -> Result<Response, ApiError> {
    let look = Look::of_objects(&call.headers, &call.query)?;
    let options = WriteOptions::from_query(&call.query, "UpdateOptions")?;
    let decoded = body::object(body, &call.headers, call.kind, options.field_validation).await?;
    let (mut sent, warnings) = (decoded.object, decoded.warnings);
    check_place(call, &mut sent)?;
    let change = |old: &Value| check_uid(call.place(), &sent, old).map(|()| with_finalizers(old, &sent));
    let written = call.server.registry.update(call.place(), Lane::Server, &call.author(&options), &change).await?;
    look.object(call.kind, StatusCode::OK, &written.stored, &warnings)
}

/// The namespace as it is, with the finalizers of `sent` and the version that it states.
fn with_finalizers(old: &Value, sent: &Value) -> Value {
    let mut new = old.clone();
    let finalizers = sent["spec"]["finalizers"].clone();
    let spec = kmeta::object_mut(&mut new, "spec");
    match kmeta::is_empty(&finalizers) {
        true => spec.remove("finalizers"),
        false => spec.insert("finalizers".into(), finalizers),
    };
    let stated = kmeta::text(sent, "resourceVersion");
    if !stated.is_empty() {
        kmeta::metadata_mut(&mut new).insert("resourceVersion".into(), stated.into());
    }
    new
}

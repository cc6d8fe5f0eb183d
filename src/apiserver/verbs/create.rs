//! POST to a collection.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;

use super::Call;
use crate::apiserver::options::WriteOptions;
use crate::apiserver::reply::Look;
use crate::apiserver::status::ApiError;
use crate::apiserver::{body, hooks};
use crate::kinds::meta as kmeta;

pub async fn create(call: &Call, body: Body) -> Result<Response, ApiError> {
    let look = Look::of_objects(&call.headers, &call.query)?;
    let options = WriteOptions::from_query(&call.query, "CreateOptions")?;
    let mut decoded = body::object(body, &call.headers, call.kind, options.field_validation).await?;
    let mut warnings = decoded.warnings;
    call.said.name_object(kmeta::text(&decoded.object, "name"));
    call.sign_as_requester(&mut decoded.object);
    call.guard(&decoded.object, None)?;
    let written =
        call.server.registry.create(call.kind, &call.target.namespace, decoded.object, &call.author(&options)).await?;
    if !options.dry_run {
        hooks::created(&call.server, call.kind, &written.stored).await;
    }
    warnings.extend(written.warnings);
    look.object(call.kind, StatusCode::CREATED, &written.stored, &warnings)
}

//! POST to a collection.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;

use super::Call;
use crate::apiserver::options::WriteOptions;
use crate::apiserver::reply::{self, Representation};
use crate::apiserver::status::ApiError;
use crate::apiserver::{body, hooks};

pub async fn create(call: &Call, body: Body) -> Result<Response, ApiError> {
    let shape = Representation::negotiate(&call.headers)?;
    let options = WriteOptions::from_query(&call.query, "CreateOptions")?;
    let bytes = body::read(body).await?;
    let content_type = body::content_type(&call.headers);
    let (object, mut warnings) = body::decode(&bytes, content_type, call.kind, options.field_validation)?;
    let written = call.server.registry.create(call.kind, &call.target.namespace, object, options.dry_run).await?;
    if !options.dry_run {
        hooks::created(&call.server.registry, call.kind, &written.stored).await;
    }
    warnings.extend(written.warnings);
    reply::object(call.kind, &shape, StatusCode::CREATED, &written.stored, &warnings)
}

//! GET of one object. The newest is always at hand, so a version asked for can only be too new.

use axum::response::Response;
use http::StatusCode;

use super::Call;
use crate::apiserver::options::parse_version;
use crate::apiserver::registry::encoding::Stored;
use crate::apiserver::reply::Look;
use crate::apiserver::status::ApiError;

pub async fn get(call: &Call) -> Result<Response, ApiError> {
    let look = Look::of_objects(&call.headers, &call.query)?;
    let version = parse_version(call.query.get("resourceVersion"))
        .map_err(|why| ApiError::bad_request(format!("invalid resource version: {why}")))?;
    let entry = call.server.registry.entry(call.place());
    let current = call.server.registry.store.revision();
    if let Some(wanted) = version.filter(|wanted| *wanted > current) {
        return Err(ApiError::future_version(wanted, current));
    }
    let shown = call.server.registry.shown_one(call.kind, Stored::from(&entry?)).await?;
    look.object(call.kind, StatusCode::OK, &shown, &[])
}

//! GET `pods/log`: relayed from the node that runs the pod.

use axum::response::Response;

use super::Call;
use crate::apiserver::relay;
use crate::apiserver::status::ApiError;

pub async fn log(call: &Call) -> Result<Response, ApiError> {
    let pod = call.server.registry.find(call.place()).ok_or_else(|| call.place().not_found())?;
    relay::log(&call.server, &pod, &call.query).await
}

//! GET and POST of `pods/exec` and its like: begun by the node that runs the pod.

use axum::response::Response;

use super::Call;
use crate::apiserver::relay_stream;
use crate::apiserver::status::ApiError;

pub async fn stream(call: Call) -> Result<Response, ApiError> {
    let pod = call.server.registry.find(call.place()).ok_or_else(|| call.place().not_found())?;
    let what = relay_stream::Stream { name: &call.target.subresource, query: &call.query, headers: &call.headers };
    relay_stream::begin(&call.server, &pod, what, call.upgrade).await
}

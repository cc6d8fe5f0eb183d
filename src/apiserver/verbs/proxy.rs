//! GET `nodes/proxy`: a node's own figures, relayed.
//!
//! Upstream relays every path of the kubelet, which is a right to run commands on the node. Here only
//! what is listed is relayed, and all of it only tells.

use axum::response::Response;

use super::Call;
use crate::apiserver::relay;
use crate::apiserver::status::ApiError;

/// What may be asked of a node through the API server.
const PATHS: &[&str] = &["healthz", "metrics", "metrics/cadvisor", "metrics/resource", "stats/summary"];

pub async fn get(call: &Call) -> Result<Response, ApiError> {
    call.server.registry.entry(call.place())?;
    let path = call.target.proxied.trim_matches('/');
    if !PATHS.contains(&path) {
        let served = PATHS.join(", ");
        let why = format!("node {:?} is not asked for {path:?}; what can be asked for is {served}", call.target.name);
        return Err(ApiError::new(404, "NotFound", why));
    }
    relay::get(&call.server, &call.target.name, path).await
}

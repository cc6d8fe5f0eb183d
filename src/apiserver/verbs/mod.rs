//! One file a verb: from a parsed request to its answer.

mod binding;
mod create;
mod delete;
mod eviction;
mod finalize;
mod get;
mod list;
mod log;
mod patch;
mod proxy;
mod scale;
mod stream;
mod update;
pub mod watch;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use hyper::upgrade::OnUpgrade;

use super::ApiServer;
use super::measured;
use super::options::Query;
use super::registry::Place;
use super::registry::update::Lane;
use super::reply;
use super::status::ApiError;
use super::target::Target;
use crate::kinds::Kind;

/// A request for a resource, before its body is read.
pub struct Call {
    pub server: ApiServer,
    pub target: Target,
    pub kind: &'static dyn Kind,
    pub query: Query,
    pub headers: HeaderMap,
    /// The client's connection, if it asks for another protocol than HTTP.
    pub upgrade: Option<OnUpgrade>,
}

impl Call {
    pub fn place(&self) -> Place<'_> {
        Place { kind: self.kind, namespace: &self.target.namespace, name: &self.target.name }
    }

    fn lane(&self) -> Lane {
        if self.target.subresource == "status" { Lane::Status } else { Lane::Main }
    }
}

/// Said with every answer about an API that upstream has deprecated.
fn deprecation(kind: &dyn Kind) -> Option<&'static str> {
    match (kind.info().group, kind.info().plural) {
        ("", "endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        _ => None,
    }
}

/// Answers one request, failures included.
pub async fn answer(call: Call, body: Body) -> Response {
    let deprecation = deprecation(call.kind);
    let mut response = dispatch(call, body).await.unwrap_or_else(IntoResponse::into_response);
    if let Some(text) = deprecation {
        reply::warn(&mut response, &[text.to_owned()]);
    }
    response
}

/// Every verb and subresource that `target` lets through has its line here.
async fn dispatch(call: Call, body: Body) -> Result<Response, ApiError> {
    if measured::serves(call.kind) {
        return measured::answer(&call).await;
    }
    let target = &call.target;
    match (target.verb, target.subresource.as_str()) {
        ("get", "" | "status") => get::get(&call),
        ("list", "") => list::list(&call),
        ("watch", "") => watch::watch(&call),
        ("create", "") => create::create(&call, body).await,
        ("update", "" | "status") => update::update(&call, body).await,
        ("patch", "" | "status") => patch::patch(&call, body).await,
        ("delete", "") => delete::delete(&call, body).await,
        ("deletecollection", "") => delete::collection(&call, body).await,
        ("create", "eviction") => eviction::evict(&call, body).await,
        ("create", "binding") => binding::bind(&call, body).await,
        ("update", "finalize") => finalize::finalize(&call, body).await,
        ("get", "log") => log::log(&call).await,
        ("get", "proxy") => proxy::get(&call).await,
        ("get" | "create", "attach" | "exec" | "portforward") => stream::stream(call).await,
        ("get", "scale") => scale::get(&call),
        ("update", "scale") => scale::update(&call, body).await,
        ("patch", "scale") => scale::patch(&call, body).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

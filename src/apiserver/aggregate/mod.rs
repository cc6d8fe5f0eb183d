//! Aggregation: groups that other API servers serve behind this one.
//!
//! An APIService that names a Service says where a group's version is served. Requests for it are
//! authorized here as any other, then passed on over TLS ([`pass`]): the other server is told who asks
//! in `X-Remote-*` headers, and believes them because of the certificate that this one shows. What it
//! says of its resources is kept, and told with the rest of discovery ([`discovery`]).
//!
//! Nothing here decides whether another server is well: a controller asks it through this very way, and
//! writes what it finds into the APIService.

pub mod discovery;
mod pass;
mod place;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::response::Response;
use http::request::Parts;
use serde_json::Value;

use super::ApiServer;
use super::auth::User;
use super::auth::authorize::authorize;
use super::registry::Place;
use super::status::ApiError;
use super::target::{Target, served};
use crate::kinds::api_service::APIService;
use pass::RemoteClient;
pub use pass::{HOP_BY_HOP, trusting_anything};

/// Other servers at a time; with more, clients are made anew.
const MAX_CLIENTS: usize = 64;

/// What is known of other servers.
#[derive(Default)]
pub struct Aggregate {
    /// By what a client is made from.
    clients: Mutex<HashMap<String, RemoteClient>>,
    /// The last APIResourceList of each group version. What is no longer an APIService is not shown.
    resources: Mutex<BTreeMap<(String, String), Arc<Value>>>,
}

impl Aggregate {
    fn client(&self, key: &str) -> Option<RemoteClient> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Keeps a client; the one that others may have made meanwhile is the one.
    fn keep_client(&self, key: String, made: RemoteClient) -> RemoteClient {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.entry(key).or_insert(made).clone()
    }

    fn keep(&self, group: &str, version: &str, resources: Value) {
        let mut kept = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert((group.to_owned(), version.to_owned()), Arc::new(resources));
    }

    fn resources(&self, group: &str, version: &str) -> Option<Arc<Value>> {
        let kept = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&(group.to_owned(), version.to_owned())).cloned()
    }
}

/// A request for what another server serves.
pub struct Remote {
    pub group: String,
    pub version: String,
    pub service: Value,
    pub target: Target,
}

/// Whether a path is another server's.
pub fn remote(server: &ApiServer, parts: &Parts) -> Option<Remote> {
    let path = parts.uri.path();
    let mut names = path.strip_prefix("/apis/")?.split('/').filter(|name| !name.is_empty());
    let (group, version) = (names.next()?, names.next()?);
    let custom = server.registry.definitions.current();
    if served(&custom).any(|kind| kind.info().group == group && kind.info().version == version) {
        return None;
    }
    let name = format!("{version}.{group}");
    let service = server.registry.find(Place { kind: &APIService, namespace: "", name: &name })?;
    if !service["spec"]["service"].is_object() {
        return None;
    }
    let rest: Vec<&str> = names.collect();
    let target = target(parts, group, version, &rest);
    Some(Remote { group: group.to_owned(), version: version.to_owned(), service, target })
}

/// Answers a request for what another server serves.
pub async fn answer(
    server: &ApiServer,
    user: &User,
    remote: Remote,
    parts: Parts,
    body: Body,
) -> Result<Response, ApiError> {
    authorize(&server.registry.rights(), user, &remote.target)?;
    pass::pass(server, user, &remote, parts, body).await
}

/// What a request is about, by its path alone: which words are resources, nobody here knows.
fn target(parts: &Parts, group: &str, version: &str, rest: &[&str]) -> Target {
    let mut target = Target::plain(&parts.method, parts.uri.path());
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let Some(resource) = rest.first() else { return target };
    let name = rest.get(1).copied().unwrap_or_default();
    let watches =
        parts.uri.query().is_some_and(|query| query.split('&').any(|pair| matches!(pair, "watch=1" | "watch=true")));
    target.verb = match (parts.method.as_str(), name.is_empty()) {
        ("GET" | "HEAD", _) if watches => "watch",
        ("GET" | "HEAD", true) => "list",
        ("GET" | "HEAD", false) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "deletecollection",
        ("DELETE", false) => "delete",
        _ => "unknown",
    }
    .into();
    target.group = group.to_owned();
    target.version = version.to_owned();
    target.resource = (*resource).to_owned();
    target.namespace = namespace.to_owned();
    target.name = name.to_owned();
    target.subresource = rest.get(2).copied().unwrap_or_default().to_owned();
    target
}

#[cfg(test)]
mod tests;

//! One file a verb: from a parsed request to its answer.

mod apply;
mod approval;
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
mod token;
mod update;
pub mod watch;

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, Uri, header};
use hyper::upgrade::OnUpgrade;
use serde_json::Value;

use super::ApiServer;
use super::admission::author::{Asker, Author, Options, Said, Through};
use super::admission::{self, Operation};
use super::auth::User;
use super::auth::authorize::authorize;
use super::auth::rbac::escalate;
use super::body::content_type;
use super::codec::Expected;
use super::components;
use super::measured;
use super::options::{DeleteOptions, Query, WriteOptions};
use super::patch::is_apply;
use super::registry::Place;
use super::registry::owners::Owner;
use super::registry::update::Lane;
use super::reply;
use super::reviews;
use super::status::{ApiError, Details};
use super::target::Target;
use crate::kinds::certificate_signing_request::CertificateSigningRequest;
use crate::kinds::meta::FIELD_MANAGER_MAX_BYTES;
use crate::kinds::{Kind, Part};

/// A request for a resource, before its body is read.
pub struct Call {
    pub server: ApiServer,
    /// Who asks, or whom they act as.
    pub user: User,
    pub target: Target,
    pub kind: &'static dyn Kind,
    pub query: Query,
    pub headers: HeaderMap,
    pub sent: Sent,
    /// The client's connection, if it asks for another protocol than HTTP.
    pub upgrade: Option<OnUpgrade>,
    /// What is said about the request on the way.
    pub said: Arc<Said>,
}

/// The request's first line, for those who pass it on.
pub struct Sent {
    pub method: Method,
    pub uri: Uri,
}

impl Call {
    pub fn place(&self) -> Place<'_> {
        Place { kind: self.kind, namespace: &self.target.namespace, name: &self.target.name }
    }

    /// Who owns what this request changes: the manager that it names, else the program that sends it.
    fn owner(&self, options: &WriteOptions) -> Owner<'_> {
        let manager = match options.field_manager.as_str() {
            "" => program(self.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok())),
            named => named.to_owned(),
        };
        Owner::Updates { manager: manager.into(), subresource: &self.target.subresource }
    }

    /// On whose behalf the request writes, and how.
    pub fn author<'a>(&'a self, options: &'a WriteOptions) -> Author<'a> {
        let asker = self.asker(Options::Write(options), Through::Itself);
        Author { owner: self.owner(options), dry_run: options.dry_run, asker: Some(asker) }
    }

    /// The same for a deletion.
    fn deleter<'a>(&'a self, options: &'a DeleteOptions) -> Author<'a> {
        let asker = self.asker(Options::Delete(options), Through::Itself);
        Author { owner: Owner::Unchanged, dry_run: options.dry_run, asker: Some(asker) }
    }

    fn asker<'a>(&'a self, options: Options<'a>, through: Through<'a>) -> Asker<'a> {
        Asker { user: &self.user, subresource: &self.target.subresource, options, said: &self.said, through }
    }

    /// Lets those who have a say in it see `object`, which is what a subresource takes instead of the
    /// stored object. Most may only refuse it; some change it.
    async fn review(
        &self,
        operation: Operation,
        options: &WriteOptions,
        expected: &Expected<'_>,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        let asker = self.asker(Options::Write(options), Through::Instead(expected));
        let author = Author { owner: Owner::Unchanged, dry_run: options.dry_run, asker: Some(asker) };
        let registry = &self.server.registry;
        let request = admission::Request { registry, place: self.place(), operation, old: None, author: &author };
        admission::review(&request, object).await
    }

    /// Refuses to write a role or binding that gives more than the user has, or a certificate for a
    /// signer that is not the user's.
    fn guard(&self, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        if let Some(old) = old
            && self.is_about_certificates()
            && self.target.subresource == "status"
        {
            approval::permit_status(self, new, old)?;
        }
        let policy = self.server.registry.policies.current();
        escalate::check(&policy, &self.user, self.kind, &self.target.namespace, new, old)
    }

    /// Writes into a request for a certificate who asks for it.
    fn sign_as_requester(&self, object: &mut Value) {
        if self.is_about_certificates() {
            approval::write_requester(&self.user, object);
        }
    }

    fn is_about_certificates(&self) -> bool {
        self.kind.info() == CertificateSigningRequest.info()
    }

    /// Whether the user may also make the object: by a verb that makes it where it is not there.
    fn may_create(&self) -> Result<(), ApiError> {
        let target = Target { verb: "create".into(), ..self.target.clone() };
        authorize(&self.server.registry.rights(), &self.user, &target).map(|_| ())
    }

    /// Whether the client takes a custom resource in whatever version it is stored in.
    fn takes_any_version(&self) -> bool {
        self.kind.custom().is_some() && self.headers.contains_key(reply::ANY_VERSION)
    }

    /// Makes the request one for the version that its object is stored in, where the client takes any.
    fn settle_version(&mut self) {
        let of_one = matches!(&*self.target.verb, "get" | "patch" | "delete") && self.target.subresource.is_empty();
        if of_one
            && self.takes_any_version()
            && let Some(entry) = self.server.registry.store.get(&self.place().key())
            && let Some(written) = self.server.registry.as_written(self.kind, &entry.value)
        {
            self.kind = written;
        }
    }

    fn lane(&self) -> Lane {
        match self.target.subresource.as_str() {
            "status" => Lane::Status,
            other => self.part(other).map_or(Lane::Main, Lane::Part),
        }
    }

    fn part(&self, subresource: &str) -> Option<&'static Part> {
        self.kind.parts().iter().find(|part| part.subresource == subresource)
    }
}

/// The name of a program, from its `User-Agent`: what stands before the slash, within a manager's length.
fn program(agent: Option<&str>) -> String {
    let name = agent.unwrap_or_default().split('/').next().unwrap_or_default();
    name.chars().filter(|c| !c.is_control()).take(FIELD_MANAGER_MAX_BYTES).collect()
}

/// Said with every answer about an API that upstream has deprecated.
fn deprecation(kind: &dyn Kind) -> Option<&'static str> {
    if kind.custom().is_some() {
        return kind.deprecation();
    }
    match (kind.info().group, kind.info().plural) {
        ("", "endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        ("", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

/// Answers one request, failures included.
pub async fn answer(call: Call, body: Body) -> Response {
    let deprecation = deprecation(call.kind);
    let said = call.said.clone();
    let mut response = dispatch(call, body).await.unwrap_or_else(IntoResponse::into_response);
    reply::warn(&mut response, &said.take_warnings());
    if let Some(text) = deprecation {
        reply::warn(&mut response, &[text.to_owned()]);
    }
    response
}

/// Every verb and subresource that `target` lets through has its line here.
async fn dispatch(mut call: Call, body: Body) -> Result<Response, ApiError> {
    call.settle_version();
    if measured::serves(call.kind) {
        return measured::answer(&call).await;
    }
    if components::serves(call.kind) {
        return components::answer(&call);
    }
    if reviews::serves(call.kind) {
        return reviews::answer(&call, body).await;
    }
    let target = &call.target;
    if target.verb == "create" && call.server.registry.definitions.current().is_terminating(call.kind) {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(ApiError::new(405, "MethodNotAllowed", why).with_details(Details::default()));
    }
    let part = call.part(&target.subresource).map(|_| "");
    match (&*target.verb, part.unwrap_or(&target.subresource)) {
        ("get", "" | "status" | "approval") => get::get(&call).await,
        ("list", "") => list::list(&call).await,
        ("watch", "") => watch::watch(&call).await,
        ("create", "") => create::create(&call, body).await,
        ("update", "" | "status") => update::update(&call, body).await,
        ("patch", "" | "status") if is_apply(content_type(&call.headers)) => apply::apply(&call, body).await,
        ("patch", "" | "status") => patch::patch(&call, body).await,
        ("update" | "patch", "approval") => approval::write(&call, body).await,
        ("delete", "") => delete::delete(&call, body).await,
        ("deletecollection", "") => delete::collection(&call, body).await,
        ("create", "token") => token::create(&call, body).await,
        ("create", "eviction") => eviction::evict(&call, body).await,
        ("create", "binding") => binding::bind(&call, body).await,
        ("update", "finalize") => finalize::finalize(&call, body).await,
        ("get", "log") => log::log(&call).await,
        (_, "proxy") => proxy::proxy(call, body).await,
        ("get" | "create", "attach" | "exec" | "portforward") => stream::stream(call).await,
        ("get", "scale") => scale::get(&call).await,
        ("update", "scale") => scale::update(&call, body).await,
        ("patch", "scale") => scale::patch(&call, body).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

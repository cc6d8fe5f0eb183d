//! `certificatesigningrequests/approval`: who has a right over the signer says yes or no.
//!
//! Beside the right to write the subresource it takes the verb `approve` on the signer; and to write a
//! certificate into the status takes `sign`. A signer is no object: `signers` is only a word for roles.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;

use super::Call;
use super::apply::Config;
use super::patch::Patch;
use super::update::check_place;
use crate::apiserver::admission::author::Author;
use crate::apiserver::auth::User;
use crate::apiserver::auth::authorize::decide;
use crate::apiserver::body;
use crate::apiserver::codec::Expected;
use crate::apiserver::options::WriteOptions;
use crate::apiserver::patch::is_apply;
use crate::apiserver::registry::owners::Owner;
use crate::apiserver::registry::update::{Lane, check_uid};
use crate::apiserver::reply::Look;
use crate::apiserver::reviews;
use crate::apiserver::status::ApiError;
use crate::apiserver::target::Target;
use crate::kinds::certificate_signing_request::{REQUESTER, date_conditions, holds, validate_approval};
use crate::kinds::common::text;
use crate::kinds::meta as kmeta;

/// PUT or PATCH of the subresource.
pub async fn write(call: &Call, body: Body) -> Result<Response, ApiError> {
    let look = Look::of_objects(&call.headers, &call.query)?;
    let content = body::content_type(&call.headers);
    if call.target.verb == "update" {
        let options = WriteOptions::from_query(&call.query, "UpdateOptions")?;
        let decoded = body::object(body, &call.headers, call.kind, options.field_validation).await?;
        let mut sent = decoded.object;
        check_place(call, &mut sent)?;
        let change = |old: &Value| check_uid(call.place(), &sent, old).map(|()| sent.clone());
        return decided(call, &look, call.author(&options), decoded.warnings, &change).await;
    }
    if is_apply(content) {
        let options = WriteOptions::of_apply(&call.query)?;
        let expected = Expected::of(call.kind.info()).ok_or_else(|| ApiError::internal("the type is not known"))?;
        let config = Config::read(body, &expected, &options).await?;
        let reset = call.kind.reset_fields(&call.target.subresource);
        let change = |old: &Value| config.apply(old, &options, &call.target.subresource, reset);
        let author = Author { owner: Owner::Told, ..call.author(&options) };
        return decided(call, &look, author, config.warnings.clone(), &change).await;
    }
    let options = WriteOptions::from_query(&call.query, "PatchOptions")?;
    let patch = Patch::read(call, &options, body).await?;
    let change = |old: &Value| patch.apply(call, old);
    decided(call, &look, call.author(&options), Vec::new(), &change).await
}

type Change<'a> = &'a (dyn Fn(&Value) -> Result<Value, ApiError> + Send + Sync);

/// Writes the conditions of what `change` makes of the object.
async fn decided(
    call: &Call,
    look: &Look,
    author: Author<'_>,
    warnings: Vec<String>,
    change: Change<'_>,
) -> Result<Response, ApiError> {
    let approved = |old: &Value| {
        permit(call, "approve", old)?;
        let wanted = change(old)?;
        let mut new = old.clone();
        let status = kmeta::object_mut(&mut new, "status");
        match kmeta::is_empty(&wanted["status"]["conditions"]) {
            true => status.remove("conditions"),
            false => status.insert("conditions".into(), wanted["status"]["conditions"].clone()),
        };
        date_conditions(&mut new, old, Timestamp::now());
        let metadata = kmeta::metadata_mut(&mut new);
        for stated in ["resourceVersion", "managedFields"] {
            match &wanted["metadata"][stated] {
                Value::Null => metadata.remove(stated),
                value => metadata.insert(stated.into(), value.clone()),
            };
        }
        let errors = validate_approval(&new, old);
        let name = &call.target.name;
        if errors.is_empty() { Ok(new) } else { Err(ApiError::invalid(call.kind.info(), name, &errors)) }
    };
    let registry = &call.server.registry;
    let written = registry.update(call.place(), Lane::Server, &author, &approved).await?;
    look.object(call.kind, StatusCode::OK, &written.stored, &warnings)
}

/// Lets the user approve, or sign, for the request's signer.
fn permit(call: &Call, verb: &'static str, object: &Value) -> Result<(), ApiError> {
    let signer = text(object, "/spec/signerName");
    let domain = signer.split('/').next().unwrap_or_default();
    let rights = call.server.registry.rights();
    let may = |name: String| {
        let target = Target {
            verb: verb.into(),
            group: call.target.group.clone(),
            version: "*".into(),
            resource: "signers".into(),
            name,
            ..Target::default()
        };
        decide(&rights, &call.user, &target).is_some()
    };
    if may(signer.to_owned()) || may(format!("{domain}/*")) {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(ApiError::forbidden(call.kind.info(), &call.target.name, why))
}

/// Lets the user write this status: a certificate, or that there will be none, takes the right to sign.
pub fn permit_status(call: &Call, new: &Value, old: &Value) -> Result<(), ApiError> {
    let signs = text(new, "/status/certificate") != text(old, "/status/certificate");
    let fails = holds(new, "Failed") != holds(old, "Failed");
    if signs || fails { permit(call, "sign", old) } else { Ok(()) }
}

/// Writes who asks, whatever the request says of it.
pub fn write_requester(user: &User, object: &mut Value) {
    let spec = kmeta::object_mut(object, "spec");
    for field in REQUESTER {
        spec.remove(*field);
    }
    for (field, value) in reviews::user_info(user).as_object().into_iter().flatten() {
        if !kmeta::is_empty(value) {
            spec.insert(field.clone(), value.clone());
        }
    }
}

//! Questions about identity and rights: `authentication.k8s.io` and `authorization.k8s.io`.
//!
//! Nothing of them is stored. One posts an object with a question in its `spec`, and the same object
//! comes back with the answer in its `status`. Add-ons that must know who calls them ask here instead
//! of keeping their own list.

mod access;
mod identity;
mod kinds;
mod rules;

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value};

pub use kinds::KINDS;

use super::body;
use super::codec::Expected;
use super::options::WriteOptions;
use super::reply::Look;
use super::status::ApiError;
use super::verbs::Call;
use crate::kinds::Kind;
use crate::kinds::field::Errors;

/// Whether `kind` is one of these.
pub fn serves(kind: &dyn Kind) -> bool {
    KINDS.iter().any(|own| own.info() == kind.info())
}

/// POST of a question.
pub async fn answer(call: &Call, body: Body) -> Result<Response, ApiError> {
    let options = WriteOptions::from_query(&call.query, "CreateOptions")?;
    let info = call.kind.info();
    let expected =
        Expected::of(info).ok_or_else(|| ApiError::internal(format!("the type {} is not known", info.kind)))?;
    let mut review = body::expected(body, &call.headers, &expected, options.field_validation).await?.object;
    let status = match info.kind {
        "TokenReview" => identity::token(call, &review)?,
        "SelfSubjectReview" => identity::own(call),
        "SelfSubjectRulesReview" => rules::own(call, &review)?,
        kind => access::review(call, kind, &review)?,
    };
    review["status"] = status;
    // What an empty answer is written as is for the type to say.
    let _ = expected.model.conform(&mut review, &mut Vec::new());
    review["apiVersion"] = expected.api_version().into();
    review["kind"] = expected.kind.into();
    let look = Look::plain(&call.headers, &call.query)?;
    Ok(look.value(StatusCode::CREATED, &review))
}

/// 422 as upstream has it for reviews: without a kind.
fn refuse(group: &str, errors: &Errors) -> Result<(), ApiError> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid_kind("", group, "", errors)) }
}

/// A user as reviews show one; what is empty is left out.
pub fn user_info(user: &super::auth::User) -> Value {
    let mut info = Map::new();
    info.insert("username".into(), (*user.name).into());
    info.insert("uid".into(), (*user.uid).into());
    info.insert("groups".into(), user.groups.iter().map(|group| Value::from(&**group)).collect());
    let extra = user.extra.iter().map(|(key, values)| (key.clone(), Value::from(values.clone())));
    info.insert("extra".into(), Value::Object(extra.collect()));
    Value::Object(info)
}

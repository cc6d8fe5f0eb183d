//! POST `serviceaccounts/token`: a token for an account, for a while, bound to an object.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::Call;
use crate::apiserver::admission::Operation;
use crate::apiserver::auth::accounts::{Bound, ISSUER, claims};
use crate::apiserver::body;
use crate::apiserver::codec::Expected;
use crate::apiserver::options::WriteOptions;
use crate::apiserver::registry::Place;
use crate::apiserver::reply::Look;
use crate::apiserver::status::{ApiError, Details};
use crate::kinds::common::{list, text};
use crate::kinds::field::{Errors, Field};
use crate::kinds::node::Node;
use crate::kinds::pod::Pod;
use crate::kinds::secret::Secret;
use crate::kinds::{Kind, time};

const GROUP: &str = "authentication.k8s.io";
/// Upstream's bounds and default.
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
const DEFAULT_SECONDS: i64 = 3600;

pub async fn create(call: &Call, body: Body) -> Result<Response, ApiError> {
    let options = WriteOptions::from_query(&call.query, "CreateOptions")?;
    let expected = Expected::named(GROUP, "v1", "TokenRequest", "io.k8s.api.authentication.v1.TokenRequest")
        .ok_or_else(|| ApiError::internal("the type TokenRequest is not known"))?;
    let mut request = body::expected(body, &call.headers, &expected, options.field_validation).await?.object;
    let account = call.server.registry.find(call.place()).ok_or_else(|| call.place().not_found())?;
    call.review(Operation::Create, &options, &expected, &mut request).await?;
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    check_seconds(&request, seconds)?;
    let bound = bound_object(call, &request["spec"]["boundObjectRef"])?;
    let mut audiences: Vec<String> =
        list(&request, "/spec/audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let now = Timestamp::now();
    let object = bound.as_ref().map(|(word, object)| (*word, object));
    let bound = Bound { account: &account, object, audiences: &audiences, seconds };
    let token = call.server.accounts.key.sign(&claims(&bound, now)).map_err(ApiError::internal)?;
    let end = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    request["metadata"] = json!({
        "name": account["metadata"]["name"], "namespace": account["metadata"]["namespace"],
        "uid": account["metadata"]["uid"], "creationTimestamp": time::write(now),
    });
    request["spec"]["audiences"] = audiences.into();
    request["spec"]["expirationSeconds"] = seconds.into();
    request["status"] = json!({"token": token, "expirationTimestamp": time::write(end)});
    Ok(Look::plain(&call.headers, &call.query)?.value(StatusCode::CREATED, &request))
}

fn check_seconds(request: &Value, seconds: i64) -> Result<(), ApiError> {
    let mut errors = Errors::default();
    let at = Field::root(request).get("spec").get("expirationSeconds");
    if seconds < MIN_SECONDS {
        errors.invalid(&at, "may not specify a duration less than 10 minutes");
    }
    if seconds > MAX_SECONDS {
        errors.invalid(&at, "may not specify a duration larger than 2^32 seconds");
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid_kind("TokenRequest", GROUP, "", &errors)) }
}

/// The object whose end is to be the token's end. A node agent must name a pod of its own.
fn bound_object(call: &Call, reference: &Value) -> Result<Option<(&'static str, Value)>, ApiError> {
    let refuse = |why: String| Err(ApiError::forbidden(call.kind.info(), &call.target.name, why));
    if reference.is_null() {
        return match call.user.node() {
            Some(_) => refuse("node requested token not bound to a pod".to_owned()),
            None => Ok(None),
        };
    }
    let (kind, name) = (text(reference, "/kind"), text(reference, "/name"));
    let (word, of): (_, &'static dyn Kind) = match (text(reference, "/apiVersion"), kind) {
        ("v1", "Pod") => ("pod", &Pod),
        ("v1", "Secret") => ("secret", &Secret),
        ("v1", "Node") => ("node", &Node),
        (version, kind) => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let shown = format!("{group}/{version}, Kind={kind}");
            return Err(ApiError::bad_request(format!("cannot bind token to object of type {shown}")));
        }
    };
    let namespace = if of.info().namespaced { call.target.namespace.as_str() } else { "" };
    let place = Place { kind: of, namespace, name };
    let object = call.server.registry.find(place).ok_or_else(|| place.not_found())?;
    if word == "pod" && text(&object, "/spec/serviceAccountName") != call.target.name {
        return Err(ApiError::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            call.target.name
        )));
    }
    let uid = text(reference, "/uid");
    if !uid.is_empty() && uid != text(&object, "/metadata/uid") {
        let message = format!(
            "Operation cannot be fulfilled on {kind} {name:?}: the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        let details = Details { name: name.to_owned(), kind: kind.to_owned(), ..Details::default() };
        return Err(ApiError::new(409, "Conflict", message).with_details(details));
    }
    if let Some(node) = call.user.node()
        && (word != "pod" || text(&object, "/spec/nodeName") != node)
    {
        return refuse("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    Ok(Some((word, object)))
}

//! The documents about the API itself: discovery, OpenAPI, and the list of paths at `/`.
//!
//! They differ from objects in how they are fetched: clients keep them on disk and ask with an ETag
//! whether they still hold, and the same path has two forms that only `Accept` tells apart.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::aggregate::discovery as others;
use super::auth::accounts::openid_configuration;
use super::codec::negotiate::{Accept, NOT_ACCEPTABLE, Representation, Shape, negotiate};
use super::discovery::{Discovery, etag, not_modified};
use super::openapi::{self, Document};
use super::status::ApiError;
use super::target::served;
use super::{ApiServer, reply};

/// `None` where the path is none of these.
pub async fn answer(
    server: &ApiServer,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<Option<Response>, ApiError> {
    if method != Method::GET && method != Method::HEAD {
        return Ok(None);
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let custom = server.registry.definitions.current();
    let discovery = Discovery::new(served(&custom).map(|kind| kind.info()));
    let response = match parts.as_slice() {
        [] => reply::json_value(StatusCode::OK, &root(&discovery)),
        ["api"] | ["apis"] => groups(server, &discovery, parts == ["api"], headers)?,
        ["apis", group] => {
            match discovery.group(group).or_else(|| others::of_group(&others::versions(server), group)) {
                Some(document) => plain(headers, &document)?,
                None => return Ok(None),
            }
        }
        ["api", version] => plain(headers, &discovery.resources("", version).ok_or_else(ApiError::no_resource)?)?,
        ["apis", group, version] => match discovery.resources(group, version) {
            Some(document) => plain(headers, &document)?,
            None if discovery.group(group).is_some() => return Err(ApiError::no_resource()),
            None => return Ok(None),
        },
        [".well-known", "openid-configuration"] => plain(headers, &openid_configuration())?,
        ["openid", "v1", "jwks"] => {
            let mut response = plain(headers, &server.accounts.key.jwks())?;
            response.headers_mut().insert(header::CONTENT_TYPE, JWKS);
            response
        }
        ["openapi", "v3"] => openapi_document(headers, move || Some(openapi::index(&custom)), TEXT).await?,
        ["openapi", "v3", rest @ ..] => {
            let path = rest.join("/");
            openapi_document(headers, move || openapi::group_version(&custom, &path), JSON).await?
        }
        ["openapi", "v2"] => match text_of(headers, header::ACCEPT).is_some_and(wants_swagger_protobuf) {
            true => send_document(headers, move || Some(openapi::v2_protobuf(&custom)), SWAGGER_PROTOBUF).await?,
            false => openapi_document(headers, move || Some(openapi::v2(&custom)), JSON).await?,
        },
        _ => return Ok(None),
    };
    Ok(Some(response))
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const JWKS: HeaderValue = HeaderValue::from_static("application/jwk-set+json");
/// What upstream calls its index, although it is JSON.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

fn not_acceptable() -> ApiError {
    ApiError::new(406, "NotAcceptable", NOT_ACCEPTABLE)
}

fn text_of(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// `/api` and `/apis`, in the form that the client prefers.
fn groups(
    server: &ApiServer,
    discovery: &Discovery<'_>,
    core: bool,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let accept = text_of(headers, header::ACCEPT);
    let chosen = negotiate(accept, Accept { tables: false, discovery: true }).ok_or_else(not_acceptable)?;
    let Shape::AggregatedDiscovery { v2beta1 } = chosen.shape else {
        let document = match core {
            true => discovery.api_versions(&server.config.api_address.to_string()),
            false => {
                let mut document = discovery.group_list();
                others::add_to_groups(&mut document, &others::versions(server));
                document
            }
        };
        return Ok(vary(send(&chosen, &document)));
    };
    let mut document = discovery.aggregated(core, v2beta1);
    if !core {
        others::add_to_aggregated(&mut document, &others::versions(server));
    }
    let body = chosen.encode(&document);
    let tag = etag(&body);
    Ok(vary(tagged(headers, body.into(), &tag, HeaderValue::from_static(chosen.content_type()))))
}

/// A document of the older form.
fn plain(headers: &HeaderMap, document: &Value) -> Result<Response, ApiError> {
    let chosen = negotiate(text_of(headers, header::ACCEPT), Accept::default()).ok_or_else(not_acceptable)?;
    Ok(send(&chosen, document))
}

fn send(chosen: &Representation, document: &Value) -> Response {
    let mut response = Response::new(Body::from(chosen.encode(document)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(chosen.content_type()));
    response
}

fn vary(mut response: Response) -> Response {
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// A body with its ETag, or 304 if the client has it already.
fn tagged(headers: &HeaderMap, body: Bytes, tag: &str, content_type: HeaderValue) -> Response {
    let known = not_modified(text_of(headers, header::IF_NONE_MATCH), tag);
    let mut response = Response::new(if known { Body::empty() } else { Body::from(body) });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// What client-go asks for, with the older mark before the version, and what it is told.
const SWAGGER_PROTOBUF: HeaderValue =
    HeaderValue::from_static("application/com.github.proto-openapi.spec.v2.v1.0+protobuf");

/// Whether the first type that a client takes is version 2 as protobuf. A type with an `@` is no token of HTTP, which
/// is why there are two names.
fn wants_swagger_protobuf(accept: &str) -> bool {
    let first = accept.split([',', ';']).next().unwrap_or_default().trim();
    first.replace('@', ".").as_bytes() == SWAGGER_PROTOBUF.as_bytes()
}

/// An OpenAPI document in JSON. Version 3 is served in no other form: a client that takes nothing but protobuf gets
/// 406 and falls back.
async fn openapi_document(
    headers: &HeaderMap,
    find: impl FnOnce() -> Option<Document> + Send + 'static,
    content_type: HeaderValue,
) -> Result<Response, ApiError> {
    negotiate(text_of(headers, header::ACCEPT), Accept::default()).ok_or_else(not_acceptable)?;
    send_document(headers, find, content_type).await
}

async fn send_document(
    headers: &HeaderMap,
    find: impl FnOnce() -> Option<Document> + Send + 'static,
    content_type: HeaderValue,
) -> Result<Response, ApiError> {
    // The first to ask has the documents built, which takes too long for a thread that serves others.
    let document = tokio::task::spawn_blocking(find).await.map_err(ApiError::internal)?;
    let document = document.ok_or_else(ApiError::no_path)?;
    Ok(vary(tagged(headers, document.body, &document.etag, content_type)))
}

/// The paths that answer to GET.
fn root(discovery: &Discovery<'_>) -> Value {
    let mut paths = vec!["/.well-known/openid-configuration".to_owned(), "/api".to_owned(), "/apis".to_owned()];
    for (group, version) in discovery.group_versions() {
        if group.is_empty() {
            paths.push(format!("/api/{version}"));
        } else {
            paths.push(format!("/apis/{group}"));
            paths.push(format!("/apis/{group}/{version}"));
        }
    }
    let others = ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"];
    paths.extend(others.map(str::to_owned));
    paths.sort();
    paths.dedup();
    json!({"paths": paths})
}

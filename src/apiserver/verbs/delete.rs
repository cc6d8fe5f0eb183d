//! DELETE of one object, and of all that a selector names.

use axum::body::Body;
use axum::response::Response;
use futures::{StreamExt, TryStreamExt};
use http::StatusCode;

use super::{Call, list};
use crate::apiserver::body;
use crate::apiserver::options::{DeleteOptions, ListOptions};
use crate::apiserver::registry::Place;
use crate::apiserver::registry::delete::Deleted;
use crate::apiserver::registry::encoding::{self, Stored};
use crate::apiserver::reply::{self, ListMeta, Look};
use crate::apiserver::status::{ApiError, Details};
use crate::kinds::Kind;
use crate::kinds::meta as kmeta;

/// How many objects a deletecollection deletes at a time: enough that they share one sync of the disk.
const CONCURRENCY: usize = 32;

pub async fn delete(call: &Call, body: Body) -> Result<Response, ApiError> {
    let look = Look::of_objects(&call.headers, &call.query)?;
    let options = read_options(call, body).await?;
    let warnings: Vec<String> = match options.propagation {
        None => call.kind.deletion_warning().into_iter().map(str::to_owned).collect(),
        Some(_) => Vec::new(),
    };
    match call.server.registry.delete(call.place(), &options, &call.deleter(&options)).await? {
        Deleted::Pending(stored) => look.object(call.kind, StatusCode::OK, &stored, &warnings),
        Deleted::Gone(stored) if returns_object(call.kind) => {
            look.object(call.kind, StatusCode::OK, &stored, &warnings)
        }
        Deleted::Gone(stored) => Ok(reply::success(StatusCode::OK, Some(details(call, &stored)))),
    }
}

async fn read_options(call: &Call, body: Body) -> Result<DeleteOptions, ApiError> {
    let sent = body::delete_options(body, &call.headers).await?;
    DeleteOptions::read(&call.query, sent.as_ref())
}

/// Upstream's `ReturnDeletedObject`: these answer with what they were instead of a Status.
fn returns_object(kind: &dyn Kind) -> bool {
    let info = kind.info();
    info.group == "storage.k8s.io"
        || matches!(
            info.own_plural(),
            "pods"
                | "services"
                | "serviceaccounts"
                | "namespaces"
                | "podtemplates"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "resourcequotas"
        )
}

fn details(call: &Call, stored: &Stored) -> Details {
    let info = call.kind.info();
    let object = encoding::decode(call.kind, &stored.bytes, stored.revision).unwrap_or_default();
    Details {
        name: call.target.name.clone(),
        group: info.group.to_owned(),
        kind: info.plural.to_owned(),
        uid: kmeta::text(&object, "uid").to_owned(),
        ..Details::default()
    }
}

/// Deletes what the selectors name; the answer lists it as it was.
pub async fn collection(call: &Call, body: Body) -> Result<Response, ApiError> {
    let look = Look::of_objects(&call.headers, &call.query)?;
    let selection = ListOptions::from_query(&call.query, false)?;
    let options = read_options(call, body).await?;
    let (items, meta) = list::collect(call, &selection, look.is_metadata()).await?;
    let registry = &call.server.registry;
    let (kind, options, author) = (call.kind, &options, &call.deleter(&options));
    futures::stream::iter(&items)
        .map(Ok::<_, ApiError>)
        .try_for_each_concurrent(CONCURRENCY, |item| async move {
            // What is listed as it is stored is of the version that it is stored in.
            let kind = registry.as_written(kind, &item.bytes).unwrap_or(kind);
            let object = encoding::decode(kind, &item.bytes, item.revision).map_err(ApiError::internal)?;
            let (namespace, name) = (kmeta::text(&object, "namespace"), kmeta::text(&object, "name"));
            match registry.delete(Place { kind, namespace, name }, options, author).await {
                Err(error) if error.reason() != "NotFound" => Err(error),
                _ => Ok(()),
            }
        })
        .await?;
    look.list(call.kind, &items, &ListMeta { continue_token: String::new(), remaining: None, ..meta })
}

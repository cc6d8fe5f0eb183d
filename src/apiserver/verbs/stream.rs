//! GET and POST of `pods/exec` and its like: begun by the node that runs the pod.

use axum::response::Response;

use serde_json::{Map, Value};

use super::Call;
use crate::apiserver::admission::author::{Author, Options, Through};
use crate::apiserver::admission::{self, Operation};
use crate::apiserver::codec::Expected;
use crate::apiserver::registry::owners::Owner;
use crate::apiserver::relay_stream;
use crate::apiserver::status::ApiError;

pub async fn stream(call: Call) -> Result<Response, ApiError> {
    let pod = call.server.registry.find(call.place()).ok_or_else(|| call.place().not_found())?;
    let kind = kind_of(&call);
    review(&call, options(&call, kind)).await?;
    let what = relay_stream::Stream { name: &call.target.subresource, query: &call.query, headers: &call.headers };
    relay_stream::begin(&call.server, &pod, what, call.upgrade).await
}

/// The kind of a connection's options.
fn kind_of(call: &Call) -> &'static str {
    let subresource = call.kind.info().subresources.iter().find(|sub| sub.name == call.target.subresource);
    subresource.map_or("PodExecOptions", |sub| sub.kind)
}

/// Lets those refuse the connection who have a say in it: they see its options as an object.
pub async fn review(call: &Call, options: Value) -> Result<(), ApiError> {
    let kind = kind_of(call);
    // The type is only named: nothing is decoded as it.
    let schema = crate::kinds::schema::lookup(call.kind.info().schema);
    let schema = schema.ok_or_else(|| ApiError::internal("the type Pod is not known"))?;
    let expected = Expected { group: "", version: "v1", kind, model: schema.into() };
    let asker = call.asker(Options::Connect, Through::Instead(&expected));
    let author = Author { owner: Owner::Unchanged, dry_run: false, asker: Some(asker) };
    let (registry, operation) = (&call.server.registry, Operation::Connect);
    let request = admission::Request { registry, place: call.place(), operation, old: None, author: &author };
    admission::validate(&request, &options).await
}

/// The query as upstream's object has it.
fn options(call: &Call, kind: &str) -> Value {
    let query = &call.query;
    let mut fields = Map::from_iter([("kind".to_owned(), kind.into()), ("apiVersion".to_owned(), "v1".into())]);
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if query.bool(flag) {
            fields.insert(flag.to_owned(), true.into());
        }
    }
    if !query.get("container").is_empty() {
        fields.insert("container".to_owned(), query.get("container").into());
    }
    let command = query.all("command");
    if !command.is_empty() {
        fields.insert("command".to_owned(), command.into());
    }
    let ports: Vec<i64> = query.all("ports").iter().filter_map(|port| port.parse().ok()).collect();
    if !ports.is_empty() {
        fields.insert("ports".to_owned(), ports.into());
    }
    fields.into()
}

//! `scale`: how many of a scalable kind, whatever the kind.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Call;
use super::apply::Config;
use super::patch::Patch;
use crate::apiserver::admission::author::{Author, Options, Through, View};
use crate::apiserver::body;
use crate::apiserver::codec::Expected;
use crate::apiserver::options::WriteOptions;
use crate::apiserver::patch::apply::managers::Managers;
use crate::apiserver::patch::apply::scale as managers;
use crate::apiserver::patch::apply::set::Step;
use crate::apiserver::patch::apply::{Writer, track_update};
use crate::apiserver::patch::is_apply;
use crate::apiserver::registry::owners::Owner;
use crate::apiserver::registry::update::{Lane, check_uid};
use crate::apiserver::registry::{Written, encoding};
use crate::apiserver::reply::Look;
use crate::apiserver::status::ApiError;
use crate::kinds::field::{Errors, Reason};
use crate::kinds::{ScalePaths, meta as kmeta, time};

pub async fn get(call: &Call) -> Result<Response, ApiError> {
    let object = call.server.registry.look(call.place()).await?.ok_or_else(|| call.place().not_found())?;
    let look = Look::plain(&call.headers, &call.query)?;
    Ok(look.value(StatusCode::OK, &view(&object, paths(call)?)))
}

pub async fn update(call: &Call, body: Body) -> Result<Response, ApiError> {
    let options = WriteOptions::from_query(&call.query, "UpdateOptions")?;
    let sent = body::expected(body, &call.headers, &scale_type()?, options.field_validation).await?.object;
    let name = kmeta::text(&sent, "name");
    if name != call.target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.target.name
        )));
    }
    write(call, &options, &|_| Ok(sent.clone())).await
}

pub async fn patch(call: &Call, body: Body) -> Result<Response, ApiError> {
    let expected = scale_type()?;
    if is_apply(body::content_type(&call.headers)) {
        let options = WriteOptions::of_apply(&call.query)?;
        let config = Config::read(body, &expected, &options).await?;
        return write(call, &options, &|scale| config.apply(scale, &options, &call.target.subresource, &[])).await;
    }
    let options = WriteOptions::from_query(&call.query, "PatchOptions")?;
    let patch = Patch::read(call, &options, body).await?;
    write(call, &options, &|scale| patch.apply_as(&expected, scale)).await
}

/// Writes what `change` makes of the object's Scale back into the object.
async fn write(
    call: &Call,
    options: &WriteOptions,
    change: &(dyn Fn(&Value) -> Result<Value, ApiError> + Send + Sync),
) -> Result<Response, ApiError> {
    let paths = paths(call)?;
    let replicas: Vec<Step<'_>> = paths.spec_replicas.split('/').skip(1).map(Step::Field).collect();
    let written_object = |old: &Value| {
        let owners = Managers::stored(old["metadata"]["managedFields"].clone());
        let mut scale = view(old, paths);
        if let Some(list) = managers::to_scale(&owners, &replicas).into_value() {
            kmeta::metadata_mut(&mut scale).insert("managedFields".into(), list);
        }
        let mut wanted = change(&scale)?;
        if !is_apply(body::content_type(&call.headers)) {
            track(call, options, &scale, &mut wanted)?;
        }
        let told = Managers::stored(wanted["metadata"]["managedFields"].take());
        let version = encoding::api_version(call.kind.info());
        let owners = managers::to_object(&owners, told, &replicas, &version);
        let mut new = scaled(call, old, &wanted, paths)?;
        let metadata = kmeta::metadata_mut(&mut new);
        match owners.into_value() {
            Some(list) => metadata.insert("managedFields".into(), list),
            None => metadata.remove("managedFields"),
        };
        Ok(new)
    };
    let part = Part { call, paths, expected: scale_type()? };
    let asker = call.asker(Options::Write(options), Through::Part(&part));
    let author = Author { owner: Owner::Told, dry_run: options.dry_run, asker: Some(asker) };
    let registry = &call.server.registry;
    let written = registry.update(call.place(), Lane::Main, &author, &written_object).await?;
    answer(call, &written, paths)
}

/// Writes into a Scale who owns its replicas now.
fn track(call: &Call, options: &WriteOptions, old: &Value, new: &mut Value) -> Result<(), ApiError> {
    if let Owner::Updates { manager, subresource } = call.owner(options) {
        let expected = scale_type()?;
        let (version, now) = (expected.api_version(), time::write(Timestamp::now()));
        let writer = Writer { manager: &manager, api_version: &version, subresource, reset: &[], now: &now };
        track_update(&expected.model, old, new, &writer);
    }
    Ok(())
}

fn answer(call: &Call, written: &Written, paths: ScalePaths) -> Result<Response, ApiError> {
    let stored = &written.stored;
    let object = encoding::decode(call.kind, &stored.bytes, stored.revision).map_err(ApiError::internal)?;
    let look = Look::plain(&call.headers, &call.query)?;
    Ok(look.value(StatusCode::OK, &view(&object, paths)))
}

fn paths(call: &Call) -> Result<ScalePaths, ApiError> {
    call.kind.scale().ok_or_else(ApiError::no_resource)
}

fn scale_type() -> Result<Expected<'static>, ApiError> {
    Expected::named("autoscaling", "v1", "Scale", "io.k8s.api.autoscaling.v1.Scale")
        .ok_or_else(|| ApiError::internal("the type Scale is not known"))
}

/// What those see of the object who have a say in it.
struct Part<'a> {
    call: &'a Call,
    paths: ScalePaths,
    expected: Expected<'static>,
}

impl View for Part<'_> {
    fn expected(&self) -> Expected<'_> {
        self.expected.clone()
    }

    fn show(&self, object: &Value) -> Value {
        view(object, self.paths)
    }

    fn write_back(&self, object: &Value, part: &Value) -> Result<Value, ApiError> {
        scaled(self.call, object, part, self.paths)
    }
}

/// The object as a Scale.
fn view(object: &Value, paths: ScalePaths) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        let value = &object["metadata"][field];
        if !value.is_null() {
            metadata.insert(field.into(), value.clone());
        }
    }
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let mut spec = Map::new();
    // Upstream leaves a zero out.
    if number(paths.spec_replicas) != 0 {
        spec.insert("replicas".into(), number(paths.spec_replicas).into());
    }
    let mut status = Map::from_iter([("replicas".to_owned(), Value::from(number(paths.status_replicas)))]);
    let selector = selector_text(object.pointer(paths.selector).unwrap_or(&Value::Null));
    if !selector.is_empty() {
        status.insert("selector".into(), selector.into());
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// The object with the replicas that `scale` asks for, and the version that it states.
fn scaled(call: &Call, old: &Value, scale: &Value, paths: ScalePaths) -> Result<Value, ApiError> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let mut errors = Errors::default();
        let detail = "must be greater than or equal to 0";
        errors.push(Reason::Invalid, "spec.replicas", Some(replicas.into()), detail);
        return Err(ApiError::invalid_kind("Scale", "autoscaling", &call.target.name, &errors));
    }
    check_uid(call.place(), scale, old)?;
    let mut new = old.clone();
    set_at(&mut new, paths.spec_replicas, replicas.into());
    let metadata = kmeta::metadata_mut(&mut new);
    match kmeta::text(scale, "resourceVersion") {
        "" => metadata.remove("resourceVersion"),
        stated => metadata.insert("resourceVersion".into(), stated.into()),
    };
    Ok(new)
}

/// Sets the value at a pointer of names, whatever of the way to it is not there yet.
fn set_at(object: &mut Value, pointer: &str, value: Value) {
    let mut names = pointer.split('/').skip(1).peekable();
    let mut at = object;
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            if let Some(map) = at.as_object_mut() {
                map.insert(name.to_owned(), value);
            }
            return;
        }
        kmeta::object_mut(at, name);
        at = &mut at[name];
    }
}

/// A LabelSelector, a plain map, or a text that is one already (custom resources), in the words of a query parameter.
fn selector_text(selector: &Value) -> String {
    if let Some(text) = selector.as_str() {
        return text.to_owned();
    }
    let structured = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    let labels = if structured { &selector["matchLabels"] } else { selector };
    let pairs = labels.as_object().into_iter().flatten();
    let mut terms: Vec<String> = pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    if structured {
        for term in selector["matchExpressions"].as_array().into_iter().flatten() {
            let key = term["key"].as_str().unwrap_or_default();
            let mut values: Vec<&str> =
                term["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            values.sort_unstable();
            let list = values.join(",");
            terms.push(match term["operator"].as_str().unwrap_or_default() {
                "In" => format!("{key} in ({list})"),
                "NotIn" => format!("{key} notin ({list})"),
                "Exists" => key.to_owned(),
                _ => format!("!{key}"),
            });
        }
    }
    terms.sort();
    terms.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_read_as_queries() {
        assert_eq!(selector_text(&json!({"b": "2", "a": "1"})), "a=1,b=2");
        let structured = json!({"matchLabels": {"x": "y"}, "matchExpressions": [
            {"key": "k", "operator": "In", "values": ["b", "a"]}, {"key": "e", "operator": "DoesNotExist"},
        ]});
        assert_eq!(selector_text(&structured), "!e,k in (a,b),x=y");
        assert_eq!(selector_text(&Value::Null), "");
    }
}

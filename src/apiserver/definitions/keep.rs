//! The task that keeps definitions: their conditions, the table of kinds, the end of what was deleted.

use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use serde_json::Value;

use crate::apiserver::ApiServer;
use crate::apiserver::admission::author::Author;
use crate::apiserver::options::DeleteOptions;
use crate::apiserver::registry::meta::{finalizers, is_deleting};
use crate::apiserver::registry::update::Lane;
use crate::apiserver::registry::{self, Place, Registry, encoding};
use crate::apiserver::status::ApiError;
use crate::kinds::custom_resource_definition::{CLEANUP, CustomResourceDefinition};
use crate::kinds::{Kind, meta as kmeta};
use crate::store::Watch;

use super::names;

/// How soon objects that hold a deleted definition are looked at again.
const CLEANUP_AGAIN: Duration = Duration::from_millis(500);
/// How many objects are deleted beside each other.
const CONCURRENCY: usize = 32;

/// Keeps the table until the server stops.
pub async fn run(server: ApiServer) {
    loop {
        let prefix = encoding::prefix(CustomResourceDefinition.info(), "");
        let revision = server.registry.store.revision();
        let Ok(mut watch) = server.registry.store.watch(&prefix, revision) else { return };
        // Everything may have changed before the watch began.
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = follow(&server, &mut watch) => {}
        }
    }
}

/// Returns when the watch has fallen behind or ended.
async fn follow(server: &ApiServer, watch: &mut Watch) {
    loop {
        let unfinished = settle(server).await;
        let wait = async {
            if unfinished {
                tokio::time::sleep(CLEANUP_AGAIN).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            change = watch.next() => if !matches!(change, Some(Ok(_))) { return },
            () = wait => {}
        }
        // What has come meanwhile is settled together.
        while let Some(change) = watch.try_next() {
            if change.is_err() {
                return;
            }
        }
    }
}

/// Brings conditions and table up to date, and takes a step in the end of what is deleted. True when
/// there is more to do that no change of a definition will tell of.
pub async fn settle(server: &ApiServer) -> bool {
    let registry = &server.registry;
    let Ok(mut all) = definitions(registry) else { return true };
    for at in 0..all.len() {
        let new = names::settle(&all[at], &all, Timestamp::now());
        if new["status"] == all[at]["status"] {
            continue;
        }
        match write_status(registry, &new).await {
            Ok(()) => all[at] = new,
            // Changed meanwhile, so there is another change to come.
            Err(error) => {
                tracing::debug!(name = kmeta::text(&new, "name"), %error, "the status of a definition was not written")
            }
        }
    }
    // Read before the table shows them: what is written from now on is of the new schemas.
    registry.definitions.rebuild(&all, registry.store.revision(), &server.shutdown);
    let mut unfinished = false;
    for definition in all.iter().filter(|definition| is_deleting(definition)) {
        match clean_up(registry, definition).await {
            Ok(done) => unfinished |= !done,
            Err(error) => {
                unfinished = true;
                tracing::debug!(name = kmeta::text(definition, "name"), %error, "the end of a definition takes longer");
            }
        }
    }
    unfinished
}

fn definitions(registry: &Registry) -> Result<Vec<Value>, ApiError> {
    let kind: &'static dyn Kind = &CustomResourceDefinition;
    let prefix = encoding::prefix(kind.info(), "");
    let page = registry.store.list(&prefix, None, 0, None).map_err(registry::store_error)?;
    let place = Place { kind, namespace: "", name: "" };
    page.entries.iter().map(|entry| registry::decode(place, entry)).collect()
}

async fn write_status(registry: &Registry, new: &Value) -> Result<(), ApiError> {
    let place = Place { kind: &CustomResourceDefinition, namespace: "", name: kmeta::text(new, "name") };
    let change = |_: &Value| Ok(new.clone());
    registry.update(place, Lane::Server, &Author::own_by("status"), &change).await.map(drop)
}

/// Deletes what was made of a definition, then lets it go. True when that is done.
async fn clean_up(registry: &Registry, definition: &Value) -> Result<bool, ApiError> {
    if !finalizers(definition).contains(&CLEANUP) {
        return Ok(true);
    }
    // One whose names were never accepted has no objects.
    if let Some(kind) = registry.definitions.stored(definition)
        && !delete_all(registry, kind).await?
    {
        return Ok(false);
    }
    let place = Place { kind: &CustomResourceDefinition, namespace: "", name: kmeta::text(definition, "name") };
    let change = |old: &Value| {
        let mut new = old.clone();
        if let Some(list) = new["metadata"]["finalizers"].as_array_mut() {
            list.retain(|finalizer| finalizer != CLEANUP);
        }
        kmeta::normalize(&mut new);
        Ok(new)
    };
    match registry.update(place, Lane::Server, &Author::own(), &change).await {
        Err(error) if error.reason() != "NotFound" => Err(error),
        _ => Ok(true),
    }
}

/// Whether all objects of a kind are gone.
async fn delete_all(registry: &Registry, kind: &'static dyn Kind) -> Result<bool, ApiError> {
    let prefix = encoding::prefix(kind.info(), "");
    let list = || registry.store.list(&prefix, None, 0, None).map_err(registry::store_error);
    let options = DeleteOptions::default();
    let options = &options;
    futures::stream::iter(list()?.entries)
        .for_each_concurrent(CONCURRENCY, |entry| async move {
            // In the version that it is stored in: its end waits for no webhook.
            let kind = registry.as_written(kind, &entry.value).unwrap_or(kind);
            let place = Place { kind, namespace: "", name: "" };
            let Ok(object) = registry::decode(place, &entry) else { return };
            if is_deleting(&object) {
                return;
            }
            let (namespace, name) = (kmeta::text(&object, "namespace"), kmeta::text(&object, "name"));
            if let Err(error) = registry.delete(Place { kind, namespace, name }, options, &Author::unowned()).await {
                tracing::debug!(namespace, name, %error, "an object of a deleted definition stays for now");
            }
        })
        .await;
    Ok(list()?.entries.is_empty())
}

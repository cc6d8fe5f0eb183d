//! Events are forgotten an hour after they were last seen, as upstream's are: nothing else removes them.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::ApiServer;
use super::admission::author::Author;
use super::options::DeleteOptions;
use super::registry::{Place, encoding};
use crate::kinds::event::Event;
use crate::kinds::{Kind, meta as kmeta, time};

const TIME_TO_LIVE: SignedDuration = SignedDuration::from_hours(1);
/// An Event may outlive its hour by as much.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// How many entries are looked at under one hold of the store's lock.
const PAGE: usize = 1000;

/// Sweeps until the server stops.
pub async fn run(server: ApiServer) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            _ = ticks.tick() => sweep(&server, Timestamp::now()).await,
        }
    }
}

async fn sweep(server: &ApiServer, now: Timestamp) {
    let prefix = encoding::prefix(Event.info(), "");
    let mut after: Option<String> = None;
    loop {
        let Ok(page) = server.registry.store.list(&prefix, after.as_deref(), PAGE, None) else { return };
        for entry in &page.entries {
            let Ok(event) = encoding::decode(&Event, &entry.value, entry.mod_revision) else { continue };
            if is_over(&event, now) {
                forget(server, &event).await;
            }
        }
        after = page.entries.last().map(|entry| entry.key.to_string());
        if page.remaining == 0 || after.is_none() {
            return;
        }
    }
}

async fn forget(server: &ApiServer, event: &Value) {
    let (namespace, name) = (kmeta::text(event, "namespace"), kmeta::text(event, "name"));
    // An Event that has been seen again meanwhile stays.
    let precondition_version = Some(kmeta::text(event, "resourceVersion").to_owned());
    let options = DeleteOptions { precondition_version, ..DeleteOptions::default() };
    if let Err(error) =
        server.registry.delete(Place { kind: &Event, namespace, name }, &options, &Author::unowned()).await
    {
        tracing::debug!(namespace, name, %error, "cannot forget an Event yet");
    }
}

/// Whether the last sign of the Event is more than its time to live ago.
fn is_over(event: &Value, now: Timestamp) -> bool {
    let signs = [
        &event["metadata"]["creationTimestamp"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["series"]["lastObservedTime"],
    ];
    let last = signs.into_iter().filter_map(time::parse).max();
    last.is_some_and(|last| now.duration_since(last) > TIME_TO_LIVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_sign_counts() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().expect("a time");
        let old = json!({"metadata": {"creationTimestamp": "2026-01-01T10:00:00Z"}});
        assert!(is_over(&old, now));
        let mut seen = old.clone();
        seen["lastTimestamp"] = "2026-01-01T11:30:00Z".into();
        assert!(!is_over(&seen, now));
        assert!(!is_over(&json!({}), now), "what has no time is left alone");
    }
}

//! APIServices: whether what one announces is served.
//!
//! What this server serves itself is always available. Another server is asked for its resources from
//! time to time, by the way that every client's requests take: so the answer is about the Service, its
//! endpoints, the trust and the server at once.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceCondition, APIServiceStatus};
use kube::Client;
use serde_json::{Value, json};

use super::diff::merge_patch;
use crate::reconcile::{Cluster, ObjectKey, Queue, Recorder, Shared, Write, WriteError, reason, work};

/// How soon a server is asked again that was well, and one that was not.
const WELL: Duration = Duration::from_secs(30);
const NOT_WELL: Duration = Duration::from_secs(5);
/// A server that does not answer within this is not well.
const PATIENCE: Duration = Duration::from_secs(5);
/// Servers asked at a time.
const WORKERS: usize = 8;

/// Runs the controller until its task is aborted.
pub(super) async fn run(cluster: Cluster) {
    let services = cluster.watch::<APIService>();
    let recorder = Recorder::start(cluster.client().clone(), "apiservice-status-controller", "");
    let queue = cluster.queue("apiservice-status");
    follow(&queue, &services);
    services.synced().await;
    let scanned = services.clone();
    let handle = move |key: ObjectKey| {
        let (cluster, recorder, service) = (cluster.clone(), recorder.clone(), services.get(&key));
        async move {
            match service {
                Some(service) => look(&cluster, &recorder, &service).await,
                None => Ok(None),
            }
        }
    };
    work("apiservice-status", queue, WORKERS, move || scanned.keys(), handle).await;
}

/// A new or changed spec is looked at at once. The status is this controller's own.
fn follow(queue: &Queue, services: &Shared<APIService>) {
    let queue = queue.clone();
    services.on_change(move |old, new| {
        if old.map(|service| &service.spec) != new.map(|service| &service.spec)
            && let Some(service) = new.or(old)
        {
            queue.add(ObjectKey::of(service));
        }
        true
    });
}

/// What was found out about an APIService.
#[derive(Debug, Clone, PartialEq)]
enum Found {
    Local,
    Well,
    NotWell(String),
}

async fn look(
    cluster: &Cluster,
    recorder: &Recorder,
    service: &Arc<APIService>,
) -> Result<Option<Duration>, WriteError> {
    let remote = service.spec.as_ref().filter(|spec| spec.service.is_some());
    let found = match remote {
        None => Found::Local,
        Some(spec) => {
            let of = |name: &Option<String>| name.clone().unwrap_or_default();
            ask(cluster.client(), &format!("/apis/{}/{}", of(&spec.group), of(&spec.version))).await
        }
    };
    let again = match &found {
        Found::Local => None,
        Found::Well => Some(WELL),
        Found::NotWell(_) => Some(NOT_WELL),
    };
    let old = service.status.clone().unwrap_or_default();
    if let Some(patch) = merge_patch(&old, &status(Timestamp::now(), &old, found)) {
        Write::patch(&**service, "status", json!({"status": patch})).execute(cluster, recorder).await?;
    }
    Ok(again)
}

async fn ask(client: &Client, path: &str) -> Found {
    let failed = |why: String| Found::NotWell(format!("failing or missing response from {path}: {why}"));
    let Ok(request) = Request::get(path).body(Vec::new()) else { return failed("the name makes no path".to_owned()) };
    match tokio::time::timeout(PATIENCE, client.request::<Value>(request)).await {
        Ok(Ok(list)) if list["kind"] == "APIResourceList" => Found::Well,
        Ok(Ok(_)) => failed("the answer is no list of resources".to_owned()),
        Ok(Err(error)) => failed(reason(&error)),
        Err(_) => failed("no answer in time".to_owned()),
    }
}

fn status(now: Timestamp, old: &APIServiceStatus, found: Found) -> APIServiceStatus {
    let (status, reason, message) = match found {
        Found::Local => ("True", "Local", "Local APIServices are always available".to_owned()),
        Found::Well => ("True", "Passed", "all checks passed".to_owned()),
        Found::NotWell(why) => ("False", "FailedDiscoveryCheck", why),
    };
    let known = old.conditions.iter().flatten().find(|condition| condition.type_ == "Available");
    let since = known.filter(|known| known.status == status).and_then(|known| known.last_transition_time.clone());
    let condition = APIServiceCondition {
        type_: "Available".to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: since.or(Some(Time(now))),
    };
    APIServiceStatus { conditions: Some(vec![condition]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_the_last_change() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let time = |status: &APIServiceStatus| {
            let condition = &status.conditions.as_ref().expect("conditions")[0];
            (condition.status.clone(), condition.last_transition_time.as_ref().map(|time| time.0))
        };
        let first = status(at(1), &APIServiceStatus::default(), Found::NotWell("a".to_owned()));
        assert_eq!(time(&first), ("False".to_owned(), Some(at(1))));
        let same = status(at(2), &first, Found::NotWell("b".to_owned()));
        assert_eq!(time(&same), ("False".to_owned(), Some(at(1))));
        let well = status(at(3), &same, Found::Well);
        assert_eq!(time(&well), ("True".to_owned(), Some(at(3))));
        assert_eq!(time(&status(at(4), &well, Found::Local)), ("True".to_owned(), Some(at(3))));
    }
}

//! Containers that are one program: components that import each other's interfaces.
//!
//! ```yaml
//! metadata:
//!   annotations:
//!     coracle.dev/compose: ledger, rates       # all other containers run with these two in them
//!     coracle.dev/compose.web: ledger, rates   # only the container `web` does
//! ```
//!
//! A container that is named by such an annotation is a provider: its image is a part of the others'
//! programs and is not run by itself. To Kubernetes it is a container all the same, pulled as any other,
//! and running ([`Provider`]) as long as its pod does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1 as core;
use tokio::sync::watch;

use crate::runtime::{Container, Exit, RunState, Usage};
use crate::wire::HttpService;

/// The containers that others are composed with; with a suffix, for one container alone.
const COMPOSE: &str = "coracle.dev/compose";

/// What composition makes of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It runs its own image, with these containers' images in it; mostly none.
    Runs(Vec<String>),
    /// Others have its image in theirs.
    Provides,
}

/// The role of `container`; the error names the annotation and what is wrong with it.
pub fn role(pod: &core::Pod, container: &str) -> Result<Role, String> {
    let said = annotations(pod);
    let mut providers: BTreeSet<&str> = BTreeSet::new();
    for (key, consumer, names) in &said {
        check(pod, key, consumer, names)?;
        providers.extend(names);
    }
    if let Some((key, ..)) = said.iter().find(|(_, consumer, _)| consumer.is_some_and(|name| providers.contains(name)))
    {
        return Err(format!(
            "annotation {key}: its container is named by another such annotation; name all providers with the \
             container that is run"
        ));
    }
    if providers.contains(container) {
        return Ok(Role::Provides);
    }
    // The container's own stands before the pod's.
    let own = said.iter().find(|(_, consumer, _)| *consumer == Some(container));
    let found = own.or_else(|| said.iter().find(|(_, consumer, _)| consumer.is_none()));
    Ok(Role::Runs(found.map(|(.., names)| names.iter().map(|name| (*name).to_owned()).collect()).unwrap_or_default()))
}

/// The container of the pod with this name.
pub fn container<'a>(pod: &'a core::Pod, name: &str) -> Option<&'a core::Container> {
    containers(pod).find(|container| container.name == name)
}

/// A key, the container that it is for (`None`: all), the containers that it names.
type Said<'a> = (&'a str, Option<&'a str>, Vec<&'a str>);

fn annotations(pod: &core::Pod) -> Vec<Said<'_>> {
    let all = pod.metadata.annotations.iter().flatten();
    let said = all.filter_map(|(key, value)| {
        let suffix = key.strip_prefix(COMPOSE)?;
        let consumer = if suffix.is_empty() { None } else { Some(suffix.strip_prefix('.')?) };
        let names = value.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        Some((key.as_str(), consumer, names))
    });
    said.collect()
}

/// Those that run as long as the pod does: its containers and sidecars.
fn containers(pod: &core::Pod) -> impl Iterator<Item = &core::Container> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let sidecars = init.iter().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.map(|spec| spec.containers.as_slice()).unwrap_or_default().iter().chain(sidecars)
}

fn check(pod: &core::Pod, key: &str, consumer: &Option<&str>, names: &[&str]) -> Result<(), String> {
    let known = || containers(pod).map(|container| container.name.as_str()).collect::<Vec<_>>().join(", ");
    let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let is_consumer = |name: &str| container(pod, name).is_some() || init.iter().any(|init| init.name == name);
    if let Some(unknown) = consumer.filter(|name| !is_consumer(name)) {
        return Err(format!("annotation {key} is for container {unknown:?}, which the pod does not have: {}", known()));
    }
    if let Some(unknown) = names.iter().find(|name| container(pod, name).is_none()) {
        return Err(format!(
            "annotation {key} names {unknown:?}, which is none of the containers that run as long as the pod: {}",
            known()
        ));
    }
    if let Some(twice) = names.iter().enumerate().find(|(at, name)| names.iter().take(*at).any(|other| other == *name))
    {
        return Err(format!("annotation {key} names {:?} twice", twice.1));
    }
    Ok(())
}

/// A provider in its one life: there is nothing to run, so it runs until it is stopped.
pub struct Provider {
    started_at: SystemTime,
    state: watch::Sender<RunState>,
}

impl Provider {
    pub fn start() -> Arc<Self> {
        let started_at = SystemTime::now();
        Arc::new(Self { started_at, state: watch::Sender::new(RunState::Running { started_at }) })
    }
}

#[async_trait::async_trait]
impl Container for Provider {
    fn state(&self) -> watch::Receiver<RunState> {
        self.state.subscribe()
    }

    fn http(&self) -> Option<Arc<dyn HttpService>> {
        None
    }

    async fn stop(&self, _: Duration) {
        let (started_at, finished_at) = (self.started_at, SystemTime::now());
        let exit = Exit { code: 0, reason: "Completed", message: String::new(), started_at, finished_at };
        self.state.send_replace(RunState::Exited(exit));
    }

    /// What it uses is counted where it runs.
    fn usage(&self) -> Usage {
        Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(annotations: serde_json::Value, container: &str) -> Result<Role, String> {
        let pod = json!({
            "metadata": { "annotations": annotations },
            "spec": {
                "initContainers": [{ "name": "setup" }, { "name": "side", "restartPolicy": "Always" }],
                "containers": [{ "name": "web" }, { "name": "ledger" }, { "name": "rates" }, { "name": "other" }],
            },
        });
        role(&serde_json::from_value(pod).expect("a pod"), container)
    }

    fn runs(with: &[&str]) -> Result<Role, String> {
        Ok(Role::Runs(with.iter().map(|name| (*name).to_owned()).collect()))
    }

    #[test]
    fn annotations_say_who_is_run_and_who_provides() {
        assert_eq!(asked(json!({}), "web"), runs(&[]));
        let all = json!({ COMPOSE: "ledger, rates" });
        assert_eq!(asked(all.clone(), "web"), runs(&["ledger", "rates"]));
        assert_eq!(asked(all.clone(), "setup"), runs(&["ledger", "rates"]));
        assert_eq!(asked(all, "ledger"), Ok(Role::Provides));
        let one = json!({ "coracle.dev/compose.web": "side", "coracle.dev/composed": "not ours" });
        assert_eq!(asked(one.clone(), "web"), runs(&["side"]));
        assert_eq!(asked(one.clone(), "other"), runs(&[]));
        assert_eq!(asked(one, "side"), Ok(Role::Provides));
        let own = json!({ COMPOSE: "ledger", "coracle.dev/compose.web": "" });
        assert_eq!(asked(own, "web"), runs(&[]));
    }

    #[test]
    fn mistakes_are_named() {
        for (annotations, words) in [
            (json!({ COMPOSE: "leger" }), "names \"leger\", which is none of the containers"),
            (json!({ COMPOSE: "setup" }), "names \"setup\", which is none of the containers that run as long as"),
            (json!({ COMPOSE: "ledger, ledger" }), "names \"ledger\" twice"),
            (json!({ "coracle.dev/compose.wbe": "ledger" }), "for container \"wbe\", which the pod does not have"),
            (json!({ "coracle.dev/compose.web": "web" }), "is named by another such annotation"),
            (
                json!({ "coracle.dev/compose.web": "ledger", "coracle.dev/compose.ledger": "rates" }),
                "name all providers",
            ),
        ] {
            let why = asked(annotations.clone(), "web").expect_err("refused");
            assert!(why.contains(words), "{annotations}: {why}");
        }
    }

    #[tokio::test]
    async fn a_provider_runs_until_it_is_stopped() {
        let provider = Provider::start();
        let state = provider.state();
        assert!(matches!(*state.borrow(), RunState::Running { .. }) && provider.http().is_none());
        provider.stop(Duration::from_secs(30)).await;
        assert!(matches!(&*state.borrow(), RunState::Exited(exit) if exit.code == 0));
    }
}

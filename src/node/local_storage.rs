//! Letting pods go that take more of this machine's disk or memory for files than they may: more than the
//! `sizeLimit` of an `emptyDir`, or than the containers' limits of `ephemeral-storage`.
//!
//! Only pods that have such a limit are looked at. The order of the checks and the words are upstream's.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::context::{Context, Entry};
use super::evict::{Found, present};
use super::fields::{Asks as _, limit_units};
use super::pod::Eviction;
use super::volumes::empty_dir::size_limit;
use crate::reconcile::Shared;

/// The kubelet's.
const PERIOD: Duration = Duration::from_secs(10);

/// Looks until shutdown.
pub async fn run(context: Arc<Context>, pods: Shared<core::Pod>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        for (pod, entry) in present(&context, pods.list()) {
            let limits = Limits::of(&pod);
            if !limits.are_none() {
                look(&context, limits, entry).await;
            }
        }
    }
}

/// Looks at one pod, and lets it go if it is beyond one of its limits.
async fn look(context: &Arc<Context>, limits: Limits, entry: Arc<Entry>) {
    let mut written = Vec::new();
    for container in limits.containers.iter().filter(|_| limits.are_of_storage()) {
        let life = entry.running(&container.name);
        written.push(match life {
            Some(life) => life.written_bytes().await,
            None => 0,
        });
    }
    let (context, evicted) = (context.clone(), entry.clone());
    let judged = tokio::task::spawn_blocking(move || {
        let dir = |name: &str| context.volumes.empty_dir_of(&entry.uid, name);
        let volumes = limits.volumes.iter().map(|volume| Found::of(&dir(&volume.name)).bytes).collect::<Vec<_>>();
        let logs = |name: &str| Found::of(&context.logs.container_dir(&entry.log_dir, name)).bytes;
        let containers = limits.containers.iter().zip(&written).map(|(one, written)| written + logs(&one.name));
        let containers = containers.collect::<Vec<_>>();
        limits.exceeded(&volumes, &containers)
    });
    if let Ok(Some(message)) = judged.await {
        evicted.evict(Eviction { message, disruption: false });
    }
}

/// What a pod may take.
#[derive(Debug, Default, PartialEq, Eq)]
struct Limits {
    /// The pod's `emptyDir`s.
    volumes: Vec<Limited>,
    containers: Vec<Limited>,
}

/// Something that takes room.
#[derive(Debug, PartialEq, Eq)]
struct Limited {
    name: String,
    /// In bytes, and as the API has it.
    limit: Option<(u64, String)>,
    /// It is on the disk.
    on_disk: bool,
}

impl Limits {
    fn of(pod: &core::Pod) -> Limits {
        let Some(spec) = &pod.spec else { return Limits::default() };
        let volumes = spec.volumes.iter().flatten().filter_map(|volume| {
            let source = volume.empty_dir.as_ref()?;
            let limit = size_limit(source).zip(source.size_limit.as_ref().map(|limit| limit.0.clone()));
            let on_disk = source.medium.as_deref().unwrap_or_default() != "Memory";
            Some(Limited { name: volume.name.clone(), limit, on_disk })
        });
        let containers = spec.containers.iter().map(|container| {
            let limits = container.resources().and_then(|resources| resources.limits.as_ref());
            let said = limits.and_then(|limits| limits.get("ephemeral-storage")).map(|limit| limit.0.clone());
            let limit = limit_units(container, "ephemeral-storage").filter(|limit| *limit > 0).zip(said);
            Limited { name: container.name.clone(), limit, on_disk: true }
        });
        Limits { volumes: volumes.collect(), containers: containers.collect() }
    }

    fn are_none(&self) -> bool {
        self.volumes.iter().all(|volume| volume.limit.is_none()) && !self.are_of_storage()
    }

    /// Whether a container's use counts.
    fn are_of_storage(&self) -> bool {
        self.containers.iter().any(|container| container.limit.is_some())
    }

    /// What is exceeded, in upstream's words with the blank at their end, by the bytes that each takes.
    fn exceeded(&self, volumes: &[u64], containers: &[u64]) -> Option<String> {
        let beyond = |(one, used): &(&Limited, &u64)| one.limit.as_ref().is_some_and(|(limit, _)| *used > limit);
        let said = |one: &Limited| one.limit.as_ref().map(|(_, said)| said.clone()).unwrap_or_default();
        if let Some((volume, _)) = self.volumes.iter().zip(volumes).find(beyond) {
            return Some(format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, said(volume)));
        }
        if !self.are_of_storage() {
            return None;
        }
        let on_disk = self.volumes.iter().zip(volumes).filter(|(volume, _)| volume.on_disk).map(|(_, used)| used);
        let total: u64 = containers.iter().chain(on_disk).sum();
        let limits = self.containers.iter().filter_map(|container| container.limit.as_ref());
        let limit: u64 = limits.map(|(limit, _)| limit).sum();
        if total > limit {
            let limit = crate::kinds::quantity::Quantity::from_bytes(i64::try_from(limit).unwrap_or(i64::MAX));
            return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "));
        }
        let (container, _) = self.containers.iter().zip(containers).find(beyond)?;
        Some(format!("Container {} exceeded its local ephemeral storage limit {:?}. ", container.name, said(container)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn limits(storage: &str) -> Limits {
        let pod = json!({ "metadata": {}, "spec": {
            "volumes": [
                { "name": "free", "emptyDir": {} },
                { "name": "small", "emptyDir": { "sizeLimit": "1Mi", "medium": "Memory" } },
                { "name": "none", "emptyDir": { "sizeLimit": "0" } },
                { "name": "other", "configMap": { "name": "x" } },
            ],
            "containers": [
                { "name": "a", "resources": { "limits": { "ephemeral-storage": storage } } },
                { "name": "b", "resources": { "limits": { "ephemeral-storage": storage } } },
            ],
        } });
        Limits::of(&serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn what_is_exceeded_is_told_in_upstreams_words() {
        const MI: u64 = 1 << 20;
        for (volumes, containers, told) in [
            ([9 * MI, MI, 9 * MI], [0, 0], None),
            ([0, MI + 1, 0], [0, 0], Some("Usage of EmptyDir volume \"small\" exceeds the limit \"1Mi\". ")),
        ] {
            assert_eq!(limits("0").exceeded(&volumes, &containers).as_deref(), told);
        }
        let whole = "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. ";
        for (volumes, containers, told) in [
            ([0, 0, 0], [2 * MI, 2 * MI], None),
            ([0, MI, 0], [2 * MI, 2 * MI], None),
            ([MI, 0, 0], [2 * MI, 2 * MI], Some(whole)),
            ([0, 0, 0], [MI, 2 * MI + 1], Some("Container b exceeded its local ephemeral storage limit \"2Mi\". ")),
        ] {
            assert_eq!(limits("2Mi").exceeded(&volumes, &containers).as_deref(), told);
        }
        assert!(Limits::of(&core::Pod::default()).are_none() && !limits("0").are_none());
    }
}

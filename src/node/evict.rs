//! Watching what the machine has left, and letting pods go when it is too little.
//!
//! What is decided is [`super::pressure`]'s: here the machine is looked at, the Node's conditions are
//! told, and the pod that was chosen is told to end. One pod goes at a time; the next look shows
//! whether that was enough. Of a full disk, what nobody uses goes before anyone's pod: images that were
//! pulled, and compiled code.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::context::{Context, Entry};
use super::heartbeat::Heartbeat;
use super::image_gc;
use super::machine;
use super::pod::Eviction;
use super::pressure::{Candidate, Seen, Shortage, Signal, Thresholds, choose, message, shortages};
use crate::reconcile::{EventKind, ObjectKey, Shared};

/// How often the machine is looked at. The kubelet's period is twice this; a guest grows faster.
const PERIOD: Duration = Duration::from_secs(5);
/// Files of one pod that are counted; a pod with more is among the largest in any case.
const MAX_FILES: u64 = 100_000;

/// Looks until shutdown.
pub async fn run(context: Arc<Context>, pods: Shared<Pod>, heartbeat: Arc<Heartbeat>, shutdown: CancellationToken) {
    let thresholds: Thresholds = context.config.eviction_hard;
    let mut seen = Seen::default();
    let mut told = Vec::new();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let short = shortages(&thresholds, &machine::memory(), &machine::disk(&context.config.data_dir));
        heartbeat.set_pressure(seen.note(&short, Instant::now()));
        let signals: Vec<Signal> = short.iter().map(|shortage| shortage.signal).collect();
        if signals != told {
            short.iter().for_each(|shortage| tell(&context, shortage));
            told = signals;
        }
        let Some(shortage) = short.first() else { continue };
        let of_the_disk = matches!(shortage.signal, Signal::Disk | Signal::Inodes);
        if of_the_disk && image_gc::remove_unused(&context, &pods).await > 0 {
            let disk = machine::disk(&context.config.data_dir);
            if shortages(&thresholds, &machine::memory(), &disk).iter().all(|left| left.signal != shortage.signal) {
                continue;
            }
        }
        relieve(&context, &pods, shortage).await;
    }
}

/// Says on the Node that a threshold has been met.
fn tell(context: &Context, shortage: &Shortage) {
    let text = format!("Attempting to reclaim {}", shortage.signal.resource());
    context.tell_of_node(EventKind::Warning, "EvictionThresholdMet", &text);
}

/// Those of the pods that run here and have not been told to go.
pub fn present<'a>(
    context: &'a Context,
    pods: impl IntoIterator<Item = Arc<Pod>> + 'a,
) -> impl Iterator<Item = (Arc<Pod>, Arc<Entry>)> + 'a {
    pods.into_iter().filter_map(|pod| {
        let entry = context.register.get(&ObjectKey::of(&*pod))?;
        let here = pod.metadata.uid.as_deref() == Some(entry.uid.as_str());
        (here && pod.metadata.deletion_timestamp.is_none() && !entry.is_evicted()).then_some((pod, entry))
    })
}

/// Lets one pod go, if any holds something of what is short.
async fn relieve(context: &Arc<Context>, pods: &Shared<Pod>, shortage: &Shortage) {
    let present: Vec<(Arc<Pod>, Arc<Entry>)> = present(context, pods.list()).collect();
    let candidates = match shortage.signal {
        Signal::Memory => present.iter().map(|(pod, entry)| by_memory(pod, entry)).collect(),
        Signal::Disk | Signal::Inodes => {
            let (context, signal, pods) = (context.clone(), shortage.signal, present.clone());
            let counted = tokio::task::spawn_blocking(move || {
                pods.iter().map(|(pod, entry)| by_disk(&context, signal, pod, entry)).collect()
            });
            counted.await.unwrap_or_default()
        }
    };
    let Some(chosen) = choose(candidates) else { return };
    if let Some((_, entry)) = present.iter().find(|(_, entry)| entry.uid == chosen.uid) {
        entry.evict(Eviction { message: message(shortage, &chosen), disruption: true });
    }
}

fn by_memory(pod: &Pod, entry: &Entry) -> Candidate {
    let usage = entry.usage.sample(Instant::now());
    let of = |name: &str| usage.iter().find(|known| known.about.name == name).map_or(0, |known| known.memory_bytes);
    Candidate::new(pod, "memory", of)
}

/// A pod by its logs and its volumes.
fn by_disk(context: &Context, signal: Signal, pod: &Pod, entry: &Entry) -> Candidate {
    let amount = |dir: PathBuf| {
        let found = Found::of(&dir);
        if signal == Signal::Inodes { found.files } else { found.bytes }
    };
    let resource = if signal == Signal::Inodes { "" } else { "ephemeral-storage" };
    let logs = |container: &str| amount(context.logs.container_dir(&entry.log_dir, container));
    let mut candidate = Candidate::new(pod, resource, logs);
    candidate.shared = amount(context.config.data_dir.join("pods").join(&entry.uid));
    candidate
}

/// What a directory takes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub bytes: u64,
    pub files: u64,
}

impl Found {
    pub fn of(dir: &Path) -> Found {
        let mut found = Found::default();
        found.add(dir);
        found
    }

    /// Links are counted, not followed: what they lead to is not the pod's.
    fn add(&mut self, dir: &Path) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if self.files >= MAX_FILES {
                return;
            }
            let Ok(facts) = entry.metadata() else { continue };
            self.files += 1;
            // What is taken, not what is addressed: a sparse file takes little.
            self.bytes += std::os::unix::fs::MetadataExt::blocks(&facts) * 512;
            if facts.is_dir() {
                self.add(&entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_counted_with_all_below_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("a")).expect("a directory");
        std::fs::write(dir.path().join("a/file"), vec![1; 100_000]).expect("written");
        std::os::unix::fs::symlink("/", dir.path().join("out")).expect("a link");
        let found = Found::of(dir.path());
        assert_eq!(found.files, 3);
        assert!((100_000..200_000).contains(&found.bytes), "{found:?}");
        assert_eq!(Found::of(&dir.path().join("absent")), Found::default());
    }
}

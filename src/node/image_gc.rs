//! Keeps pulled images and compiled code from filling the disk, by the kubelet's rule: when the file
//! system is fuller than the high threshold, what is not used goes until it is at the low one, the least
//! recently used first. What a pod of this node names is never removed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::fallback;
use crate::oci::Usage;
use crate::reconcile::{EventKind, Shared};
use crate::runtime::KeptImage;

/// The kubelet's period.
const PERIOD: Duration = Duration::from_secs(5 * 60);

/// When images go: the kubelet's `imageGCHighThresholdPercent`, `imageGCLowThresholdPercent` and
/// `imageMinimumGCAge`, and a bound of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageGc {
    pub high_percent: u8,
    pub low_percent: u8,
    /// An image used more recently stays.
    pub min_age: Duration,
    /// What pulled images may take, however much room there is.
    pub max_bytes: Option<u64>,
    /// How often it is looked; besides, after every pull.
    pub period: Duration,
}

impl Default for ImageGc {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, min_age: Duration::from_secs(120), max_bytes: None, period: PERIOD }
    }
}

/// A file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Disk {
    capacity: u64,
    available: u64,
}

impl Disk {
    fn of(dir: &std::path::Path) -> Option<Disk> {
        let stat = rustix::fs::statvfs(dir).ok()?;
        Some(Disk {
            capacity: stat.f_blocks.checked_mul(stat.f_frsize)?,
            available: stat.f_bavail.checked_mul(stat.f_frsize)?,
        })
    }
}

/// How many bytes must go.
fn excess(disk: Disk, pulled: u64, limits: &ImageGc) -> u64 {
    let over_bound = limits.max_bytes.map_or(0, |most| pulled.saturating_sub(most));
    let share = |percent: u8| disk.capacity / 100 * u64::from(percent);
    let used = disk.capacity.saturating_sub(disk.available);
    let pressed = disk.capacity > 0 && used >= share(limits.high_percent);
    let over_low = if pressed { used.saturating_sub(share(limits.low_percent)) } else { 0 };
    over_low.max(over_bound)
}

/// The images that may go, in the order in which they do.
fn victims(mut images: Vec<Usage>, in_use: &InUse, now: SystemTime, min_age: Duration) -> Vec<Usage> {
    images.retain(|image| {
        let old = now.duration_since(image.used).is_ok_and(|age| age >= min_age);
        old && !in_use.references.contains(&image.reference) && !in_use.digests.contains(&image.module)
    });
    images.sort_by_key(|image| image.used);
    images
}

/// What the pods of the node name.
#[derive(Debug, Default)]
pub struct InUse {
    /// As registries know them.
    pub references: HashSet<String>,
    /// Of modules.
    pub digests: HashSet<String>,
}

/// All images that the pods name, of containers of every sort.
fn named(pods: &[Arc<Pod>]) -> HashSet<String> {
    let specs = pods.iter().filter_map(|pod| pod.spec.as_ref());
    let images = specs.flat_map(|spec| {
        let own = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let added = spec.ephemeral_containers.iter().flatten().filter_map(|added| added.image.clone());
        own.filter_map(|container| container.image.clone()).chain(added)
    });
    let images: HashSet<String> = images.collect();
    let annotations = pods.iter().filter_map(|pod| pod.metadata.annotations.as_ref());
    images.into_iter().chain(annotations.flat_map(fallback::images)).collect()
}

/// Looks from time to time, until shutdown.
pub async fn run(context: Arc<Context>, pods: Shared<Pod>, shutdown: CancellationToken) {
    pods.synced().await;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(context.config.image_gc.period) => {}
            () = context.images.pulled() => {}
        }
        let limits = context.config.image_gc;
        let (wanted, freed) = collect(&context, &pods, move |disk, pulled| excess(disk, pulled, &limits)).await;
        if freed < wanted {
            tell_failure(&context, wanted, freed);
        }
    }
}

/// Removes all that no pod of the node uses: the disk is so short that otherwise a pod would have to go.
/// Returns the bytes freed.
pub async fn remove_unused(context: &Arc<Context>, pods: &Shared<Pod>) -> u64 {
    collect(context, pods, |_, _| u64::MAX).await.1
}

/// Removes images until what `wanted` says, of the disk and the bytes of all pulled images, has been
/// freed. Returns what that was, and what was freed.
async fn collect(
    context: &Arc<Context>,
    pods: &Shared<Pod>,
    wanted: impl Fn(Disk, u64) -> u64 + Send + 'static,
) -> (u64, u64) {
    let limits = context.config.image_gc;
    let names = named(&pods.list());
    let in_use = context.images.in_use(&names);
    let engines = engine_images(context).await;
    let engine_bytes: u64 = engines.iter().map(|image| image.bytes).sum();
    let (theirs, dir) = (context.clone(), context.config.data_dir.clone());
    let keep: Vec<String> = in_use.digests.iter().cloned().collect();
    let freed = tokio::task::spawn_blocking(move || {
        let images = theirs.images.list_pulled();
        let pulled: u64 = images.iter().map(|image| image.bytes).sum();
        let wanted = wanted(Disk::of(&dir)?, pulled + engine_bytes);
        let mut freed = 0;
        for image in victims(images, &in_use, SystemTime::now(), limits.min_age) {
            if freed >= wanted {
                break;
            }
            match theirs.images.remove_pulled(&image) {
                Ok(bytes) => freed += bytes,
                Err(error) => tracing::warn!(image = image.reference, "cannot remove the image: {error}"),
            }
            tracing::info!(image = image.reference, bytes = image.bytes, "image removed to make room");
        }
        Some((wanted, freed))
    });
    let Ok(Some((wanted, mut freed))) = freed.await else { return (0, 0) };
    for store in context.runtimes.iter().filter_map(|runtime| runtime.images()) {
        for image in unused(store.list().await, &names, SystemTime::now(), limits.min_age) {
            if freed < wanted {
                freed += store.remove(&image).await;
                tracing::info!(image = image.references.join(", "), bytes = image.bytes, "image removed to make room");
            }
        }
    }
    for runtime in &context.runtimes {
        if freed < wanted {
            freed += runtime.reclaim(&keep, wanted - freed).await;
        }
    }
    (wanted, freed)
}

/// What runtimes that keep images themselves have brought for this node.
async fn engine_images(context: &Context) -> Vec<KeptImage> {
    let mut images = Vec::new();
    for store in context.runtimes.iter().filter_map(|runtime| runtime.images()) {
        images.extend(store.list().await);
    }
    images
}

/// Those of them that may go, in the order in which they do.
fn unused(mut images: Vec<KeptImage>, names: &HashSet<String>, now: SystemTime, min_age: Duration) -> Vec<KeptImage> {
    images.retain(|image| {
        let old = now.duration_since(image.used).is_ok_and(|age| age >= min_age);
        old && !image.references.iter().any(|reference| names.contains(reference))
    });
    images.sort_by_key(|image| image.used);
    images
}

fn tell_failure(context: &Context, wanted: u64, freed: u64) {
    let message = format!(
        "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
    );
    tracing::warn!("{message}");
    context.tell_of_node(EventKind::Warning, "FreeDiskSpaceFailed", &message);
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, PodSpec};

    use super::*;

    #[test]
    fn what_must_go_is_what_is_above_the_low_threshold() {
        let limits = ImageGc { max_bytes: Some(500), ..ImageGc::default() };
        let disk = |available| Disk { capacity: 10_000, available };
        let cases = [
            ("room enough", disk(5000), 100, 0),
            ("just below the high threshold", disk(1600), 100, 0),
            ("at the high threshold", disk(1500), 100, 500),
            ("full", disk(0), 100, 2000),
            ("over the bound of its own", disk(5000), 800, 300),
            ("both: the more", disk(0), 800, 2000),
            ("a file system that does not tell", Disk { capacity: 0, available: 0 }, 0, 0),
        ];
        for (what, disk, pulled, wanted) in cases {
            assert_eq!(excess(disk, pulled, &limits), wanted, "{what}");
        }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_what_is_used_never() {
        let now = SystemTime::now();
        let image = |name: &str, age: u64| Usage {
            reference: name.into(),
            module: format!("module of {name}"),
            bytes: 1,
            used: now - Duration::from_secs(age),
        };
        let images =
            vec![image("a", 300), image("named", 900), image("b", 600), image("young", 10), image("shared", 800)];
        let in_use = InUse { references: ["named".to_owned()].into(), digests: ["module of shared".to_owned()].into() };
        let order: Vec<String> =
            victims(images, &in_use, now, Duration::from_secs(120)).into_iter().map(|image| image.reference).collect();
        assert_eq!(order, ["b", "a"]);
    }

    #[test]
    fn an_engines_image_goes_when_no_name_of_it_is_used() {
        let now = SystemTime::now();
        let image = |names: &[&str], age: u64| KeptImage {
            id: names.join(" "),
            references: names.iter().map(ToString::to_string).collect(),
            bytes: 1,
            used: now - Duration::from_secs(age),
        };
        let images = vec![image(&["a:1"], 300), image(&["b:1", "b:2"], 900), image(&["c:1"], 10), image(&["d:1"], 600)];
        let unused = unused(images, &["b:2".to_owned()].into(), now, Duration::from_secs(120));
        assert_eq!(unused.into_iter().map(|image| image.id).collect::<Vec<_>>(), ["d:1", "a:1"]);
    }

    #[test]
    fn images_of_all_containers_count() {
        let container = |image: &str| Container { image: Some(image.into()), ..Container::default() };
        let spec = PodSpec {
            containers: vec![container("a:1"), container("b:1")],
            init_containers: Some(vec![container("c:1")]),
            ..PodSpec::default()
        };
        let pod = Arc::new(Pod { spec: Some(spec), ..Pod::default() });
        assert_eq!(named(&[pod]).len(), 3);
    }
}

//! Containers of ordinary images, as processes of a Docker Engine.
//!
//! It owns what the engine makes for one node's pods: containers, one bridge, the images that were pulled
//! for them. To the node's agent its pods look like any others; what is different about them, [`Nature`]
//! says. It refuses to touch what others made: everything of ours bears a label with the node's own mark,
//! and nothing without it is stopped or removed.
//!
//! ```text
//! Runtime, Sandbox, Container ──► sandbox, container, exec, image, network ──► spec ──► engine ══ dockerd
//! RunState, Usage, Output     ◄── container, usage, logs  ◄── (prompts) ────────────── engine ══ events
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `engine` | the connection, its failures, the stream of events |
//! | `spec` | from a pod's wishes to the engine's JSON; pure |
//! | `sandbox` | a pod: its infrastructure container, and those that join it |
//! | `container` | one life: its state, its end, its signals |
//! | `logs`, `exec`, `usage` | what it says, what else is run in it, what it uses |
//! | `image` | the engine's images, and which of them were pulled for this node |
//! | `network` | the bridge |
//! | `firewall` | NetworkPolicy, as a packet filter in a pod's network |
//! | `pause` | the program of infrastructure containers, in machine code |
//!
//! The engine may be absent, stop, or be another version tomorrow. What it is asked fails meanwhile, with
//! words that say what to do, and is asked again; containers count as running until it says otherwise. When
//! the node's process ends the containers run on; the next finds them by their names, and goes on behind the
//! last line that was heard.

mod container;
mod engine;
mod exec;
mod firewall;
mod image;
mod logs;
mod network;
mod pause;
mod sandbox;
mod spec;
mod usage;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bollard::query_parameters::{ListContainersOptionsBuilder, StopContainerOptionsBuilder};
use futures::StreamExt as _;
use ipnet::Ipv4Net;
use tokio_util::task::AbortOnDropHandle;

use self::engine::{Engine, Failure, OWNER};
use self::image::Images;
use self::sandbox::DockerSandbox;
use super::{Image, ImageError, ImageSource, ImageStore, Nature, Runtime, Sandbox, SandboxSpec, StartError};

pub use self::network::gateway;

/// Containers removed at a time.
const REMOVALS: usize = 8;
/// What containers have to end in when the cluster does.
const SHUTDOWN_SECONDS: i32 = 1;

/// What the runtime is told.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// `unix:///var/run/docker.sock`, `tcp://HOST:PORT`.
    pub address: String,
    /// Private to this node, and of this machine as the engine sees it: files that containers mount.
    pub dir: PathBuf,
    /// The addresses of its pods; `None`: pods of the machine's network alone.
    pub subnet: Option<Ipv4Net>,
    /// Whether containers run on when the node stops in good order, as they do when it does not.
    pub leave_running: bool,
}

/// The containers of a Docker Engine. Dropping it lets go of them.
pub struct DockerRuntime {
    shared: Arc<Shared>,
    leave_running: bool,
    _tasks: [AbortOnDropHandle<()>; 3],
}

/// What all pods of the runtime share.
struct Shared {
    engine: Arc<Engine>,
    images: Images,
    dir: PathBuf,
    network: String,
    subnet: Option<Ipv4Net>,
    lives: usage::Lives,
    /// Pods whose containers are to go; some may be left by an engine that went away meanwhile.
    doomed: Mutex<HashSet<String>>,
    /// The engine may not let containers survive others when memory is short.
    no_precedence: AtomicBool,
}

impl DockerRuntime {
    /// Begins to look for the engine. That it is there is not needed.
    ///
    /// # Errors
    /// If the directory cannot be written to.
    pub fn start(config: DockerConfig) -> std::io::Result<Self> {
        std::fs::create_dir_all(&config.dir)?;
        let owner = mark(&config.dir)?;
        let engine = Arc::new(Engine::new(config.address, owner.clone()));
        let shared = Arc::new(Shared {
            images: Images::open(engine.clone(), config.dir.join("images.json")),
            network: format!("coracle-{owner}"),
            subnet: config.subnet,
            dir: config.dir,
            lives: usage::Lives::default(),
            doomed: Mutex::default(),
            no_precedence: AtomicBool::new(false),
            engine,
        });
        let weak = Arc::downgrade(&shared.engine);
        let tasks = [
            tokio::spawn(Engine::listen(weak.clone())),
            tokio::spawn(usage::run(weak, shared.lives.clone())),
            tokio::spawn(finish_off(shared.clone())),
        ];
        let leave_running = config.leave_running;
        Ok(Self { shared, leave_running, _tasks: tasks.map(AbortOnDropHandle::new) })
    }
}

/// What this node's things are marked with: made once, and kept.
fn mark(dir: &Path) -> std::io::Result<String> {
    let file = dir.join("owner");
    let is_mark = |text: &String| text.len() == 12 && text.chars().all(|c| c.is_ascii_hexdigit());
    if let Some(known) = std::fs::read_to_string(&file).ok().filter(is_mark) {
        return Ok(known);
    }
    let fresh = format!("{:012x}", rand::random::<u64>() >> 16);
    std::fs::write(&file, &fresh)?;
    Ok(fresh)
}

#[async_trait::async_trait]
impl Runtime for DockerRuntime {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn version(&self) -> String {
        "docker".to_owned()
    }

    fn nature(&self) -> Nature {
        Nature { own_network: true, outlives_process: true, mounts_files: true }
    }

    fn images(&self) -> Option<&dyn ImageStore> {
        Some(&self.shared.images)
    }

    async fn prepare(&self, source: &ImageSource) -> Result<Arc<dyn Image>, ImageError> {
        Err(ImageError::Invalid(format!("{} is a file; this runtime runs the images of its engine", source.reference)))
    }

    async fn sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, StartError> {
        DockerSandbox::make(self.shared.clone(), spec).await
    }

    async fn remove(&self, uid: &str) {
        let (shared, uid) = (self.shared.clone(), uid.to_owned());
        if !shared.files_of(&uid).is_dir() {
            return;
        }
        shared.doom(&uid);
        // A task of its own: whoever waits for it may go.
        let removing = tokio::spawn(async move { shared.remove_pod(&uid).await });
        let _ = removing.await;
    }

    async fn sweep(&self, known: &HashSet<String>) {
        for entry in std::fs::read_dir(self.shared.dir.join("pods")).into_iter().flatten().flatten() {
            if let Some(uid) = entry.file_name().to_str().filter(|uid| !known.contains(*uid)) {
                self.shared.doom(uid);
            }
        }
        self.shared.remove_doomed().await;
    }

    async fn shutdown(&self) {
        if self.leave_running {
            return;
        }
        if let Ok(containers) = self.shared.containers(None).await {
            self.shared.stop_all(&containers).await;
            self.shared.discard_all(containers).await;
            network::remove(&self.shared.engine, &self.shared.network).await;
        }
    }
}

impl Shared {
    /// Where a pod's own files are: there from before its first container to after its last.
    fn files_of(&self, uid: &str) -> PathBuf {
        self.dir.join("pods").join(uid)
    }

    /// The containers of a pod, or of all: their ids, and whose they are.
    async fn containers(&self, uid: Option<&str>) -> Result<Vec<(String, String)>, Failure> {
        let client = self.engine.client().await?;
        let mut labels = vec![format!("{OWNER}={}", self.engine.owner())];
        labels.extend(uid.map(|uid| format!("{}={uid}", spec::POD_UID)));
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = client.list_containers(Some(options)).await.map_err(|error| self.engine.failure(error))?;
        let told = listed.into_iter().filter_map(|container| {
            let uid = container.labels?.remove(spec::POD_UID)?;
            Some((container.id?, uid))
        });
        Ok(told.collect())
    }

    fn doom(&self, uid: &str) {
        self.doomed.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned());
    }

    async fn remove_pod(&self, uid: &str) {
        let removed = async {
            let containers = self.containers(Some(uid)).await?;
            Ok::<bool, Failure>(self.discard_all(containers).await)
        };
        match removed.await {
            Ok(true) => {
                self.doomed.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
                let _ = tokio::fs::remove_dir_all(self.files_of(uid)).await;
            }
            Ok(false) => {}
            Err(failure) => tracing::warn!(pod = uid, "its containers stay until the engine is back: {failure}"),
        }
    }

    async fn remove_doomed(&self) {
        let doomed: Vec<String> = self.doomed.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        for uid in doomed {
            self.remove_pod(&uid).await;
        }
    }

    /// Tells all of them to end, and gives them a moment.
    async fn stop_all(&self, containers: &[(String, String)]) {
        let Ok(client) = self.engine.client().await else { return };
        let stops = containers.iter().map(|(id, _)| {
            let (client, id) = (client.clone(), id.clone());
            async move {
                let options = StopContainerOptionsBuilder::new().t(SHUTDOWN_SECONDS).build();
                // It may have ended, or be another's to remove now.
                let _ = client.stop_container(&id, Some(options)).await;
            }
        });
        futures::future::join_all(stops.collect::<Vec<_>>()).await;
    }

    /// Whether all of them have gone.
    async fn discard_all(&self, containers: Vec<(String, String)>) -> bool {
        let removals = containers.into_iter().map(|(id, _)| async move { self.discard(&id).await.is_ok() });
        let removals = futures::stream::iter(removals).buffer_unordered(REMOVALS);
        removals.fold(true, |all, gone| std::future::ready(all && gone)).await
    }
}

/// Removes what an engine that was away has left, whenever it is back.
async fn finish_off(shared: Arc<Shared>) {
    let mut returns = shared.engine.returns();
    while returns.changed().await.is_ok() {
        shared.remove_doomed().await;
    }
}

/// A time as the engine writes it; `None` also for its year 1, which stands for never.
fn time(text: &str) -> Option<SystemTime> {
    let at: jiff::Timestamp = text.parse().ok()?;
    (at.as_second() > 0).then(|| at.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_mark() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = mark(dir.path()).expect("made");
        assert_eq!(mark(dir.path()).ok(), Some(first.clone()));
        std::fs::write(dir.path().join("owner"), "../../etc").expect("written");
        assert_ne!(mark(dir.path()).ok(), Some(first));
    }

    #[test]
    fn never_is_no_time() {
        assert_eq!(time("0001-01-01T00:00:00Z"), None);
        assert!(time("2026-01-02T03:04:05.678901234Z").is_some());
    }
}

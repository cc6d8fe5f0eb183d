//! Running containers. A runtime knows images, processes, memory and calls; it knows no Kubernetes.
//!
//! The node agent resolves a pod to a [`SandboxSpec`] and [`ContainerSpec`]s; a [`Runtime`] runs each
//! container once and says how it ended. Whether it runs again is the agent's decision (restart
//! policy, back-off), so that every runtime heals the same way. [`wasm`] is the shared wasmtime host;
//! [`isolated`] puts it into worker processes for pods that ask; [`docker`] runs the containers of ordinary
//! images, as processes of a Docker Engine; [`fake`] is a runtime whose containers do what a test tells them.
//!
//! Runtimes differ in more than how they run: [`Nature`] says in what, so that nobody need ask which it is.

pub mod docker;
pub mod fake;
pub mod isolated;
mod linux;
mod toolbox;
pub mod wasm;

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::wire::confinement::Confinement;
use crate::wire::{HttpService, Outbound};
pub use linux::{Dns, HostPort, LinuxContainer, LinuxSandbox, Profile};

/// An image on this machine: the module's file and what it is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageSource {
    /// As the pod wrote it, e.g. `hello:1`.
    pub reference: String,
    pub path: PathBuf,
    /// `sha256:…` of the file's bytes.
    pub digest: String,
    /// Whether its instances are to start from where its own initialisation leaves it.
    pub snapshot: bool,
}

/// An image made ready to start: compiled and linked. Cheap to clone, shared by all pods that use it.
pub trait Image: Send + Sync + 'static {
    fn digest(&self) -> &str;

    /// Why no container can be started with it, if the image itself tells.
    fn problem(&self) -> Option<&str> {
        None
    }

    fn as_any(&self) -> &dyn std::any::Any;
}

/// What all containers of a pod share.
#[derive(Clone)]
pub struct SandboxSpec {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub hostname: String,
    pub ip: IpAddr,
    /// Bytes that all instances of all containers may hold together; `None`: each container's limit alone.
    pub memory_limit: Option<u64>,
    /// Thousandths of a core for all containers together; `None`: each container's limit alone.
    pub cpu_limit_millis: Option<u64>,
    pub isolation: Isolation,
    /// The guests' way out.
    pub outbound: Arc<dyn Outbound>,
    pub linux: LinuxSandbox,
}

/// With whom a pod shares the process that runs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Isolation {
    /// With all pods of the node that ask for nothing else.
    #[default]
    Shared,
    /// With the pods of its namespace that ask for the same.
    Namespace,
    /// With nobody.
    Pod,
}

/// A directory that a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub host: PathBuf,
    pub guest: String,
    pub read_only: bool,
    pub propagation: Propagation,
}

impl Mount {
    /// One that no later mount is seen through.
    pub fn new(host: impl Into<PathBuf>, guest: impl Into<String>, read_only: bool) -> Self {
        Self { host: host.into(), guest: guest.into(), read_only, propagation: Propagation::None }
    }
}

/// Whether mounts that are made below a directory later are seen on the other side, where there are mounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    None,
    /// The container sees the machine's.
    HostToContainer,
    /// The machine sees the container's, too.
    Bidirectional,
}

/// Mounts that are made when somebody first looks: what every pod is given and few ever read costs
/// nothing until then. A runtime that cannot tell when a guest looks makes them before it starts one.
#[async_trait::async_trait]
pub trait DeferredMounts: Send + Sync + 'static {
    /// Whether this is one of them.
    fn has(&self, mount: &Mount) -> bool;

    /// Makes them all, once; the error names the volume and what is in the way.
    async fn make(&self) -> Result<(), String>;
}

/// Where a container's output goes. Called from the guest's thread: must not block.
pub trait Output: Send + Sync + 'static {
    fn write(&self, stream: Stream, bytes: &[u8]);

    /// The same, of what was said at another time than now.
    fn write_at(&self, stream: Stream, bytes: &[u8], _at: SystemTime) {
        self.write(stream, bytes);
    }

    /// When the last was said that is kept of this life; `None` at its beginning.
    fn heard_until(&self) -> Option<SystemTime> {
        None
    }

    /// Where a command's input comes from, once a life; `None`: there is none.
    fn input(&self) -> Option<Reader> {
        None
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

#[derive(Clone)]
pub struct ContainerSpec {
    pub name: String,
    pub image: Arc<dyn Image>,
    /// argv: the command's name first.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    /// Who makes those of the mounts that are put off until somebody looks into them.
    pub deferred: Option<Arc<dyn DeferredMounts>>,
    /// Bytes over all instances of this container; `None`: the pod's limit, or else the runtime's default.
    pub memory_limit: Option<u64>,
    /// Thousandths of a core; `None`: unlimited.
    pub cpu_limit_millis: Option<u64>,
    /// Thousandths of a core: the weight beside other containers when the cores do not suffice for all.
    pub cpu_request_millis: Option<u64>,
    pub output: Arc<dyn Output>,
    pub grants: Grants,
    /// How instances answer calls; `InstancePolicy::default()` unless the pod asks otherwise.
    pub instances: InstancePolicy,
    /// Which of its container's lives this is, from 0. A life that outlived the process that began it is
    /// found again by this number.
    pub run: u32,
    pub linux: LinuxContainer,
    /// The container of the pod whose processes it is to see, by its name.
    pub target: Option<String>,
}

impl ContainerSpec {
    /// Returns when all mounts are there.
    pub async fn mounted(&self) -> Result<(), StartError> {
        mounted(self.deferred.as_deref()).await
    }
}

/// Returns when the mounts that were put off, if any were, are there.
async fn mounted(deferred: Option<&dyn DeferredMounts>) -> Result<(), StartError> {
    match deferred {
        Some(deferred) => deferred.make().await.map_err(StartError::Other),
        None => Ok(()),
    }
}

/// What a pod asks for beyond files, variables and streams; nothing unless it does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// A program that knows no HTTP answers calls by CGI, an instance per request.
    pub wagi: bool,
    /// What `wasi:config/store` tells beside the environment.
    pub config: Vec<(String, String)>,
    /// The store of `wasi:keyvalue`.
    pub keyvalue: Option<KeyValue>,
    /// The directory of `wasi:blobstore` as the containers see it, on a volume of theirs.
    pub blobstore: Option<String>,
}

/// Where a pod's key-value store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyValue {
    /// In memory, as long as the pod is on this node.
    Memory,
    /// In a directory as the containers see it, on a volume of theirs.
    Directory(String),
    /// On a server.
    Redis(Redis),
}

/// A Redis server, and who is to be told to it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redis {
    pub host: String,
    pub port: u16,
    pub database: u32,
    pub username: Option<String>,
    pub password: Option<String>,
}

impl std::fmt::Debug for Redis {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "redis://{}:{}/{}", self.host, self.port, self.database)
    }
}

/// How the instances of an HTTP container are made, kept and bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstancePolicy {
    /// Requests that one instance answers, one after the other, before it is thrown away. 1: each
    /// request has an instance of its own, so that nothing of one call is left for the next.
    pub max_requests_per_instance: u32,
    /// Requests that an instance of WASI 0.3 answers at a time, where it may answer several one after the
    /// other. 1: nothing of one call is in memory beside another.
    pub max_concurrent_per_instance: usize,
    /// Instances that are made before a call wants them, and made anew when calls have used them up; at most
    /// 64.
    pub min_instances: usize,
    /// Calls that the container's guests answer at a time; more wait in line.
    pub max_concurrent: usize,
    /// Calls that wait in line, in order of arrival; beyond it the answer is
    /// [`crate::wire::CallError::Overloaded`].
    pub max_queued: usize,
    /// How long an instance that may be used again is kept without work, beyond those always kept.
    pub idle_timeout: Duration,
    /// From the request to the head of the response, waiting in line included, and again for what the
    /// guest does after the response's end. A response that streams may take longer.
    pub request_timeout: Duration,
}

impl Default for InstancePolicy {
    fn default() -> Self {
        Self {
            max_requests_per_instance: 1,
            max_concurrent_per_instance: 1,
            min_instances: 0,
            max_concurrent: 1024,
            max_queued: 1024,
            idle_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// Where a container is in its one life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    Running { started_at: SystemTime },
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// 0 for success; 137 when killed or out of memory; 134 for a trap; else the guest's own.
    pub code: i32,
    /// `Completed`, `Error` or `OOMKilled`, as Kubernetes says it.
    pub reason: &'static str,
    /// In words: the trap and its demangled backtrace, or which limit was hit and by how much.
    pub message: String,
    pub started_at: SystemTime,
    pub finished_at: SystemTime,
}

/// What a container has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time of the guest and of the host's work on its behalf.
    pub cpu: Duration,
    /// Linear memories and tables of all live instances.
    pub memory_bytes: u64,
    /// The most of it that was held at a time.
    pub memory_peak_bytes: u64,
    /// How long the container was held back by its CPU limit.
    pub throttled: Duration,
    /// Live instances.
    pub instances: u64,
    /// Calls answered or failed.
    pub calls: u64,
}

/// What a command reads.
pub type Reader = Box<dyn AsyncRead + Send + Sync + Unpin>;
/// What a command writes to.
pub type Writer = Box<dyn AsyncWrite + Send + Sync + Unpin>;

/// A command to be run in a container, beside what runs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecCommand {
    /// argv: the command's name first.
    pub args: Vec<String>,
    /// The names by which the image's own program is called.
    pub program_names: Vec<String>,
}

/// The streams of a command. Writers make a command wait whose output nobody takes.
pub struct ExecStreams {
    pub stdin: Reader,
    pub stdout: Writer,
    pub stderr: Writer,
    /// A terminal is asked for; what it carries is all on `stdout`.
    pub terminal: Option<watch::Receiver<TerminalSize>>,
}

/// How long a command waits to be told how large its terminal is: who knows it says so at once.
const SIZE_PATIENCE: Duration = Duration::from_millis(500);

impl ExecStreams {
    /// The size of the terminal when the command begins; 0 by 0 if nobody says it.
    pub async fn terminal_size(&mut self) -> Option<TerminalSize> {
        let terminal = self.terminal.as_mut()?;
        let known = terminal.wait_for(|size| *size != TerminalSize::default());
        let size = tokio::time::timeout(SIZE_PATIENCE, known).await.ok().and_then(Result::ok).map(|size| *size);
        Some(size.unwrap_or_default())
    }
}

/// Of a terminal, in characters; 0 by 0 while it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub columns: u16,
    pub rows: u16,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecEnd {
    /// As [`Exit::code`]; 127 for a command that there is not.
    pub code: i32,
    /// What the host has to say, to be shown with what the command wrote to standard error.
    pub message: String,
}

/// Why an image cannot be run; the node shows the text in an event and a container state.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not a module or component, or one that uses what this host does not have: `ErrImagePull`-like.
    #[error("{0}")]
    Invalid(String),
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The runtime, or what it asks for the image, does not answer or refuses.
    #[error("{0}")]
    Unavailable(String),
}

/// Why a container did not start (`CreateContainerError`, `RunContainerError`).
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An import that nothing provides, with the version found and the nearest one offered.
    #[error("{0}")]
    MissingImport(String),
    /// It could not even be made. Tried again until it can be, and counts as no life.
    #[error("{0}")]
    NotMade(String),
    #[error("{0}")]
    Other(String),
}

/// What a runtime's pods are like, where runtimes differ. The default is that of a host in this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Nature {
    /// Its pods have a network namespace each, hence addresses that are not this machine's own.
    pub own_network: bool,
    /// Its containers run on when this process ends, and are found again by whoever starts next.
    pub outlives_process: bool,
    /// A container can be given a single file; otherwise files come as directories.
    pub mounts_files: bool,
    /// Its containers are processes, which others of the pod can be let see.
    pub has_processes: bool,
}

/// How whoever a runtime works with does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Health {
    /// Not asked yet.
    #[default]
    Unknown,
    Well,
    /// It does not answer: why, and what to do.
    Ill(String),
}

/// An image in a runtime's own store.
#[derive(Clone)]
pub struct StoredImage {
    pub image: Arc<dyn Image>,
    /// What a status calls it: a digest, after the repository's name if it came from one.
    pub id: String,
    pub bytes: u64,
    /// argv as far as a pod's `command` replaces it.
    pub entrypoint: Vec<String>,
    /// The rest of argv.
    pub cmd: Vec<String>,
    /// Names and values.
    pub env: Vec<(String, String)>,
}

/// An image that a runtime keeps, as the collection of garbage sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptImage {
    pub id: String,
    /// All names by which pods may mean it.
    pub references: Vec<String>,
    pub bytes: u64,
    pub used: SystemTime,
}

/// An account at a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    pub user: String,
    pub password: String,
}

/// The images of a runtime that brings and keeps them itself.
#[async_trait::async_trait]
pub trait ImageStore: Send + Sync {
    /// The image of that name, if it is there.
    async fn find(&self, reference: &str) -> Result<Option<StoredImage>, ImageError>;

    /// Brings what the registry has under that name now, by the first account that is given it; without
    /// accounts, as anybody. `came` tells the bytes that have come so far.
    async fn pull(&self, reference: &str, accounts: &[Account], came: &AtomicU64) -> Result<StoredImage, ImageError>;

    /// The images that it brought for this node; never those that others did.
    async fn list(&self) -> Vec<KeptImage>;

    /// Removes one of them; returns the bytes that this freed.
    async fn remove(&self, image: &KeptImage) -> u64;
}

/// One way of running containers.
#[async_trait::async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// The `handler` of its RuntimeClass: `wasm`, `docker`.
    fn name(&self) -> &'static str;

    /// What `status.nodeInfo.containerRuntimeVersion` says, e.g. `wasmtime://48.0.8`.
    fn version(&self) -> String;

    fn nature(&self) -> Nature {
        Nature::default()
    }

    /// Whether what it works with answers, now and each change of it; `None` for a runtime that needs nobody.
    fn health(&self) -> Option<watch::Receiver<Health>> {
        None
    }

    /// Where it keeps images; `None` for a runtime that is given files.
    fn images(&self) -> Option<&dyn ImageStore> {
        None
    }

    /// Makes an image ready (compiles it, or finds it compiled). May take long; never on a serving thread.
    async fn prepare(&self, source: &ImageSource) -> Result<Arc<dyn Image>, ImageError>;

    /// Makes one module of several: what the first imports, others export. Each comes with the name of the
    /// container whose image it is, for the words of an error. Snapshots are of the parts, not of the whole.
    async fn compose(&self, _parts: &[(String, ImageSource)]) -> Result<ImageSource, ImageError> {
        Err(ImageError::Invalid(format!("the runtime {:?} does not compose containers", self.name())))
    }

    /// Gives up about `bytes` of what it keeps on disk only to be quick, the least recently used first,
    /// but nothing of the images with the digests in `keep`. Returns what it freed.
    async fn reclaim(&self, _keep: &[String], _bytes: u64) -> u64 {
        0
    }

    /// A pod's surroundings. Dropping the sandbox kills what still runs in it, unless that outlives this
    /// process: then [`Runtime::remove`] does.
    async fn sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, StartError>;

    /// A pod is over: ends what still runs of it, whoever started that, and leaves nothing behind.
    async fn remove(&self, _uid: &str) {}

    /// Removes what pods have left that `known` does not know: they went while nobody was here.
    async fn sweep(&self, _known: &HashSet<String>) {}

    /// The node stops in good order, after its last pod's worker.
    async fn shutdown(&self) {}
}

/// A pod on this node.
#[async_trait::async_trait]
pub trait Sandbox: Send + Sync + 'static {
    /// Starts a container's one life. Called again after it ended, for a restart: then it must be quick.
    async fn start(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, StartError>;

    /// Connects to a port as the pod's own processes do, by its loopback; `None`: nobody here can, and the
    /// pod's address is all there is.
    async fn connect(&self, _port: u16) -> Option<std::io::Result<TcpStream>> {
        None
    }

    /// Holds the pod's packets to these rules from now on; `None`: to none. Only a runtime whose pods have a
    /// network of their own need do anything: the others' connections are made by the node.
    ///
    /// # Errors
    /// Why it could not be done; what was done before holds on.
    async fn confine(&self, _rules: Option<&Confinement>) -> Result<(), String> {
        Ok(())
    }
}

/// A container in its one life.
#[async_trait::async_trait]
pub trait Container: Send + Sync + 'static {
    /// What its runtime calls it, after the runtime's name: `docker://…`; `None` if nobody could ask for it.
    fn id(&self) -> Option<String> {
        None
    }

    /// Its state now and each change of it.
    fn state(&self) -> watch::Receiver<RunState>;

    /// The HTTP handler it exports (`wasi:http/incoming-handler`); `None` for commands.
    fn http(&self) -> Option<Arc<dyn HttpService>>;

    /// Takes no new calls, lets those in flight finish within `grace`, then interrupts what is left.
    /// Returns when it has exited.
    async fn stop(&self, grace: Duration);

    fn usage(&self) -> Usage;

    /// Bytes that it has written to files of its own, beside its volumes.
    async fn written_bytes(&self) -> u64 {
        0
    }

    /// Whether whoever runs it answers now: if not, nothing can be said of it.
    async fn answers(&self) -> bool {
        true
    }

    /// Whether who asks for a terminal gets a real one.
    fn has_terminals(&self) -> bool {
        false
    }

    /// Runs one more command in the container's surroundings: its files, its variables, its limits. It
    /// ends with the container, and when the future is dropped. The error says why nothing was run.
    async fn exec(&self, command: ExecCommand, _streams: ExecStreams) -> Result<ExecEnd, String> {
        let command = command.args.first().map_or("", String::as_str);
        Err(format!("cannot run {command:?}: this runtime runs no commands in its containers"))
    }
}

//! What an instance sees of the world: exactly what its container was given.
//!
//! Arguments, variables, mounted directories, two output streams, clocks, random numbers and the
//! node's way out for HTTP. Standard input is empty unless a command's pod asks for it, and nothing is
//! inherited from the host's process.
//! What all instances share is made once per container; an instance takes references, so that making
//! one costs next to nothing. Sockets: see [`super::sockets`].

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::{HasData, ResourceTable};
use wasmtime_wasi::cli::AsyncStdinStream;
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::cli::environment::Host as EnvironmentHost;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::p3::bindings::cli::environment::Host as EnvironmentHost3;
use wasmtime_wasi::sockets::{WasiSocketsCtx, WasiSocketsCtxView};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::super::toolbox::Sight;
use super::super::{
    ContainerSpec, DeferredMounts, Mount, Output, SandboxSpec, StartError, Stream, TerminalSize, mounted,
};
use super::blobstore::BlobStore;
use super::engine::Calls;
use super::keyvalue::KeyValueStore;
use super::limits::{Account, Limiter};
use super::outbound::Hooks;
use super::output::{Lines, OnTerminal};
use super::sockets::{PodNetwork, Sockets};
use super::wagi::Captured;
use crate::wire::{Caller, Outbound};

/// Resources (streams, bodies, headers, files) that one instance may hold at a time.
const MAX_RESOURCES: usize = 8192;
/// Files that an instance of a core module may hold open: each is one of the host's process, which has to
/// have some left for everybody. As many as a process may usually open.
const MAX_CORE_FILES: usize = 1024;
/// Random bytes for one call.
const MAX_RANDOM_BYTES: u64 = 1 << 20;

/// What one call gives to the instance that answers it by its streams ([`super::wagi`]).
pub struct CallIo {
    pub env: Vec<(String, String)>,
    pub stdin: Bytes,
    pub stdout: Captured,
}

/// Where an instance's streams lead.
pub enum Io {
    /// To the container's log; there is no input.
    Log,
    /// To the container's log, and from its input where the pod asks for one.
    Container,
    Call(CallIo),
    /// Where whoever runs a command beside the container says.
    Beside(Box<dyn FnOnce(&mut WasiCtxBuilder) + Send>),
}

/// The stores that a pod has asked for.
#[derive(Clone, Default)]
pub struct Granted {
    pub keyvalue: Option<Arc<KeyValueStore>>,
    pub blobs: Option<Arc<BlobStore>>,
}

/// What the instances of a container share.
#[derive(Clone)]
pub struct Surroundings {
    args: Vec<String>,
    env: Vec<(String, String)>,
    mounts: Vec<Mount>,
    deferred: Option<Arc<dyn DeferredMounts>>,
    sockets: WasiSocketsCtx,
    network: Arc<PodNetwork>,
    config: Vec<(String, String)>,
    granted: Granted,
    output: Arc<dyn Output>,
    caller: Arc<Caller>,
    outbound: Arc<dyn Outbound>,
    calls: Calls,
    /// Its streams are a terminal.
    terminal: bool,
    pub memory: Arc<Account>,
    pub pod_memory: Arc<Account>,
}

impl Surroundings {
    /// Looks whether the mounts can be opened; the error names the one that cannot be.
    pub fn new(
        pod: &SandboxSpec,
        caller: Arc<Caller>,
        spec: &ContainerSpec,
        granted: Granted,
        calls: Calls,
        memory: Arc<Account>,
        pod_memory: Arc<Account>,
    ) -> Result<Self, StartError> {
        let deferred = spec.deferred.clone();
        let there = |mount: &&Mount| deferred.as_ref().is_none_or(|deferred| !deferred.has(mount));
        // Opened for no longer than the look: an idle container holds no files of the host's process.
        open_mounts(&mut WasiCtxBuilder::new(), spec.mounts.iter().filter(there))?;
        let mut template = WasiCtxBuilder::new();
        let network = PodNetwork::new(caller.clone(), pod.outbound.clone());
        network.guard(&mut template);
        let mut template = template.build();
        let surroundings = Self {
            args: spec.args.clone(),
            env: spec.env.clone(),
            mounts: spec.mounts.clone(),
            deferred,
            sockets: template.sockets().clone(),
            network,
            config: spec.grants.config.clone(),
            granted,
            output: spec.output.clone(),
            caller,
            outbound: pod.outbound.clone(),
            calls,
            terminal: spec.linux.tty,
            memory,
            pod_memory,
        };
        Ok(if spec.linux.tty { surroundings.on_terminal(TerminalSize::default()) } else { surroundings })
    }

    /// The same surroundings for another command.
    pub fn with_args(&self, args: Vec<String>) -> Self {
        Self { args, ..self.clone() }
    }

    /// The same on a terminal of its own, as the variables tell that programs look at.
    pub fn on_terminal(&self, size: TerminalSize) -> Self {
        let mut env = self.env.clone();
        let mut set = |name: &str, value: String| {
            if !env.iter().any(|(known, _)| known == name) {
                env.push((name.to_owned(), value));
            }
        };
        set("TERM", "xterm".to_owned());
        if size != TerminalSize::default() {
            set("COLUMNS", size.columns.to_string());
            set("LINES", size.rows.to_string());
        }
        Self { env, ..self.clone() }
    }

    /// Returns when all mounts are there.
    pub async fn mounted(&self) -> Result<(), StartError> {
        mounted(self.deferred.as_deref()).await
    }

    /// The mounts as `wasi:filesystem` has them, opened now.
    pub async fn files(&self) -> Result<WasiFilesystemCtx, StartError> {
        self.mounted().await?;
        let mut builder = WasiCtxBuilder::new();
        open_mounts(&mut builder, &self.mounts)?;
        Ok(builder.build().filesystem().clone())
    }

    /// What the host's own commands may see on the container's behalf.
    pub fn sight(&self) -> Sight {
        Sight {
            mounts: self.mounts.clone(),
            env: self.env.clone(),
            caller: self.caller.clone(),
            outbound: self.outbound.clone(),
        }
    }

    /// An account for one instance, or for what is held for one.
    pub fn limiter(&self) -> Limiter {
        Limiter::new(self.memory.clone(), self.pod_memory.clone())
    }

    fn lines(&self, stream: Stream) -> Lines {
        Lines::new(self.output.clone(), stream, self.terminal)
    }

    /// Writes to the container's log, whole lines at a time.
    pub fn log(&self, stream: Stream, lines: &str) {
        self.output.write(stream, lines.as_bytes());
    }

    /// argv's first.
    pub fn command(&self) -> &str {
        self.args.first().map_or("", String::as_str)
    }

    /// The state of a component's instance.
    pub fn guest(self: &Arc<Self>, io: Io) -> Guest {
        let mut builder = WasiCtxBuilder::new();
        let call_env = self.set_streams(&mut builder, io);
        let mut wasi = builder.build();
        wasi.sockets().clone_from(&self.sockets);
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        Guest {
            wasi,
            table,
            http: WasiHttpCtx::new(),
            hooks: Hooks { caller: self.caller.clone(), outbound: self.outbound.clone(), calls: self.calls },
            limiter: self.limiter(),
            sockets: Sockets::new(self.network.clone()),
            call_env,
            surroundings: self.clone(),
        }
    }

    /// The state of a core module's instance, with the mounts open: the older interface takes them only at
    /// the beginning.
    pub async fn core_guest(&self, io: Io) -> Result<CoreGuest, StartError> {
        self.mounted().await?;
        let mut builder = WasiCtxBuilder::new();
        let call_env = self.set_streams(&mut builder, io);
        builder.args(&self.args).envs(&environment(&self.env, &call_env));
        open_mounts(&mut builder, &self.mounts)?;
        let mut wasi = builder.build_p1();
        wasi.ctx().table.set_max_capacity(MAX_CORE_FILES);
        Ok(CoreGuest { wasi, limiter: self.limiter() })
    }

    /// Sets the streams; returns the variables of the call, where there is one.
    fn set_streams(&self, builder: &mut WasiCtxBuilder, io: Io) -> Vec<(String, String)> {
        builder.stdout(self.lines(Stream::Stdout)).stderr(self.lines(Stream::Stderr));
        builder.max_random_size(MAX_RANDOM_BYTES);
        match io {
            Io::Log => {}
            Io::Container => {
                if let Some(input) = self.output.input() {
                    let input = AsyncStdinStream::new(input);
                    match self.terminal {
                        true => builder.stdin(OnTerminal(input)),
                        false => builder.stdin(input),
                    };
                }
            }
            Io::Call(call) => {
                builder.stdin(MemoryInputPipe::new(call.stdin)).stdout(call.stdout);
                return call.env;
            }
            Io::Beside(connect) => connect(builder),
        }
        Vec::new()
    }
}

fn open_mounts<'a>(
    builder: &mut WasiCtxBuilder,
    mounts: impl IntoIterator<Item = &'a Mount>,
) -> Result<(), StartError> {
    for mount in mounts {
        let perms = if mount.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
        builder.preopened_dir(&mount.host, &mount.guest, perms).map_err(|error| mount_error(mount, &error))?;
    }
    Ok(())
}

fn mount_error(mount: &Mount, error: &wasmtime::Error) -> StartError {
    let host: &Path = &mount.host;
    let hint = if host.is_file() { " (it is a file; only directories can be mounted)" } else { "" };
    StartError::Other(format!("cannot mount {} at {}: {error:#}{hint}", host.display(), mount.guest))
}

/// What `wasi:blobstore` needs of an instance.
pub struct BlobView<'a> {
    pub table: &'a mut ResourceTable,
    pub blobs: Option<&'a Arc<BlobStore>>,
    pub limiter: Limiter,
}

/// The state of a component's instance.
pub struct Guest {
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    hooks: Hooks,
    pub limiter: Limiter,
    sockets: Sockets,
    /// Variables of the call that it answers; none unless by CGI.
    call_env: Vec<(String, String)>,
    surroundings: Arc<Surroundings>,
}

impl Guest {
    /// The instance's resources, and the store that its pod asked for.
    pub fn keyvalue(&mut self) -> (&mut ResourceTable, Option<&Arc<KeyValueStore>>) {
        (&mut self.table, self.surroundings.granted.keyvalue.as_ref())
    }

    /// The same for its blobs, and an account for what is held of one.
    pub fn blobstore(&mut self) -> BlobView<'_> {
        let Self { table, surroundings, .. } = self;
        BlobView { table, blobs: surroundings.granted.blobs.as_ref(), limiter: surroundings.limiter() }
    }

    /// The container's variables, then what its pod's ConfigMaps say.
    pub fn config(&self) -> impl Iterator<Item = &(String, String)> {
        self.surroundings.env.iter().chain(&self.surroundings.config)
    }

    /// What its container shares.
    pub fn surroundings(&self) -> &Arc<Surroundings> {
        &self.surroundings
    }

    /// What it holds handles to.
    pub fn resources(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// Writes whole lines to the container's log.
    pub fn log(&self, stream: Stream, lines: &str) {
        self.surroundings.log(stream, lines);
    }

    /// wasmtime's side of the instance's sockets, and ours.
    pub fn sockets(&mut self) -> (WasiSocketsCtxView<'_>, &mut Sockets) {
        (WasiSocketsCtxView { ctx: self.wasi.sockets(), table: &mut self.table }, &mut self.sockets)
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

/// The state of a core module's instance.
pub struct CoreGuest {
    pub wasi: WasiP1Ctx,
    pub limiter: Limiter,
}

/// Serves `wasi:cli/environment` from what the container shares, so that an instance that never asks
/// for its variables never copies them.
pub struct SharedEnvironment;

impl HasData for SharedEnvironment {
    type Data<'a> = EnvironmentView<'a>;
}

pub struct EnvironmentView<'a> {
    container: &'a Surroundings,
    call: &'a [(String, String)],
}

/// The container's variables and those of a call, which count where both have one.
fn environment(container: &[(String, String)], call: &[(String, String)]) -> Vec<(String, String)> {
    let own = container.iter().filter(|(name, _)| !call.iter().any(|(other, _)| other == name));
    own.chain(call).cloned().collect()
}

/// The guest's arguments and variables, by reference.
pub fn environment_of(guest: &mut Guest) -> EnvironmentView<'_> {
    EnvironmentView { container: &guest.surroundings, call: &guest.call_env }
}

impl EnvironmentHost for EnvironmentView<'_> {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(environment(&self.container.env, self.call))
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.container.args.clone())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

impl EnvironmentHost3 for EnvironmentView<'_> {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        EnvironmentHost::get_environment(self)
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        EnvironmentHost::get_arguments(self)
    }

    fn get_initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        self.initial_cwd()
    }
}

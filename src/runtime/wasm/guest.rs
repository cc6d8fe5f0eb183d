//! What an instance sees of the world: exactly what its container was given.
//!
//! Arguments, variables, mounted directories, two output streams, clocks, random numbers and the
//! node's way out for HTTP. Standard input is empty unless a command's pod asks for it, and nothing is
//! inherited from the host's process.
//! What all instances share is made once per container; an instance takes references, so that making
//! one costs next to nothing.
//!
//! Sockets: a guest may listen on its pod's address and connect to it, so the containers of a pod reach
//! each other and the pod serves TCP. It may not bind 0.0.0.0 or 127.0.0.1, which on a machine without
//! network namespaces belong to everyone, and it may connect nowhere else: other Services are called
//! through `wasi:http`, where names resolve and policies hold.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use wasmtime::component::{HasData, ResourceTable};
use wasmtime_wasi::cli::AsyncStdinStream;
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::bindings::cli::environment;
use wasmtime_wasi::sockets::{SocketAddrUse, WasiSocketsCtx};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::super::toolbox::Sight;
use super::super::{ContainerSpec, Mount, Output, SandboxSpec, StartError, Stream};
use super::limits::{Account, Limiter};
use super::outbound::Hooks;
use super::output::Lines;
use crate::wire::{Caller, Outbound};

/// Resources (streams, bodies, headers, files) that one instance may hold at a time.
const MAX_RESOURCES: usize = 8192;
/// Random bytes for one call.
const MAX_RANDOM_BYTES: u64 = 1 << 20;

/// What the instances of a container share.
pub struct Surroundings {
    args: Vec<String>,
    env: Vec<(String, String)>,
    mounts: Vec<Mount>,
    filesystem: WasiFilesystemCtx,
    sockets: WasiSocketsCtx,
    output: Arc<dyn Output>,
    caller: Arc<Caller>,
    outbound: Arc<dyn Outbound>,
    pub memory: Arc<Account>,
    pub pod_memory: Arc<Account>,
}

impl Surroundings {
    /// Opens the mounts; the error names the one that cannot be.
    pub fn new(
        pod: &SandboxSpec,
        caller: Arc<Caller>,
        spec: &ContainerSpec,
        memory: Arc<Account>,
        pod_memory: Arc<Account>,
    ) -> Result<Self, StartError> {
        let mut template = WasiCtxBuilder::new();
        open_mounts(&mut template, &spec.mounts)?;
        allow_own_address(&mut template, pod.ip);
        let mut template = template.build();
        Ok(Self {
            args: spec.args.clone(),
            env: spec.env.clone(),
            mounts: spec.mounts.clone(),
            filesystem: template.filesystem().clone(),
            sockets: template.sockets().clone(),
            output: spec.output.clone(),
            caller,
            outbound: pod.outbound.clone(),
            memory,
            pod_memory,
        })
    }

    /// The same surroundings for another command.
    pub fn with_args(&self, args: Vec<String>) -> Self {
        Self {
            args,
            env: self.env.clone(),
            mounts: self.mounts.clone(),
            filesystem: self.filesystem.clone(),
            sockets: self.sockets.clone(),
            output: self.output.clone(),
            caller: self.caller.clone(),
            outbound: self.outbound.clone(),
            memory: self.memory.clone(),
            pod_memory: self.pod_memory.clone(),
        }
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

    fn limiter(&self) -> Limiter {
        Limiter::new(self.memory.clone(), self.pod_memory.clone())
    }

    fn lines(&self, stream: Stream) -> Lines {
        Lines::new(self.output.clone(), stream)
    }

    /// The state of a component's instance.
    pub fn guest(self: &Arc<Self>) -> Guest {
        self.guest_with(|builder| {
            builder.stdout(self.lines(Stream::Stdout)).stderr(self.lines(Stream::Stderr));
        })
    }

    /// The same for a command, which may have input.
    pub fn command_guest(self: &Arc<Self>) -> Guest {
        self.guest_with(|builder| self.connect(builder))
    }

    fn connect(&self, builder: &mut WasiCtxBuilder) {
        builder.stdout(self.lines(Stream::Stdout)).stderr(self.lines(Stream::Stderr));
        if let Some(input) = self.output.input() {
            builder.stdin(AsyncStdinStream::new(input));
        }
    }

    /// The same, with the streams that `connect` sets.
    pub fn guest_with(self: &Arc<Self>, connect: impl FnOnce(&mut WasiCtxBuilder)) -> Guest {
        let mut builder = WasiCtxBuilder::new();
        connect(&mut builder);
        builder.max_random_size(MAX_RANDOM_BYTES);
        let mut wasi = builder.build();
        wasi.filesystem().clone_from(&self.filesystem);
        wasi.sockets().clone_from(&self.sockets);
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        Guest {
            wasi,
            table,
            http: WasiHttpCtx::new(),
            hooks: Hooks { caller: self.caller.clone(), outbound: self.outbound.clone() },
            limiter: self.limiter(),
            surroundings: self.clone(),
        }
    }

    /// The state of a core module's instance. It opens the mounts anew, since the older interface
    /// takes them only at the beginning.
    pub fn core_guest(&self) -> Result<CoreGuest, StartError> {
        self.core_guest_with(|builder| self.connect(builder))
    }

    /// The same, with the streams that `connect` sets.
    pub fn core_guest_with(&self, connect: impl FnOnce(&mut WasiCtxBuilder)) -> Result<CoreGuest, StartError> {
        let mut builder = WasiCtxBuilder::new();
        connect(&mut builder);
        builder.args(&self.args).envs(&self.env).max_random_size(MAX_RANDOM_BYTES);
        open_mounts(&mut builder, &self.mounts)?;
        Ok(CoreGuest { wasi: builder.build_p1(), limiter: self.limiter() })
    }
}

fn open_mounts(builder: &mut WasiCtxBuilder, mounts: &[Mount]) -> Result<(), StartError> {
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

fn allow_own_address(builder: &mut WasiCtxBuilder, own: IpAddr) {
    builder
        .allow_tcp(true)
        .allow_udp(true)
        .allow_ip_name_lookup(false)
        .socket_addr_check(move |address, usage| Box::pin(std::future::ready(socket_allowed(own, address, usage))));
}

/// Whether a guest whose pod has the address `own` may do this.
fn socket_allowed(own: IpAddr, address: SocketAddr, usage: SocketAddrUse) -> bool {
    match usage {
        // Who may call this pod is for the network to decide, before it comes here.
        SocketAddrUse::TcpAccept | SocketAddrUse::UdpReceive => true,
        // A wildcard without a port is what the system binds by itself before it connects or sends.
        SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => {
            address.ip() == own || (address.ip().is_unspecified() && address.port() == 0)
        }
        SocketAddrUse::TcpListen | SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend => address.ip() == own,
    }
}

/// The state of a component's instance.
pub struct Guest {
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    hooks: Hooks,
    pub limiter: Limiter,
    surroundings: Arc<Surroundings>,
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

pub struct EnvironmentView<'a>(&'a Surroundings);

/// The guest's arguments and variables, by reference.
pub fn environment_of(guest: &mut Guest) -> EnvironmentView<'_> {
    EnvironmentView(&guest.surroundings)
}

impl environment::Host for EnvironmentView<'_> {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.0.env.clone())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.0.args.clone())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_reach_the_pods_own_address_alone() {
        use SocketAddrUse::{TcpAccept, TcpBind, TcpConnect, TcpListen, UdpBind, UdpReceive, UdpSend};
        let own: IpAddr = "127.64.0.9".parse().unwrap();
        let allowed = |address: &str, usage| socket_allowed(own, address.parse().unwrap(), usage);
        for usage in [TcpBind, TcpListen, TcpConnect, UdpBind, UdpSend] {
            assert!(allowed("127.64.0.9:80", usage), "{usage:?}");
            assert!(!allowed("127.64.0.10:80", usage), "{usage:?}");
            assert!(!allowed("127.0.0.1:80", usage), "{usage:?}");
            assert!(!allowed("0.0.0.0:80", usage), "{usage:?}");
        }
        for usage in [TcpBind, UdpBind] {
            assert!(allowed("0.0.0.0:0", usage), "{usage:?}");
        }
        for usage in [TcpAccept, UdpReceive] {
            assert!(allowed("192.0.2.1:1234", usage), "{usage:?}");
        }
    }
}

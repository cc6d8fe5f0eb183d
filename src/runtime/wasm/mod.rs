//! The Wasm host: many small guests in one process, each held to what it was given.
//!
//! | file | owns |
//! |---|---|
//! | `engine`, `ticker` | the engine, its pool of instances, the clock that interrupts |
//! | `compose`, `snapshot` | one component made of several, and programs made ready beforehand |
//! | `artifact`, `cache`, `images`, `compiler` | from a file to a program that is compiled, linked and kept |
//! | `inspect` | what a module is and wants, for those who ask before it runs |
//! | `linker`, `imports` | what the host offers to programs, and what it says to those that want more |
//! | `guest`, `output`, `outbound` | what one instance sees: files, variables, streams, the way out |
//! | `sockets` | `wasi:sockets` inside the pod's own address |
//! | `blobstore`, `config`, `keyvalue`, `logging` | the interfaces of WASI that are drafts yet |
//! | `place` | directories of volumes that the host itself uses |
//! | `limits`, `cpu`, `shares`, `run` | memory and processor time: charged, limited, shared out fairly |
//! | `life`, `command`, `http`, `handler`, `body`, `instance` | pods, containers, calls, and how they end |
//! | `wagi`, `cgi` | calls answered by programs that know no HTTP |
//! | `exec` | commands that are run in a container beside it |
//!
//! What a guest does wrong is its container's end and nobody else's: a trap, an exit, a limit passed, a
//! host panic on its account. What is wrong with an image is said before anything runs. The host
//! starts no guest twice by itself; whoever owns the pod does.

mod artifact;
mod blobstore;
mod body;
mod cache;
mod cgi;
mod command;
mod compiler;
mod compose;
mod config;
mod cpu;
mod engine;
mod exec;
mod guest;
mod handler;
mod heavy;
mod http;
mod images;
mod imports;
mod inspect;
mod instance;
mod keyvalue;
mod life;
mod limits;
mod linker;
mod logging;
mod outbound;
mod output;
mod place;
mod preopens;
mod room;
mod run;
mod shares;
mod snapshot;
mod sockets;
#[cfg(test)]
mod tests;
mod ticker;
mod wagi;

use std::path::PathBuf;
use std::sync::Arc;

pub use self::artifact::Form;
pub use self::artifact::{MAX_MODULE_BYTES, digest_of};
pub use self::compiler::{CompileRequest, compile_as_child, compose_as_child};
use self::guest::CoreGuest;
use self::heavy::Heavy;
use self::images::Images;
pub use self::inspect::{Inspection, Kind, Verdict, check, inspect};
use self::instance::WasmSandbox;
use self::limits::{Account, Limiter, Scope};
use self::shares::Shares;
use super::{Image, ImageError, ImageSource, Runtime, Sandbox, SandboxSpec, StartError};

/// The engine's version: the one this crate was built with.
pub const ENGINE_VERSION: &str = "48.0.8";

/// What the host is made with.
#[derive(Debug, Clone)]
pub struct WasmConfig {
    /// Where compiled code is kept; `None`: nowhere.
    pub cache_dir: Option<PathBuf>,
    /// This program's own file, by which images are compiled in a child process; it must have the hidden
    /// command. `None`: they are compiled by this process.
    pub compiler: Option<PathBuf>,
    /// Instances that may live at a time, of WASI 0.3 and of the others each; `None`: as many as this
    /// machine's kernel settings allow, up to 1024 and 4096.
    pub max_instances: Option<u32>,
    /// Bytes for a container without a limit in a pod without a limit.
    pub default_memory_limit: u64,
}

impl Default for WasmConfig {
    fn default() -> Self {
        Self { cache_dir: None, compiler: None, max_instances: None, default_memory_limit: 1 << 30 }
    }
}

/// The [`Runtime`] for WebAssembly. One a process.
pub struct WasmRuntime {
    images: Images,
    default_memory_limit: u64,
}

impl WasmRuntime {
    /// Reserves the instance pool, starts the ticker and opens the cache.
    pub fn new(config: WasmConfig) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (cache, compiler) = (config.cache_dir.as_deref(), config.compiler.as_deref());
        let images = Images::new(
            config.max_instances,
            Arc::new(Shares::new(cores)),
            Arc::new(Heavy::new(cores)),
            cache,
            compiler,
        )?;
        Ok(Self { images, default_memory_limit: config.default_memory_limit })
    }
}

/// Between hosts of this program: one compiles, the other runs.
impl WasmRuntime {
    /// The compiled code of an image, for [`Self::adopt`]; whether it is a component's. The error is that of
    /// a container which cannot start with it.
    pub fn compiled(image: &dyn Image) -> Result<Compiled, StartError> {
        let program = images::made_here(image)?.program()?;
        let (form, code) = program.code().map_err(|error| StartError::Other(format!("{error:#}")))?;
        Ok(Compiled { form, code })
    }

    /// The name of an image among those of all hosts of this program; its digest alone may be that of two.
    pub fn name_of(image: &dyn Image) -> Result<&str, StartError> {
        images::made_here(image).map(images::WasmImage::name)
    }

    /// An image of compiled code. The code is believed: it must come from [`Self::compiled`].
    /// Its digest is `name`.
    pub async fn adopt(&self, reference: &str, name: &str, compiled: &Compiled) -> Result<Arc<dyn Image>, ImageError> {
        let (reference, digest) = (reference.to_owned(), name.to_owned());
        let source = ImageSource { reference, path: PathBuf::new(), digest, snapshot: false };
        Ok(self.images.adopt(&source, compiled.form, &compiled.code).await?)
    }
}

/// Compiled code, and what it is of.
pub struct Compiled {
    pub form: Form,
    pub code: Vec<u8>,
}

/// Only to look at the linker's names; it runs nothing.
fn unlimited_core_guest() -> CoreGuest {
    let account = |scope| Arc::new(Account::new(scope, None));
    CoreGuest {
        wasi: wasmtime_wasi::WasiCtx::builder().build_p1(),
        limiter: Limiter::new(account(Scope::Container), account(Scope::Pod)),
    }
}

#[async_trait::async_trait]
impl Runtime for WasmRuntime {
    fn name(&self) -> &'static str {
        "wasm"
    }

    fn version(&self) -> String {
        format!("wasmtime://{ENGINE_VERSION}")
    }

    async fn prepare(&self, source: &ImageSource) -> Result<Arc<dyn Image>, ImageError> {
        Ok(self.images.prepare(source).await?)
    }

    async fn compose(&self, parts: &[(String, ImageSource)]) -> Result<ImageSource, ImageError> {
        self.images.compose(parts).await
    }

    async fn reclaim(&self, keep: &[String], bytes: u64) -> u64 {
        self.images.reclaim(keep, bytes).await
    }

    async fn sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, StartError> {
        Ok(Arc::new(WasmSandbox::new(spec, self.default_memory_limit)))
    }
}

#[cfg(test)]
mod version_test {
    #[test]
    fn the_version_told_is_the_one_built_with() {
        let lock = include_str!("../../../Cargo.lock");
        let entry = format!("name = \"wasmtime\"\nversion = \"{}\"", super::ENGINE_VERSION);
        assert!(lock.contains(&entry), "ENGINE_VERSION is not what Cargo.lock has");
    }
}

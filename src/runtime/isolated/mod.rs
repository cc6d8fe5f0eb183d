//! Pods in processes of their own, for those that ask.
//!
//! Usually all guests of a node share its process: that is what makes them small and quick, and what
//! keeps them apart is the engine. A pod that wants more between itself and others asks for a worker
//! process, its own or its namespace's. A flaw of the engine that ends the process, or worse, then ends
//! or meets nobody else.
//!
//! A worker is this program again, running the ordinary Wasm host. To the node's agent and router its
//! pods look like any others:
//!
//! ```text
//! agent, router ── Sandbox, Container, HttpService ──► sandbox ── link ══ socket ══ host ──► WasmRuntime
//! routes, names ◄────────────────────────── Outbound ── outside ══ socket ══ outside ◄── guests' calls
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `process` | starting a worker, and how it ended |
//! | `sandbox` | the node's side of pods and containers |
//! | `host` | the worker's side of them |
//! | `outside` | both sides of the way out |
//! | `link` | HTTP/2 over a socket that only the two have |
//! | `calls`, `frames`, `protocol` | what is said over it |
//!
//! The node compiles; a worker gets compiled code, and no directory but what its pods mount. Its own
//! listeners (`wasi:sockets`) are in its pods' addresses, as ever. What it does not share with the rest
//! of the node: CPU requests weigh only within a worker, and the number of live instances is its own.
//!
//! A worker that ends takes its containers along, as `Error` with the signal that it was, and nobody
//! else's. Whoever owns the pods starts them again, which starts another.

mod calls;
mod frames;
mod host;
mod link;
mod outside;
mod process;
mod protocol;
mod sandbox;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

pub use self::host::run as run_worker;
use self::process::Worker;
use self::sandbox::IsolatedSandbox;
use super::wasm::WasmRuntime;
use super::{Image, ImageError, ImageSource, Isolation, Runtime, Sandbox, SandboxSpec, StartError};

/// The Wasm host of this process, and workers for pods that ask for one.
pub struct IsolatingRuntime {
    shared: WasmRuntime,
    workers: Arc<Workers>,
}

impl IsolatingRuntime {
    /// `program` is this program's own file; it must have the hidden command that is a worker.
    pub fn new(shared: WasmRuntime, program: PathBuf) -> Self {
        Self { shared, workers: Arc::new(Workers { program, running: tokio::sync::Mutex::default() }) }
    }
}

#[async_trait::async_trait]
impl Runtime for IsolatingRuntime {
    fn name(&self) -> &'static str {
        self.shared.name()
    }

    fn version(&self) -> String {
        self.shared.version()
    }

    async fn prepare(&self, source: &ImageSource) -> Result<Arc<dyn Image>, ImageError> {
        self.shared.prepare(source).await
    }

    async fn compose(&self, parts: &[(String, ImageSource)]) -> Result<ImageSource, ImageError> {
        self.shared.compose(parts).await
    }

    async fn reclaim(&self, keep: &[String], bytes: u64) -> u64 {
        self.shared.reclaim(keep, bytes).await
    }

    async fn sandbox(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>, StartError> {
        let key = match spec.isolation {
            Isolation::Shared => return self.shared.sandbox(spec).await,
            Isolation::Namespace => Key::Namespace(spec.namespace.clone()),
            Isolation::Pod => Key::Pod { uid: spec.uid.clone(), name: format!("{}/{}", spec.namespace, spec.name) },
        };
        Ok(Arc::new(IsolatedSandbox::new(self.workers.clone(), key, spec)))
    }
}

/// Whose a worker is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Namespace(String),
    Pod { uid: String, name: String },
}

impl Key {
    fn whose(&self) -> String {
        match self {
            Self::Namespace(namespace) => format!("namespace/{namespace}"),
            Self::Pod { name, .. } => format!("pod/{name}"),
        }
    }
}

/// The workers of a node. Each is held by its pods; here it is only found.
struct Workers {
    program: PathBuf,
    /// Held while a process is started, which takes a moment: two pods must not start two.
    running: tokio::sync::Mutex<HashMap<Key, Weak<Worker>>>,
}

impl Workers {
    /// The worker that has this key, started if there is none.
    async fn of(&self, key: &Key) -> Result<Arc<Worker>, StartError> {
        let mut running = self.running.lock().await;
        if let Some(worker) = running.get(key).and_then(Weak::upgrade).filter(|worker| !worker.is_gone()) {
            return Ok(worker);
        }
        running.retain(|_, worker| worker.strong_count() > 0);
        let started = Worker::start(&self.program, &key.whose()).await;
        let worker = started.map_err(|error| StartError::Other(format!("cannot start a worker process: {error:#}")))?;
        running.insert(key.clone(), Arc::downgrade(&worker));
        Ok(worker)
    }
}

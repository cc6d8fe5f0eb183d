//! Pods and the starting of their containers.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{Engine, Store, UpdateDeadline};

use super::super::{Container, ContainerSpec, Sandbox, SandboxSpec, StartError};
use super::blobstore::BlobStore;
use super::command::{CommandContainer, Script};
use super::guest::{Granted, Surroundings};
use super::http::HttpContainer;
use super::images::made_here;
use super::keyvalue::Stores;
use super::life::{Ending, Host, KILLED_EXIT_CODE, Life};
use super::limits::{Account, Limiter, Scope};
use super::linker::Entry;
use super::sockets::PodNetwork;
use super::wagi::WagiContainer;
use crate::wire::Caller;

/// Bytes that a guest may hand to the host in one call.
const HOSTCALL_FUEL: usize = 32 << 20;
/// Handles that one instance may hold to things of the host or of other components.
const MAX_HANDLES: usize = 10_000;

/// A pod on this node.
pub struct WasmSandbox {
    spec: SandboxSpec,
    caller: Arc<Caller>,
    memory: Arc<Account>,
    stores: Stores,
    /// For containers that neither have a limit nor share one with their pod.
    default_memory_limit: u64,
    known: Mutex<Known>,
}

/// What was started in a pod; its parts are few.
#[derive(Default)]
struct Known {
    lives: Vec<Weak<Life>>,
    /// By a container's name, whether its guests compute: a life begins where the one before it left off.
    computes: Vec<(String, Arc<AtomicBool>)>,
}

impl WasmSandbox {
    pub fn new(spec: SandboxSpec, default_memory_limit: u64) -> Self {
        let caller = Caller { namespace: spec.namespace.as_str().into(), pod: spec.name.as_str().into(), ip: spec.ip };
        let memory = Arc::new(Account::new(Scope::Pod, spec.memory_limit));
        Self {
            spec,
            caller: Arc::new(caller),
            stores: Stores::new(memory.clone()),
            memory,
            default_memory_limit,
            known: Mutex::default(),
        }
    }

    fn begin(&self, host: Arc<Host>, memory: Arc<Account>, spec: &ContainerSpec) -> Arc<Life> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let computes = match known.computes.iter().find(|(name, _)| *name == spec.name) {
            Some((_, computes)) => computes.clone(),
            None => {
                let computes = Arc::<AtomicBool>::default();
                known.computes.push((spec.name.clone(), computes.clone()));
                computes
            }
        };
        let life = Life::begin(host, memory, spec, computes);
        known.lives.retain(|life| life.strong_count() > 0);
        known.lives.push(Arc::downgrade(&life));
        life
    }
}

/// Commands hold their place for as long as they run, so they do not wait for one.
pub fn slot_now(host: &Host) -> Result<OwnedSemaphorePermit, StartError> {
    host.room.now().ok_or_else(|| StartError::Other(super::engine::full(&host.engine)))
}

#[async_trait::async_trait]
impl Sandbox for WasmSandbox {
    async fn start(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, StartError> {
        let image = made_here(&*spec.image)?;
        let program = image.program()?;
        if let Some(why) = program.denied(&spec.grants) {
            return Err(StartError::MissingImport(why));
        }
        let limit = spec.memory_limit.or(self.spec.memory_limit.is_none().then_some(self.default_memory_limit));
        let memory = Arc::new(Account::new(Scope::Container, limit));
        let life = self.begin(image.host.clone(), memory.clone(), spec);
        let blobs =
            spec.grants.blobstore.as_ref().map(|directory| BlobStore::open(directory, &spec.mounts)).transpose()?;
        let keyvalue = match &spec.grants.keyvalue {
            Some(wanted) => {
                let network = || PodNetwork::new(self.caller.clone(), self.spec.outbound.clone());
                Some(self.stores.open(wanted, &spec.mounts, network).await?)
            }
            None => None,
        };
        let (caller, pod_memory) = (self.caller.clone(), self.memory.clone());
        let (granted, calls) = (Granted { keyvalue, blobs }, image.host.engine.calls);
        let surroundings = Surroundings::new(&self.spec, caller, spec, granted, calls, memory, pod_memory)?;
        let surroundings = Arc::new(surroundings);
        let script = match program.entry.clone() {
            Entry::Http(pre) => {
                let container = HttpContainer::new(life, pre, surroundings, spec.instances);
                container.probe().await;
                return Ok(Arc::new(container));
            }
            Entry::Command(pre) => Script::Component(pre),
            Entry::Core(pre) => Script::Core(pre),
        };
        if spec.grants.wagi {
            return Ok(Arc::new(WagiContainer::new(life, script, surroundings, spec.instances)));
        }
        Ok(Arc::new(CommandContainer::start(life, script, surroundings, slot_now(&image.host)?)))
    }
}

impl Drop for WasmSandbox {
    fn drop(&mut self) {
        for life in self.known.lock().unwrap_or_else(PoisonError::into_inner).lives.iter().filter_map(Weak::upgrade) {
            life.kill();
            life.end(Ending::error(KILLED_EXIT_CODE, "the pod was removed"));
        }
    }
}

/// A store under all the bounds of a guest: it yields at every tick, is charged for what it grows, and
/// can fill neither the host's tables nor its memory through calls.
pub fn new_store<T: Send + 'static>(
    engine: &Engine,
    data: T,
    limiter: impl (Fn(&mut T) -> &mut Limiter) + Send + Sync + 'static,
) -> Store<T> {
    let mut store = Store::new(engine, data);
    store.limiter(move |data| limiter(data));
    store.set_hostcall_fuel(HOSTCALL_FUEL);
    store.set_max_component_handles(MAX_HANDLES);
    // Tokio's own yield, so that a worker looks for input before it comes back to a busy guest.
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))));
    store.set_epoch_deadline(1);
    store
}

//! Images made ready: compiled, linked, shared by every pod that uses them.
//!
//! Compiling is the one slow thing a node does for a pod, so it happens once per digest, however many
//! pods ask at the same moment; in a child process ([`super::compiler`]) or, where there is none, on
//! threads of its own at low priority, so that a burst of new images starves no request; and its result is kept on disk ([`super::cache`]) and in memory while anyone
//! uses it (and a while longer for the latest few, so that a pod that comes back starts at once).

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::oneshot;
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use super::super::{Image, ImageError, ImageSource, StartError};
use super::artifact::{self, Form, invalid};
use super::cache::AotCache;
use super::compiler::{Compiler, Outcome};
use super::life::bounded;
use super::linker::{LinkError, Linkers, Program};

/// Images kept in memory though nobody uses them at the moment; each holds its code, about a MiB.
const KEPT_IMAGES: usize = 32;
/// Digests remembered before those without an image are forgotten.
const MAX_REMEMBERED: usize = 1024;
/// How far below the serving threads the compiling ones stand.
const COMPILE_NICENESS: i32 = 10;

/// A module, compiled and linked.
pub struct WasmImage {
    digest: String,
    /// What cannot be linked is an image all the same: the error belongs to the container's start.
    pub program: Result<Program, String>,
}

impl Image for WasmImage {
    fn digest(&self) -> &str {
        &self.digest
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The program of an image that this host made; the error is a container's that cannot start with it.
pub fn program_of(image: &dyn Image) -> Result<&Program, StartError> {
    let image = image.as_any().downcast_ref::<WasmImage>();
    let image = image.ok_or_else(|| StartError::Other("the image was not prepared by this runtime".to_owned()))?;
    image.program.as_ref().map_err(|why| StartError::MissingImport(why.clone()))
}

/// What came of making an image.
type Made = Result<Arc<WasmImage>, ImageError>;

type Slot = Arc<tokio::sync::Mutex<Weak<WasmImage>>>;

/// All images of this process.
pub struct Images {
    workshop: Arc<Workshop>,
    compilers: rayon::ThreadPool,
    /// `None`: without a cache a child could hand over nothing, and not every program can be its own.
    child: Option<Compiler>,
    /// By digest. The lock of a slot is held while its image is made.
    slots: Mutex<HashMap<String, Slot>>,
    latest: Mutex<VecDeque<Arc<WasmImage>>>,
}

/// What making an image takes; shared with the threads that do it.
struct Workshop {
    engine: Engine,
    linkers: Linkers,
    cache: Option<AotCache>,
}

impl Images {
    pub fn new(
        engine: &Engine,
        linkers: Linkers,
        cache_dir: Option<&Path>,
        compiler: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let cache = cache_dir.and_then(|dir| match AotCache::open(dir, engine) {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), "compiled code is not kept on disk: {error}");
                None
            }
        });
        let compilers = rayon::ThreadPoolBuilder::new()
            .thread_name(|index| format!("wasm-compile-{index}"))
            .start_handler(|_| lower_priority())
            .build()?;
        let child = cache_dir.filter(|_| cache.is_some()).zip(compiler);
        Ok(Self {
            child: child.map(|(dir, program)| Compiler::new(program, dir)),
            workshop: Arc::new(Workshop { engine: engine.clone(), linkers, cache }),
            compilers,
            slots: Mutex::default(),
            latest: Mutex::default(),
        })
    }

    /// The image of this source, made now if nobody has made it.
    pub async fn prepare(&self, source: &ImageSource) -> Made {
        let slot = self.slot(&source.digest);
        let mut made = slot.lock().await;
        if let Some(image) = made.upgrade() {
            return Ok(image);
        }
        let image = match self.load_cached(source).await {
            Some(image) => image?,
            None => match self.compile_in_child(source).await {
                Some(image) => image?,
                None => self.compile(source).await?,
            },
        };
        *made = Arc::downgrade(&image);
        self.keep(image.clone());
        Ok(image)
    }

    /// An image of code that another host of this program compiled.
    pub fn adopt(&self, source: &ImageSource, form: Form, code: &[u8]) -> Made {
        let code = self.workshop.deserialize(form, code);
        let code = code.map_err(|error| invalid(&source.reference, format!("{error:#}")))?;
        self.workshop.link(source, &code)
    }

    /// Drops compiled code of images that are not in `keep`; returns the bytes freed.
    pub async fn reclaim(&self, keep: &[String], bytes: u64) -> u64 {
        let (workshop, keep) = (self.workshop.clone(), keep.to_vec());
        let reclaimed = tokio::task::spawn_blocking(move || {
            workshop.cache.as_ref().map_or(Ok(0), |cache| cache.reclaim(&keep, bytes))
        });
        match reclaimed.await {
            Ok(Ok(freed)) => freed,
            Ok(Err(error)) => {
                tracing::warn!("cannot remove compiled code: {error}");
                0
            }
            Err(_) => 0,
        }
    }

    fn slot(&self, digest: &str) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_REMEMBERED {
            slots.retain(|_, slot| slot.try_lock().map_or(true, |image| image.strong_count() > 0));
        }
        slots.entry(digest.to_owned()).or_default().clone()
    }

    fn keep(&self, image: Arc<WasmImage>) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.retain(|kept| !Arc::ptr_eq(kept, &image));
        latest.push_back(image);
        if latest.len() > KEPT_IMAGES {
            latest.pop_front();
        }
    }

    /// Loading takes under a millisecond, so it does not wait behind compilations.
    async fn load_cached(&self, source: &ImageSource) -> Option<Made> {
        match self.load(source).await? {
            Ok(made) => Some(made),
            Err(why) => {
                tracing::warn!(image = source.reference, "kept code does not load, compiling anew: {why}");
                None
            }
        }
    }

    /// What is kept of this image; in words why it does not load.
    async fn load(&self, source: &ImageSource) -> Option<Result<Made, String>> {
        self.workshop.cache.as_ref()?;
        let (workshop, source) = (self.workshop.clone(), source.clone());
        tokio::task::spawn_blocking(move || workshop.load(&source)).await.ok().flatten()
    }

    /// `None`: it could not be done there, for no reason of the image's.
    async fn compile_in_child(&self, source: &ImageSource) -> Option<Made> {
        let started = std::time::Instant::now();
        let why = match self.child.as_ref()?.compile(source).await {
            Outcome::Kept => match self.load(source).await {
                Some(Ok(made)) => {
                    tracing::debug!(image = source.reference, elapsed = ?started.elapsed(), "compiled by a child");
                    return Some(made);
                }
                // Fresh from the compiler, it is the module that goes beyond what instances may have. It is
                // not to be compiled again, and least of all here.
                Some(Err(why)) => return Some(Err(invalid(&source.reference, why))),
                None => "what it wrote cannot be read".to_owned(),
            },
            Outcome::Refused(why) => return Some(Err(ImageError::Invalid(why))),
            Outcome::Unavailable(why) => why,
        };
        tracing::warn!(image = source.reference, "no child process compiles it, so this one does: {why}");
        None
    }

    async fn compile(&self, source: &ImageSource) -> Made {
        let (tell, told) = oneshot::channel();
        let (workshop, theirs) = (self.workshop.clone(), source.clone());
        self.compilers.spawn(move || {
            let made = catch_unwind(AssertUnwindSafe(|| workshop.compile(&theirs)));
            let _ = tell.send(made.unwrap_or_else(|_| Err(invalid(&theirs.reference, "the compiler failed on it"))));
        });
        match told.await {
            Ok(made) => made,
            Err(_) => Err(invalid(&source.reference, "the compiler's thread ended")),
        }
    }
}

impl Workshop {
    fn load(&self, source: &ImageSource) -> Option<Result<Made, String>> {
        let cache = self.cache.as_ref()?;
        let (form, code) = cache.load(&source.digest)?;
        match self.deserialize(form, &code).map(|code| self.link(source, &code)) {
            Ok(made) => Some(Ok(made)),
            Err(error) => {
                cache.remove(&source.digest);
                Some(Err(format!("{error:#}")))
            }
        }
    }

    fn deserialize(&self, form: Form, code: &[u8]) -> wasmtime::Result<Code> {
        // SAFETY: the cache only returns bytes that it wrote itself, for this engine, as its MAC proves; and
        // a worker gets its code from the node that started it, of the same program, by a private socket.
        unsafe {
            match form {
                Form::Module => Module::deserialize(&self.engine, code).map(Code::Module),
                Form::Component => Component::deserialize(&self.engine, code).map(Code::Component),
            }
        }
    }

    fn compile(&self, source: &ImageSource) -> Made {
        let started = std::time::Instant::now();
        let (bytes, form) = artifact::read(&source.path, &source.reference, &source.digest)?;
        let compiled = match form {
            Form::Module => Module::new(&self.engine, &bytes).map(Code::Module),
            Form::Component => Component::new(&self.engine, &bytes).map(Code::Component),
        };
        let code = compiled.map_err(|error| invalid(&source.reference, artifact::explain_compile_error(&error)))?;
        let image = self.link(source, &code)?;
        tracing::debug!(image = source.reference, elapsed = ?started.elapsed(), "compiled");
        if let Some(cache) = &self.cache {
            match code.serialize() {
                Ok(code) => cache.store(&source.digest, form, &code),
                Err(error) => tracing::warn!(image = source.reference, "compiled code cannot be kept: {error:#}"),
            }
        }
        Ok(image)
    }

    fn link(&self, source: &ImageSource, code: &Code) -> Made {
        let linked = match code {
            Code::Module(module) => self.linkers.link_module(module),
            Code::Component(component) => self.linkers.link_component(component),
        };
        let program = match linked {
            Ok(program) => Ok(program),
            Err(LinkError::NothingToRun(why)) => return Err(invalid(&source.reference, why)),
            Err(LinkError::MissingImport(why)) => {
                Err(bounded(format!("image {:?} cannot start: {why}", source.reference)))
            }
        };
        Ok(Arc::new(WasmImage { digest: source.digest.clone(), program }))
    }
}

enum Code {
    Module(Module),
    Component(Component),
}

impl Code {
    fn serialize(&self) -> wasmtime::Result<Vec<u8>> {
        match self {
            Self::Module(module) => module.serialize(),
            Self::Component(component) => component.serialize(),
        }
    }
}

/// On Linux a thread has a niceness of its own. Failing to lower it only makes compiling too polite
/// no longer.
fn lower_priority() {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), COMPILE_NICENESS) {
        tracing::debug!("compiling at normal priority: {error}");
    }
}

//! Images made ready: compiled, linked, shared by every pod that uses them.
//!
//! Compiling is the one slow thing a node does for a pod, so it happens once per digest, however many
//! pods ask at the same moment; in a child process ([`super::compiler`]) or, where there is none, on
//! threads of its own at low priority, so that a burst of new images starves no request; and its result
//! is kept on disk ([`super::cache`]) and in memory while anyone uses it (and a while longer for the
//! latest few, so that a pod that comes back starts at once). Images of WASI 0.3 are made for an engine of
//! their own, which is there from the first of them on.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::Context as _;
use tokio::sync::{OnceCell, oneshot};
use wasmtime::Module;
use wasmtime::component::Component;

use super::super::{Image, ImageError, ImageSource, StartError};
use super::artifact::{self, Form, invalid};
use super::cache::AotCache;
use super::compiler::{Compiler, Outcome};
use super::compose::{self, Shelf};
use super::cpu::be_nice;
use super::engine::Calls;
use super::heavy::Heavy;
use super::life::{Host, bounded};
use super::linker::{LinkError, Linkers, Program};
use super::shares::Shares;

/// Images kept in memory though nobody uses them at the moment; each holds its code, about a MiB.
const KEPT_IMAGES: usize = 32;
/// Digests remembered before those without an image are forgotten.
const MAX_REMEMBERED: usize = 1024;
/// Compositions remembered, so that a pod that starts again composes nothing.
const MAX_COMPOSED: usize = 64;
const SNAPSHOT: &str = "+snapshot";
/// How far below the serving threads the compiling ones stand.
const COMPILE_NICENESS: i32 = 10;

/// A module, compiled and linked.
pub struct WasmImage {
    digest: String,
    /// Where it is run.
    pub host: Arc<Host>,
    /// [`kept_as`].
    name: String,
    /// What cannot be linked is an image all the same: the error belongs to the container's start.
    pub program: Result<Program, String>,
}

impl Image for WasmImage {
    fn digest(&self) -> &str {
        &self.digest
    }

    fn problem(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What an image is kept as: one digest may be that of two programs.
pub fn kept_as(source: &ImageSource) -> String {
    let ImageSource { digest, snapshot, .. } = source;
    if *snapshot { format!("{digest}{SNAPSHOT}") } else { digest.clone() }
}

/// The image as this host made it; the error is a container's that cannot start with it.
pub fn made_here(image: &dyn Image) -> Result<&WasmImage, StartError> {
    let image = image.as_any().downcast_ref::<WasmImage>();
    image.ok_or_else(|| StartError::Other("the image was not prepared by this runtime".to_owned()))
}

impl WasmImage {
    /// What is run; the error is a container's that cannot start with it.
    pub fn program(&self) -> Result<&Program, StartError> {
        self.program.as_ref().map_err(|why| StartError::MissingImport(why.clone()))
    }

    /// Its name among images of all hosts of this program.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What came of making an image.
type Made = Result<Arc<WasmImage>, ImageError>;

/// What is found in a cache.
enum Loaded {
    Made(Made),
    /// It is of a form for which there is another engine.
    Elsewhere(Form),
    /// It does not load; in words why.
    Broken(String),
}

/// The digest of what was composed, once it was.
type Composed = Arc<tokio::sync::Mutex<Option<String>>>;

type Slot = Arc<tokio::sync::Mutex<Weak<WasmImage>>>;

/// All images of this process.
pub struct Images {
    plain: Arc<Workshop>,
    /// For WASI 0.3.
    concurrent: OnceCell<Arc<Workshop>>,
    max_instances: Option<u32>,
    cache_dir: Option<PathBuf>,
    compilers: rayon::ThreadPool,
    /// `None`: without a cache a child could hand over nothing, and not every program can be its own.
    child: Option<Compiler>,
    /// By digest. The lock of a slot is held while its image is made.
    slots: Mutex<HashMap<String, Slot>>,
    latest: Mutex<VecDeque<Arc<WasmImage>>>,
    shelf: Arc<Shelf>,
    /// What was composed of what.
    composed: Mutex<HashMap<Vec<(String, ImageSource)>, Composed>>,
}

/// What making images for one engine takes; shared with the threads that do it.
struct Workshop {
    host: Arc<Host>,
    linkers: Linkers,
    cache: Option<AotCache>,
}

impl Images {
    /// The hosts hold at most `max_instances` each.
    pub fn new(
        max_instances: Option<u32>,
        shares: Arc<Shares>,
        heavy: Arc<Heavy>,
        cache_dir: Option<&Path>,
        compiler: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let plain = Workshop::new(Host::new(Calls::Alone, max_instances, shares, heavy)?, cache_dir)?;
        let compilers = rayon::ThreadPoolBuilder::new()
            .thread_name(|index| format!("wasm-compile-{index}"))
            .start_handler(|_| be_nice(COMPILE_NICENESS))
            .build()?;
        // A directory that cannot be written to is as good as none.
        let shelf = Shelf::open(cache_dir).or_else(|_| Shelf::open(None));
        let child = cache_dir.filter(|_| plain.cache.is_some()).zip(compiler);
        Ok(Self {
            child: child.map(|(dir, program)| Compiler::new(program, dir)),
            plain: Arc::new(plain),
            concurrent: OnceCell::new(),
            max_instances,
            cache_dir: cache_dir.map(Path::to_owned),
            compilers,
            slots: Mutex::default(),
            latest: Mutex::default(),
            composed: Mutex::default(),
            shelf: Arc::new(shelf.context("no place for composed components")?),
        })
    }

    /// The image of this source, made now if nobody has made it.
    pub async fn prepare(&self, source: &ImageSource) -> Made {
        let slot = self.slot(&kept_as(source));
        let mut made = slot.lock().await;
        if let Some(image) = made.upgrade() {
            return Ok(image);
        }
        let image = match self.kept(source).await {
            Some(image) => image?,
            None => self.make(source).await?,
        };
        *made = Arc::downgrade(&image);
        self.keep(image.clone());
        Ok(image)
    }

    /// The image of a source of which nothing is kept.
    async fn make(&self, source: &ImageSource) -> Made {
        if let Some(image) = self.compile_in_child(source).await {
            return image;
        }
        let theirs = source.clone();
        let form = tokio::task::spawn_blocking(move || {
            artifact::read(&theirs.path, &theirs.reference, &theirs.digest).map(|(_, form)| form)
        });
        let form = form.await.map_err(|error| invalid(&source.reference, error))??;
        let image = self.compile(self.workshop(form, source).await?, source).await;
        if form.calls() == Calls::Concurrent
            && let Some(cache) = &self.plain.cache
            && let Err(error) = cache.point_elsewhere(&kept_as(source), form)
        {
            tracing::warn!("cannot note where compiled code is: {error}");
        }
        image
    }

    /// Where images of this form are made.
    async fn workshop(&self, form: Form, source: &ImageSource) -> Result<&Arc<Workshop>, ImageError> {
        match form.calls() {
            Calls::Alone => Ok(&self.plain),
            Calls::Concurrent => self.concurrent().await.map_err(|error| invalid(&source.reference, error)),
        }
    }

    /// The second engine's workshop; its words say what keeps this machine from having one.
    async fn concurrent(&self) -> Result<&Arc<Workshop>, String> {
        let make = || async {
            let (max, host, dir) = (self.max_instances, self.plain.host.clone(), self.cache_dir.clone());
            let made = tokio::task::spawn_blocking(move || {
                Workshop::new(
                    Host::new(Calls::Concurrent, max, host.shares.clone(), host.heavy.clone())?,
                    dir.as_deref(),
                )
                .map(Arc::new)
            });
            made.await.map_err(anyhow::Error::from)?.context("programs of WASI 0.3 have an engine of their own")
        };
        self.concurrent.get_or_try_init(make).await.map_err(|error| format!("{error:#}"))
    }

    /// One component of several, as a source of an image that is named as the first is. A part that is to
    /// start from its initialisation is initialised first, by itself.
    pub async fn compose(&self, parts: &[(String, ImageSource)]) -> Result<ImageSource, ImageError> {
        let reference = parts.first().map(|(_, source)| source.reference.clone()).unwrap_or_default();
        let slot = {
            let mut composed = self.composed.lock().unwrap_or_else(PoisonError::into_inner);
            if composed.len() >= MAX_COMPOSED {
                composed.retain(|_, slot| slot.try_lock().is_err());
            }
            composed.entry(parts.to_vec()).or_default().clone()
        };
        let mut known = slot.lock().await;
        let file_of = |digest: &str| self.shelf.file_of(digest).filter(|file| file.is_file());
        if let Some((path, digest)) = known.as_ref().and_then(|digest| Some((file_of(digest)?, digest.clone()))) {
            return Ok(ImageSource { reference, path, digest, snapshot: false });
        }
        let digest = match &self.child {
            Some(child) => match child.compose(parts).await {
                Outcome::Done(digest) => digest,
                Outcome::Refused(why) => return Err(ImageError::Invalid(why)),
                Outcome::Unavailable(why) => {
                    tracing::warn!(image = reference, "no child process composes it, so this one does: {why}");
                    self.compose_here(&reference, parts).await?
                }
            },
            None => self.compose_here(&reference, parts).await?,
        };
        let path = file_of(&digest);
        let path = path.ok_or_else(|| invalid(&reference, format!("its composition {digest} is not there")))?;
        *known = Some(digest.clone());
        Ok(ImageSource { reference, path, digest, snapshot: false })
    }

    async fn compose_here(&self, reference: &str, parts: &[(String, ImageSource)]) -> Result<String, ImageError> {
        let (theirs, shelf) = (parts.to_vec(), self.shelf.clone());
        let composed = tokio::task::spawn_blocking(move || compose::compose_images(&theirs, &shelf));
        // A panic is a component's that the library was not made for.
        composed.await.unwrap_or_else(|_| Err(invalid(reference, "composing it failed")))
    }

    /// An image of code that another host of this program compiled.
    pub async fn adopt(&self, source: &ImageSource, form: Form, code: &[u8]) -> Made {
        let workshop = self.workshop(form, source).await?;
        let code = workshop.deserialize(form, code);
        let code = code.map_err(|error| invalid(&source.reference, format!("{error:#}")))?;
        workshop.link(source, &code)
    }

    /// Drops compiled code of images that are not in `keep`; returns the bytes freed.
    pub async fn reclaim(&self, keep: &[String], bytes: u64) -> u64 {
        let (plain, concurrent, keep) = (self.plain.clone(), self.concurrent.get().cloned(), keep.to_vec());
        let reclaimed = tokio::task::spawn_blocking(move || {
            let caches = [Some(&plain), concurrent.as_ref()].into_iter().flatten().filter_map(|one| one.cache.as_ref());
            let snapshots: Vec<String> = keep.iter().map(|digest| format!("{digest}{SNAPSHOT}")).collect();
            let both = |cache| AotCache::files_of(cache, &keep).chain(AotCache::files_of(cache, &snapshots));
            let kept: Vec<PathBuf> = caches.flat_map(both).collect();
            plain.cache.as_ref().map_or(Ok(0), |cache| cache.reclaim(&kept, bytes))
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

    /// What is kept of this image, compiled for the engine that it is for. Loading takes under a millisecond,
    /// so it does not wait behind compilations.
    async fn kept(&self, source: &ImageSource) -> Option<Made> {
        let loaded = match self.load(&self.plain, source).await? {
            Loaded::Elsewhere(form) => match self.workshop(form, source).await {
                Ok(workshop) => self.load(workshop, source).await?,
                Err(error) => return Some(Err(error)),
            },
            loaded => loaded,
        };
        match loaded {
            Loaded::Made(made) => Some(made),
            Loaded::Elsewhere(_) => None,
            Loaded::Broken(why) => {
                tracing::warn!(image = source.reference, "kept code does not load, compiling anew: {why}");
                None
            }
        }
    }

    async fn load(&self, workshop: &Arc<Workshop>, source: &ImageSource) -> Option<Loaded> {
        workshop.cache.as_ref()?;
        let (workshop, source) = (workshop.clone(), source.clone());
        tokio::task::spawn_blocking(move || workshop.load(&source)).await.ok().flatten()
    }

    /// `None`: it could not be done there, for no reason of the image's.
    async fn compile_in_child(&self, source: &ImageSource) -> Option<Made> {
        let started = std::time::Instant::now();
        let why = match self.child.as_ref()?.compile(source).await {
            Outcome::Done(form) => {
                let workshop = match self.workshop(form, source).await {
                    Ok(workshop) => workshop,
                    Err(error) => return Some(Err(error)),
                };
                match self.load(workshop, source).await {
                    Some(Loaded::Made(made)) => {
                        tracing::debug!(image = source.reference, elapsed = ?started.elapsed(), "compiled by a child");
                        return Some(made);
                    }
                    // Fresh from the compiler, it is the module that goes beyond what instances may have. It is
                    // not to be compiled again, and least of all here.
                    Some(Loaded::Broken(why)) => return Some(Err(invalid(&source.reference, why))),
                    Some(Loaded::Elsewhere(_)) | None => "what it wrote cannot be read".to_owned(),
                }
            }
            Outcome::Refused(why) => return Some(Err(ImageError::Invalid(why))),
            Outcome::Unavailable(why) => why,
        };
        tracing::warn!(image = source.reference, "no child process compiles it, so this one does: {why}");
        None
    }

    async fn compile(&self, workshop: &Arc<Workshop>, source: &ImageSource) -> Made {
        let (tell, told) = oneshot::channel();
        let (workshop, theirs) = (workshop.clone(), source.clone());
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
    fn new(host: Arc<Host>, cache_dir: Option<&Path>) -> anyhow::Result<Self> {
        let engine = &host.engine.engine;
        let linkers = Linkers::new(engine, host.engine.calls, super::unlimited_core_guest())
            .map_err(anyhow::Error::from)
            .context("cannot define the host's interfaces")?;
        let cache = cache_dir.and_then(|dir| match AotCache::open(dir, engine) {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), "compiled code is not kept on disk: {error}");
                None
            }
        });
        Ok(Self { host, linkers, cache })
    }

    fn load(&self, source: &ImageSource) -> Option<Loaded> {
        let cache = self.cache.as_ref()?;
        let (form, code) = cache.load(&kept_as(source))?;
        if code.is_empty() && form.calls() != self.host.engine.calls {
            return Some(Loaded::Elsewhere(form));
        }
        match self.deserialize(form, &code).map(|code| self.link(source, &code)) {
            Ok(made) => Some(Loaded::Made(made)),
            Err(error) => {
                cache.remove(&kept_as(source));
                Some(Loaded::Broken(format!("{error:#}")))
            }
        }
    }

    fn deserialize(&self, form: Form, code: &[u8]) -> wasmtime::Result<Code> {
        let engine = &self.host.engine.engine;
        // SAFETY: the cache only returns bytes that it wrote itself, for this engine, as its MAC proves; and
        // a worker gets its code from the node that started it, of the same program, by a private socket.
        unsafe {
            match form {
                Form::Module => Module::deserialize(engine, code).map(Code::Module),
                Form::Component | Form::Concurrent => Component::deserialize(engine, code).map(Code::Component),
            }
        }
    }

    fn compile(&self, source: &ImageSource) -> Made {
        let started = std::time::Instant::now();
        let (bytes, form) = artifact::read_to_run(source)?;
        let engine = &self.host.engine.engine;
        let compiled = match form {
            Form::Module => Module::new(engine, &bytes).map(Code::Module),
            Form::Component | Form::Concurrent => Component::new(engine, &bytes).map(Code::Component),
        };
        let code = compiled.map_err(|error| invalid(&source.reference, artifact::explain_compile_error(&error)))?;
        let image = self.link(source, &code)?;
        tracing::debug!(image = source.reference, elapsed = ?started.elapsed(), "compiled");
        if let Some(cache) = &self.cache {
            match code.serialize() {
                Ok(code) => cache.store(&kept_as(source), form, &code),
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
        let (digest, name, host) = (source.digest.clone(), kept_as(source), self.host.clone());
        Ok(Arc::new(WasmImage { digest, host, name, program }))
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

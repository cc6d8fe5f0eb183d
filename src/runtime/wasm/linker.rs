//! What this host offers to modules, and what is said to those that want more.
//!
//! An image is linked once, when it is made ready; starting an instance resolves no names. WASI 0.2
//! grows by minor versions that stay compatible, so any `0.2.x` import is served by the newest one
//! offered here, and any `0.3.x` likewise. An import that nothing provides is reported by name, with the
//! nearest that is.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{self, Component, Type};
use wasmtime::{Engine, Linker, Module, Store};
use wasmtime_wasi::p2::bindings::cli::environment;
use wasmtime_wasi::p3::bindings::cli::environment as environment_3;
use wasmtime_wasi::{p2, p3};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use super::super::Grants;
use super::artifact::Form;
use super::command::RunPre;
use super::engine::Calls;
use super::guest::{CoreGuest, Guest, SharedEnvironment, environment_of};
use super::handler::HandlerPre;
use super::imports::{WASI_VERSIONS, explain_missing_interface, listed, nearest};
use super::{blobstore, config, keyvalue, logging, preopens, sockets};

const CORE_MODULE: &str = "wasi_snapshot_preview1";
/// What a command begins with, and a reactor.
pub const START: &str = "_start";
pub const INITIALIZE: &str = "_initialize";
/// What a component may be run by, the first that it exports. One made from a Rust binary may export a
/// handler and `run`; then `run` is only a shell.
const ENTRIES: &[(&str, Link)] = &[
    ("wasi:http/handler@0.3.", |pre| ServicePre::new(pre).map(HandlerPre::Service).map(Entry::Http)),
    ("wasi:http/incoming-handler@0.2.", |pre| ProxyPre::new(pre).map(HandlerPre::Incoming).map(Entry::Http)),
    ("wasi:cli/run@0.3.", |pre| p3::bindings::CommandPre::new(pre).map(RunPre::Wasi3).map(Entry::Command)),
    ("wasi:cli/run@0.2.", |pre| p2::bindings::CommandPre::new(pre).map(RunPre::Wasi2).map(Entry::Command)),
];

const RUN: &str = "wasi:cli/run@";

type Link = fn(component::InstancePre<Guest>) -> wasmtime::Result<Entry>;

/// A program that is ready to be instantiated.
#[derive(Clone)]
pub struct Program {
    pub entry: Entry,
    /// The first of its imports that a pod must ask for, of each kind.
    wants: Wants,
}

impl Program {
    /// Why it may not run in a pod that asks for no more than this: an import that is not granted.
    pub fn denied(&self, grants: &Grants) -> Option<String> {
        let Wants { keyvalue, blobstore } = &self.wants;
        let (import, how) = match (keyvalue, blobstore) {
            (Some(import), _) if grants.keyvalue.is_none() => (
                import,
                "coracle.dev/keyvalue, which says `memory`, a directory on one of its volumes, or redis://HOST:PORT",
            ),
            (_, Some(import)) if grants.blobstore.is_none() => {
                (import, "coracle.dev/blobstore, which says a directory on one of its volumes")
            }
            _ => return None,
        };
        Some(format!("import `{import}` is not granted: the pod has to ask for a store by the annotation {how}"))
    }
}

impl Program {
    /// Its compiled code.
    pub fn code(&self) -> wasmtime::Result<(Form, Vec<u8>)> {
        let (form, component) = match &self.entry {
            Entry::Http(HandlerPre::Incoming(pre)) => (Form::Component, pre.instance_pre().component()),
            Entry::Http(HandlerPre::Service(pre)) => (Form::Concurrent, pre.instance_pre().component()),
            Entry::Command(RunPre::Wasi2(pre)) => (Form::Component, pre.instance_pre().component()),
            Entry::Command(RunPre::Wasi3(pre)) => (Form::Concurrent, pre.instance_pre().component()),
            Entry::Core(pre) => return Ok((Form::Module, pre.module().serialize()?)),
        };
        Ok((form, component.serialize()?))
    }
}

#[derive(Clone, Default)]
struct Wants {
    keyvalue: Option<String>,
    blobstore: Option<String>,
}

/// Where a program begins.
#[derive(Clone)]
pub enum Entry {
    /// A handler of HTTP: an instance per request.
    Http(HandlerPre),
    /// `wasi:cli/run`.
    Command(RunPre),
    /// A core module's `_start`, or `_initialize`.
    Core(wasmtime::InstancePre<CoreGuest>),
}

/// Why a program cannot be linked.
#[derive(Debug, Clone)]
pub enum LinkError {
    /// It exports nothing that could be run.
    NothingToRun(String),
    /// It imports what nothing provides.
    MissingImport(String),
}

/// Both linkers, filled once per engine.
pub struct Linkers {
    component: component::Linker<Guest>,
    core: Linker<CoreGuest>,
    /// Function names of [`CORE_MODULE`].
    core_names: Vec<String>,
}

impl Linkers {
    pub fn new(engine: &Engine, calls: Calls, core_guest: CoreGuest) -> wasmtime::Result<Self> {
        let mut component = component::Linker::new(engine);
        p2::add_to_linker_async(&mut component)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut component)?;
        component.allow_shadowing(true);
        environment::add_to_linker::<_, SharedEnvironment>(&mut component, environment_of)?;
        preopens::add_to_linker(&mut component)?;
        sockets::add_to_linker(&mut component)?;
        blobstore::add_to_linker(&mut component)?;
        config::add_to_linker(&mut component)?;
        keyvalue::add_to_linker(&mut component)?;
        logging::add_to_linker(&mut component)?;
        if calls == Calls::Concurrent {
            p3::add_to_linker(&mut component)?;
            wasmtime_wasi_http::p3::add_to_linker(&mut component)?;
            environment_3::add_to_linker::<_, SharedEnvironment>(&mut component, environment_of)?;
            preopens::add_concurrent_to_linker(&mut component)?;
            sockets::add_concurrent_to_linker(&mut component)?;
        }
        component.allow_shadowing(false);

        let mut core = Linker::new(engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut core, |guest: &mut CoreGuest| &mut guest.wasi)?;
        let mut store = Store::new(engine, core_guest);
        let core_names = core.iter(&mut store).map(|(_, name, _)| name.to_owned()).collect();
        Ok(Self { component, core, core_names })
    }

    /// Links a component by what it exports.
    pub fn link_component(&self, component: &Component) -> Result<Program, LinkError> {
        let engine = component.engine();
        let ty = component.component_type();
        let exports: Vec<&str> = ty.exports(engine).map(|(name, _)| name).collect();
        let entry = ENTRIES.iter().find(|(prefix, _)| exports.iter().any(|name| name.starts_with(prefix)));
        let Some((prefix, link)) = entry else { return Err(LinkError::NothingToRun(nothing_to_run(&exports))) };
        if let Some(missing) = listed(ty.imports(engine).filter_map(|(name, _)| explain_missing_interface(name))) {
            return Err(LinkError::MissingImport(missing));
        }
        let other =
            |error: wasmtime::Error| LinkError::MissingImport(format!("{error:#} (offered: WASI {WASI_VERSIONS})"));
        let pre = self.component.instantiate_pre(component).map_err(other)?;
        if prefix.starts_with(RUN) && !runs_as_a_command(component, prefix) {
            let why = "the function `run` of `wasi:cli/run` is not of the type `func() -> result`".to_owned();
            return Err(LinkError::NothingToRun(why));
        }
        let first = |package: &str| {
            let mut imports = ty.imports(engine).map(|(name, _)| name);
            imports.find(|name| name.starts_with(package)).map(str::to_owned)
        };
        let wants = Wants { keyvalue: first("wasi:keyvalue/"), blobstore: first("wasi:blobstore/") };
        Ok(Program { entry: link(pre).map_err(other)?, wants })
    }

    /// Links a core module, which must be a WASI 0.1 command or reactor.
    pub fn link_module(&self, module: &Module) -> Result<Program, LinkError> {
        let missing =
            module.imports().filter_map(|import| self.explain_missing_function(import.module(), import.name()));
        if let Some(missing) = listed(missing) {
            return Err(LinkError::MissingImport(missing));
        }
        // A reactor has no beginning of its own but `_initialize`.
        let runs = [START, INITIALIZE].iter().any(|name| {
            let function = module.get_export(name).and_then(|export| export.func().cloned());
            function.is_some_and(|ty| ty.params().len() == 0 && ty.results().len() == 0)
        });
        if !runs {
            return Err(LinkError::NothingToRun(
                "the module exports no function `_start` (nor `_initialize`); build it as a command (a binary, not \
                 a library), or as a component"
                    .to_owned(),
            ));
        }
        let pre = self.core.instantiate_pre(module);
        let pre = pre.map_err(|error| LinkError::MissingImport(format!("{error:#}")))?;
        Ok(Program { entry: Entry::Core(pre), wants: Wants::default() })
    }

    fn explain_missing_function(&self, module: &str, name: &str) -> Option<String> {
        if module == CORE_MODULE && self.core_names.iter().any(|offered| offered == name) {
            return None;
        }
        let wanted = format!("import `{module}::{name}` is not provided");
        if module == "wasi_unstable" {
            return Some(format!("{wanted}: it is of the snapshot before `{CORE_MODULE}`; rebuild with current tools"));
        }
        if module == "wasi" && name == "thread-spawn" {
            return Some(format!("{wanted}: threads are not supported"));
        }
        let near = nearest(name, self.core_names.iter().map(String::as_str));
        Some(match near {
            Some(near) => format!("{wanted}; the nearest offered is `{CORE_MODULE}::{near}`"),
            None => format!("{wanted}; offered to core modules is `{CORE_MODULE}` alone"),
        })
    }
}

/// Whether what is exported as `wasi:cli/run` can be called as such. Nothing else looks at its type before it
/// is called; one that is missing has words of its own.
fn runs_as_a_command(component: &Component, prefix: &str) -> bool {
    let engine = component.engine();
    let ty = component.component_type();
    let instance = ty.exports(engine).find(|(name, _)| name.starts_with(prefix)).map(|(_, export)| export.ty);
    let Some(ComponentItem::ComponentInstance(instance)) = instance else { return true };
    let Some(ComponentItem::ComponentFunc(run)) = instance.get_export(engine, "run").map(|export| export.ty) else {
        return true;
    };
    let mut results = run.results();
    let only = matches!(results.next(), Some(Type::Result(result)) if result.ok().is_none() && result.err().is_none());
    run.params().len() == 0 && only && results.next().is_none()
}

fn nothing_to_run(exports: &[&str]) -> String {
    format!(
        "the component exports no `wasi:http/incoming-handler@0.2` or `wasi:http/handler@0.3`, and no \
         `wasi:cli/run` of either; its exports are: {}",
        if exports.is_empty() { "none".to_owned() } else { exports.join(", ") }
    )
}

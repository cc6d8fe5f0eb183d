//! What this host offers to modules, and what is said to those that want more.
//!
//! An image is linked once, when it is made ready; starting an instance resolves no names. WASI 0.2
//! grows by minor versions that stay compatible, so any `0.2.x` import is served by the newest one
//! offered here. An import that nothing provides is reported by name, with the nearest that is.

use std::fmt::Write as _;

use wasmtime::component::{self, Component};
use wasmtime::{Engine, Linker, Module, Store};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p2::bindings::cli::environment;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use super::guest::{CoreGuest, Guest, SharedEnvironment, environment_of};
use super::sockets;

/// The version of every `wasi:` interface offered below.
pub const WASI_VERSION: &str = "0.2.12";
/// Interfaces offered to components, without the version.
const INTERFACES: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];
/// Missing imports listed in one message; the rest are counted.
const MAX_LISTED: usize = 5;

const CORE_MODULE: &str = "wasi_snapshot_preview1";
/// What a command begins with, and a reactor.
pub const START: &str = "_start";
pub const INITIALIZE: &str = "_initialize";
const HTTP_EXPORT: &str = "wasi:http/incoming-handler@0.2.";
const RUN_EXPORT: &str = "wasi:cli/run@0.2.";

/// A program that is ready to be instantiated.
#[derive(Clone)]
pub enum Program {
    /// `wasi:http/incoming-handler`: an instance per request.
    Http(ProxyPre<Guest>),
    /// `wasi:cli/run`.
    Command(CommandPre<Guest>),
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
    pub fn new(engine: &Engine, core_guest: CoreGuest) -> wasmtime::Result<Self> {
        let mut component = component::Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut component)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut component)?;
        component.allow_shadowing(true);
        environment::add_to_linker::<_, SharedEnvironment>(&mut component, environment_of)?;
        sockets::add_to_linker(&mut component)?;
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
        let has = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));
        // A component made from a Rust binary may export both; then `run` is only a shell.
        let http = has(HTTP_EXPORT);
        if !http && !has(RUN_EXPORT) {
            return Err(LinkError::NothingToRun(nothing_to_run(&exports)));
        }
        let missing: Vec<String> = ty.imports(engine).filter_map(|(name, _)| explain_missing_interface(name)).collect();
        if !missing.is_empty() {
            return Err(LinkError::MissingImport(listed(&missing)));
        }
        let other =
            |error: wasmtime::Error| LinkError::MissingImport(format!("{error:#} (offered: WASI {WASI_VERSION})"));
        let pre = self.component.instantiate_pre(component).map_err(other)?;
        if http {
            return ProxyPre::new(pre).map(Program::Http).map_err(other);
        }
        CommandPre::new(pre).map(Program::Command).map_err(other)
    }

    /// Links a core module, which must be a WASI 0.1 command or reactor.
    pub fn link_module(&self, module: &Module) -> Result<Program, LinkError> {
        let missing: Vec<String> = module
            .imports()
            .filter_map(|import| self.explain_missing_function(import.module(), import.name()))
            .collect();
        if !missing.is_empty() {
            return Err(LinkError::MissingImport(listed(&missing)));
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
        pre.map(Program::Core).map_err(|error| LinkError::MissingImport(format!("{error:#}")))
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

fn nothing_to_run(exports: &[&str]) -> String {
    let mut text = format!(
        "the component exports neither `wasi:http/incoming-handler@0.2` nor `wasi:cli/run@0.2`; its exports are: {}",
        if exports.is_empty() { "none".to_owned() } else { exports.join(", ") }
    );
    if exports.iter().any(|name| name.starts_with("wasi:") && name.contains("@0.3")) {
        text.push_str(" (WASI 0.3 is not served yet; build for 0.2)");
    }
    text
}

/// `None` if the interface is offered; otherwise why not, with what comes nearest.
fn explain_missing_interface(import: &str) -> Option<String> {
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    if INTERFACES.contains(&name) {
        return match version {
            "" => None,
            _ if version.starts_with("0.2.") && !version.contains('-') => None,
            _ => Some(format!("import `{name}` is wanted in version {version}, offered is {WASI_VERSION}")),
        };
    }
    let near = nearest(name, INTERFACES.iter().copied());
    Some(match near {
        Some(near) => format!("import `{import}` is not provided; the nearest offered is `{near}@{WASI_VERSION}`"),
        None => format!("import `{import}` is not provided; offered are the interfaces of WASI {WASI_VERSION}"),
    })
}

fn listed(missing: &[String]) -> String {
    let shown = missing.iter().take(MAX_LISTED).map(String::as_str).collect::<Vec<_>>();
    let mut text = shown.join("; ");
    if missing.len() > MAX_LISTED {
        let _ = write!(text, "; and {} more", missing.len() - MAX_LISTED);
    }
    text
}

/// The offered name with the fewest edits, if they are few enough to be a likeness.
fn nearest<'a>(wanted: &str, offered: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (wanted.len() / 3).max(2);
    offered
        .map(|name| (edits(wanted, name), name))
        .min()
        .filter(|&(distance, _)| distance <= allowed)
        .map(|(_, name)| name)
}

/// Levenshtein's distance, in bytes, of names that are cut to a bounded length.
fn edits(one: &str, two: &str) -> usize {
    const MAX: usize = 96;
    let (one, two) = (one.as_bytes(), two.as_bytes());
    let (one, two) = (one.get(..MAX).unwrap_or(one), two.get(..MAX).unwrap_or(two));
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (b, cell) in two.iter().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(a != b);
            diagonal = *cell;
            left = replaced.min(*cell + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(one.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (one, two, count) in
            [("", "", 0), ("abc", "abc", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(edits(one, two), count, "{one} {two}");
            assert_eq!(edits(two, one), count, "{two} {one}");
        }
    }

    #[test]
    fn missing_interfaces_are_explained() {
        for offered in ["wasi:cli/environment@0.2.0", "wasi:http/types@0.2.99"] {
            assert_eq!(explain_missing_interface(offered), None);
        }
        let cases = [
            ("wasi:http/types@0.3.0", "import `wasi:http/types` is wanted in version 0.3.0, offered is 0.2.12"),
            ("wasi:http/type@0.2.0", "the nearest offered is `wasi:http/types@0.2.12`"),
            ("wasi:keyvalue/store@0.2.0-draft", "import `wasi:keyvalue/store@0.2.0-draft` is not provided"),
            ("acme:billing/ledger", "offered are the interfaces of WASI 0.2.12"),
        ];
        for (import, part) in cases {
            let why = explain_missing_interface(import).unwrap();
            assert!(why.contains(part), "{import}: {why}");
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let many: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        assert_eq!(listed(&many), "0; 1; 2; 3; 4; and 4 more");
    }
}

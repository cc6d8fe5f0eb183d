//! Looking at a module before it is run: what it is, what it wants and offers, and whether this host would
//! run it. Nothing of the module is executed.

use std::fmt;
use std::path::PathBuf;

use anyhow::Context as _;
use wasmparser::{ComponentExternalKind, ComponentTypeRef, Parser, Payload};

use super::super::ImageSource;
use super::artifact::{self, Form, digest_of};
use super::{WasmConfig, WasmRuntime};

const PAGE_BYTES: u64 = 64 << 10;
/// What a component says it does, and the world that is made for, the first that fits.
const TARGETS: &[(&str, &str)] = &[
    ("wasi:http/handler@", "wasi:http/service"),
    ("wasi:http/incoming-handler@", "wasi:http/proxy"),
    ("wasi:cli/run@", "wasi:cli/command"),
];
/// The exports that are run, the first that is there, and as what.
const ENTRIES: &[(&str, &str)] = &[
    ("wasi:http/handler@", "an HTTP server"),
    ("wasi:http/incoming-handler@", "an HTTP server"),
    ("wasi:cli/run@", "a command"),
    ("_start", "a command"),
    ("_initialize", "a reactor"),
];

/// What a module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Module,
    ComponentP2,
    ComponentP3,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Module => "module (WASI 0.1)",
            Kind::ComponentP2 => "component (WASI 0.2)",
            Kind::ComponentP3 => "component (WASI 0.3)",
        })
    }
}

/// What can be said of a module without compiling it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    pub kind: Kind,
    /// Interfaces of a component with their versions; of a core module `module::name`.
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// The world it is made for, where its exports tell, e.g. `wasi:http/proxy@0.2.3`.
    pub target: Option<String>,
    /// Bytes that its memories have when it starts.
    pub memory_bytes: u64,
    /// Of the file as it was given.
    pub bytes: u64,
    pub digest: String,
    /// The binary form, to which a text was translated.
    pub binary: Vec<u8>,
}

/// Looks into a module or component, binary or text; in words why it is neither.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, String> {
    let form = artifact::form_of(bytes)?;
    let binary = wat::parse_bytes(bytes).map_err(|error| error.to_string())?.into_owned();
    let mut seen = Seen::default();
    for payload in Parser::new(0).parse_all(&binary) {
        let payload = payload.map_err(|error| format!("the file is truncated or damaged: {error}"))?;
        seen.look(&payload).map_err(|error| format!("the file is truncated or damaged: {error}"))?;
    }
    let kind = match form {
        Form::Module => Kind::Module,
        Form::Component => Kind::ComponentP2,
        Form::Concurrent => Kind::ComponentP3,
    };
    let target = TARGETS.iter().find_map(|(export, world)| {
        let version = seen.exports.iter().find_map(|name| name.strip_prefix(export))?;
        Some(format!("{world}@{version}"))
    });
    Ok(Inspection {
        kind,
        target,
        memory_bytes: seen.pages.saturating_mul(PAGE_BYTES),
        imports: seen.imports,
        exports: seen.exports,
        bytes: bytes.len() as u64,
        digest: artifact::digest_of(bytes),
        binary,
    })
}

#[derive(Default)]
struct Seen {
    imports: Vec<String>,
    exports: Vec<String>,
    pages: u64,
    /// How deep in nested modules and components the parser is.
    depth: usize,
    component: bool,
}

impl Seen {
    fn look(&mut self, payload: &Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::Version { encoding, .. } if self.depth == 0 => {
                self.component = *encoding == wasmparser::Encoding::Component;
                self.depth = 1;
            }
            Payload::Version { .. } => self.depth += 1,
            Payload::End(_) => self.depth = self.depth.saturating_sub(1),
            Payload::MemorySection(section) => {
                for memory in section.clone() {
                    self.pages = self.pages.saturating_add(memory?.initial);
                }
            }
            Payload::ImportSection(section) if self.depth == 1 && !self.component => {
                for import in section.clone().into_imports() {
                    let import = import?;
                    self.imports.push(format!("{}::{}", import.module, import.name));
                }
            }
            Payload::ExportSection(section) if self.depth == 1 && !self.component => {
                for export in section.clone() {
                    self.exports.push(export?.name.to_owned());
                }
            }
            Payload::ComponentImportSection(section) if self.depth == 1 => {
                for import in section.clone() {
                    let import = import?;
                    // Types are shared, not provided.
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        self.imports.push(import.name.name.to_owned());
                    }
                }
            }
            Payload::ComponentExportSection(section) if self.depth == 1 => {
                for export in section.clone() {
                    let export = export?;
                    if export.kind != ComponentExternalKind::Type {
                        self.exports.push(export.name.name.to_owned());
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether and how this host runs a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The export that is run and as what, e.g. `_start`, `a command`; or in words why nothing is.
    pub entry: Result<(String, &'static str), String>,
}

/// Compiles and links the module as a node does, and tells what would come of it. `compiler` is this
/// program's own file, by which it is compiled in a child process ([`super::WasmConfig::compiler`]).
///
/// # Errors
/// What keeps this machine from compiling anything at all.
pub async fn check(inspection: &Inspection, compiler: Option<PathBuf>) -> anyhow::Result<Verdict> {
    const REFERENCE: &str = "module";
    let dir = tempfile::tempdir().context("cannot make a directory to compile in")?;
    let path = dir.path().join(REFERENCE);
    std::fs::write(&path, &inspection.binary).with_context(|| format!("cannot write {}", path.display()))?;
    let source =
        ImageSource { reference: REFERENCE.to_owned(), path, digest: digest_of(&inspection.binary), snapshot: false };
    let cache_dir = Some(dir.path().join("cache"));
    let runtime =
        WasmRuntime::new(WasmConfig { cache_dir, compiler, max_instances: Some(16), ..WasmConfig::default() })?;
    let told = |verb| format!("image {REFERENCE:?} cannot {verb}: ");
    let words = |why: &str| {
        let bare = ["run", "start"].into_iter().find_map(|verb| why.strip_prefix(&told(verb)));
        bare.unwrap_or(why).to_owned()
    };
    let entry = match runtime.images.prepare(&source).await {
        Err(error) => Err(words(&error.to_string())),
        Ok(image) => match &image.program {
            Err(why) => Err(words(why)),
            Ok(_) => entry(&inspection.exports).ok_or_else(|| "it exports nothing that is run".to_owned()),
        },
    };
    Ok(Verdict { entry })
}

fn entry(exports: &[String]) -> Option<(String, &'static str)> {
    ENTRIES.iter().find_map(|(prefix, what)| {
        let export = exports.iter().find(|export| export.starts_with(prefix))?;
        Some((export.clone(), *what))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAND: &str = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
        (memory (export "memory") 3) (func (export "_start")))"#;

    #[tokio::test]
    async fn a_module_is_looked_into() {
        let found = inspect(COMMAND.as_bytes()).expect("a module");
        assert_eq!(found.kind, Kind::Module);
        assert_eq!(found.imports, ["wasi_snapshot_preview1::proc_exit"]);
        assert_eq!(found.exports, ["memory", "_start"]);
        assert_eq!((found.memory_bytes, found.bytes), (3 * PAGE_BYTES, COMMAND.len() as u64));
        assert!(found.binary.starts_with(b"\0asm") && found.target.is_none());
        assert_eq!(check(&found, None).await.expect("checked").entry, Ok(("_start".to_owned(), "a command")));
    }

    #[tokio::test]
    async fn a_component_is_looked_into_but_not_what_it_nests() {
        let text = r#"(component
            (import "acme:billing/ledger@1.0.0" (instance))
            (core module (import "x" "y" (func)) (memory 2) (func (export "inner")))
            (instance $run)
            (export "wasi:cli/run@0.2.3" (instance $run)))"#;
        let found = inspect(text.as_bytes()).expect("a component");
        assert_eq!(found.kind, Kind::ComponentP2);
        assert_eq!(found.imports, ["acme:billing/ledger@1.0.0"]);
        assert_eq!(found.exports, ["wasi:cli/run@0.2.3"]);
        assert_eq!(found.target.as_deref(), Some("wasi:cli/command@0.2.3"));
        assert_eq!(found.memory_bytes, 2 * PAGE_BYTES);
        let why = check(&found, None).await.expect("checked").entry.expect_err("refused");
        assert!(why.contains("acme:billing/ledger@1.0.0"), "{why}");
    }

    #[tokio::test]
    async fn what_is_no_module_is_refused_in_words() {
        let truncated = &wat::parse_str(COMMAND).expect("binary")[..30];
        for (bytes, words) in [
            (&b"\x7fELF"[..], "never accepted"),
            (b"", "empty"),
            (b"(module (oops))", "oops"),
            (truncated, "truncated"),
        ] {
            let why = inspect(bytes).expect_err("refused");
            assert!(why.contains(words), "{why}");
        }
        let library = inspect(b"(module (func (export \"add\")))").expect("a module");
        let why = check(&library, None).await.expect("checked").entry.expect_err("refused");
        assert!(why.contains("_start"), "{why}");
    }

    #[test]
    fn the_worlds_of_wasi_are_told_apart() {
        let component = |export: &str| format!("(component (instance $i) (export \"{export}\" (instance $i)))");
        let p3 = inspect(component("wasi:http/handler@0.3.0").as_bytes()).expect("a component");
        assert_eq!((p3.kind, p3.target.as_deref()), (Kind::ComponentP3, Some("wasi:http/service@0.3.0")));
        let http = inspect(component("wasi:http/incoming-handler@0.2.0").as_bytes()).expect("a component");
        assert_eq!((http.kind, http.target.as_deref()), (Kind::ComponentP2, Some("wasi:http/proxy@0.2.0")));
    }
}

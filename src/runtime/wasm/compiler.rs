//! Compiling and composing in a process of its own.
//!
//! Compilers are large, and what they are given here may be made to break them. So a node starts its own
//! program again for each new image: at the lowest priority, with bounded memory and processor time. A
//! burst of new images then takes nothing from requests, and a compiler that crashes is one image's
//! failure. All of a module that the node itself ever looks at is its digest: the child reads it, runs its
//! initialisation where it has one, composes it with others. It writes what it made into the cache; the
//! parent believes it as it believes everything there: by its MAC, or, of what is composed, by its digest.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::sync::Semaphore;
use wasmtime::Engine;

use super::super::{ImageError, ImageSource};
use super::artifact::{self, Form, invalid};
use super::cache::AotCache;
use super::compose::{self, Shelf};
use super::engine::{self, Calls};
use super::images::kept_as;

/// The commands that are a child's; not for people.
const COMPILE: &str = "compile-module";
const COMPOSE: &str = "compose-components";
const NICENESS: i32 = 19;
/// Address space: a module of 128 MiB compiles in less; one that wants more has found a flaw.
const MAX_ADDRESS_BYTES: u64 = 4 << 30;
/// Processor time over all its threads.
const MAX_CPU_SECONDS: u64 = 300;
/// Wall-clock time: at the lowest priority, a busy machine may leave it little.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Threads of one child: more of them need address space of their own, and gain little on one module.
const THREADS: usize = 4;
/// Compiled code of one module: the node holds it in memory, twice while it loads it.
const MAX_CODE_BYTES: usize = 256 << 20;
/// What is read of what a child says.
const MAX_SAID: u64 = 16 << 10;

/// How a child ends that could not do its work, for no reason of the module's.
const EXIT_REFUSED: u8 = 1;
const EXIT_UNABLE: u8 = 3;

/// What came of a child's work.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    Done(T),
    /// The module is no good, or too much for the compiler; in words.
    Refused(String),
    /// No child could do it.
    Unavailable(String),
}

/// Starts children.
pub struct Compiler {
    program: PathBuf,
    cache: PathBuf,
    /// Children at the same time.
    places: Semaphore,
}

impl Compiler {
    /// `program` is this program's own file.
    pub fn new(program: &Path, cache: &Path) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Two even on a small machine: one starts while the other works.
        let places = Semaphore::new(cores.div_ceil(THREADS).max(2));
        Self { program: program.to_owned(), cache: cache.to_owned(), places }
    }

    /// Compiles the image's module into the cache of the engine that its form is for. Dropping the future
    /// ends the child.
    pub async fn compile(&self, source: &ImageSource) -> Outcome<Form> {
        let mut command = Command::new(&self.program);
        command
            .arg(COMPILE)
            .args(source.snapshot.then_some("--snapshot"))
            .args(["--digest", &source.digest, "--reference", &source.reference, "--cache"])
            .arg(&self.cache)
            .arg(&source.path);
        self.ask(command, &source.reference, "compiling", |said| serde_json::from_str(said).ok()).await
    }

    /// Composes the images of containers into a file on the shelf; its digest.
    pub async fn compose(&self, parts: &[(String, ImageSource)]) -> Outcome<String> {
        let reference = parts.first().map(|(_, source)| source.reference.as_str()).unwrap_or_default();
        let Ok(asked) = serde_json::to_string(parts) else {
            return Outcome::Unavailable("a path is not text".to_owned());
        };
        let mut command = Command::new(&self.program);
        command.arg(COMPOSE).arg("--cache").arg(&self.cache).arg(asked);
        self.ask(command, reference, "composing", |said| Some(said.to_owned())).await
    }

    async fn ask<T>(
        &self,
        command: Command,
        reference: &str,
        doing: &str,
        understand: impl Fn(&str) -> Option<T>,
    ) -> Outcome<T> {
        let _place = self.places.acquire().await;
        match tokio::time::timeout(PATIENCE, run(command)).await {
            Ok(Ok((status, said, complained))) => match failure(reference, doing, status, &said, &complained) {
                Some(Failure::Module(why)) => Outcome::Refused(why),
                Some(Failure::Child(why)) => Outcome::Unavailable(why),
                None => match understand(&said) {
                    Some(done) => Outcome::Done(done),
                    None => Outcome::Unavailable(format!("the compiler's process said {said:?}")),
                },
            },
            Ok(Err(error)) => Outcome::Unavailable(format!("cannot run {}: {error}", self.program.display())),
            Err(_) => {
                Outcome::Refused(refused(reference, format!("{doing} it took longer than {} s", PATIENCE.as_secs())))
            }
        }
    }
}

async fn run(mut command: Command) -> std::io::Result<(ExitStatus, String, String)> {
    let mut child = command
        .env_clear()
        .env("RAYON_NUM_THREADS", THREADS.to_string())
        .env("MALLOC_ARENA_MAX", THREADS.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    // Held until it has ended: by its end the child knows that nobody waits for it.
    let _stdin = child.stdin.take();
    let (said, complained) = (child.stdout.take(), child.stderr.take());
    let (said, complained, status) = tokio::join!(head(said), head(complained), child.wait());
    Ok((status?, said, complained))
}

/// The first of what a child says.
async fn head(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let _ = stream.take(MAX_SAID).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn refused(reference: &str, why: impl std::fmt::Display) -> String {
    invalid(reference, why).to_string()
}

/// Why a child did not do its work.
#[derive(Debug)]
enum Failure {
    Module(String),
    Child(String),
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Invalid(why) => Self::Module(why),
            // The parent may be able to; if not, it has the better words.
            ImageError::Unreadable { .. } | ImageError::Unavailable(_) => Self::Child(error.to_string()),
        }
    }
}

fn failure(reference: &str, doing: &str, status: ExitStatus, said: &str, complained: &str) -> Option<Failure> {
    const ABORT: i32 = 6;
    const CPU_TIME: i32 = 24;
    let of_module = |why: String| Some(Failure::Module(refused(reference, why)));
    match (status.code().and_then(|code| u8::try_from(code).ok()), status.signal()) {
        (Some(0), _) => None,
        // It was the child that found the words.
        (Some(EXIT_REFUSED), _) => Some(Failure::Module(said.to_owned())),
        (Some(101), _) => of_module(format!("{doing} it failed: {complained}")),
        (_, Some(ABORT)) if complained.contains("memory allocation") => {
            of_module(format!("{doing} it takes more than {} GiB", MAX_ADDRESS_BYTES >> 30))
        }
        (_, Some(CPU_TIME)) => of_module(format!("{doing} it takes more than {MAX_CPU_SECONDS} s of processor time")),
        (_, Some(signal)) => of_module(format!("{doing} it ended in a crash (signal {signal}) {complained}")),
        _ => Some(Failure::Child(format!("the compiler's process ended with {status}: {complained}"))),
    }
}

/// What a child was asked to compile.
#[derive(Debug)]
pub struct CompileRequest<'a> {
    pub source: ImageSource,
    pub cache: &'a Path,
}

/// The whole of a child's life that compiles; returns its exit code. What it has to say, and what is wrong
/// with the module, goes to standard output; what is wrong with the child to standard error.
pub fn compile_as_child(request: &CompileRequest<'_>) -> u8 {
    as_child(|| compile(request).map(|form| serde_json::to_string(&form).unwrap_or_default()))
}

/// The same of one that composes; `parts` are as `Compiler::compose` writes them.
pub fn compose_as_child(parts: &str, cache: &Path) -> u8 {
    as_child(|| {
        let unable = |why: &dyn std::fmt::Display| Failure::Child(format!("cannot compose: {why}"));
        let parts: Vec<(String, ImageSource)> = serde_json::from_str(parts).map_err(|error| unable(&error))?;
        let shelf = Shelf::open(Some(cache)).map_err(|error| unable(&error))?;
        Ok(compose::compose_images(&parts, &shelf)?)
    })
}

fn as_child(work: impl FnOnce() -> Result<String, Failure>) -> u8 {
    if let Err(error) = confine() {
        eprintln!("cannot bound itself: {error}");
        return EXIT_UNABLE;
    }
    match work() {
        Ok(said) => {
            println!("{said}");
            0
        }
        Err(Failure::Module(why)) => {
            println!("{why}");
            EXIT_REFUSED
        }
        Err(Failure::Child(why)) => {
            eprintln!("{why}");
            EXIT_UNABLE
        }
    }
}

fn compile(request: &CompileRequest<'_>) -> Result<Form, Failure> {
    let unable = |what: &str, why: &dyn std::fmt::Display| Failure::Child(format!("{what}: {why}"));
    let source = &request.source;
    let (bytes, form) = artifact::read_to_run(source)?;
    let open = |calls: Calls| -> Result<(Engine, AotCache), Failure> {
        let engine = Engine::new(&engine::base(calls)).map_err(|error| unable("cannot make the engine", &error))?;
        let cache = AotCache::open(request.cache, &engine).map_err(|error| unable("cannot open the cache", &error))?;
        Ok((engine, cache))
    };
    let (engine, cache) = open(form.calls())?;
    let compiled = match form {
        Form::Module => engine.precompile_module(&bytes),
        Form::Component | Form::Concurrent => engine.precompile_component(&bytes),
    };
    let code = compiled.map_err(|error| {
        Failure::Module(invalid(&source.reference, artifact::explain_compile_error(&error)).to_string())
    })?;
    if code.len() > MAX_CODE_BYTES {
        let why = format!("compiled, it has {} bytes; at most {MAX_CODE_BYTES} are taken", code.len());
        return Err(Failure::Module(invalid(&source.reference, why).to_string()));
    }
    let unwritten = |error: std::io::Error| unable("cannot write to the cache", &error);
    cache.keep(&kept_as(source), form, &code).map_err(unwritten)?;
    if form.calls() != Calls::Alone {
        let (_, plain) = open(Calls::Alone)?;
        plain.point_elsewhere(&kept_as(source), form).map_err(unwritten)?;
    }
    Ok(form)
}

/// Lowest priority, bounded memory and time, no core file, and an end when the parent's is near.
fn confine() -> std::io::Result<()> {
    // Threads made later inherit it.
    rustix::process::setpriority_process(None, NICENESS)?;
    for (resource, most) in [(Resource::As, MAX_ADDRESS_BYTES), (Resource::Cpu, MAX_CPU_SECONDS), (Resource::Core, 0)] {
        let maximum = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
        setrlimit(resource, Rlimit { current: Some(maximum), maximum: Some(maximum) })?;
    }
    let watch = || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(i32::from(EXIT_UNABLE));
    };
    std::thread::Builder::new().name("parent-watch".to_owned()).spawn(watch).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_child_ended_is_told_of_the_image() {
        let signal = ExitStatus::from_raw;
        let code = |code: i32| ExitStatus::from_raw(code << 8);
        let cases = [
            (code(1), "image \"m:1\" cannot run: it is a script", "", "it is a script"),
            (code(101), "", "thread 'main' panicked", "compiling it failed: thread 'main' panicked"),
            (signal(6), "", "memory allocation of 99 bytes failed", "compiling it takes more than 4 GiB"),
            (signal(24), "", "", "more than 300 s of processor time"),
            (signal(11), "", "", "compiling it ended in a crash (signal 11)"),
        ];
        let told = |status, said, complained| failure("m:1", "compiling", status, said, complained);
        for (status, said, complained, words) in cases {
            let Some(Failure::Module(why)) = told(status, said, complained) else { panic!("{status}") };
            assert!(why.starts_with("image \"m:1\" cannot run: ") && why.contains(words), "{why}");
        }
        assert!(told(code(0), "", "").is_none());
        for other in [2, 3, 127] {
            assert!(matches!(told(code(other), "", "usage"), Some(Failure::Child(_))), "{other}");
        }
    }
}

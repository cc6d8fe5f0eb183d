//! Compiling in a process of its own.
//!
//! Compilers are large, and what they are given here may be made to break them. So a node starts its own
//! program again for each new image: at the lowest priority, with bounded memory and processor time. A
//! burst of new images then takes nothing from requests, and a compiler that crashes is one image's
//! failure. The child writes what it made into the cache; the parent believes it as it believes
//! everything there: by its MAC.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::sync::Semaphore;
use wasmtime::Engine;

use super::super::ImageSource;
use super::artifact::{self, Form, invalid};
use super::cache::AotCache;
use super::engine;
use super::images::kept_as;

/// The command that is a child; not for people.
pub const SUBCOMMAND: &str = "compile-module";
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

/// What came of a compilation.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the cache.
    Kept,
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

    /// Compiles the image's module into the cache. Dropping the future ends the child.
    pub async fn compile(&self, source: &ImageSource) -> Outcome {
        let _place = self.places.acquire().await;
        match tokio::time::timeout(PATIENCE, self.run(source)).await {
            Ok(Ok((status, said, complained))) => outcome(&source.reference, status, &said, &complained),
            Ok(Err(error)) => Outcome::Unavailable(format!("cannot run {}: {error}", self.program.display())),
            Err(_) => refused(&source.reference, format!("the compiler took longer than {} s", PATIENCE.as_secs())),
        }
    }

    async fn run(&self, source: &ImageSource) -> std::io::Result<(ExitStatus, String, String)> {
        let mut child = Command::new(&self.program)
            .arg(SUBCOMMAND)
            .args(source.snapshot.then_some("--snapshot"))
            .args(["--digest", &source.digest, "--reference", &source.reference, "--cache"])
            .arg(&self.cache)
            .arg(&source.path)
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
}

/// The first of what a child says.
async fn head(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let _ = stream.take(MAX_SAID).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn refused(reference: &str, why: impl std::fmt::Display) -> Outcome {
    Outcome::Refused(invalid(reference, why).to_string())
}

fn outcome(reference: &str, status: ExitStatus, said: &str, complained: &str) -> Outcome {
    const ABORT: i32 = 6;
    const CPU_TIME: i32 = 24;
    match (status.code().and_then(|code| u8::try_from(code).ok()), status.signal()) {
        (Some(0), _) => Outcome::Kept,
        // It was the child that found the words.
        (Some(EXIT_REFUSED), _) => Outcome::Refused(said.to_owned()),
        (Some(101), _) => refused(reference, format!("the compiler failed on it: {complained}")),
        (_, Some(ABORT)) if complained.contains("memory allocation") => {
            refused(reference, format!("compiling it takes more than {} GiB", MAX_ADDRESS_BYTES >> 30))
        }
        (_, Some(CPU_TIME)) => {
            refused(reference, format!("compiling it takes more than {MAX_CPU_SECONDS} s of processor time"))
        }
        (_, Some(signal)) => refused(reference, format!("the compiler crashed on it (signal {signal}) {complained}")),
        _ => Outcome::Unavailable(format!("the compiler's process ended with {status}: {complained}")),
    }
}

/// What a child was asked.
#[derive(Debug)]
pub struct CompileRequest<'a> {
    pub source: ImageSource,
    pub cache: &'a Path,
}

/// The whole of a child's life; returns its exit code. What is wrong with the module goes to standard
/// output, what is wrong with the child to standard error.
pub fn compile_as_child(request: &CompileRequest<'_>) -> u8 {
    if let Err(error) = confine() {
        eprintln!("cannot bound itself: {error}");
        return EXIT_UNABLE;
    }
    match compile(request) {
        Ok(()) => 0,
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

enum Failure {
    Module(String),
    Child(String),
}

fn compile(request: &CompileRequest<'_>) -> Result<(), Failure> {
    let unable = |what: &str, why: &dyn std::fmt::Display| Failure::Child(format!("{what}: {why}"));
    let source = &request.source;
    let (bytes, form) = artifact::read_to_run(source).map_err(|error| Failure::Module(error.to_string()))?;
    let engine = Engine::new(&engine::base(form.calls())).map_err(|error| unable("cannot make the engine", &error))?;
    let cache = AotCache::open(request.cache, &engine).map_err(|error| unable("cannot open the cache", &error))?;
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
    cache.keep(&kept_as(source), form, &code).map_err(|error| unable("cannot write to the cache", &error))
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
            (code(101), "", "thread 'main' panicked", "the compiler failed on it: thread 'main' panicked"),
            (signal(6), "", "memory allocation of 99 bytes failed", "takes more than 4 GiB"),
            (signal(24), "", "", "more than 300 s of processor time"),
            (signal(11), "", "", "crashed on it (signal 11)"),
        ];
        for (status, said, complained, words) in cases {
            let Outcome::Refused(why) = outcome("m:1", status, said, complained) else { panic!("{status}") };
            assert!(why.starts_with("image \"m:1\" cannot run: ") && why.contains(words), "{why}");
        }
        assert_eq!(outcome("m:1", code(0), "", ""), Outcome::Kept);
        for other in [2, 3, 127] {
            assert!(matches!(outcome("m:1", code(other), "", "usage"), Outcome::Unavailable(_)), "{other}");
        }
    }
}

//! Compiling in a child process: what bounds it, and what its failures do to the node.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use coracle::runtime::wasm::{WasmConfig, WasmRuntime, digest_of};
use coracle::runtime::{Image, ImageError, ImageSource, Runtime};

use crate::harness::{PATIENCE, coracle, eventually, repository};

fn hello() -> ImageSource {
    let path = repository().join("workloads/prebuilt/hello/1.wasm");
    let digest = digest_of(&std::fs::read(&path).expect("the module"));
    ImageSource { reference: "hello:1".into(), path, digest, snapshot: false }
}

fn runtime(cache: &Path, compiler: PathBuf) -> WasmRuntime {
    let config = WasmConfig {
        cache_dir: Some(cache.to_owned()),
        compiler: Some(compiler),
        max_instances: Some(16),
        ..WasmConfig::default()
    };
    WasmRuntime::new(config).expect("a host")
}

fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("compiler");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
    path
}

async fn prepare(runtime: &WasmRuntime, source: &ImageSource) -> Result<Arc<dyn Image>, ImageError> {
    runtime.prepare(source).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_child_compiles_and_the_host_takes_what_it_wrote() {
    let dir = tempfile::tempdir().expect("a directory");
    let calls = dir.path().join("calls");
    let own = env!("CARGO_BIN_EXE_coracle");
    let text = format!("echo \"$*\" >> {}\nexec {own} \"$@\"", calls.display());
    let runtime = runtime(&dir.path().join("aot"), script(dir.path(), &text));
    let image = prepare(&runtime, &hello()).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(image.digest(), hello().digest);
    let asked = std::fs::read_to_string(&calls).expect("the child was asked");
    assert_eq!(asked.lines().count(), 1, "{asked}");
    // A host without a compiler finds it there: it compiled nothing itself.
    let kept = std::fs::read_dir(dir.path().join("aot")).expect("the cache").flatten();
    assert_eq!(kept.filter(|file| file.path().extension().is_some_and(|extension| extension == "aot")).count(), 1);

    let broken = dir.path().join("broken.wat");
    std::fs::write(&broken, "(module (func (result i32)))").expect("written");
    let digest = digest_of(&std::fs::read(&broken).expect("read"));
    let source = ImageSource { reference: "broken:1".into(), path: broken, digest, snapshot: false };
    let why = prepare(&runtime, &source).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(why.contains("image \"broken:1\" cannot run") && why.contains("type mismatch"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_that_crashes_is_the_images_failure_and_one_that_is_missing_nobodys() {
    let dir = tempfile::tempdir().expect("a directory");
    let crashing = runtime(&dir.path().join("one"), script(dir.path(), "kill -SEGV $$"));
    let why = prepare(&crashing, &hello()).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(why.contains("compiling it ended in a crash (signal 11)"), "{why}");
    let missing = runtime(&dir.path().join("two"), dir.path().join("no-such-program"));
    assert!(prepare(&missing, &hello()).await.is_ok(), "compiled by the host itself");
}

fn parts() -> Vec<(String, ImageSource)> {
    let part = |name: &str| {
        let path = repository().join(format!("workloads/prebuilt/{name}/1.wasm"));
        let digest = digest_of(&std::fs::read(&path).expect("the module"));
        (name.to_owned(), ImageSource { reference: format!("{name}:1"), path, digest, snapshot: false })
    };
    ["till", "catalogue", "duty"].map(part).into()
}

/// The program of this crate behind a script that notes how it was called, and does this before.
fn noting(dir: &Path, before: &str) -> (PathBuf, PathBuf) {
    let (calls, own) = (dir.join("calls"), env!("CARGO_BIN_EXE_coracle"));
    let text = format!("echo \"$1\" >> {}\n{before}\nexec {own} \"$@\"", calls.display());
    (script(dir, &text), calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_child_composes_once_and_what_crashes_it_is_that_pods_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (program, calls) = noting(dir.path(), "");
    let host = runtime(&dir.path().join("aot"), program);
    let whole = host.compose(&parts()).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(host.compose(&parts()).await.ok(), Some(whole.clone()));
    prepare(&host, &whole).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(std::fs::read_to_string(&calls).expect("asked"), "compose-components\ncompile-module\n");
    let short = host.compose(&parts()[..2]).await.expect("without taxes");
    assert_ne!(short.digest, whole.digest);
    let why = host.compose(&[parts()[0].clone(), parts()[2].clone()]).await.expect_err("refused").to_string();
    assert!(why.contains("image \"till:1\" cannot run: container \"duty\" provides nothing"), "{why}");

    let other = tempfile::tempdir().expect("a directory");
    let (program, _) = noting(other.path(), "[ \"$1\" = compose-components ] && kill -SEGV $$");
    let host = runtime(&other.path().join("aot"), program);
    let why = host.compose(&parts()).await.expect_err("crashed").to_string();
    assert!(why.contains("image \"till:1\" cannot run: composing it ended in a crash (signal 11)"), "{why}");
    assert!(prepare(&host, &hello()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn code_for_the_other_engine_is_found_again_without_a_child() {
    let dir = tempfile::tempdir().expect("a directory");
    let (program, calls) = noting(dir.path(), "");
    let path = repository().join("workloads/prebuilt/relay/1.wasm");
    let digest = digest_of(&std::fs::read(&path).expect("the module"));
    let relay = ImageSource { reference: "relay:1".into(), path, digest, snapshot: false };
    for _ in 0..2 {
        let host = runtime(&dir.path().join("aot"), program.clone());
        prepare(&host, &relay).await.unwrap_or_else(|error| panic!("{error}"));
    }
    assert_eq!(std::fs::read_to_string(&calls).expect("asked"), "compile-module\n");
}

/// A child that waits for its module, which comes by a pipe with a name.
fn waiting_child(dir: &Path) -> (Child, PathBuf) {
    let pipe = dir.join("module.wasm");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    let child = coracle()
        .args(["compile-module", "--reference", "m:1", "--digest", &digest_of(b"(module)"), "--cache"])
        .arg(dir.join("aot"))
        .arg(&pipe)
        .stdin(Stdio::piped())
        .spawn()
        .expect("coracle starts");
    (child, pipe)
}

#[test]
fn the_child_is_of_low_priority_and_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut child, pipe) = waiting_child(dir.path());
    let about = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap_or_default();
    eventually("the child to have bounded itself", PATIENCE, || {
        let limits = about("limits");
        let of = |name: &str| limits.lines().find(|line| line.starts_with(name)).map(str::to_owned).unwrap_or_default();
        let bounded =
            of("Max address space").contains(&(4_u64 << 30).to_string()) && of("Max cpu time").contains("300");
        // After the name, which may hold blanks, the 17th field is the niceness.
        let stat = about("stat");
        let nice = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(16)).map(str::to_owned);
        (bounded && nice.as_deref() == Some("19")).then_some(()).ok_or((limits, stat))
    });
    let mut file = std::fs::OpenOptions::new().write(true).open(&pipe).expect("the pipe");
    file.write_all(b"(module)").expect("written");
    drop(file);
    // Waiting would close it, which ends the child.
    let _stdin = child.stdin.take();
    assert!(child.wait().expect("the child ends").success());
}

#[test]
fn the_child_ends_with_its_parent() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut child, _pipe) = waiting_child(dir.path());
    drop(child.stdin.take());
    let code = eventually("the child to end", PATIENCE, || child.try_wait().ok().flatten().ok_or("it runs"));
    assert_eq!(code.code(), Some(3));
}

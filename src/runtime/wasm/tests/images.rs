//! Which images run, and what is said of those that do not.

use super::*;

#[tokio::test]
async fn images_that_cannot_run_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let prebuilt = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("workloads/prebuilt/hello/1.wasm");
    let mut cut = std::fs::read(prebuilt).unwrap();
    cut.truncate(100_000);
    let cases: &[(&[u8], &str)] = &[
        (b"", "the file is empty"),
        (b"hello", "it is not WebAssembly"),
        (&cut, "truncated"),
        (b"(module", "expected `)`"),
        (b"(module)", "exports no function `_start`"),
        (b"(component)", "exports no `wasi:http/incoming-handler@0.2` or `wasi:http/handler@0.3`, and no"),
        (b"\0asm\x01\0\0\0\xff\xff\xff\xff\xff\xff", "cannot run"),
    ];
    for (index, (bytes, part)) in cases.iter().enumerate() {
        let path = dir.path().join(format!("{index}.wasm"));
        std::fs::write(&path, bytes).unwrap();
        let source = ImageSource { reference: "bad:1".to_owned(), path, digest: digest_of(bytes), snapshot: false };
        let error = match HOST.prepare(&source).await {
            Err(error) => error.to_string(),
            Ok(_) => panic!("case {index} was accepted"),
        };
        assert!(error.contains(part) && error.contains("bad:1"), "case {index}: {error}");
    }
}

/// A component that would run if it had this.
fn command_importing(import: &str) -> String {
    format!(
        r#"(component
            (import {import})
            (component $c (core module $m (func (export "run") (result i32) i32.const 0))
              (core instance $i (instantiate $m))
              (func $run (result (result)) (canon lift (core func $i "run")))
              (instance $r (export "run" (func $run)))
              (export "r" (instance $r)))
            (instance $c (instantiate $c))
            (export "wasi:cli/run@0.2.0" (instance $c "r")))"#
    )
}

#[tokio::test]
async fn missing_imports_are_named_with_the_nearest_offered() {
    let cases = [
        (
            r#"(module (import "wasi_snapshot_preview1" "fd_wrote" (func)) (func (export "_start")))"#,
            "import `wasi_snapshot_preview1::fd_wrote` is not provided; the nearest offered is `wasi_snapshot_preview1::fd_write`",
        ),
        (
            r#"(module (import "env" "launch_rockets_at_once" (func)) (func (export "_start")))"#,
            "import `env::launch_rockets_at_once` is not provided",
        ),
        (
            r#"(component
                (import "wasi:cli/environment@0.3.0-rc-2026-01-06" (instance))
                (component $c (core module $m (func (export "run") (result i32) i32.const 0))
                  (core instance $i (instantiate $m))
                  (func $run (result (result)) (canon lift (core func $i "run")))
                  (instance $r (export "run" (func $run)))
                  (export "r" (instance $r)))
                (instance $c (instantiate $c))
                (export "wasi:cli/run@0.2.0" (instance $c "r")))"#,
            "import `wasi:cli/environment` is wanted in version 0.3.0-rc-2026-01-06, offered is 0.2.12 and 0.3.0",
        ),
        (
            &command_importing(r#""acme:billing/ledger@1.2.0" (instance)"#),
            "import `acme:billing/ledger@1.2.0` is not provided: a component that exports it",
        ),
        (&command_importing(r#""launch" (func)"#), "import `launch` is not provided: it is no interface"),
        (
            &command_importing(
                r#""wasi:cli/environment@0.2.0" (instance (export "get-planet" (func (result string))))"#,
            ),
            "get-planet",
        ),
    ];
    for (wat, part) in cases {
        let bench = Bench::wat(wat).await;
        match bench.sandbox.start(&bench.spec).await {
            Err(StartError::MissingImport(why)) => assert!(why.contains(part), "{why}"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("started without its imports: {wat}"),
        }
    }
}

#[tokio::test]
async fn one_image_is_compiled_once_and_found_again_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        WasmConfig { cache_dir: Some(dir.path().join("aot")), max_instances: Some(16), ..WasmConfig::default() };
    let path = dir.path().join("m.wat");
    std::fs::write(&path, r#"(module (func (export "_start")))"#).unwrap();
    let digest = digest_of(&std::fs::read(&path).unwrap());
    let source = ImageSource { reference: "m:1".to_owned(), path: path.clone(), digest, snapshot: false };

    let host = WasmRuntime::new(config.clone()).unwrap();
    let (one, two) = tokio::join!(host.prepare(&source), host.prepare(&source));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert!(std::ptr::addr_eq(Arc::as_ptr(&one), Arc::as_ptr(&two)), "both have the one image");

    // Another process: the module's file is not even needed.
    std::fs::remove_file(&path).unwrap();
    let host = WasmRuntime::new(config).unwrap();
    assert_eq!(host.prepare(&source).await.unwrap().digest(), source.digest);
}

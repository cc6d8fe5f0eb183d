//! Programs that are made here before they run: composed of several, or initialised beforehand.

use super::*;

fn prebuilt(name: &str) -> (String, ImageSource) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("workloads/prebuilt/{name}/1.wasm"));
    let digest = digest_of(&std::fs::read(&path).unwrap());
    (name.to_owned(), ImageSource { reference: format!("{name}:1"), path, digest, snapshot: false })
}

fn written(dir: &tempfile::TempDir, name: &str, text: &str) -> (String, ImageSource) {
    let path = dir.path().join(format!("{name}.wat"));
    std::fs::write(&path, text).unwrap();
    let digest = digest_of(text.as_bytes());
    (name.to_owned(), ImageSource { reference: format!("{name}:1"), path, digest, snapshot: false })
}

async fn shop() -> Bench {
    let source = HOST.compose(&["till", "catalogue", "duty"].map(prebuilt)).await.unwrap();
    assert_eq!(source.reference, "till:1");
    let again = HOST.compose(&["till", "catalogue", "duty"].map(prebuilt)).await.unwrap();
    assert_eq!(source, again, "the same parts make the same whole");
    Bench::of_source(source).await
}

#[tokio::test]
async fn components_of_several_containers_are_one_program() {
    let bench = shop().await;
    let (container, http) = bench.start_http().await;
    assert_eq!(text(http.call(get("/paddle")).await.unwrap()).await, "paddle: 30.00\n");
    assert_eq!(http.call(get("/oar")).await.unwrap().status(), 404);
    until("no instance is left", || container.usage().instances == 0).await;
}

#[tokio::test]
async fn limits_hold_over_the_whole_of_a_composed_program() {
    let mut bench = shop().await;
    bench.spec.memory_limit = Some(16 << 20);
    let (container, http) = bench.start_http().await;
    http.call(get("/hoard")).await.unwrap_err();
    let exit = exit_of(&container).await;
    assert_eq!(exit.reason, "OOMKilled");
    assert!(exit.message.contains("limit 16Mi"), "{}", exit.message);

    let (container, http) = bench.start_http().await;
    http.call(get("/trap")).await.unwrap_err();
    let exit = exit_of(&container).await;
    assert_eq!(exit.code, 134);
    assert!(exit.message.contains("wasm backtrace"), "{}", exit.message);
}

#[tokio::test]
async fn what_cannot_be_composed_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str, text: &str| written(&dir, name, text);
    let wants = r#"(component (import "a:b/c" (instance (export "f" (func (result u32))))))"#;
    let cases = [
        (
            vec![prebuilt("till"), prebuilt("duty")],
            "container \"duty\" provides nothing: it exports shop:goods/tax@1.0.0",
        ),
        (
            vec![of("web", wants), of("lib", r#"(component (instance $i) (export "a:b/c" (instance $i)))"#)],
            "container \"lib\" exports `a:b/c` otherwise than \"web\" imports it",
        ),
        (vec![of("web", wants), of("core", "(module)")], "container \"core\": its image is a core module"),
        (
            vec![
                of("web", wants),
                of("one", r#"(component (import "a:b/c" (instance)) (instance $i) (export "x:y/z" (instance $i)))"#),
                of("two", r#"(component (import "x:y/z" (instance)) (instance $i) (export "a:b/c" (instance $i)))"#),
            ],
            "in a circle: two <- one <- two",
        ),
    ];
    for (parts, words) in cases {
        let why = HOST.compose(&parts).await.unwrap_err().to_string();
        assert!(why.contains(words), "{why}");
    }
    let source = HOST.compose(&[prebuilt("till"), prebuilt("catalogue")]).await.unwrap();
    let bench = Bench::of_source(source).await;
    match bench.sandbox.start(&bench.spec).await {
        Err(StartError::MissingImport(why)) => assert!(why.contains("`shop:goods/tax@1.0.0` is not provided"), "{why}"),
        _ => panic!("started without its imports"),
    }
}

/// Ends with the code that its initialisation left, 1 without one.
const REMEMBERS: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\01")
    (func (export "wizer-initialize") (i32.store (i32.const 0) (i32.const 42)))
    (func (export "_start") (call $exit (i32.load (i32.const 0)))))"#;

#[tokio::test]
async fn a_snapshot_starts_where_the_initialisation_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (_, source) = written(&dir, "remembers", REMEMBERS);
    for (snapshot, code) in [(false, 1), (true, 42)] {
        let bench = Bench::of_source(ImageSource { snapshot, ..source.clone() }).await;
        assert_eq!(exit_of(&bench.start().await).await.code, code);
    }
    let (_, plain) = written(&dir, "plain", r#"(module (func (export "_start")))"#);
    let why = HOST.prepare(&ImageSource { snapshot: true, ..plain }).await.err().unwrap().to_string();
    assert!(why.contains("image \"plain:1\" cannot run: it exports no function `wizer-initialize`"), "{why}");
}

/// Exports the number that its initialisation left, 1 without one.
const PROVIDES: &str = r#"(component
    (core module $m
      (memory (export "memory") 1)
      (data (i32.const 0) "\01")
      (func (export "init") (i32.store (i32.const 0) (i32.const 42)))
      (func (export "f") (result i32) (i32.load (i32.const 0))))
    (core instance $i (instantiate $m))
    (func (export "wizer-initialize") (canon lift (core func $i "init")))
    (func $f (result u32) (canon lift (core func $i "f")))
    (instance $c (export "f" (func $f)))
    (export "a:b/c" (instance $c)))"#;

/// A command that succeeds if it is told 42.
const ASKS: &str = r#"(component
    (import "a:b/c" (instance $c (export "f" (func (result u32)))))
    (core func $f (canon lower (func $c "f")))
    (core module $m
      (import "" "f" (func $f (result i32)))
      (func (export "run") (result i32) (i32.ne (call $f) (i32.const 42))))
    (core instance $i (instantiate $m (with "" (instance (export "f" (func $f))))))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance $r (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $r)))"#;

#[tokio::test]
async fn parts_of_a_composed_program_are_initialised_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let (main, (name, provider)) = (written(&dir, "asks", ASKS), written(&dir, "provides", PROVIDES));
    for (snapshot, code) in [(false, 1), (true, 0)] {
        let parts = [main.clone(), (name.clone(), ImageSource { snapshot, ..provider.clone() })];
        let bench = Bench::of_source(HOST.compose(&parts).await.unwrap()).await;
        assert_eq!(exit_of(&bench.start().await).await.code, code, "snapshot: {snapshot}");
    }
}

#[tokio::test]
async fn as_many_instances_as_asked_for_are_ready_before_calls_come() {
    for requests in [1, 2] {
        let mut bench = Bench::prebuilt("hello").await;
        bench.spec.instances.min_instances = 2;
        bench.spec.instances.max_requests_per_instance = requests;
        bench.spec.instances.idle_timeout = Duration::from_millis(1);
        let (container, http) = bench.start_http().await;
        for _ in 0..5 {
            until("two are ready", || container.usage().instances == 2).await;
            assert_eq!(http.call(get("/")).await.unwrap().status(), 200);
        }
        container.stop(Duration::from_secs(5)).await;
        until("none is left", || container.usage().instances == 0).await;
    }
}

//! What a guest sees of its mounts.

use super::*;

#[tokio::test]
async fn mounts_are_what_the_guest_sees_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |host: &str| Mount::new(dir.path().join(host), "/data", true);
    let mut bench = Bench::prebuilt("worker").await.args(&["worker", "1", "1"]);
    bench.spec.mounts = vec![mount("absent")];
    let error = bench.sandbox.start(&bench.spec).await.err().unwrap().to_string();
    assert!(error.contains("cannot mount") && error.contains("/data"), "{error}");

    std::fs::write(dir.path().join("file"), "x").unwrap();
    bench.spec.mounts = vec![mount("file")];
    let error = bench.sandbox.start(&bench.spec).await.err().unwrap().to_string();
    assert!(error.contains("only directories can be mounted"), "{error}");

    bench.spec.mounts = vec![mount(".")];
    assert_eq!(exit_of(&bench.start().await).await.code, 0);
}

/// Opens `new` in the first mounted directory for writing and exits with WASI's error number.
const CREATE_A_FILE: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
      (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "new")
    (func (export "_start")
      (call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 3)
        (i32.const 1) (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 8)))))"#;

#[tokio::test]
async fn read_only_mounts_are_read_only() {
    for (read_only, created) in [(false, true), (true, false)] {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Bench::wat(CREATE_A_FILE).await;
        bench.spec.mounts = vec![Mount::new(dir.path(), "/data", read_only)];
        let exit = exit_of(&bench.start().await).await;
        assert_eq!(exit.code == 0, created, "{exit:?}");
        assert_eq!(dir.path().join("new").exists(), created);
    }
}

#[tokio::test]
async fn a_component_reads_what_is_mounted() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("prices"), "apple=30\npear=20\n").unwrap();
    let mut bench = Bench::prebuilt("cart").await;
    bench.spec.mounts = vec![Mount::new(dir.path(), "/etc/shop", true)];
    let (_container, http) = bench.start_http().await;
    assert_eq!(text(http.call(get("/total?items=apple,pear")).await.unwrap()).await, "50\n");
}

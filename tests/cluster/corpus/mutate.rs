//! Valid modules with a few bytes changed: whatever comes out is refused or runs, and nothing panics.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use coracle::runtime::wasm::{WasmConfig, WasmRuntime, digest_of, inspect};
use coracle::runtime::{
    ContainerSpec, Grants, ImageSource, InstancePolicy, Isolation, LinuxContainer, LinuxSandbox, Output, RunState,
    Runtime, SandboxSpec, Stream,
};
use coracle::wire::{CallTimeouts, Caller, HttpBody, Outbound, OutboundError};
use proptest::prelude::*;

use crate::harness::PATIENCE;

/// A module of every kind of section.
const MODULE: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1 4) (table 4 funcref) (global $g (mut i32) (i32.const 3))
    (elem (i32.const 0) $f $f) (data (i32.const 16) "hello") (data "passive")
    (func $f (param i32) (result i32) local.get 0 i32.const 1 i32.add)
    (func (export "_start") (local i32)
        (loop $l (local.set 0 (call $f (local.get 0))) (br_if $l (i32.lt_u (local.get 0) (i32.const 9))))
        (drop (call_indirect (param i32) (result i32) (i32.const 1) (i32.const 0)))
        (memory.grow (i32.const 1)) drop
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (call $exit (global.get $g))))"#;

/// A component with types, instances, aliases and a lifted function.
const COMPONENT: &str = r#"(component
    (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit" (func (param "status" (result))))))
    (type $r (record (field "a" u32) (field "b" (list string)) (field "c" (option (tuple u8 char)))))
    (alias export $exit "exit" (func $leave))
    (core func $lowered (canon lower (func $leave)))
    (core module $m
        (import "host" "exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "run") (result i32) (call $exit (i32.const 1)) i32.const 0))
    (core instance $host (export "exit" (func $lowered)))
    (core instance $i (instantiate $m (with "host" (instance $host))))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance $r (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $r)))"#;

struct Nothing;

impl Output for Nothing {
    fn write(&self, _: Stream, _: &[u8]) {}
}

#[async_trait::async_trait]
impl Outbound for Nothing {
    async fn send(
        &self,
        _: &Caller,
        _: http::Request<HttpBody>,
        _: CallTimeouts,
    ) -> Result<http::Response<HttpBody>, OutboundError> {
        Err(OutboundError::Denied("nobody is there".to_owned()))
    }
}

static TOKIO: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| tokio::runtime::Runtime::new().expect("a runtime"));
/// It compiles by itself: a panic of the compiler would be this process's.
static HOST: LazyLock<WasmRuntime> = LazyLock::new(|| {
    WasmRuntime::new(WasmConfig { max_instances: Some(16), ..WasmConfig::default() }).expect("a host")
});

/// The whole life of a pod with this module; whether it could start.
async fn live(bytes: &[u8]) -> bool {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("m.wasm");
    std::fs::write(&path, bytes).expect("written");
    let source = ImageSource { reference: "m:1".to_owned(), path, digest: digest_of(bytes), snapshot: false };
    let Ok(image) = HOST.prepare(&source).await else { return false };
    let pod = SandboxSpec {
        uid: "u".to_owned(),
        namespace: "default".to_owned(),
        name: "m".to_owned(),
        hostname: "m".to_owned(),
        ip: [127, 0, 0, 9].into(),
        memory_limit: Some(16 << 20),
        cpu_limit_millis: None,
        isolation: Isolation::Shared,
        outbound: Arc::new(Nothing),
        linux: LinuxSandbox::default(),
    };
    let spec = ContainerSpec {
        name: "c".to_owned(),
        image,
        args: vec!["m".to_owned()],
        env: Vec::new(),
        mounts: Vec::new(),
        deferred: None,
        memory_limit: None,
        cpu_limit_millis: None,
        cpu_request_millis: None,
        output: Arc::new(Nothing),
        grants: Grants::default(),
        instances: InstancePolicy { request_timeout: Duration::from_millis(100), ..InstancePolicy::default() },
        run: 0,
        linux: LinuxContainer::default(),
        target: None,
    };
    let sandbox = HOST.sandbox(pod).await.expect("a sandbox");
    let Ok(container) = sandbox.start(&spec).await else { return false };
    // Some loop for ever.
    let mut state = container.state();
    let ended = state.wait_for(|state| matches!(state, RunState::Exited(_)));
    let _ = tokio::time::timeout(Duration::from_millis(50), ended).await;
    container.stop(Duration::ZERO).await;
    let RunState::Exited(exit) = container.state().borrow().clone() else { panic!("stopped, yet it runs") };
    assert!(!exit.message.contains("the host failed"), "{}", exit.message);
    true
}

/// A changed byte, a bit, a cut, a doubled or a removed range.
#[derive(Debug, Clone)]
enum Change {
    Byte(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Double(prop::sample::Index, prop::sample::Index),
    Remove(prop::sample::Index, prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        8 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), at()).prop_map(|(one, two)| Change::Double(one, two)),
        1 => (at(), at()).prop_map(|(one, two)| Change::Remove(one, two)),
    ]
}

fn changed(bytes: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for change in changes.iter() {
        if bytes.len() < 10 {
            break;
        }
        // The header stays: without it nothing is looked at.
        let place = |at: &prop::sample::Index| 8 + at.index(bytes.len() - 8);
        let range = |one, two| {
            let (one, two) = (place(one), place(two));
            one.min(two)..one.max(two)
        };
        match change {
            Change::Byte(at, byte) => {
                let at = place(at);
                bytes[at] = *byte;
            }
            Change::Cut(at) => bytes.truncate(place(at)),
            Change::Double(one, two) => {
                let part = bytes[range(one, two)].to_vec();
                let at = place(one);
                bytes.splice(at..at, part);
            }
            Change::Remove(one, two) => _ = bytes.drain(range(one, two)),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn modules_with_changed_bytes_are_refused_or_run(changes in prop::collection::vec(change(), 1..4)) {
        for text in [MODULE, COMPONENT] {
            let bytes = changed(&wat::parse_str(text).expect("text"), &changes);
            let _ = inspect(&bytes);
            let lived = TOKIO.block_on(async { tokio::time::timeout(PATIENCE, live(&bytes)).await });
            prop_assert!(lived.is_ok(), "it hung");
        }
    }
}

#[test]
fn modules_cut_at_any_byte_are_refused() {
    for text in [MODULE, COMPONENT] {
        let whole = wat::parse_str(text).expect("text");
        assert!(TOKIO.block_on(live(&whole)), "unchanged it runs");
        // The data and the names come last, and the module is one without them.
        let mut started = 0;
        for length in 0..whole.len() {
            let cut = &whole[..length];
            let _ = inspect(cut);
            started += usize::from(TOKIO.block_on(live(cut)));
        }
        assert!(started <= 2, "{started} of them started");
    }
}

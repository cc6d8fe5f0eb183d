//! The host as a whole, with the project's own guests and a few written out here.

mod calls_by_cgi;
mod capabilities;
mod concurrent;
mod made;
mod room;

use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use ::http::{self, Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};

use super::super::{
    Container, ContainerSpec, Exit, Grants, InstancePolicy, Isolation, Mount, Output, RunState, Runtime as _, Sandbox,
    Stream,
};
use super::*;
use crate::runtime::{LinuxContainer, LinuxSandbox};
use crate::wire::{CallError, CallTimeouts, Caller, HttpBody, HttpService, Outbound, OutboundError};

/// One host for all tests: an engine a process, as in earnest.
static HOST: LazyLock<WasmRuntime> =
    LazyLock::new(|| WasmRuntime::new(WasmConfig { max_instances: Some(200), ..WasmConfig::default() }).unwrap());

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Recorder(Mutex<String>);

impl Recorder {
    fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

impl Output for Recorder {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut text = self.0.lock().unwrap();
        if stream == Stream::Stderr {
            text.push_str("E:");
        }
        text.push_str(&String::from_utf8_lossy(bytes));
    }
}

/// Answers every call with what was asked.
struct Echo;

#[async_trait::async_trait]
impl Outbound for Echo {
    async fn send(
        &self,
        caller: &Caller,
        request: Request<HttpBody>,
        _timeouts: CallTimeouts,
    ) -> Result<Response<HttpBody>, OutboundError> {
        if request.uri().host() == Some("nowhere") {
            return Err(OutboundError::UnknownHost("nowhere".to_owned()));
        }
        let text = format!("{} asked {} {}", caller.pod, request.method(), request.uri());
        Ok(Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()))
    }
}

/// A container to be, with the handles a test wants.
struct Bench {
    spec: ContainerSpec,
    sandbox: Arc<dyn Sandbox>,
    output: Arc<Recorder>,
}

impl Bench {
    async fn of_file(path: PathBuf) -> Self {
        let digest = digest_of(&std::fs::read(&path).unwrap());
        Self::of_source(ImageSource { reference: path.display().to_string(), path, digest, snapshot: false }).await
    }

    async fn of_source(source: ImageSource) -> Self {
        let image = HOST.prepare(&source).await.unwrap();
        let output = Arc::new(Recorder::default());
        let spec = ContainerSpec {
            name: "main".to_owned(),
            image,
            args: vec!["main".to_owned()],
            env: vec![("HOSTNAME".to_owned(), "pod-1".to_owned())],
            mounts: Vec::new(),
            deferred: None,
            memory_limit: None,
            cpu_limit_millis: None,
            cpu_request_millis: None,
            output: output.clone(),
            grants: Grants::default(),
            instances: InstancePolicy::default(),
            run: 0,
            linux: LinuxContainer::default(),
        };
        Self { spec, sandbox: HOST.sandbox(pod(None)).await.unwrap(), output }
    }

    async fn prebuilt(name: &str) -> Self {
        Self::of_file(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("workloads/prebuilt/{name}/1.wasm"))).await
    }

    async fn wat(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.wat");
        std::fs::write(&path, text).unwrap();
        Self::of_file(path).await
    }

    fn args(mut self, args: &[&str]) -> Self {
        self.spec.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self
    }

    async fn start(&self) -> Arc<dyn Container> {
        self.sandbox.start(&self.spec).await.unwrap()
    }

    async fn start_http(&self) -> (Arc<dyn Container>, Arc<dyn HttpService>) {
        let container = self.start().await;
        let http = container.http().unwrap();
        (container, http)
    }
}

fn pod(memory_limit: Option<u64>) -> SandboxSpec {
    SandboxSpec {
        uid: "u".to_owned(),
        namespace: "default".to_owned(),
        name: "pod-1".to_owned(),
        hostname: "pod-1".to_owned(),
        ip: "127.64.0.9".parse().unwrap(),
        memory_limit,
        isolation: Isolation::Shared,
        outbound: Arc::new(Echo),
        linux: LinuxSandbox::default(),
    }
}

fn get(path: &str) -> Request<HttpBody> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::get(format!("http://test{path}")).body(body).unwrap()
}

async fn text(response: Response<HttpBody>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn exit_of(container: &Arc<dyn Container>) -> Exit {
    let mut state = container.state();
    let ended = state.wait_for(|state| matches!(state, RunState::Exited(_)));
    match tokio::time::timeout(PATIENCE, ended).await.expect("the container should end").unwrap().clone() {
        RunState::Exited(exit) => exit,
        RunState::Running { .. } => unreachable!("waited for its end"),
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn running(container: &Arc<dyn Container>) -> bool {
    matches!(*container.state().borrow(), RunState::Running { .. })
}

#[tokio::test]
async fn answers_calls_with_an_instance_each() {
    let bench = Bench::prebuilt("hello").await;
    let (container, http) = bench.start_http().await;
    for path in ["/a", "/b"] {
        let response = http.call(get(path)).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(text(response).await, format!("Hello from pod-1, version 1, path {path}\n"));
    }
    until("no instance is left", || container.usage().instances == 0).await;
    let usage = container.usage();
    assert_eq!((usage.calls, usage.memory_bytes), (2, 0), "nothing is left of a call");
    assert!(usage.cpu > Duration::ZERO);
    container.stop(Duration::from_secs(5)).await;
    let exit = exit_of(&container).await;
    assert_eq!((exit.code, exit.reason), (0, "Completed"));
}

#[tokio::test]
async fn a_request_without_an_authority_is_answered_and_a_bad_one_refused() {
    let bench = Bench::prebuilt("hello").await;
    let (container, http) = bench.start_http().await;
    let mut request = get("/");
    *request.uri_mut() = "/version".parse().unwrap();
    assert_eq!(text(http.call(request).await.unwrap()).await, "1\n");

    let mut request = get("/");
    *request.uri_mut() = "/".parse().unwrap();
    request.headers_mut().insert("host", http::HeaderValue::from_bytes(b"\xff").unwrap());
    assert_eq!(http.call(request).await.unwrap().status(), 400);
    assert!(running(&container));
}

#[tokio::test]
async fn a_trap_fails_its_call_and_ends_the_life_and_others_finish() {
    let bench = Bench::prebuilt("faults").await;
    let (container, http) = bench.start_http().await;
    let slow = tokio::spawn({
        let http = http.clone();
        async move { http.call(get("/slow?ms=300")).await.map(|response| response.status()) }
    });
    until("the slow call is in flight", || container.usage().instances == 1).await;

    let failed = http.call(get("/trap")).await.unwrap_err();
    assert!(matches!(&failed, CallError::Failed(why) if why.contains("unreachable")), "{failed}");
    let exit = exit_of(&container).await;
    assert_eq!((exit.code, exit.reason), (134, "Error"));
    assert!(exit.message.contains("wasm trap: wasm `unreachable` instruction executed"), "{}", exit.message);
    assert!(exit.message.contains("wasm backtrace"), "{}", exit.message);
    assert!(bench.output.text().contains("trapped on request"), "{}", bench.output.text());

    match http.call(get("/again")).await {
        Err(CallError::Undelivered { request, .. }) => assert_eq!(request.uri().path(), "/again"),
        other => panic!("expected the request back, got {:?}", other.map(|response| response.status())),
    }
    assert_eq!(slow.await.unwrap().unwrap(), 200);

    let (again, http) = bench.start_http().await;
    assert_eq!(text(http.call(get("/")).await.unwrap()).await, "ok\n");
    assert!(running(&again));
}

#[tokio::test]
async fn an_exit_during_a_call_is_the_containers() {
    let bench = Bench::prebuilt("faults").await;
    let (container, http) = bench.start_http().await;
    assert!(matches!(http.call(get("/exit")).await, Err(CallError::Failed(_))));
    let exit = exit_of(&container).await;
    // `exit` of WASI 0.2.0 says only that it failed.
    assert_eq!((exit.code, exit.reason), (1, "Error"));
}

#[tokio::test]
async fn memory_beyond_the_limit_is_oom_killed() {
    let mut bench = Bench::prebuilt("faults").await;
    bench.spec.memory_limit = Some(16 << 20);
    let (container, http) = bench.start_http().await;
    let failed = http.call(get("/oom")).await.unwrap_err();
    assert!(matches!(&failed, CallError::Failed(why) if why.contains("limit 16Mi")), "{failed}");
    let exit = exit_of(&container).await;
    assert_eq!((exit.code, exit.reason), (137, "OOMKilled"));
    assert!(exit.message.starts_with("memory limit of the container exceeded"), "{}", exit.message);
    assert_eq!(container.usage().memory_bytes, 0, "the dead instance gave back what it held");
}

#[tokio::test]
async fn the_pods_limit_holds_over_its_containers() {
    let mut bench = Bench::prebuilt("faults").await;
    bench.sandbox = HOST.sandbox(pod(Some(8 << 20))).await.unwrap();
    let (container, http) = bench.start_http().await;
    http.call(get("/oom")).await.unwrap_err();
    let exit = exit_of(&container).await;
    assert!(exit.message.starts_with("memory limit of the pod exceeded"), "{}", exit.message);
}

#[tokio::test]
async fn a_limit_below_the_first_page_is_seen_at_the_start() {
    let mut bench = Bench::prebuilt("hello").await;
    bench.spec.memory_limit = Some(1000);
    let container = bench.start().await;
    assert_eq!(exit_of(&container).await.reason, "OOMKilled");
}

#[tokio::test]
async fn deep_recursion_is_a_trap() {
    let bench = Bench::prebuilt("faults").await;
    let (container, http) = bench.start_http().await;
    http.call(get("/recurse")).await.unwrap_err();
    let exit = exit_of(&container).await;
    assert_eq!(exit.code, 134);
    assert!(exit.message.len() <= 4096);
}

/// One thread: whoever does not yield would starve everyone.
#[tokio::test(flavor = "current_thread")]
async fn an_endless_loop_starves_nobody_and_is_timed_out() {
    let mut bench = Bench::prebuilt("faults").await;
    bench.spec.instances.request_timeout = Duration::from_millis(400);
    let (container, http) = bench.start_http().await;
    let looping = tokio::spawn({
        let http = http.clone();
        async move { http.call(get("/loop")).await.map(|response| response.status()) }
    });
    until("the loop runs", || container.usage().instances == 1).await;
    assert_eq!(text(http.call(get("/")).await.unwrap()).await, "ok\n");
    assert!(matches!(looping.await.unwrap(), Err(CallError::Timeout(_))));
    assert!(running(&container), "a slow answer is no crash");
    until("the instance is gone", || container.usage().instances == 0).await;
}

#[tokio::test]
async fn a_cpu_limit_throttles() {
    let mut bench = Bench::prebuilt("faults").await;
    bench.spec.cpu_limit_millis = Some(100);
    bench.spec.instances.request_timeout = PATIENCE;
    let (container, http) = bench.start_http().await;
    let looping = tokio::spawn(async move { http.call(get("/loop")).await.map(|response| response.status()) });
    until("it is held back", || container.usage().throttled > Duration::ZERO).await;
    assert!(container.usage().cpu >= Duration::from_millis(10), "the burst is free");
    container.stop(Duration::ZERO).await;
    assert!(matches!(looping.await.unwrap(), Err(CallError::Failed(_))));
}

#[tokio::test]
async fn requests_are_shares_when_the_cores_do_not_suffice() {
    // Each wants every core, and more.
    let loops = std::thread::available_parallelism().unwrap().get() * 2;
    let mut containers = Vec::new();
    for request in [100, 400] {
        let mut bench =
            Bench::wat(r#"(module (func (export "_start") (loop br 0)) (memory (export "memory") 1))"#).await;
        bench.spec.cpu_request_millis = Some(request);
        let same = futures::future::join_all((0..loops).map(|_| bench.sandbox.start(&bench.spec))).await;
        containers.push((bench, same.into_iter().map(Result::unwrap).collect::<Vec<_>>()));
    }
    let used = |of: usize| containers[of].1.iter().map(|container| container.usage().cpu).sum::<Duration>();
    let enough = Duration::from_secs(1);
    until("the heavy ones had a second", || used(1) > enough).await;
    let ratio = used(1).as_secs_f64() / used(0).as_secs_f64();
    assert!((2.5..6.0).contains(&ratio), "{ratio} instead of 4");
    for container in containers.iter().flat_map(|(_, same)| same) {
        container.stop(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn stopping_waits_for_calls_and_then_interrupts_them() {
    let bench = Bench::prebuilt("faults").await;
    let call = |http: &Arc<dyn HttpService>, path: &'static str| {
        let http = http.clone();
        tokio::spawn(async move { http.call(get(path)).await.map(|response| response.status()) })
    };
    let (container, http) = bench.start_http().await;
    let slow = call(&http, "/slow?ms=200");
    until("the call is in flight", || container.usage().instances == 1).await;
    container.stop(PATIENCE).await;
    assert_eq!(slow.await.unwrap().unwrap(), 200);
    assert_eq!(exit_of(&container).await.code, 0);

    let (container, http) = bench.start_http().await;
    let endless = call(&http, "/loop");
    until("the call is in flight", || container.usage().instances == 1).await;
    container.stop(Duration::from_millis(20)).await;
    assert!(matches!(endless.await.unwrap(), Err(CallError::Failed(why)) if why.contains("stopped")));
    let exit = exit_of(&container).await;
    assert_eq!((exit.code, exit.reason), (137, "Error"));
}

#[tokio::test]
async fn calls_beyond_the_bound_stand_in_line_and_beyond_that_are_refused() {
    let mut bench = Bench::prebuilt("faults").await;
    (bench.spec.instances.max_concurrent, bench.spec.instances.max_queued) = (1, 1);
    let (container, http) = bench.start_http().await;
    let slow = |ms: u32| {
        let (http, path) = (http.clone(), format!("/slow?ms={ms}"));
        tokio::spawn(async move { http.call(get(&path)).await.map(|response| response.status()) })
    };
    let first = slow(300);
    until("the call is in flight", || container.usage().instances == 1).await;
    // Whichever of these two comes first stands in line; the other is refused at once.
    let (one, two) = tokio::join!(slow(1), slow(1));
    let refused = |call: &Result<_, CallError>| matches!(call, Err(CallError::Overloaded { .. }));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert!(refused(&one) != refused(&two), "{one:?} {two:?}");
    assert_eq!(first.await.unwrap().unwrap(), 200);
    assert_eq!(container.usage().calls, 2, "what was refused never ran");
}

#[tokio::test]
async fn those_in_line_are_handed_back_when_the_container_ends() {
    let mut bench = Bench::prebuilt("faults").await;
    bench.spec.instances.max_concurrent = 1;
    let (container, http) = bench.start_http().await;
    let call = |path: &'static str| {
        let http = http.clone();
        tokio::spawn(async move { http.call(get(path)).await })
    };
    let endless = call("/loop");
    until("the call is in flight", || container.usage().instances == 1).await;
    let waiting = call("/");
    tokio::task::yield_now().await;
    container.stop(Duration::from_millis(20)).await;
    assert!(matches!(waiting.await.unwrap(), Err(CallError::Undelivered { .. })));
    assert!(endless.await.unwrap().is_err());
}

#[tokio::test]
async fn a_request_that_takes_too_long_ends_with_its_instance_and_nothing_else() {
    let mut bench = Bench::prebuilt("faults").await;
    bench.spec.instances.request_timeout = Duration::from_millis(50);
    let (container, http) = bench.start_http().await;
    for path in ["/loop", "/slow?ms=60000"] {
        let answer = http.call(get(path)).await.map(|response| response.status());
        assert!(matches!(answer, Err(CallError::Timeout(after)) if after == bench.spec.instances.request_timeout));
        until(path, || container.usage().instances == 0).await;
    }
    assert_eq!(http.call(get("/")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn instances_are_reused_when_asked_and_reaped_when_idle() {
    let mut bench = Bench::prebuilt("hello").await;
    bench.spec.instances.max_requests_per_instance = 3;
    bench.spec.instances.idle_timeout = Duration::from_millis(50);
    let (container, http) = bench.start_http().await;
    for count in 1..=7 {
        assert_eq!(text(http.call(get("/version")).await.unwrap()).await, "1\n");
        assert_eq!(container.usage().instances, u64::from(count % 3 != 0), "after call {count}");
    }
    until("idle instances are gone", || container.usage().instances == 0).await;
}

#[tokio::test]
async fn a_flood_of_output_arrives_in_whole_lines() {
    let bench = Bench::prebuilt("faults").await;
    let (_container, http) = bench.start_http().await;
    assert_eq!(text(http.call(get("/flood")).await.unwrap()).await, "flooded\n");
    let output = bench.output.text();
    assert_eq!(output.lines().count(), 10_000);
    assert!(output.lines().enumerate().all(|(n, line)| line.starts_with(&format!("flood {n} "))));
}

#[tokio::test]
async fn commands_run_to_their_exit_code() {
    let bench = Bench::prebuilt("job").await.args(&["job", "100", "0"]);
    let exit = exit_of(&bench.start().await).await;
    assert_eq!((exit.code, exit.reason), (0, "Completed"));
    assert_eq!(bench.output.text(), "25 primes below 100\n");

    let bench = Bench::prebuilt("job").await.args(&["job", "100", "7"]);
    let exit = exit_of(&bench.start().await).await;
    assert_eq!(exit.reason, "Error");
    assert_ne!(exit.code, 0);
    assert!(bench.output.text().contains("E:ending with exit code 7, as asked\n"), "{}", bench.output.text());
}

#[tokio::test]
async fn core_modules_run_and_are_interrupted() {
    let bench = Bench::prebuilt("worker").await.args(&["worker", "1", "3"]);
    let container = bench.start().await;
    assert!(container.http().is_none());
    assert_eq!(exit_of(&container).await.code, 0);
    assert_eq!(bench.output.text(), "tick 1\ntick 2\ntick 3\n");

    for (grace, code) in [(Duration::from_secs(30), 143), (Duration::ZERO, 137)] {
        let bench = Bench::prebuilt("worker").await.args(&["worker", "10"]);
        let container = bench.start().await;
        until("it ticks", || !bench.output.text().is_empty()).await;
        assert_eq!(container.usage().instances, 1);
        assert!(container.usage().memory_bytes > 0);
        container.stop(grace).await;
        assert_eq!(exit_of(&container).await.code, code);
        until("its memory is free", || container.usage().memory_bytes == 0).await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_looping_command_yields_and_can_be_stopped() {
    let bench = Bench::wat(r#"(module (func (export "_start") (loop br 0)))"#).await;
    let container = bench.start().await;
    until("it runs", || container.usage().cpu > Duration::from_millis(5)).await;
    container.stop(Duration::ZERO).await;
    assert_eq!(exit_of(&container).await.code, 137);
}

#[tokio::test]
async fn removing_the_pod_ends_what_runs_in_it() {
    let mut bench = Bench::wat(r#"(module (func (export "_start") (loop br 0)))"#).await;
    let container = bench.start().await;
    bench.sandbox = HOST.sandbox(pod(None)).await.unwrap();
    assert_eq!(exit_of(&container).await.message, "the pod was removed");
}

#[tokio::test]
async fn traps_and_stack_overflow_of_commands_are_told() {
    let cases = [
        (r#"(module (func $boom unreachable) (func (export "_start") call $boom))"#, "boom"),
        (r#"(module (func $deep (export "_start") call $deep))"#, "call stack exhausted"),
        (r#"(module (func (export "_start") (drop (i32.div_s (i32.const 1) (i32.const 0)))))"#, "divide by zero"),
    ];
    for (wat, part) in cases {
        let bench = Bench::wat(wat).await;
        let exit = exit_of(&bench.start().await).await;
        assert_eq!(exit.code, 134);
        assert!(exit.message.contains(part), "{part}: {}", exit.message);
    }
}

#[tokio::test]
async fn tables_and_memories_are_charged() {
    let grow = r#"(module (memory 1) (func (export "_start") (loop (drop (memory.grow (i32.const 16))) br 0)))"#;
    let table = r#"(module (table 0 funcref)
        (func (export "_start") (loop (drop (table.grow (ref.null func) (i32.const 1000))) br 0)))"#;
    for (wat, limit) in [(grow, 4 << 20), (table, 100_000)] {
        let mut bench = Bench::wat(wat).await;
        bench.spec.memory_limit = Some(limit);
        assert_eq!(exit_of(&bench.start().await).await.reason, "OOMKilled", "{wat}");
    }
}

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

#[tokio::test]
async fn mounts_are_what_the_guest_sees_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |host: &str| Mount { host: dir.path().join(host), guest: "/data".to_owned(), read_only: true };
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
        bench.spec.mounts = vec![Mount { host: dir.path().to_owned(), guest: "/data".to_owned(), read_only }];
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
    bench.spec.mounts = vec![Mount { host: dir.path().to_owned(), guest: "/etc/shop".to_owned(), read_only: true }];
    let (_container, http) = bench.start_http().await;
    assert_eq!(text(http.call(get("/total?items=apple,pear")).await.unwrap()).await, "50\n");
}

#[tokio::test]
async fn calls_of_guests_go_out_through_the_node() {
    let bench = Bench::prebuilt("storefront").await;
    let (_container, http) = bench.start_http().await;
    let page = text(http.call(get("/")).await.unwrap()).await;
    assert!(page.contains("pod-1 asked GET http://cart/"), "{page}");
}

/// What the outside makes of a guest's calls.
struct Outside<F>(F);

#[async_trait::async_trait]
impl<F> Outbound for Outside<F>
where
    F: Fn() -> Result<Response<HttpBody>, OutboundError> + Send + Sync + 'static,
{
    async fn send(
        &self,
        _: &Caller,
        _: Request<HttpBody>,
        _: CallTimeouts,
    ) -> Result<Response<HttpBody>, OutboundError> {
        (self.0)()
    }
}

async fn storefront_with(
    outside: impl Fn() -> Result<Response<HttpBody>, OutboundError> + Send + Sync + 'static,
) -> Bench {
    let mut bench = Bench::prebuilt("storefront").await;
    let spec = SandboxSpec { outbound: Arc::new(Outside(outside)), ..pod(None) };
    bench.sandbox = HOST.sandbox(spec).await.unwrap();
    bench
}

#[tokio::test]
async fn a_guest_is_told_why_its_call_failed() {
    let bench = storefront_with(|| Err(OutboundError::UnknownHost("cart".to_owned()))).await;
    let (_container, http) = bench.start_http().await;
    let response = http.call(get("/")).await.unwrap();
    assert_eq!(response.status(), 502);
    let page = text(response).await;
    assert!(page.contains("DnsError"), "{page}");
}

/// More than the host buffers of a response: the guest writes while it is read.
const LONG: usize = 2 << 20;

fn long_answer() -> Result<Response<HttpBody>, OutboundError> {
    let body = Full::new(Bytes::from(vec![b'x'; LONG])).map_err(|never| match never {}).boxed_unsync();
    Ok(Response::new(body))
}

#[tokio::test]
async fn a_long_response_streams_and_then_nothing_is_left() {
    let bench = storefront_with(long_answer).await;
    let (container, http) = bench.start_http().await;
    let response = http.call(get("/")).await.unwrap();
    assert_eq!(container.usage().instances, 1, "the guest is still writing");
    let page = text(response).await;
    assert_eq!(page.bytes().filter(|&byte| byte == b'x').count(), LONG);
    assert!(page.ends_with("buy: /buy?items=apple,pear\n"));
    until("the instance is gone", || container.usage().instances == 0).await;
}

#[tokio::test]
async fn a_streaming_instance_is_reused_too() {
    let mut bench = storefront_with(long_answer).await;
    bench.spec.instances.max_requests_per_instance = 10;
    bench.spec.instances.idle_timeout = PATIENCE;
    let (container, http) = bench.start_http().await;
    for _ in 0..3 {
        assert!(text(http.call(get("/")).await.unwrap()).await.len() > LONG);
        // One that takes longer than a tick ends on another thread, perhaps after its reader.
        assert!(container.usage().instances <= 2);
    }
    container.stop(PATIENCE).await;
    until("no instance is left", || container.usage().instances == 0).await;
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_its_guest_with_it() {
    let bench = storefront_with(long_answer).await;
    let (container, http) = bench.start_http().await;
    drop(http.call(get("/")).await.unwrap());
    until("its instance is gone", || container.usage().instances == 0).await;
    assert!(running(&container));
}

#[tokio::test]
async fn stopping_waits_for_a_response_that_streams() {
    let bench = storefront_with(long_answer).await;
    let (container, http) = bench.start_http().await;
    let response = http.call(get("/")).await.unwrap();
    let stopping = tokio::spawn({
        let container = container.clone();
        async move { container.stop(PATIENCE).await }
    });
    assert!(text(response).await.len() > LONG);
    stopping.await.unwrap();
    assert_eq!(exit_of(&container).await.code, 0);
}

#[tokio::test]
async fn a_panic_of_the_host_ends_that_container_alone() {
    let hit = storefront_with(|| panic!("a bug in the host")).await;
    let other = Bench::prebuilt("hello").await;
    let ((container, http), (beside, beside_http)) = (hit.start_http().await, other.start_http().await);
    let failed = http.call(get("/")).await.unwrap_err();
    assert!(matches!(&failed, CallError::Failed(why) if why.contains("the host failed")), "{failed}");
    assert_eq!(exit_of(&container).await.code, 134);
    assert_eq!(beside_http.call(get("/")).await.unwrap().status(), 200);
    assert!(running(&beside));
}

/// What comes back of a line sent to the pod's port.
async fn echoed(port: u16) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.64.0.9", port)).await?;
    stream.write_all(b"hello").await?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn a_server_listens_on_its_pods_address_until_it_is_stopped() {
    for (family, port) in [("4", 7104), ("6", 7106)] {
        let mut bench = Bench::prebuilt("echo").await.args(&["echo", &port.to_string()]);
        bench.spec.env.push(("ECHO_FAMILY".to_owned(), family.to_owned()));
        // A second life finds the port free.
        for _ in 0..2 {
            let container = bench.start().await;
            until("it listens", || bench.output.text().contains("listening on") || !running(&container)).await;
            assert_eq!(echoed(port).await.unwrap(), "hello", "{}", bench.output.text());
            assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err());
            container.stop(Duration::ZERO).await;
            assert!(echoed(port).await.is_err(), "its sockets are closed when it has exited");
            let seen = if family == "4" { "connected: 127." } else { "connected: [::ffff:127." };
            let text = std::mem::take(&mut *bench.output.0.lock().unwrap());
            assert!(text.contains(seen), "{text}");
        }
    }
}

#[tokio::test]
async fn a_guest_connects_nowhere_without_the_nodes_leave() {
    let bench = Bench::prebuilt("echo").await.args(&["echo", "127.0.0.1", "22"]);
    let exit = exit_of(&bench.start().await).await;
    assert_eq!(exit.code, 1);
    let said = bench.output.text().to_lowercase();
    assert!(said.contains("e:echo: access") && said.contains("denied"), "{said}");
}

#[tokio::test]
async fn a_reactor_is_initialised_and_asked_what_the_command_names() {
    let wat = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\10\00\00\00\05\00\00\00\18\00\00\00\05\00\00\00")
        (data (i32.const 16) "init\n   tick\n")
        (func (export "_initialize") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64))))
        (func (export "tick") (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 64))))
        (func (export "takes") (param i32) unreachable))"#;
    for (command, printed) in
        [("tick", "init\ntick\n"), ("main", "init\n"), ("takes", "init\n"), ("_initialize", "init\n")]
    {
        let bench = Bench::wat(wat).await.args(&[command]);
        let exit = exit_of(&bench.start().await).await;
        assert_eq!((exit.code, bench.output.text().as_str()), (0, printed), "{command}");
    }
}

//! The host as a whole, with the project's own guests and a few written out here.

mod calls_by_cgi;
mod capabilities;
mod commands;
mod concurrent;
mod files;
mod images;
mod limits;
mod made;
mod outside;
mod room;
mod shared;

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
            target: None,
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
        cpu_limit_millis: None,
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

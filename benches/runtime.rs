//! The Wasm host by the microsecond, beside the way the engine's own documentation embeds it.
//!
//! Criterion's figures are means of many runs; the report printed after them has what the goals are
//! stated in: percentiles, processor time a request, bytes a container. `cargo bench --bench runtime`.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle::runtime::wasm::{WasmConfig, WasmRuntime, digest_of};
use coracle::runtime::{
    Container, ContainerSpec, Grants, ImageSource, InstancePolicy, Isolation, LinuxContainer, LinuxSandbox, Output,
    RunState, Runtime as _, Sandbox, SandboxSpec, Stream,
};
use coracle::wire::{CallTimeouts, Caller, HttpBody, HttpService, Outbound, OutboundError};
use criterion::Criterion;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use tokio::runtime::Runtime;

#[path = "runtime/reference.rs"]
mod reference;

use reference::Reference;

struct Nowhere;

#[async_trait::async_trait]
impl Outbound for Nowhere {
    async fn send(
        &self,
        _: &Caller,
        request: Request<HttpBody>,
        _: CallTimeouts,
    ) -> Result<Response<HttpBody>, OutboundError> {
        Err(OutboundError::UnknownHost(request.uri().to_string()))
    }
}

struct Discard;

impl Output for Discard {
    fn write(&self, _: Stream, _: &[u8]) {}
}

fn guest(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("workloads/prebuilt/{name}/1.wasm"))
}

fn request(path: &str) -> Request<HttpBody> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::get(format!("http://bench{path}")).body(body).expect("a valid request")
}

/// A pod of one container of this host.
struct Pod {
    sandbox: Arc<dyn Sandbox>,
    spec: ContainerSpec,
}

impl Pod {
    async fn new(host: &WasmRuntime, name: &str, instances: InstancePolicy) -> Self {
        let path = guest(name);
        let digest = digest_of(&std::fs::read(&path).expect("the guest is built"));
        let source = ImageSource { reference: format!("{name}:1"), path, digest, snapshot: false };
        let spec = ContainerSpec {
            name: "main".to_owned(),
            image: host.prepare(&source).await.expect("the guest compiles"),
            args: vec![name.to_owned()],
            env: vec![("HOSTNAME".to_owned(), "bench".to_owned())],
            mounts: Vec::new(),
            deferred: None,
            memory_limit: Some(64 << 20),
            cpu_limit_millis: None,
            cpu_request_millis: None,
            output: Arc::new(Discard),
            grants: Grants::default(),
            instances,
            run: 0,
            linux: LinuxContainer::default(),
            target: None,
        };
        let sandbox = SandboxSpec {
            uid: "bench".to_owned(),
            namespace: "default".to_owned(),
            name: "bench".to_owned(),
            hostname: "bench".to_owned(),
            ip: "127.64.0.1".parse().expect("an address"),
            memory_limit: Some(128 << 20),
            cpu_limit_millis: None,
            isolation: Isolation::Shared,
            outbound: Arc::new(Nowhere),
            linux: LinuxSandbox::default(),
        };
        Self { sandbox: host.sandbox(sandbox).await.expect("a sandbox"), spec }
    }

    async fn start(&self) -> (Arc<dyn Container>, Arc<dyn HttpService>) {
        let container = self.sandbox.start(&self.spec).await.expect("it starts");
        let http = container.http().expect("it serves");
        (container, http)
    }
}

async fn call(http: &Arc<dyn HttpService>, path: &str) {
    let response = http.call(request(path)).await.expect("an answer");
    black_box(response.into_body().collect().await.expect("a body").to_bytes());
}

fn reuse(requests: u32) -> InstancePolicy {
    InstancePolicy { max_requests_per_instance: requests, ..InstancePolicy::default() }
}

/// A trap, the restart that follows it at once, and the first answer after.
async fn heal(pod: &Pod, http: &mut Arc<dyn HttpService>, container: &mut Arc<dyn Container>) {
    let mut state = container.state();
    let _ = http.call(request("/trap")).await;
    let _ = state.wait_for(|state| matches!(state, RunState::Exited(_))).await;
    (*container, *http) = pod.start().await;
    call(http, "/").await;
}

struct Setup {
    tokio: Runtime,
    host: WasmRuntime,
}

fn criterion_benches(setup: &Setup) {
    let mut criterion = Criterion::default().configure_from_args().measurement_time(Duration::from_secs(3));
    let (fresh, reused) = setup.tokio.block_on(async {
        (
            Pod::new(&setup.host, "hello", InstancePolicy::default()).await,
            Pod::new(&setup.host, "hello", reuse(128)).await,
        )
    });
    criterion.bench_function("start a container", |b| b.iter(|| setup.tokio.block_on(fresh.start())));
    let (_container, http) = setup.tokio.block_on(fresh.start());
    criterion.bench_function("request, an instance each", |b| b.iter(|| setup.tokio.block_on(call(&http, "/"))));
    let (_container, http) = setup.tokio.block_on(reused.start());
    criterion.bench_function("request, 128 an instance", |b| b.iter(|| setup.tokio.block_on(call(&http, "/"))));
    let faults = setup.tokio.block_on(Pod::new(&setup.host, "faults", InstancePolicy::default()));
    let (mut container, mut http) = setup.tokio.block_on(faults.start());
    criterion.bench_function("trap to serving", |b| {
        b.iter(|| setup.tokio.block_on(heal(&faults, &mut http, &mut container)));
    });
    criterion.final_summary();
}

/// Percentiles of single runs.
fn percentiles(name: &str, count: usize, goal: &str, mut one: impl FnMut() -> Duration) {
    for _ in 0..count / 10 {
        one();
    }
    let mut times: Vec<Duration> = (0..count).map(|_| one()).collect();
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_nanos() as f64 / 1000.0;
    println!("{name:<34} p50 {:>8.1} µs   p99 {:>8.1} µs   {goal}", at(0.5), at(0.99));
}

fn process_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Processor time a request of the whole process, in microseconds.
fn cpu_per_request(requests: u32, mut run: impl FnMut(u32)) -> f64 {
    run(requests / 10);
    let before = process_time();
    run(requests);
    (process_time() - before).as_secs_f64() * 1e6 / f64::from(requests)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) * rustix::param::page_size() as u64
}

fn report(setup: &Setup) {
    let Setup { tokio, host } = setup;
    let timed = |future: &mut dyn FnMut()| {
        let started = Instant::now();
        future();
        started.elapsed()
    };
    println!();
    let hello = tokio.block_on(Pod::new(host, "hello", InstancePolicy::default()));
    let faults = tokio.block_on(Pod::new(host, "faults", InstancePolicy::default()));
    percentiles("start (instantiates once)", 5000, "goal: p99 ≤ 50", || {
        timed(&mut || drop(black_box(tokio.block_on(hello.start()))))
    });
    let (_container, http) = tokio.block_on(hello.start());
    percentiles("instantiate + request", 10_000, "", || timed(&mut || tokio.block_on(call(&http, "/"))));
    let (mut container, mut crashing) = tokio.block_on(faults.start());
    percentiles("trap to serving", 2000, "goal: p99 ≤ 1000", || {
        timed(&mut || tokio.block_on(heal(&faults, &mut crashing, &mut container)))
    });

    let reused = tokio.block_on(Pod::new(host, "hello", reuse(128)));
    let (_reused, reused_http) = tokio.block_on(reused.start());
    let reference = Arc::new(tokio.block_on(Reference::new(&guest("hello"))));
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..7 {
        samples[0].push(cpu_per_request(5000, |n| {
            tokio.block_on(async {
                for _ in 0..n {
                    call(&http, "/").await
                }
            })
        }));
        samples[1].push(cpu_per_request(5000, |n| {
            tokio.block_on(async {
                for _ in 0..n {
                    call(&reused_http, "/").await
                }
            })
        }));
        samples[2].push(cpu_per_request(5000, |n| {
            tokio.block_on(async {
                for _ in 0..n {
                    black_box(reference.call(request("/")).await);
                }
            })
        }));
    }
    let [ours, reused, theirs] = samples.map(median);
    println!(
        "CPU a request: {ours:.1} µs an instance each, {reused:.1} µs 128 an instance; documented embedding {theirs:.1} µs; ratio {:.2} (goal ≤ 1.1)",
        ours / theirs
    );

    let before = resident_bytes();
    let pods: Vec<_> = tokio.block_on(async {
        let mut pods = Vec::new();
        for _ in 0..1000 {
            let pod = Pod::new(host, "hello", InstancePolicy::default()).await;
            let started = pod.start().await;
            pods.push((pod, started));
        }
        pods
    });
    println!("an idle container: {} bytes (goal ≤ 65536)", resident_bytes().saturating_sub(before) / pods.len() as u64);
}

fn main() {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let host = WasmRuntime::new(WasmConfig::default()).expect("the host");
    let setup = Setup { tokio, host };
    criterion_benches(&setup);
    report(&setup);
}

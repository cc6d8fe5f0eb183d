//! Pods of ordinary images beside `docker run` of the same image, and beside the same program as a Wasm pod,
//! in one run. The program is `workloads/worker`, built here for Linux as well. Needs root, `dockerd` and a
//! compiler for static programs, and says so when they are missing.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, LogParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;

use crate::harness::{Cluster, PATIENCE, percentiles};
use crate::sections::{block_on, scratch};

const ROUNDS: usize = 20;
/// The first rounds warm caches up.
const WARM: usize = 2;
/// What the program waits between its one line and its end.
const LIFE: Duration = Duration::from_millis(600);
const IMAGE: &str = "worker:1";

/// An engine of the benchmark's own. Dropping it ends it.
struct Engine {
    process: Child,
    address: String,
}

impl Engine {
    fn start(dir: &Path) -> Option<Self> {
        let path = |name: &str| dir.join(name);
        let address = format!("unix://{}", path("docker.sock").display());
        let mut command = Command::new("dockerd");
        command.arg("--data-root").arg(path("data")).arg("--exec-root").arg(path("exec"));
        command.arg("--pidfile").arg(path("pid")).args(["-H", &address]);
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none"]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let engine = Self { process, address };
        let started = Instant::now();
        while engine.docker(&["version"]).is_none() {
            if started.elapsed() > PATIENCE {
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let root = path("root");
        std::fs::create_dir_all(root.join("bin")).ok()?;
        let mut compiler = Command::new("rustc");
        compiler.args(["--edition=2021", "-O", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"]);
        compiler.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/worker/src/main.rs"));
        compiler
            .arg("-o")
            .arg(root.join("bin/worker"))
            .stderr(Stdio::null())
            .status()
            .ok()
            .filter(|it| it.success())?;
        let tar = path("root.tar");
        Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status().ok()?;
        engine.docker(&["import", "--change", "ENTRYPOINT [\"/bin/worker\"]", &tar.display().to_string(), IMAGE])?;
        Some(engine)
    }

    fn docker(&self, args: &[&str]) -> Option<String> {
        let output = Command::new("docker").args(["-H", &self.address]).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

fn arguments() -> [String; 2] {
    [LIFE.as_millis().to_string(), "1".to_owned()]
}

fn pod(name: &str, class: &str) -> Pod {
    let container = json!({ "name": "main", "image": IMAGE, "args": arguments(), "imagePullPolicy": "IfNotPresent" });
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "bench": class } },
        "spec": { "runtimeClassName": class, "terminationGracePeriodSeconds": 0, "containers": [container] },
    }))
    .expect("a pod")
}

/// Lives of the pod's container so far, if it runs or has run.
fn lives(pod: &Pod) -> Option<i32> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let state = status.state.as_ref()?;
    (state.running.is_some() || state.terminated.is_some() || status.restart_count > 0).then_some(status.restart_count)
}

/// When the first line was said, of a log with times.
fn first_line(log: &str) -> Option<Timestamp> {
    log.lines().next()?.split(' ').next()?.parse().ok()
}

/// From the end of the life that said its line at `before` to the line of the next.
fn gap(before: Timestamp, after: Timestamp) -> Duration {
    Duration::try_from(after.duration_since(before)).unwrap_or_default().saturating_sub(LIFE)
}

/// From sending a pod to its container seen running; and from the program's end to the next life's first word.
async fn times(pods: &Api<Pod>, class: &str) -> (Vec<Duration>, Vec<Duration>) {
    let config = watcher::Config::default().labels(&format!("bench={class}"));
    let mut seen = watcher(pods.clone(), config).applied_objects().boxed();
    let (mut starts, mut restarts) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + WARM {
        let name = format!("{class}-{round}");
        let began = Instant::now();
        pods.create(&PostParams::default(), &pod(&name, class)).await.expect("created");
        let mut started = None;
        while let Some(pod) = seen.try_next().await.expect("a watch") {
            let lives = lives(&pod).filter(|_| pod.metadata.name.as_deref() == Some(&name));
            started = started.or_else(|| lives.map(|_| began.elapsed()));
            if lives.is_some_and(|lives| lives > 0) {
                break;
            }
        }
        let line = async |previous| {
            let params = LogParams { timestamps: true, previous, ..LogParams::default() };
            let asked = Instant::now();
            loop {
                let log = pods.logs(&name, &params).await.unwrap_or_default();
                if let Some(at) = first_line(&log) {
                    return at;
                }
                assert!(asked.elapsed() < PATIENCE, "{name} says nothing");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let after = line(false).await;
        let before = line(true).await;
        if round >= WARM {
            starts.extend(started);
            restarts.push(gap(before, after));
        }
        pods.delete(&name, &DeleteParams::default()).await.expect("deleted");
    }
    (starts, restarts)
}

/// The same of the engine alone: `docker run` until it returns, and its own restart of what has ended.
fn plain(engine: &Engine) -> (Vec<Duration>, Vec<Duration>) {
    let (mut starts, mut restarts) = (Vec::new(), Vec::new());
    let [pause, count] = arguments();
    for round in 0..ROUNDS + WARM {
        let began = Instant::now();
        let run = ["run", "-d", "--restart=always", "--network=peer", IMAGE, &pause, &count];
        let id = engine.docker(&run).expect("it runs");
        let started = began.elapsed();
        let lines = loop {
            let log = engine.docker(&["logs", "--timestamps", &id]).unwrap_or_default();
            let times: Vec<Timestamp> = log.lines().filter_map(first_line).collect();
            if let [first, second, ..] = times[..] {
                break (first, second);
            }
            assert!(began.elapsed() < PATIENCE, "it does not restart: {log}");
            std::thread::sleep(Duration::from_millis(20));
        };
        if round >= WARM {
            starts.push(started);
            restarts.push(gap(lines.0, lines.1));
        }
        engine.docker(&["rm", "-f", &id]).expect("removed");
    }
    (starts, restarts)
}

pub fn docker() {
    let (dir, engine_dir) = (scratch(), scratch());
    let Some(engine) = Engine::start(engine_dir.path()) else {
        return println!("  needs root, dockerd, docker, and rustc with a linker for static programs");
    };
    engine.docker(&["network", "create", "--subnet", "100.63.0.0/24", "peer"]).expect("a network");
    let (starts, restarts) = plain(&engine);
    percentiles("docker run -d, on a bridge, until it returns", starts, "");
    percentiles("  its end to the next first line, restarted", restarts, "(the engine waits 100 ms first)");
    let flag = format!("--docker={}", engine.address);
    let cluster = Cluster::start_with(dir.path(), 1, &[], &[&flag]);
    block_on(async {
        let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
        let (starts, restarts) = times(&pods, "docker").await;
        percentiles("a pod of it: POST to running, as watched", starts, "goal: ≤ 1.15 × docker run");
        percentiles("  its end to the next life's first line", restarts, "goal: ≤ 1.15 × docker run");
        let (starts, restarts) = times(&pods, "wasm").await;
        percentiles("a Wasm pod: POST to running, as watched", starts, "");
        percentiles("  its end to the next life's first line", restarts, "");
    });
    drop(cluster);
    let _ = engine.docker(&["network", "rm", "peer"]);
}

//! Pods of ordinary images beside `docker run` of the same image, and beside a Wasm pod, in one run. Needs
//! root, `dockerd` and a static busybox, and says so when they are missing.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;

use crate::harness::{Cluster, PATIENCE, percentiles};
use crate::sections::{block_on, scratch};

const ROUNDS: usize = 20;

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
        std::fs::copy("/usr/bin/busybox", root.join("bin/sleep")).ok()?;
        let tar = path("root.tar");
        Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status().ok()?;
        engine.docker(&["import", &tar.display().to_string(), "bench:1"])?;
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

fn pod(name: &str, image: &str, class: &str) -> Pod {
    let mut container = json!({ "name": "main", "image": image });
    if class == "docker" {
        container["command"] = json!(["/bin/sleep", "1000"]);
    }
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "bench": "docker" } },
        "spec": { "runtimeClassName": class, "terminationGracePeriodSeconds": 0, "containers": [container] },
    }))
    .expect("a pod")
}

/// Lives of the pod's container so far, if it runs now.
fn running(pod: &Pod) -> Option<i32> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    status.state.as_ref()?.running.as_ref().map(|_| status.restart_count)
}

/// From sending a pod to its container seen running; and from its container's end to the next seen running.
async fn times(pods: &Api<Pod>, image: &str, class: &str, end: impl Fn(&Pod)) -> (Vec<Duration>, Vec<Duration>) {
    let config = watcher::Config::default().labels("bench=docker");
    let mut seen = watcher(pods.clone(), config).applied_objects().boxed();
    let (mut starts, mut restarts) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + 2 {
        let name = format!("{class}-{round}");
        let mut began = Instant::now();
        pods.create(&PostParams::default(), &pod(&name, image, class)).await.expect("created");
        let mut lives = 0;
        while let Some(pod) = seen.try_next().await.expect("a watch") {
            let is_it = pod.metadata.name.as_deref() == Some(&name) && running(&pod) == Some(lives);
            if !is_it {
                continue;
            }
            // The first rounds warm caches up.
            let list = if lives == 0 { &mut starts } else { &mut restarts };
            list.extend((round >= 2).then(|| began.elapsed()));
            if lives == 1 || class != "docker" {
                break;
            }
            lives = 1;
            end(&pod);
            began = Instant::now();
        }
        pods.delete(&name, &DeleteParams::default()).await.expect("deleted");
    }
    (starts, restarts)
}

pub fn docker() {
    let (dir, engine_dir) = (scratch(), scratch());
    let Some(engine) = Engine::start(engine_dir.path()) else {
        return println!("  needs root, dockerd, docker and /usr/bin/busybox (busybox-static)");
    };
    engine.docker(&["network", "create", "--subnet", "100.63.0.0/24", "peer"]).expect("a network");
    let mut plain = Vec::new();
    for round in 0..ROUNDS + 2 {
        let began = Instant::now();
        let id = engine.docker(&["run", "-d", "--network", "peer", "bench:1", "/bin/sleep", "1000"]).expect("it runs");
        plain.extend((round >= 2).then(|| began.elapsed()));
        engine.docker(&["rm", "-f", &id]).expect("removed");
    }
    percentiles("docker run -d, on a bridge", plain, "");
    let flag = format!("--docker={}", engine.address);
    let cluster = Cluster::start_with(dir.path(), 1, &[], &[&flag]);
    block_on(async {
        let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
        let kill = |pod: &Pod| {
            let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
            let id = statuses.and_then(|statuses| statuses.first()?.container_id.clone()).unwrap_or_default();
            engine.docker(&["kill", id.trim_start_matches("docker://")]).expect("killed");
        };
        let (starts, restarts) = times(&pods, "bench:1", "docker", kill).await;
        percentiles("a pod of it: POST to running seen by a watcher", starts, "");
        percentiles("its end to the next life seen running", restarts, "goal: ≤ 1.15 × docker run");
        let (starts, _) = times(&pods, "hello:1", "wasm", |_| ()).await;
        percentiles("a Wasm pod: POST to running seen", starts, "");
    });
    drop(cluster);
    let _ = engine.docker(&["network", "rm", "peer"]);
}

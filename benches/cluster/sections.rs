//! The sections of the report.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;

use crate::harness::{Cluster, PATIENCE, cpu_time, free_address, median, mib, percentiles, resident, status_of};

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// `up` on an empty cluster, again and again with the same data; memory once it is idle.
pub fn start() {
    let dir = scratch();
    let first = Cluster::start(dir.path(), 1, &[]);
    println!("  the first start, keys and all: {:.0} ms", first.ready_after.as_secs_f64() * 1e3);
    drop(first);
    let times = (0..20).map(|_| Cluster::start(dir.path(), 1, &[]).ready_after).collect();
    percentiles("exec to ready", times, "goal: ≤ 500");
    let cluster = Cluster::start(dir.path(), 1, &[]);
    settle();
    for role in ["server", "node-1", "up"] {
        let goal = if role == "server" { "goal: ≤ 60" } else { "" };
        let (all, files) = resident(cluster.pid(role));
        println!(
            "  {role:<8} idle: {:.1} MiB resident, {:.1} of it code and other files  {goal}",
            mib(all),
            mib(files)
        );
    }
}

/// Lets what follows a start (first leases, controllers' scans) pass.
pub fn settle() {
    std::thread::sleep(Duration::from_secs(2));
}

/// One pod after the other: from sending it to its Ready seen by a watcher.
pub fn apply() {
    let dir = scratch();
    let cluster = Cluster::start(dir.path(), 1, &["manifests/hello.yaml"]);
    let times = block_on(async {
        let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
        let config = watcher::Config::default().labels("bench=apply");
        let mut seen = watcher(pods.clone(), config).applied_objects().boxed();
        let mut times = Vec::new();
        for number in 0..220 {
            let pod = pod(&format!("bench-{number}"));
            let started = Instant::now();
            let create = async { pods.create(&PostParams::default(), &pod).await.expect("created") };
            let ready = async {
                while let Some(pod) = seen.try_next().await.expect("a watch") {
                    if pod.metadata.name.as_deref() == Some(&format!("bench-{number}")) && is_ready(&pod) {
                        return started.elapsed();
                    }
                }
                unreachable!("a watch never ends");
            };
            let (_, took) = tokio::join!(create, ready);
            if number >= 20 {
                times.push(took);
            }
        }
        times
    });
    percentiles("a pod's POST to Ready seen by a watcher", times, "goal: p50 ≤ 5");
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "bench": "apply" } },
        "spec": { "containers": [{ "name": "hello", "image": "hello:1", "ports": [{ "containerPort": 8080 }] }] },
    }))
    .expect("a pod")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A Deployment of `replicas`; resolves when `ready` of them are.
async fn deploy(deployments: &Api<Deployment>, name: &str, replicas: i32) -> Duration {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": { "containers": [
                { "name": "hello", "image": "hello:1", "ports": [{ "containerPort": 8080 }] },
            ] } },
        },
    });
    let deployment: Deployment = serde_json::from_value(deployment).expect("a deployment");
    let started = Instant::now();
    deployments.create(&PostParams::default(), &deployment).await.expect("created");
    wait_until_ready(deployments, name, replicas).await;
    started.elapsed()
}

pub async fn wait_until_ready(deployments: &Api<Deployment>, name: &str, replicas: i32) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut seen = watcher(deployments.clone(), config).applied_objects().boxed();
    while let Some(deployment) = seen.try_next().await.expect("a watch") {
        let status = deployment.status.unwrap_or_default();
        if status.ready_replicas.unwrap_or(0) >= replicas && status.unavailable_replicas.unwrap_or(0) == 0 {
            return;
        }
    }
}

/// 1,000 pods of one Deployment: how soon they are ready, what each weighs.
pub fn thousand() {
    const PODS: i32 = 1000;
    let mut times = Vec::new();
    for round in 0..3 {
        let dir = scratch();
        let cluster = Cluster::start(dir.path(), 1, &["manifests/hello.yaml"]);
        settle();
        let roles = ["server", "node-1"].map(|role| cluster.pid(role));
        let before = roles.map(|pid| resident(pid).0);
        let cpu = roles.map(cpu_time);
        let took = block_on(async {
            let deployments: Api<Deployment> = Api::default_namespaced(cluster.client().await);
            tokio::time::timeout(PATIENCE, deploy(&deployments, "many", PODS)).await.expect("ready in time")
        });
        times.push(took);
        let cpu = [0, 1].map(|index| (cpu_time(roles[index]) - cpu[index]).as_secs_f64());
        settle();
        let first = roles.map(|pid| resident(pid).0);
        // The first thousand also fill the bounded caches; what each further pod weighs is the rest.
        block_on(async {
            let deployments: Api<Deployment> = Api::default_namespaced(cluster.client().await);
            tokio::time::timeout(PATIENCE, deploy(&deployments, "more", PODS)).await.expect("ready in time")
        });
        settle();
        let second = roles.map(|pid| resident(pid).0);
        let each = |from: [u64; 2], to: [u64; 2]| {
            [0, 1].map(|index| to[index].saturating_sub(from[index]) as f64 / f64::from(PODS) / 1024.0)
        };
        let ([server, node], [more_server, more_node]) = (each(before, first), each(first, second));
        println!(
            "  round {round}: {PODS} ready after {:.2} s (CPU: server {:.2} s, node {:.2} s)",
            took.as_secs_f64(),
            cpu[0],
            cpu[1]
        );
        println!(
            "    KiB a pod: the first thousand {server:.1} server + {node:.1} node, the second {more_server:.1} + {more_node:.1} = {:.1} (goal: ≤ 100 in all)",
            more_server + more_node
        );
    }
    percentiles("1,000 pods of one Deployment ready", times, "goal: ≤ 2000");
}

/// A trap, then requests one after the other until one is answered.
pub fn heal() {
    let dir = scratch();
    let cluster = Cluster::start(dir.path(), 1, &["manifests/faults.yaml"]);
    block_on(async {
        let deployments: Api<Deployment> = Api::default_namespaced(cluster.client().await);
        let one = json!({ "spec": { "replicas": 1 } });
        deployments.patch("faults", &PatchParams::default(), &Patch::Merge(one)).await.expect("scaled");
        wait_until_ready(&deployments, "faults", 1).await;
    });
    settle();
    let ask = |path| status_of(cluster.ingress, "faults.example", path);
    let mut times = Vec::new();
    let mut alone = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        assert_eq!(ask("/"), 200, "it serves");
        alone.push(started.elapsed());
        ask("/trap");
        let trapped = Instant::now();
        while ask("/") != 200 {
            assert!(trapped.elapsed() < PATIENCE, "it never came back");
        }
        times.push(trapped.elapsed());
    }
    percentiles("a request alone, on a new connection", alone, "");
    percentiles("trap answered to the same pod's next answer", times, "goal: p99 ≤ 1");
}

/// kill -9 of one of three node processes, until the Deployment has all its replicas ready again.
pub fn kill() {
    const REPLICAS: i32 = 12;
    let dir = scratch();
    let cluster = Cluster::start(dir.path(), 3, &["manifests/hello.yaml"]);
    let mut times = Vec::new();
    block_on(async {
        let client = cluster.client().await;
        let (deployments, pods): (Api<Deployment>, Api<Pod>) =
            (Api::default_namespaced(client.clone()), Api::default_namespaced(client.clone()));
        for round in 0..11 {
            let name = format!("moved-{round}");
            deploy(&deployments, &name, REPLICAS).await;
            let selector = kube::api::ListParams::default().labels(&format!("app={name}"));
            let before = pods.list(&selector).await.expect("pods");
            let uids: Vec<_> =
                before.items.iter().filter(|pod| on(pod, "node-2")).map(|p| p.metadata.uid.clone()).collect();
            assert!(!uids.is_empty(), "node-2 has pods");
            let config = watcher::Config::default().labels(&format!("app={name}"));
            let mut seen = watcher(pods.clone(), config).applied_objects().boxed();
            let mut ready: std::collections::HashMap<_, _> =
                before.items.iter().filter(|pod| !on(pod, "node-2")).map(|p| (p.metadata.uid.clone(), true)).collect();
            cluster.kill("node-2");
            let killed = Instant::now();
            while ready.values().filter(|ready| **ready).count() < REPLICAS as usize {
                let pod = seen.try_next().await.expect("a watch").expect("never ends");
                if !uids.contains(&pod.metadata.uid) {
                    ready.insert(pod.metadata.uid.clone(), is_ready(&pod) && pod.metadata.deletion_timestamp.is_none());
                }
            }
            times.push(killed.elapsed());
            deployments.delete(&name, &DeleteParams::background()).await.expect("deleted");
            rejoined(&client).await;
        }
    });
    percentiles("node killed to its pods ready elsewhere", times, "goal: p50 ≤ 250");
}

/// Asks each until it has answered, with a few clients side by side. When the first has.
fn ask_all(addresses: &[std::net::SocketAddr]) -> Instant {
    let began = Instant::now();
    let ask = |pods: &[std::net::SocketAddr]| {
        let answered = pods.iter().map(|pod| {
            while status_of(*pod, "hello", "/") != 200 {
                assert!(began.elapsed() < PATIENCE, "{pod} never came back");
                std::thread::sleep(Duration::from_millis(1));
            }
            Instant::now()
        });
        answered.collect::<Vec<_>>()[0]
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = addresses.chunks(250).map(|pods| scope.spawn(move || ask(pods))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).min().expect("a pod")
    })
}

/// kill -9 of the only node process, which runs 1,000 pods, until each of them has answered again. They are
/// asked on new connections by clients that take a core's time of their own, which is part of the figure.
pub fn crash() {
    const PODS: i32 = 1000;
    let dir = scratch();
    let cluster = Cluster::start(dir.path(), 1, &["manifests/hello.yaml"]);
    let addresses: Vec<std::net::SocketAddr> = block_on(async {
        let client = cluster.client().await;
        let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
        tokio::time::timeout(PATIENCE, deploy(&deployments, "many", PODS)).await.expect("ready in time");
        let pods: Api<Pod> = Api::default_namespaced(client);
        let pods = pods.list(&kube::api::ListParams::default().labels("app=many")).await.expect("pods");
        let ip = |pod: Pod| pod.status?.pod_ip?.parse::<std::net::IpAddr>().ok();
        pods.items.into_iter().filter_map(ip).map(|ip| (ip, 8080).into()).collect()
    });
    assert_eq!(addresses.len(), PODS as usize, "each has an address");
    let (mut first, mut all, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..7 {
        // Longer than the supervisor takes a process for one that keeps failing, which it lets wait.
        (0..4).for_each(|_| settle());
        let began = Instant::now();
        ask_all(&addresses);
        alone.push(began.elapsed());
        cluster.kill("node-1");
        let killed = Instant::now();
        first.push(ask_all(&addresses) - killed);
        all.push(killed.elapsed());
    }
    percentiles("1,000 pods asked once each, nothing having happened", alone, "");
    percentiles("host process killed to the first pod's answer", first, "");
    percentiles("host process killed to the last of 1,000 answers", all, "goal: ≤ 100");
}

fn on(pod: &Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
}

/// Until all three nodes are ready and carry no taint.
async fn rejoined(client: &kube::Client) {
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    let fine = |node: &k8s_openapi::api::core::v1::Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        ready && node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).is_none_or(Vec::is_empty)
    };
    loop {
        let all = nodes.list(&kube::api::ListParams::default()).await.expect("nodes");
        if all.items.iter().filter(|node| fine(node)).count() == 3 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// CPU a request through the ingress and through a ClusterIP, beside `wasmtime serve`, in turns.
pub fn requests() {
    let there = |program: &str| {
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    for program in ["wrk", "wasmtime"] {
        if !there(program) {
            return println!("  skipped: {program} is not on the PATH");
        }
    }
    let dir = scratch();
    let cluster = Cluster::start(dir.path(), 1, &["manifests/hello.yaml"]);
    let service = block_on(async {
        let client = cluster.client().await;
        let services: Api<k8s_openapi::api::core::v1::Service> = Api::default_namespaced(client.clone());
        let service = services.get("hello").await.expect("the Service");
        let deployments: Api<Deployment> = Api::default_namespaced(client);
        let one = json!({ "spec": { "replicas": 1 } });
        deployments.patch("hello", &PatchParams::default(), &Patch::Merge(one)).await.expect("scaled");
        service.spec.and_then(|spec| spec.cluster_ip).expect("a ClusterIP")
    });
    let peer_address = free_address();
    let peer = Peer::start(&peer_address.to_string());
    while status_of(peer_address, "peer", "/") != 200 {
        std::thread::sleep(Duration::from_millis(20));
    }
    settle();
    let node = cluster.pid("node-1");
    let servers = [
        ("wasmtime serve -O pooling-allocator=y", format!("http://{peer_address}/"), peer.0.id().cast_signed()),
        ("ingress → Service → pod", format!("http://{}/", cluster.ingress), node),
        ("ClusterIP → pod", format!("http://{service}/"), node),
    ];
    for connections in [1, 16] {
        let mut figures = vec![Vec::new(); servers.len()];
        for round in 0..6 {
            for (index, (_, url, pid)) in servers.iter().enumerate() {
                let before = cpu_time(*pid);
                let done = wrk(url, connections);
                // The first round warms up.
                if round > 0 {
                    figures[index].push((
                        (cpu_time(*pid) - before).as_secs_f64() * 1e6 / done.requests,
                        done.requests / done.seconds,
                    ));
                }
            }
        }
        println!("  {connections} connections");
        for (index, (name, ..)) in servers.iter().enumerate() {
            let ratio = figures[index].iter().zip(&figures[0]).map(|(own, base)| own.0 / base.0).collect();
            println!(
                "    {name:<40} {:>7.1} CPU-µs a request  {:>8.0} requests/s  CPU ratio {:.2}  {}",
                median(figures[index].iter().map(|figure| figure.0).collect()),
                median(figures[index].iter().map(|figure| figure.1).collect()),
                median(ratio),
                if index == 0 { "" } else { "goal: ≤ 1.1" }
            );
        }
    }
}

struct Peer(Child);

impl Peer {
    fn start(address: &str) -> Self {
        let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/prebuilt/hello/1.wasm");
        let mut command = Command::new("wasmtime");
        command.args(["serve", "-S", "cli", "-O", "pooling-allocator=y", "--addr", address, "--env", "HOSTNAME=bench"]);
        command.arg(guest).env_remove("RUST_BACKTRACE").stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("wasmtime starts"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Done {
    requests: f64,
    seconds: f64,
}

fn wrk(url: &str, connections: usize) -> Done {
    let seconds = 4.0;
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "-H", "Host: hello.example", url]);
    let output = command.output().expect("wrk runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let requests = text
        .lines()
        .find(|line| line.contains("requests in"))
        .and_then(|line| line.split_whitespace().next()?.parse().ok());
    assert!(!text.contains("Non-2xx"), "{text}");
    Done { requests: requests.unwrap_or_else(|| panic!("{text}")), seconds }
}

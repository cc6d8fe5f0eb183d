//! How many fit, and what their neighbours feel.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;

use crate::harness::{Cluster, PATIENCE, cpu_time, mib, percentiles, resident, status_of};
use crate::sections::{block_on, scratch, settle, wait_until_ready};

/// A Deployment of the small server, whose instances are kept for an hour if `kept`.
async fn deploy(cluster: &Cluster, name: &str, replicas: i32, kept: bool) -> Duration {
    let annotations = if kept {
        json!({ "coracle.dev/requests-per-instance": "1000000", "coracle.dev/instance-idle-timeout": "1h" })
    } else {
        json!({})
    };
    let deployment: Deployment = serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name }, "annotations": annotations },
                "spec": { "containers": [{ "name": "c", "image": "hello:1", "ports": [{ "containerPort": 8080 }] }] },
            },
        },
    }))
    .expect("a deployment");
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client().await);
    let started = Instant::now();
    deployments.create(&PostParams::default(), &deployment).await.expect("created");
    let patience = PATIENCE * 5;
    tokio::time::timeout(patience, wait_until_ready(&deployments, name, replicas)).await.expect("ready in time");
    started.elapsed()
}

/// 10,000 idle pods in one host: how long they take, what each weighs, what the machine does for them.
pub fn density() {
    const FIRST: i32 = 1000;
    const REST: i32 = 8990;
    let dir = scratch();
    let cluster = Cluster::start(dir.path(), 1, &[]);
    block_on(deploy(&cluster, "first", FIRST, false));
    settle();
    let roles = ["server", "node-1"].map(|role| cluster.pid(role));
    let before = roles.map(|pid| resident(pid).0);
    let took = block_on(deploy(&cluster, "rest", REST, false));
    settle();
    let after = roles.map(|pid| resident(pid).0);
    let each = [0, 1].map(|index| after[index].saturating_sub(before[index]) as f64 / f64::from(REST) / 1024.0);
    println!(
        "  {REST} further pods beside {FIRST} ready after {:.1} s; KiB each: node {:.1} (goal: ≤ 64), server {:.1}",
        took.as_secs_f64(),
        each[1],
        each[0]
    );
    println!("  resident in all: node {:.0} MiB, server {:.0} MiB", mib(after[1]), mib(after[0]));
    let cpu = roles.map(cpu_time);
    let quiet = Duration::from_secs(20);
    thread::sleep(quiet);
    let share = [0, 1].map(|index| (cpu_time(roles[index]) - cpu[index]).as_secs_f64() / quiet.as_secs_f64() * 100.0);
    println!("  idle: node {:.1} %, server {:.1} % of a core", share[1], share[0]);
}

/// As many live instances as the host holds, each of a pod of its own; beyond, the longest idle give way.
pub fn live() {
    let wanted = 9990;
    let dir = scratch();
    let cluster = Cluster::start(dir.path(), 1, &[]);
    block_on(deploy(&cluster, "live", wanted, true));
    let addresses: Vec<SocketAddr> = block_on(async {
        let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
        let pods = pods.list(&ListParams::default().labels("app=live")).await.expect("pods");
        let ip = |pod: &Pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok();
        pods.items.iter().filter_map(|pod| Some(SocketAddr::new(ip(pod)?, 8080))).collect()
    });
    let node = cluster.pid("node-1");
    let before = resident(node).0;
    let started = Instant::now();
    let answered = addresses.iter().take_while(|address| status_of(**address, "pod", "/") == 200).count();
    let live = live_instances(node);
    println!(
        "  {answered} of {} pods answered after {:.1} s; {live} instances live on; KiB each: {:.1}",
        addresses.len(),
        started.elapsed().as_secs_f64(),
        resident(node).0.saturating_sub(before) as f64 / live.max(1) as f64 / 1024.0
    );
    println!(
        "  vm.max_map_count is {}",
        std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default().trim()
    );
    if answered < addresses.len() {
        let answer = crate::harness::text_of(addresses[answered], "pod", "/");
        println!("  the next was answered: {}", answer.lines().last().unwrap_or_default());
    }
}

/// Each has its module's memory image mapped.
fn live_instances(node: i32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{node}/maps")).unwrap_or_default();
    maps.lines().filter(|line| line.contains("wasm-memory-image")).count()
}

const HOSTILE: &[(&str, &str)] =
    &[("loop", "/loop"), ("oom", "/oom"), ("recurse", "/recurse"), ("flood", "/flood"), ("trap", "/trap")];

/// Asks `host` one request after the other on a connection each, as long as `run` says.
fn asked(ingress: SocketAddr, seconds: u64) -> (Vec<Duration>, usize) {
    let (mut times, mut failed) = (Vec::new(), 0);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let started = Instant::now();
        if status_of(ingress, "hello.example", "/") != 200 {
            failed += 1;
        }
        times.push(started.elapsed());
        thread::sleep(Duration::from_millis(5));
    }
    (times, failed)
}

/// A neighbour's requests alone, then beside guests and clients that do their worst, in turns.
pub fn neighbour() {
    let dir = scratch();
    let cluster = Cluster::start(dir.path(), 1, &["manifests/hello.yaml"]);
    block_on(hostile(&cluster));
    settle();
    let ingress = cluster.ingress;
    let (mut alone, mut beside, mut failures) = (Vec::new(), Vec::new(), 0);
    for _ in 0..4 {
        alone.extend(asked(ingress, 5).0);
        let stop = Arc::new(AtomicBool::new(false));
        let attacks: Vec<_> = HOSTILE
            .iter()
            .map(|(name, path)| {
                let stop = stop.clone();
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        status_of(ingress, &format!("{name}.example"), path);
                    }
                })
            })
            .collect();
        let held = clients(ingress);
        let (times, failed) = asked(ingress, 5);
        beside.extend(times);
        failures += failed;
        stop.store(true, Ordering::Relaxed);
        drop(held);
        attacks.into_iter().for_each(|attack| attack.join().expect("a thread"));
    }
    let p99 = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort();
        times[(times.len() - 1) * 99 / 100].as_secs_f64()
    };
    let ratio = p99(&beside) / p99(&alone);
    percentiles("a request alone, on a new connection", alone, "");
    percentiles("beside hostile guests and clients", beside, "");
    println!("  p99 ratio {ratio:.2} (goal: ≤ 1.5); failed {failures} (goal: 0)");
}

/// Slow bodies and huge heads.
fn clients(ingress: SocketAddr) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut slow = TcpStream::connect(ingress).expect("a connection");
        let _ = slow.write_all(b"POST /echo HTTP/1.1\r\nHost: hello.example\r\nContent-Length: 1000000\r\n\r\nbit");
        let mut long = TcpStream::connect(ingress).expect("a connection");
        let head = format!("GET / HTTP/1.1\r\nHost: hello.example\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
        let _ = long.write_all(head.as_bytes());
        held.extend([slow, long]);
    }
    held
}

/// A Deployment, a Service and a rule of the ingress for each way to fail.
async fn hostile(cluster: &Cluster) {
    let client = cluster.client().await;
    for (name, _) in HOSTILE {
        let deployment: Deployment = serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
            "spec": {
                "replicas": 1, "selector": { "matchLabels": { "app": name } },
                "template": {
                    "metadata": {
                        "labels": { "app": name }, "annotations": { "coracle.dev/request-timeout": "1s" },
                    },
                    "spec": { "containers": [{
                        "name": "c", "image": "faults:1", "ports": [{ "containerPort": 8080 }],
                        "resources": { "limits": { "memory": "32Mi", "cpu": "100m" } },
                    }] },
                },
            },
        }))
        .expect("a deployment");
        let service = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "selector": { "app": name }, "ports": [{ "port": 80, "targetPort": 8080 }] },
        }))
        .expect("a service");
        let ingress = serde_json::from_value(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": { "name": name },
            "spec": { "rules": [{ "host": format!("{name}.example"), "http": { "paths": [{
                "path": "/", "pathType": "Prefix",
                "backend": { "service": { "name": name, "port": { "number": 80 } } },
            }] } }] },
        }))
        .expect("an ingress");
        let post = PostParams::default();
        let services: Api<k8s_openapi::api::core::v1::Service> = Api::default_namespaced(client.clone());
        services.create(&post, &service).await.expect("created");
        let ingresses: Api<k8s_openapi::api::networking::v1::Ingress> = Api::default_namespaced(client.clone());
        ingresses.create(&post, &ingress).await.expect("created");
        let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
        deployments.create(&post, &deployment).await.expect("created");
        wait_until_ready(&deployments, name, 1).await;
    }
}

//! The API server alone: what a durable write takes and costs, what reads take, what a watcher costs, what a
//! stored pod weighs. The pods are of a scheduler that nobody runs, so that nothing becomes of them.
//!
//! The clients share the machine's cores with the server. The server's own time is from the kernel's accounting
//! and says what a request costs whoever else is there.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;

use crate::harness::{Cluster, PATIENCE, cpu_time, mib, percentiles, resident};
use crate::load::{Ask, Client, Door, GET, JSON, MERGE, POST, PROTOBUF, drive};
use crate::sections::{block_on, settle};

const PODS: usize = 10_000;
const WATCHERS: usize = 1_000;
const CLIENTS: usize = 64;

pub fn api() {
    // Not in the machine's temporary directory, which may lie in memory, where a sync costs nothing.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let syncs = sync_rate(dir.path());
    let cluster = Cluster::start(dir.path(), 1, &[]);
    settle();
    let server = cluster.pid("server");
    let idle = resident(server).0;
    println!("  the server idle: {:.1} MiB resident  goal: ≤ 60", mib(idle));
    block_on(async {
        let door = Door::open(&dir.path().join("kubeconfig")).await;
        let bench = Bench { door, server, syncs };
        bench.writes().await;
        bench.many_pods(idle).await;
        bench.reads().await;
        bench.post_to_event().await;
        for connections in [10, WATCHERS] {
            bench.watchers(connections).await;
        }
    });
    let again = sync_rate(dir.path());
    println!("  the disk again: {again:.0} syncs/s");
}

/// `append 4 KiB, fdatasync` in a loop, in the directory that the server writes to.
fn sync_rate(dir: &Path) -> f64 {
    let path = dir.join("sync");
    let mut file = std::fs::File::create(&path).expect("a file");
    let block = vec![7; 4096];
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        let one = Instant::now();
        file.write_all(&block).and_then(|()| file.sync_data()).expect("written");
        times.push(one.elapsed());
    }
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    std::fs::remove_file(path).expect("removed");
    println!("  the disk: {rate:.0} syncs/s");
    percentiles("append 4 KiB, fdatasync", times, "");
    rate
}

struct Bench {
    door: Door,
    server: i32,
    /// A second, of the bare disk.
    syncs: f64,
}

impl Bench {
    /// Creates from one client and from 64.
    async fn writes(&self) {
        let config = |run: &'static str| move |n: usize| (CONFIG_MAPS.to_owned(), config_map(&format!("{run}-{n}")));
        drive(&self.door, 4, &POST, 400, config("warm")).await;
        self.creates("ConfigMaps", 1, 2_000, "goal: p50 ≤ 0.5", config("one")).await;
        self.creates("ConfigMaps", CLIENTS, 20_000, "goal: ≥ 8,000/s", config("many")).await;
    }

    async fn creates(
        &self,
        what: &str,
        clients: usize,
        count: usize,
        goal: &str,
        make: impl Fn(usize) -> (String, Bytes),
    ) {
        let before = cpu_time(self.server);
        let run = drive(&self.door, clients, &POST, count, make).await;
        let cpu = (cpu_time(self.server) - before).as_secs_f64() * 1e6 / count as f64;
        let rate = run.rate();
        let clients = if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
        let per_sync = rate / self.syncs;
        println!("  {what}, {clients}: {rate:.0} creates/s, {per_sync:.2} × the bare syncs, {cpu:.0} CPU-µs each");
        percentiles(&format!("POST of {what}, {clients}"), run.times, goal);
    }

    /// 10,000 pods in ten namespaces, the last of them by one client: how fast, and what each weighs in the server.
    async fn many_pods(&self, idle: u64) {
        for tenth in 0..10 {
            let body = format!(r#"{{"metadata":{{"name":"ns-{tenth}"}}}}"#);
            self.door.one().await.ask(&POST, "/api/v1/namespaces", body.into()).await;
        }
        settle();
        let before = resident(self.server).0;
        let one = |n: usize| (pods_of("ns-9"), pod(&format!("p-{n}")));
        self.creates("pods", 1, PODS / 10, "", one).await;
        let many = |n: usize| (pods_of(&format!("ns-{}", n % 9)), pod(&format!("p-{n}")));
        self.creates("pods", CLIENTS, PODS / 10 * 9, "goal: ≥ 5,000/s", many).await;
        settle();
        let after = resident(self.server).0;
        println!(
            "  {PODS} pods stored: {:.1} MiB, {:.1} KiB each (the server: {:.1} MiB, of which idle {:.1})",
            mib(after.saturating_sub(before)),
            after.saturating_sub(before) as f64 / PODS as f64 / 1024.0,
            mib(after),
            mib(idle)
        );
    }

    async fn reads(&self) {
        let protobuf = Ask { accept: PROTOBUF, ..GET };
        let namespace = pods_of("ns-0");
        let one = format!("{namespace}/p-0");
        self.repeat("GET of a pod", 2_000, "", &GET, &one).await;
        self.repeat("GET of a pod, protobuf accepted", 2_000, "", &protobuf, &one).await;
        self.repeat("LIST of 1,000 pods", 100, "", &GET, &namespace).await;
        self.repeat("LIST of 1,000 pods, protobuf accepted", 100, "", &protobuf, &namespace).await;
        let all = "/api/v1/pods?labelSelector=bench%3Dmany";
        self.repeat("LIST of 10,000 pods by labels", 20, "", &GET, all).await;
        let by_field = "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1";
        self.repeat("LIST of no pod of a node", 20, "", &GET, by_field).await;
        self.repeat("LIST of 10,000 pods", 30, "goal: ≤ 150", &GET, "/api/v1/pods").await;
        self.repeat("LIST of 10,000 pods, protobuf accepted", 30, "goal: ≤ 150", &protobuf, "/api/v1/pods").await;
        let patch = |n: usize| {
            (
                format!("{}/p-{}", pods_of("ns-1"), n % 1_000 * 9 + 1),
                format!(r#"{{"metadata":{{"labels":{{"n":"{n}"}}}}}}"#),
            )
        };
        let before = cpu_time(self.server);
        let run = drive(&self.door, 1, &MERGE, 1_000, |n| (patch(n).0, patch(n).1.into())).await;
        let cpu = (cpu_time(self.server) - before).as_secs_f64() * 1e6 / run.times.len() as f64;
        percentiles("PATCH of a pod, 1 client", run.times, &format!("{cpu:.0} CPU-µs each"));
        let run = drive(&self.door, CLIENTS, &MERGE, 5_000, |n| (patch(n).0, patch(n).1.into())).await;
        println!("  PATCH of pods, {CLIENTS} clients: {:.0}/s", run.rate());
        percentiles("PATCH of pods, 64 clients", run.times, "");
    }

    async fn repeat(&self, what: &str, count: usize, goal: &str, ask: &Ask, path: &str) {
        let (bytes, content) = self.door.one().await.ask(ask, path, Bytes::new()).await;
        let before = cpu_time(self.server);
        let run = drive(&self.door, 1, ask, count, |_| (path.to_owned(), Bytes::new())).await;
        let cpu = (cpu_time(self.server) - before).as_secs_f64() * 1e3 / count as f64;
        let note = if ask.accept == JSON { String::new() } else { format!(", as {content}") };
        percentiles(what, run.times, &format!("{cpu:.2} CPU-ms, {:.2} MiB{note}  {goal}", mib(bytes as u64)));
    }

    /// One client writes, another watches: from sending the POST to having the event.
    async fn post_to_event(&self) {
        let (mut writer, mut reader) = (self.door.one().await, self.door.two().await);
        let mut events = watch(&mut reader, CONFIG_MAPS, &self.revision().await).await;
        let mut times = Vec::new();
        for number in 0..1_100 {
            let name = format!("event-{number}");
            let started = Instant::now();
            let post = writer.ask(&POST, CONFIG_MAPS, config_map(&name));
            let seen = async {
                events.until(&format!("\"name\":\"{name}\"")).await;
                started.elapsed()
            };
            let (_, took) = tokio::join!(post, seen);
            if number >= 100 {
                times.push(took);
            }
        }
        percentiles("POST of a ConfigMap to its event", times, "goal: p50 ≤ 0.5");
    }

    /// The server's time for an event to each of 1,000 watchers, who share so many connections.
    async fn watchers(&self, connections: usize) {
        const EVENTS: usize = 100;
        let (path, revision) = (config_maps_of("ns-2"), self.revision().await);
        let (mut readers, mut clients) = (Vec::new(), Vec::new());
        for _ in 0..connections {
            let mut client = self.door.two().await;
            for _ in 0..WATCHERS / connections {
                let mut events = watch(&mut client, &path, &revision).await;
                let last = format!("\"name\":\"w{connections}-{}\"", EVENTS - 1);
                readers.push(async move {
                    events.until(&last).await;
                    Instant::now()
                });
            }
            clients.push(client);
        }
        let before = cpu_time(self.server);
        let writes = async {
            let mut writer = self.door.one().await;
            let mut written = Instant::now();
            for number in 0..EVENTS {
                writer.ask(&POST, &path, config_map(&format!("w{connections}-{number}"))).await;
                written = Instant::now();
            }
            written
        };
        let (written, seen) = tokio::join!(writes, futures::future::join_all(readers));
        let cpu = cpu_time(self.server) - before;
        let each = cpu.as_secs_f64() * 1e6 / (EVENTS * WATCHERS) as f64;
        let last = seen.into_iter().max().expect("watchers").saturating_duration_since(written);
        println!(
            "  {WATCHERS} watchers on {connections} connections: {each:.2} CPU-µs an event and watcher; the last has all \
             {:.1} ms after the last write",
            last.as_secs_f64() * 1e3
        );
    }

    /// The revision of now.
    async fn revision(&self) -> String {
        let mut client = self.door.one().await;
        let answer = client.open(&GET, &format!("{CONFIG_MAPS}?limit=1"), Bytes::new()).await;
        let body = answer.into_body().collect().await.expect("a list").to_bytes();
        let list: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        list["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
    }
}

/// A watch that nobody parses.
struct Events {
    body: hyper::body::Incoming,
    tail: Vec<u8>,
}

async fn watch(client: &mut Client, path: &str, revision: &str) -> Events {
    let path = format!("{path}?watch=1&resourceVersion={revision}");
    let body = client.open(&GET, &path, Bytes::new()).await.into_body();
    Events { body, tail: Vec::new() }
}

impl Events {
    /// Reads on until a line has `text` in it.
    async fn until(&mut self, text: &str) {
        let found = async {
            while memchr::memmem::find(&self.tail, text.as_bytes()).is_none() {
                // Whole lines without it are done with.
                let line = self.tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                self.tail.drain(..line);
                let frame = self.body.frame().await.expect("a watch that goes on").expect("an event");
                self.tail.extend_from_slice(&frame.into_data().unwrap_or_default());
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("the event comes");
    }
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn config_maps_of(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

fn pods_of(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

fn config_map(name: &str) -> Bytes {
    const DATA: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"a":"{DATA}","b":"{DATA}"}}}}"#)
        .into()
}

/// As a Deployment's pods look, but for the scheduler, which nobody is.
fn pod(name: &str) -> Bytes {
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","labels":{{"bench":"many"}}}},
"spec":{{"schedulerName":"nobody","containers":[{{"name":"hello","image":"hello:1","ports":[{{"containerPort":8080}}],
"env":[{{"name":"A","value":"1"}}],"resources":{{"limits":{{"cpu":"100m","memory":"64Mi"}}}},
"readinessProbe":{{"httpGet":{{"path":"/","port":8080}}}}}}]}}}}"#
    )
    .into()
}

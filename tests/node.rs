//! The node agent against the API server, in one process, with containers that do what the test says.
//!
//! Nothing is faked but the guests: the node registers, watches, writes statuses and serves logs over
//! TLS as it does in a cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use coracle::apiserver::auth::User;
use coracle::apiserver::auth::pki::{Credentials, Pki, signing_request};
use coracle::apiserver::{ApiConfig, ApiServer};
use coracle::client;
use coracle::node::{self, ImageGc, NodeConfig, NodeTls, Thresholds};
use coracle::oci::Trust;
use coracle::runtime::Stream;
use coracle::runtime::fake::{Behaviour, FakeRuntime};
use coracle::store::MemoryStore;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{Api, DeleteParams, LogParams, PostParams};
use kube::runtime::wait::await_condition;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);
const NODE: &str = "n1";
/// Whatever the machine that tests run on has left.
const NEVER: &str = "memory.available<0,nodefs.available<0,nodefs.inodesFree<0";
const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A cluster of one node.
struct Cluster {
    dir: tempfile::TempDir,
    pki: Pki,
    client: kube::Client,
    runtime: FakeRuntime,
    pod_cidr: &'static str,
    eviction_hard: Thresholds,
    node: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
}

impl Cluster {
    /// Each test has its pods in a range of its own, for their sockets are real.
    async fn start(pod_cidr: &'static str, runtime: FakeRuntime) -> Cluster {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = Pki::open(&dir.path().join("pki"), &[], &[LOOPBACK]).expect("an authority");
        let mut config = ApiConfig::new(Arc::new(MemoryStore::new()));
        config.node_tls = Some(client_tls(&pki.ca_pem, &pki.node_client));
        let server = ApiServer::start(config).await.expect("a server");
        let client = client::in_process(server.router().layer(Extension(User::server())));
        std::fs::create_dir_all(dir.path().join("images/hello")).expect("a directory");
        std::fs::write(dir.path().join("images/hello/1.wasm"), b"one").expect("an image");
        let eviction_hard = NEVER.parse().expect("thresholds");
        let mut cluster = Cluster { dir, pki, client, runtime, pod_cidr, eviction_hard, node: None };
        cluster.start_node();
        let nodes: Api<Node> = Api::all(cluster.client.clone());
        within(await_condition(nodes, NODE, node_is_ready)).await.expect("a node");
        cluster
    }

    fn start_node(&mut self) {
        let (key_pem, request) = signing_request().expect("a request");
        let cert_pem = self.pki.sign_node(NODE, &[LOOPBACK], &request).expect("a certificate");
        let config = NodeConfig {
            name: NODE.to_owned(),
            data_dir: self.dir.path().join("node"),
            images_dirs: vec![self.dir.path().join("images")],
            trust: Trust::default(),
            image_gc: ImageGc::default(),
            pod_cidr: self.pod_cidr.parse().expect("a CIDR"),
            bridged: None,
            dns: None,
            address: LOOPBACK,
            listen: (LOOPBACK, 0).into(),
            ingress: None,
            service_cidr: "127.96.0.0/16".parse().expect("a CIDR"),
            tls: NodeTls { ca_pem: self.pki.ca_pem.clone(), cert_pem, key_pem },
            server: None,
            cluster_domain: NodeConfig::CLUSTER_DOMAIN.to_owned(),
            labels: BTreeMap::new(),
            max_pods: NodeConfig::MAX_PODS,
            eviction_hard: self.eviction_hard,
        };
        let shutdown = CancellationToken::new();
        let runtime = Arc::new(self.runtime.clone());
        let running = tokio::spawn(node::run(config, self.client.clone(), vec![runtime], shutdown.clone()));
        self.node = Some((shutdown, running));
    }

    async fn stop_node(&mut self) {
        if let Some((shutdown, running)) = self.node.take() {
            shutdown.cancel();
            within(running).await.expect("no panic").expect("a clean stop");
        }
    }

    fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    async fn create(&self, name: &str, spec: Value) -> Pod {
        let mut pod = json!({ "metadata": { "name": name, "labels": { "app": name } }, "spec": spec });
        pod["spec"]["nodeName"] = json!(NODE);
        pod["spec"]["automountServiceAccountToken"] = json!(false);
        let pod = serde_json::from_value(pod).expect("a pod");
        self.pods().create(&PostParams::default(), &pod).await.expect("created")
    }

    /// The pod once `is` holds of it.
    async fn pod(&self, name: &str, is: impl Fn(&Pod) -> bool) -> Pod {
        let waiting = await_condition(self.pods(), name, |pod: Option<&Pod>| pod.is_some_and(&is));
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(pod) => pod.expect("a watch").expect("a pod"),
            Err(_) => panic!("in vain; the pod is {:#?}", self.pods().get_opt(name).await.map(|pod| pod?.status)),
        }
    }

    async fn delete(&self, name: &str, grace: u32) {
        self.pods().delete(name, &DeleteParams::default().grace_period(grace)).await.expect("accepted");
        let gone = |pod: Option<&Pod>| pod.is_none();
        within(await_condition(self.pods(), name, gone)).await.expect("a watch");
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

fn client_tls(ca_pem: &str, own: &Credentials) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("PEM")).expect("an authority");
    let chain = vec![CertificateDer::from_pem_slice(own.cert_pem.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).expect("PEM");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_root_certificates(roots);
    builder.with_client_auth_cert(chain, key).expect("credentials that fit")
}

fn node_is_ready(node: Option<&Node>) -> bool {
    let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
    conditions.is_some_and(|list| list.iter().any(|known| known.type_ == "Ready" && known.status == "True"))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|list| list.iter().any(|known| known.type_ == "Ready" && known.status == "True"))
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.and_then(|list| list.first()).map_or(0, |status| status.restart_count)
}

fn waits_for(pod: &Pod, reason: &str) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let waiting = statuses.and_then(|list| list.first()?.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    waiting == Some(reason)
}

fn ip(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref()
}

fn one(image: &str) -> Value {
    json!({ "containers": [{ "name": "c", "image": image }] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_heals_in_place_and_goes() {
    let cluster = Cluster::start("127.80.0.0/24", FakeRuntime::serving()).await;
    let created = cluster.create("web", one("hello:1")).await;
    let pod = cluster.pod("web", is_ready).await;
    let status = pod.status.clone().expect("a status");
    assert_eq!((status.phase.as_deref(), ip(&pod)), (Some("Running"), Some("127.80.0.1")));
    assert_eq!(status.host_ip.as_deref(), Some("127.0.0.1"));
    assert_eq!(status.qos_class, created.status.expect("a status").qos_class, "not the node's to change");
    let container = &status.container_statuses.expect("statuses")[0];
    assert!(container.image_id.starts_with("sha256:") && container.started == Some(true));

    cluster.runtime.latest("web", "c").expect("running").trap("unreachable executed");
    let pod = cluster.pod("web", |pod| restarts(pod) == 1 && is_ready(pod)).await;
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone()).expect("statuses");
    let last = statuses[0].last_state.clone().and_then(|state| state.terminated).expect("an end");
    assert_eq!((last.exit_code, last.message.as_deref()), (134, Some("unreachable executed")));
    assert_eq!(ip(&pod), Some("127.80.0.1"));

    let last = cluster.runtime.latest("web", "c").expect("running");
    cluster.delete("web", 30).await;
    assert!(last.stopping(), "it was asked to stop, not just dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_starts_its_pods_again_where_they_were() {
    let mut cluster = Cluster::start("127.81.0.0/24", FakeRuntime::serving()).await;
    cluster.create("a", one("hello:1")).await;
    cluster.create("b", one("hello:1")).await;
    let a = cluster.pod("a", is_ready).await;
    let b = cluster.pod("b", is_ready).await;
    cluster.stop_node().await;
    assert!(is_ready(&cluster.pods().get("a").await.expect("a pod")), "a stopping node deletes nothing");
    cluster.pods().delete("b", &DeleteParams::default().grace_period(0)).await.expect("accepted");
    cluster.start_node();
    let again = cluster.pod("a", |pod| restarts(pod) == 1 && is_ready(pod)).await;
    assert_eq!(ip(&again), ip(&a));
    cluster.create("c", one("hello:1")).await;
    let c = cluster.pod("c", is_ready).await;
    assert_ne!(ip(&c), ip(&a));
    let left = cluster.dir.path().join("node/pods").join(b.metadata.uid.expect("a uid"));
    assert!(!left.exists(), "what belonged to a pod that is gone has been removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_said_and_found_when_it_comes() {
    let cluster = Cluster::start("127.82.0.0/24", FakeRuntime::serving()).await;
    cluster.create("image", one("late:1")).await;
    cluster.pod("image", |pod| waits_for(pod, "ErrImagePull")).await;
    let spec = json!({ "containers": [{ "name": "c", "image": "hello:1", "env": [
        { "name": "GREETING", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "greeting" } } },
        { "name": "POD_IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
    ] }] });
    cluster.create("config", spec).await;
    cluster.pod("config", |pod| waits_for(pod, "CreateContainerConfigError")).await;

    std::fs::create_dir_all(cluster.dir.path().join("images/late")).expect("a directory");
    std::fs::write(cluster.dir.path().join("images/late/1.wasm"), b"late").expect("an image");
    let settings = json!({ "metadata": { "name": "settings" }, "data": { "greeting": "hi" } });
    let settings: ConfigMap = serde_json::from_value(settings).expect("a map");
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    maps.create(&PostParams::default(), &settings).await.expect("created");
    cluster.pod("image", is_ready).await;
    let pod = cluster.pod("config", is_ready).await;
    assert_eq!(restarts(&pod), 0);
    let env = cluster.runtime.latest("config", "c").expect("running").spec.env.clone();
    assert!(env.contains(&("GREETING".to_owned(), "hi".to_owned())));
    assert!(env.contains(&("POD_IP".to_owned(), ip(&pod).unwrap_or_default().to_owned())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_follow_their_config_map() {
    let cluster = Cluster::start("127.83.0.0/24", FakeRuntime::serving()).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let map = |text: &str| -> ConfigMap {
        serde_json::from_value(json!({ "metadata": { "name": "m" }, "data": { "key": text } })).expect("a map")
    };
    maps.create(&PostParams::default(), &map("one")).await.expect("created");
    let spec = json!({
        "containers": [{ "name": "c", "image": "hello:1", "volumeMounts": [{ "name": "v", "mountPath": "/etc/m" }] }],
        "volumes": [{ "name": "v", "configMap": { "name": "m" } }],
    });
    cluster.create("web", spec).await;
    cluster.pod("web", is_ready).await;
    let mounts = cluster.runtime.latest("web", "c").expect("running").spec.mounts.clone();
    assert_eq!(mounts[0].guest, "/etc/m");
    let shown = || std::fs::read_to_string(mounts[0].host.join("key")).unwrap_or_default();
    assert_eq!(shown(), "one");
    maps.patch("m", &kube::api::PatchParams::default(), &kube::api::Patch::Merge(map("two"))).await.expect("patched");
    let changed = async {
        while shown() != "two" {
            tokio::task::yield_now().await;
        }
    };
    within(changed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_end_and_logs_are_read_over_tls() {
    let script = |image: &str| match image {
        "hello:1" => Behaviour::Run,
        _ => Behaviour::ExitAtOnce { code: 0, reason: "Completed", message: String::new() },
    };
    let cluster = Cluster::start("127.84.0.0/24", FakeRuntime::new(script)).await;
    copy_image(cluster.dir.path(), "job");
    let mut job = one("job:1");
    job["restartPolicy"] = json!("Never");
    cluster.create("job", job).await;
    cluster.pod("job", |pod| pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Succeeded"))).await;
    cluster.delete("job", 30).await;

    cluster.create("web", one("hello:1")).await;
    cluster.pod("web", is_ready).await;
    let running = cluster.runtime.latest("web", "c").expect("running");
    running.spec.output.write(Stream::Stdout, b"one\ntwo\n");
    running.trap("gone");
    cluster.pod("web", |pod| restarts(pod) == 1 && is_ready(pod)).await;
    let previous = LogParams { previous: true, tail_lines: Some(1), ..LogParams::default() };
    let read = async {
        while cluster.pods().logs("web", &previous).await.expect("logs") != "two\n" {
            tokio::task::yield_now().await;
        }
    };
    within(read).await;
    assert_eq!(cluster.pods().logs("web", &LogParams::default()).await.expect("logs"), "");
}

/// One request over a socket; the status line.
async fn get(address: &str) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_answered_throughout_restarts() {
    let cluster = Cluster::start("127.86.0.0/24", FakeRuntime::serving()).await;
    cluster.create("web", one("hello:1")).await;
    let pod = cluster.pod("web", is_ready).await;
    let address = format!("{}:8080", ip(&pod).expect("an address"));
    let listening = async {
        while get(&address).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within(listening).await;
    let restarting = async {
        for _ in 0..20 {
            let life = cluster.runtime.latest("web", "c").expect("running");
            for _ in 0..3 {
                assert_eq!(get(&address).await.expect("an answer"), "HTTP/1.1 200 OK");
            }
            life.trap("on purpose");
            assert_eq!(get(&address).await.expect("an answer"), "HTTP/1.1 200 OK");
        }
    };
    within(restarting).await;
    cluster.pod("web", |pod| restarts(pod) == 20 && is_ready(pod)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_become_ready() {
    let cluster = Cluster::start("127.85.0.0/20", FakeRuntime::serving()).await;
    for number in 0..100 {
        cluster.create(&format!("p{number}"), one("hello:1")).await;
    }
    for number in 0..100 {
        cluster.pod(&format!("p{number}"), is_ready).await;
    }
    assert_eq!(cluster.runtime.containers().len(), 100, "each was started once");
}

fn copy_image(dir: &Path, name: &str) {
    std::fs::create_dir_all(dir.join("images").join(name)).expect("a directory");
    std::fs::write(dir.join("images").join(name).join("1.wasm"), name).expect("an image");
}

fn condition(node: &Node, kind: &str) -> Option<(String, String)> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|known| known.type_ == kind)?;
    Some((found.status.clone(), found.reason.clone().unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_short_of_memory_says_so_and_lets_the_pod_go_that_holds_too_much() {
    let mut cluster = Cluster::start("127.89.0.0/24", FakeRuntime::serving()).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = nodes.get(NODE).await.expect("a node");
    assert_eq!(condition(&node, "MemoryPressure").map(|(status, _)| status).as_deref(), Some("False"));
    // No machine has so much left.
    cluster.stop_node().await;
    cluster.eviction_hard =
        "memory.available<8000Ti,nodefs.available<0,nodefs.inodesFree<0".parse().expect("thresholds");
    cluster.start_node();
    let pressed = |node: Option<&Node>| {
        let memory = node.and_then(|node| condition(node, "MemoryPressure"));
        memory == Some(("True".to_owned(), "KubeletHasInsufficientMemory".to_owned()))
    };
    within(await_condition(nodes, NODE, pressed)).await.expect("a watch");

    let with_request = |memory: &str| {
        json!({ "containers": [{ "name": "c", "image": "hello:1", "resources": {
            "requests": { "memory": memory }, "limits": { "memory": memory },
        } }] })
    };
    for (name, spec) in [("guaranteed", with_request("64Mi")), ("idle", one("hello:1")), ("greedy", one("hello:1"))] {
        cluster.create(name, spec).await;
        cluster.pod(name, is_ready).await;
    }
    // The one that is to go first holds first: the node may look at any moment.
    for (name, held) in [("greedy", 5 << 20), ("guaranteed", 60 << 20)] {
        cluster.runtime.latest(name, "c").expect("running").hold(held);
    }
    let failed = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Failed"));
    let first = cluster.pod("greedy", failed).await;
    let status = first.status.expect("a status");
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    let message = status.message.unwrap_or_default();
    assert!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: 8000Ti, available: "),
        "{message}"
    );
    assert!(
        message.ends_with("Container c was using 5Mi, request is 0, has larger consumption of memory. "),
        "{message}"
    );
    let target =
        status.conditions.into_iter().flatten().find(|known| known.type_ == "DisruptionTarget").expect("a condition");
    assert_eq!((target.status.as_str(), target.reason.as_deref()), ("True", Some("TerminationByKubelet")));
    // Then the one within its request, since the machine is short still; never one that holds nothing.
    let second = cluster.pod("guaranteed", failed).await;
    assert!(second.status.and_then(|status| status.message).is_some_and(|message| !message.contains("Container c")));
    assert!(is_ready(&cluster.pods().get("idle").await.expect("a pod")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_short_of_disk_lets_the_pod_go_whose_log_takes_most() {
    let mut cluster = Cluster::start("127.90.0.0/24", FakeRuntime::serving()).await;
    for name in ["chatty", "quiet"] {
        cluster.create(name, one("hello:1")).await;
        cluster.pod(name, is_ready).await;
    }
    cluster.stop_node().await;
    cluster.eviction_hard =
        "memory.available<0,nodefs.available<8000Ti,nodefs.inodesFree<0".parse().expect("thresholds");
    cluster.start_node();
    for (name, lines) in [("chatty", 5000), ("quiet", 1)] {
        cluster.pod(name, |pod| restarts(pod) == 1 && is_ready(pod)).await;
        let output = cluster.runtime.latest(name, "c").expect("running").spec.output.clone();
        for _ in 0..lines {
            output.write(Stream::Stdout, b"a line that takes its place on the disk, and another one beside it\n");
        }
    }
    let failed = |pod: &Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Failed"));
    let status = cluster.pod("chatty", failed).await.status.expect("a status");
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    let message = status.message.unwrap_or_default();
    assert!(message.starts_with("The node was low on resource: ephemeral-storage. "), "{message}");
    assert!(cluster.runtime.reclaimed(), "what is kept only to be quick goes before any pod");
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = nodes.get(NODE).await.expect("a node");
    assert_eq!(condition(&node, "DiskPressure"), Some(("True".to_owned(), "KubeletHasDiskPressure".to_owned())));
}

//! What pods and nodes use is told as Kubernetes tells it: `kubectl top`, the metrics API, the nodes'
//! own pages.

use serde_json::Value;

use crate::harness::{Cluster, Options, PATIENCE, both, eventually, kubectls};
use crate::limits::{faults, served};

/// Loops for ever, holding two mebibytes.
pub const SPIN: &[u8] = br#"(module (func (export "_start") (loop br 0)) (memory (export "memory") 32))"#;

const SPIN_POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: spin, labels: {app: spin}}
spec:
  containers:
  - {name: c, image: spin, resources: {limits: {cpu: 300m, memory: 16Mi}}}
"#;

/// A cluster whose images have `spin` beside the project's own.
fn cluster() -> (Cluster, tempfile::TempDir) {
    let images = tempfile::tempdir().expect("a directory");
    std::fs::write(images.path().join("spin.wat"), SPIN).expect("written");
    let prebuilt = crate::harness::repository().join("workloads/prebuilt/faults/1.wasm");
    std::fs::create_dir(images.path().join("faults")).expect("a directory");
    std::fs::copy(prebuilt, images.path().join("faults/1.wasm")).expect("copied");
    let cluster = Cluster::with(Options { images: Some(images.path().to_owned()), ..Options::default() });
    (cluster, images)
}

/// The value of a sample whose name and labels are `series`.
fn sample(page: &str, series: &str) -> Option<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    line.split(' ').next()?.parse().ok()
}

fn node_page(cluster: &Cluster, path: &str) -> String {
    cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/node-1/proxy/{path}")])
}

#[test]
fn top_shows_what_a_busy_pod_and_its_node_use() {
    let found = kubectls();
    if found.is_empty() {
        return;
    }
    let (cluster, _images) = cluster();
    cluster.apply(SPIN_POD);
    for kubectl in &found {
        let run = |args: &[&str]| both(&cluster.with_kubectl(kubectl, args, None));
        eventually("the pod to be busy", PATIENCE, || {
            let text = run(&["top", "pods", "--no-headers", "-l", "app=spin"]);
            let mut words = text.split_whitespace();
            let name = words.next().unwrap_or_default();
            let millis: u64 = words.next().and_then(|cpu| cpu.strip_suffix('m')?.parse().ok()).unwrap_or(0);
            // At most the limit, and the burst of one period that is free; less on a machine in demand.
            let right = name == "spin" && (30..=400).contains(&millis) && words.next() == Some("2Mi");
            right.then_some(()).ok_or(text)
        });
        let by_container = run(&["top", "pod", "spin", "--containers"]);
        assert!(
            by_container.contains("POD") && by_container.contains("spin") && by_container.contains("2Mi"),
            "{by_container}"
        );
        assert!(run(&["top", "pods", "-l", "app=none"]).contains("No resources found"));
        let nodes = run(&["top", "nodes"]);
        assert!(nodes.contains("node-1") && nodes.contains('%') && nodes.contains("Mi"), "{nodes}");
        let table = run(&["get", "pods.metrics.k8s.io"]);
        assert!(table.contains("CPU") && table.contains("WINDOW") && table.contains("2Mi"), "{table}");
        let one = run(&["get", "nodes.v1beta1.metrics.k8s.io", "node-1"]);
        assert!(one.contains("node-1"), "{one}");
        let gone = run(&["get", "pods.metrics.k8s.io", "nobody"]);
        assert!(gone.contains("pods.metrics.k8s.io \"nobody\" not found"), "{gone}");
    }
    let own = both(&cluster.coracle(&["top", "pods", "-A"]));
    assert!(own.contains("NAMESPACE") && own.contains("spin") && own.contains("2Mi"), "{own}");
    let own = both(&cluster.coracle(&["top", "nodes"]));
    assert!(own.contains("CPU(%)") && own.contains("node-1"), "{own}");
}

#[test]
fn a_nodes_pages_agree_with_what_was_used_and_never_fall() {
    if kubectls().is_empty() {
        return;
    }
    let (cluster, _images) = cluster();
    cluster.apply(SPIN_POD);
    cluster.apply(&faults("web", "", "resources: {limits: {memory: 32Mi}}"));
    served(&cluster, "web.example");

    let labels = r#"{container="c",namespace="default",pod="spin"}"#;
    eventually("the pod to be held back", PATIENCE, || {
        let (resource, cadvisor) = (node_page(&cluster, "metrics/resource"), node_page(&cluster, "metrics/cadvisor"));
        let used = sample(&resource, &format!("container_cpu_usage_seconds_total{labels}"));
        let held = sample(&resource, &format!("container_memory_working_set_bytes{labels}"));
        let throttled = cadvisor.lines().find(|line| {
            line.starts_with("container_cpu_cfs_throttled_seconds_total{container=\"c\",") && !line.contains("} 0 ")
        });
        let right = used.is_some_and(|used| used > 0.0) && held == Some(2_097_152.0) && throttled.is_some();
        right.then_some(()).ok_or((resource, cadvisor))
    });

    let summary: Value = serde_json::from_str(&node_page(&cluster, "stats/summary")).expect("JSON");
    assert_eq!(summary["node"]["nodeName"], "node-1");
    assert!(summary["node"]["memory"]["workingSetBytes"].as_u64().is_some_and(|bytes| bytes > 0), "{summary}");
    let pods = summary["pods"].as_array().expect("pods");
    let web = pods.iter().find(|pod| pod["podRef"]["name"] != "spin").expect("the other pod");
    let name = web["podRef"]["name"].as_str().expect("a name").to_owned();
    assert_eq!(web["memory"]["workingSetBytes"], 0, "an idle HTTP pod holds no instance");

    let series = format!("container_cpu_usage_seconds_total{{container=\"web\",namespace=\"default\",pod=\"{name}\"}}");
    let used = || sample(&node_page(&cluster, "metrics/resource"), &series).expect("a sample");
    assert_eq!(cluster.request_host("web.example", "/flood").status, 200);
    let before = used();
    assert!(before > 0.0);
    let _ = cluster.request_host("web.example", "/oom");
    eventually("the restart", PATIENCE, || {
        let pod = cluster.get(&["pod", &name]);
        let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
        (restarts == Some(1)).then_some(()).ok_or(pod)
    });
    assert!(used() > before, "the last life counts on");
    let cadvisor = node_page(&cluster, "metrics/cadvisor");
    let oom = cadvisor.lines().find(|line| line.starts_with("container_oom_events_total{container=\"web\","));
    assert!(oom.is_some_and(|line| line.contains("} 1 ")), "{cadvisor}");

    let refused = both(&cluster.try_kubectl(&["get", "--raw", "/api/v1/nodes/node-1/proxy/run/x"]));
    assert!(refused.contains("NotFound") || refused.contains("not asked for"), "{refused}");
}

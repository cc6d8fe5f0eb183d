//! Limits that a pod asks for hold, and are told as they are.

use std::thread;

use crate::harness::{Cluster, Options, PATIENCE, eventually, http, kubectls};
use crate::metrics::SPIN;

/// A Deployment of one `faults` pod with these annotations (in YAML's flow style), its Service and
/// Ingress.
pub fn faults(name: &str, annotations: &str, container: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}, annotations: {{{annotations}}}}}
    spec:
      containers:
      - {{name: web, image: "faults:1", {container}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}}}
spec:
  rules:
  - host: {name}.example
    http:
      paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {name}, port: {{number: 80}}}}}}}}]
"#
    )
}

pub fn served(cluster: &Cluster, host: &str) {
    eventually("the pod to serve", PATIENCE, || {
        let answer = cluster.request_host(host, "/");
        (answer.status == 200).then_some(()).ok_or(answer)
    });
}

#[test]
fn a_pods_annotations_bound_its_requests_in_number_and_in_time() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::start();
    let annotations = r#"coracle.dev/max-concurrent-requests: "1", coracle.dev/max-queued-requests: "2",
      coracle.dev/request-timeout: 1m, coracle.dev/request-timeout.web: 5s"#;
    cluster.apply(&faults("narrow", annotations, ""));
    served(&cluster, "narrow.example");
    let ingress = cluster.ingress;
    let many =
        (0..8).map(|_| thread::spawn(move || http(ingress, "narrow.example", "/slow?ms=1000").expect("an answer")));
    let many: Vec<_> = many.collect::<Vec<_>>().into_iter().map(|one| one.join().expect("a thread")).collect();
    let (well, refused): (Vec<_>, Vec<_>) = many.iter().partition(|answer| answer.status == 200);
    assert_eq!(well.len(), 3, "one runs and two stand in line: {many:?}");
    assert!(refused.iter().all(|answer| answer.status == 503 && answer.header("retry-after") == Some("1")), "{many:?}");

    let late = cluster.request_host("narrow.example", "/loop");
    assert_eq!((late.status, late.body.trim()), (504, "no answer within 5s"));
    // The only place is free again: the instance that looped is gone, and its container was not blamed.
    assert_eq!(cluster.request_host("narrow.example", "/").status, 200);
    let pods = cluster.get(&["pods", "-l", "app=narrow"]);
    assert_eq!(pods["items"][0]["status"]["containerStatuses"][0]["restartCount"], 0);
}

#[test]
fn a_wrong_annotation_is_named_with_what_is_allowed() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::start();
    cluster.apply(&faults("wrong", "coracle.dev/request-timeout: soon", ""));
    let words = "annotation coracle.dev/request-timeout: \"soon\" is not allowed: it must be a time from 1ms to 10m0s";
    eventually("the pod to say why", PATIENCE, || {
        let text = cluster.kubectl(&["describe", "pod", "-l", "app=wrong"]);
        let told = text.contains("CreateContainerConfigError") && text.matches(words).count() >= 1;
        let event = text.contains(&format!("Error: {words}"));
        (told && event).then_some(()).ok_or(text)
    });
    cluster.kubectl(&[
        "patch",
        "deployment",
        "wrong",
        "-p",
        r#"{"spec":{"template":{"metadata":{"annotations":{"coracle.dev/request-timeout":"2s"}}}}}"#,
    ]);
    served(&cluster, "wrong.example");
}

#[test]
fn a_machine_short_of_memory_is_tainted_and_its_pods_are_evicted() {
    if kubectls().is_empty() {
        return;
    }
    let images = tempfile::tempdir().expect("a directory");
    std::fs::write(images.path().join("spin.wat"), SPIN).expect("written");
    // No machine has so much left.
    let args = vec!["--eviction-hard".to_owned(), "memory.available<8000Ti".to_owned()];
    let cluster = Cluster::with(Options { images: Some(images.path().to_owned()), args, ..Options::default() });
    eventually("the taint", PATIENCE, || {
        let text = cluster.kubectl(&["describe", "node", "node-1"]);
        let tainted = text.contains("node.kubernetes.io/memory-pressure:NoSchedule");
        (tainted && text.contains("KubeletHasInsufficientMemory")).then_some(()).ok_or(text)
    });
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: spin}\nspec:\n  tolerations:\n  - {key: node.kubernetes.io/memory-pressure, \
         operator: Exists}\n  containers:\n  - {name: c, image: spin, resources: {requests: {memory: 1Mi}}}\n",
    );
    let pod = eventually("the eviction", PATIENCE, || {
        let pod = cluster.get(&["pod", "spin"]);
        (pod["status"]["phase"] == "Failed").then_some(pod.clone()).ok_or(pod)
    });
    assert_eq!(pod["status"]["reason"], "Evicted");
    let message = pod["status"]["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: 8000Ti, available: "),
        "{pod}"
    );
    assert!(
        message.ends_with("Container c was using 2Mi, request is 1Mi, has larger consumption of memory. "),
        "{pod}"
    );
    assert!(cluster.kubectl(&["describe", "pod", "spin"]).contains("Evicted"));
    eventually("the event", PATIENCE, || {
        let events = cluster.kubectl(&["get", "events", "--field-selector", "reason=Evicted"]);
        events.contains("The node was low on resource: memory").then_some(()).ok_or(events)
    });
}

//! Key-value stores, configuration and logging, as a pod's annotations ask for them.

use std::process::{Child, Command, Stdio};

use crate::harness::{Cluster, PATIENCE, eventually, free_address, kubectls, missing};

#[test]
fn a_pod_has_the_store_and_the_words_that_it_asks_for() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/visits.yaml"]);
    let visit = |who: &str| cluster.request_host("visits.example", &format!("/?who={who}")).body;
    assert_eq!(visit("ann"), "Ahoy, visit 1\nann: 1\n");
    assert_eq!(visit("ann"), "Ahoy, visit 2\nann: 2\n");
    let log = cluster.kubectl(&["logs", "deploy/visits"]);
    assert!(log.contains("INFO visits: ann came for the 2. time"), "{log}");
    // A node that is killed comes back with its pods, and they with their volumes.
    cluster.kill("node-1");
    eventually("the count to go on", PATIENCE, || {
        let body = crate::harness::http(cluster.ingress, "visits.example", "/all").map(|answer| answer.body);
        match body {
            Ok(body) if body.starts_with("all=2\nann=2\n") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// A Redis server of this machine, ended with the test.
struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As a cluster knows a server outside: a Service without a selector, and where it leads.
fn outside(port: u16) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: cache}}
spec: {{ports: [{{name: redis, port: 6379}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: cache, labels: {{kubernetes.io/service-name: cache}}}}
addressType: IPv4
ports: [{{name: redis, port: {port}, protocol: TCP}}]
endpoints: [{{addresses: ["127.0.0.1"], conditions: {{ready: true}}}}]
---
apiVersion: v1
kind: Secret
metadata: {{name: cache}}
stringData: {{password: sesame}}
"#
    )
}

#[test]
fn pods_share_a_store_on_redis() {
    if kubectls().is_empty() {
        return;
    }
    let port = free_address().port();
    let args = ["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--requirepass", "sesame"];
    let Ok(server) = Command::new("redis-server").args(args).stdout(Stdio::null()).spawn() else {
        return missing("redis-server");
    };
    let server = Redis(server);
    let cluster = Cluster::with_manifests(&["manifests/visits.yaml"]);
    cluster.apply(&outside(port));
    let annotations = r#"{"coracle.dev/keyvalue": "redis://cache:6379/1", "coracle.dev/keyvalue-secret": "cache"}"#;
    let patch =
        format!(r#"{{"spec": {{"replicas": 2, "template": {{"metadata": {{"annotations": {annotations}}}}}}}}}"#);
    cluster.kubectl(&["patch", "deployment", "visits", "-p", &patch]);
    cluster.kubectl(&["rollout", "status", "deployment/visits", "--timeout=60s"]);
    let first = eventually("a visit that the server counts", PATIENCE, || {
        let body = cluster.request_host("visits.example", "/?who=ann").body;
        if body.contains("ann: 1\n") { Ok(body) } else { Err(body) }
    });
    assert!(first.starts_with("Ahoy, visit "), "{first}");
    for visit in 2..6 {
        let body = cluster.request_host("visits.example", "/?who=ann").body;
        assert!(body.ends_with(&format!("ann: {visit}\n")), "both pods count in one place: {body}");
    }
    drop(server);
    eventually("the pods to say what is wrong", PATIENCE, || {
        let body = cluster.request_host("visits.example", "/all").body;
        body.contains("redis server cache:6379").then_some(()).ok_or(body)
    });
}

#[test]
fn a_pod_that_does_not_ask_is_told_how() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::start();
    let pod = |name: &str, annotations: &str| {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec:\n  \
             containers:\n  - {{name: c, image: \"visits:1\"}}\n"
        ));
    };
    pod("mute", "");
    pod("lost", "coracle.dev/keyvalue: memory, coracle.dev/config: absent");
    pod("adrift", "coracle.dev/keyvalue: /data");
    for (name, wanted) in [
        ("mute", "coracle.dev/keyvalue, which says `memory`, a directory"),
        ("lost", "configmap \"absent\" not found"),
        ("adrift", "/data is on none of the container's volumes"),
    ] {
        eventually(&format!("{name} to say why"), PATIENCE, || {
            let text = cluster.kubectl(&["describe", "pod", name]);
            text.contains(wanted).then_some(()).ok_or(text)
        });
    }
}

//! The commands for people without kubectl, and the errors that say what to do next.

use crate::harness::{Cluster, PATIENCE, both, coracle, eventually, free_address};

#[test]
fn a_module_becomes_a_url_without_yaml() {
    let cluster = Cluster::start();
    let output = cluster.coracle(&["run", "workloads/prebuilt/hello/1.wasm", "--name", "hi", "--replicas", "2"]);
    let text = both(&output);
    assert!(output.status.success() && text.contains("curl -H 'Host: hi.localhost'"), "{text}");
    assert!(cluster.request_host("hi.localhost", "/").body.contains("Hello from hi-"));
}

#[test]
fn the_commands_do_what_kubectl_does() {
    let cluster = Cluster::with_manifests(&["manifests/hello.yaml", "manifests/worker.yaml"]);
    let ok = |args: &[&str]| {
        let output = cluster.coracle(args);
        assert!(output.status.success(), "coracle {args:?}:\n{}", both(&output));
        both(&output)
    };
    assert!(ok(&["get", "pods"]).contains("Running"));
    assert!(ok(&["get", "po", "-A"]).contains("NAMESPACE"));
    assert!(ok(&["get", "deploy/hello", "-o", "yaml"]).contains("kind: Deployment"));
    assert!(ok(&["scale", "deploy/hello", "--replicas", "3"]).contains("scaled"));
    assert!(ok(&["rollout", "status", "hello"]).contains("successfully rolled out"));
    assert!(ok(&["rollout", "restart", "hello"]).contains("restarted"));
    assert!(ok(&["rollout", "status", "hello"]).contains("successfully rolled out"));
    assert!(ok(&["rollout", "undo", "hello"]).contains("rolled back"));
    assert!(ok(&["rollout", "history", "hello"]).contains("hello:1"));
    assert!(ok(&["describe", "deploy", "hello"]).contains("ScalingReplicaSet"));
    assert!(ok(&["apply", "-f", "manifests/hello.yaml"]).contains("configured"));
    eventually("the job to end", PATIENCE, || {
        let text = both(&cluster.coracle(&["logs", "primes"]));
        text.contains("9592 primes").then_some(()).ok_or(text)
    });
    assert!(ok(&["delete", "-f", "manifests/hello.yaml"]).contains("deployment.apps/hello deleted"));
    let plain = |args: &[&str]| both(&coracle().args(args).output().expect("coracle runs"));
    assert!(plain(&["version"]).contains("kubernetes API v1.36"));
    assert!(plain(&["completion", "bash"]).contains("coracle"));
    let wrong = cluster.coracle(&["get", "podz"]);
    assert!(!wrong.status.success() && both(&wrong).contains("did you mean"), "{}", both(&wrong));
}

#[test]
fn errors_say_what_to_do_next() {
    let dir = tempfile::tempdir().expect("a directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (taken, address)).expect("an address");
    let data = dir.path().join("data");
    let refused = |args: &[&str], wanted: &[&str]| {
        let output = coracle().args(args).env("HOME", dir.path()).output().expect("coracle runs");
        let text = both(&output);
        assert!(!output.status.success(), "coracle {args:?} should fail:\n{text}");
        for word in wanted {
            assert!(text.contains(word), "coracle {args:?} does not say {word:?}:\n{text}");
        }
    };
    let data = data.to_str().expect("utf-8");
    let port = taken.1.to_string();
    refused(&["up", "--data-dir", data, "--api-addr", &port], &["in use", "--api-addr"]);
    refused(&["up", "--data-dir", data, "--ingress-addr", &port], &["in use", "--ingress-addr"]);
    refused(&["up", "--data-dir", data, "--images", "/nowhere/at/all"], &["--images"]);
    let manifest = dir.path().join("bad.yaml");
    std::fs::write(&manifest, "kind: Pod\napiVersion: v1\nmetadata:\n  name: x\n bad: 1\n").expect("written");
    refused(&["up", "--data-dir", data, "-f", manifest.to_str().expect("utf-8")], &["bad.yaml", "line"]);
    refused(&["get", "pods"], &["coracle up"]);
    refused(&["node", "--server", "https://127.0.0.1:1", "--data-dir", data, "--name", "n"], &["--token"]);
}

#[test]
fn a_second_up_on_the_same_data_is_refused_and_names_the_first() {
    let cluster = Cluster::start();
    let data = cluster.dir.path().join("data");
    let output = coracle()
        .args(["up", "--data-dir", data.to_str().expect("utf-8"), "--api-addr", &free_address().to_string()])
        .args(["--ingress-addr", &free_address().to_string()])
        .output()
        .expect("coracle runs");
    let text = both(&output);
    assert!(
        !output.status.success() && text.contains("already runs") && text.contains(&cluster.pid("up").to_string()),
        "{text}"
    );
}

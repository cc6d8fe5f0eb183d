//! Kinds of guests: of WASI 0.3, composed of several containers, initialised beforehand.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use crate::harness::{Cluster, Options, PATIENCE, both, coracle, eventually, http, kubectls};
use crate::limits::served;

/// A request with a body in two chunks; the answer as it came.
fn post(cluster: &Cluster, host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(cluster.ingress).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
    for part in [head.as_str(), "6\r\nhello \r\n", "5\r\nthere\r\n", "0\r\n\r\n"] {
        stream.write_all(part.as_bytes()).expect("written");
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_service_of_wasi_3_streams_and_asks_others() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/relay.yaml", "manifests/echo.yaml"]);
    let get = |path: &str| cluster.request_host("relay.example", path);
    assert!(get("/").body.starts_with("Hello from WASI 0.3 at relay-"));
    assert_eq!(get("/ticks/3").body, "tick 1\ntick 2\ntick 3\n");
    let answers = get("/both/relay/relay.default.svc.cluster.local").body;
    assert_eq!(answers.matches("Hello from WASI 0.3 at relay-").count(), 2, "{answers}");
    let line = get("/line/echo/7007").body;
    let (heard, own) = line.trim_end().split_once(" from ").expect("an answer and an address");
    assert_eq!(heard, "hello over there");
    let pods = cluster.kubectl(&["get", "pods", "-l", "app=relay", "-o", "jsonpath={.items[*].status.podIP}"]);
    assert!(pods.split(' ').any(|ip| ip == own), "{own} is none of {pods}");
    for (path, words) in [("/upper", ["HELLO", "THERE"]), ("/back", ["hello", "there"])] {
        let answer = post(&cluster, "relay.example", path);
        assert!(answer.starts_with("HTTP/1.1 200") && words.iter().all(|word| answer.contains(word)), "{answer}");
    }
    assert_eq!(get("/late").body, "at once\n");
    eventually("the rest of its work", PATIENCE, || {
        let log = cluster.kubectl(&["logs", "-l", "app=relay"]);
        log.contains("done with what was left").then_some(()).ok_or(log)
    });
    // What it may hold is bounded, and a pod that fails is there again.
    get("/hog");
    eventually("the kill to be told", PATIENCE, || {
        let text = cluster.kubectl(&["describe", "pods", "-l", "app=relay"]);
        (text.contains("OOMKilled") && text.contains("limit 32Mi")).then_some(()).ok_or(text)
    });
    served(&cluster, "relay.example");
    let check = both(&coracle().args(["check", "workloads/prebuilt/relay/1.wasm"]).output().expect("coracle runs"));
    assert!(check.contains("wasi:http/handler@0.3.0"), "{check}");
}

#[test]
fn containers_that_import_each_others_interfaces_are_one_program() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/till.yaml"]);
    assert_eq!(cluster.request_host("till.example", "/paddle").body, "paddle: 30.00\n");
    let pods = cluster.get(&["pods", "-l", "app=till"]);
    let statuses = pods["items"][0]["status"]["containerStatuses"].as_array().expect("statuses").clone();
    assert_eq!(statuses.len(), 3);
    for status in statuses {
        assert!(status["ready"] == true && !status["state"]["running"].is_null(), "{status}");
        assert!(status["imageID"].as_str().is_some_and(|id| id.starts_with("sha256:")), "{status}");
    }
    let pod = |name: &str, compose: &str, containers: &[&str]| {
        let list: String =
            containers.iter().map(|image| format!("  - {{name: {image}, image: \"{image}:1\"}}\n")).collect();
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{coracle.dev/compose: \"{compose}\"}}}}\n\
             spec:\n  containers:\n{list}"
        ));
    };
    pod("typo", "cataloge", &["till", "catalogue"]);
    pod("idle", "duty", &["till", "duty"]);
    pod("short", "catalogue", &["till", "catalogue"]);
    for (name, words) in [
        ("typo", "names \"cataloge\", which is none of the containers"),
        ("idle", "container \"duty\" provides nothing: it exports shop:goods/tax@1.0.0"),
        ("short", "import `shop:goods/tax@1.0.0` is not provided"),
    ] {
        eventually(&format!("{name} to say why"), PATIENCE, || {
            let text = cluster.kubectl(&["describe", "pod", name]);
            text.contains(words).then_some(()).ok_or(text)
        });
    }
}

#[test]
fn objects_of_a_blob_store_outlive_the_node_process() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/album.yaml"]);
    let answer = post(&cluster, "album.example", "/greeting");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("kept 11 bytes"), "{answer}");
    assert_eq!(cluster.request_host("album.example", "/greeting").body, "hello there");
    cluster.kill("node-1");
    eventually("the objects to be there again", PATIENCE, || {
        let answer = http(cluster.ingress, "album.example", "/").map(|answer| answer.body);
        if matches!(&answer, Ok(body) if body == "greeting 11\nlast 11\n") {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    });
}

/// A module that ends with the code that its initialisation left; one that fails in it.
const REMEMBERS: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "wizer-initialize") (i32.store (i32.const 0) (i32.const 42)))
    (func (export "_start") (call $exit (i32.load (i32.const 0)))))"#;
const CURIOUS: &str = r#"(module
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "wizer-initialize") (drop (call $random (i32.const 0) (i32.const 8))))
    (func (export "_start")))"#;

fn image(dir: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(dir.join(name)).expect("a directory");
    std::fs::write(dir.join(name).join("1.wasm"), text).expect("written");
}

#[test]
fn a_pod_may_start_where_its_initialisation_ended() {
    if kubectls().is_empty() {
        return;
    }
    let images = tempfile::tempdir().expect("a directory");
    image(images.path(), "remembers", REMEMBERS);
    image(images.path(), "curious", CURIOUS);
    let cluster = Cluster::with(Options { images: Some(images.path().to_owned()), ..Options::default() });
    for name in ["remembers", "curious"] {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{coracle.dev/snapshot: \"true\"}}}}\n\
             spec: {{restartPolicy: Never, containers: [{{name: c, image: \"{name}:1\"}}]}}\n"
        ));
    }
    eventually("the code of the initialised one", PATIENCE, || {
        let pod = cluster.get(&["pod", "remembers"]);
        let code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].clone();
        (code == 42).then_some(()).ok_or(pod["status"].clone())
    });
    eventually("the other to say why", PATIENCE, || {
        let text = cluster.kubectl(&["describe", "pod", "curious"]);
        let words = "its initialisation calls `wasi_snapshot_preview1::random_get`, which it may not";
        text.contains(words).then_some(()).ok_or(text)
    });
}

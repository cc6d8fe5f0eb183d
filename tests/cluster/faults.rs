//! Bad modules, bad manifests, hostile requests: each gets plain words, nothing ends.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::{Cluster, Options, PATIENCE, both, eventually, kubectls};

/// A pod of one image that never restarts.
fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  - {{name: c, image: {image:?}}}\n"
    )
}

#[test]
fn modules_that_cannot_run_say_why() {
    if kubectls().is_empty() {
        return;
    }
    let images = tempfile::tempdir().expect("a directory");
    let write = |file: &str, bytes: &[u8]| std::fs::write(images.path().join(file), bytes).expect("written");
    write("text.wasm", b"this is not Wasm");
    write("cut.wasm", b"\0asm\x01\0\0\0\x01\xff");
    write("lacks.wat", br#"(module (import "env" "launch_missiles" (func)) (func (export "_start")))"#);
    write("traps.wat", br#"(module (func (export "_start") unreachable) (memory (export "memory") 1))"#);
    write("loops.wat", br#"(module (func (export "_start") (loop br 0)) (memory (export "memory") 1))"#);
    let cluster = Cluster::with(Options { images: Some(images.path().to_owned()), ..Options::default() });
    for name in ["text", "cut", "lacks", "traps", "loops", "absent"] {
        cluster.apply(&pod(name, name));
    }
    let describe = |name: &str, wanted: &[&str]| {
        eventually(&format!("{name} to say why"), PATIENCE, || {
            let text = cluster.kubectl(&["describe", "pod", name]);
            wanted.iter().all(|word| text.contains(word)).then_some(()).ok_or(text)
        });
    };
    describe("text", &["not"]);
    describe("cut", &["cut"]);
    describe("lacks", &["launch_missiles"]);
    describe("traps", &["unreachable", "134"]);
    describe("absent", &["absent", "ErrImagePull"]);
    describe("loops", &["Running"]);
    let started = std::time::Instant::now();
    cluster.kubectl(&["delete", "pod", "loops", "--grace-period=1"]);
    assert!(started.elapsed() < PATIENCE, "an endless loop ends when its pod is deleted");
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]), "ok");
}

#[test]
fn an_unknown_image_is_told_with_its_near_miss() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::start();
    cluster.apply(&pod("typo", "helo:1"));
    eventually("the event", PATIENCE, || {
        let events = cluster.kubectl(&["get", "events"]);
        (events.contains("helo:1") && events.contains("hello")).then_some(()).ok_or(events)
    });
}

#[test]
fn hostile_requests_to_the_api_end_nothing() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::start();
    let post = |body: &str, format: &str| {
        let kubectl = kubectls().into_iter().next().expect("a kubectl");
        let file = cluster.dir.path().join("body");
        std::fs::write(&file, body).expect("written");
        let _ = format;
        cluster.with_kubectl(
            &kubectl,
            &["create", "--raw", "/api/v1/namespaces/default/configmaps", "-f", file.to_str().expect("utf-8")],
            None,
        )
    };
    let deep = format!("{{\"data\":{}1{}}}", "{\"a\":".repeat(20_000), "}".repeat(20_000));
    let large = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 << 20));
    for body in ["{", "[]", "null", "\u{0}", "{\"kind\":\"Pod\"}", deep.as_str(), large.as_str()] {
        let output = post(body, "json");
        assert!(!output.status.success(), "{}", &body[..body.len().min(40)]);
    }
    // Not TLS at all, and a client that says nothing.
    let mut plain = TcpStream::connect(cluster.api).expect("a connection");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("written");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    let _silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(cluster.api).expect("a connection")).collect();
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]), "ok");
}

#[test]
fn an_alias_bomb_is_refused() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::start();
    let mut bomb =
        String::from("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb}\nx0: &x0 [a,a,a,a,a,a,a,a,a,a]\n");
    for n in 1..12 {
        let refs = vec![format!("*x{}", n - 1); 10].join(",");
        bomb.push_str(&format!("x{n}: &x{n} [{refs}]\n"));
    }
    let file = cluster.dir.path().join("bomb.yaml");
    std::fs::write(&file, &bomb).expect("written");
    let output = cluster.coracle(&["apply", "-f", file.to_str().expect("utf-8")]);
    assert!(!output.status.success(), "{}", both(&output));
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]), "ok");
}

#[test]
fn requests_that_are_not_http_do_not_disturb_the_ingress() {
    let cluster = Cluster::with_manifests(&["manifests/hello.yaml"]);
    for bytes in [&b"\x16\x03\x01\x02\0"[..], b"GET", b"GET / HTTP/9.9\r\n\r\n", &[0xff; 100_000]] {
        let mut stream = TcpStream::connect(cluster.ingress).expect("a connection");
        let _ = stream.write_all(bytes);
    }
    assert_eq!(cluster.request_host("hello.example", "/").status, 200);
    assert_eq!(cluster.request_host("nobody.example", "/").status, 404);
}

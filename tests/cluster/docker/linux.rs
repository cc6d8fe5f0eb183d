//! What pods ask of Linux, on a real engine; and what the engine keeps.

use serde_json::json;

use super::{BUSYBOX, Engine, WAITS, pod, ready, said};
use crate::harness::{PATIENCE, eventually, free_address, http, kubectls};
use crate::registry::Registry;
use crate::streams::forward;

/// The bits of CAP_CHOWN and CAP_NET_ADMIN.
const CHOWN: u64 = 1;
const NET_ADMIN: u64 = 1 << 12;

#[test]
fn capabilities_sysctls_and_ports_of_the_machine_are_what_the_pod_asks_for() {
    let Some(engine) = Engine::start() else { return };
    let cluster = engine.cluster();
    let port = free_address().port();
    let spec =
        json!({ "securityContext": { "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "81" }] } });
    let container = json!({
        "securityContext": { "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] } },
        "ports": [{ "containerPort": 8080, "hostPort": port }],
    });
    let serve = "mkdir -p /tmp/www; echo by a port of the machine > /tmp/www/page; httpd -f -p 8080 -h /tmp/www";
    cluster.apply(&pod("asks", serve, spec, container));
    cluster.apply(&pod("plain", WAITS, json!({}), json!({})));
    ready(&cluster, "asks");
    ready(&cluster, "plain");
    let bounds = |name: &str| {
        let status = said(&cluster, name, &["/bin/cat", "/proc/1/status"]);
        let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("a bound").trim().to_owned();
        u64::from_str_radix(&line, 16).expect("a number")
    };
    assert_eq!(bounds("asks"), NET_ADMIN);
    assert_eq!(bounds("plain") & (NET_ADMIN | CHOWN), CHOWN, "the engine's own");
    let first = said(&cluster, "asks", &["/bin/cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]);
    assert_eq!(first, "81\n");
    eventually("the machine's port to lead to the pod", PATIENCE, || {
        let answer = http(([127, 0, 0, 1], port).into(), "machine", "/page").map_err(|error| error.to_string())?;
        if answer.body == "by a port of the machine\n" { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}

#[test]
fn a_forwarded_port_reaches_a_server_on_the_pods_loopback() {
    let Some(engine) = Engine::start() else { return };
    let cluster = engine.cluster();
    let serve = "mkdir -p /tmp/www; echo within > /tmp/www/page; exec httpd -f -p 127.0.0.1:8080 -h /tmp/www";
    cluster.apply(&pod("inward", serve, json!({}), json!({})));
    let inward = ready(&cluster, "inward");
    let ip = inward["status"]["podIP"].as_str().expect("an address").to_owned();
    assert!(http(format!("{ip}:8080").parse().expect("an address"), "inward", "/page").is_err(), "nobody is there");
    for kubectl in kubectls() {
        let (_forwarding, address) = forward(&cluster, &kubectl, "pod/inward", 8080);
        assert_eq!(http(address, "inward", "/page").expect("an answer").body, "within\n");
    }
}

#[test]
fn images_that_were_pulled_and_are_of_no_use_are_removed_and_no_others() {
    let Some(engine) = Engine::start() else { return };
    let Some(registry) = Registry::start() else { return };
    for name in ["first:1", "second:1"] {
        engine.import(&registry.image(name), &["--change", "CMD [\"/bin/sleep\", \"1000\"]"], |root| {
            std::fs::create_dir(root.join("bin")).expect("a directory");
            std::fs::copy("/usr/bin/busybox", root.join("bin/sleep")).expect("copied");
            std::fs::write(root.join("name"), name).expect("written");
        });
        engine.docker(&["push", &registry.image(name)]);
        engine.docker(&["rmi", &registry.image(name)]);
    }
    let cluster = engine.cluster_with(&["--max-image-bytes", "1", "--minimum-image-ttl", "0"]);
    let of = |name: &str| {
        pod(name, "", json!({}), json!({ "image": registry.image(&format!("{name}:1")), "command": null }))
    };
    cluster.apply(&of("first"));
    ready(&cluster, "first");
    let told = super::events(&cluster, "first");
    let size = engine.docker(&["image", "inspect", &registry.image("first:1"), "-f", "{{.Size}}"]);
    let words = told.lines().find(|line| line.contains("Successfully pulled image")).expect("it is told").to_owned();
    assert!(words.contains("including waiting). Image size: ") && words.contains(&format!("{size} bytes.")), "{words}");
    assert!(told.contains(&format!("Pulling image \"{}\"", registry.image("first:1"))), "{told}");
    cluster.kubectl(&["delete", "pod", "first"]);
    cluster.apply(&of("second"));
    ready(&cluster, "second");
    eventually("the first to be removed", PATIENCE, || {
        let images = engine.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        let has = |name: &str| images.lines().any(|line| line == name);
        assert!(
            has(&registry.image("second:1")) && has(BUSYBOX),
            "what is used, and what is not ours, stays: {images}"
        );
        if has(&registry.image("first:1")) { Err(images) } else { Ok(()) }
    });
}

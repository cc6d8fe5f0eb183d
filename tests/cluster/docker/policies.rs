//! NetworkPolicy where containers speak past the node: on their bridge, to modules, to names.

use serde_json::json;

use super::{Cluster, Engine, PATIENCE, WAITS, both, eventually, exec, http, pod, ready, said};

const WEB: &str = "mkdir -p /tmp/www; echo from a container > /tmp/www/index.html; httpd -p 8081 -h /tmp/www; \
                   exec httpd -f -p 8080 -h /tmp/www";

fn policy(name: &str, app: &str, spec: serde_json::Value) -> String {
    let mut spec = spec;
    spec["podSelector"] = json!({ "matchLabels": { "app": app } });
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": name }, "spec": spec })
        .to_string()
}

fn ip(cluster: &Cluster, name: &str) -> String {
    cluster.get(&["pod", name])["status"]["podIP"].as_str().expect("an address").to_owned()
}

/// Waits until a container's program ends as it should, and says what it should.
fn heard(cluster: &Cluster, what: &str, who: &str, words: &[&str], wanted: Result<&str, &str>) {
    eventually(what, PATIENCE, || {
        let output = exec(cluster, who, words);
        let (text, is_as_wanted) = (both(&output), output.status.success() == wanted.is_ok());
        let (Ok(part) | Err(part)) = wanted;
        if is_as_wanted && text.contains(part) { Ok(()) } else { Err(text) }
    });
}

#[test]
fn policies_hold_for_containers_on_their_bridge_and_through_the_node() {
    let Some(engine) = Engine::start() else { return };
    let cluster = engine.cluster();
    let service = |name: &str| {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "selector": { "app": name }, "ports": [{ "port": 80, "targetPort": 8080 }] } })
        .to_string()
    };
    let module = |name: &str, image: &str| {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } },
            "spec": { "containers": [{ "name": "main", "image": image }] } })
        .to_string()
    };
    let probed = json!({ "readinessProbe": { "httpGet": { "port": 8080 }, "periodSeconds": 1 },
        "ports": [{ "name": "web", "containerPort": 8080 }] });
    for manifest in [
        pod("web", WEB, json!({}), probed),
        pod("client", WAITS, json!({}), json!({})),
        pod("stranger", WAITS, json!({}), json!({})),
        module("wasm", "hello:1"),
        module("relay", "relay:1"),
        service("web"),
        service("wasm"),
        service("relay"),
    ] {
        cluster.apply(&manifest);
    }
    for name in ["web", "client", "stranger", "wasm", "relay"] {
        ready(&cluster, name);
    }
    let (web, wasm) = (ip(&cluster, "web"), ip(&cluster, "wasm"));
    let (direct, other_port) = (format!("http://{web}:8080/"), format!("http://{web}:8081/"));
    let module = format!("http://{wasm}:8080/");
    // The `-T` of Debian's static busybox ends in a segmentation fault.
    let wget = |url: &str| ["/bin/timeout", "3", "/bin/wget", "-qO-", url].map(str::to_owned);
    let asks = |what: &str, who: &str, url: &str, wanted| {
        let words = wget(url);
        heard(&cluster, what, who, &words.each_ref().map(String::as_str), wanted);
    };
    let relay = cluster.get(&["service", "relay"])["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let relay = format!("{relay}:80").parse().expect("an address");
    let relayed = |what: &str, is_open: bool| {
        eventually(what, PATIENCE, || {
            let answer = http(relay, "relay", "/both/web/web").map_err(|error| error.to_string())?;
            if answer.body.contains("from a container") == is_open { Ok(()) } else { Err(format!("{answer:?}")) }
        });
    };
    for url in [&direct, "http://web/", &other_port] {
        asks("no policy", "client", url, Ok("from a container"));
    }
    relayed("no policy", true);

    // Ingress: on the bridge, by the Service, from a module; the probe, which is the node's, goes on.
    cluster.apply(&policy("web", "web", json!({ "policyTypes": ["Ingress"] })));
    asks("deny all, on the bridge", "client", &direct, Err("Connection refused"));
    asks("deny all, by the Service", "client", "http://web/", Err("403"));
    relayed("deny all, from a module", false);
    let from = json!([{ "podSelector": { "matchExpressions": [
        { "key": "app", "operator": "In", "values": ["client", "relay"] } ] } }]);
    cluster.apply(&policy("web", "web", json!({ "ingress": [{ "from": from, "ports": [{ "port": "web" }] }] })));
    asks("by label", "client", &direct, Ok("from a container"));
    asks("by label, by the Service", "client", "http://web/", Ok("from a container"));
    asks("by label, another port", "client", &other_port, Err("Connection refused"));
    asks("by label, another pod", "stranger", &direct, Err("Connection refused"));
    relayed("by label, from a module", true);
    ready(&cluster, "web");

    // Egress: to a container, to a module by both ways, to names.
    cluster.apply(&policy("client", "client", json!({ "policyTypes": ["Egress"] })));
    asks("deny all, on the bridge", "client", &direct, Err("Connection refused"));
    asks("deny all, to a module", "client", &module, Err("Connection refused"));
    heard(&cluster, "deny all, names", "client", &["/bin/nslookup", "web.default.svc.cluster.local"], Err("REFUSED"));
    let wasm_ip = cluster.get(&["service", "wasm"])["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    asks("deny all, by a Service's address", "client", &format!("http://{wasm_ip}/"), Err("403"));
    let names = json!({ "to": [{ "namespaceSelector": {} }], "ports": [{ "port": 53, "protocol": "UDP" }] });
    let to = json!({ "to": [{ "podSelector": { "matchLabels": { "app": "wasm" } } }], "ports": [{ "port": 8080 }] });
    cluster.apply(&policy("client", "client", json!({ "policyTypes": ["Egress"], "egress": [names, to] })));
    asks("names and a module", "client", "http://wasm/", Ok("Hello"));
    asks("a module's own address", "client", &module, Ok("Hello"));
    asks("but no container", "client", &direct, Err("Connection refused"));

    // A module that is shut to a container.
    cluster.apply(&policy("wasm", "wasm", json!({ "policyTypes": ["Ingress"] })));
    asks("a module's own address is shut", "client", &module, Err("403"));
    cluster.kubectl(&["delete", "networkpolicy", "client", "wasm"]);
    for url in [&direct, "http://wasm/", &module] {
        asks("the policy is gone", "client", url, Ok(""));
    }

    // One that begins is held from its first packet, and again when its network was made anew.
    let tries = format!("timeout 3 wget -qO- {direct} && echo reached; echo tried; exec sleep 1000");
    cluster.apply(&policy("late", "late", json!({ "policyTypes": ["Egress"] })));
    cluster.apply(&pod("late", &tries, json!({}), json!({})));
    eventually("it to have tried", PATIENCE, || {
        let log = both(&cluster.try_kubectl(&["logs", "late"]));
        if !log.contains("tried") {
            return Err(log);
        }
        assert!(!log.contains("reached"), "{log}");
        Ok(())
    });
    let of_web = |name: &str| engine.docker(&["ps", "-q", "--filter", &format!("name={name}_web_")]);
    engine.docker(&["kill", &of_web("coracle_POD"), &of_web("coracle_main")]);
    eventually("it to serve again", PATIENCE, || {
        let output = exec(&cluster, "client", &["/bin/timeout", "3", "/bin/wget", "-qO-", &direct]);
        if output.status.success() { Ok(()) } else { Err(both(&output)) }
    });
    asks("another pod, still", "stranger", &direct, Err("Connection refused"));
    assert!(said(&cluster, "client", &["/bin/wget", "-qO-", "http://web/"]).contains("from a container"));
    let left = engine.containers();
    assert!(!left.contains("coracle_firewall_"), "{left}");
}

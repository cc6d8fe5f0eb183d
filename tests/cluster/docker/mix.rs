//! One workload of modules and containers: where modules cannot run, and where some are wanted as containers.

use std::collections::BTreeMap;

use serde_json::json;

use super::{BUSYBOX, Engine, events, plain, runs_as};
use crate::harness::{Cluster, PATIENCE, eventually, http};

/// What a module may want that no host has, and what a component may be that no pod can run.
const MISSING_IMPORT: &str = r#"(module (import "wasi:nothing/at-all@9.9.9" "open" (func)) (func (export "_start")))"#;
const WRONG_WORLD: &str = r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
  (func (export "not-a-command") (canon lift (core func $i "f"))))"#;

#[test]
fn a_module_that_cannot_start_is_replaced_and_the_reason_is_told() {
    let Some(engine) = Engine::start() else { return };
    let images = tempfile::tempdir().expect("a directory");
    for (name, text) in [("wants", MISSING_IMPORT), ("other", WRONG_WORLD), ("broken", "(module (func (export")] {
        std::fs::create_dir(images.path().join(name)).expect("made");
        std::fs::write(images.path().join(name).join("1.wat"), text).expect("written");
    }
    let cluster = engine.cluster_with(&["--images", &images.path().display().to_string()]);
    let instead = json!({ "coracle.dev/fallback-image": BUSYBOX });
    for name in ["wants", "other", "broken"] {
        cluster.apply(&plain(name, &format!("{name}:1"), &instead).to_string());
    }
    cluster.apply(&plain("alone", "wants:1", &json!({})).to_string());
    for (name, words) in [("wants", "wasi:nothing/at-all"), ("other", "not-a-command"), ("broken", "")] {
        assert_eq!(runs_as(&cluster, name), "docker", "{name}");
        let told = events(&cluster, name);
        let line = told.lines().find(|line| line.contains("FallbackImage")).unwrap_or_default().to_owned();
        // What is wrong with a text is told at length.
        let says_all = name == "broken" || line.contains("runs in its place");
        assert!(line.contains(words) && says_all, "{name}: {told}");
    }
    super::state(&cluster, "alone", |state| state["state"]["waiting"]["reason"] == "CreateContainerError");
}

/// A Deployment of the module `hello:1` of which half the pods are containers, and its Service.
fn mixed(replicas: u32, image: &str) -> String {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "mixed" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "mixed" } },
            "template": {
                "metadata": {
                    "labels": { "app": "mixed" },
                    "annotations": { "coracle.dev/fallback-image": image, "coracle.dev/fallback-percent": "50" },
                },
                "spec": { "terminationGracePeriodSeconds": 1, "containers": [{
                    "name": "web", "image": "hello:1", "imagePullPolicy": "IfNotPresent",
                    "ports": [{ "containerPort": 8080 }],
                    "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 },
                }] },
            },
        },
    });
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "mixed" },
        "spec": { "selector": { "app": "mixed" }, "ports": [{ "port": 80, "targetPort": 8080 }] } });
    json!({ "apiVersion": "v1", "kind": "List", "items": [deployment, service] }).to_string()
}

/// How many of the ready pods are of each runtime.
fn kinds(cluster: &Cluster) -> BTreeMap<String, usize> {
    let pods = cluster.get(&["pods", "-l", "app=mixed"]);
    let mut kinds = BTreeMap::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        let status = &pod["status"]["containerStatuses"][0];
        if status["ready"] == true {
            let id = status["containerID"].as_str().unwrap_or_default();
            *kinds.entry(id.split(':').next().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    kinds
}

#[test]
fn a_service_is_answered_by_modules_and_containers_in_the_share_that_is_asked_for() {
    let Some(engine) = Engine::start() else { return };
    engine.import("web:1", &["--change", r#"ENTRYPOINT ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"]"#], |root| {
        for dir in ["bin", "www"] {
            std::fs::create_dir(root.join(dir)).expect("a directory");
        }
        std::fs::copy("/usr/bin/busybox", root.join("bin/httpd")).expect("copied");
        std::fs::write(root.join("www/index.html"), "from a container").expect("written");
    });
    let cluster = engine.cluster();
    let mut replicas = 8;
    // Each pod is drawn for itself: with more of them there are some of each.
    let found = loop {
        cluster.apply(&mixed(replicas, "web:1"));
        let found = eventually("all of them to be ready", PATIENCE, || {
            let found = kinds(&cluster);
            if found.values().sum::<usize>() == replicas as usize { Ok(found) } else { Err(found) }
        });
        if found.len() == 2 {
            break found;
        }
        replicas += 4;
    };
    let ip = cluster.get(&["service", "mixed"])["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let address = format!("{ip}:80").parse().expect("an address");
    eventually("all of them to be called", PATIENCE, || {
        let answers =
            (0..200).map(|_| http(address, "mixed", "/").map_or_else(|error| error.to_string(), |it| it.body));
        let answers: Vec<String> = answers.collect();
        let containers = answers.iter().filter(|body| body.contains("from a container")).count();
        let modules = answers.iter().filter(|body| body.contains("Hello")).count();
        let share = |kind: &str| found[kind] * 200 / replicas as usize;
        let near = |count: usize, share: usize| (share / 2..=share * 2).contains(&count);
        let all = containers + modules == 200;
        if all && near(containers, share("docker")) && near(modules, share("wasm")) {
            Ok(())
        } else {
            Err(format!("{containers} and {modules} of {found:?}"))
        }
    });
}

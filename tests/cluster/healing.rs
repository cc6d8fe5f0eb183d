//! What is killed comes back, and requests go on meanwhile.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cluster, Load, Options, PATIENCE, both, eventually, http, kill, kubectls};

fn pods(cluster: &Cluster, namespace: &str) -> Vec<Value> {
    cluster.get(&["-n", namespace, "pods"])["items"].as_array().expect("pods").clone()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        && pod["metadata"]["deletionTimestamp"].is_null()
}

fn wait_for_ready(cluster: &Cluster, namespace: &str, count: usize) -> Vec<Value> {
    eventually("the pods to be ready", PATIENCE, || {
        let ready: Vec<Value> = pods(cluster, namespace).into_iter().filter(is_ready).collect();
        if ready.len() == count {
            Ok(ready)
        } else {
            Err(cluster.kubectl(&["-n", namespace, "get", "pods", "-o", "wide"]))
        }
    })
}

#[test]
fn a_trap_restarts_the_instance_in_place() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/faults.yaml"]);
    let before: Vec<Value> = wait_for_ready(&cluster, "default", 2);
    let answer = cluster.request_host("faults.example", "/trap");
    assert!(answer.status >= 500, "{answer:?}");
    for _ in 0..10 {
        assert_eq!(cluster.request_host("faults.example", "/").status, 200);
    }
    let restarted = eventually("the restart to be counted", PATIENCE, || {
        let pods = pods(&cluster, "default");
        let found = pods.iter().find(|pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1).cloned();
        found.ok_or(pods)
    });
    assert!(before.iter().any(|pod| pod["metadata"]["uid"] == restarted["metadata"]["uid"]), "the same pod");
    let last = &restarted["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 134, "{last}");
    assert!(
        last["message"].as_str().is_some_and(|text| text.contains("unreachable") || text.contains("trap")),
        "{last}"
    );
}

#[test]
fn beyond_its_memory_limit_a_pod_is_oom_killed_and_comes_back() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/faults.yaml"]);
    let answer = cluster.request_host("faults.example", "/oom");
    assert!(answer.status >= 500, "{answer:?}");
    let last = eventually("the state to say OOMKilled", PATIENCE, || {
        let pods = pods(&cluster, "default");
        let mut states =
            pods.iter().map(|pod| pod["status"]["containerStatuses"][0]["lastState"]["terminated"].clone());
        states.find(|state| state["reason"] == "OOMKilled").ok_or(pods)
    });
    assert_eq!(last["exitCode"], 137);
    assert_eq!(cluster.request_host("faults.example", "/").status, 200);
}

#[test]
fn an_endless_loop_starves_nobody() {
    let cluster = Cluster::with_manifests(&["manifests/faults.yaml", "manifests/hello.yaml"]);
    let address = cluster.ingress;
    let loops: Vec<_> = (0..3).map(|_| std::thread::spawn(move || http(address, "faults.example", "/loop"))).collect();
    for _ in 0..50 {
        assert_eq!(cluster.request_host("hello.example", "/").status, 200);
    }
    drop(loops);
}

#[test]
fn a_deleted_pod_is_replaced() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/hello.yaml"]);
    let before = wait_for_ready(&cluster, "default", 2);
    let victim = before[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let load = Load::start(cluster.ingress, "hello.example", "/", 2);
    cluster.kubectl(&["delete", "pod", &victim]);
    let after = wait_for_ready(&cluster, "default", 2);
    assert!(after.iter().all(|pod| pod["metadata"]["name"] != victim.as_str()));
    let (done, failures) = load.stop();
    assert!(failures.is_empty(), "{failures:?} besides {done}");
}

#[test]
fn the_pods_of_a_killed_node_move_and_requests_go_on() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with(Options { nodes: 3, manifests: vec!["manifests/hello.yaml"], ..Options::default() });
    cluster.kubectl(&["scale", "deploy/hello", "--replicas=6"]);
    let ready = wait_for_ready(&cluster, "default", 6);
    let on_node = |pods: &[Value], node: &str| pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).count();
    assert!((1..=3).all(|n| on_node(&ready, &format!("node-{n}")) > 0), "the pods are spread");
    cluster.kill("node-2");
    // A connection to the killed process itself may break; one that is retried must be answered.
    for _ in 0..100 {
        eventually("an answer", Duration::from_secs(5), || match http(cluster.ingress, "hello.example", "/") {
            Ok(response) if response.status == 200 => Ok(()),
            other => Err(other),
        });
    }
    wait_for_ready(&cluster, "default", 6);
    eventually("the node to rejoin", PATIENCE, || {
        let nodes = cluster.kubectl(&["get", "nodes"]);
        let ready = nodes.lines().filter(|line| line.split_whitespace().nth(1) == Some("Ready")).count();
        (ready == 3).then_some(()).ok_or(nodes)
    });
    let printed = cluster.output();
    assert!(printed.contains("node-2") && printed.contains("started again"), "{printed}");
}

/// The processes that stand by for a node of the cluster whose files are in `dir`.
fn standing_by(dir: &str) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| {
        let command = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        command.contains("--standby") && command.contains(dir)
    })
    .collect()
}

#[test]
fn whoever_stands_by_takes_over_from_a_killed_node() {
    let cluster = Cluster::with_manifests(&["manifests/hello.yaml"]);
    let dir = cluster.dir.path().to_str().unwrap().to_owned();
    let one = || {
        // Who was called keeps the words that he was started with.
        let serves = cluster.pid("node-1");
        match standing_by(&dir).into_iter().filter(|id| *id != serves).collect::<Vec<_>>()[..] {
            [one] => Ok(one),
            ref others => Err(format!("{others:?}")),
        }
    };
    let mut before = eventually("somebody to stand by", PATIENCE, one);
    // One that dies while it stands by is replaced, and nobody notices.
    kill(before);
    for _ in 0..2 {
        let now = eventually("another to stand by", PATIENCE, || {
            one().and_then(|now| (now != before).then_some(now).ok_or_else(|| now.to_string()))
        });
        cluster.kill("node-1");
        eventually("an answer", PATIENCE, || match http(cluster.ingress, "hello.example", "/") {
            Ok(response) if response.status == 200 => Ok(()),
            other => Err(other),
        });
        assert_eq!(cluster.pid("node-1"), now);
        before = now;
    }
}

#[test]
fn the_server_killed_loses_no_acknowledged_write_and_nodes_serve_on() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/hello.yaml"]);
    let load = Load::start(cluster.ingress, "hello.example", "/", 2);
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for number in 0..5 {
            let name = format!("written-{round}-{number}");
            if cluster.try_kubectl(&["create", "configmap", &name, "--from-literal=a=b"]).status.success() {
                acknowledged.push(name);
            }
        }
        cluster.kill("server");
        eventually("the API to answer again", PATIENCE, || {
            let output = cluster.try_kubectl(&["get", "--raw", "/readyz"]);
            output.status.success().then_some(()).ok_or_else(|| both(&output))
        });
    }
    let (done, failures) = load.stop();
    assert!(failures.is_empty(), "{failures:?} besides {done}");
    let kept = cluster.kubectl(&["get", "configmaps", "-o", "name"]);
    for name in &acknowledged {
        assert!(kept.contains(name), "{name} was acknowledged and is gone:\n{kept}");
    }
    cluster.kubectl(&["scale", "deploy/hello", "--replicas=4"]);
    wait_for_ready(&cluster, "default", 4);
}

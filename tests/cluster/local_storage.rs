//! What pods of modules may write, and where.

use serde_json::{Value, json};

use crate::harness::{PATIENCE, both, eventually, kubectls};
use crate::streams;

fn pod(name: &str, volume: &Value) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "main", "image": "tool:1", "args": ["serve"],
                "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }],
            "volumes": [{ "name": "data", "emptyDir": volume }],
        },
    })
    .to_string()
}

#[test]
fn a_module_that_writes_more_than_its_volume_may_hold_is_let_go() {
    if kubectls().is_empty() {
        return;
    }
    let (cluster, images) = streams::cluster();
    let much = images.path().join("much");
    std::fs::write(&much, vec![1; 3 << 20]).expect("written");
    let copy = |name: &str| {
        let to = format!("{name}:/data/much");
        both(&cluster.try_kubectl(&["cp", &much.display().to_string(), &to, "-c", "main"]))
    };
    cluster.apply(&pod("disk", &json!({ "sizeLimit": "1Mi" })));
    cluster.apply(&pod("memory", &json!({ "sizeLimit": "8Mi", "medium": "Memory" })));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/disk", "pod/memory", "--timeout=60s"]);
    copy("disk");
    let pod = eventually("the pod to be let go", PATIENCE, || {
        let pod = cluster.get(&["pod", "disk"]);
        if pod["status"]["reason"] == "Evicted" { Ok(pod) } else { Err(pod["status"].clone()) }
    });
    assert_eq!(pod["status"]["message"], "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". ");
    assert_eq!(pod["status"]["phase"], "Failed");
    // In memory, where the node may mount: within its limit it is written, beyond it the file system is full.
    assert_eq!(copy("memory"), "");
    assert!(cluster.kubectl(&["exec", "memory", "--", "ls", "/data"]).contains("much"));
    if rustix::process::getuid().is_root() {
        std::fs::write(&much, vec![1; 16 << 20]).expect("written");
        let said = copy("memory");
        assert!(!said.is_empty(), "it does not fit");
    }
    assert_eq!(cluster.get(&["pod", "memory"])["status"]["phase"], "Running");
}

//! Key-value stores, configuration and logging, as a pod's annotations ask for them.

use crate::harness::{Cluster, PATIENCE, eventually, kubectls};

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

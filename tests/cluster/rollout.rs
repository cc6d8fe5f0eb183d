//! Rolling updates under constant load lose no request.

use crate::harness::{Cluster, Load, PATIENCE, eventually, kubectls};

fn version(cluster: &Cluster) -> String {
    cluster.request("/version").body.trim().to_owned()
}

fn all_answer(cluster: &Cluster, wanted: &str) {
    eventually("every answer to come from the new version", PATIENCE, || {
        let seen: Vec<String> = (0..10).map(|_| version(cluster)).collect();
        seen.iter().all(|version| version == wanted).then_some(()).ok_or(seen)
    });
}

#[test]
fn a_rolling_update_and_its_undo_lose_no_request() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/shop.yaml"]);
    assert_eq!(version(&cluster), "1");
    let load = Load::start(cluster.ingress, "localhost", "/buy?items=apple", 3);

    cluster.kubectl(&["-n", "shop", "set", "image", "deploy/storefront", "storefront=storefront:2"]);
    cluster.kubectl(&["-n", "shop", "rollout", "status", "deploy/storefront", "--timeout=60s"]);
    all_answer(&cluster, "2");
    cluster.kubectl(&["-n", "shop", "rollout", "undo", "deploy/storefront"]);
    cluster.kubectl(&["-n", "shop", "rollout", "status", "deploy/storefront", "--timeout=60s"]);
    all_answer(&cluster, "1");
    cluster.kubectl(&["apply", "-f", "manifests/shop-v2.yaml"]);
    for deployment in ["storefront", "cart", "payment"] {
        cluster.kubectl(&["-n", "shop", "rollout", "status", &format!("deploy/{deployment}"), "--timeout=60s"]);
    }
    all_answer(&cluster, "2");

    let (done, failures) = load.stop();
    assert!(
        failures.is_empty(),
        "{} of {} requests failed: {:?}",
        failures.len(),
        done + failures.len(),
        failures.first()
    );
    assert!(done > 50, "only {done} requests were made: that proves nothing");
}

#[test]
fn history_names_the_revisions_and_undo_goes_to_one() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/hello.yaml"]);
    for image in ["hello:2", "hello:1"] {
        cluster.kubectl(&["set", "image", "deploy/hello", &format!("hello={image}")]);
        cluster.kubectl(&["rollout", "status", "deploy/hello", "--timeout=60s"]);
    }
    let history = cluster.kubectl(&["rollout", "history", "deploy/hello"]);
    assert!(history.contains('2') && history.contains('3'), "{history}");
    cluster.kubectl(&["rollout", "undo", "deploy/hello", "--to-revision=2"]);
    cluster.kubectl(&["rollout", "status", "deploy/hello", "--timeout=60s"]);
    let image = &cluster.get(&["deploy", "hello"])["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(image, "hello:2");
}

#[test]
fn a_rollout_that_cannot_become_ready_keeps_the_old_pods_serving() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/hello.yaml"]);
    cluster.kubectl(&["set", "image", "deploy/hello", "hello=hello:404"]);
    eventually("a pod that says why", PATIENCE, || {
        let pods = cluster.kubectl(&["get", "pods"]);
        pods.contains("ImagePullBackOff").then_some(()).ok_or(pods)
    });
    for _ in 0..20 {
        assert_eq!(cluster.request_host("hello.example", "/version").body.trim(), "1");
    }
    let events = cluster.kubectl(&["get", "events"]);
    assert!(events.contains("hello:404"), "{events}");
}

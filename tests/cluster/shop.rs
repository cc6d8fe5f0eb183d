//! The main job: one command, and a shop that answers.

use crate::harness::{Cluster, PATIENCE, eventually, kubectls};

#[test]
fn one_command_starts_a_shop_that_sells() {
    let cluster = Cluster::with_manifests(&["manifests/shop.yaml"]);
    let answer = cluster.request("/buy?items=apple,pear");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("paid 75"), "{answer:?}");
    let front = cluster.request("/");
    assert!(front.body.contains("Welcome to the little shop") && front.body.contains("plum=25"), "{front:?}");
    let printed = cluster.output();
    assert!(printed.contains(&format!("curl http://{}/", cluster.ingress)), "it says what to curl: {printed}");
    assert_eq!(printed.matches("coracle is ready in").count(), 1, "{printed}");
}

#[test]
fn the_shop_comes_back_with_all_its_state() {
    if kubectls().is_empty() {
        return;
    }
    let mut cluster = Cluster::with_manifests(&["manifests/shop.yaml"]);
    cluster.kubectl(&["-n", "shop", "scale", "deploy/cart", "--replicas=4"]);
    eventually("the Ingress to show its class and address", PATIENCE, || {
        let shown = cluster.kubectl(&["-n", "shop", "get", "ingress", "shop"]);
        (shown.contains("coracle") && shown.contains("127.0.0.1")).then_some(()).ok_or(shown)
    });
    let before = cluster.get(&["-n", "shop", "deploy", "cart"]);
    cluster.stop();
    cluster.start_again();
    let after = cluster.get(&["-n", "shop", "deploy", "cart"]);
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert_eq!(after["spec"]["replicas"], 2, "up -f applies the manifest again, which says 2");
    assert_eq!(cluster.request("/buy?items=plum").status, 200);
}

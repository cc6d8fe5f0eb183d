//! Pods of priority classes, on a node that is full.

use serde_json::json;

use crate::kubectl::with_each;

#[test]
fn an_urgent_pod_takes_the_place_of_one_that_is_not() {
    with_each(&[], |k| {
        let cpu = k.ok("get nodes -o jsonpath={.items[0].status.allocatable.cpu}");
        let cores: f64 = match cpu.strip_suffix('m') {
            Some(millis) => millis.parse::<f64>().expect("a number") / 1000.0,
            None => cpu.parse().expect("a number"),
        };
        // Three of them do not fit.
        let half = format!("{}m", (cores * 1000.0 * 0.45) as u64);
        let containers = json!([{ "name": "c", "image": "hello:1", "resources": { "requests": { "cpu": half } } }]);
        let of = |kind: &str, name: &str, spec: serde_json::Value| {
            let version = if kind == "Deployment" { "apps/v1" } else { "v1" };
            json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name }, "spec": spec })
        };
        let apply = |object: serde_json::Value| {
            let output = k.output("apply -f -", Some(&object.to_string()));
            assert!(output.status.success(), "{}", crate::harness::both(&output));
        };
        apply(of(
            "Deployment",
            "steady",
            json!({ "replicas": 2, "selector": { "matchLabels": { "app": "steady" } },
            "template": { "metadata": { "labels": { "app": "steady" } }, "spec": { "containers": containers } } }),
        ));
        k.ok("rollout status deploy steady --timeout=60s");
        k.ok("create priorityclass urgent --value=1000");
        k.ok("create priorityclass patient --value=1000 --preemption-policy=Never");

        apply(of("Pod", "waits", json!({ "priorityClassName": "patient", "containers": containers })));
        k.eventually_says("describe pod waits", &["preemption: not eligible due to preemptionPolicy=Never."]);
        k.ok("delete pod waits");

        apply(of("Pod", "now", json!({ "priorityClassName": "urgent", "containers": containers })));
        k.ok("wait --for=condition=Ready pod/now --timeout=60s");
        k.eventually_says("get events", &["Preempted by pod"]);
        // The one that is made in its place finds none: nobody matters less than it.
        k.eventually_says("get events", &[
            "FailedScheduling",
            "1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ]);
        k.ok("delete pod now");
        k.ok("rollout status deploy steady --timeout=60s");
    });
}

//! HorizontalPodAutoscalers: load makes a workload grow, its end makes it shrink.

use std::time::Duration;

use crate::harness::{Cluster, Load, PATIENCE, both, eventually, kubectls};
use crate::limits::{faults, served};

/// Rates are averages over several seconds, and a loaded machine is late with everything.
const LONG: Duration = Duration::from_secs(180);

const AUTOSCALER: &str = r#"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 1
  maxReplicas: 3
  metrics:
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
"#;

fn replicas(cluster: &Cluster) -> i64 {
    cluster.get(&["deployment", "web"])["spec"]["replicas"].as_i64().unwrap_or(0)
}

#[test]
fn load_makes_a_deployment_grow_and_its_end_makes_it_shrink() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::start();
    cluster.apply(&faults("web", "", "resources: {requests: {cpu: 10m}, limits: {cpu: 100m}}"));
    cluster.apply(AUTOSCALER);
    served(&cluster, "web.example");
    let load = Load::start(cluster.ingress, "web.example", "/flood", 2);
    eventually("the Deployment to grow", LONG, || {
        let there = replicas(&cluster);
        (there == 3).then_some(()).ok_or_else(|| (there, cluster.kubectl(&["describe", "hpa", "web"])))
    });
    let told = cluster.kubectl(&["describe", "hpa", "web"]);
    for words in ["SuccessfulRescale", "cpu resource utilization (percentage of request) above target"] {
        assert!(told.contains(words), "{words}:\n{told}");
    }
    let (done, _) = load.stop();
    assert!(done > 0);
    eventually("the Deployment to shrink", LONG, || {
        let there = replicas(&cluster);
        (there == 1).then_some(()).ok_or_else(|| (there, cluster.kubectl(&["describe", "hpa", "web"])))
    });
    let told = cluster.kubectl(&["describe", "hpa", "web"]);
    assert!(told.contains("All metrics below target"), "{told}");
    assert!(told.contains("ScalingActive") && told.contains("ValidMetricFound"), "{told}");
}

#[test]
fn kubectl_makes_shows_and_explains_autoscalers_in_both_versions() {
    let found = kubectls();
    if found.is_empty() {
        return;
    }
    let cluster = Cluster::start();
    cluster.apply(&faults("web", "", ""));
    for kubectl in &found {
        let run = |args: &[&str]| both(&cluster.with_kubectl(kubectl, args, None));
        let made = run(&["autoscale", "deployment", "web", "--min=2", "--max=4", "--cpu-percent=60"]);
        assert!(made.contains("autoscaled"), "{made}");
        let line = run(&["get", "hpa", "web", "--no-headers"]);
        assert!(line.contains("Deployment/web") && line.contains("/60%"), "{line}");
        eventually("the least number of replicas", PATIENCE, || {
            let there = replicas(&cluster);
            (there == 2).then_some(()).ok_or_else(|| (there, run(&["describe", "hpa", "web"])))
        });
        // The pods request nothing, which no share can be taken of.
        eventually("the reason why nothing can be computed", PATIENCE, || {
            let told = run(&["describe", "hpa", "web"]);
            let right = told.contains("missing request for cpu in container web of Pod web-")
                || told.contains("did not receive metrics for targeted pods");
            right.then_some(()).ok_or(told)
        });
        let old = cluster.get(&["horizontalpodautoscalers.v1.autoscaling", "web"]);
        assert_eq!(
            (&old["apiVersion"], &old["spec"]["targetCPUUtilizationPercentage"]),
            (&"autoscaling/v1".into(), &60.into())
        );
        let conditions = old["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/conditions"].as_str();
        assert!(conditions.is_some_and(|text| text.contains("AbleToScale")), "{old}");
        let scaled = run(&["scale", "deployment", "web", "--replicas=1"]);
        assert!(scaled.contains("scaled"), "{scaled}");
        eventually("the least number again", PATIENCE, || {
            let there = replicas(&cluster);
            (there == 2).then_some(()).ok_or(there)
        });
        cluster.kubectl(&["delete", "hpa", "web"]);
    }
    cluster.apply(&AUTOSCALER.replace("name: web}\n  minReplicas", "name: nobody}\n  minReplicas"));
    eventually("the target to be missed", PATIENCE, || {
        let told = cluster.kubectl(&["describe", "hpa", "web"]);
        let right = told.contains("FailedGetScale") && told.contains("deployments.apps \"nobody\" not found");
        right.then_some(()).ok_or(told)
    });
}

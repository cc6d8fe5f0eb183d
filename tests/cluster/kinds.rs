//! The workloads and policies beside Deployments, as kubectl and users meet them.

use crate::harness::{Cluster, Options, PATIENCE, both, eventually, kubectls};

const JOBS: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: primes}
spec:
  completions: 3
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: c, image: "job:1", args: ["100"]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: broken}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: c, image: "job:1", args: ["10", "3"]}
"#;

#[test]
fn jobs_run_to_their_end_and_cron_jobs_make_them() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::start();
    cluster.apply(JOBS);
    cluster.kubectl(&["wait", "--for=condition=complete", "job/primes", "--timeout=120s"]);
    let shown = cluster.kubectl(&["get", "job", "primes"]);
    assert!(shown.contains("Complete") && shown.contains("3/3"), "{shown}");
    let logs = cluster.kubectl(&["logs", "-l", "job-name=primes", "--prefix"]);
    assert_eq!(logs.matches("25 primes below 100").count(), 3, "{logs}");
    cluster.kubectl(&["wait", "--for=condition=failed", "job/broken", "--timeout=120s"]);
    let why = cluster.kubectl(&["describe", "job", "broken"]);
    assert!(why.contains("BackoffLimitExceeded"), "{why}");
    cluster.kubectl(&["create", "cronjob", "tick", "--image=job:1", "--schedule=0 0 1 1 *"]);
    cluster.kubectl(&["create", "job", "now", "--from=cronjob/tick"]);
    cluster.kubectl(&["wait", "--for=condition=complete", "job/now", "--timeout=120s"]);
    cluster.kubectl(&["delete", "job", "primes"]);
    eventually("the pods to go with their Job", PATIENCE, || {
        let pods = cluster.kubectl(&["get", "pods", "-l", "job-name=primes", "-o", "name"]);
        pods.is_empty().then_some(()).ok_or(pods)
    });
}

const COUNTER: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: visits}
data: {GREETING: Ahoy}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: counter}
spec:
  serviceName: counter
  selector: {matchLabels: {app: counter}}
  template:
    metadata:
      labels: {app: counter}
      annotations: {coracle.dev/config: visits, coracle.dev/keyvalue: /data}
    spec:
      containers:
      - name: c
        image: visits:1
        ports: [{name: http, containerPort: 8080}]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 10Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: counter}
spec:
  selector: {app: counter}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: counter}
spec:
  rules:
  - host: counter.example
    http:
      paths:
      - path: /
        pathType: Prefix
        backend: {service: {name: counter, port: {name: http}}}
"#;

#[test]
fn a_stateful_set_keeps_its_name_its_claim_and_its_data() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::start();
    cluster.apply(COUNTER);
    cluster.kubectl(&["rollout", "status", "statefulset/counter", "--timeout=120s"]);
    let claim = cluster.get(&["pvc", "data-counter-0"]);
    assert_eq!((&claim["status"]["phase"], &claim["spec"]["storageClassName"]), (&"Bound".into(), &"local".into()));
    let visited = |times: usize| {
        eventually("the visit to be counted", PATIENCE, || {
            let body = crate::harness::http(cluster.ingress, "counter.example", "/all").map(|answer| answer.body);
            match body {
                Ok(body) if body.contains(&format!("ann={times}\n")) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    eventually("the first visit", PATIENCE, || {
        let answer = crate::harness::http(cluster.ingress, "counter.example", "/?who=ann");
        match answer {
            Ok(answer) if answer.body.contains("ann: 1") => Ok(()),
            other => Err(format!("{:?}", other.map(|answer| answer.body))),
        }
    });
    let uid = cluster.get(&["pod", "counter-0"])["metadata"]["uid"].clone();
    cluster.kubectl(&["delete", "pod", "counter-0"]);
    cluster.kubectl(&["rollout", "status", "statefulset/counter", "--timeout=120s"]);
    assert_ne!(cluster.get(&["pod", "counter-0"])["metadata"]["uid"], uid);
    visited(1);
    // A new template, and back.
    cluster.kubectl(&["set", "env", "statefulset/counter", "MODE=new"]);
    cluster.kubectl(&["rollout", "status", "statefulset/counter", "--timeout=120s"]);
    let history = cluster.kubectl(&["rollout", "history", "statefulset/counter"]);
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    cluster.kubectl(&["rollout", "undo", "statefulset/counter"]);
    cluster.kubectl(&["rollout", "status", "statefulset/counter", "--timeout=120s"]);
    let env = cluster.get(&["pod", "counter-0"])["spec"]["containers"][0]["env"].clone();
    assert!(env.is_null(), "{env}");
    visited(1);
    // The claim outlives the set; its volume goes with it.
    cluster.kubectl(&["delete", "statefulset", "counter"]);
    assert_eq!(cluster.get(&["pvc", "data-counter-0"])["status"]["phase"], "Bound");
    cluster.kubectl(&["delete", "pvc", "data-counter-0", "--timeout=120s"]);
    eventually("the volume to go", PATIENCE, || {
        let volumes = cluster.kubectl(&["get", "pv", "-o", "name"]);
        volumes.is_empty().then_some(()).ok_or(volumes)
    });
}

const GUARDED: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      containers:
      - {name: c, image: "hello:1"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: "hello:1"}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  minAvailable: 2
  selector: {matchLabels: {app: web}}
"#;

#[test]
fn a_drain_respects_budgets_and_leaves_daemons() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with(Options { nodes: 2, ..Options::default() });
    cluster.apply(GUARDED);
    cluster.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=120s"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let shown = cluster.kubectl(&["get", "daemonset", "agent", "--no-headers"]);
    assert_eq!(shown.split_whitespace().nth(1), Some("2"), "{shown}");
    eventually("the budget to be counted", PATIENCE, || {
        let budget = cluster.get(&["pdb", "web"]);
        (budget["status"]["currentHealthy"] == 2).then_some(()).ok_or(budget)
    });
    let on = |node: &str| {
        let fields = format!("spec.nodeName={node}");
        cluster.kubectl(&["get", "pods", "-l", "app=web", "--field-selector", &fields, "-o", "name"])
    };
    let node = if on("node-1").is_empty() { "node-2" } else { "node-1" };
    let refused = cluster.try_kubectl(&["drain", node, "--ignore-daemonsets", "--timeout=3s"]);
    assert!(!refused.status.success() && both(&refused).contains("disruption budget"), "{}", both(&refused));
    assert!(!on(node).is_empty(), "the budget has been broken");
    cluster.kubectl(&["patch", "pdb", "web", "-p", r#"{"spec":{"minAvailable":1}}"#]);
    cluster.kubectl(&["drain", node, "--ignore-daemonsets", "--timeout=120s"]);
    assert!(on(node).is_empty(), "{}", on(node));
    let daemons = cluster.kubectl(&["get", "pods", "-l", "app=agent", "-o", "name"]);
    assert_eq!(daemons.lines().count(), 2, "{daemons}");
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
}

#[test]
fn limits_of_a_namespace_are_given_and_held() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::start();
    cluster.apply(
        "apiVersion: v1\nkind: LimitRange\nmetadata: {name: l}\nspec:\n  limits:\n  - type: Container\n    default: \
         {memory: 64Mi}\n    max: {memory: 128Mi}\n",
    );
    cluster.kubectl(&["run", "small", "--image=hello:1"]);
    let limits = cluster.get(&["pod", "small"])["spec"]["containers"][0]["resources"]["limits"].clone();
    assert_eq!(limits["memory"], "64Mi");
    let big = r#"{"spec":{"containers":[{"name":"big","image":"hello:1","resources":{"limits":{"memory":"1Gi"}}}]}}"#;
    let refused = cluster.try_kubectl(&["run", "big", "--image=hello:1", "--overrides", big]);
    assert!(both(&refused).contains("maximum memory usage per Container is 128Mi"), "{}", both(&refused));
}

#[test]
fn a_quota_is_held_and_given_back() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::start();
    cluster.kubectl(&["create", "namespace", "small"]);
    cluster.kubectl(&["create", "quota", "q", "--hard=pods=2,count/jobs.batch=0", "-n", "small"]);
    cluster.kubectl(&["create", "deployment", "web", "--image=hello:1", "--replicas=3", "-n", "small"]);
    eventually("two pods, and why there are no more", PATIENCE, || {
        let told = cluster.kubectl(&["describe", "replicaset", "-n", "small"]);
        let quota = cluster.kubectl(&["describe", "quota", "q", "-n", "small"]);
        let used = quota.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == ["pods", "2", "2"]);
        (used && told.contains("exceeded quota: q")).then_some(()).ok_or(format!("{told}{quota}"))
    });
    let refused = cluster.try_kubectl(&["create", "job", "j", "--image=job:1", "-n", "small"]);
    assert!(both(&refused).contains("exceeded quota: q, requested: count/jobs.batch=1"), "{}", both(&refused));
    cluster.kubectl(&["patch", "quota", "q", "-n", "small", "-p", r#"{"spec":{"hard":{"pods":"3"}}}"#]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "-n", "small", "--timeout=120s"]);
}

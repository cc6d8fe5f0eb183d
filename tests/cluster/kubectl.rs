//! Stock kubectl, command by command, with every kubectl at hand.

use std::path::Path;
use std::process::Output;

use crate::harness::{Cluster, PATIENCE, both, eventually, kubectls};

/// One cluster and one kubectl.
pub struct Session<'a> {
    pub cluster: &'a Cluster,
    kubectl: &'a Path,
}

impl Session<'_> {
    pub fn output(&self, line: &str, input: Option<&str>) -> Output {
        let args: Vec<&str> = line.split_whitespace().collect();
        self.cluster.with_kubectl(self.kubectl, &args, input)
    }

    /// Runs a command line (no quoting) that must succeed.
    pub fn ok(&self, line: &str) -> String {
        let output = self.output(line, None);
        assert!(output.status.success(), "{} {line}:\n{}", self.kubectl.display(), both(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// … and whose output must contain each of these.
    pub fn says(&self, line: &str, wanted: &[&str]) {
        let text = self.ok(line);
        for word in wanted {
            assert!(text.contains(word), "{} {line} does not say {word:?}:\n{text}", self.kubectl.display());
        }
    }

    /// Runs a command that must be refused, with these words.
    pub fn refused(&self, line: &str, wanted: &[&str]) {
        let output = self.output(line, None);
        let text = both(&output);
        assert!(!output.status.success(), "{line} should be refused:\n{text}");
        for word in wanted {
            assert!(text.contains(word), "{line} does not say {word:?}:\n{text}");
        }
    }

    pub fn eventually_says(&self, line: &str, wanted: &[&str]) {
        eventually(line, PATIENCE, || {
            let text = both(&self.output(line, None));
            wanted.iter().all(|word| text.contains(word)).then_some(()).ok_or(text)
        });
    }
}

/// Runs `check` with each kubectl, in a namespace of its own, on one cluster with the hello manifest.
pub fn with_each(manifests: &[&'static str], check: impl Fn(&Session<'_>)) {
    let found = kubectls();
    if found.is_empty() {
        return;
    }
    for kubectl in &found {
        let cluster = Cluster::with_manifests(manifests);
        check(&Session { cluster: &cluster, kubectl });
    }
}

#[test]
fn the_cluster_explains_itself() {
    with_each(&[], |k| {
        k.says("version", &["Server Version: v1.36"]);
        k.says("cluster-info", &["Kubernetes control plane"]);
        k.says("api-resources", &["deployments", "deploy", "endpointslices", "runtimeclasses"]);
        k.says("api-resources --namespaced=false -o name", &["nodes", "namespaces"]);
        k.says("api-versions", &["apps/v1", "networking.k8s.io/v1"]);
        k.says("explain pod.spec.containers.resources.limits", &["Limits describes the maximum"]);
        k.says("explain deployment.spec.strategy --recursive", &["maxSurge"]);
        k.says("get nodes -o wide", &["node-1", "Ready", "wasmtime"]);
        k.says("describe node node-1", &["Allocatable", "Ready"]);
        k.says("get ns", &["default", "kube-system", "Active"]);
        k.says("get runtimeclass", &["wasm"]);
        k.says("get svc kubernetes", &["443/TCP"]);
        k.says("config current-context", &["coracle"]);
    });
}

#[test]
fn objects_are_made_read_changed_and_deleted() {
    with_each(&[], |k| {
        k.says("create namespace lab", &["namespace/lab created"]);
        k.refused("create namespace lab", &["AlreadyExists", "already exists"]);
        k.ok("create configmap settings --from-literal=a=1 -n lab");
        k.ok("create secret generic key --from-literal=k=v -n lab");
        k.ok("create deployment web --image=hello:1 --replicas=2 --port=8080 -n lab");
        k.ok("expose deployment web --port=80 --target-port=8080 -n lab");
        k.ok("rollout status deployment/web -n lab --timeout=60s");
        k.says("get all -n lab", &["deployment.apps/web", "service/web", "replicaset.apps/web"]);
        k.says("get pods -n lab -l app=web -o wide", &["Running", "1/1", "node-1"]);
        k.says("get deploy web -n lab -o yaml", &["progressDeadlineSeconds: 600", "availableReplicas: 2"]);
        k.says("get deploy web -n lab -o jsonpath={.spec.replicas}", &["2"]);
        k.says("get pods -A --sort-by=.metadata.name", &["NAMESPACE", "lab"]);
        k.says("get pods -n lab -o name", &["pod/web-"]);
        k.says("get endpoints,endpointslices -n lab", &["web", ":8080"]);
        k.says("get deploy -n lab -o custom-columns=N:.metadata.name,R:.spec.replicas", &["web", "2"]);
        k.ok("label deploy web -n lab tier=front");
        k.says("get deploy -n lab -l tier=front", &["web"]);
        k.ok("annotate deploy web -n lab note=hi");
        k.ok("patch deploy web -n lab -p {\"spec\":{\"minReadySeconds\":0}}");
        k.ok(
            "patch deploy web -n lab --type=json -p [{\"op\":\"add\",\"path\":\"/metadata/labels/x\",\"value\":\"y\"}]",
        );
        k.ok("patch deploy web -n lab --type=merge -p {\"metadata\":{\"labels\":{\"x\":null}}}");
        k.ok("set env deploy/web -n lab GREETING=Ahoy");
        k.ok("set resources deploy/web -n lab --limits=memory=64Mi");
        k.ok("rollout status deployment/web -n lab --timeout=60s");
        k.says("get deploy web -n lab -o jsonpath={.spec.template.spec.containers[0].env}", &["Ahoy"]);
        k.ok("scale deploy web -n lab --replicas=3");
        k.ok("wait --for=jsonpath={.status.readyReplicas}=3 deploy/web -n lab --timeout=60s");
        k.says("describe deploy web -n lab", &["ScalingReplicaSet", "Replicas:", "RollingUpdate"]);
        k.says("describe svc web -n lab", &["Endpoints:", ":8080"]);
        k.refused(
            "patch deploy web -n lab -p {\"spec\":{\"selector\":{\"matchLabels\":{\"app\":\"other\"}}}}",
            &["field is immutable"],
        );
        k.ok("delete service web -n lab");
        k.ok("delete deploy web -n lab --cascade=foreground --timeout=60s");
        k.eventually_says("get pods -n lab", &["No resources found"]);
        k.says("delete namespace lab --timeout=60s", &["deleted"]);
        k.refused("get ns lab", &["NotFound"]);
    });
}

#[test]
fn apply_diff_edit_and_rollout_work_as_ever() {
    with_each(&["manifests/hello.yaml"], |k| {
        assert!(k.output("diff -f manifests/hello.yaml", None).status.success(), "nothing differs");
        let changed = std::fs::read_to_string("manifests/hello.yaml")
            .expect("the manifest")
            .replace("replicas: 2", "replicas: 3");
        let diff = k.output("diff -f -", Some(&changed));
        assert_eq!(diff.status.code(), Some(1), "{}", both(&diff));
        let applied = k.output("apply -f -", Some(&changed));
        assert!(both(&applied).contains("deployment.apps/hello configured"), "{}", both(&applied));
        let again = k.output("apply -f -", Some(&changed));
        assert!(both(&again).contains("deployment.apps/hello unchanged"), "{}", both(&again));
        k.ok("rollout status deploy/hello --timeout=60s");
        k.ok("rollout pause deploy/hello");
        k.ok("set image deploy/hello hello=hello:2");
        k.says("get deploy hello -o jsonpath={.status.updatedReplicas}", &[]);
        k.ok("rollout resume deploy/hello");
        k.ok("rollout restart deploy/hello");
        k.ok("rollout status deploy/hello --timeout=60s");
        k.says("rollout history deploy/hello", &["REVISION"]);
        k.says("rollout history deploy/hello --revision=2", &["hello:2"]);
        k.ok("rollout undo deploy/hello --to-revision=1");
        k.ok("rollout status deploy/hello --timeout=60s");
        let typo = changed.replace("replicas: 3", "replica: 3");
        let refused = k.output("apply -f -", Some(&typo));
        assert!(
            !refused.status.success() && both(&refused).contains("unknown field \"spec.replica\""),
            "{}",
            both(&refused)
        );
        k.says("apply -f manifests/hello.yaml --dry-run=server", &["(server dry run)"]);
        k.ok("delete -f manifests/hello.yaml --timeout=60s");
        k.refused("get deploy hello", &["NotFound"]);
    });
}

#[test]
fn lists_are_validated_by_the_document_that_clients_read_as_protobuf() {
    with_each(&[], |k| {
        let list = |field: &str| {
            let map = |name: &str| {
                format!(
                    r#"{{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "{name}"}}, "{field}": {{"a": "b"}}}}"#
                )
            };
            format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{}, {}]}}"#, map("one"), map("two"))
        };
        let apply = |text: &str, wanted: &[&str]| {
            let said = both(&k.output("apply -f -", Some(text)));
            wanted.iter().for_each(|word| assert!(said.contains(word), "apply does not say {word:?}:\n{said}"));
        };
        apply(&list("dota"), &["unknown field \"dota\" in io.k8s.api.core.v1.ConfigMap"]);
        apply(&list("data"), &["configmap/one created", "configmap/two created"]);
        k.says("explain pod.spec.containers --output=plaintext-openapiv2", &["livenessProbe", "<Object>"]);
    });
}

#[test]
fn logs_events_and_pods_of_commands() {
    with_each(&["manifests/worker.yaml"], |k| {
        k.ok("rollout status deploy/worker --timeout=60s");
        k.eventually_says("logs deploy/worker", &["tick 3"]);
        k.says("logs deploy/worker --tail=1", &["tick"]);
        k.says("logs deploy/worker --timestamps --tail=1", &["T", "Z tick"]);
        k.says("logs deploy/worker -c worker --since=1h", &["tick 1"]);
        k.ok("wait --for=jsonpath={.status.phase}=Succeeded pod/primes --timeout=60s");
        k.says("get pod primes", &["Completed", "0/1"]);
        k.says("logs primes", &["9592 primes below 100000"]);
        k.says("events --for pod/primes", &["Started"]);
        k.says("get events", &["Scheduled", "Pulled"]);
        k.says("describe pod primes", &["Exit Code:", "Completed", "Scheduled"]);
        k.ok("run once --image=job:1 --restart=OnFailure -- 10 3");
        k.eventually_says("get pod once", &["CrashLoopBackOff"]);
        k.says("logs once --previous", &["4 primes below 10"]);
        k.ok("delete pod once --grace-period=0 --force");
        k.ok("delete pod primes --now");
    });
}

#[test]
fn an_editor_changes_an_object() {
    with_each(&[], |k| {
        k.ok("create configmap settings --from-literal=colour=red");
        let mut edit = std::process::Command::new(k.kubectl);
        edit.arg("--kubeconfig").arg(k.cluster.kubeconfig()).args(["edit", "configmap", "settings"]);
        edit.env("KUBE_EDITOR", "sed -i s/red/blue/").env("HOME", k.cluster.dir.path());
        let output = edit.output().expect("kubectl runs");
        assert!(both(&output).contains("configmap/settings edited"), "{}", both(&output));
        k.says("get configmap settings -o jsonpath={.data.colour}", &["blue"]);
    });
}

#[test]
fn logs_are_followed_while_they_grow() {
    with_each(&["manifests/worker.yaml"], |k| {
        let mut child = std::process::Command::new(k.kubectl)
            .arg("--kubeconfig")
            .arg(k.cluster.kubeconfig())
            .args(["logs", "-f", "--tail=1", "deploy/worker"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let stdout = child.stdout.take().expect("stdout");
        let lines = std::io::BufRead::lines(std::io::BufReader::new(stdout)).map_while(Result::ok);
        let ticks: Vec<String> = lines.filter(|line| line.contains("tick")).take(3).collect();
        let _ = child.kill();
        let _ = child.wait();
        let numbers: Vec<u64> =
            ticks.iter().filter_map(|line| line.rsplit(' ').next().and_then(|word| word.parse().ok())).collect();
        assert!(numbers.len() == 3 && numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ticks:?}");
    });
}

#[test]
fn nodes_are_cordoned_and_tainted() {
    with_each(&[], |k| {
        k.says("cordon node-1", &["cordoned"]);
        k.says("get nodes", &["SchedulingDisabled"]);
        k.ok("create deployment waits --image=hello:1");
        k.eventually_says("get events", &["FailedScheduling", "0/1 nodes are available"]);
        k.says("get pods", &["Pending"]);
        k.ok("uncordon node-1");
        k.ok("rollout status deploy/waits --timeout=60s");
        k.ok("taint node node-1 only=some:NoExecute");
        k.eventually_says("get pods", &["Pending"]);
        k.ok("taint node node-1 only-");
        k.ok("rollout status deploy/waits --timeout=60s");
    });
}

#[test]
fn watches_show_what_changes() {
    with_each(&[], |k| {
        let mut child = std::process::Command::new(k.kubectl)
            .arg("--kubeconfig")
            .arg(k.cluster.kubeconfig())
            .args(["get", "configmaps", "-w", "--output-watch-events"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        k.ok("create configmap seen --from-literal=a=1");
        k.ok("delete configmap seen");
        let stdout = child.stdout.take().expect("stdout");
        let lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
        let mut events = Vec::new();
        for line in lines.map_while(Result::ok) {
            if line.contains("seen") {
                events.push(line.split_whitespace().next().unwrap_or_default().to_owned());
            }
            if events.last().is_some_and(|event| event == "DELETED") {
                break;
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        assert!(events == ["ADDED", "DELETED"] || events == ["DELETED"], "{events:?}");
    });
}

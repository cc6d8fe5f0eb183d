//! Who else has a say: webhooks, policies, pod security; and the log of what was asked.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::harness::{Cluster, Options, PATIENCE, both, eventually, kubectls};
use crate::hooks::Hook;

/// A configuration of one webhook of Deployments.
fn configuration(hook: &Hook, kind: &str, path: &str) -> String {
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": path},
        "webhooks": [{"name": format!("{path}.hooks.example.com"), "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "timeoutSeconds": 30,
            "clientConfig": hook.client_config(path),
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"],
                "resources": ["deployments"]}]}]})
    .to_string()
}

/// The review with an answer to what it asks.
fn review(path: &str, mut review: Value) -> Value {
    let mut response = answer(path, &review["request"]);
    response["uid"] = review["request"]["uid"].take();
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

fn answer(path: &str, request: &Value) -> Value {
    match path {
        "label" => {
            let patch = json!([{"op": "add", "path": "/metadata/labels/team", "value": "blue"}]).to_string();
            let patch = base64::engine::general_purpose::STANDARD.encode(patch);
            json!({"allowed": true, "patchType": "JSONPatch", "patch": patch, "warnings": ["it was labelled"]})
        }
        _ if request["object"]["spec"]["replicas"].as_i64() > Some(3) => {
            json!({"allowed": false, "status": {"message": "at most three, please"}})
        }
        _ => json!({"allowed": true}),
    }
}

const POLICY: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: named.example.com}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}
  variables:
  - {name: owner, expression: \"object.metadata.?annotations[?'owner'].orValue('')\"}
  validations:
  - {expression: \"variables.owner != ''\", messageExpression: \"'whose is ' + object.metadata.name + '?'\"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: named}
spec:
  policyName: named.example.com
  validationActions: [Deny]
  matchResources: {namespaceSelector: {matchLabels: {strict: 'yes'}}}
";

#[test]
fn webhooks_policies_and_pod_security_have_their_say() {
    for kubectl in kubectls() {
        let cluster = Cluster::start();
        let hook = Hook::start(review);
        let run = |line: &str, input: Option<&str>| {
            let args: Vec<&str> = line.split_whitespace().collect();
            let output = cluster.with_kubectl(&kubectl, &args, input);
            (output.status.success(), both(&output))
        };
        let says = |line: &str, input: Option<&str>, success: bool, wanted: &[&str]| {
            let (succeeded, text) = run(line, input);
            assert_eq!(succeeded, success, "{line}: {text}");
            wanted.iter().for_each(|word| assert!(text.contains(word), "{line} does not say {word:?}:\n{text}"));
        };
        says("apply -f -", Some(&configuration(&hook, "MutatingWebhookConfiguration", "label")), true, &["created"]);
        says("apply -f -", Some(&configuration(&hook, "ValidatingWebhookConfiguration", "few")), true, &["created"]);
        says("get mutatingwebhookconfigurations", None, true, &["WEBHOOKS", "label"]);
        let made = "create deployment web --image=hello:1";
        says(&format!("{made} --replicas=2"), None, true, &["Warning: it was labelled", "created"]);
        says("get deployment web -o jsonpath={.metadata.labels.team}", None, true, &["blue"]);
        says(
            "create deployment many --image=hello:1 --replicas=4",
            None,
            false,
            &["admission webhook \"few.hooks.example.com\" denied the request: at most three, please"],
        );
        says("delete mutatingwebhookconfiguration label", None, true, &["deleted"]);
        says("delete validatingwebhookconfiguration few", None, true, &["deleted"]);

        says("apply -f -", Some(POLICY), true, &["named.example.com created", "named created"]);
        says("get validatingadmissionpolicies", None, true, &["VALIDATIONS", "named.example.com", "<unset>"]);
        says("create namespace strict", None, true, &["created"]);
        says(
            "label namespace strict strict=yes pod-security.kubernetes.io/enforce=restricted",
            None,
            true,
            &["labeled"],
        );
        says(
            "create deployment any --image=hello:1 -n strict",
            None,
            false,
            &["ValidatingAdmissionPolicy 'named.example.com' with binding 'named' denied request: whose is any?"],
        );
        says("delete validatingadmissionpolicybinding named", None, true, &["deleted"]);
        says(
            "create deployment any --image=hello:1 -n strict",
            None,
            true,
            &["Warning: would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false"],
        );
        says(
            "run one --image=hello:1 -n strict",
            None,
            false,
            &[
                "pods \"one\" is forbidden: violates PodSecurity \"restricted:latest\"",
                "runAsNonRoot != true (pod or container \"one\" must set securityContext.runAsNonRoot=true)",
            ],
        );
        says("run one --image=hello:1", None, true, &["created"]);
    }
}

#[test]
fn the_audit_log_tells_who_did_what() {
    if kubectls().is_empty() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
    let rules = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: RequestResponse, resources: [{group: '', resources: [configmaps]}], namespaces: [default]}
- {level: None}
";
    std::fs::write(&policy, rules).expect("written");
    let flags = [("--audit-policy-file", &policy), ("--audit-log-path", &log)];
    let args = flags.iter().map(|(flag, path)| format!("{flag}={}", path.display())).collect();
    let cluster = Cluster::with(Options { args, ..Options::default() });
    cluster.kubectl(&["create", "configmap", "told", "--from-literal=a=b", "--as=jo", "--as-group=system:masters"]);
    let made = eventually("the creation to be told", PATIENCE, || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let mut events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let made = events.find(|event| event["verb"] == "create" && event["objectRef"]["name"] == "told");
        made.ok_or(text)
    });
    assert_eq!(
        (&made["user"]["username"], &made["impersonatedUser"]["username"]),
        (&json!("coracle-admin"), &json!("jo"))
    );
    assert_eq!((&made["requestObject"]["data"]["a"], &made["responseStatus"]["code"]), (&json!("b"), &json!(201)));
    assert_eq!((&made["sourceIPs"], &made["stage"]), (&json!(["127.0.0.1"]), &json!("ResponseComplete")));
    let lines = std::fs::read_to_string(&log).expect("a log");
    assert!(!lines.contains("\"leases\""), "nothing else is told:\n{lines}");
}

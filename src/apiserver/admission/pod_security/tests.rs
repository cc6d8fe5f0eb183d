//! Pods against the standards, by tables; and through the router, as users meet it.

use http::StatusCode;
use serde_json::{Value, json};

use super::checks::{Pod, told, violations};
use super::levels::demand;
use crate::apiserver::tests::Api;

/// What the pod falls short of.
fn short_of(level: &str, version: &str, spec: &Value) -> String {
    let labels =
        json!({"pod-security.kubernetes.io/enforce": level, "pod-security.kubernetes.io/enforce-version": version});
    let (demand, _) = demand(&labels);
    told(&violations(demand.enforce, Pod { metadata: &Value::Null, spec }))
}

fn with(more: Value) -> Value {
    let mut container = json!({"name": "a"});
    if let (Some(container), Some(more)) = (container.as_object_mut(), more.as_object()) {
        container.extend(more.clone());
    }
    json!({"containers": [container]})
}

#[test]
fn pods_fall_short_in_upstreams_words() {
    let security = |context: Value| with(json!({"securityContext": context}));
    let cases = [
        ("baseline", "latest", with(json!({})), ""),
        ("privileged", "latest", security(json!({"privileged": true})), ""),
        (
            "baseline",
            "latest",
            security(json!({"privileged": true})),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        ("baseline", "latest", json!({"hostPID": true, "hostNetwork": true}), "host namespaces (hostNetwork, hostPID)"),
        (
            "baseline",
            "latest",
            with(json!({"ports": [{"hostPort": 80}, {"hostPort": 443}, {"containerPort": 1}]})),
            "hostPort (container \"a\" uses hostPorts 443, 80)",
        ),
        (
            "baseline",
            "latest",
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
            "hostPath volumes (volume \"v\")",
        ),
        (
            "baseline",
            "latest",
            security(json!({"capabilities": {"add": ["CHOWN", "NET_RAW"]}})),
            "non-default capabilities (container \"a\" must not include \"NET_RAW\" in securityContext.capabilities.add)",
        ),
        (
            "baseline",
            "latest",
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            "baseline",
            "v1.28",
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}}),
            "forbidden sysctls (net.ipv4.tcp_rmem)",
        ),
        (
            "baseline",
            "latest",
            security(json!({"seccompProfile": {"type": "Unconfined"}})),
            "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            "baseline",
            "latest",
            security(json!({"seLinuxOptions": {"type": "x", "user": "u"}})),
            "seLinuxOptions (container \"a\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
        ),
        (
            "baseline",
            "latest",
            with(json!({"livenessProbe": {"httpGet": {"host": "h"}}})),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"h\")",
        ),
        ("baseline", "v1.33", with(json!({"livenessProbe": {"httpGet": {"host": "h"}}})), ""),
        (
            "restricted",
            "latest",
            with(json!({})),
            "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        ),
        ("restricted", "v1.7", json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a"}]}), ""),
        (
            "restricted",
            "v1.20",
            json!({"volumes": [{"name": "v", "nfs": {}}]}),
            "restricted volume types (volume \"v\" uses restricted volume type \"nfs\")",
        ),
        ("restricted", "latest", json!({"hostUsers": false, "securityContext": {"runAsUser": 0}}), ""),
    ];
    for (level, version, spec, want) in cases {
        assert_eq!(short_of(level, version, &spec), want, "{level}:{version} {spec}");
    }
    let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}, "containers": [
        {"name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
    assert_eq!(short_of("restricted", "latest", &good), "");
}

#[tokio::test]
async fn a_namespace_demands_and_its_pods_obey() {
    let api = Api::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let mut plain = with(json!({"image": "hello:1"}));
    assert_eq!(api.post(pods, pod("before", plain.clone())).await.0, StatusCode::CREATED);
    let label = |level: &str| json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    let (code, status) = api.merge("/api/v1/namespaces/default", label("strict")).await;
    assert_eq!((code, &status["reason"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("Invalid")), "{status}");
    assert_eq!(api.merge("/api/v1/namespaces/default", label("baseline")).await.0, StatusCode::OK);
    assert_eq!(api.post(pods, pod("plain", plain.clone())).await.0, StatusCode::CREATED);
    plain["containers"][0]["securityContext"] = json!({"privileged": true});
    let (code, status) = api.post(pods, pod("strong", plain)).await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{status}");
    assert_eq!(
        status["message"],
        "pods \"strong\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"a\" must not set securityContext.privileged=true)"
    );
}

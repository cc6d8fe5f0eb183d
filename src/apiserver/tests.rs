//! The API through its public face: requests into the router, answers out.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::auth::User;
use super::{ApiConfig, ApiServer};
use crate::kinds::{KINDS, Kind};
use crate::store::{MemoryStore, Retention, Store as _};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// An API in memory, asked by a master.
pub struct Api {
    pub server: ApiServer,
}

impl Api {
    pub async fn start() -> Self {
        Self::over(MemoryStore::new()).await
    }

    pub async fn over(store: MemoryStore) -> Self {
        Self { server: ApiServer::start(ApiConfig::new(Arc::new(store))).await.expect("the server starts") }
    }

    pub fn router(&self) -> Router {
        self.server.router().layer(axum::Extension(User::server()))
    }

    pub async fn send(&self, method: Method, path: &str, content_type: &str, body: String) -> (StatusCode, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, content_type)
            .body(Body::from(body))
            .expect("a request");
        let response = self.router().oneshot(request).await.expect("a router never fails");
        let code = response.status();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.send(Method::GET, path, "application/json", String::new()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.send(Method::POST, path, "application/json", body.to_string()).await
    }

    /// The same as a task: only its code.
    pub fn post_to(&self, path: String, body: Value) -> impl Future<Output = StatusCode> + Send + 'static {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        let answer = self.router().oneshot(request.body(Body::from(body.to_string())).expect("a request"));
        async move { answer.await.expect("a router never fails").status() }
    }

    pub async fn delete(&self, path: &str) -> (StatusCode, Value) {
        self.send(Method::DELETE, path, "application/json", String::new()).await
    }

    pub async fn merge(&self, path: &str, patch: Value) -> (StatusCode, Value) {
        self.send(Method::PATCH, path, "application/merge-patch+json", patch.to_string()).await
    }

    /// The first `count` events of a watch.
    pub async fn watch(&self, path: &str, count: usize) -> Vec<Value> {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = self.router().oneshot(request).await.expect("a router never fails");
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let mut body = response.into_body();
        let mut text = Vec::new();
        let reading = async {
            while text.iter().filter(|b| **b == b'\n').count() < count {
                let Some(Ok(frame)) = body.frame().await else { break };
                text.extend_from_slice(&frame.into_data().unwrap_or_default());
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("events in time");
        text.split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .filter_map(|l| serde_json::from_slice(l).ok())
            .collect()
    }
}

#[tokio::test]
async fn an_object_lives_and_dies() {
    let api = Api::start().await;
    let all = "/api/v1/namespaces/default/configmaps";
    let (code, made) = api.post(all, json!({"metadata": {"name": "c"}, "data": {"a": "1"}})).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    assert_eq!(made["metadata"]["namespace"], "default");
    let one = "/api/v1/namespaces/default/configmaps/c";
    assert_eq!(api.get(one).await.1, made);
    let (code, changed) = api.merge(one, json!({"data": {"b": "2"}})).await;
    assert_eq!((code, &changed["data"]), (StatusCode::OK, &json!({"a": "1", "b": "2"})));
    let (_, same) = api.merge(one, json!({"data": {"b": "2"}})).await;
    assert_eq!(same["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"], "nothing has changed");
    assert_eq!(api.delete(one).await.1["status"], "Success");
    assert_eq!(api.get(one).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_stale_put_is_a_conflict() {
    let api = Api::start().await;
    let (_, old) = api.post("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "c"}})).await;
    let one = "/api/v1/namespaces/default/configmaps/c";
    api.merge(one, json!({"data": {"b": "2"}})).await;
    let (code, status) = api.send(Method::PUT, one, "application/json", old.to_string()).await;
    assert_eq!((code, &status["reason"]), (StatusCode::CONFLICT, &json!("Conflict")));
}

#[tokio::test]
async fn a_watch_tells_what_enters_and_leaves_its_selector() {
    let api = Api::start().await;
    let all = "/api/v1/namespaces/default/configmaps";
    let (_, made) = api.post(all, json!({"metadata": {"name": "c", "labels": {"app": "x"}}})).await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let one = format!("{all}/c");
    api.merge(&one, json!({"metadata": {"labels": {"app": "z"}}})).await;
    api.merge(&one, json!({"metadata": {"labels": {"app": "x"}}})).await;
    api.delete(&one).await;
    let events = api.watch(&format!("{all}?watch=1&resourceVersion={version}&labelSelector=app%3Dx"), 3).await;
    let types: Vec<&str> = events.iter().filter_map(|e| e["type"].as_str()).collect();
    assert_eq!(types, ["DELETED", "ADDED", "DELETED"]);
    assert_eq!(events[0]["object"]["metadata"]["labels"]["app"], "x", "as it last was for this watcher");
}

/// A valid object of each kind; a kind that is missing here fails the test that walks the table.
fn sample(kind: &dyn Kind) -> Value {
    let pod = json!({"containers": [{"name": "c", "image": "hello:1"}]});
    let workload = json!({
        "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": pod},
    });
    let job = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "hello:1"}]}});
    let rule = json!({"operations": ["CREATE"], "apiGroups": ["none.example.com"], "apiVersions": ["v1"],
        "resources": ["nones"]});
    let rest = match (kind.info().group, kind.info().plural) {
        ("", "pods") => json!({"spec": pod}),
        ("", "services") => json!({"spec": {"ports": [{"port": 80}]}}),
        ("", "events") => json!({"involvedObject": {"namespace": "default"}}),
        ("events.k8s.io", "events") => json!({
            "regarding": {"namespace": "default"}, "eventTime": "2026-01-01T00:00:00.000000Z", "action": "Do",
            "reason": "Why", "type": "Normal", "reportingController": "example.com/c", "reportingInstance": "i",
        }),
        ("", "replicationcontrollers") => json!({"spec": {"template": workload["template"]}}),
        ("", "podtemplates") => json!({"template": workload["template"]}),
        ("", "persistentvolumes") => json!({"spec": {"capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/d"}}}),
        ("", "persistentvolumeclaims") => json!({"spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}),
        ("apps", "controllerrevisions") => json!({"data": {"a": 1}, "revision": 1}),
        ("apps", _) => json!({"spec": workload}),
        ("batch", "jobs") => json!({"spec": {"template": job}}),
        ("batch", "cronjobs") => json!({"spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": job}}}}),
        ("autoscaling", _) => {
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}})
        }
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => {
            json!({"spec": {"priorityLevelConfiguration": {"name": "exempt"}}})
        }
        ("flowcontrol.apiserver.k8s.io", _) => json!({"spec": {"type": "Exempt"}}),
        ("apiregistration.k8s.io", _) => {
            json!({"spec": {"group": "example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}})
        }
        ("networking.k8s.io", "ipaddresses") => {
            json!({"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "s"}}})
        }
        ("networking.k8s.io", "servicecidrs") => json!({"spec": {"cidrs": ["10.0.0.0/16"]}}),
        ("certificates.k8s.io", _) => {
            let key = rcgen::KeyPair::generate().expect("a key");
            let request = rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
            let pem = STANDARD.encode(request.pem().expect("PEM"));
            json!({"spec": {"request": pem, "signerName": "example.com/s", "usages": ["client auth"]}})
        }
        ("policy", "poddisruptionbudgets") => json!({"spec": {"minAvailable": 1}}),
        ("scheduling.k8s.io", _) => json!({"value": 7}),
        ("networking.k8s.io", "networkpolicies") => json!({"spec": {"podSelector": {}}}),
        ("storage.k8s.io", "csidrivers") => json!({"spec": {}}),
        ("storage.k8s.io", "csinodes") => json!({"spec": {"drivers": []}}),
        ("storage.k8s.io", "csistoragecapacities") => json!({"storageClassName": "s"}),
        ("storage.k8s.io", "volumeattachments") => {
            json!({"spec": {"attacher": "d.example.com", "nodeName": "n", "source": {"persistentVolumeName": "p"}}})
        }
        ("storage.k8s.io", "volumeattributesclasses") => {
            json!({"driverName": "d.example.com", "parameters": {"a": "b"}})
        }
        ("storage.k8s.io", "storageclasses") => json!({"provisioner": "example.com/p"}),
        ("discovery.k8s.io", _) => json!({"addressType": "IPv4", "endpoints": []}),
        ("networking.k8s.io", "ingresses") => {
            json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}})
        }
        ("networking.k8s.io", "ingressclasses") => json!({"spec": {"controller": "example.com/c"}}),
        ("node.k8s.io", _) => json!({"handler": "h"}),
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => {
            json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]})
        }
        ("rbac.authorization.k8s.io", _) => json!({"roleRef": {"kind": "ClusterRole", "name": "view"}}),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => json!({"spec": {
            "matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "true"}]}}),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => json!({"spec": {
            "matchConstraints": {"resourceRules": [rule]}, "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}}),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings") => json!({"spec": {"policyName": "p"}}),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
            json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}})
        }
        ("admissionregistration.k8s.io", _) => json!({"webhooks": [{
            "name": "a.example.com", "clientConfig": {"url": "https://w.example.com/"}, "rules": [rule],
            "sideEffects": "None", "admissionReviewVersions": ["v1"]}]}),
        ("", "limitranges") => json!({"spec": {"limits": []}}),
        ("" | "coordination.k8s.io", _) => json!({}),
        other => panic!("add a sample for {other:?}"),
    };
    let mut object = json!({"metadata": {"name": sample_name(kind), "labels": {"sample": "yes"}}});
    if let (Some(object), Some(rest)) = (object.as_object_mut(), rest.as_object()) {
        object.extend(rest.clone());
    }
    object
}

/// Some kinds' names say something.
fn sample_name(kind: &dyn Kind) -> &'static str {
    match kind.info().plural {
        "ipaddresses" => "10.9.8.7",
        "apiservices" => "v1.example.com",
        _ => "sample",
    }
}

fn collection(kind: &dyn Kind) -> String {
    let info = kind.info();
    let root = if info.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", info.group) };
    let namespace = if info.namespaced { "/namespaces/default" } else { "" };
    format!("{root}/{}{namespace}/{}", info.version, info.plural)
}

#[tokio::test]
async fn every_kind_takes_every_verb() {
    // A definition has its own rule for names, and gets conditions a moment later: `custom_tests`.
    for kind in KINDS.iter().copied().filter(|kind| kind.info().group != "apiextensions.k8s.io") {
        let api = Api::start().await;
        let all = collection(kind);
        let one = format!("{all}/{}", sample_name(kind));
        let selected = format!("{all}?labelSelector=sample%3Dyes");
        let (code, dry) = api.post(&format!("{all}?dryRun=All"), sample(kind)).await;
        assert_eq!(code, StatusCode::CREATED, "{all}: {dry}");
        assert_eq!(api.get(&one).await.0, StatusCode::NOT_FOUND, "{all}: a dry run stores nothing");
        let (code, made) = api.post(&all, sample(kind)).await;
        assert_eq!(code, StatusCode::CREATED, "{all}: {made}");
        assert_eq!(api.post(&all, sample(kind)).await.1["reason"], "AlreadyExists", "{all}");
        assert_eq!(api.get(&one).await.1, made, "{all}");
        let (_, list) = api.get(&selected).await;
        assert_eq!(list["items"][0]["metadata"], made["metadata"], "{all}");
        let (code, same) = api.send(Method::PUT, &one, "application/json", made.to_string()).await;
        assert_eq!((code, &same), (StatusCode::OK, &made), "{all}: an update that changes nothing");
        let (code, labelled) = api.merge(&one, json!({"metadata": {"annotations": {"a": "b"}}})).await;
        assert_eq!((code, &labelled["metadata"]["annotations"]["a"]), (StatusCode::OK, &json!("b")), "{all}");
        let events = api.watch(&format!("{selected}&watch=1"), 1).await;
        assert_eq!(events[0], json!({"type": "ADDED", "object": labelled}), "{all}");
        if kind.info().verbs.contains(&"deletecollection") {
            assert_eq!(api.delete(&selected).await.0, StatusCode::OK, "{all}");
        } else {
            assert_eq!(api.delete(&selected).await.0, StatusCode::METHOD_NOT_ALLOWED, "{all}");
            assert_eq!(api.delete(&one).await.0, StatusCode::OK, "{all}");
            continue;
        }
        let (code, left) = api.get(&one).await;
        // What a finalizer holds waits for its controller.
        let held = left["metadata"]["finalizers"].is_array() && left["metadata"]["deletionTimestamp"].is_string();
        assert!(code == StatusCode::NOT_FOUND || held, "{all}: {left}");
    }
}

#[tokio::test]
async fn every_status_and_scale_has_its_endpoint() {
    for kind in KINDS.iter().copied().filter(|kind| kind.info().group != "apiextensions.k8s.io") {
        let api = Api::start().await;
        let all = collection(kind);
        api.post(&all, sample(kind)).await;
        // A proxy's answer is its node's, and there is none here.
        for sub in kind.info().subresources.iter().filter(|sub| sub.name != "proxy") {
            let path = format!("{all}/{}/{}", sample_name(kind), sub.name);
            let (code, got) = api.get(&path).await;
            let wanted = match sub.verbs.contains(&"get") {
                // A stream is not answered, it is begun.
                true if sub.is_stream() => StatusCode::BAD_REQUEST,
                true => StatusCode::OK,
                false => StatusCode::METHOD_NOT_ALLOWED,
            };
            assert_eq!(code, wanted, "{path}: {got}");
            if sub.verbs.contains(&"patch") {
                assert_eq!(api.merge(&path, json!({})).await.0, StatusCode::OK, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let api = Api::start().await;
    let all = "/api/v1/namespaces/default/configmaps";
    api.post(all, json!({"metadata": {"name": "c"}})).await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let events = api.watch(&format!("{all}?{query}"), 2).await;
    assert_eq!((&events[0]["type"], &events[1]["type"]), (&json!("ADDED"), &json!("BOOKMARK")));
    assert_eq!(events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn history_that_is_gone_is_410_and_the_future_504() {
    let retention = Retention { changes: 2, ..Retention::default() };
    let api = Api::over(MemoryStore::with_retention(retention)).await;
    let all = "/api/v1/namespaces/default/configmaps";
    for name in ["a", "b", "c"] {
        api.post(all, json!({"metadata": {"name": name}})).await;
    }
    let (_, page) = api.get(&format!("{all}?limit=1")).await;
    let token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    assert_eq!(page["metadata"]["remainingItemCount"], 2);
    for name in ["d", "e", "f"] {
        api.post(all, json!({"metadata": {"name": name}})).await;
    }
    let (code, gone) = api.get(&format!("{all}?limit=1&continue={token}")).await;
    assert_eq!((code, &gone["reason"]), (StatusCode::GONE, &json!("Expired")));
    let fresh = gone["metadata"]["continue"].as_str().unwrap_or_default();
    let (code, rest) = api.get(&format!("{all}?continue={fresh}")).await;
    assert_eq!((code, rest["items"].as_array().map(Vec::len)), (StatusCode::OK, Some(5)), "{rest}");
    let events = api.watch(&format!("{all}?watch=1&resourceVersion=1"), 1).await;
    assert_eq!((&events[0]["type"], &events[0]["object"]["code"]), (&json!("ERROR"), &json!(410)));
    for path in ["", "&watch=1"] {
        let (code, status) = api.get(&format!("{all}?resourceVersion=999999{path}")).await;
        assert_eq!((code, &status["reason"]), (StatusCode::GATEWAY_TIMEOUT, &json!("Timeout")));
    }
}

#[tokio::test]
async fn pages_show_one_version() {
    let api = Api::start().await;
    let all = "/api/v1/namespaces/default/configmaps";
    for name in ["a", "b", "c"] {
        api.post(all, json!({"metadata": {"name": name}})).await;
    }
    let (_, first) = api.get(&format!("{all}?limit=2")).await;
    api.delete(&format!("{all}/c")).await;
    let token = first["metadata"]["continue"].as_str().unwrap_or_default();
    let (_, second) = api.get(&format!("{all}?limit=2&continue={token}")).await;
    assert_eq!(second["items"][0]["metadata"]["name"], "c");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn a_scheduled_pod_goes_when_its_node_says_so() {
    let api = Api::start().await;
    let all = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "hello:1"}]}});
    api.post(all, pod).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(api.post(&format!("{all}/p/binding"), binding).await.0, StatusCode::CREATED);
    let (_, marked) = api.delete(&format!("{all}/p")).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let (_, shorter) = api.delete(&format!("{all}/p?gracePeriodSeconds=5")).await;
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    assert_eq!(api.delete(&format!("{all}/p?gracePeriodSeconds=0")).await.0, StatusCode::OK);
    assert_eq!(api.get(&format!("{all}/p")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_namespace_is_finalized_by_its_controller() {
    let api = Api::start().await;
    let (_, made) = api.post("/api/v1/namespaces", json!({"metadata": {"name": "shop"}})).await;
    let account = "/api/v1/namespaces/shop/serviceaccounts/default";
    assert_eq!(api.get(account).await.0, StatusCode::OK, "a namespace comes with its account");
    assert_eq!(api.delete("/api/v1/namespaces/shop").await.1["status"]["phase"], "Terminating");
    let (code, refused) = api.post("/api/v1/namespaces/shop/configmaps", json!({"metadata": {"name": "c"}})).await;
    assert_eq!(
        (code, &refused["details"]["causes"][0]["reason"]),
        (StatusCode::FORBIDDEN, &json!("NamespaceTerminating"))
    );
    let mut empty = made;
    empty["spec"] = json!({});
    empty["metadata"]["resourceVersion"] = Value::Null;
    let path = "/api/v1/namespaces/shop/finalize";
    assert_eq!(api.send(Method::PUT, path, "application/json", empty.to_string()).await.0, StatusCode::OK);
    assert_eq!(api.get("/api/v1/namespaces/shop").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn patches_at_once_lose_nothing() {
    let api = Api::start().await;
    let all = "/api/v1/namespaces/default/configmaps";
    api.post(all, json!({"metadata": {"name": "c"}})).await;
    let path = format!("{all}/c");
    let patches = (0..32).map(|i| {
        let (api, path) = (&api, &path);
        async move { api.merge(path, json!({"data": {i.to_string(): "x"}})).await.0 }
    });
    let codes = futures::future::join_all(patches).await;
    assert!(codes.iter().all(|code| *code == StatusCode::OK));
    assert_eq!(api.get(&path).await.1["data"].as_object().map(serde_json::Map::len), Some(32));
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_413() {
    let api = Api::start().await;
    let body = "x".repeat(super::body::MAX_BODY_BYTES + 1);
    let (code, status) = api.send(Method::POST, "/api/v1/namespaces", "application/json", body).await;
    assert_eq!((code, &status["reason"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("RequestEntityTooLarge")));
}

#[tokio::test]
async fn a_node_whose_presence_ends_becomes_unknown() {
    let api = Api::start().await;
    api.post("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    api.merge("/api/v1/nodes/n/status", ready).await;
    let (code, _) = api.send(Method::POST, "/coracle/v1/nodes/n/presence", "text/plain", "..bye".to_owned()).await;
    assert_eq!(code, StatusCode::OK);
    let (_, node) = api.get("/api/v1/nodes/n").await;
    let condition = &node["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("Unknown"), &json!("NodeStatusUnknown")));
}

#[tokio::test]
async fn logs_without_a_node_say_why() {
    let api = Api::start().await;
    let all = "/api/v1/namespaces/default/pods";
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    api.post(all, pod).await;
    let (code, status) = api.get(&format!("{all}/p/log")).await;
    assert_eq!((code, &status["message"]), (StatusCode::NOT_FOUND, &json!("nodes \"n\" not found")));
    assert_eq!(api.get(&format!("{all}/p/log?container=x")).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_restart_finds_everything_as_it_was() {
    let store = Arc::new(MemoryStore::new());
    let first = ApiServer::start(ApiConfig::new(store.clone())).await.expect("the server starts");
    let revision = store.revision();
    first.shutdown();
    let second = Api { server: ApiServer::start(ApiConfig::new(store.clone())).await.expect("the server starts") };
    assert_eq!(store.revision(), revision, "a second start writes nothing");
    let (_, service) = second.get("/api/v1/namespaces/default/services/kubernetes").await;
    assert_eq!(service["spec"]["clusterIP"], "127.96.0.1");
    let wanted = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "127.96.0.1", "ports": [{"port": 80}]}});
    let (code, status) = second.post("/api/v1/namespaces/default/services", wanted).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{status}");
}

#[tokio::test]
async fn a_stranger_is_refused() {
    let api = Api::start().await;
    let request = Request::get("/api/v1/pods").body(Body::empty()).expect("a request");
    let response = api.server.router().oneshot(request).await.expect("a router never fails");
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn an_address_that_somebody_has_entered_is_given_to_no_service() {
    let mut config = ApiConfig::new(Arc::new(MemoryStore::new()));
    config.service_cidr = "127.96.0.0/29".parse().expect("a CIDR");
    let api = Api { server: ApiServer::start(config).await.expect("the server starts") };
    let entry = json!({"metadata": {"name": "127.96.0.3"}, "spec": {"parentRef": {"resource": "things", "name": "t"}}});
    assert_eq!(api.post("/apis/networking.k8s.io/v1/ipaddresses", entry).await.0, StatusCode::CREATED);
    let services = "/api/v1/namespaces/default/services";
    let service =
        |name: &str, ip: &str| json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
    let (code, refused) = api.post(services, service("a", "127.96.0.3")).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        refused["message"].as_str().is_some_and(|text| text.contains("provided IP is already allocated")),
        "{refused}"
    );
    // Six addresses, of which the API has one and somebody another.
    for name in ["a", "b", "c", "d"] {
        let (code, made) = api.post(services, service(name, "")).await;
        assert_eq!(code, StatusCode::CREATED, "{made}");
        assert_ne!(made["spec"]["clusterIP"], "127.96.0.3");
    }
    assert_eq!(api.post(services, service("e", "")).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(api.delete("/apis/networking.k8s.io/v1/ipaddresses/127.96.0.3").await.0, StatusCode::OK);
    assert_eq!(api.post(services, service("e", "")).await.1["spec"]["clusterIP"], "127.96.0.3");
}

#[tokio::test]
async fn bootstrap_tokens_are_believed_as_their_secrets_say() {
    let api = Api::start().await;
    let secret = json!({
        "metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:mine"},
    });
    assert_eq!(api.post("/api/v1/namespaces/kube-system/secrets", secret).await.0, StatusCode::CREATED);
    let review = json!({"spec": {"token": "abcdef.0123456789abcdef"}});
    let (_, reviewed) = api.post("/apis/authentication.k8s.io/v1/tokenreviews", review.clone()).await;
    let user = &reviewed["status"]["user"];
    assert_eq!(
        (&reviewed["status"]["authenticated"], &user["username"]),
        (&json!(true), &json!("system:bootstrap:abcdef"))
    );
    assert_eq!(user["groups"], json!(["system:bootstrappers", "system:bootstrappers:mine", "system:authenticated"]));
    let user = api.server.account("abcdef.0123456789abcdef").expect("somebody");
    assert!(!user.in_group(super::auth::JOINERS), "its groups do not let it join");
    let one = "/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef";
    api.merge(one, json!({"stringData": {"expiration": "2020-01-01T00:00:00Z"}})).await;
    assert!(api.server.account("abcdef.0123456789abcdef").is_none(), "its time is over");
    let (_, reviewed) = api.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    let status = &reviewed["status"];
    assert_eq!((&status["error"], &status["authenticated"]), (&json!("the bootstrap token has expired"), &Value::Null));
}

#[tokio::test]
async fn a_second_range_gives_addresses_when_the_first_is_full() {
    let mut config = ApiConfig::new(Arc::new(MemoryStore::new()));
    config.service_cidr = "127.96.0.0/30".parse().expect("a CIDR");
    config.pod_cidr = Some("127.64.0.0/11".parse().expect("a CIDR"));
    let api = Api { server: ApiServer::start(config).await.expect("the server starts") };
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    // Two addresses, of which the API has one.
    assert_eq!(api.post(services, service("a")).await.0, StatusCode::CREATED);
    assert_eq!(api.post(services, service("b")).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    for (name, cidr) in [("pods", "127.64.7.0/24"), ("routed", "10.0.0.0/24"), ("more", "127.97.0.0/24")] {
        let range = json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}});
        assert_eq!(api.post("/apis/networking.k8s.io/v1/servicecidrs", range).await.0, StatusCode::CREATED);
    }
    let (code, made) = api.post(services, service("b")).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    assert!(made["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("127.97.0.")), "{made}");
    let mut wanted = service("c");
    wanted["spec"]["clusterIP"] = "127.97.0.77".into();
    assert_eq!(api.post(services, wanted.clone()).await.0, StatusCode::CREATED);
    assert_eq!(api.delete("/apis/networking.k8s.io/v1/servicecidrs/more").await.0, StatusCode::OK);
    wanted["metadata"]["name"] = "d".into();
    wanted["spec"]["clusterIP"] = "127.97.0.78".into();
    assert_eq!(api.post(services, wanted).await.0, StatusCode::UNPROCESSABLE_ENTITY, "its range has gone");
}

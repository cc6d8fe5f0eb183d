//! Webhooks of every sort, asked over TLS by requests through the router.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::apiserver::tests::Api;
use crate::apiserver::webhook::tests::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// The webhooks behind one address, by path; what they were asked is kept.
struct Hooks {
    server: Server,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Hooks {
    async fn start() -> Self {
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let heard = asked.clone();
        let answer = move |path: &str, review: Value| {
            let path = path.split('?').next().unwrap_or_default().to_owned();
            heard.lock().expect("not poisoned").push((path.clone(), review["request"].clone()));
            answer(&path, &review)
        };
        Self { server: Server::start("hook.example", true, Arc::new(answer)).await, asked }
    }

    fn asked(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.asked.lock().expect("not poisoned"))
    }

    fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|(path, _)| path).collect()
    }

    /// A webhook of ConfigMaps at a path, with more fields.
    fn hook(&self, path: &str, more: Value) -> Value {
        let mut hook = json!({
            "name": format!("{}.hooks.example.com", path.trim_matches('/')), "clientConfig": self.server.config(path),
            "rules": [{"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["configmaps"]}],
            "sideEffects": "None", "admissionReviewVersions": ["v1"],
        });
        if let (Some(hook), Some(more)) = (hook.as_object_mut(), more.as_object()) {
            hook.extend(more.clone());
        }
        hook
    }
}

/// What each path says.
fn answer(path: &str, review: &Value) -> (u16, Value) {
    let request = &review["request"];
    let patch = |patch: Value| {
        let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
        json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
    };
    let append = |what: &str| {
        let so_far = request["object"]["data"]["order"].as_str().unwrap_or_default();
        patch(json!([{"op": "add", "path": "/data/order", "value": format!("{so_far}{what}")}]))
    };
    let mut response = match path {
        "/allow" => json!({"allowed": true, "warnings": ["mind the gap"], "auditAnnotations": {"seen": "yes"}}),
        "/deny" => json!({"allowed": false, "status": {"message": "not today", "code": 403, "reason": "Forbidden"}}),
        "/a" => append("a"),
        "/b" => append("b"),
        // Sets what is not set yet.
        "/label" if request["object"]["metadata"]["labels"]["team"].is_null() => {
            patch(json!([{"op": "add", "path": "/metadata/labels", "value": {"team": "x"}}]))
        }
        "/label" => json!({"allowed": true}),
        "/patch" => patch(json!([])),
        "/broken" => return (500, json!("broken")),
        _ => return (404, Value::Null),
    };
    response["uid"] = request["uid"].clone();
    (200, json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}

async fn configure(api: &Api, sort: &str, name: &str, hooks: Vec<Value>) {
    let object = json!({"metadata": {"name": name}, "webhooks": hooks});
    let (code, made) = api.post(&format!("{GROUP}/{sort}webhookconfigurations"), object).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
}

async fn create(api: &Api, name: &str) -> (StatusCode, Value) {
    api.post(MAPS, json!({"metadata": {"name": name}, "data": {"k": "v"}})).await
}

#[tokio::test]
async fn a_validating_webhook_is_asked_and_may_refuse() {
    let (api, hooks) = (Api::start().await, Hooks::start().await);
    configure(&api, "validating", "a", vec![hooks.hook("/allow", json!({}))]).await;
    let (code, made) = create(&api, "c").await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let (path, request) = hooks.asked().pop().expect("it was asked");
    assert_eq!(path, "/allow");
    let told = |name: &str| request[name].clone();
    assert_eq!(told("operation"), "CREATE");
    assert_eq!(told("kind"), json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(told("requestResource"), json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((told("namespace"), told("name")), (json!("default"), json!("c")));
    assert_eq!(told("userInfo")["username"], "system:coracle");
    assert_eq!((told("dryRun"), told("oldObject")), (json!(false), Value::Null));
    assert_eq!(told("object")["kind"], "ConfigMap");
    assert_eq!(told("object")["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(told("options")["kind"], "CreateOptions");
    let one = format!("{MAPS}/c");
    api.merge(&one, json!({"data": {"k": "w"}})).await;
    let (_, request) = hooks.asked().pop().expect("it was asked");
    assert_eq!((&request["operation"], &request["oldObject"]["data"]["k"]), (&json!("UPDATE"), &json!("v")));

    configure(&api, "validating", "b", vec![hooks.hook("/deny", json!({}))]).await;
    let (code, status) = api.delete(&one).await;
    assert_eq!((code, &status["reason"]), (StatusCode::FORBIDDEN, &json!("Forbidden")));
    assert_eq!(status["message"], "admission webhook \"deny.hooks.example.com\" denied the request: not today");
    let (_, request) = hooks.asked().pop().expect("it was asked");
    assert_eq!((&request["operation"], &request["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!(request["oldObject"]["data"]["k"], "w");
    assert_eq!(api.get(&one).await.0, StatusCode::OK, "it is still there");
    // Configurations are nobody's concern but their own.
    let gone = api.delete(&format!("{GROUP}/validatingwebhookconfigurations/b")).await;
    assert_eq!(gone.0, StatusCode::OK);
    assert_eq!(api.delete(&one).await.0, StatusCode::OK);
}

#[tokio::test]
async fn mutating_webhooks_act_in_order_and_again_where_they_ask_for_it() {
    let (api, hooks) = (Api::start().await, Hooks::start().await);
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    configure(&api, "mutating", "2", vec![hooks.hook("/b", json!({}))]).await;
    configure(&api, "mutating", "1", vec![hooks.hook("/label", again), hooks.hook("/a", json!({}))]).await;
    let (code, made) = create(&api, "c").await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    assert_eq!(made["data"], json!({"k": "v", "order": "ab"}));
    assert_eq!(made["metadata"]["labels"], json!({"team": "x"}));
    assert_eq!(hooks.paths(), ["/label", "/a", "/b", "/label"]);
    // A dry run asks as well, and keeps nothing.
    let (code, made) =
        api.post(&format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "d"}, "data": {"k": "v"}})).await;
    assert_eq!((code, &made["data"]["order"]), (StatusCode::CREATED, &json!("ab")));
    assert_eq!(hooks.asked()[0].1["dryRun"], true);
    assert_eq!(api.get(&format!("{MAPS}/d")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn who_is_no_concern_is_not_asked_about() {
    let (api, hooks) = (Api::start().await, Hooks::start().await);
    let condition = |expression: &str| json!({"matchConditions": [{"name": "c", "expression": expression}]});
    let cases = [
        (json!({"objectSelector": {"matchLabels": {"a": "b"}}}), false),
        (json!({"namespaceSelector": {"matchLabels": {"a": "b"}}}), false),
        (json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}), true),
        (condition("object.data.k == 'v' && request.operation == 'CREATE'"), true),
        (condition("object.data.k != 'v'"), false),
        (
            json!({"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"],
            "scope": "Cluster"}]}),
            false,
        ),
        (
            json!({"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]}),
            true,
        ),
    ];
    for (number, (more, concerned)) in cases.into_iter().enumerate() {
        configure(&api, "validating", "c", vec![hooks.hook("/allow", more.clone())]).await;
        let (code, made) = create(&api, &format!("c{number}")).await;
        assert_eq!(code, StatusCode::CREATED, "{made}");
        assert_eq!(!hooks.asked().is_empty(), concerned, "{more}");
        api.delete(&format!("{GROUP}/validatingwebhookconfigurations/c")).await;
    }
    // A condition that cannot be evaluated is no permission.
    configure(&api, "validating", "c", vec![hooks.hook("/allow", condition("object.data.none == 'v'"))]).await;
    let (code, status) = create(&api, "e").await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert_eq!(
        status["message"],
        "configmaps \"e\" is forbidden: expression 'object.data.none == 'v'' resulted in error: no such key: none"
    );
}

#[tokio::test]
async fn a_webhook_that_fails_fails_as_its_policy_says() {
    let (api, hooks) = (Api::start().await, Hooks::start().await);
    configure(&api, "validating", "c", vec![hooks.hook("/broken", json!({"failurePolicy": "Ignore"}))]).await;
    assert_eq!(create(&api, "a").await.0, StatusCode::CREATED);
    let patches = hooks.hook("/patch", json!({}));
    for (hook, why) in [
        (
            hooks.hook("/broken", json!({})),
            "failed to call webhook: an error on the server (\"\\\"broken\\\"\") has prevented the request from succeeding",
        ),
        (hooks.hook("/none", json!({})), "failed to call webhook: the server could not find the requested resource"),
        (patches, "received invalid webhook response: validating webhook may not return response.patch"),
    ] {
        let name = hook["name"].as_str().unwrap_or_default().to_owned();
        configure(&api, "validating", "d", vec![hook]).await;
        let (code, status) = create(&api, "b").await;
        assert_eq!((code, &status["reason"]), (StatusCode::INTERNAL_SERVER_ERROR, &json!("InternalError")));
        assert_eq!(status["message"], format!("Internal error occurred: failed calling webhook \"{name}\": {why}"));
        api.delete(&format!("{GROUP}/validatingwebhookconfigurations/d")).await;
    }
}

#[tokio::test]
async fn subresources_show_what_they_are_about() {
    let (api, hooks) = (Api::start().await, Hooks::start().await);
    let container = json!({"name": "c", "image": "hello:1"});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}}}});
    let all = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(api.post(all, deployment).await.0, StatusCode::CREATED);
    let rules = |resource: &str| {
        json!({"rules": [{"operations": ["*"], "apiGroups": ["apps", "", "autoscaling"],
        "apiVersions": ["v1"], "resources": [resource]}]})
    };
    configure(&api, "validating", "c", vec![hooks.hook("/allow", rules("deployments/scale"))]).await;
    let scale = format!("{all}/d/scale");
    assert_eq!(api.merge(&scale, json!({"spec": {"replicas": 3}})).await.1["spec"]["replicas"], 3);
    let (_, request) = hooks.asked().pop().expect("it was asked");
    assert_eq!(request["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!((&request["subResource"], &request["object"]["spec"]["replicas"]), (&json!("scale"), &json!(3)));
    assert_eq!(request["oldObject"]["spec"]["replicas"], 1);

    let pods = "/api/v1/namespaces/default/pods";
    let (code, pod) = api.post(pods, json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}})).await;
    assert_eq!(code, StatusCode::CREATED, "{pod}");
    configure(&api, "validating", "d", vec![hooks.hook("/deny", rules("pods/*"))]).await;
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(api.post(&format!("{pods}/p/binding"), binding).await.0, StatusCode::FORBIDDEN);
    let (_, request) = hooks.asked().pop().expect("it was asked");
    assert_eq!((&request["kind"]["kind"], &request["object"]["target"]["name"]), (&json!("Binding"), &json!("n")));
    assert_eq!(api.get(&format!("{pods}/p/exec?command=ls&container=c")).await.0, StatusCode::FORBIDDEN);
    let (_, request) = hooks.asked().pop().expect("it was asked");
    assert_eq!((&request["operation"], &request["kind"]["kind"]), (&json!("CONNECT"), &json!("PodExecOptions")));
    assert_eq!((&request["object"]["command"], &request["options"]), (&json!(["ls"]), &Value::Null));
    let status = json!({"status": {"phase": "Running"}}).to_string();
    let patched = api.send(Method::PATCH, &format!("{pods}/p/status"), "application/merge-patch+json", status).await;
    assert_eq!(patched.0, StatusCode::FORBIDDEN);
}

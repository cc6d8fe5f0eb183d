//! Who may do what, and who owns what, through the router: as users and programs meet it.

use axum::body::Body;
use axum::extract::Request;
use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::auth::User;
use super::reply::OMIT_OWNERS;
use super::tests::Api;

impl Api {
    /// A request of `user`, with headers.
    pub async fn by(
        &self,
        user: &User,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> (StatusCode, Value) {
        let router = self.server.router().layer(axum::Extension(user.clone()));
        let mut request = Request::builder().method(method).uri(path);
        for (key, value) in headers {
            request = request.header(*key, *value);
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let response = router.oneshot(request.body(body).expect("a request")).await.expect("a router never fails");
        let code = response.status();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn let_jo(&self, rules: Value) {
        let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
        let (code, role) = self.post(roles, json!({"metadata": {"name": "jo"}, "rules": rules})).await;
        assert_eq!(code, StatusCode::CREATED, "{role}");
        let binding = json!({"metadata": {"name": "jo"}, "roleRef": {"kind": "Role", "name": "jo"},
            "subjects": [{"kind": "User", "name": "jo"}]});
        let (code, binding) =
            self.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
        assert_eq!(code, StatusCode::CREATED, "{binding}");
    }
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_right_holds_from_its_binding_to_its_deletion() {
    let api = Api::start().await;
    let jo = User::new("jo", &[]);
    assert_eq!(api.by(&jo, Method::GET, CONFIG_MAPS, &[], Value::Null).await.0, StatusCode::FORBIDDEN);
    api.let_jo(json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}])).await;
    assert_eq!(api.by(&jo, Method::GET, CONFIG_MAPS, &[], Value::Null).await.0, StatusCode::OK);
    api.delete("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings/jo").await;
    assert_eq!(api.by(&jo, Method::GET, CONFIG_MAPS, &[], Value::Null).await.0, StatusCode::FORBIDDEN);
    assert_eq!(api.by(&jo, Method::GET, "/apis", &[], Value::Null).await.0, StatusCode::OK);
    let nobody = User::anonymous();
    assert_eq!(api.by(&nobody, Method::GET, "/apis", &[], Value::Null).await.0, StatusCode::FORBIDDEN);
    assert_eq!(api.by(&nobody, Method::GET, "/version", &[], Value::Null).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_right_to_one_name_is_no_right_to_others() {
    let api = Api::start().await;
    let jo = User::new("jo", &[]);
    let verbs = ["get", "list", "create", "deletecollection"];
    api.let_jo(json!([{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": verbs}]))
        .await;
    let selected = |name: &str| format!("{CONFIG_MAPS}?fieldSelector=metadata.name={name}");
    assert_eq!(api.by(&jo, Method::GET, &selected("one"), &[], Value::Null).await.0, StatusCode::OK);
    assert_eq!(api.by(&jo, Method::GET, &selected("two"), &[], Value::Null).await.0, StatusCode::FORBIDDEN);
    // A selector says nothing of what is posted.
    let two = json!({"metadata": {"name": "two"}});
    assert_eq!(api.by(&jo, Method::POST, &selected("one"), &[], two).await.0, StatusCode::FORBIDDEN);
    assert_eq!(api.by(&jo, Method::DELETE, &selected("one"), &[], Value::Null).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn to_run_something_in_a_pod_takes_more_than_the_right_to_read() {
    let api = Api::start().await;
    let jo = User::new("jo", &[]);
    api.let_jo(json!([{"apiGroups": [""], "resources": ["pods", "pods/exec", "pods/log"], "verbs": ["get"]}])).await;
    let exec = "/api/v1/namespaces/default/pods/p/exec?command=ls";
    assert_eq!(api.by(&jo, Method::GET, exec, &[], Value::Null).await.0, StatusCode::FORBIDDEN);
    let log = "/api/v1/namespaces/default/pods/p/log";
    assert_eq!(api.by(&jo, Method::GET, log, &[], Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn apply_makes_only_what_its_user_may_create() {
    let api = Api::start().await;
    let jo = User::new("jo", &[]);
    api.let_jo(json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]}])).await;
    let apply = [(header::CONTENT_TYPE.as_str(), "application/apply-patch+yaml")];
    let one = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "1"}});
    let path = format!("{CONFIG_MAPS}/one?fieldManager=jo");
    let (code, refusal) = api.by(&jo, Method::PATCH, &path, &apply, one.clone()).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert!(refusal["message"].as_str().is_some_and(|text| text.contains("cannot create resource")), "{refusal}");
    let (code, made) = api.by(&User::server(), Method::PATCH, &path, &apply, one.clone()).await;
    assert_eq!(code, StatusCode::CREATED);
    let (code, same) = api.by(&jo, Method::PATCH, &path, &apply, one).await;
    assert_eq!((code, &same["metadata"]), (StatusCode::OK, &made["metadata"]), "nothing has changed");
}

#[tokio::test]
async fn owners_are_kept_by_who_does_not_see_them() {
    let api = Api::start().await;
    let agent = [(header::USER_AGENT.as_str(), "tool/1.0"), (OMIT_OWNERS, "true")];
    let json = (header::CONTENT_TYPE.as_str(), "application/json");
    let master = User::server();
    let one = json!({"metadata": {"name": "one"}, "data": {"a": "1"}});
    let (_, mut seen) = api.by(&master, Method::POST, CONFIG_MAPS, &[agent[0], agent[1], json], one).await;
    assert!(seen["metadata"]["managedFields"].is_null());
    seen["data"]["b"] = "2".into();
    let path = format!("{CONFIG_MAPS}/one");
    let other = [(header::USER_AGENT.as_str(), "other"), agent[1], json];
    let (code, _) = api.by(&master, Method::PUT, &path, &other, seen).await;
    assert_eq!(code, StatusCode::OK);
    let whole = api.get(&path).await.1;
    let owners: Vec<&Value> = whole["metadata"]["managedFields"].as_array().into_iter().flatten().collect();
    let names: Vec<&Value> = owners.iter().map(|owner| &owner["manager"]).collect();
    assert_eq!(names, ["other", "tool"]);
    let (_, list) = api.by(&master, Method::GET, CONFIG_MAPS, &agent, Value::Null).await;
    assert!(
        list["items"]
            .as_array()
            .is_some_and(|items| items.iter().all(|item| item["metadata"]["managedFields"].is_null()))
    );
}

#[tokio::test]
async fn an_account_shows_its_token() {
    let api = Api::start().await;
    let (code, answer) =
        api.post("/api/v1/namespaces/default/serviceaccounts/default/token", json!({"spec": {}})).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    let token = answer["status"]["token"].as_str().expect("a token");
    let user = api.server.account(token).expect("it is believed");
    assert_eq!(&*user.name, "system:serviceaccount:default:default");
    api.delete("/api/v1/namespaces/default/serviceaccounts/default").await;
    assert_eq!(api.server.account(token), None);
    // A node gets tokens only for its own pods.
    let node = User::new("system:node:n1", &["system:nodes"]);
    let path = "/api/v1/namespaces/kube-system/serviceaccounts/default/token";
    let (code, refusal) = api.by(&node, Method::POST, path, &[], json!({"spec": {}})).await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{refusal}");
}

#[tokio::test]
async fn a_node_minds_its_pods_and_itself() {
    let api = Api::start().await;
    let node = User::new("system:node:n1", &["system:nodes"]);
    let secrets = "/api/v1/namespaces/default/secrets";
    for name in ["key", "other"] {
        assert_eq!(api.post(secrets, json!({"metadata": {"name": name}})).await.0, StatusCode::CREATED);
    }
    let pods = "/api/v1/namespaces/default/pods";
    let env = json!([{"name": "K", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]);
    for (name, host) in [("mine", "n1"), ("theirs", "n2")] {
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": host,
            "containers": [{"name": "c", "image": "hello:1", "env": if host == "n1" { env.clone() } else { json!([]) }}]}});
        let (code, made) = api.post(pods, pod).await;
        assert_eq!(code, StatusCode::CREATED, "{made}");
    }
    let ask = async |method: Method, path: String, body: Value| {
        let headers = [(
            "content-type",
            if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" },
        )];
        api.by(&node, method, &path, &headers, body).await
    };
    let code = async |method: Method, path: String, body: Value| ask(method, path, body).await.0;
    assert_eq!(code(Method::GET, format!("{secrets}/key"), Value::Null).await, StatusCode::OK);
    let watched = format!("{secrets}?fieldSelector=metadata.name%3Dkey");
    assert_eq!(code(Method::GET, watched, Value::Null).await, StatusCode::OK);
    assert_eq!(code(Method::GET, format!("{secrets}/other"), Value::Null).await, StatusCode::FORBIDDEN);
    let running = json!({"status": {"phase": "Running"}});
    assert_eq!(code(Method::PATCH, format!("{pods}/mine/status"), running.clone()).await, StatusCode::OK);
    let (refused, status) = ask(Method::PATCH, format!("{pods}/theirs/status"), running).await;
    assert_eq!(refused, StatusCode::FORBIDDEN);
    let why = "node \"n1\" can only update pod status for pods with spec.nodeName set to itself";
    assert_eq!(status["message"], format!("pods \"theirs\" is forbidden: {why}"));
    let wider = json!({"metadata": {"annotations": {"coracle.dev/keyvalue-secret": "other"}}});
    assert_eq!(code(Method::PATCH, format!("{pods}/mine/status"), wider).await, StatusCode::FORBIDDEN);
    assert_eq!(code(Method::DELETE, format!("{pods}/theirs"), Value::Null).await, StatusCode::FORBIDDEN);

    let nodes = "/api/v1/nodes";
    let named = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    assert_eq!(code(Method::POST, nodes.to_owned(), named("n2", json!({}))).await, StatusCode::FORBIDDEN);
    let role = json!({"node-role.kubernetes.io/control-plane": ""});
    assert_eq!(code(Method::POST, nodes.to_owned(), named("n1", role)).await, StatusCode::FORBIDDEN);
    let plain = json!({"kubernetes.io/hostname": "n1", "coracle.dev/runtime": "wasm"});
    assert_eq!(code(Method::POST, nodes.to_owned(), named("n1", plain)).await, StatusCode::CREATED);
    let free = json!({"spec": {"taints": null}});
    assert_eq!(code(Method::PATCH, format!("{nodes}/n1"), free).await, StatusCode::FORBIDDEN);
    assert_eq!(code(Method::PATCH, format!("{nodes}/n1/status"), json!({"status": {}})).await, StatusCode::OK);
}

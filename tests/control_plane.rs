//! The control plane without nodes: the API server in memory and the real controllers, asked through
//! the API. Pods are made ready by hand.

use std::future::Future;
use std::time::{Duration, Instant};

use axum::Extension;
use coracle::apiserver::auth::User;
use coracle::apiserver::{ApiConfig, ApiServer};
use coracle::controllers::{self, ControllerConfig, Running};
use coracle::reconcile::Cluster;
use coracle::store::MemoryStore;
use http::Request;
use kube::Client;
use serde_json::{Value, json};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

struct Plane {
    client: Client,
    _controllers: Running,
}

impl Plane {
    async fn start() -> Self {
        let store = std::sync::Arc::new(MemoryStore::new());
        let server = ApiServer::start(ApiConfig::new(store)).await.expect("the server starts");
        let client = coracle::client::in_process(server.router().layer(Extension(User::server())));
        let cluster = Cluster::new(client.clone());
        let config = ControllerConfig { root_ca_pem: "PEM".into() };
        Self { client, _controllers: controllers::run(&cluster, &config) }
    }

    async fn ask(&self, method: &str, path: &str, content_type: &str, body: Value) -> kube::Result<Value> {
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.client.request(request.body(body).expect("a request")).await
    }

    async fn get(&self, path: &str) -> Value {
        self.ask("GET", path, "application/json", Value::Null).await.unwrap_or(Value::Null)
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.ask("POST", path, "application/json", body).await.expect(path)
    }

    async fn merge(&self, path: &str, body: Value) -> Value {
        self.ask("PATCH", path, "application/merge-patch+json", body).await.expect(path)
    }

    async fn delete(&self, path: &str, options: Value) -> Value {
        self.ask("DELETE", path, "application/json", options).await.expect(path)
    }

    /// Asks again until `good`; shows the last answer otherwise.
    async fn until(&self, path: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        let asked = std::cell::RefCell::new(Value::Null);
        let found = eventually(async || {
            let answer = self.get(path).await;
            let found = good(&answer);
            asked.replace(answer);
            found
        });
        assert!(found.await, "{what}: {path} is {:#}", asked.borrow());
        asked.into_inner()
    }

    async fn make_ready(&self, pod: &Value) {
        let path = format!("{}/status", path_of_pod(pod));
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]);
        let ip = format!("127.64.0.{}", pod["metadata"]["resourceVersion"].as_str().expect("a version").len());
        self.merge(
            &path,
            json!({"status": {"phase": "Running", "conditions": ready, "podIP": ip, "podIPs": [{"ip": ip}]}}),
        )
        .await;
    }
}

async fn eventually<F: Future<Output = bool>>(mut check: impl FnMut() -> F) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if check().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

fn path_of_pod(pod: &Value) -> String {
    let text = |v: &Value| v.as_str().expect("a name").to_owned();
    format!("/api/v1/namespaces/{}/pods/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]))
}

fn deployment(name: &str, replicas: u32, image: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "replicas": replicas,
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"schedulerName": "manual", "containers": [{"name": "c", "image": image}]}}}})
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_comes_up_rolls_and_goes() {
    let plane = Plane::start().await;
    plane.post(DEPLOYMENTS, deployment("web", 2, "i:1")).await;
    let web = format!("{DEPLOYMENTS}/web");
    let pods = plane.until(PODS, "two pods", |l| l["items"].as_array().is_some_and(|i| i.len() == 2)).await;
    for pod in pods["items"].as_array().expect("a list") {
        plane.make_ready(pod).await;
    }
    plane.until(&web, "available", |d| d["status"]["availableReplicas"] == 2).await;
    let progressed = |d: &Value| d["status"]["conditions"].to_string().contains("NewReplicaSetAvailable");
    plane.until(&web, "progressed", progressed).await;
    plane.merge(&web, json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i:2"}]}}}})).await;
    for _ in 0..2 {
        let pending = format!("{PODS}?fieldSelector=status.phase%3DPending");
        let new = plane.until(&pending, "a new pod", |l| l["items"].as_array().is_some_and(|i| i.len() == 1)).await;
        plane.make_ready(&new["items"][0]).await;
    }
    let done = |d: &Value| d["status"]["updatedReplicas"] == 2 && d["status"]["replicas"] == 2;
    let web_now = plane.until(&web, "rolled out", done).await;
    assert_eq!(web_now["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    assert_eq!(web_now["metadata"]["generation"], 2);
    plane.delete(&web, Value::Null).await;
    plane.until(PODS, "the pods go", |l| l["items"].as_array().is_some_and(Vec::is_empty)).await;
    plane.until(SETS, "the sets go", |l| l["items"].as_array().is_some_and(Vec::is_empty)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_pods_are_made_and_removed() {
    let plane = Plane::start().await;
    let start = Instant::now();
    plane.post(DEPLOYMENTS, deployment("many", 1000, "i:1")).await;
    let many = format!("{DEPLOYMENTS}/many");
    plane.until(&many, "a thousand pods", |d| d["status"]["replicas"] == 1000).await;
    eprintln!("a thousand pods after {:?}", start.elapsed());
    plane.merge(&many, json!({"spec": {"replicas": 0}})).await;
    plane.until(&many, "none", |d| d["status"]["observedGeneration"] == 2 && d["status"]["replicas"].is_null()).await;
    eprintln!("none after {:?}", start.elapsed());
}

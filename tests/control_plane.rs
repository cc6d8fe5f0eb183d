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
        let config = ControllerConfig { root_ca_pem: "PEM".into(), ..ControllerConfig::default() };
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

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const CRON_JOBS: &str = "/apis/batch/v1/namespaces/default/cronjobs";

fn pod_template(restart: &str) -> Value {
    json!({"spec": {"schedulerName": "manual", "restartPolicy": restart, "containers": [{"name": "c", "image": "i:1"}]}})
}

impl Plane {
    async fn pods_of(&self, selector: &str, what: &str, count: usize) -> Vec<Value> {
        let path = format!("{PODS}?labelSelector={selector}");
        let has = |l: &Value| l["items"].as_array().is_some_and(|i| i.len() == count);
        self.until(&path, what, has).await["items"].as_array().cloned().unwrap_or_default()
    }

    async fn end_pod(&self, pod: &Value, phase: &str) {
        self.merge(&format!("{}/status", path_of_pod(pod)), json!({"status": {"phase": phase}})).await;
    }
}

fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_to_its_end_and_goes_with_its_pods() {
    let plane = Plane::start().await;
    let spec =
        json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "template": pod_template("Never")});
    plane.post(JOBS, json!({"metadata": {"name": "j"}, "spec": spec})).await;
    let pods = plane.pods_of("job-name%3Dj", "three pods", 3).await;
    for pod in &pods {
        assert_eq!(pod["metadata"]["finalizers"][0], "batch.kubernetes.io/job-tracking");
        plane.end_pod(pod, "Succeeded").await;
    }
    let job = plane.until(&format!("{JOBS}/j"), "complete", |j| has_condition(j, "Complete")).await;
    assert_eq!((&job["status"]["succeeded"], &job["status"]["completedIndexes"]), (&json!(3), &json!("0-2")));
    // A deletion that names no policy leaves the pods, without the finalizer.
    plane.delete(&format!("{JOBS}/j"), Value::Null).await;
    plane.until(&format!("{JOBS}/j"), "gone", Value::is_null).await;
    let left = plane.pods_of("job-name%3Dj", "the pods stay", 3).await;
    assert!(left.iter().all(|pod| pod["metadata"]["finalizers"].is_null()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_job_makes_what_is_due_and_takes_it_along() {
    let plane = Plane::start().await;
    let job = json!({"spec": {"template": pod_template("OnFailure")}});
    plane
        .post(CRON_JOBS, json!({"metadata": {"name": "tick"}, "spec": {"schedule": "@every 1s", "jobTemplate": job}}))
        .await;
    let tick = format!("{CRON_JOBS}/tick");
    let running = plane.until(&tick, "a Job is active", |c| !c["status"]["active"][0].is_null()).await;
    let name = running["status"]["active"][0]["name"].as_str().expect("a name").to_owned();
    assert!(name.starts_with("tick-"));
    let selector = format!("job-name%3D{name}");
    let pods = plane.pods_of(&selector, "its pod", 1).await;
    plane.end_pod(&pods[0], "Succeeded").await;
    plane.until(&tick, "it succeeded", |c| !c["status"]["lastSuccessfulTime"].is_null()).await;
    plane.delete(&tick, json!({"propagationPolicy": "Background"})).await;
    plane.until(JOBS, "the Jobs go", |l| l["items"].as_array().is_some_and(Vec::is_empty)).await;
    plane.until(PODS, "the pods go", |l| l["items"].as_array().is_some_and(Vec::is_empty)).await;
}

const SETS_OF: &str = "/apis/apps/v1/namespaces/default";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_and_a_daemon_set_come_up_and_roll() {
    let plane = Plane::start().await;
    let template = |name: &str, image: &str| json!({"metadata": {"labels": {"app": name}}, "spec": {"schedulerName": "manual", "containers": [{"name": "c", "image": image}]}});
    let spec = |name: &str| json!({"selector": {"matchLabels": {"app": name}}, "template": template(name, "i:1")});
    let (db, agent) = (format!("{SETS_OF}/statefulsets/db"), format!("{SETS_OF}/daemonsets/agent"));
    let mut stateful = spec("db");
    stateful["replicas"] = json!(2);
    stateful["serviceName"] = json!("db");
    plane.post(&format!("{SETS_OF}/statefulsets"), json!({"metadata": {"name": "db"}, "spec": stateful})).await;
    for name in ["db-0", "db-1"] {
        let pod = plane.until(&format!("{PODS}/{name}"), "it comes", |p| p["metadata"]["name"] == name).await;
        plane.make_ready(&pod).await;
    }
    plane.until(&db, "ready", |s| s["status"]["availableReplicas"] == 2).await;
    plane.merge(&db, json!({"spec": {"template": template("db", "i:2")}})).await;
    for name in ["db-1", "db-0"] {
        let new = |p: &Value| p["spec"]["containers"][0]["image"] == "i:2";
        let pod = plane.until(&format!("{PODS}/{name}"), "it is replaced", new).await;
        plane.make_ready(&pod).await;
    }
    let rolled = |s: &Value| {
        s["status"]["currentRevision"] == s["status"]["updateRevision"] && s["status"]["updatedReplicas"] == 2
    };
    plane.until(&db, "rolled out", rolled).await;
    let revisions = plane.get(&format!("{SETS_OF}/controllerrevisions")).await;
    assert_eq!(revisions["items"].as_array().map(Vec::len), Some(2));

    plane.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    plane.post(&format!("{SETS_OF}/daemonsets"), json!({"metadata": {"name": "agent"}, "spec": spec("agent")})).await;
    plane.until(&agent, "one is wanted", |s| s["status"]["currentNumberScheduled"] == 1).await;
    let pods = plane.pods_of("app%3Dagent", "its pod", 1).await;
    assert_eq!(pods[0]["metadata"]["labels"]["pod-template-generation"], "1");
    plane.merge(&agent, json!({"spec": {"template": template("agent", "i:2")}})).await;
    let path = format!("{PODS}?labelSelector=app%3Dagent");
    plane
        .until(&path, "the unready pod is replaced", |l| l["items"][0]["spec"]["containers"][0]["image"] == "i:2")
        .await;
    plane.delete(&db, Value::Null).await;
    plane.delete(&agent, Value::Null).await;
    plane.until(PODS, "the pods go", |l| l["items"].as_array().is_some_and(Vec::is_empty)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_keeps_its_count() {
    let plane = Plane::start().await;
    let template = json!({"metadata": {"labels": {"app": "rc"}}, "spec": {"schedulerName": "manual", "containers": [{"name": "c", "image": "i"}]}});
    let path = "/api/v1/namespaces/default/replicationcontrollers";
    plane.post(path, json!({"metadata": {"name": "rc"}, "spec": {"replicas": 2, "template": template}})).await;
    let pods = plane.pods_of("app%3Drc", "two pods", 2).await;
    plane.delete(&path_of_pod(&pods[0]), json!({"gracePeriodSeconds": 0})).await;
    plane.until(&format!("{path}/rc"), "two again", |rc| rc["status"]["replicas"] == 2).await;
    plane.pods_of("app%3Drc", "two pods", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_and_a_volume_find_each_other() {
    let plane = Plane::start().await;
    let volume = json!({"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "s", "hostPath": {"path": "/d"}});
    plane.post("/api/v1/persistentvolumes", json!({"metadata": {"name": "v"}, "spec": volume})).await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let spec = json!({"storageClassName": "s", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    plane.post(claims, json!({"metadata": {"name": "c"}, "spec": spec})).await;
    plane.until(&format!("{claims}/c"), "bound", |c| c["status"]["phase"] == "Bound").await;
    plane.until("/api/v1/persistentvolumes/v", "bound", |v| v["status"]["phase"] == "Bound").await;
    plane.delete(&format!("{claims}/c"), Value::Null).await;
    plane.until(&format!("{claims}/c"), "gone", Value::is_null).await;
    plane.until("/api/v1/persistentvolumes/v", "released", |v| v["status"]["phase"] == "Released").await;
}

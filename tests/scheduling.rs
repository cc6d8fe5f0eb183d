//! The scheduler against the API server, in one process and without sockets.

use std::time::Duration;

use axum::Extension;
use coracle::apiserver::auth::User;
use coracle::apiserver::{ApiConfig, ApiServer};
use coracle::client::in_process;
use coracle::reconcile::Cluster;
use coracle::scheduler;
use coracle::store::MemoryStore;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long to wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

async fn cluster() -> (Client, CancellationToken) {
    let server = ApiServer::start(ApiConfig::new(std::sync::Arc::new(MemoryStore::new()))).await.expect("it starts");
    let client = in_process(server.router().layer(Extension(User::server())));
    let shutdown = CancellationToken::new();
    tokio::spawn(scheduler::run(Cluster::new(client.clone()), shutdown.clone()));
    (client, shutdown)
}

async fn add_node(client: &Client, name: &str, cpu: &str, pods: &str) {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    nodes.create(&PostParams::default(), &serde_json::from_value(node).expect("a node")).await.expect("it is created");
    let resources = json!({"cpu": cpu, "memory": "64Gi", "pods": pods});
    let status = json!({"status": {"capacity": resources, "allocatable": resources,
        "conditions": [{"type": "Ready", "status": "True"}]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.expect("it gets a status");
    // What the node lifecycle controller does once a node is ready.
    let ready = json!({"spec": {"taints": []}});
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(ready)).await.expect("it loses its taint");
}

fn pods(client: &Client) -> Api<Pod> {
    Api::namespaced(client.clone(), "default")
}

async fn add_pod(client: &Client, name: &str, cpu: &str) {
    let container = json!({"name": "c", "image": "hello:1", "resources": {"requests": {"cpu": cpu}}});
    let pod: Value = json!({"metadata": {"name": name}, "spec": {"containers": [container]}});
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    pods(client).create(&PostParams::default(), &pod).await.expect("it is created");
}

/// Waits until `holds` is true of the pods.
async fn until(client: &Client, what: &str, holds: impl Fn(&[Pod]) -> bool) -> Vec<Pod> {
    let wait = async {
        loop {
            let list = pods(client).list(&Default::default()).await.expect("a list").items;
            if holds(&list) {
                return list;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("")
}

/// Status, reason and message of the condition PodScheduled.
fn scheduled(pod: &Pod) -> Option<(&str, &str, &str)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    let (reason, message) = (condition.reason.as_deref(), condition.message.as_deref());
    Some((condition.status.as_str(), reason.unwrap_or(""), message.unwrap_or("")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_are_spread_and_none_is_overcommitted() {
    let (client, shutdown) = cluster().await;
    for name in ["n1", "n2", "n3"] {
        add_node(&client, name, "10", "200").await;
    }
    let names: Vec<String> = (0..150).map(|i| format!("p{i}")).collect();
    for name in &names {
        add_pod(&client, name, "200m").await;
    }
    let list = until(&client, "every pod is bound", |list| {
        list.len() == 150 && list.iter().all(|pod| !node_of(pod).is_empty())
    })
    .await;
    for name in ["n1", "n2", "n3"] {
        assert_eq!(list.iter().filter(|pod| node_of(pod) == name).count(), 50, "{name}");
    }
    assert!(list.iter().all(|pod| scheduled(pod).is_some_and(|(status, _, _)| status == "True")));
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_and_goes_as_soon_as_it_fits() {
    let (client, shutdown) = cluster().await;
    add_node(&client, "small", "1", "10").await;
    add_pod(&client, "big", "2").await;
    let list = until(&client, "the pod says why", |list| list.iter().any(|pod| scheduled(pod).is_some())).await;
    assert_eq!(
        list.first().and_then(scheduled),
        Some(("False", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu."))
    );
    add_node(&client, "large", "4", "10").await;
    until(&client, "the pod is bound", |list| list.iter().any(|pod| node_of(pod) == "large")).await;
    let told = async {
        let events: Api<Event> = Api::namespaced(client.clone(), "default");
        loop {
            let list = events.list(&Default::default()).await.expect("a list").items;
            let has = |reason: &str, message: &str| {
                list.iter()
                    .any(|event| event.reason.as_deref() == Some(reason) && event.message.as_deref() == Some(message))
            };
            if has("FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu.")
                && has("Scheduled", "Successfully assigned default/big to large")
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("both events are recorded");
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_makes_room_for_one_that_waits() {
    let (client, shutdown) = cluster().await;
    add_node(&client, "only", "1", "10").await;
    add_pod(&client, "first", "800m").await;
    until(&client, "the first is bound", |list| list.iter().any(|pod| node_of(pod) == "only")).await;
    add_pod(&client, "second", "800m").await;
    until(&client, "the second waits", |list| list.iter().any(|pod| scheduled(pod).is_some_and(|s| s.0 == "False")))
        .await;
    let now = kube::api::DeleteParams::default().grace_period(0);
    pods(&client).delete("first", &now).await.expect("it is deleted");
    until(&client, "the second is bound", |list| list.len() == 1 && list.iter().all(|pod| node_of(pod) == "only"))
        .await;
    shutdown.cancel();
}

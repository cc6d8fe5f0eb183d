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
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const FITS_NOWHERE: &str = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
                            1 Preemption is not helpful for scheduling.";

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
    assert_eq!(list.first().and_then(scheduled), Some(("False", "Unschedulable", FITS_NOWHERE)));
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
            if has("FailedScheduling", FITS_NOWHERE) && has("Scheduled", "Successfully assigned default/big to large") {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_lower_priority_make_room() {
    let (client, shutdown) = cluster().await;
    let classes: Api<PriorityClass> = Api::all(client.clone());
    let class = json!({"metadata": {"name": "high"}, "value": 1000});
    let class = serde_json::from_value(class).expect("a class");
    classes.create(&PostParams::default(), &class).await.expect("it is created");
    add_node(&client, "n1", "2", "10").await;
    for name in ["low-1", "low-2"] {
        add_pod(&client, name, "1").await;
    }
    let list = until(&client, "the node is full", |list| list.iter().all(|pod| node_of(pod) == "n1")).await;
    assert_eq!(list.len(), 2);
    let container = json!({"name": "c", "image": "hello:1", "resources": {"requests": {"cpu": "1"}}});
    let pod = json!({"metadata": {"name": "urgent"}, "spec": {"priorityClassName": "high", "containers": [container]}});
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    pods(&client).create(&PostParams::default(), &pod).await.expect("it is created");
    let of = |list: &[Pod], name: &str| list.iter().find(|pod| pod.metadata.name.as_deref() == Some(name)).cloned();
    let list = until(&client, "one is told to go", |list| {
        let gone = list.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).count();
        let expected = of(list, "urgent").and_then(|pod| pod.status?.nominated_node_name);
        gone == 1 && expected.as_deref() == Some("n1")
    })
    .await;
    let victim = list.iter().find(|pod| pod.metadata.deletion_timestamp.is_some()).cloned().expect("one goes");
    let conditions = victim.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let why = conditions.iter().find(|condition| condition.type_ == "DisruptionTarget").expect("it is told why");
    assert_eq!(why.reason.as_deref(), Some("PreemptionByScheduler"));
    assert!(node_of(&of(&list, "urgent").expect("it is there")).is_empty(), "it waits for the place");
    // What its node does, when the pod has ended.
    let name = victim.metadata.name.clone().expect("a name");
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    pods(&client).delete(&name, &now).await.expect("it is gone");
    let list =
        until(&client, "the pod has the place", |list| of(list, "urgent").is_some_and(|pod| node_of(&pod) == "n1"))
            .await;
    assert!(list.iter().all(|pod| pod.metadata.deletion_timestamp.is_none()), "no more had to go");
    let told = async {
        let events: Api<Event> = Api::namespaced(client.clone(), "default");
        loop {
            let list = events.list(&Default::default()).await.expect("a list").items;
            let about = |event: &Event| event.involved_object.name.as_deref() == Some(&*name);
            if list.iter().any(|event| event.reason.as_deref() == Some("Preempted") && about(event)) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the event is recorded");
    shutdown.cancel();
}

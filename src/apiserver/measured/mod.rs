//! `metrics.k8s.io/v1beta1`: what nodes and pods use now, as metrics-server tells it.
//!
//! Nothing of it is stored. An answer is made from the nodes' own summaries ([`summaries`]), and only of
//! the nodes that it is about. Labels and names are those of the Node or Pod, so that selectors hold.
//! The group is announced whether or not a node is there to ask: what cannot be measured is left out of
//! a list, and is 404 by name.

mod kinds;
mod summaries;

use std::collections::HashMap;

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

pub use kinds::KINDS;
pub use summaries::Summaries;

use super::ApiServer;
use super::registry::Place;
use super::registry::encoding;
use super::registry::store_error;
use super::reply::Look;
use super::selector::Selector;
use super::status::ApiError;
use super::verbs::Call;
use crate::kinds::node::Node;
use crate::kinds::pod::Pod;
use crate::kinds::schema::quantity::{Format, Quantity};
use crate::kinds::{Kind, meta as kmeta};

/// How many objects are read under one hold of the store's lock.
const SCAN_PAGE: usize = 2000;
/// A node that does not say over what time its rates are averages is a kubelet, which looks about this
/// often.
const KUBELET_WINDOW_NANOS: u64 = 10_000_000_000;

/// Whether `kind` is one of these.
pub fn serves(kind: &dyn Kind) -> bool {
    kind.info().group == kinds::GROUP
}

/// GET of one or of all.
pub async fn answer(call: &Call) -> Result<Response, ApiError> {
    let look = Look::of_objects(&call.headers, &call.query)?;
    let target = &call.target;
    let nodes = target.resource == "nodes";
    if target.verb == "get" {
        let of: &dyn Kind = if nodes { &Node } else { &Pod };
        let place = Place { kind: of, namespace: &target.namespace, name: &target.name };
        let object = call.server.registry.find(place);
        let measured = measure(&call.server, nodes, object.into_iter().collect()).await.pop();
        let measured = measured.ok_or_else(|| ApiError::not_found(call.kind.info(), &target.name))?;
        return Ok(look.value(StatusCode::OK, &look.view(call.kind).object(measured)));
    }
    let (labels, fields) = (call.query.get("labelSelector"), call.query.get("fieldSelector"));
    let selector = Selector::parse(call.kind, labels, fields)?;
    let objects = objects(&call.server, nodes, &target.namespace)?;
    let wanted = objects.into_iter().filter(|object| selector.matches(call.kind, object)).collect();
    let items = measure(&call.server, nodes, wanted).await;
    let list = json!({
        "kind": format!("{}List", call.kind.info().kind), "apiVersion": kinds::API_VERSION,
        "metadata": {}, "items": items,
    });
    Ok(look.value(StatusCode::OK, &look.view(call.kind).list(list)))
}

/// All nodes, or the pods of a namespace ("" for all).
fn objects(server: &ApiServer, nodes: bool, namespace: &str) -> Result<Vec<Value>, ApiError> {
    let kind: &dyn Kind = if nodes { &Node } else { &Pod };
    let prefix = encoding::prefix(kind.info(), namespace);
    let (mut objects, mut after, mut at) = (Vec::new(), None::<String>, None);
    loop {
        let page = server.registry.store.list(&prefix, after.as_deref(), SCAN_PAGE, at).map_err(store_error)?;
        at = Some(page.revision);
        for entry in &page.entries {
            objects.push(encoding::decode(kind, &entry.value, entry.mod_revision).map_err(ApiError::internal)?);
        }
        match page.entries.last() {
            Some(last) if page.remaining > 0 => after = Some(last.key.to_string()),
            _ => return Ok(objects),
        }
    }
}

/// What of `objects` can be measured.
async fn measure(server: &ApiServer, nodes: bool, objects: Vec<Value>) -> Vec<Value> {
    let node_of = |object: &Value| {
        let name = if nodes { &object["metadata"]["name"] } else { &object["spec"]["nodeName"] };
        name.as_str().unwrap_or_default().to_owned()
    };
    let objects: Vec<(String, Value)> =
        objects.into_iter().map(|object| (node_of(&object), object)).filter(|(node, _)| !node.is_empty()).collect();
    let summaries = server.summaries.of(server, objects.iter().map(|(node, _)| node.as_str())).await;
    if nodes {
        let of = |(node, object): &(String, Value)| node_metrics(object, &summaries.get(node)?["node"]);
        return objects.iter().filter_map(of).collect();
    }
    let mut pods = HashMap::new();
    for summary in summaries.values() {
        for pod in summary["pods"].as_array().into_iter().flatten() {
            pods.insert(pod["podRef"]["uid"].as_str().unwrap_or_default(), pod);
        }
    }
    let uid = |object: &Value| kmeta::text(object, "uid").to_owned();
    objects.iter().filter_map(|(_, object)| pod_metrics(object, pods.get(uid(object).as_str())?)).collect()
}

fn node_metrics(node: &Value, stats: &Value) -> Option<Value> {
    let usage = usage(stats)?;
    let mut metrics = head("NodeMetrics", node, stats);
    metrics["usage"] = usage;
    Some(metrics)
}

/// `None`: of none of its containers there are figures.
fn pod_metrics(pod: &Value, stats: &Value) -> Option<Value> {
    let of = |container: &Value| Some(json!({ "name": container["name"], "usage": usage(container)? }));
    let containers: Vec<Value> = stats["containers"].as_array()?.iter().filter_map(of).collect();
    let mut metrics = head("PodMetrics", pod, stats);
    metrics["containers"] = containers.into();
    (metrics["containers"] != json!([])).then_some(metrics)
}

/// What all metrics begin with: the labels and name of the object, and when they were taken.
fn head(kind: &str, object: &Value, stats: &Value) -> Value {
    let time = &stats["cpu"]["time"];
    let window = stats["cpu"]["usageWindowNanoSeconds"].as_u64().unwrap_or(KUBELET_WINDOW_NANOS);
    let mut metadata = json!({ "name": object["metadata"]["name"], "creationTimestamp": time });
    for field in ["namespace", "labels"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    json!({
        "kind": kind, "apiVersion": kinds::API_VERSION, "metadata": metadata,
        "timestamp": time, "window": go_seconds(window),
    })
}

fn usage(stats: &Value) -> Option<Value> {
    let cpu = stats["cpu"]["usageNanoCores"].as_u64()?;
    let memory = stats["memory"]["workingSetBytes"].as_u64()?;
    let cpu = Quantity::from_nanos(cpu.into(), Format::DecimalSi);
    let memory = Quantity::from_nanos(i128::from(memory) * 1_000_000_000, Format::BinarySi);
    Some(json!({ "cpu": cpu.to_string(), "memory": memory.to_string() }))
}

/// As Go prints a duration of seconds, to the millisecond.
fn go_seconds(nanos: u64) -> String {
    let millis = nanos / 1_000_000;
    let (minutes, millis) = (millis / 60_000, millis % 60_000);
    let fraction = format!("{:03}", millis % 1000);
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    let minutes = if minutes > 0 { format!("{minutes}m") } else { String::new() };
    format!("{minutes}{}{dot}{fraction}s", millis / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_summary_become_metrics() {
        let pod = json!({ "metadata": { "name": "p", "namespace": "a", "uid": "u", "labels": { "app": "web" } } });
        let cpu = |nanos: u64| json!({ "time": "2026-01-01T00:00:00Z", "usageNanoCores": nanos });
        let memory = json!({ "workingSetBytes": 1_114_112 });
        let stats = json!({
            "cpu": cpu(0), "memory": memory,
            "containers": [{ "name": "c", "cpu": cpu(1_500_001), "memory": memory }, { "name": "lost" }],
        });
        let wanted = json!({
            "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {
                "name": "p", "namespace": "a", "labels": { "app": "web" }, "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "timestamp": "2026-01-01T00:00:00Z", "window": "10s",
            "containers": [{ "name": "c", "usage": { "cpu": "1500001n", "memory": "1088Ki" } }],
        });
        assert_eq!(pod_metrics(&pod, &stats), Some(wanted));
        assert_eq!(pod_metrics(&pod, &json!({ "containers": [{ "name": "lost" }] })), None);
        let node = node_metrics(&json!({ "metadata": { "name": "n" } }), &stats).expect("metrics");
        assert_eq!(node["usage"], json!({ "cpu": "0", "memory": "1088Ki" }));
    }

    #[test]
    fn windows_read_as_go_prints_them() {
        for (nanos, text) in
            [(0, "0s"), (7_250_000_000, "7.25s"), (60_000_000_000, "1m0s"), (61_001_000_000, "1m1.001s")]
        {
            assert_eq!(go_seconds(nanos), text);
        }
    }
}

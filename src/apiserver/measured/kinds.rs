//! The two kinds of the group. They are read, never written, so that they have no rules but columns.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::quantity::Quantity;
use crate::kinds::{Column, Kind, KindInfo, column};

pub const GROUP: &str = "metrics.k8s.io";
pub const API_VERSION: &str = "metrics.k8s.io/v1beta1";

/// What is served beside the kinds that are stored.
pub static KINDS: &[&dyn Kind] = &[&NodeMetrics, &PodMetrics];

struct NodeMetrics;
struct PodMetrics;

const fn info(kind: &'static str, plural: &'static str, namespaced: bool) -> KindInfo {
    KindInfo {
        group: GROUP,
        version: "v1beta1",
        kind,
        plural,
        singular: "",
        short_names: &[],
        categories: &[],
        namespaced,
        verbs: &["get", "list"],
        subresources: &[],
        schema: "",
        storage: "",
        storage_version_hash: "",
    }
}

static NODES: KindInfo = info("NodeMetrics", "nodes", false);
static PODS: KindInfo = info("PodMetrics", "pods", true);

/// Named as metrics-server names them.
static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("cpu", "string", "quantity", 0),
    column("memory", "string", "quantity", 0),
    column("Window", "string", "duration", 0),
];

impl Kind for NodeMetrics {
    fn info(&self) -> &'static KindInfo {
        &NODES
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, _: Timestamp) -> Vec<Value> {
        row(object, std::iter::once(&object["usage"]))
    }
}

impl Kind for PodMetrics {
    fn info(&self) -> &'static KindInfo {
        &PODS
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, _: Timestamp) -> Vec<Value> {
        let containers = object["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
        row(object, containers.iter().map(|container| &container["usage"]))
    }
}

fn row<'a>(object: &Value, usages: impl Iterator<Item = &'a Value> + Clone) -> Vec<Value> {
    let sum = |name: &str| {
        let amounts = usages.clone().map(|usage| Quantity::of(usage, name));
        amounts.reduce(Quantity::plus).unwrap_or(Quantity::ZERO).to_string()
    };
    vec![object["metadata"]["name"].clone(), sum("cpu").into(), sum("memory").into(), object["window"].clone()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_row_is_the_sum_of_its_containers() {
        let usage = |cpu: &str, memory: &str| json!({ "usage": { "cpu": cpu, "memory": memory } });
        let pod = json!({
            "metadata": { "name": "p" }, "window": "7.5s",
            "containers": [usage("1500001n", "64Ki"), usage("1m", "64Ki")],
        });
        let row = |kind: &dyn Kind, object: &Value| json!(kind.row(object, Timestamp::UNIX_EPOCH));
        assert_eq!(row(&PodMetrics, &pod), json!(["p", "2500001n", "128Ki", "7.5s"]));
        let mut node = usage("2", "1Gi");
        node["metadata"] = json!({ "name": "n" });
        assert_eq!(row(&NodeMetrics, &node), json!(["n", "2", "1Gi", null]));
    }
}

//! Node of `v1`.

use serde_json::{Map, Value, json};

use super::meta::{self, object_mut};
use super::quantity;
use super::tidy::{fill_conditions, object, set_default, tidy};
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column};

pub struct Node;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[Subresource {
        name: "status",
        group: "",
        version: "",
        kind: "Node",
        verbs: &["get", "patch", "update"],
    }],
    schema: "io.k8s.api.core.v1.Node",
    storage: "nodes",
    storage_version_hash: "XwShjMxG9Fs=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Status", "string", "", 0),
    column("Roles", "string", "", 0),
    column("Age", "string", "", 0),
    column("Version", "string", "", 0),
    column("Internal-IP", "string", "", 1),
    column("External-IP", "string", "", 1),
    column("OS-Image", "string", "", 1),
    column("Kernel-Version", "string", "", 1),
    column("Container-Runtime", "string", "", 1),
];

const NOT_READY_TAINT: &str = "node.kubernetes.io/not-ready";

/// What a node says of itself; written although unknown.
const NODE_INFO: [&str; 10] = [
    "architecture",
    "bootID",
    "containerRuntimeVersion",
    "kernelVersion",
    "kubeProxyVersion",
    "kubeletVersion",
    "machineID",
    "operatingSystem",
    "osImage",
    "systemUUID",
];

impl Kind for Node {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        tidy(&mut object["spec"], "spec");
        pod_cidrs(object_mut(object, "spec"));
        object_mut(object, "status");
        tidy(&mut object["status"], "status");
        let status = object_mut(object, "status");
        if !status.contains_key("allocatable")
            && let Some(capacity) = status.get("capacity").cloned()
        {
            status.insert("allocatable".to_owned(), capacity);
        }
        for list in ["capacity", "allocatable"] {
            if let Some(list) = status.get_mut(list) {
                quantity::normalize_list(list);
            }
        }
        always_written(status);
        fill_conditions(status, &["lastHeartbeatTime", "lastTransitionTime"]);
    }

    /// A node that nobody has seen ready yet takes no pods.
    fn prepare_create(&self, object: &mut Value) {
        let taints = object_mut(object, "spec").entry("taints").or_insert_with(|| json!([]));
        let Some(taints) = taints.as_array_mut() else { return };
        let not_ready = |taint: &Value| taint["key"] == NOT_READY_TAINT && taint["effect"] == "NoSchedule";
        if !taints.iter().any(not_ready) {
            taints.push(json!({"key": NOT_READY_TAINT, "effect": "NoSchedule"}));
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.unschedulable", object["spec"]["unschedulable"].as_bool().unwrap_or(false).to_string())]
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &["spec.unschedulable"]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, _object: &Value, _now: jiff::Timestamp) -> Vec<Value> {
        vec![Value::Null; COLUMNS.len()]
    }
}

/// The structs of a status that are written even when empty.
fn always_written(status: &mut Map<String, Value>) {
    set_default(status, "daemonEndpoints", json!({}));
    if let Some(endpoints) = object(status, "daemonEndpoints") {
        set_default(endpoints, "kubeletEndpoint", json!({}));
        if let Some(endpoint) = object(endpoints, "kubeletEndpoint") {
            set_default(endpoint, "Port", 0);
        }
    }
    set_default(status, "nodeInfo", json!({}));
    if let Some(info) = object(status, "nodeInfo") {
        for name in NODE_INFO {
            set_default(info, name, "");
        }
    }
}

/// The first of `podCIDRs` is `podCIDR`; the single one wins where they differ.
fn pod_cidrs(spec: &mut Map<String, Value>) {
    let single = spec.get("podCIDR").cloned();
    let first = spec.get("podCIDRs").and_then(|list| list.get(0)).cloned();
    match (single, first) {
        (Some(single), first) if first.as_ref() != Some(&single) => {
            spec.insert("podCIDRs".to_owned(), json!([single]));
        }
        (None, Some(first)) => {
            spec.insert("podCIDR".to_owned(), first);
        }
        _ => {}
    }
}

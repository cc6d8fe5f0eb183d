//! Pod of `v1`: the facts, and how its rules hang together. The rules are in the files below it.

pub mod affinity;
mod container;
pub mod defaults;
pub mod dump;
mod env;
mod ephemeral;
mod handler;
mod print;
pub mod qos;
pub mod resources;
pub mod scheduling;
mod security;
pub mod spec;
mod status;
mod update;
mod volume;
pub mod warnings;

use serde_json::{Map, Value, json};

use super::field::{Errors, Field};
use super::meta::{self, object_mut};
use super::{ALL_VERBS, Column, Kind, KindInfo, PROXY_VERBS, Part, Subresource, column};

/// Annotation with the ConfigMaps that `wasi:config` tells a pod of, separated by commas.
pub const CONFIG_ANNOTATION: &str = "coracle.dev/config";
/// Annotation with the Secret that opens the server of a pod's `wasi:keyvalue`.
pub const KEYVALUE_SECRET_ANNOTATION: &str = "coracle.dev/keyvalue-secret";

pub struct Pod;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource { name: "attach", group: "", version: "", kind: "PodAttachOptions", verbs: &["create", "get"] },
        Subresource { name: "binding", group: "", version: "", kind: "Binding", verbs: &["create"] },
        Subresource { name: ephemeral::NAME, group: "", version: "", kind: "Pod", verbs: &["get", "patch", "update"] },
        Subresource { name: "eviction", group: "policy", version: "v1", kind: "Eviction", verbs: &["create"] },
        Subresource { name: "exec", group: "", version: "", kind: "PodExecOptions", verbs: &["create", "get"] },
        Subresource { name: "log", group: "", version: "", kind: "Pod", verbs: &["get"] },
        Subresource {
            name: "portforward",
            group: "",
            version: "",
            kind: "PodPortForwardOptions",
            verbs: &["create", "get"],
        },
        Subresource { name: "proxy", group: "", version: "", kind: "PodProxyOptions", verbs: PROXY_VERBS },
        Subresource::status("Pod"),
    ],
    schema: "io.k8s.api.core.v1.Pod",
    storage: "pods",
    storage_version_hash: "xPOwRZ+Yhw8=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Ready", "string", "", 0),
    column("Status", "string", "", 0),
    column("Restarts", "string", "", 0),
    column("Age", "string", "", 0),
    column("IP", "string", "", 1),
    column("Node", "string", "", 1),
    column("Nominated Node", "string", "", 1),
    column("Readiness Gates", "string", "", 1),
];

impl Kind for Pod {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        defaults::pod(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::start_generation(object);
        let spec = object_mut(object, "spec");
        defaults::service_account(spec);
        least_grace(spec);
        let gated = spec.get("schedulingGates").is_some_and(|gates| !meta::is_empty(gates));
        let mut status = json!({"phase": "Pending", "qosClass": qos::class(&object["spec"])});
        if gated {
            status["conditions"] = json!([scheduling_gated(&object["metadata"]["creationTimestamp"])]);
        }
        object["status"] = status;
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        defaults::service_account(object_mut(new, "spec"));
        meta::update_spec(new, old);
    }

    /// Owner references stay too: an agent that sends back what it read must not undo an adoption.
    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::update_status(new, old);
        let owners = &old["metadata"]["ownerReferences"];
        let metadata = meta::metadata_mut(new);
        match owners.is_null() {
            true => metadata.remove("ownerReferences"),
            false => metadata.insert("ownerReferences".to_owned(), owners.clone()),
        };
        let qos = &old["status"]["qosClass"];
        if new["status"]["qosClass"].is_null() && !qos.is_null() {
            object_mut(new, "status").insert("qosClass".to_owned(), qos.clone());
        }
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "" => &[&["status"]],
            "status" => &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
            _ => &[],
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        whole(&mut errors, object);
        let spec = Field::root(object).get("spec");
        let ephemeral = spec.get("ephemeralContainers");
        if !ephemeral.is_empty() {
            errors.forbidden(&ephemeral, "cannot be set on create");
        }
        let node = spec.get("nodeName");
        if !node.is_empty() && !spec.get("schedulingGates").is_empty() {
            errors.forbidden(&node, "cannot be set until all schedulingGates have been cleared");
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        whole(&mut errors, new);
        update::validate(&mut errors, new, old);
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        status::validate(&mut errors, new, old);
        errors
    }

    fn parts(&self) -> &'static [Part] {
        &[Part { subresource: ephemeral::NAME, prepare: ephemeral::prepare, validate: ephemeral::validate }]
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        match old {
            Some(old) if meta::same(&new["spec"], &old["spec"]) => Vec::new(),
            _ => warnings::of(&Field::root(new).get("spec")),
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        print::row(object, now)
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        vec![
            ("spec.nodeName", text(&spec["nodeName"])),
            ("spec.restartPolicy", text(&spec["restartPolicy"])),
            ("spec.schedulerName", text(&spec["schedulerName"])),
            ("spec.serviceAccountName", text(&spec["serviceAccountName"])),
            ("spec.hostNetwork", spec["hostNetwork"].as_bool().unwrap_or(false).to_string()),
            ("status.phase", text(&status["phase"])),
            ("status.podIP", text(&status["podIP"])),
            ("status.nominatedNodeName", text(&status["nominatedNodeName"])),
        ]
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ]
    }

    /// The request's seconds, else the pod's; nothing to wait for where no node runs it or it is over.
    fn graceful_delete_seconds(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let over = matches!(status["phase"].as_str(), Some("Failed" | "Succeeded"));
        if over || spec["nodeName"].as_str().is_none_or(str::is_empty) {
            return Some(0);
        }
        let seconds = requested.or(spec["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
        // A negative period stands for the least that there is.
        Some(if seconds < 0 { 1 } else { seconds })
    }
}

/// A negative period of grace stands for the least that there is.
fn least_grace(spec: &mut Map<String, Value>) {
    if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|seconds| seconds < 0) {
        spec.insert("terminationGracePeriodSeconds".to_owned(), 1.into());
    }
}

/// The condition of a pod that must not be scheduled yet, since its creation.
fn scheduling_gated(since: &Value) -> Value {
    json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": "SchedulingGated",
        "message": "Scheduling is blocked due to non-empty scheduling gates",
        "lastProbeTime": null,
        "lastTransitionTime": since,
    })
}

/// What must hold for a pod whenever it is written.
fn whole(errors: &mut Errors, object: &Value) {
    let spec = Field::root(object).get("spec");
    let context = spec::Context { is_pod: true, pod_name: meta::text(object, "name") };
    spec::validate(errors, &spec, &context);
    container::only_for_pod(errors, &spec, &context);
}

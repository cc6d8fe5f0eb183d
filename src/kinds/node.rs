//! Node of `v1`.

use serde_json::{Map, Value, json};

use super::field::{Errors, Field, Reason};
use super::fill::set_default;
use super::meta::{self, object_mut};
use super::pod::{resources, scheduling};
use super::quantity;
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column};
use super::{names, time};

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
    subresources: &[
        Subresource { name: "proxy", group: "", version: "", kind: "NodeProxyOptions", verbs: &["get"] },
        Subresource::status("Node"),
    ],
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

impl Kind for Node {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        pod_cidrs(object_mut(object, "spec"));
        let status = object_mut(object, "status");
        for list in ["capacity", "allocatable"] {
            if let Some(list) = status.get_mut(list) {
                quantity::normalize_list(list);
            }
        }
        if let Some(capacity) = status.get("capacity").cloned() {
            set_default(status, "allocatable", capacity);
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let root = Field::root(object);
        validate_taints(&mut errors, &root.get("spec").get("taints"));
        validate_amounts(&mut errors, &root.get("status"));
        validate_pod_cidrs(&mut errors, &root.get("spec").get("podCIDRs"));
        errors
    }

    /// The new node as a whole, then what changed; what is wrong with both is told twice, as upstream does.
    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = self.validate(new);
        let (new, old) = (Field::root(new), Field::root(old));
        let addresses = new.get("status").get("addresses");
        for (i, address) in addresses.items().enumerate() {
            if addresses.items().take(i).any(|earlier| earlier.value == address.value) {
                errors.duplicate(&address);
            }
        }
        validate_amounts(&mut errors, &new.get("status"));
        let (new, old) = (new.get("spec"), old.get("spec"));
        let cidrs = new.get("podCIDRs");
        if old.get("podCIDRs").exists() {
            if !meta::same(cidrs.value, old.get("podCIDRs").value) {
                errors.forbidden(&cidrs, "node updates may not change podCIDR except from \"\" to valid");
            }
        } else {
            validate_pod_cidrs(&mut errors, &cidrs);
        }
        let (provider, before) = (new.get("providerID"), old.get("providerID"));
        if !before.is_empty() && provider.str() != before.str() {
            errors.forbidden(&provider, "node updates may not change providerID except from \"\" to valid");
        }
        validate_taints(&mut errors, &new.get("taints"));
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Errors {
        self.validate_update(new, old)
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

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let info = &object["status"]["nodeInfo"];
        let shown = |name: &str, absent: &str| match info[name].as_str() {
            Some(text) if !text.is_empty() => Value::from(text),
            _ => Value::from(absent),
        };
        vec![
            object["metadata"]["name"].clone(),
            status_text(object).into(),
            roles_text(object).into(),
            time::object_age(object, now).into(),
            shown("kubeletVersion", ""),
            address(object, "InternalIP").into(),
            address(object, "ExternalIP").into(),
            shown("osImage", "<unknown>"),
            shown("kernelVersion", "<unknown>"),
            shown("containerRuntimeVersion", "<unknown>"),
        ]
    }
}

fn status_text(node: &Value) -> String {
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.rfind(|condition| condition["type"] == "Ready");
    let text = match ready.map(|condition| condition["status"] == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    };
    match node["spec"]["unschedulable"] == true {
        true => format!("{text},SchedulingDisabled"),
        false => text.to_owned(),
    }
}

/// From labels such as `node-role.kubernetes.io/worker`.
fn roles_text(node: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in node["metadata"]["labels"].as_object().into_iter().flatten() {
        let role = match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if key == "kubernetes.io/role" => value.as_str().unwrap_or(""),
            None => "",
        };
        if !role.is_empty() {
            roles.push(role);
        }
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let mut of_kind = addresses.filter(|address| address["type"] == kind);
    of_kind.next().and_then(|address| address["address"].as_str()).unwrap_or("<none>")
}

/// Taints are unique by key and effect. The errors name `metadata.taints`, as upstream's do.
fn validate_taints(errors: &mut Errors, list: &Field<'_>) {
    let list = Field::new("metadata.taints", list.value);
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for taint in list.items() {
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        for message in names::qualified_name(key.str()) {
            errors.invalid_str(&key, message);
        }
        let messages = names::label_value(value.str());
        if !messages.is_empty() {
            errors.invalid_str(&value, messages.join(";"));
        }
        if effect.is_empty() {
            errors.required(&effect, "");
        } else {
            scheduling::taint_effect(errors, &effect);
        }
        if seen.contains(&(key.str(), effect.str())) {
            let shown = format!(
                "{{\"Key\":{},\"Value\":{},\"Effect\":{},\"TimeAdded\":{}}}",
                key.str_value(),
                value.str_value(),
                effect.str_value(),
                taint.get("timeAdded").value
            );
            errors.push_text(Reason::Duplicate, &taint.path, shown, "taints must be unique by key and effect pair");
        }
        seen.push((key.str(), effect.str()));
    }
}

fn validate_pod_cidrs(errors: &mut Errors, list: &Field<'_>) {
    for cidr in list.items() {
        errors.invalid_each(&cidr, names::cidr_legacy(cidr.str()));
    }
    let families: Vec<bool> =
        list.items().filter_map(|cidr| names::parse_cidr(cidr.str())).map(|(ip, _)| ip.is_ipv4()).collect();
    let repeated = families.iter().filter(|v4| **v4).count() > 1 || families.iter().filter(|v4| !**v4).count() > 1;
    if repeated || list.len() > 2 {
        errors.invalid(list, "may specify no more than one CIDR for each IP family");
    }
}

fn validate_amounts(errors: &mut Errors, status: &Field<'_>) {
    for list in ["capacity", "allocatable"] {
        for (name, amount) in status.get(list).entries() {
            resources::amount(errors, &amount, name);
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

//! What a pod gets that its author left out.
//!
//! A template gets less than a pod: what is only decided when a pod is made from it (requests from
//! limits, service links, host ports) is not written into every Deployment.

use serde_json::{Map, Value, json};

use crate::kinds::fill::{object, objects, set_default, set_default_zero};
use crate::kinds::meta::object_mut;
use crate::kinds::quantity;

/// Mode 0644, in the decimal that JSON has.
const FILE_MODE: i64 = 420;
const TOKEN_SECONDS: i64 = 3600;

const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// A whole pod.
pub fn pod(object: &mut Value) {
    {
        let spec = object_mut(object, "spec");
        pod_spec(spec);
        for list in ["containers", "initContainers"] {
            objects(spec, list).for_each(requests_from_limits);
        }
        set_default(spec, "enableServiceLinks", true);
        if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
            for list in ["containers", "initContainers"] {
                objects(spec, list).for_each(host_ports);
            }
        }
    }
    status(object_mut(object, "status"));
}

/// The `template` of a workload's spec: metadata and a pod spec.
pub fn template(owner_spec: &mut Value) {
    object_mut(owner_spec, "template");
    let template = &mut owner_spec["template"];
    object_mut(template, "metadata");
    pod_spec(object_mut(template, "spec"));
}

/// What pods and templates have in common.
pub fn pod_spec(spec: &mut Map<String, Value>) {
    set_default_zero(spec, "dnsPolicy", "ClusterFirst");
    set_default_zero(spec, "restartPolicy", "Always");
    set_default(spec, "securityContext", json!({}));
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default_zero(spec, "schedulerName", "default-scheduler");
    service_account(spec);
    if let Some(overhead) = spec.get_mut("overhead") {
        quantity::normalize_list(overhead);
    }
    if let Some(resources) = object(spec, "resources") {
        resource_lists(resources);
    }
    for list in CONTAINER_LISTS {
        objects(spec, list).for_each(container);
    }
    objects(spec, "volumes").for_each(volume);
}

/// The old name of `serviceAccountName` always shows the same.
pub fn service_account(spec: &mut Map<String, Value>) {
    let name = ["serviceAccountName", "serviceAccount"]
        .iter()
        .find_map(|field| spec.get(*field).filter(|value| value.as_str().is_some_and(|name| !name.is_empty())))
        .cloned();
    if let Some(name) = name {
        spec.insert("serviceAccountName".to_owned(), name.clone());
        spec.insert("serviceAccount".to_owned(), name);
    }
}

fn container(container: &mut Map<String, Value>) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or("");
    let policy = pull_policy(image);
    set_default_zero(container, "imagePullPolicy", policy);
    set_default_zero(container, "terminationMessagePath", "/dev/termination-log");
    set_default_zero(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", json!({}));
    if let Some(resources) = object(container, "resources") {
        resource_lists(resources);
    }
    for port in objects(container, "ports") {
        set_default_zero(port, "protocol", "TCP");
    }
    for variable in objects(container, "env") {
        if let Some(reference) = object(variable, "valueFrom").and_then(|from| object(from, "fieldRef")) {
            set_default_zero(reference, "apiVersion", "v1");
        }
        let resource = object(variable, "valueFrom").and_then(|from| object(from, "resourceFieldRef"));
        if let Some(reference) = resource {
            divisor(reference);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = object(container, name) {
            probe(found);
        }
    }
    for name in ["postStart", "preStop"] {
        let hook = object(container, "lifecycle").and_then(|lifecycle| object(lifecycle, name));
        if let Some(action) = hook.and_then(|hook| object(hook, "httpGet")) {
            http_get(action);
        }
    }
}

/// The divisor of a resource reference is always written; unset it is "0".
fn divisor(reference: &mut Map<String, Value>) {
    set_default(reference, "divisor", "0");
    if let Some(value) = reference.get_mut("divisor") {
        quantity::normalize(value);
    }
}

fn resource_lists(resources: &mut Map<String, Value>) {
    for list in ["limits", "requests"] {
        if let Some(list) = resources.get_mut(list) {
            quantity::normalize_list(list);
        }
    }
}

/// `Always` for the tag `latest`, written or implied.
pub fn pull_policy(image: &str) -> &'static str {
    if image_tag(image) == Some("latest") { "Always" } else { "IfNotPresent" }
}

/// The tag of an image reference: `latest` where neither tag nor digest is given; `None` where the
/// reference has only a digest or is malformed.
fn image_tag(image: &str) -> Option<&str> {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let (repository, tag) = match name[last..].split_once(':') {
        Some((_, tag)) => (&name[..name.len() - tag.len() - 1], Some(tag)),
        None => (name, None),
    };
    // The host part may hold capitals; the path may not.
    let path = match repository.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => path,
        _ => repository,
    };
    let well_formed = !path.is_empty()
        && path.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'/' | b'.' | b'_' | b'-'));
    match tag {
        _ if !well_formed => None,
        Some("") => None,
        Some(tag) => Some(tag),
        None if digest => None,
        None => Some("latest"),
    }
}

fn probe(probe: &mut Map<String, Value>) {
    set_default_zero(probe, "timeoutSeconds", 1);
    set_default_zero(probe, "periodSeconds", 10);
    set_default_zero(probe, "successThreshold", 1);
    set_default_zero(probe, "failureThreshold", 3);
    if let Some(action) = object(probe, "httpGet") {
        http_get(action);
    }
    if let Some(action) = object(probe, "grpc") {
        set_default(action, "service", "");
    }
}

fn http_get(action: &mut Map<String, Value>) {
    set_default_zero(action, "path", "/");
    set_default_zero(action, "scheme", "HTTP");
}

fn volume(volume: &mut Map<String, Value>) {
    if volume.keys().all(|name| name == "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = object(volume, source) {
            set_default(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(source) = object(volume, "hostPath") {
        set_default(source, "type", "");
    }
    if let Some(limit) = object(volume, "emptyDir").and_then(|source| source.get_mut("sizeLimit")) {
        quantity::normalize(limit);
    }
    if let Some(source) = object(volume, "downwardAPI") {
        objects(source, "items").for_each(downward_file);
    }
    if let Some(source) = object(volume, "projected") {
        objects(source, "sources").for_each(projection);
    }
    if let Some(source) = object(volume, "image") {
        let policy = pull_policy(source.get("reference").and_then(Value::as_str).unwrap_or(""));
        set_default_zero(source, "pullPolicy", policy);
    }
    if let Some(source) = object(volume, "iscsi") {
        set_default_zero(source, "iscsiInterface", "default");
    }
    let claim = object(volume, "ephemeral").and_then(|source| object(source, "volumeClaimTemplate"));
    if let Some(spec) = claim.and_then(|template| object(template, "spec")) {
        set_default(spec, "volumeMode", "Filesystem");
        set_default(spec, "resources", json!({}));
    }
}

fn projection(source: &mut Map<String, Value>) {
    if let Some(token) = object(source, "serviceAccountToken") {
        set_default(token, "expirationSeconds", TOKEN_SECONDS);
    }
    if let Some(downward) = object(source, "downwardAPI") {
        objects(downward, "items").for_each(downward_file);
    }
}

fn downward_file(file: &mut Map<String, Value>) {
    if let Some(reference) = object(file, "fieldRef") {
        set_default_zero(reference, "apiVersion", "v1");
    }
    if let Some(reference) = object(file, "resourceFieldRef") {
        divisor(reference);
    }
}

/// A limit without a request is the request, too.
fn requests_from_limits(container: &mut Map<String, Value>) {
    let Some(resources) = object(container, "resources") else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    set_default(resources, "requests", json!({}));
    let Some(requests) = object(resources, "requests") else { return };
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
    if requests.is_empty() {
        resources.remove("requests");
    }
}

fn host_ports(container: &mut Map<String, Value>) {
    for port in objects(container, "ports") {
        if let Some(number) = port.get("containerPort").cloned() {
            set_default_zero(port, "hostPort", number);
        }
    }
}

/// The two notations of addresses agree: `podIP` is the first of `podIPs`.
pub fn status(status: &mut Map<String, Value>) {
    let single = status.get("podIP").filter(|ip| ip.as_str().is_some_and(|ip| !ip.is_empty())).cloned();
    let first = status.get("podIPs").and_then(|ips| ips.pointer("/0/ip")).cloned();
    match (single, first) {
        // The single address is the one that old clients know to set: it wins.
        (Some(single), first) if first.as_ref() != Some(&single) => {
            status.insert("podIPs".to_owned(), json!([{ "ip": single }]));
        }
        (None, Some(first)) => {
            status.insert("podIP".to_owned(), first);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_decide_the_pull_policy() {
        for (image, policy) in [
            ("img", "Always"),
            ("img:latest", "Always"),
            ("img:1", "IfNotPresent"),
            ("host:5000/img", "Always"),
            ("host:5000/img:2", "IfNotPresent"),
            ("img@sha256:aa", "IfNotPresent"),
            ("img:latest@sha256:aa", "Always"),
            ("Bad", "IfNotPresent"),
            ("Host.io/a", "Always"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn limits_become_requests_in_pods_only() {
        let container = json!({"name": "c", "image": "i", "resources": {"limits": {"cpu": "1000m"}}});
        let mut object = json!({"spec": {"containers": [container], "volumes": [{"name": "v"}]}});
        let mut owner = json!({"template": {"spec": object["spec"].clone()}});
        pod(&mut object);
        template(&mut owner);
        assert_eq!(
            object["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}})
        );
        assert_eq!(owner.pointer("/template/spec/containers/0/resources"), Some(&json!({"limits": {"cpu": "1"}})));
        assert_eq!(object["spec"]["volumes"][0]["emptyDir"], json!({}));
        assert!(owner.pointer("/template/spec/enableServiceLinks").is_none());
    }

    #[test]
    fn the_two_notations_of_addresses_agree() {
        let mut value = json!({"podIP": "10.0.0.1"});
        status(value.as_object_mut().expect("an object"));
        assert_eq!(value["podIPs"], json!([{"ip": "10.0.0.1"}]));
        let mut value = json!({"podIPs": [{"ip": "10.0.0.2"}]});
        status(value.as_object_mut().expect("an object"));
        assert_eq!(value["podIP"], "10.0.0.2");
    }
}

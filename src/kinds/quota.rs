//! What an object costs by the names that ResourceQuotas use, and which quotas it concerns.

use std::collections::BTreeMap;

use serde_json::Value;

use super::pod::qos;
use super::quantity::Quantity;

/// Amounts by the names that quotas use.
pub type Usage = BTreeMap<String, Quantity>;

/// Kinds of the core group that quotas count by their bare name.
const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
/// Computed from the pods' containers; also without the prefix `requests.`.
const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// What every container must say where a quota names it.
const MANDATORY: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// What one object of a kind costs.
pub fn usage(group: &str, plural: &str, object: &Value) -> Usage {
    let mut usage = Usage::new();
    let qualified = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    usage.insert(format!("count/{qualified}"), Quantity::from_units(1));
    if !group.is_empty() {
        return usage;
    }
    match plural {
        "pods" => pod(object, &mut usage),
        "services" => service(object, &mut usage),
        "persistentvolumeclaims" => claim(object, &mut usage),
        _ => {}
    }
    if COUNTED.contains(&plural) && (plural != "pods" || is_active(object)) {
        usage.insert(plural.to_owned(), Quantity::from_units(1));
    }
    usage
}

/// Whether a quota can name something that this kind costs.
pub fn concerns(group: &str, plural: &str, name: &str) -> bool {
    let counted = match name.strip_prefix("count/") {
        Some(counted) => {
            return if group.is_empty() { counted == plural } else { counted == format!("{plural}.{group}") };
        }
        None => group.is_empty() && name == plural,
    };
    let of_pods = || {
        let bare = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
        COMPUTE.contains(&bare) || (bare.contains('/') && !name.contains(".storageclass.storage.k8s.io/"))
    };
    counted
        || match (group, plural) {
            ("", "pods") => of_pods(),
            ("", "services") => name.starts_with("services."),
            ("", "persistentvolumeclaims") => {
                name == "requests.storage" || name.contains(".storageclass.storage.k8s.io/")
            }
            _ => false,
        }
}

/// A pod that has ended holds nothing any more.
fn is_active(pod: &Value) -> bool {
    !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn pod(pod: &Value, usage: &mut Usage) {
    if !is_active(pod) {
        return;
    }
    for list in ["requests", "limits"] {
        for (name, amount) in total(&pod["spec"], list) {
            if list == "requests" && COMPUTE.contains(&name.as_str()) {
                usage.insert(name.clone(), amount);
            }
            usage.insert(format!("{list}.{name}"), amount);
        }
    }
}

/// What a whole pod asks for: its containers beside each other, or an init container alone, and what
/// its runtime class adds.
fn total(spec: &Value, list: &str) -> Usage {
    let mut total = Usage::new();
    let amounts = |container: &Value| -> Vec<(String, Quantity)> {
        let amounts = container["resources"][list].as_object().into_iter().flatten();
        amounts.filter_map(|(name, value)| Some((name.clone(), Quantity::from_json(value).ok()?))).collect()
    };
    for container in spec["containers"].as_array().into_iter().flatten() {
        for (name, amount) in amounts(container) {
            let sum = total.entry(name).or_insert(Quantity::ZERO);
            *sum = sum.plus(amount);
        }
    }
    for container in spec["initContainers"].as_array().into_iter().flatten() {
        let beside = container["restartPolicy"] == "Always";
        for (name, amount) in amounts(container) {
            let sum = total.entry(name).or_insert(Quantity::ZERO);
            *sum = if beside { sum.plus(amount) } else { (*sum).max(amount) };
        }
    }
    for (name, amount) in spec["overhead"].as_object().into_iter().flatten() {
        if let (Some(sum), Ok(amount)) = (total.get_mut(name), Quantity::from_json(amount)) {
            *sum = sum.plus(amount);
        }
    }
    total
}

fn service(service: &Value, usage: &mut Usage) {
    let spec = &service["spec"];
    let ports = i64::try_from(spec["ports"].as_array().map_or(0, Vec::len)).unwrap_or(i64::MAX);
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (ports, 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => (0, 1),
        Some("LoadBalancer") => (ports, 1),
        _ => (0, 0),
    };
    usage.insert("services.nodeports".to_owned(), Quantity::from_units(node_ports));
    usage.insert("services.loadbalancers".to_owned(), Quantity::from_units(balancers));
}

fn claim(claim: &Value, usage: &mut Usage) {
    let storage = Quantity::of(&claim["spec"]["resources"]["requests"], "storage");
    usage.insert("requests.storage".to_owned(), storage);
    if let Some(class) = claim["spec"]["storageClassName"].as_str().filter(|class| !class.is_empty()) {
        let of_class = |name: &str| format!("{class}.storageclass.storage.k8s.io/{name}");
        usage.insert(of_class("requests.storage"), storage);
        usage.insert(of_class("persistentvolumeclaims"), Quantity::from_units(1));
    }
}

/// Whether a quota's scopes take in an object. Those of pods have meaning for pods only.
pub fn in_scope(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let scopes = quota["spec"]["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let selected = quota["spec"]["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let mut requirements: Vec<(&str, &str, Vec<&str>)> = scopes.map(|scope| (scope, "Exists", Vec::new())).collect();
    requirements.extend(selected.map(|requirement| {
        let text = |name: &str| requirement[name].as_str().unwrap_or("");
        let values = requirement["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        (text("scopeName"), text("operator"), values)
    }));
    if requirements.is_empty() {
        return true;
    }
    (group, plural) == ("", "pods")
        && requirements.iter().all(|(scope, operator, values)| holds(object, scope, operator, values))
}

fn holds(pod: &Value, scope: &str, operator: &str, values: &[&str]) -> bool {
    let spec = &pod["spec"];
    match scope {
        "Terminating" => !spec["activeDeadlineSeconds"].is_null(),
        "NotTerminating" => spec["activeDeadlineSeconds"].is_null(),
        "BestEffort" => qos::class(spec) == "BestEffort",
        "NotBestEffort" => qos::class(spec) != "BestEffort",
        "PriorityClass" => {
            let class = spec["priorityClassName"].as_str().unwrap_or("");
            match operator {
                "In" => values.contains(&class),
                "NotIn" => !values.contains(&class),
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => {
            let terms = ["podAffinity", "podAntiAffinity"].map(|name| &spec["affinity"][name]);
            terms.iter().any(|affinity| affinity.to_string().contains("\"namespace"))
        }
        _ => false,
    }
}

/// What a pod's containers do not say although a quota names it: `limits.memory for: a,b; …`.
pub fn unspecified<'a>(hard: impl Iterator<Item = &'a str>, pod: &Value) -> Option<String> {
    let spec = &pod["spec"];
    let containers = || {
        let lists = [&spec["initContainers"], &spec["containers"]];
        lists.into_iter().filter_map(Value::as_array).flatten()
    };
    let mut missing: Vec<String> = Vec::new();
    let mut names: Vec<&str> = hard.filter(|name| MANDATORY.contains(name)).collect();
    names.sort_unstable();
    for name in names {
        let (list, resource) = match name.split_once('.') {
            Some((list, resource)) => (list, resource),
            None => ("requests", name),
        };
        let lacking = containers().filter(|container| container["resources"][list][resource].is_null());
        let mut lacking: Vec<&str> = lacking.filter_map(|container| container["name"].as_str()).collect();
        lacking.sort_unstable();
        lacking.dedup();
        if !lacking.is_empty() {
            missing.push(format!("{name} for: {}", lacking.join(",")));
        }
    }
    (!missing.is_empty()).then(|| missing.join("; "))
}

/// `a=1,b=2`, as upstream shows amounts.
pub fn shown<'a>(amounts: impl Iterator<Item = (&'a str, Quantity)>) -> String {
    amounts.map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn amounts(usage: &Usage) -> Vec<String> {
        usage.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
    }

    #[test]
    fn objects_cost_what_quotas_name() {
        let pod = json!({"spec": {
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "2"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "500m"}}}]}});
        assert_eq!(
            amounts(&usage("", "pods", &pod)),
            ["count/pods=1", "cpu=2", "limits.memory=1Gi", "pods=1", "requests.cpu=2"]
        );
        let mut ended = pod.clone();
        ended["status"]["phase"] = json!("Succeeded");
        assert_eq!(amounts(&usage("", "pods", &ended)), ["count/pods=1"]);
        let service = json!({"spec": {"type": "NodePort", "ports": [{}, {}]}});
        let cost = usage("", "services", &service);
        assert_eq!(cost["services.nodeports"], Quantity::from_units(2));
        assert_eq!(amounts(&usage("batch", "jobs", &json!({}))), ["count/jobs.batch=1"]);
        let claim = json!({"spec": {"storageClassName": "s", "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(usage("", "persistentvolumeclaims", &claim).len(), 5);
        for (name, cost) in usage("", "pods", &pod).iter().chain(&cost) {
            assert!(
                concerns("", if name.starts_with("services") { "services" } else { "pods" }, name)
                    || name.contains("services"),
                "{name} {cost}"
            );
        }
    }

    #[test]
    fn scopes_take_in_pods() {
        let quota = |spec: Value| json!({"spec": spec});
        let pod = json!({"spec": {"containers": [{"name": "a"}], "priorityClassName": "high"}});
        for (spec, inside) in [
            (json!({}), true),
            (json!({"scopes": ["BestEffort"]}), true),
            (json!({"scopes": ["Terminating"]}), false),
            (
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}),
                true,
            ),
            (
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "NotIn", "values": ["high"]}]}}),
                false,
            ),
        ] {
            assert_eq!(in_scope(&quota(spec.clone()), "", "pods", &pod), inside, "{spec}");
        }
        assert!(!in_scope(&quota(json!({"scopes": ["BestEffort"]})), "", "configmaps", &json!({})));
        assert_eq!(
            unspecified(["limits.memory", "requests.cpu", "pods"].into_iter(), &pod).as_deref(),
            Some("limits.memory for: a; requests.cpu for: a")
        );
    }
}

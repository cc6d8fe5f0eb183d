//! LimitRanger: containers that ask for nothing get what the namespace's LimitRanges give them, and
//! whoever asks for too much, or too little, is refused.

use serde_json::{Map, Value};

use super::{Operation, Request};
use crate::apiserver::status::ApiError;
use crate::kinds::limit_range::LimitRange;
use crate::kinds::meta::{metadata_mut, object_mut};
use crate::kinds::quantity::Quantity;

/// Says what was given.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
const CONTAINER_LISTS: [(&str, &str); 2] = [("containers", "container"), ("initContainers", "init container")];

pub fn admit(request: &Request<'_>, object: &mut Value) -> Result<(), ApiError> {
    let pods = request.is(Operation::Create, "pods");
    let claims = request.is(Operation::Create, "persistentvolumeclaims")
        || request.is(Operation::Update, "persistentvolumeclaims");
    if !pods && !claims {
        return Ok(());
    }
    for range in request.registry.all_known(&LimitRange, request.place.namespace)? {
        let limits = range["spec"]["limits"].as_array().map(Vec::as_slice).unwrap_or_default();
        if pods {
            give(limits, object);
        }
        let wrong = if pods { wrong_with_pod(limits, object) } else { wrong_with_claim(limits, object) };
        match wrong.as_slice() {
            [] => {}
            [one] => return Err(request.forbidden(one)),
            more => return Err(request.forbidden(format!("[{}]", more.join(", ")))),
        }
    }
    Ok(())
}

/// Fills in what the containers leave out, and notes it.
fn give(limits: &[Value], pod: &mut Value) {
    let mut given = Vec::new();
    for limit in limits.iter().filter(|limit| limit["type"] == "Container") {
        for (list, words) in CONTAINER_LISTS {
            for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                let name = container["name"].as_str().unwrap_or_default().to_owned();
                for (from, to, what) in [("defaultRequest", "requests", "request"), ("default", "limits", "limit")] {
                    let names = fill(&limit[from], container, to);
                    if !names.is_empty() {
                        given.push(format!("{} {what} for {words} {name}", names.join(", ")));
                    }
                }
            }
        }
    }
    if !given.is_empty() {
        metadata_mut(pod);
        let annotations = object_mut(&mut pod["metadata"], "annotations");
        annotations.insert(ANNOTATION.to_owned(), format!("LimitRanger plugin set: {}", given.join("; ")).into());
    }
}

/// Copies the amounts that `container.resources.to` lacks; returns their names.
fn fill(amounts: &Value, container: &mut Value, to: &str) -> Vec<String> {
    let Some(amounts) = amounts.as_object().filter(|amounts| !amounts.is_empty()) else { return Vec::new() };
    object_mut(container, "resources");
    let own = object_mut(&mut container["resources"], to);
    let mut names = Vec::new();
    for (name, amount) in amounts {
        if !own.contains_key(name) {
            own.insert(name.clone(), amount.clone());
            names.push(name.clone());
        }
    }
    if own.is_empty() {
        object_mut(container, "resources").remove(to);
    }
    names
}

/// Amounts by name.
type Amounts = Map<String, Value>;

fn amounts(resources: &Value, list: &str) -> Amounts {
    resources[list].as_object().cloned().unwrap_or_default()
}

fn wrong_with_pod(limits: &[Value], pod: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let containers = |list: &str| pod["spec"][list].as_array().map(Vec::as_slice).unwrap_or_default();
    for limit in limits {
        match limit["type"].as_str() {
            Some("Container") => {
                for container in containers("containers").iter().chain(containers("initContainers")) {
                    let resources = &container["resources"];
                    check(
                        limit,
                        "Container",
                        &amounts(resources, "requests"),
                        &amounts(resources, "limits"),
                        &mut wrong,
                    );
                }
            }
            Some("Pod") => {
                let total = |list: &str| total(containers("containers"), containers("initContainers"), list);
                check(limit, "Pod", &total("requests"), &total("limits"), &mut wrong);
            }
            _ => {}
        }
    }
    wrong
}

/// What a whole pod asks for: its containers beside each other, or an init container alone.
fn total(containers: &[Value], init: &[Value], list: &str) -> Amounts {
    let mut sums = Amounts::new();
    for container in containers {
        for (name, amount) in amounts(&container["resources"], list) {
            let sum = Quantity::of(&Value::Object(sums.clone()), &name);
            let amount = Quantity::from_json(&amount).unwrap_or(Quantity::ZERO);
            sums.insert(name, sum.plus(amount).to_string().into());
        }
    }
    for container in init {
        for (name, amount) in amounts(&container["resources"], list) {
            let alone = Quantity::from_json(&amount).unwrap_or(Quantity::ZERO);
            if Quantity::of(&Value::Object(sums.clone()), &name) < alone {
                sums.insert(name, amount);
            }
        }
    }
    sums
}

fn wrong_with_claim(limits: &[Value], claim: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let requests = amounts(&claim["spec"]["resources"], "requests");
    for limit in limits.iter().filter(|limit| limit["type"] == "PersistentVolumeClaim") {
        let asked = |name: &str| requests.get(name).and_then(|value| Quantity::from_json(value).ok());
        for (name, least) in &amounts(limit, "min") {
            if let Err(why) = minimum("PersistentVolumeClaim", name, least, asked(name), None) {
                wrong.push(why);
            }
        }
        for (name, most) in &amounts(limit, "max") {
            // A claim has no limits: its request is what it may have at most.
            if let Err(why) = maximum("PersistentVolumeClaim", name, most, None, asked(name), true) {
                wrong.push(why);
            }
        }
    }
    wrong
}

/// One limit against one container or pod.
fn check(limit: &Value, what: &str, requests: &Amounts, limits: &Amounts, wrong: &mut Vec<String>) {
    let of = |list: &Amounts, name: &str| list.get(name).and_then(|value| Quantity::from_json(value).ok());
    for (name, least) in &amounts(limit, "min") {
        wrong.extend(minimum(what, name, least, of(requests, name), of(limits, name)).err());
    }
    for (name, most) in &amounts(limit, "max") {
        wrong.extend(maximum(what, name, most, of(limits, name), of(requests, name), false).err());
    }
    for (name, most) in &amounts(limit, "maxLimitRequestRatio") {
        wrong.extend(ratio(what, name, most, of(requests, name), of(limits, name)).err());
    }
}

fn minimum(
    what: &str,
    name: &str,
    least: &Value,
    request: Option<Quantity>,
    limit: Option<Quantity>,
) -> Result<(), String> {
    let Ok(least) = Quantity::from_json(least) else { return Ok(()) };
    let rule = format!("minimum {name} usage per {what} is {least}");
    match (request, limit) {
        (None, _) => Err(format!("{rule}.  No request is specified")),
        (Some(request), _) if request < least => Err(format!("{rule}, but request is {request}")),
        (_, Some(limit)) if limit < least => Err(format!("{rule}, but limit is {limit}")),
        _ => Ok(()),
    }
}

fn maximum(
    what: &str,
    name: &str,
    most: &Value,
    limit: Option<Quantity>,
    request: Option<Quantity>,
    request_only: bool,
) -> Result<(), String> {
    let Ok(most) = Quantity::from_json(most) else { return Ok(()) };
    let rule = format!("maximum {name} usage per {what} is {most}");
    match (limit, request) {
        (None, None) if request_only => Err(format!("{rule}.  No request is specified")),
        (None, _) if !request_only => Err(format!("{rule}.  No limit is specified")),
        (Some(limit), _) if limit > most => Err(format!("{rule}, but limit is {limit}")),
        (_, Some(request)) if request > most => Err(format!("{rule}, but request is {request}")),
        _ => Ok(()),
    }
}

fn ratio(
    what: &str,
    name: &str,
    most: &Value,
    request: Option<Quantity>,
    limit: Option<Quantity>,
) -> Result<(), String> {
    let Ok(most) = Quantity::from_json(most) else { return Ok(()) };
    let rule = format!("{name} max limit to request ratio per {what} is {most}");
    let some = |amount: Option<Quantity>| amount.filter(|amount| !amount.is_zero());
    let Some(request) = some(request) else {
        return Err(format!("{rule}, but no request is specified or request is 0"));
    };
    let Some(limit) = some(limit) else {
        return Err(format!("{rule}, but no limit is specified or limit is 0"));
    };
    // Compared exactly in thousandths; shown as upstream shows it.
    if i128::from(limit.millis()) * 1000 > i128::from(most.millis()) * i128::from(request.millis()) {
        let shown = limit.millis() as f64 / request.millis() as f64;
        return Err(format!("{rule}, but provided ratio is {shown:.6}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn limits() -> Vec<Value> {
        vec![json!({"type": "Container", "default": {"cpu": "500m", "memory": "256Mi"},
            "defaultRequest": {"cpu": "100m", "memory": "256Mi"}, "max": {"cpu": "2"}, "min": {"memory": "16Mi"},
            "maxLimitRequestRatio": {"cpu": "10"}})]
    }

    #[test]
    fn containers_get_what_they_leave_out() {
        let mut pod = json!({"spec": {"containers": [{"name": "c"}, {"name": "d", "resources": {
            "limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}}]}});
        give(&limits(), &mut pod);
        assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "100m", "memory": "256Mi"}));
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c"
        );
        assert!(wrong_with_pod(&limits(), &pod).is_empty());
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let pod = |requests: Value, limits: Value| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests, "limits": limits}}]}});
        let memory = "256Mi";
        let cases = [
            (
                json!({"cpu": "3", "memory": memory}),
                json!({"cpu": "3"}),
                "maximum cpu usage per Container is 2, but limit is 3",
            ),
            (
                json!({"cpu": "1", "memory": "1Mi"}),
                json!({"cpu": "1"}),
                "minimum memory usage per Container is 16Mi, but request is 1Mi",
            ),
            (
                json!({"cpu": "100m", "memory": memory}),
                json!({"cpu": "2"}),
                "cpu max limit to request ratio per Container is 10, but provided ratio is 20.000000",
            ),
        ];
        for (requests, given, why) in cases {
            assert_eq!(wrong_with_pod(&limits(), &pod(requests, given)), [why]);
        }
        let whole = [json!({"type": "Pod", "max": {"cpu": "2"}})];
        let two = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1500m"}}}, {"resources": {"limits": {"cpu": "1"}}}]}});
        assert_eq!(wrong_with_pod(&whole, &two), ["maximum cpu usage per Pod is 2, but limit is 2500m"]);
        let claim = json!({"spec": {"resources": {"requests": {"storage": "5Gi"}}}});
        let storage = [json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}})];
        assert_eq!(
            wrong_with_claim(&storage, &claim),
            ["maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 5Gi"]
        );
    }
}

//! A pod's quality of service: who is evicted first when a node runs out of memory.

use serde_json::Value;

use crate::kinds::quantity::Quantity;

/// `Guaranteed`, `Burstable` or `BestEffort`, from the CPU and memory of the pod spec.
pub fn class(spec: &Value) -> &'static str {
    if spec["resources"].is_object() {
        return of([&spec["resources"]].into_iter());
    }
    let list = |name: &str| spec[name].as_array().map(Vec::as_slice).unwrap_or_default();
    of(list("containers").iter().chain(list("initContainers")).map(|container| &container["resources"]))
}

/// Guaranteed: every container limits both resources and requests exactly that much of each in sum.
fn of<'a>(resources: impl Iterator<Item = &'a Value>) -> &'static str {
    const NAMES: [&str; 2] = ["cpu", "memory"];
    let mut requests = [Quantity::ZERO; 2];
    let mut limits = [Quantity::ZERO; 2];
    let mut all_limited = true;
    for resource in resources {
        for (i, name) in NAMES.iter().enumerate() {
            requests[i] = requests[i].plus(Quantity::of(&resource["requests"], name));
            let limit = Quantity::of(&resource["limits"], name);
            limits[i] = limits[i].plus(limit);
            all_limited &= !limit.is_zero();
        }
    }
    let nothing = requests.iter().chain(&limits).all(|amount| amount.is_zero());
    if nothing {
        "BestEffort"
    } else if all_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let with = |resources: Value| json!({"containers": [{"resources": resources}]});
        assert_eq!(class(&with(json!({}))), "BestEffort");
        assert_eq!(class(&with(json!({"limits": {"cpu": "0"}}))), "BestEffort");
        assert_eq!(class(&with(json!({"limits": both, "requests": both}))), "Guaranteed");
        assert_eq!(class(&with(json!({"requests": both}))), "Burstable");
        assert_eq!(class(&with(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}))), "Burstable");
        let two = json!({"containers": [{"resources": {"limits": both, "requests": both}}, {}]});
        assert_eq!(class(&two), "Burstable");
    }
}

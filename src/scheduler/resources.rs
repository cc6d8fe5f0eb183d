//! How much a pod asks for and a node has, as plain numbers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use crate::kinds::quantity::Quantity;

type ResourceList = BTreeMap<String, ApiQuantity>;

/// What a container without a CPU request counts for when nodes are compared (not when they are
/// filled), so that pods without requests spread too. Upstream's number; the next one as well.
const ASSUMED_CPU_MILLIS: i64 = 100;
const ASSUMED_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts of resources: CPU in thousandths of a core, the others in bytes or pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub ephemeral_bytes: i64,
    /// Any other resource by its name, devices for instance.
    pub others: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a ResourceList; what is no quantity counts as zero (the API server lets none pass).
    pub fn of(list: &ResourceList) -> Self {
        let mut resources = Self::default();
        for (name, amount) in list {
            let amount: Quantity = amount.0.parse().unwrap_or(Quantity::ZERO);
            match name.as_str() {
                "cpu" => resources.cpu_millis = amount.millis(),
                "memory" => resources.memory_bytes = amount.units(),
                "ephemeral-storage" => resources.ephemeral_bytes = amount.units(),
                "pods" => {}
                other => {
                    resources.others.insert(other.to_owned(), amount.units());
                }
            }
        }
        resources
    }

    /// Of the resource of this name, as a node offers it.
    pub fn amount(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu_millis,
            "memory" => self.memory_bytes,
            "ephemeral-storage" => self.ephemeral_bytes,
            other => self.others.get(other).copied().unwrap_or(0),
        }
    }

    pub fn add(&mut self, more: &Self) {
        self.combine(more, i64::saturating_add);
    }

    pub fn subtract(&mut self, less: &Self) {
        self.combine(less, i64::saturating_sub);
    }

    /// Raises each amount to that of `floor`.
    fn raise(&mut self, floor: &Self) {
        self.combine(floor, i64::max);
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.cpu_millis = with(self.cpu_millis, other.cpu_millis);
        self.memory_bytes = with(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = with(self.ephemeral_bytes, other.ephemeral_bytes);
        for (name, amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_insert(0);
            *mine = with(*mine, *amount);
        }
    }
}

/// What a pod needs at its peak: all its containers together, or one init container beside the
/// sidecars that were started before it, whichever is more; and the overhead of its runtime class.
/// Requests of the whole pod, where given, stand in for those of its containers.
pub fn pod_requests(spec: &PodSpec) -> Resources {
    let requests = |container: &Container| {
        let list = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        list.map(Resources::of).unwrap_or_default()
    };
    let mut peak = Resources::default();
    let mut sidecars = Resources::default();
    for init in spec.init_containers.iter().flatten() {
        let mut beside = sidecars.clone();
        beside.add(&requests(init));
        peak.raise(&beside);
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars = beside;
        }
    }
    let mut running = sidecars;
    for container in &spec.containers {
        running.add(&requests(container));
    }
    running.raise(&peak);
    if let Some(whole) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        replace(&mut running, whole);
    }
    if let Some(overhead) = &spec.overhead {
        running.add(&Resources::of(overhead));
    }
    running
}

fn replace(resources: &mut Resources, whole: &ResourceList) {
    let given = Resources::of(whole);
    if whole.contains_key("cpu") {
        resources.cpu_millis = given.cpu_millis;
    }
    if whole.contains_key("memory") {
        resources.memory_bytes = given.memory_bytes;
    }
}

/// The CPU and memory that a pod counts for when nodes are compared.
pub fn assumed_usage(spec: &PodSpec, requests: &Resources) -> (i64, i64) {
    let containers = i64::try_from(spec.containers.len()).unwrap_or(1);
    let or_assumed = |amount: i64, assumed: i64| if amount == 0 { assumed.saturating_mul(containers) } else { amount };
    (or_assumed(requests.cpu_millis, ASSUMED_CPU_MILLIS), or_assumed(requests.memory_bytes, ASSUMED_MEMORY_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(spec: Value) -> Resources {
        pod_requests(&serde_json::from_value(spec).expect("a pod spec"))
    }

    fn container(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn containers_add_up() {
        let spec = json!({"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "250m", "memory": "1Gi", "x/y": "2"}}},
            {"name": "b", "resources": {"requests": {"cpu": "1", "ephemeral-storage": "1M"}}},
            {"name": "c"}]});
        let expected = Resources {
            cpu_millis: 1250,
            memory_bytes: 1 << 30,
            ephemeral_bytes: 1_000_000,
            others: BTreeMap::from([("x/y".to_owned(), 2)]),
        };
        assert_eq!(of(spec), expected);
    }

    #[test]
    fn an_init_container_runs_beside_earlier_sidecars_only() {
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "2"}}});
        for (init, main, expected) in [
            (json!([container("5")]), "1", 5000),
            (json!([container("5"), sidecar]), "1", 5000),
            (json!([sidecar, container("5")]), "1", 7000),
            (json!([sidecar]), "1", 3000),
        ] {
            let cpu = of(json!({"initContainers": init, "containers": [container(main)]})).cpu_millis;
            assert_eq!(cpu, expected, "{init}");
        }
    }

    #[test]
    fn the_pod_s_own_requests_and_overhead_count() {
        let spec = json!({"containers": [container("1")], "resources": {"requests": {"cpu": "3"}},
            "overhead": {"cpu": "10m"}});
        assert_eq!(of(spec).cpu_millis, 3010);
    }
}

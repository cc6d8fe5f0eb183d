//! The downward API: fields of a pod and resources of its containers, as text. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::plan::Plan;
use crate::kinds::quantity::Quantity;

/// What fields may be asked of.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    pub pod: &'a core::Pod,
    pub pod_ip: IpAddr,
    pub host_ip: IpAddr,
    /// What a container without a limit may use.
    pub allocatable: Allocatable,
}

#[derive(Debug, Clone, Copy)]
pub struct Allocatable {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub storage_bytes: u64,
}

impl Fields<'_> {
    /// The value of a `fieldRef`; `None` for a path that does not exist.
    pub fn field(&self, path: &str) -> Option<String> {
        let meta = &self.pod.metadata;
        let spec = self.pod.spec.as_ref();
        let text = |value: Option<&String>| Some(value.cloned().unwrap_or_default());
        match path {
            "metadata.name" => text(meta.name.as_ref()),
            "metadata.namespace" => text(meta.namespace.as_ref()),
            "metadata.uid" => text(meta.uid.as_ref()),
            "metadata.labels" => Some(lines(meta.labels.as_ref())),
            "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
            "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
            "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
            "status.podIP" | "status.podIPs" => Some(self.pod_ip.to_string()),
            "status.hostIP" | "status.hostIPs" => Some(self.host_ip.to_string()),
            _ => {
                let (map, key) = subscript(path)?;
                let values = if map == "labels" { meta.labels.as_ref() } else { meta.annotations.as_ref() };
                text(values.and_then(|values| values.get(key)))
            }
        }
    }

    /// The value of a `resourceFieldRef`, in units of its divisor, rounded up.
    pub fn resource(&self, wanted: &core::ResourceFieldSelector, own: &core::Container) -> Option<String> {
        let named = wanted.container_name.as_deref().filter(|name| !name.is_empty());
        let container = match named {
            Some(name) => (0..).map_while(|index| Plan::container(self.pod, index)).find(|known| known.name == name)?,
            None => Cow::Borrowed(own),
        };
        let resources = container.resources.as_ref();
        let (limits, requests) =
            (resources.and_then(|r| r.limits.as_ref()), resources.and_then(|r| r.requests.as_ref()));
        let (list, resource) = wanted.resource.split_once('.')?;
        let list = match list {
            "limits" => limits,
            "requests" => requests,
            _ => return None,
        };
        let millis = match list.and_then(|list| millis(list.get(resource)?)) {
            Some(millis) => millis,
            None if wanted.resource.starts_with("requests.") => 0,
            None => self.allocatable.millis(resource)?,
        };
        let divisor = wanted.divisor.as_ref().and_then(millis_of).filter(|divisor| *divisor > 0).unwrap_or(1000);
        Some(millis.div_ceil(divisor).to_string())
    }
}

impl Allocatable {
    fn millis(&self, resource: &str) -> Option<u128> {
        match resource {
            "cpu" => Some(self.cpu_millis.into()),
            "memory" => Some(u128::from(self.memory_bytes) * 1000),
            "ephemeral-storage" => Some(u128::from(self.storage_bytes) * 1000),
            _ => None,
        }
    }
}

/// What asks for resources: a container, or a pod as a whole by its spec.
pub trait Asks {
    fn resources(&self) -> Option<&core::ResourceRequirements>;
}

impl Asks for core::Container {
    fn resources(&self) -> Option<&core::ResourceRequirements> {
        self.resources.as_ref()
    }
}

impl Asks for core::PodSpec {
    fn resources(&self) -> Option<&core::ResourceRequirements> {
        self.resources.as_ref()
    }
}

fn request(of: &impl Asks, resource: &str) -> Option<Quantity> {
    of.resources()?.requests.as_ref()?.get(resource)?.0.parse().ok()
}

fn limit(of: &impl Asks, resource: &str) -> Option<Quantity> {
    of.resources()?.limits.as_ref()?.get(resource)?.0.parse().ok()
}

/// A request, in thousandths of its unit.
pub fn request_millis(of: &impl Asks, resource: &str) -> Option<u64> {
    u64::try_from(request(of, resource)?.millis()).ok()
}

/// A limit, in thousandths of its unit.
pub fn limit_millis(of: &impl Asks, resource: &str) -> Option<u64> {
    u64::try_from(limit(of, resource)?.millis()).ok()
}

/// A request, in whole units.
pub fn request_units(of: &impl Asks, resource: &str) -> Option<u64> {
    u64::try_from(request(of, resource)?.units()).ok()
}

/// A limit, in whole units.
pub fn limit_units(of: &impl Asks, resource: &str) -> Option<u64> {
    u64::try_from(limit(of, resource)?.units()).ok()
}

fn millis(quantity: &ApiQuantity) -> Option<u128> {
    millis_of(quantity)
}

fn millis_of(quantity: &ApiQuantity) -> Option<u128> {
    u128::try_from(quantity.0.parse::<Quantity>().ok()?.millis()).ok()
}

/// `metadata.labels['key']` as (`labels`, `key`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("metadata.")?;
    let (map, rest) = rest.split_once("['")?;
    let key = rest.strip_suffix("']")?;
    matches!(map, "labels" | "annotations").then_some((map, key))
}

/// As downward API files show a map: one `key="value"` a line.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> core::Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "ns", "uid": "u", "labels": { "app": "web", "a/b": "1" } },
            "spec": { "nodeName": "n1", "containers": [{
                "name": "c", "resources": { "limits": { "cpu": "250m", "memory": "64Mi" } },
            }, { "name": "free" }] },
        }))
        .expect("a pod")
    }

    fn with<T>(act: impl FnOnce(Fields<'_>) -> T) -> T {
        let allocatable = Allocatable { cpu_millis: 2000, memory_bytes: 1 << 30, storage_bytes: 1 << 30 };
        let ip = |last| IpAddr::from([127, 64, 0, last]);
        act(Fields { pod: &pod(), pod_ip: ip(2), host_ip: ip(1), allocatable })
    }

    #[test]
    fn fields_by_path() {
        let cases = [
            ("metadata.name", Some("p")),
            ("metadata.labels['app']", Some("web")),
            ("metadata.labels['none']", Some("")),
            ("metadata.labels", Some("a/b=\"1\"\napp=\"web\"")),
            ("spec.nodeName", Some("n1")),
            ("status.podIP", Some("127.64.0.2")),
            ("status.hostIP", Some("127.64.0.1")),
            ("spec.nothing", None),
            ("metadata.finalizers['x']", None),
        ];
        for (path, value) in cases {
            assert_eq!(with(|fields| fields.field(path)).as_deref(), value, "{path}");
        }
    }

    #[test]
    fn resources_in_units_of_the_divisor_rounded_up() {
        let cases = [
            ("limits.cpu", None, 0, "1"),
            ("limits.cpu", Some("1m"), 0, "250"),
            ("limits.memory", Some("1Mi"), 0, "64"),
            ("limits.memory", Some("0"), 0, "67108864"),
            ("limits.cpu", Some("1m"), 1, "2000"),
            ("requests.memory", None, 1, "0"),
        ];
        for (resource, divisor, index, value) in cases {
            let wanted = core::ResourceFieldSelector {
                resource: resource.into(),
                divisor: divisor.map(|text| ApiQuantity(text.into())),
                container_name: None,
            };
            let pod = pod();
            let container = Plan::container(&pod, index).expect("a container");
            assert_eq!(with(|fields| fields.resource(&wanted, &container)).as_deref(), Some(value), "{resource}");
        }
    }
}

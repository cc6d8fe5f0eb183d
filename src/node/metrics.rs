//! What the node says of itself and of its pods in the Prometheus text format: `/metrics`,
//! `/metrics/resource` (the kubelet's, which metrics-server reads) and `/metrics/cadvisor` (what
//! dashboards are made of), with upstream's names and labels.

use std::time::SystemTime;

use super::context::Context;
use super::machine;
use super::summary::{PodSnapshot, Snapshot};
use super::usage::ContainerUsage;
use crate::telemetry::page::Page;

/// The period of the CPU limit, in microseconds, as cAdvisor tells it beside the quota.
const CPU_PERIOD_MICROS: u64 = 100_000;

/// The page behind `/metrics`.
pub fn own(context: &Context) -> String {
    let mut page = Page::default();
    page.family("kubelet_running_pods", "gauge", "Pods that have a worker on this node.");
    page.sample("kubelet_running_pods", &[], context.register.len() as f64);
    page.family("process_resident_memory_bytes", "gauge", "Resident memory of the node process.");
    page.sample("process_resident_memory_bytes", &[], machine::resident_bytes().unwrap_or(0) as f64);
    let refused = "coracle_network_policy_refused_total";
    page.family(refused, "counter", "Connections, requests and lookups that a NetworkPolicy refused.");
    page.sample(refused, &[], context.network.refused() as f64);
    page.into_text()
}

/// A figure of a container: its name, kind and help, and how it is found; `None` where it has none.
struct Figure(&'static str, &'static str, &'static str, fn(&ContainerUsage) -> Option<f64>);

/// The page behind `/metrics/resource`.
pub fn resource(snapshot: &Snapshot) -> String {
    const CONTAINERS: [Figure; 3] = [
        Figure(
            "container_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            |container| Some(container.cpu.as_secs_f64()),
        ),
        Figure(
            "container_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the container in bytes",
            |container| Some(container.memory_bytes as f64),
        ),
        Figure(
            "container_start_time_seconds",
            "gauge",
            "[STABLE] Start time of the container since unix epoch in seconds",
            |container| Some(epoch_seconds(container.about.started_at)),
        ),
    ];
    let mut page = Page::default();
    let at = Some(snapshot.at.as_millisecond());
    for Figure(name, kind, help, value) in CONTAINERS {
        page.family(name, kind, help);
        // A start is a fact of no moment.
        let at = at.filter(|_| name != "container_start_time_seconds");
        for (pod, container) in snapshot.containers() {
            let labels = [
                ("container", container.about.name.as_str()),
                ("namespace", &*pod.key.namespace),
                ("pod", &*pod.key.name),
            ];
            page.sample_at(name, &labels, value(container).unwrap_or(0.0), at);
        }
    }
    let machine = &snapshot.machine;
    page.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    );
    page.sample_at("node_cpu_usage_seconds_total", &[], machine.cpu.as_secs_f64(), at);
    page.family("node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes");
    page.sample_at("node_memory_working_set_bytes", &[], machine.memory.working_set as f64, at);
    page.family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    for pod in &snapshot.pods {
        page.sample_at("pod_cpu_usage_seconds_total", &pod.names(), pod.cpu().as_secs_f64(), at);
    }
    page.family("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes");
    for pod in &snapshot.pods {
        page.sample_at("pod_memory_working_set_bytes", &pod.names(), pod.memory_bytes() as f64, at);
    }
    page.family(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    page.sample("resource_scrape_error", &[], 0.0);
    page.into_text()
}

/// Of containers, as cAdvisor has them. The lives of one container are one series here, told apart by
/// the start time, so that a crash loop does not make a thousand.
const CADVISOR: &[Figure] = &[
    Figure(
        "container_cpu_cfs_throttled_seconds_total",
        "counter",
        "Total time duration the container has been throttled.",
        |container| container.about.cpu_limit_millis.map(|_| container.throttled.as_secs_f64()),
    ),
    Figure("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |container| {
        Some(container.cpu.as_secs_f64())
    }),
    Figure("container_memory_max_usage_bytes", "gauge", "Maximum memory usage recorded in bytes", |container| {
        Some(container.memory_peak_bytes as f64)
    }),
    Figure("container_memory_usage_bytes", "gauge", "Current memory usage in bytes.", |container| {
        Some(container.memory_bytes as f64)
    }),
    Figure("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |container| {
        Some(container.memory_bytes as f64)
    }),
    Figure(
        "container_oom_events_total",
        "counter",
        "Count of out of memory events observed for the container",
        |container| Some(container.ooms as f64),
    ),
    Figure("container_spec_cpu_period", "gauge", "CPU period of the container.", |container| {
        container.about.cpu_limit_millis.map(|_| CPU_PERIOD_MICROS as f64)
    }),
    Figure("container_spec_cpu_quota", "gauge", "CPU quota of the container.", |container| {
        Some(container.about.cpu_limit_millis? as f64 * (CPU_PERIOD_MICROS / 1000) as f64)
    }),
    Figure("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |container| {
        Some(container.about.memory_limit.unwrap_or(0) as f64)
    }),
    Figure(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        |container| Some(epoch_seconds(container.about.started_at)),
    ),
];

/// The page behind `/metrics/cadvisor`.
pub fn cadvisor(snapshot: &Snapshot) -> String {
    let mut page = Page::default();
    let at = Some(snapshot.at.as_millisecond());
    for Figure(name, kind, help, value) in CADVISOR {
        page.family(name, kind, help);
        // The one family that cAdvisor splits by processor.
        let by_cpu = *name == "container_cpu_usage_seconds_total";
        if let Some(value) = of_machine(snapshot, name) {
            page.sample_at(name, &labels(by_cpu, ["", "/", "", "", "", ""]), value, at);
        }
        for pod in &snapshot.pods {
            if let Some(value) = of_pod(pod, name) {
                let id = pod.cgroup();
                let labels = labels(by_cpu, ["", &id, "", "", &pod.key.namespace, &pod.key.name]);
                page.sample_at(name, &labels, value, at);
            }
        }
        for (pod, container) in snapshot.containers() {
            let Some(value) = value(container) else { continue };
            let about = &container.about;
            let own = about.id.strip_prefix("wasm://").unwrap_or(&about.id);
            let id = format!("{}/{own}", pod.cgroup());
            let values = [&about.name, &id, &about.image, own, &*pod.key.namespace, &*pod.key.name];
            page.sample_at(name, &labels(by_cpu, values), value, at);
        }
    }
    page.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    page.sample("machine_cpu_cores", &[], snapshot.cores as f64);
    page.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
    page.sample("machine_memory_bytes", &[], snapshot.machine.memory.total as f64);
    page.into_text()
}

/// cAdvisor's label set, sorted by name as its library writes it.
fn labels(by_cpu: bool, values: [&str; 6]) -> Vec<(&'static str, &str)> {
    let names = ["container", "id", "image", "name", "namespace", "pod"];
    let mut labels: Vec<(&str, &str)> = names.into_iter().zip(values).collect();
    if by_cpu {
        labels.insert(1, ("cpu", "total"));
    }
    labels
}

/// The families that the machine as a whole has.
fn of_machine(snapshot: &Snapshot, name: &str) -> Option<f64> {
    let memory = &snapshot.machine.memory;
    match name {
        "container_cpu_usage_seconds_total" => Some(snapshot.machine.cpu.as_secs_f64()),
        "container_memory_usage_bytes" => Some(memory.usage as f64),
        "container_memory_working_set_bytes" => Some(memory.working_set as f64),
        _ => None,
    }
}

/// The families that a pod has besides its containers.
fn of_pod(pod: &PodSnapshot, name: &str) -> Option<f64> {
    match name {
        "container_cpu_usage_seconds_total" => Some(pod.cpu().as_secs_f64()),
        "container_memory_usage_bytes" | "container_memory_working_set_bytes" => Some(pod.memory_bytes() as f64),
        _ => None,
    }
}

fn epoch_seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

impl Snapshot {
    fn containers(&self) -> impl Iterator<Item = (&PodSnapshot, &ContainerUsage)> {
        self.pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)))
    }
}

impl PodSnapshot {
    fn names(&self) -> [(&'static str, &str); 2] {
        [("namespace", &self.key.namespace), ("pod", &self.key.name)]
    }

    /// Where the kubelet would have put the pod; dashboards read the class off it.
    fn cgroup(&self) -> String {
        match self.qos.as_str() {
            "Guaranteed" => format!("/kubepods/pod{}", self.uid),
            other => format!("/kubepods/{}/pod{}", other.to_lowercase(), self.uid),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::super::machine::{Figures, Memory};
    use super::super::usage::About;
    use super::*;
    use crate::reconcile::ObjectKey;

    fn snapshot() -> Snapshot {
        let about = About {
            name: "web".into(),
            id: "wasm://u1.web.0".into(),
            image: "hello:1".into(),
            started_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1500),
            memory_limit: Some(1 << 20),
            cpu_limit_millis: Some(250),
        };
        let container = ContainerUsage {
            about,
            cpu: Duration::from_millis(2500),
            cpu_nanocores: 1,
            window: Duration::from_secs(5),
            throttled: Duration::from_millis(125),
            memory_bytes: 65_536,
            memory_peak_bytes: 131_072,
            ooms: 2,
        };
        Snapshot {
            node: "n1".into(),
            at: Timestamp::from_millisecond(1_000).expect("a time"),
            started_at: SystemTime::UNIX_EPOCH,
            machine: Figures {
                cpu: Duration::from_secs(100),
                memory: Memory { total: 1000, usage: 700, working_set: 600, rss: 200 },
                ..Figures::default()
            },
            cores: 2,
            pods: vec![PodSnapshot {
                key: ObjectKey::new("shop", "cart"),
                uid: "u1".into(),
                qos: "Burstable".into(),
                started_at: None,
                containers: vec![container],
            }],
        }
    }

    #[test]
    fn the_resource_page_is_what_metrics_server_reads() {
        let page = resource(&snapshot());
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            r#"container_cpu_usage_seconds_total{container="web",namespace="shop",pod="cart"} 2.5 1000"#,
            r#"container_memory_working_set_bytes{container="web",namespace="shop",pod="cart"} 65536 1000"#,
            r#"container_start_time_seconds{container="web",namespace="shop",pod="cart"} 1.5"#,
            "node_cpu_usage_seconds_total 100 1000",
            "node_memory_working_set_bytes 600 1000",
            r#"pod_cpu_usage_seconds_total{namespace="shop",pod="cart"} 2.5 1000"#,
            r#"pod_memory_working_set_bytes{namespace="shop",pod="cart"} 65536 1000"#,
            "resource_scrape_error 0",
        ] {
            assert!(page.lines().any(|known| known == line), "{line}\n{page}");
        }
    }

    #[test]
    fn the_cadvisor_page_has_its_label_sets() {
        let page = cadvisor(&snapshot());
        let container = r#"container="web""#;
        let rest =
            r#"id="/kubepods/burstable/podu1/u1.web.0",image="hello:1",name="u1.web.0",namespace="shop",pod="cart""#;
        for line in [
            format!(r#"container_cpu_usage_seconds_total{{{container},cpu="total",{rest}}} 2.5 1000"#),
            r#"container_cpu_usage_seconds_total{container="",cpu="total",id="/",image="",name="",namespace="",pod=""} 100 1000"#.to_owned(),
            r#"container_memory_working_set_bytes{container="",id="/kubepods/burstable/podu1",image="",name="",namespace="shop",pod="cart"} 65536 1000"#.to_owned(),
            format!("container_cpu_cfs_throttled_seconds_total{{{container},{rest}}} 0.125 1000"),
            format!("container_memory_max_usage_bytes{{{container},{rest}}} 131072 1000"),
            format!("container_oom_events_total{{{container},{rest}}} 2 1000"),
            format!("container_spec_cpu_quota{{{container},{rest}}} 25000 1000"),
            format!("container_spec_memory_limit_bytes{{{container},{rest}}} 1048576 1000"),
            "machine_cpu_cores 2".to_owned(),
        ] {
            assert!(page.lines().any(|known| known == line), "{line}\n{page}");
        }
    }
}

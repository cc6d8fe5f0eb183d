//! What the node says of itself in the Prometheus text format.

use super::context::Context;

/// The page behind `/metrics`.
pub fn text(context: &Context) -> String {
    let mut page = String::new();
    let mut gauge = |name: &str, help: &str, value: u64| {
        page.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"));
    };
    gauge("kubelet_running_pods", "Pods that have a worker on this node.", context.register.len() as u64);
    gauge("process_resident_memory_bytes", "Resident memory of the node process.", resident_bytes().unwrap_or(0));
    page
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

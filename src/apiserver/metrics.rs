//! `/metrics`: what the server does, in the Prometheus text format, under upstream's names.
//!
//! A series is a verb, a resource and an outcome: their number is that of the served kinds, whatever
//! clients send. Counting is one short lock a request.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use http::StatusCode;

use super::ApiServer;
use super::fairness::LevelFigures;
use super::registry::encoding;
use super::target::Target;
use crate::kinds::{KINDS, Kind, KindInfo};
use crate::telemetry::page::{Histogram, Page};

/// Upper bounds of the durations, in seconds: upstream's.
const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

/// More than all built-in kinds have; custom ones beyond are not counted.
const MAX_SERIES: usize = 20_000;

/// What requests have in common that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Series {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
}

#[derive(Debug, Clone)]
struct Counts {
    codes: BTreeMap<u16, u64>,
    durations: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        Self { codes: BTreeMap::new(), durations: Histogram::new(&BUCKETS) }
    }
}

/// All figures of requests.
#[derive(Default)]
pub struct Metrics {
    series: Mutex<HashMap<Series, Counts>>,
    reading: AtomicI64,
    pub(super) mutating: AtomicI64,
    long_running: AtomicI64,
}

/// A request under way. It counts as in flight until it is dropped.
pub struct Request<'a> {
    metrics: &'a Metrics,
    series: Series,
    long: bool,
    since: Instant,
}

impl Metrics {
    pub fn begin(&self, kind: &dyn Kind, target: &Target) -> Request<'_> {
        let series = Series::of(kind.info(), target);
        let long = target.is_long_running();
        let request = Request { metrics: self, series, long, since: Instant::now() };
        request.gauge().fetch_add(1, Ordering::Relaxed);
        request
    }
}

impl Request<'_> {
    fn gauge(&self) -> &AtomicI64 {
        match self.series.verb {
            _ if self.long => &self.metrics.long_running,
            "GET" | "LIST" => &self.metrics.reading,
            _ => &self.metrics.mutating,
        }
    }

    /// The request has been answered.
    pub fn end(self, code: StatusCode) {
        let took = self.since.elapsed();
        let mut series = self.metrics.series.lock().unwrap_or_else(PoisonError::into_inner);
        // Definitions come and go, and each brings series of its own.
        if series.len() >= MAX_SERIES && !series.contains_key(&self.series) {
            return;
        }
        let counts = series.entry(self.series).or_default();
        *counts.codes.entry(code.as_u16()).or_default() += 1;
        // A stream takes as long as its client likes.
        if !self.long {
            counts.durations.add(took);
        }
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.gauge().fetch_sub(1, Ordering::Relaxed);
    }
}

impl Series {
    fn of(info: &'static KindInfo, target: &Target) -> Self {
        let subresource = info.subresources.iter().find(|sub| sub.name == target.subresource);
        Self {
            verb: match &*target.verb {
                _ if subresource.is_some_and(|sub| sub.is_stream() || sub.is_proxy()) => "CONNECT",
                "get" => "GET",
                "list" => "LIST",
                "watch" => "WATCH",
                "create" => "POST",
                "update" => "PUT",
                "patch" => "PATCH",
                "delete" => "DELETE",
                "deletecollection" => "DELETECOLLECTION",
                _ => "OTHER",
            },
            group: info.group,
            version: info.version,
            resource: info.plural,
            subresource: subresource.map_or("", |sub| sub.name),
            scope: match (target.name.is_empty() && target.verb != "create", target.namespace.is_empty()) {
                (false, _) => "resource",
                (true, false) => "namespace",
                (true, true) => "cluster",
            },
        }
    }

    fn labels(&self) -> [(&'static str, &'static str); 7] {
        [
            ("component", "apiserver"),
            ("group", self.group),
            ("resource", self.resource),
            ("scope", self.scope),
            ("subresource", self.subresource),
            ("verb", self.verb),
            ("version", self.version),
        ]
    }
}

/// The whole page.
pub fn page(server: &ApiServer) -> String {
    let mut page = Page::default();
    requests(&mut page, &server.metrics);
    flows(&mut page, server);
    server.registry.figures.write(&mut page);
    page.family("apiserver_storage_objects", "gauge", "Number of stored objects, by kind.");
    let mut seen = Vec::new();
    for info in KINDS.iter().map(|kind| kind.info()) {
        // Two kinds may show the same objects.
        if seen.contains(&info.storage) {
            continue;
        }
        seen.push(info.storage);
        let resource =
            if info.group.is_empty() { info.plural.to_owned() } else { format!("{}.{}", info.plural, info.group) };
        let count = server.registry.store.count(&encoding::prefix(info, ""));
        page.sample("apiserver_storage_objects", &[("resource", &resource)], count as f64);
    }
    if let Some(bytes) = resident_bytes() {
        page.family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.");
        page.sample("process_resident_memory_bytes", &[], bytes as f64);
    }
    if let Some(more) = &server.more_metrics {
        more(&mut page);
    }
    page.into_text()
}

fn requests(page: &mut Page, metrics: &Metrics) {
    let series = metrics.series.lock().unwrap_or_else(PoisonError::into_inner);
    let mut series: Vec<(Series, Counts)> = series.iter().map(|(series, counts)| (*series, counts.clone())).collect();
    series.sort_by_key(|(series, _)| *series);
    page.family(
        "apiserver_request_total",
        "counter",
        "Counter of apiserver requests broken out for each verb, resource and code.",
    );
    for (series, counts) in &series {
        for (code, count) in &counts.codes {
            let code = code.to_string();
            let labels = [&[("code", code.as_str())], &series.labels()[..]].concat();
            page.sample("apiserver_request_total", &labels, *count as f64);
        }
    }
    let name = "apiserver_request_duration_seconds";
    page.family(name, "histogram", "Response latency distribution in seconds for each verb and resource.");
    for (series, counts) in &series {
        page.histogram(name, &series.labels(), &counts.durations);
    }
    page.family("apiserver_current_inflight_requests", "gauge", "Requests that are being answered.");
    for (kind, gauge) in [("mutating", &metrics.mutating), ("readOnly", &metrics.reading)] {
        let count = gauge.load(Ordering::Relaxed);
        page.sample("apiserver_current_inflight_requests", &[("request_kind", kind)], count as f64);
    }
    page.family("apiserver_longrunning_requests", "gauge", "Requests that stay open: watches, logs, streams.");
    page.sample("apiserver_longrunning_requests", &[], metrics.long_running.load(Ordering::Relaxed) as f64);
}

/// A figure of a priority level: its name, its type, and how it is found.
type Gauge = (&'static str, &'static str, fn(&LevelFigures) -> f64);

fn flows(page: &mut Page, server: &ApiServer) {
    let levels = server.registry.fairness.figures();
    let gauges: [Gauge; 4] = [
        ("apiserver_flowcontrol_nominal_limit_seats", "gauge", |level| level.nominal as f64),
        ("apiserver_flowcontrol_current_executing_requests", "gauge", |level| level.executing as f64),
        ("apiserver_flowcontrol_current_inqueue_requests", "gauge", |level| level.waiting as f64),
        ("apiserver_flowcontrol_dispatched_requests_total", "counter", |level| level.dispatched as f64),
    ];
    for (name, kind, value) in gauges {
        page.family(name, kind, "Requests of a priority level.");
        for level in &levels {
            page.sample(name, &[("priority_level", &level.name)], value(level));
        }
    }
    let name = "apiserver_flowcontrol_rejected_requests_total";
    page.family(name, "counter", "Requests that got no seat.");
    for level in &levels {
        for (reason, count) in level.refused {
            page.sample(name, &[("priority_level", level.name.as_str()), ("reason", reason)], count as f64);
        }
    }
}

/// Of this process; `None` where there is no `/proc`.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::pod::Pod;

    #[test]
    fn requests_are_counted_by_what_they_ask_and_get() {
        let metrics = Metrics::default();
        let target =
            Target { verb: "list".into(), resource: "pods".into(), namespace: "shop".into(), ..Target::default() };
        let request = metrics.begin(&Pod, &target);
        assert_eq!(metrics.reading.load(Ordering::Relaxed), 1);
        request.end(StatusCode::OK);
        metrics.begin(&Pod, &target).end(StatusCode::TOO_MANY_REQUESTS);
        drop(metrics.begin(&Pod, &Target { verb: "watch".into(), ..target }));
        assert_eq!(metrics.reading.load(Ordering::Relaxed) + metrics.long_running.load(Ordering::Relaxed), 0);
        let mut page = Page::default();
        requests(&mut page, &metrics);
        let page = page.into_text();
        let labels = r#"component="apiserver",group="",resource="pods",scope="namespace",subresource="",verb="LIST",version="v1""#;
        for line in [
            format!("apiserver_request_total{{code=\"200\",{labels}}} 1"),
            format!("apiserver_request_total{{code=\"429\",{labels}}} 1"),
            format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 2"),
            format!("apiserver_request_duration_seconds_count{{{labels}}} 2"),
            "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 0".to_owned(),
        ] {
            assert!(page.lines().any(|known| known == line), "{line}\n{page}");
        }
    }
}

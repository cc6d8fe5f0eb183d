//! What writes cost at the store, under the names that upstream gives its requests to etcd. Reads are not there:
//! they are answered from memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::kinds::KindInfo;
use crate::store::{Error, Expect};
use crate::telemetry::page::{Histogram, Page};

/// Upper bounds in seconds: upstream's, and below them those that a disk of today needs.
const BOUNDS: [f64; 16] =
    [0.0005, 0.001, 0.002, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 15.0, 60.0];

/// Operation, group and resource. Custom kinds are counted together, so that there are as many as built-in ones.
type Series = (&'static str, &'static str, &'static str);

/// The writes so far.
#[derive(Debug, Default)]
pub struct Figures(Mutex<BTreeMap<Series, Counts>>);

#[derive(Debug, Clone)]
struct Counts {
    took: Histogram,
    total: u64,
    failed: u64,
}

/// `create`, `update` or `delete`.
pub fn operation(expect: Expect, deletes: bool) -> &'static str {
    match (expect, deletes) {
        (_, true) => "delete",
        (Expect::Absent, false) => "create",
        (Expect::Revision(_), false) => "update",
    }
}

impl Figures {
    pub fn count(&self, info: &'static KindInfo, operation: &'static str, took: Duration, result: &Result<u64, Error>) {
        let (group, resource) = match info.own_plural() {
            "" => ("", "customresources"),
            resource => (info.group, resource),
        };
        let mut series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Counts { took: Histogram::new(&BOUNDS), total: 0, failed: 0 };
        let counts = series.entry((operation, group, resource)).or_insert_with(new);
        counts.took.add(took);
        counts.total += 1;
        // That somebody else was quicker is an answer.
        counts.failed += u64::from(result.as_ref().is_err_and(|error| !matches!(error, Error::Conflict { .. })));
    }

    pub fn write(&self, page: &mut Page) {
        let series = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let labels = |(operation, group, resource): &Series| {
            [("operation", *operation), ("group", *group), ("resource", *resource)]
        };
        let name = "etcd_request_duration_seconds";
        page.family(name, "histogram", "Latency of writes to the store in seconds for each operation and resource.");
        for (key, counts) in &series {
            page.histogram(name, &labels(key), &counts.took);
        }
        page.family("etcd_requests_total", "counter", "Writes to the store for each operation and resource.");
        for (key, counts) in &series {
            page.sample("etcd_requests_total", &labels(key), counts.total as f64);
        }
        page.family("etcd_request_errors_total", "counter", "Writes that the store could not make.");
        for (key, counts) in &series {
            page.sample("etcd_request_errors_total", &labels(key), counts.failed as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kind;
    use crate::kinds::pod::Pod;

    #[test]
    fn writes_are_counted_by_what_they_do() {
        let figures = Figures::default();
        let took = Duration::from_micros(700);
        figures.count(Pod.info(), operation(Expect::Absent, false), took, &Ok(1));
        figures.count(Pod.info(), operation(Expect::Absent, false), took, &Err(Error::Conflict { current: None }));
        figures.count(Pod.info(), operation(Expect::Revision(1), true), took, &Err(Error::Broken("it".into())));
        let mut page = Page::default();
        figures.write(&mut page);
        let text = page.into_text();
        for line in [
            r#"etcd_request_duration_seconds_bucket{operation="create",group="",resource="pods",le="0.0005"} 0"#,
            r#"etcd_request_duration_seconds_bucket{operation="create",group="",resource="pods",le="0.001"} 2"#,
            r#"etcd_requests_total{operation="create",group="",resource="pods"} 2"#,
            r#"etcd_request_errors_total{operation="create",group="",resource="pods"} 0"#,
            r#"etcd_request_errors_total{operation="delete",group="",resource="pods"} 1"#,
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
    }
}

//! What work queues do, under the names that client-go gives it: `workqueue_*`, by the controller's name.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::queue::Queue;
use crate::telemetry::page::{Histogram, Page};

/// Upper bounds in seconds: client-go's.
const BOUNDS: [f64; 12] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0];

/// What a queue has done since it was made.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    /// Keys that came and did not wait already.
    pub adds: u64,
    /// Keys that came back because they had failed.
    pub retries: u64,
    /// How long keys waited.
    pub queued: Histogram,
    /// How long keys were worked on.
    pub worked: Histogram,
}

impl Default for Figures {
    fn default() -> Self {
        Self { adds: 0, retries: 0, queued: Histogram::new(&BOUNDS), worked: Histogram::new(&BOUNDS) }
    }
}

/// How a queue stands now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// How many keys wait.
    pub depth: usize,
    /// For how long the keys have been worked on that are being worked on, together.
    pub unfinished: Duration,
    /// The longest of them.
    pub longest: Duration,
}

/// The queues of a process, by the names of their controllers. Clones are handles on the same list.
#[derive(Debug, Clone, Default)]
pub struct WorkQueues(Arc<Mutex<Vec<(&'static str, Queue)>>>);

/// One of the figures of [`write`](WorkQueues::write) that are a number: its name, kind and help, and how it is found.
type Number = (&'static str, &'static str, &'static str, fn(&Figures, &Moment) -> f64);
/// One that is a histogram.
type Times = (&'static str, &'static str, fn(&Figures) -> &Histogram);

const NUMBERS: [Number; 5] = [
    ("workqueue_depth", "gauge", "Current depth of workqueue", |_, now| now.depth as f64),
    ("workqueue_adds_total", "counter", "Total number of adds handled by workqueue", |all, _| all.adds as f64),
    ("workqueue_retries_total", "counter", "Total number of retries handled by workqueue", |all, _| all.retries as f64),
    (
        "workqueue_unfinished_work_seconds",
        "gauge",
        "How many seconds of work has done that is in progress and hasn't been observed by work_duration.",
        |_, now| now.unfinished.as_secs_f64(),
    ),
    (
        "workqueue_longest_running_processor_seconds",
        "gauge",
        "How many seconds has the longest running processor for workqueue been running.",
        |_, now| now.longest.as_secs_f64(),
    ),
];

const TIMES: [Times; 2] = [
    (
        "workqueue_queue_duration_seconds",
        "How long in seconds an item stays in workqueue before being requested.",
        |all| &all.queued,
    ),
    ("workqueue_work_duration_seconds", "How long in seconds processing an item from workqueue takes.", |all| {
        &all.worked
    }),
];

impl WorkQueues {
    /// A new queue, counted under `name`.
    pub(super) fn make(&self, name: &'static str) -> Queue {
        let queue = Queue::default();
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|(known, _)| *known != name);
        queues.push((name, queue.clone()));
        queue
    }

    /// Writes all of it onto a page.
    pub fn write(&self, page: &mut Page) {
        let queues = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all: Vec<_> = queues.iter().map(|(name, queue)| (*name, queue.figures())).collect();
        for (figure, kind, help, value) in NUMBERS {
            page.family(figure, kind, help);
            for (name, (figures, moment)) in &all {
                page.sample(figure, &[("name", name)], value(figures, moment));
            }
        }
        for (figure, help, value) in TIMES {
            page.family(figure, "histogram", help);
            for (name, (figures, _)) in &all {
                page.histogram(figure, &[("name", name)], value(figures));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::ObjectKey;

    #[test]
    fn queues_are_shown_by_their_names() {
        let queues = WorkQueues::default();
        queues.make("deployment").add(ObjectKey::new("shop", "web"));
        queues.make("job");
        let mut page = Page::default();
        queues.write(&mut page);
        let text = page.into_text();
        for line in [
            r#"workqueue_depth{name="deployment"} 1"#,
            r#"workqueue_adds_total{name="deployment"} 1"#,
            r#"workqueue_adds_total{name="job"} 0"#,
            r#"workqueue_work_duration_seconds_bucket{name="job",le="0.00000001"} 0"#,
            r#"workqueue_queue_duration_seconds_count{name="deployment"} 0"#,
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
    }
}

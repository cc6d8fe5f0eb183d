//! When a pod's status is written. Pure bookkeeping; the worker does the writing.
//!
//! One write of a pod is in flight at a time, and the next carries whatever has become true meanwhile.
//! A picture that is about to change by itself (a container being started, a first probe on its way) is
//! held back a moment: a pod that starts in a millisecond is told of once, as ready.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use tokio::time::Instant;

/// How long a picture that is about to change may be held back.
const HOLD: Duration = Duration::from_millis(25);
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// While the server is away. Short, for the truth is to be there as soon as the server is.
const RETRY_CAP: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct Writer {
    /// What the API has, as far as is known.
    pub stored: Option<Box<core::PodStatus>>,
    dirty_since: Option<Instant>,
    in_flight: bool,
    retry_at: Option<Instant>,
    failures: u32,
    /// The revision of the last own write: older news of the pod say nothing about it.
    written: u64,
}

impl Writer {
    pub fn new(stored: Option<core::PodStatus>) -> Writer {
        Writer { stored: stored.map(Box::new), ..Writer::default() }
    }

    /// The picture may have changed.
    pub fn touch(&mut self, now: Instant) {
        self.dirty_since.get_or_insert(now);
    }

    /// The API shows the pod like this, as of `revision`.
    pub fn shown(&mut self, status: Option<&core::PodStatus>, revision: u64, now: Instant) {
        // While a write is in flight its own outcome tells more than news from before it.
        if revision >= self.written && !self.in_flight {
            self.stored = status.cloned().map(Box::new);
        }
        self.touch(now);
    }

    /// When to write, if nothing else happens.
    pub fn due(&self, unsettled: bool) -> Option<Instant> {
        let since = self.dirty_since.filter(|_| !self.in_flight)?;
        let settled = if unsettled { since + HOLD } else { since };
        Some(self.retry_at.map_or(settled, |retry| retry.max(settled)))
    }

    /// All that is true has been written.
    pub fn is_clean(&self) -> bool {
        self.dirty_since.is_none() && !self.in_flight
    }

    /// A write begins. It carries all that is true now.
    pub fn begin(&mut self) {
        self.in_flight = true;
        self.dirty_since = None;
    }

    /// There is nothing to write after all.
    pub fn nothing_new(&mut self) {
        self.dirty_since = None;
    }

    pub fn wrote(&mut self, status: core::PodStatus, revision: u64) {
        self.in_flight = false;
        self.written = revision;
        self.stored = Some(Box::new(status));
        (self.failures, self.retry_at) = (0, None);
    }

    /// The server did not take it; it is tried again.
    pub fn failed(&mut self, now: Instant) {
        self.in_flight = false;
        let wait = RETRY_FIRST.saturating_mul(2_u32.saturating_pow(self.failures.min(10))).min(RETRY_CAP);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + wait);
        self.touch(now);
    }

    /// The pod is not there to be written about.
    pub fn vanished(&mut self) {
        self.in_flight = false;
        self.dirty_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: &str) -> core::PodStatus {
        core::PodStatus { phase: Some(phase.to_owned()), ..Default::default() }
    }

    #[test]
    fn a_picture_in_motion_is_held_back_a_moment() {
        let now = Instant::now();
        let mut writer = Writer::new(None);
        assert_eq!(writer.due(false), None);
        writer.touch(now);
        writer.touch(now + HOLD);
        assert_eq!((writer.due(false), writer.due(true)), (Some(now), Some(now + HOLD)));
    }

    #[test]
    fn one_write_at_a_time_and_what_came_meanwhile_after_it() {
        let now = Instant::now();
        let mut writer = Writer::new(None);
        writer.touch(now);
        writer.begin();
        writer.touch(now);
        assert_eq!(writer.due(false), None);
        writer.wrote(status("Running"), 7);
        assert_eq!(writer.due(false), Some(now));
        assert!(!writer.is_clean());
    }

    #[test]
    fn failures_are_retried_with_pauses_to_a_cap() {
        let now = Instant::now();
        let mut writer = Writer::new(None);
        writer.touch(now);
        for wait in [50, 100, 200, 400, 800, 1000, 1000] {
            writer.begin();
            writer.failed(now);
            assert_eq!(writer.due(false), Some(now + Duration::from_millis(wait)));
        }
    }

    #[test]
    fn news_older_than_the_last_write_say_nothing() {
        let now = Instant::now();
        let mut writer = Writer::new(None);
        writer.begin();
        writer.wrote(status("Running"), 7);
        writer.shown(Some(&status("Pending")), 6, now);
        assert_eq!(writer.stored.as_deref(), Some(&status("Running")));
        writer.shown(Some(&status("Failed")), 8, now);
        assert_eq!(writer.stored.as_deref(), Some(&status("Failed")));
    }
}

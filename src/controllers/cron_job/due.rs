//! Which moment of a schedule is due: the last one that has passed, unless it is too long ago.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus};

use crate::kinds::cron::Schedule;

/// From this many missed moments on, something is wrong with the clock or the deadline.
const MANY_MISSED: i64 = 100;

/// What follows from the time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The moment for which a Job is to be made.
    pub now: Option<Timestamp>,
    /// When to look again.
    pub next: Option<Timestamp>,
    pub too_many_missed: bool,
}

impl Due {
    pub(super) fn of(
        cron_job: &CronJob,
        status: &CronJobStatus,
        now: Timestamp,
        schedule: &Schedule,
        zone: &TimeZone,
    ) -> Self {
        let created = cron_job.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
        let last = status.last_schedule_time.as_ref().map_or(created, |t| t.0);
        let deadline = cron_job.spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        // What could not start in time any more is not looked at.
        let earliest = deadline.and_then(|deadline| now.checked_sub(deadline).ok()).map_or(last, |at| at.max(last));
        let (found, missed) = latest(earliest, now, schedule, zone);
        let next = schedule.next(now, zone);
        Self { now: found, next, too_many_missed: missed > MANY_MISSED && deadline.is_none() }
    }
}

/// The latest moment after `earliest` that has come, and about how many there were.
fn latest(earliest: Timestamp, now: Timestamp, schedule: &Schedule, zone: &TimeZone) -> (Option<Timestamp>, i64) {
    let next = |after: Timestamp| schedule.next(after, zone);
    let Some(first) = next(earliest).filter(|first| *first <= now) else { return (None, 0) };
    let Some(second) = next(first).filter(|second| *second <= now) else { return (Some(first), 1) };
    // Moments need not be evenly spaced: jump to about where the last one is, and walk from there.
    let period = second.as_second() - first.as_second();
    let passed = (now.as_second() - first.as_second()) / period.max(1);
    let jump = SignedDuration::from_secs(passed.saturating_sub(2).max(0) * period);
    let mut found = second;
    let mut at = first.checked_add(jump).unwrap_or(first);
    while let Some(moment) = next(at).filter(|moment| *moment <= now) {
        found = found.max(moment);
        at = moment;
    }
    (Some(found), passed + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_of_the_missed_moments_is_due() {
        let at = |text: &str| -> Timestamp { text.parse().expect("a time") };
        let cases = [
            ("*/10 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:09:00Z", None, 0),
            ("*/10 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:10:00Z", Some("2026-01-01T00:10:00Z"), 1),
            ("*/10 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T05:55:00Z", Some("2026-01-01T05:50:00Z"), 35),
            // Unevenly spaced: weekdays at nine.
            ("0 9 * * 1-5", "2026-01-01T10:00:00Z", "2026-01-12T08:00:00Z", Some("2026-01-09T09:00:00Z"), 4),
            ("0 0 31 2 *", "2026-01-01T00:00:00Z", "2026-12-01T00:00:00Z", None, 0),
        ];
        for (text, earliest, now, due, missed) in cases {
            let schedule = Schedule::parse(text).expect(text);
            let found = latest(at(earliest), at(now), &schedule, &TimeZone::UTC);
            assert_eq!(found, (due.map(at), missed), "{text}");
        }
    }
}

//! How long to wait before trying again, and how Go would print it.

use std::time::Duration;

/// The first wait after a second failure in a row. Starting a container takes microseconds, so it can
/// be tried again long before a person has noticed.
const CRASH_BASE: Duration = Duration::from_millis(10);
const CRASH_CAP: Duration = Duration::from_secs(300);
/// A refused start waits for somebody to change something: an image file, a ConfigMap.
const REFUSED_BASE: Duration = Duration::from_millis(500);
const REFUSED_CAP: Duration = Duration::from_secs(10);

/// After `streak` earlier failures in a row: at once, 10 ms, 20 ms, … 5 min.
pub fn crashed(streak: u32) -> Duration {
    match streak.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => doubled(CRASH_BASE, doublings, CRASH_CAP),
    }
}

/// After `failures` (from 1) failures in a row to get a container started: 500 ms, 1 s, … 10 s.
pub fn refused(failures: u32) -> Duration {
    doubled(REFUSED_BASE, failures.saturating_sub(1), REFUSED_CAP)
}

fn doubled(base: Duration, doublings: u32, cap: Duration) -> Duration {
    base.checked_mul(2_u32.saturating_pow(doublings.min(31))).unwrap_or(cap).min(cap)
}

/// As Go prints a duration, which clients of Kubernetes read: `10ms`, `1.28s`, `2m40s`, `5m0s`.
pub fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let millis = u64::from(duration.subsec_millis());
    let fraction = match format!("{millis:03}").trim_end_matches('0') {
        "" => String::new(),
        digits => format!(".{digits}"),
    };
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0) if millis > 0 => format!("{millis}ms"),
        (0, 0, s) => format!("{s}{fraction}s"),
        (0, m, s) => format!("{m}m{s}{fraction}s"),
        (h, m, s) => format!("{h}h{m}m{s}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_then_waits_double_to_a_cap() {
        let waits: Vec<u64> =
            (0..5).map(|streak| u64::try_from(crashed(streak).as_millis()).unwrap_or(u64::MAX)).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80]);
        assert_eq!(crashed(1000), CRASH_CAP);
        assert_eq!(refused(1), REFUSED_BASE);
        assert_eq!(refused(u32::MAX), REFUSED_CAP);
    }

    #[test]
    fn durations_read_as_go_prints_them() {
        for (millis, text) in
            [(0, "0s"), (10, "10ms"), (1280, "1.28s"), (10_000, "10s"), (160_000, "2m40s"), (300_000, "5m0s")]
        {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}

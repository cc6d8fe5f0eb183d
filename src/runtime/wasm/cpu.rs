//! How much processor time a container uses, and how much it may.
//!
//! A guest that is polled holds a thread of the host; the processor time of each such poll is charged
//! to the container. With a limit, tokens flow into a bucket at the limit's rate and each poll takes
//! out what it used, running into debt by at most one tick; while in debt the container's guests are
//! not polled. As with the kernel's own controller, a burst of 100 ms worth of the limit is free.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The period over which the limit holds on average.
const PERIOD: Duration = Duration::from_millis(100);
/// A throttled guest resumes when this much has flowed in; resuming for less would be all overhead.
const RESUME_AT: Duration = Duration::from_millis(2);

/// What a container has used of the processor, and its limit.
pub struct Meter {
    used_nanos: AtomicU64,
    throttled_nanos: AtomicU64,
    /// Its own limit, and that which it shares with its pod.
    limits: [Option<Arc<Limit>>; 2],
}

/// A limit, which several containers may share.
pub struct Limit(Mutex<Bucket>);

impl Limit {
    /// Of so many thousandths of a core.
    pub fn new(millis: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Bucket::new(millis, Instant::now()))))
    }

    fn charge(&self, used: Duration) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).charge(Instant::now(), used)
    }
}

impl Meter {
    pub fn new(limit_millis: Option<u64>, of_pod: Option<Arc<Limit>>) -> Self {
        let limits = [limit_millis.map(Limit::new), of_pod];
        Self { used_nanos: AtomicU64::new(0), throttled_nanos: AtomicU64::new(0), limits }
    }

    /// Charges one poll. `Some(d)`: the container is in debt and must not run for `d`.
    pub fn charge(&self, used: Duration) -> Option<Duration> {
        self.used_nanos.fetch_add(nanos(used), Relaxed);
        self.limits.iter().flatten().filter_map(|limit| limit.charge(used)).max()
    }

    /// How long the container must still wait, as of now.
    pub fn debt(&self) -> Option<Duration> {
        self.limits.iter().flatten().filter_map(|limit| limit.charge(Duration::ZERO)).max()
    }

    /// Records that a guest was held back.
    pub fn note_throttled(&self, held: Duration) {
        self.throttled_nanos.fetch_add(nanos(held), Relaxed);
    }

    pub fn used(&self) -> Duration {
        Duration::from_nanos(self.used_nanos.load(Relaxed))
    }

    pub fn throttled(&self) -> Duration {
        Duration::from_nanos(self.throttled_nanos.load(Relaxed))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Processor time this thread has used since it began. Wall time would charge a guest for the moments
/// in which the kernel ran somebody else.
pub fn thread_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Lets this thread give way to others: on Linux a thread has a niceness of its own. Where that fails it is only
/// too little polite.
pub fn be_nice(niceness: i32) {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), niceness) {
        tracing::debug!("a thread of guests or compilers runs at normal priority: {error}");
    }
}

/// A token bucket in nanoseconds of processor time.
#[derive(Debug)]
struct Bucket {
    limit_millis: u64,
    /// Below zero: in debt.
    tokens: i128,
    filled_at: Instant,
}

impl Bucket {
    fn new(limit_millis: u64, now: Instant) -> Self {
        let mut bucket = Self { limit_millis: limit_millis.max(1), tokens: 0, filled_at: now };
        bucket.tokens = bucket.capacity();
        bucket
    }

    fn capacity(&self) -> i128 {
        PERIOD.as_nanos() as i128 * i128::from(self.limit_millis) / 1000
    }

    fn charge(&mut self, now: Instant, used: Duration) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.filled_at).as_nanos() as i128;
        self.filled_at = self.filled_at.max(now);
        let flowed_in = elapsed * i128::from(self.limit_millis) / 1000;
        self.tokens = (self.tokens + flowed_in).min(self.capacity()) - used.as_nanos() as i128;
        if self.tokens > 0 {
            return None;
        }
        let missing = self.capacity().min(RESUME_AT.as_nanos() as i128) - self.tokens;
        let wait = missing * 1000 / i128::from(self.limit_millis);
        Some(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_of_one_period_is_free_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(500, start);
        assert_eq!(bucket.charge(start, 49 * MS), None);
        // One millisecond of debt and two to resume, at half a core.
        assert_eq!(bucket.charge(start, 2 * MS), Some(6 * MS));
        assert_eq!(bucket.charge(start + 6 * MS, Duration::ZERO), None);
    }

    #[test]
    fn over_a_second_a_looping_guest_gets_its_limit() {
        for limit in [20, 100, 250, 1000] {
            let start = Instant::now();
            let mut bucket = Bucket::new(limit, start);
            let (mut now, mut used) = (start, Duration::ZERO);
            while now < start + Duration::from_secs(1) {
                used += 2 * MS;
                now += 2 * MS;
                now += bucket.charge(now, 2 * MS).unwrap_or_default();
            }
            let share = used.as_millis() as u64;
            let most = limit + limit / 10 + 5;
            assert!((limit..=most).contains(&share), "limit {limit}m used {share} ms of a second");
        }
    }

    #[test]
    fn idle_time_earns_no_more_than_one_period() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, start);
        let later = start + Duration::from_secs(60);
        assert_eq!(bucket.charge(later, 99 * MS), None);
        assert!(bucket.charge(later, MS).is_some());
    }

    #[test]
    fn a_clock_that_steps_back_is_no_income() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut bucket = Bucket::new(1000, start);
        assert!(bucket.charge(start, 100 * MS).is_some());
        assert!(bucket.charge(start - Duration::from_secs(5), Duration::ZERO).is_some());
        assert!(bucket.charge(start, Duration::ZERO).is_some());
    }

    #[test]
    fn without_a_limit_only_the_use_is_counted() {
        let meter = Meter::new(None, None);
        assert_eq!(meter.charge(Duration::from_secs(5)), None);
        assert_eq!(meter.used(), Duration::from_secs(5));
    }

    #[test]
    fn the_containers_of_a_pod_share_its_limit() {
        let pod = Limit::new(1000);
        let (one, other) = (Meter::new(None, Some(pod.clone())), Meter::new(Some(2000), Some(pod)));
        assert_eq!(one.charge(60 * MS), None);
        assert!(other.charge(60 * MS).is_some(), "of the 100 that one period is worth");
        assert!(one.debt().is_some());
        assert_eq!((one.used(), other.used()), (60 * MS, 60 * MS));
    }
}

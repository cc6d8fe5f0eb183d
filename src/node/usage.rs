//! What the containers of a pod have used, over all their lives.
//!
//! A runtime counts for one life at a time, and a restart would make its counters fall; whoever reads
//! rates off them would see nonsense. So the lives that ended are added up here, and what is told only
//! rises for as long as the pod is on the node. A life that ended may still have calls in flight: it is
//! asked until they are gone.
//!
//! Rates are over the last [`MARK_PERIOD`] or two, whoever asks and how often.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use crate::runtime::{Container, Usage};

/// How often the counters are marked, so that rates are of the recent past. Upstream's kubelet looks
/// every ten seconds.
const MARK_PERIOD: Duration = Duration::from_secs(5);
/// Ended lives that are still asked: the end of a life is seen a moment before the last poll of its
/// guests is charged.
const RECENT_LIVES: usize = 2;

/// The rate of a counter of processor time.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    older: Mark,
    newer: Mark,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    cpu: Duration,
}

impl Rate {
    /// Counting begins now, at `cpu`.
    pub fn begin(at: Instant, cpu: Duration) -> Self {
        let mark = Mark { at, cpu };
        Self { older: mark, newer: mark }
    }

    /// Remembers the counter as it is now. Called every [`MARK_PERIOD`].
    pub fn mark(&mut self, at: Instant, cpu: Duration) {
        self.older = std::mem::replace(&mut self.newer, Mark { at, cpu });
    }

    /// Billionths of a core, and the time over which they are the average.
    pub fn nanocores(&self, at: Instant, cpu: Duration) -> (u64, Duration) {
        let window = at.saturating_duration_since(self.older.at);
        let used = cpu.saturating_sub(self.older.cpu);
        let rate = (used.as_nanos() * 1_000_000_000).checked_div(window.as_nanos()).unwrap_or(0);
        (u64::try_from(rate).unwrap_or(u64::MAX), window)
    }
}

/// One container, as those who ask for metrics see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerUsage {
    pub about: About,
    /// Over all lives.
    pub cpu: Duration,
    pub cpu_nanocores: u64,
    /// What the rate is the average of.
    pub window: Duration,
    /// Over all lives.
    pub throttled: Duration,
    /// What live instances hold now.
    pub memory_bytes: u64,
    /// The most that was held at a time in the present or last life.
    pub memory_peak_bytes: u64,
    /// Lives that ended because they asked for too much memory.
    pub ooms: u64,
}

/// A container's present or last life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub name: String,
    /// As the status tells it: `wasm://…`.
    pub id: String,
    pub image: String,
    pub started_at: SystemTime,
    pub memory_limit: Option<u64>,
    pub cpu_limit_millis: Option<u64>,
}

/// The containers of a pod.
#[derive(Default)]
pub struct PodUsage {
    ledgers: Mutex<Vec<Ledger>>,
}

/// One container over all its lives.
struct Ledger {
    about: About,
    /// Of the lives that are not asked any more.
    past: Past,
    /// The present or last life is the last.
    lives: Vec<Arc<dyn Container>>,
    ooms: u64,
    rate: Rate,
}

#[derive(Default)]
struct Past {
    cpu: Duration,
    throttled: Duration,
}

impl PodUsage {
    /// A life begins.
    pub fn begin(&self, about: About, container: Arc<dyn Container>, at: Instant) {
        let mut ledgers = self.lock();
        if let Some(ledger) = ledgers.iter_mut().find(|ledger| ledger.about.name == about.name) {
            ledger.about = about;
            ledger.lives.push(container);
            return ledger.forget_old_lives();
        }
        let rate = Rate::begin(at, Duration::ZERO);
        ledgers.push(Ledger { about, past: Past::default(), lives: vec![container], ooms: 0, rate });
    }

    /// A life ended for want of memory.
    pub fn out_of_memory(&self, container: &str) {
        if let Some(ledger) = self.lock().iter_mut().find(|ledger| ledger.about.name == container) {
            ledger.ooms += 1;
        }
    }

    /// The pod has ended.
    pub fn clear(&self) {
        let ledgers = std::mem::take(&mut *self.lock());
        drop(ledgers);
    }

    /// Remembers the counters as they are now, for rates.
    pub fn mark(&self, at: Instant) {
        for ledger in self.lock().iter_mut() {
            let cpu = ledger.cpu();
            ledger.rate.mark(at, cpu);
        }
    }

    pub fn sample(&self, at: Instant) -> Vec<ContainerUsage> {
        self.lock().iter().map(|ledger| ledger.sample(at)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Ledger>> {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Adds up lives that can use nothing any more. Those with calls in flight stay, and are no more
    /// than the host has instances.
    fn forget_old_lives(&mut self) {
        let old = self.lives.len().saturating_sub(1 + RECENT_LIVES);
        let mut index = 0;
        for _ in 0..old {
            let usage = self.lives[index].usage();
            if usage.instances > 0 {
                index += 1;
                continue;
            }
            self.past.cpu += usage.cpu;
            self.past.throttled += usage.throttled;
            self.lives.remove(index);
        }
    }

    fn cpu(&self) -> Duration {
        self.past.cpu + self.lives.iter().map(|life| life.usage().cpu).sum::<Duration>()
    }

    fn sample(&self, at: Instant) -> ContainerUsage {
        let lives: Vec<Usage> = self.lives.iter().map(|life| life.usage()).collect();
        let cpu = self.past.cpu + lives.iter().map(|life| life.cpu).sum::<Duration>();
        let (cpu_nanocores, window) = self.rate.nanocores(at, cpu);
        ContainerUsage {
            about: self.about.clone(),
            cpu,
            cpu_nanocores,
            window,
            throttled: self.past.throttled + lives.iter().map(|life| life.throttled).sum::<Duration>(),
            memory_bytes: lives.iter().map(|life| life.memory_bytes).sum(),
            memory_peak_bytes: lives.last().map_or(0, |life| life.memory_peak_bytes),
            ooms: self.ooms,
        }
    }
}

/// Marks all counters of the node from time to time, until shutdown.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(MARK_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            at = ticks.tick() => {
                context.machine.mark(at);
                context.register.each(|_, entry| entry.usage.mark(at));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::runtime::RunState;
    use crate::wire::HttpService;

    /// A life that has used what the test says.
    struct Life(Mutex<Usage>);

    #[async_trait::async_trait]
    impl Container for Life {
        fn state(&self) -> watch::Receiver<RunState> {
            watch::channel(RunState::Running { started_at: SystemTime::UNIX_EPOCH }).1
        }
        fn http(&self) -> Option<Arc<dyn HttpService>> {
            None
        }
        async fn stop(&self, _: Duration) {}
        fn usage(&self) -> Usage {
            *self.0.lock().expect("no panic")
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn life(seconds: u32, instances: u64) -> Arc<Life> {
        let usage = Usage { cpu: SECOND * seconds, memory_bytes: 10 * instances, instances, ..Usage::default() };
        Arc::new(Life(Mutex::new(usage)))
    }

    fn begin(pod: &PodUsage, life: &Arc<Life>, at: Instant) {
        let about = About {
            name: "web".into(),
            id: "wasm://u.web.0".into(),
            image: "hello:1".into(),
            started_at: SystemTime::UNIX_EPOCH,
            memory_limit: None,
            cpu_limit_millis: None,
        };
        pod.begin(about, life.clone(), at);
    }

    #[test]
    fn restarts_never_make_a_counter_fall() {
        let (pod, now) = (PodUsage::default(), Instant::now());
        let busy = life(1, 1);
        begin(&pod, &busy, now);
        let mut last = Duration::ZERO;
        for round in 1..10 {
            begin(&pod, &life(round, 0), now);
            let sample = pod.sample(now).remove(0);
            assert!(sample.cpu > last, "{sample:?} after {last:?}");
            assert_eq!(sample.memory_bytes, 10, "the call that is still in flight holds what it holds");
            last = sample.cpu;
        }
        assert_eq!(last, SECOND * (1 + 45));
        // The first life's last call goes on, and ends.
        *busy.0.lock().expect("no panic") = Usage { cpu: SECOND * 3, ..Usage::default() };
        assert_eq!(pod.sample(now)[0].cpu, SECOND * (3 + 45));
        begin(&pod, &life(0, 0), now);
        assert_eq!(pod.sample(now)[0].cpu, SECOND * (3 + 45));
        assert_eq!(pod.lock()[0].lives.len(), 1 + RECENT_LIVES);
    }

    #[test]
    fn rates_are_of_the_recent_past() {
        let (pod, mut now) = (PodUsage::default(), Instant::now());
        let worker = life(0, 1);
        begin(&pod, &worker, now);
        let rate = |now| {
            let sample = pod.sample(now).remove(0);
            (sample.cpu_nanocores, sample.window)
        };
        assert_eq!(rate(now), (0, Duration::ZERO));
        for _ in 0..4 {
            now += MARK_PERIOD;
            worker.0.lock().expect("no panic").cpu += MARK_PERIOD / 2;
            assert_eq!(rate(now).0, 500_000_000);
            pod.mark(now);
        }
        now += MARK_PERIOD;
        pod.mark(now);
        now += MARK_PERIOD / 5;
        assert_eq!(rate(now), (0, MARK_PERIOD * 6 / 5), "it has been idle since");
    }
}

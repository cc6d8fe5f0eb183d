//! What containers have used, asked of the engine from time to time.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::StatsOptionsBuilder;
use futures::StreamExt as _;

use super::super::Usage;
use super::container::Life;
use super::engine::Engine;

/// Rates are made of marks this far apart; figures older than that are of no use to anybody.
const PERIOD: Duration = Duration::from_secs(5);
/// Containers asked about at a time.
const AT_A_TIME: usize = 4;

/// The containers that are asked about.
#[derive(Clone, Default)]
pub struct Lives(Arc<Mutex<Vec<Weak<Life>>>>);

impl Lives {
    pub fn add(&self, life: &Arc<Life>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(life));
    }

    /// Those that run; forgets the others.
    fn running(&self) -> Vec<Arc<Life>> {
        let mut lives = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lives.retain(|life| life.upgrade().is_some_and(|life| !life.is_over()));
        lives.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Asks for as long as somebody has the engine.
pub async fn run(engine: Weak<Engine>, lives: Lives) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some(engine) = engine.upgrade() else { return };
        let asked = lives.running().into_iter().map(|life| ask(engine.clone(), life));
        futures::stream::iter(asked).buffer_unordered(AT_A_TIME).collect::<()>().await;
    }
}

async fn ask(engine: Arc<Engine>, life: Arc<Life>) {
    let Ok(client) = engine.client().await else { return };
    let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
    let mut answers = std::pin::pin!(client.stats(&life.id, Some(options)));
    if let Some(Ok(stats)) = answers.next().await
        && let Some(usage) = usage(&stats, life.usage())
        && !life.is_over()
    {
        life.used(usage);
    }
}

/// The engine's figures as a runtime tells them. `None`: it had none, for the container was ending.
fn usage(stats: &ContainerStatsResponse, before: Usage) -> Option<Usage> {
    let cpu = stats.cpu_stats.as_ref()?;
    let total = Duration::from_nanos(cpu.cpu_usage.as_ref()?.total_usage?);
    let throttled = cpu.throttling_data.as_ref().and_then(|data| data.throttled_time).unwrap_or(0);
    let memory = stats.memory_stats.as_ref()?;
    let inactive = memory.stats.as_ref().and_then(|stats| {
        // By cgroup v1 and by v2.
        stats.get("total_inactive_file").or_else(|| stats.get("inactive_file")).copied()
    });
    // The working set, as the kubelet counts it: without file pages that nobody has used lately.
    let memory_bytes = memory.usage?.saturating_sub(inactive.unwrap_or(0));
    Some(Usage {
        cpu: total,
        memory_bytes,
        memory_peak_bytes: memory.max_usage.unwrap_or(0).max(before.memory_peak_bytes).max(memory_bytes),
        throttled: Duration::from_nanos(throttled),
        instances: 1,
        calls: 0,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_of_both_cgroups_are_read() {
        let of =
            |stats: serde_json::Value| usage(&serde_json::from_value(stats).expect("statistics"), Usage::default());
        let cpu = json!({ "cpu_usage": { "total_usage": 1_500 }, "throttling_data": { "throttled_time": 7 } });
        let first = of(json!({ "cpu_stats": cpu,
            "memory_stats": { "usage": 100, "max_usage": 200, "stats": { "total_inactive_file": 40 } } }));
        let first = first.expect("figures");
        assert_eq!((first.memory_bytes, first.memory_peak_bytes, first.cpu.as_nanos()), (60, 200, 1_500));
        assert_eq!(first.throttled.as_nanos(), 7);
        let second =
            of(json!({ "cpu_stats": cpu, "memory_stats": { "usage": 100, "stats": { "inactive_file": 10 } } }));
        assert_eq!(second.map(|usage| (usage.memory_bytes, usage.memory_peak_bytes)), Some((90, 90)));
        assert_eq!(of(json!({ "cpu_stats": {}, "memory_stats": {} })), None);
    }
}

//! Plan, then execute: the loop around a controller.
//!
//! A [`Reconciler`] says what to watch, gathers the state that concerns one key, and plans from it,
//! purely. The loop here does the rest: it waits until the watches are complete, runs keys beside each
//! other, carries plans out, retries what fails and looks at everything again from time to time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use super::cluster::Cluster;
use super::events::Recorder;
use super::key::ObjectKey;
use super::queue::Queue;
use super::write::{Note, Write, WriteError};

/// The full scan behind every trigger. Rare: nothing should ever depend on it.
const SCAN_EVERY: Duration = Duration::from_secs(300);
/// Writes of one batch under way at once: enough to fill one group commit of the store.
const MAX_PARALLEL: usize = 128;
/// After a plan from a stale view: the watch needs about this long to catch up.
const STALE_FIRST: Duration = Duration::from_millis(2);
const STALE_MAX: Duration = Duration::from_secs(1);
/// After a failed write.
const FAILED_FIRST: Duration = Duration::from_millis(5);
const FAILED_MAX: Duration = Duration::from_secs(30);

/// A step of a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// This write, before anything after it.
    Write(Box<Write>),
    /// Writes that do not depend on each other. They begin with one and double as long as they
    /// succeed, so that a refusal that will meet all of them (a quota) is met once.
    Batch(Vec<Write>),
    /// Something to tell that no write stands for.
    Tell(Note),
}

/// What to do about one key now, and when to look again without being asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub requeue_after: Option<Duration>,
    /// After this plan the key is left alone for so long, whatever happens: what changes meanwhile is
    /// taken together. For objects whose every write costs in proportion to their size.
    pub rest: Option<Duration>,
}

impl Plan {
    /// Nothing to do.
    pub fn nothing() -> Self {
        Self::default()
    }

    pub fn write(&mut self, write: Write) {
        self.steps.push(Step::Write(Box::new(write)));
    }

    pub fn batch(&mut self, writes: Vec<Write>) {
        if !writes.is_empty() {
            self.steps.push(Step::Batch(writes));
        }
    }

    /// Rests a millisecond for each `per_millisecond` items that the plan's object counts, at most
    /// `most`. Small objects never rest.
    pub fn rest_for(&mut self, items: usize, per_millisecond: usize, most: Duration) {
        let rest = Duration::from_millis((items / per_millisecond.max(1)).try_into().unwrap_or(u64::MAX));
        self.rest = Some(rest.min(most)).filter(|rest| !rest.is_zero());
    }

    /// Look again no later than after this time.
    pub fn look_again(&mut self, after: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(after, |at| at.min(after)));
    }
}

/// A controller.
pub trait Reconciler: Send + Sync + 'static {
    /// All that a plan for one key depends on, besides the time.
    type View: Send;

    /// The component's name in logs and events.
    fn name(&self) -> &'static str;

    /// Has the queue follow what may change a plan.
    fn subscribe(&self, queue: &Queue);

    /// Waits until the watches that `view` reads are complete.
    fn synced(&self) -> impl Future<Output = ()> + Send;

    /// Every key there is.
    fn keys(&self) -> Vec<ObjectKey>;

    /// Gathers the state that concerns one key; `None` when there is nothing to do.
    fn view(&self, key: &ObjectKey) -> Option<Self::View>;

    /// Decides. Pure: the same time and view give the same plan.
    fn plan(&self, now: Timestamp, view: Self::View) -> Plan;

    /// The plan for this key has been carried out, or could not be. For those who show it.
    fn ended(&self, _key: &ObjectKey, _result: &Result<(), WriteError>) {}
}

/// Runs a controller until its task is aborted; at most `workers` keys at a time.
pub async fn run<R: Reconciler>(cluster: Cluster, reconciler: R, workers: usize) {
    let recorder = Recorder::start(cluster.client().clone(), reconciler.name(), "");
    let reconciler = Arc::new(reconciler);
    // As upstream calls its queues.
    let queue = cluster.queue(reconciler.name().trim_end_matches("-controller"));
    reconciler.subscribe(&queue);
    reconciler.synced().await;
    let (name, scanned) = (reconciler.name(), reconciler.clone());
    let handle = move |key: ObjectKey| {
        let (cluster, recorder, reconciler) = (cluster.clone(), recorder.clone(), reconciler.clone());
        async move {
            let Some(view) = reconciler.view(&key) else { return Ok(None) };
            let plan = reconciler.plan(Timestamp::now(), view);
            let (again, rest) = (plan.requeue_after, plan.rest.filter(|_| !plan.steps.is_empty()));
            let result = execute(&cluster, &recorder, plan).await;
            reconciler.ended(&key, &result);
            if let Some(rest) = rest {
                tokio::time::sleep(rest).await;
            }
            result.map(|()| again)
        }
    };
    work(name, queue, workers, move || scanned.keys(), handle).await;
}

/// Carries a plan out up to the first step that fails.
pub async fn execute(cluster: &Cluster, recorder: &Recorder, plan: Plan) -> Result<(), WriteError> {
    for step in plan.steps {
        match step {
            Step::Write(write) => write.execute(cluster, recorder).await?,
            Step::Batch(writes) => execute_batch(cluster, recorder, writes).await?,
            Step::Tell(note) => recorder.record_about(note.about, note.kind, note.reason, &note.message),
        }
    }
    Ok(())
}

async fn execute_batch(cluster: &Cluster, recorder: &Recorder, writes: Vec<Write>) -> Result<(), WriteError> {
    let mut waiting = writes.into_iter();
    let mut size = 1;
    loop {
        let mut running = JoinSet::new();
        for write in waiting.by_ref().take(size) {
            let (cluster, recorder) = (cluster.clone(), recorder.clone());
            running.spawn(async move { write.execute(&cluster, &recorder).await });
        }
        if running.is_empty() {
            return Ok(());
        }
        let mut failure = None;
        while let Some(result) = running.join_next().await {
            match result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failure = Some(error),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        size = (size * 2).min(MAX_PARALLEL);
    }
}

/// The loop for anything that handles keys: `handle` says when to look again, if at all.
pub async fn work<H, F>(name: &'static str, queue: Queue, workers: usize, all: impl Fn() -> Vec<ObjectKey>, handle: H)
where
    H: Fn(ObjectKey) -> F,
    F: Future<Output = Result<Option<Duration>, WriteError>> + Send + 'static,
{
    let mut running = JoinSet::new();
    // The first tick is at once: the first scan.
    let mut scan = tokio::time::interval(SCAN_EVERY);
    loop {
        tokio::select! {
            _ = scan.tick() => all().into_iter().for_each(|key| queue.add(key)),
            Some(_) = running.join_next() => {}
            key = queue.next(), if running.len() < workers => {
                let turn = Turn { name, queue: queue.clone(), key: key.clone(), result: None };
                running.spawn(turn.take(handle(key)));
            }
        }
    }
}

/// One run of one key. Dropping it releases the key, so that a panic in a plan stops that key for a
/// while, not the controller.
struct Turn {
    name: &'static str,
    queue: Queue,
    key: ObjectKey,
    result: Option<Result<Option<Duration>, WriteError>>,
}

impl Turn {
    async fn take(mut self, run: impl Future<Output = Result<Option<Duration>, WriteError>>) {
        self.result = Some(run.await);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (name, key) = (self.name, self.key.clone());
        match self.result.take() {
            Some(Ok(again)) => {
                self.queue.forget(&key);
                if let Some(after) = again {
                    self.queue.add_after(key, after);
                }
            }
            Some(Err(error @ WriteError::Stale { .. })) => {
                tracing::debug!(controller = name, %key, %error, "planning again");
                self.queue.retry(key, STALE_FIRST, STALE_MAX);
            }
            Some(Err(error @ WriteError::Terminating { .. })) => {
                tracing::debug!(controller = name, %key, %error, "leaving it");
                self.queue.forget(&key);
            }
            Some(Err(error @ WriteError::Failed { .. })) => {
                tracing::warn!(controller = name, %key, %error, "trying again");
                self.queue.retry(key, FAILED_FIRST, FAILED_MAX);
            }
            None => self.queue.retry(key, FAILED_FIRST, FAILED_MAX),
        }
        self.queue.done(&self.key);
    }
}

//! Which node a pod runs on.
//!
//! The scheduler is a client of the API like any other. It follows pods, nodes and namespaces through
//! the shared watches, keeps a [`snapshot`] of who is where, takes waiting pods from a [`queue`],
//! [`decide()`]s purely, and posts the binding ([`bind`]).
//!
//! Decisions are made one after the other in memory and cost microseconds; bindings cross the API and
//! cost a write each. So a decided pod is *assumed* on its node at once, the next decision counts on
//! it, and many bindings are under way together. If one fails, its assumption is taken back and the
//! pod is tried again after a delay. The watch has the last word: an assumption it refutes is dropped.
//!
//! Nothing here polls. A pod is tried the moment the watch shows it; one that fits nowhere waits for a
//! change that may help it: a node that comes or offers more, a pod that goes, a neighbour that comes.
//! Behind that stands a slow flush, so that a missed trigger costs a minute and not a pod.
//!
//! A pod that fits nowhere may take the place of pods of lower priority ([`preempt`]): they are told to end, and it
//! waits until they have.
//!
//! What it leaves to others: pods that name another scheduler or still have scheduling gates.

pub mod bind;
pub mod decide;
pub mod evict;
pub mod filter;
pub mod preempt;
pub mod queue;
pub mod resources;
pub mod score;
pub mod snapshot;
pub mod topology;
pub mod volumes;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::kinds::placement::is_over;
use crate::reconcile::{Change, Cluster, EventKind, ObjectKey, Recorder, Shared};
use bind::{BindError, Report};
use decide::{Decision, Refusal, decide};
use evict::Evicted;
use preempt::NoPlan;
use queue::Queue;
use snapshot::{Effect, PodInfo, Snapshot, node_name};
use volumes::Volumes;

/// The name that pods ask for, and that events are signed with.
pub const NAME: &str = "default-scheduler";

/// Bindings under way at once: enough to fill one group commit of the store.
const MAX_BINDINGS: usize = 128;
/// Decisions in a row before others of this thread and new changes have their turn.
const MAX_DECISIONS: usize = 256;
/// How often the same refusal is told again, so that its event does not expire while it is true.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// Schedules until `shutdown`; bindings that are under way then are finished.
pub async fn run(cluster: Cluster, shutdown: CancellationToken) {
    let mut scheduler = Scheduler::new(cluster);
    let mut changes = scheduler.subscribe();
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = scheduler.synced() => {}
    }
    loop {
        let tick = scheduler.queue.next_tick();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(bound) = scheduler.bindings.join_next() => scheduler.bound(bound),
            Some(evicted) = scheduler.evictions.join_next() => scheduler.evicted(evicted),
            change = changes.pods.next() => scheduler.pod_changed(change),
            change = changes.nodes.next() => scheduler.node_changed(change),
            change = changes.namespaces.next() => scheduler.namespace_changed(change),
            _ = changes.claims.next() => scheduler.volumes_changed(),
            _ = changes.volumes.next() => scheduler.volumes_changed(),
            _ = changes.classes.next() => scheduler.volumes_changed(),
            () = sleep_until(tick) => {}
            () = tokio::task::yield_now(), if scheduler.may_go_on() => {}
        }
        scheduler.take_in(&mut changes);
        scheduler.schedule(Instant::now());
    }
    while scheduler.bindings.join_next().await.is_some() {}
    while scheduler.evictions.join_next().await.is_some() {}
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The feeds of what may have changed.
struct Changes {
    pods: crate::reconcile::Changes,
    nodes: crate::reconcile::Changes,
    namespaces: crate::reconcile::Changes,
    claims: crate::reconcile::Changes,
    volumes: crate::reconcile::Changes,
    classes: crate::reconcile::Changes,
}

/// A pod in the queue.
struct Waiting {
    pod: Arc<Pod>,
    /// What was told last about it, and when.
    told: Option<(String, Instant)>,
}

/// How one binding ended.
struct Bound {
    pod: Arc<PodInfo>,
    node: String,
    result: Result<(), BindError>,
}

struct Scheduler {
    cluster: Cluster,
    pods: Shared<Pod>,
    nodes: Shared<Node>,
    namespaces: Shared<Namespace>,
    budgets: Shared<PodDisruptionBudget>,
    volumes: Volumes,
    recorder: Recorder,
    reports: mpsc::Sender<Report>,
    snapshot: Snapshot,
    queue: Queue,
    /// The pods in the queue as they were when they were put there.
    waiting: HashMap<ObjectKey, Waiting>,
    bindings: JoinSet<Bound>,
    evictions: JoinSet<Evicted>,
    /// Pods that were told to make room, by their uids, until they have gone.
    leaving: HashMap<ObjectKey, String>,
    /// What has changed since the queue was last told.
    effect: Effect,
}

impl Scheduler {
    fn new(cluster: Cluster) -> Self {
        Self {
            pods: cluster.watch(),
            nodes: cluster.watch(),
            namespaces: cluster.watch(),
            budgets: cluster.watch(),
            volumes: Volumes::new(&cluster),
            recorder: Recorder::start(cluster.client().clone(), NAME, ""),
            reports: bind::reporter(cluster.client().clone()),
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            waiting: HashMap::new(),
            bindings: JoinSet::new(),
            evictions: JoinSet::new(),
            leaving: HashMap::new(),
            effect: Effect::default(),
            cluster,
        }
    }

    fn subscribe(&self) -> Changes {
        Changes {
            pods: self.pods.subscribe(),
            nodes: self.nodes.subscribe(),
            namespaces: self.namespaces.subscribe(),
            claims: self.volumes.claims.subscribe(),
            volumes: self.volumes.volumes.subscribe(),
            classes: self.volumes.classes.subscribe(),
        }
    }

    async fn synced(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        self.namespaces.synced().await;
        self.budgets.synced().await;
        self.volumes.synced().await;
    }

    /// Takes in all that has changed up to now, so that one decision sees it all.
    fn take_in(&mut self, changes: &mut Changes) {
        while let Some(change) = changes.namespaces.try_next() {
            self.namespace_changed(change);
        }
        while let Some(change) = changes.nodes.try_next() {
            self.node_changed(change);
        }
        while let Some(change) = changes.pods.try_next() {
            self.pod_changed(change);
        }
    }

    fn namespace_changed(&mut self, change: Change) {
        let names: BTreeSet<String> = match change {
            Change::Object(key) => [key.name.to_string()].into(),
            Change::Rescan => {
                let listed = self.namespaces.keys().into_iter().map(|key| key.name.to_string());
                listed.chain(self.snapshot.namespace_names().cloned()).collect()
            }
        };
        for name in names {
            let namespace = self.namespaces.get(&ObjectKey::cluster(name.as_str()));
            let labels = namespace.map(|namespace| namespace.metadata.labels.clone().unwrap_or_default());
            self.snapshot.set_namespace(&name, labels);
        }
    }

    /// Pods that wait with claims may have another chance.
    fn volumes_changed(&mut self) {
        let with_claims = |(key, waiting): (&ObjectKey, &Waiting)| {
            volumes::claims_of(&waiting.pod).next().is_some().then(|| key.clone())
        };
        let keys: Vec<ObjectKey> = self.waiting.iter().filter_map(with_claims).collect();
        keys.iter().for_each(|key| self.queue.activate(key));
    }

    fn node_changed(&mut self, change: Change) {
        let names: BTreeSet<String> = match change {
            Change::Object(key) => [key.name.to_string()].into(),
            Change::Rescan => {
                let listed = self.nodes.keys().into_iter().map(|key| key.name.to_string());
                listed.chain(self.snapshot.node_names().cloned()).collect()
            }
        };
        for name in names {
            let node = self.nodes.get(&ObjectKey::cluster(name.as_str()));
            let effect = self.snapshot.set_node(&name, node.as_deref());
            self.effect.merge(effect);
        }
    }

    fn pod_changed(&mut self, change: Change) {
        let keys: BTreeSet<ObjectKey> = match change {
            Change::Object(key) => [key].into(),
            Change::Rescan => {
                let known = self.snapshot.placed_keys().chain(self.waiting.keys());
                known.cloned().chain(self.pods.keys()).collect()
            }
        };
        for key in keys {
            let pod = self.pods.get(&key);
            let effect = self.snapshot.set_pod(&key, pod.as_ref());
            self.effect.merge(effect);
            let uid = pod.as_ref().and_then(|pod| pod.metadata.uid.as_deref());
            if self.leaving.get(&key).is_some_and(|leaving| Some(leaving.as_str()) != uid) {
                self.leaving.remove(&key);
            }
            match pod {
                Some(pod) if wants_node(&pod) => self.wants_node(key, pod),
                _ => self.is_settled(&key),
            }
        }
    }

    fn wants_node(&mut self, key: ObjectKey, pod: Arc<Pod>) {
        let before = self.waiting.get(&key).map(|waiting| waiting.pod.clone());
        let same_uid = before.as_ref().is_none_or(|before| before.metadata.uid == pod.metadata.uid);
        if !same_uid {
            self.is_settled(&key);
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if before.is_none() && self.snapshot.is_placed(&key, uid) {
            // Bound already; the watch is only a little behind.
            return;
        }
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        self.queue.add(&key, priority, Instant::now());
        if same_uid && before.is_some_and(|before| !asks_for_the_same(&before, &pod)) {
            self.queue.activate(&key);
        }
        match self.waiting.get_mut(&key) {
            Some(waiting) => waiting.pod = pod,
            None => {
                self.waiting.insert(key, Waiting { pod, told: None });
            }
        }
    }

    fn is_settled(&mut self, key: &ObjectKey) {
        self.queue.remove(key);
        self.waiting.remove(key);
    }

    fn may_go_on(&self) -> bool {
        self.queue.has_active() && self.bindings.len() < MAX_BINDINGS
    }

    /// Decides on the pods whose turn it is.
    fn schedule(&mut self, now: Instant) {
        self.queue.wake(std::mem::take(&mut self.effect), now);
        self.queue.tick(now);
        for _ in 0..MAX_DECISIONS {
            if !self.may_go_on() {
                return;
            }
            let Some(key) = self.queue.pop() else { return };
            let Some(waiting) = self.waiting.get(&key) else {
                self.queue.remove(&key);
                continue;
            };
            let needs = self.volumes.needs(&waiting.pod);
            let pod = Arc::new(PodInfo::new(waiting.pod.clone()).with_volumes(needs));
            match decide(&self.snapshot, &pod) {
                Decision::Place(node) => self.place(pod, node),
                Decision::Refuse(refusal) => {
                    let no_plan = self.make_room(&pod).err().filter(|_| refusal.nodes > 0);
                    self.refuse(&pod, &refusal, no_plan, now);
                }
            }
        }
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: String) {
        self.snapshot.assume(pod.clone(), &node);
        // Whom a neighbour attracts may follow it.
        self.effect.merge(Effect { placed: true, ..Effect::default() });
        let (client, volumes) = (self.cluster.client().clone(), self.volumes.clone());
        self.bindings.spawn(async move {
            let result = match volumes::bind(&client, &volumes, &pod.volumes.delayed, &node).await {
                Ok(()) => bind::bind(&client, &pod, &node).await,
                Err(why) => Err(BindError::Volumes { pod: pod.key.clone(), why }),
            };
            Bound { pod, node, result }
        });
    }

    fn bound(&mut self, outcome: Result<Bound, tokio::task::JoinError>) {
        let Bound { pod, node, result } = match outcome {
            Ok(bound) => bound,
            Err(error) => {
                // Its pod stays assumed until the watch says otherwise; that it happened is a defect.
                tracing::error!(%error, "a binding ended without an outcome");
                return;
            }
        };
        let current =
            self.waiting.get(&pod.key).is_some_and(|waiting| waiting.pod.metadata.uid == pod.pod.metadata.uid);
        match result {
            Ok(()) => {
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.key.name);
                self.recorder.record(&*pod.pod, EventKind::Normal, "Scheduled", &message);
                if current {
                    self.is_settled(&pod.key);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a pod was not bound");
                if current {
                    let effect = self.snapshot.forget(&pod.key);
                    self.effect.merge(effect);
                    self.queue.failed(&pod.key, Instant::now());
                }
            }
        }
    }

    /// Tells pods of lower priority to go, if that lets this one in.
    fn make_room(&mut self, pod: &Arc<PodInfo>) -> Result<(), NoPlan> {
        let leaves = |other: &PodInfo| {
            let told = self.leaving.get(&other.key).is_some_and(|uid| *uid == other.uid());
            told || other.pod.metadata.deletion_timestamp.is_some()
        };
        let mut plan = preempt::plan(&self.snapshot, pod, &self.budgets.list(), leaves)?;
        plan.victims.retain(|victim| !leaves(victim));
        for victim in &plan.victims {
            let message = format!("Preempted by pod {} on node {}", pod.uid(), plan.node);
            self.recorder.record(&*victim.pod, EventKind::Normal, "Preempted", &message);
            self.leaving.insert(victim.key.clone(), victim.uid().to_owned());
        }
        // Who was expected there and matters less has to look for another place.
        for other in self.snapshot.expected_below(&plan.node, pod) {
            self.snapshot.no_longer_expect(&other);
            self.queue.activate(&other);
            let client = self.cluster.client().clone();
            self.evictions.spawn(async move {
                evict::nominate(&client, &other, None).await;
                Evicted { pod: other, left: Vec::new() }
            });
        }
        self.snapshot.nominate(pod.clone(), &plan.node);
        self.evictions.spawn(evict::evict(self.cluster.client().clone(), pod.key.clone(), plan));
        Ok(())
    }

    fn evicted(&mut self, outcome: Result<Evicted, tokio::task::JoinError>) {
        match outcome {
            Ok(Evicted { pod, left }) => {
                left.iter().for_each(|key| _ = self.leaving.remove(key));
                if !left.is_empty() {
                    // Others may do, or the same another time.
                    self.queue.delay(&pod, Instant::now());
                }
            }
            Err(error) => tracing::error!(%error, "making room for a pod ended without an outcome"),
        }
    }

    fn refuse(&mut self, pod: &PodInfo, refusal: &Refusal, no_plan: Option<NoPlan>, now: Instant) {
        self.queue.refused(&pod.key, refusal, now);
        let message = match no_plan {
            Some(why) => format!("{refusal} preemption: {why}"),
            None => refusal.to_string(),
        };
        let Some(waiting) = self.waiting.get_mut(&pod.key) else { return };
        let recent = |(told, at): &(String, Instant)| *told == message && *at + TELL_AGAIN > now;
        if waiting.told.as_ref().is_some_and(recent) {
            return;
        }
        self.recorder.record(&*pod.pod, EventKind::Warning, "FailedScheduling", &message);
        let report = Report::new(&pod.pod, &message, Timestamp::now());
        let written = report.is_none_or(|report| self.reports.try_send(report).is_ok());
        waiting.told = written.then_some((message, now));
    }
}

/// Whether a pod is ours to place.
fn wants_node(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ours = matches!(spec.scheduler_name.as_deref(), None | Some("" | NAME));
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    ours && !gated && node_name(pod).is_none() && pod.metadata.deletion_timestamp.is_none() && !is_over(pod)
}

/// Whether two states of a pod have the same chances.
fn asks_for_the_same(a: &Pod, b: &Pod) -> bool {
    a.spec == b.spec && a.metadata.labels == b.metadata.labels
}

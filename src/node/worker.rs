//! The worker of one pod: one task that feeds events to the state machine and does what it says.
//!
//! Everything that takes time (starting, probing, stopping, writing the status) is a future in the
//! worker's own set, polled by its one task: ten thousand idle pods are ten thousand sleeping tasks
//! without timers. Nothing outlives the worker: dropping it drops the pod's sandbox and all that runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::agent::ran_before;
use super::api;
use super::context::{Context, Entry, Life as LogLife};
use super::launch::{self, Kept, Launch, Launched, Surroundings};
use super::logs::ContainerLog;
use super::plan::{self, Index, Plan, Role};
use super::pod::{Action, Ended, Event, Moment, Note, Refusal, Stage, State, step};
use super::probes::{self, ProbeKind, Target};
use super::serving::Gate;
use super::status::{self, Picture};
use super::volumes::Sources;
use super::writer::Writer;
use super::{payload, recover};
use crate::network::{PodListener, Registration};
use crate::reconcile::ObjectKey;
use crate::runtime::{Container, Exit, RunState};

/// What the API says of a pod now.
#[derive(Debug, Clone)]
pub enum News {
    Pod(Arc<core::Pod>),
    Gone,
}

/// One pod on this node.
pub struct Worker {
    context: Arc<Context>,
    pod: Arc<core::Pod>,
    plan: Plan,
    state: State,
    entry: Arc<Entry>,
    surroundings: Option<Surroundings>,
    /// The name of the runtime that had or has them.
    runtime: &'static str,
    slots: Vec<Slot>,
    running: FuturesUnordered<BoxFuture<'static, Outcome>>,
    writer: Writer,
    /// The grace of the last deletion request seen.
    deletion: Option<i64>,
    removing: Removing,
    /// What volumes show of the pod itself has changed.
    relabelled: Arc<Notify>,
    /// It ran here before and has not been told of yet, nor have those with it.
    recovering: Option<Recovering>,
    /// It had ended before this process saw it: its status is as it should be, whoever wrote it.
    over_before: bool,
    done: bool,
}

/// A pod's part in [`super::recovery`].
#[derive(Default)]
struct Recovering {
    arrived: bool,
    /// Events that wait to be told.
    notes: Vec<Note>,
}

/// What belongs to one container, over all its lives.
#[derive(Default)]
struct Slot {
    gate: Arc<Gate>,
    registrations: Vec<Registration>,
    listeners: Vec<PodListener>,
    container: Option<Arc<dyn Container>>,
    log: Option<Arc<ContainerLog>>,
    /// Whether the present life has answered a call.
    served: Option<Arc<AtomicBool>>,
    /// What the runtime calls the present life.
    id: Option<String>,
    kept: Kept,
}

/// How far the deletion of the object has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removing {
    No,
    /// Once the last status is written.
    Wanted,
    Sent,
}

/// What a future of the worker came back with.
enum Outcome {
    Event(Event),
    Prepared(Result<(Surroundings, Sources), (&'static str, String)>),
    Launched { index: Index, run: u32, launched: Box<Result<Launched, Refusal>> },
    Exited { index: Index, run: u32, exit: Exit },
    Listening { index: Index, listener: PodListener },
    VolumesChanged(Sources),
    VolumesFresh(Sources),
    Wrote(api::Written, Box<core::PodStatus>),
    Removed(bool),
    Nothing,
}

impl Worker {
    /// A worker for a pod that this process sees for the first time.
    pub fn new(context: Arc<Context>, pod: Arc<core::Pod>) -> Worker {
        let plan = Plan::of(&pod);
        let state = recover::state(&plan, &pod, moment(), &|id| context.outlives(id));
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let entry = context.register.add(ObjectKey::of(&*pod), uid);
        for (container, cell) in plan.containers.iter().zip(&state.cells) {
            if cell.restarts > 0 || !cell.image_id.is_empty() {
                entry.set(&container.name, LogLife { run: cell.restarts, log: None });
            }
        }
        let over_before = matches!(state.stage, Stage::Finished(_));
        let mut worker = Worker {
            slots: plan.containers.iter().map(|_| Slot::default()).collect(),
            writer: Writer::new(pod.status.clone()),
            context,
            plan,
            state,
            entry,
            surroundings: None,
            runtime: "wasm",
            running: FuturesUnordered::new(),
            deletion: None,
            removing: Removing::No,
            relabelled: Arc::new(Notify::new()),
            recovering: None,
            over_before,
            done: false,
            pod,
        };
        worker.writer.touch(Instant::now());
        if ran_before(&worker.pod) && !worker.context.recovery.is_over() {
            worker.recovering = Some(Recovering::default());
        }
        worker
    }

    /// Runs until the pod is gone. `news` ends with the agent.
    pub async fn run(mut self: Box<Self>, mut news: watch::Receiver<News>) {
        // What the API says comes first: a pod that is to go is not begun.
        let first = news.borrow_and_update().clone();
        self.hear(first);
        self.step(Event::Tick);
        let mut evictions = self.entry.evictions();
        let context = self.context.clone();
        while !self.done {
            self.write_if_due();
            let wake = self.wake();
            tokio::select! {
                changed = news.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let latest = news.borrow_and_update().clone();
                    self.hear(latest);
                }
                Ok(()) = evictions.changed() => {
                    let eviction = evictions.borrow_and_update().clone();
                    eviction.into_iter().for_each(|eviction| self.step(Event::Evict(eviction)));
                }
                Some(outcome) = self.running.next(), if !self.running.is_empty() => self.take(outcome),
                () = context.recovery.over(), if self.recovering.is_some() => self.recovered(),
                () = sleep_until(wake), if wake.is_some() => self.step(Event::Tick),
            }
        }
        self.arrived();
        self.clean_up().await;
    }

    /// The pod holds up nobody's telling any more.
    fn arrived(&mut self) {
        if let Some(recovering) = &mut self.recovering
            && !std::mem::replace(&mut recovering.arrived, true)
        {
            self.context.recovery.arrived();
        }
    }

    /// All that ran before runs again, or as good as: now is the time to tell.
    fn recovered(&mut self) {
        for note in self.recovering.take().map(|recovering| recovering.notes).unwrap_or_default() {
            self.context.tell(&self.pod, &note);
        }
    }

    fn wake(&self) -> Option<Instant> {
        let write = self.writer.due(self.state.unsettled(Instant::now())).filter(|_| self.recovering.is_none());
        [self.state.wake(), write].into_iter().flatten().min()
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Gone => self.step(Event::Forgotten),
            News::Pod(pod) => {
                let pod = plan::in_order(&self.pod, pod);
                let before = std::mem::replace(&mut self.pod, pod);
                self.compare(&before);
            }
        }
    }

    /// Finds what the API has changed of the pod.
    fn compare(&mut self, before: &core::Pod) {
        let revision = self.pod.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
        self.writer.shown(self.pod.status.as_ref(), revision, Instant::now());
        if before.metadata.generation != self.pod.metadata.generation {
            let plan = Plan::of(&self.pod);
            let known = self.plan.containers.len();
            if plan.containers.len() >= known {
                let before = std::mem::replace(&mut self.plan, plan);
                for (index, container) in before.containers.iter().enumerate() {
                    if container.image != self.plan.containers[index].image {
                        self.slots[index].kept.image = None;
                        self.step(Event::Changed { index });
                    }
                }
            }
            if self.plan.containers.len() > known {
                self.slots.resize_with(self.plan.containers.len(), Slot::default);
                self.step(Event::Added);
            }
        }
        let labels = |pod: &core::Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        if labels(before) != labels(&self.pod) && shows_fields(&self.pod) {
            self.relabelled.notify_one();
        }
        let grace = self
            .pod
            .metadata
            .deletion_timestamp
            .as_ref()
            .map(|_| self.pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        if grace.is_some() && grace != self.deletion {
            self.deletion = grace;
            let seconds = grace.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
            self.step(Event::Delete { grace: std::time::Duration::from_secs(seconds) });
        }
    }

    /// One transition: the state changes, the doors follow, then the actions begin.
    fn step(&mut self, event: Event) {
        let now = moment();
        let actions = step(&self.plan, &mut self.state, event, now);
        for (index, slot) in self.slots.iter().enumerate() {
            slot.gate.follow(self.state.door(index, now.at));
        }
        for action in actions {
            self.act(action);
        }
        self.writer.touch(now.at);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Prepare => {
                let (context, pod) = (self.context.clone(), self.pod.clone());
                self.spawn(async move { Outcome::Prepared(launch::prepare(&context, &pod).await) });
            }
            Action::Launch { index, run } => self.launch(index, run),
            Action::Probe { index, run, kind } => self.probe(index, run, kind),
            Action::Hook { index, limit } => {
                let hook = self.hook(index, limit);
                self.spawn(async move {
                    hook.await;
                    Outcome::Event(Event::HookDone)
                });
            }
            Action::Leave { limit } => {
                let (context, ip) = (self.context.clone(), self.surroundings.as_ref().map(|around| around.ip));
                self.spawn(async move {
                    if let Some(ip) = ip {
                        context.routes.left(ip, limit).await;
                    }
                    Outcome::Event(Event::Left)
                });
            }
            Action::Stop { index, run: _, grace, hook } => self.stop(index, grace, hook),
            Action::Release => self.release(),
            Action::Remove => self.removing = Removing::Wanted,
            Action::Done => self.done = true,
            Action::Tell(note) => match &mut self.recovering {
                Some(recovering) => recovering.notes.push(note),
                None => self.context.tell(&self.pod, &note),
            },
        }
    }

    fn spawn(&mut self, future: impl Future<Output = Outcome> + Send + 'static) {
        self.running.push(Box::pin(future));
    }

    fn take(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Event(event) => self.step(event),
            Outcome::Prepared(Ok((surroundings, sources))) => {
                self.runtime = surroundings.runtime.name();
                self.entry.set_sandbox(&surroundings.sandbox);
                self.surroundings = Some(surroundings);
                self.watch_volumes(sources);
                self.step(Event::Prepared(Ok(())));
            }
            Outcome::Prepared(Err(why)) => {
                self.step(Event::Prepared(Err(why)));
                self.arrived();
            }
            Outcome::Launched { index, run, launched } => self.launched(index, run, *launched),
            Outcome::Exited { index, run, exit } => self.exited(index, run, exit),
            Outcome::Listening { index, listener } => {
                // The pod may have ended while its listener was being bound.
                if self.surroundings.is_some() {
                    self.slots[index].listeners.push(listener);
                }
            }
            Outcome::VolumesChanged(sources) => self.refresh_volumes(sources),
            Outcome::VolumesFresh(sources) => self.watch_volumes(sources),
            Outcome::Wrote(written, status) => self.wrote(written, *status),
            Outcome::Removed(true) => self.done = true,
            Outcome::Removed(false) => self.removing = Removing::Wanted,
            Outcome::Nothing => {}
        }
    }

    fn launch(&mut self, index: Index, run: u32) {
        let Some(around) = &self.surroundings else { return };
        let launch = Launch {
            pod: self.pod.clone(),
            index,
            run,
            ip: around.ip,
            runtime: around.runtime.clone(),
            sandbox: around.sandbox.clone(),
            volumes: around.volumes.clone(),
            log_dir: self.entry.log_dir.clone(),
            kept: self.slots[index].kept.clone(),
        };
        let context = self.context.clone();
        self.spawn(async move { Outcome::Launched { index, run, launched: Box::new(launch.go(&context).await) } });
    }

    fn launched(&mut self, index: Index, run: u32, launched: Result<Launched, Refusal>) {
        let launched = match launched {
            Ok(launched) => launched,
            Err(refusal) => {
                self.step(Event::Refused { index, run, refusal });
                return self.arrived();
            }
        };
        let image_id = launched.kept.image_id.clone();
        let (id, found) = (launched.id, launched.found.map(timestamp));
        let name = self.plan.containers[index].name.clone();
        self.entry.set(&name, LogLife { run, log: Some(launched.log.clone()) });
        self.entry.started(&name, &launched.container, &launched.console);
        self.entry.usage.begin(launched.about, launched.container.clone(), Instant::now());
        let state = launched.container.state();
        let slot = &mut self.slots[index];
        slot.served = launched.container.http().map(|service| slot.gate.open(service));
        slot.container = Some(launched.container);
        slot.log = Some(launched.log);
        slot.kept = launched.kept;
        slot.id.clone_from(&id);
        let added = self.plan.containers[index].role == Role::Ephemeral;
        if slot.served.is_some() && slot.registrations.is_empty() && !added {
            self.admit_callers(index);
        }
        let last_words = launched.last_words;
        self.spawn(async move { Outcome::Exited { index, run, exit: last_words.of(exit_of(state).await).await } });
        self.step(Event::Started { index, run, image_id, id, found });
        self.arrived();
    }

    /// Lets the world call a container that serves HTTP: on its own ports, or on any if it has none.
    fn admit_callers(&mut self, index: Index) {
        let Some(ip) = self.surroundings.as_ref().map(|around| around.ip) else { return };
        let container = Plan::container(&self.pod, index);
        let declared = container.map(|container| launch::declared_ports(&container)).unwrap_or_default();
        let alone = self.slots.iter().enumerate().all(|(other, slot)| other == index || slot.registrations.is_empty());
        let local = self.context.network.local();
        let gate = self.slots[index].gate.clone();
        let mut registrations: Vec<Registration> =
            declared.iter().map(|port| local.register(ip, Some(*port), gate.clone())).collect();
        if alone && ip != self.context.config.address {
            // Not on the node's own address, where others answer too. Whatever a Service targets at the pod is meant
            // for its first HTTP container.
            registrations.push(local.register(ip, None, gate));
        }
        self.slots[index].registrations = registrations;
        let listened = if declared.is_empty() { vec![launch::DEFAULT_PORT] } else { declared };
        for port in listened {
            let context = self.context.clone();
            self.spawn(async move {
                match context.network.listen((ip, port).into()).await {
                    Ok(listener) => Outcome::Listening { index, listener },
                    Err(error) => {
                        tracing::debug!(%ip, port, %error, "no listener for a pod; calls in memory go on");
                        Outcome::Nothing
                    }
                }
            });
        }
    }

    fn exited(&mut self, index: Index, run: u32, exit: Exit) {
        let slot = &mut self.slots[index];
        let served = slot.served.take().is_some_and(|served| served.load(Ordering::Relaxed));
        slot.container = None;
        if let Some(log) = slot.log.take() {
            log.close();
        }
        if exit.reason == "OOMKilled" {
            self.entry.usage.out_of_memory(&self.plan.containers[index].name);
        }
        let ended = Ended {
            code: exit.code,
            reason: exit.reason.to_owned(),
            message: exit.message,
            started_at: timestamp(exit.started_at),
            finished_at: timestamp(exit.finished_at),
            run,
            id: slot.id.take(),
        };
        self.step(Event::Exited { index, run, ended, served });
    }

    fn target(&self, index: Index) -> Option<Target> {
        let container = Plan::container(&self.pod, index)?;
        let slot = self.slots.get(index)?;
        Some(launch::target(&container, self.surroundings.as_ref()?.ip, slot.gate.present(), slot.container.clone()))
    }

    fn probe(&mut self, index: Index, run: u32, kind: ProbeKind) {
        let container = Plan::container(&self.pod, index);
        let probe = container.and_then(|container| match kind {
            ProbeKind::Startup => container.startup_probe.clone(),
            ProbeKind::Readiness => container.readiness_probe.clone(),
            ProbeKind::Liveness => container.liveness_probe.clone(),
        });
        let (Some(probe), Some(target)) = (probe, self.target(index)) else { return };
        self.spawn(async move {
            let answer = probes::ask(&probe, &target).await;
            Outcome::Event(Event::Probed { index, run, kind, answer })
        });
    }

    /// The container's `preStop` hook, to be awaited.
    fn hook(&self, index: Index, limit: std::time::Duration) -> impl Future<Output = ()> + Send + 'static {
        let (context, pod, target) = (self.context.clone(), self.pod.clone(), self.target(index));
        async move {
            if let Some(target) = target {
                launch::pre_stop(&context, &pod, index, target, limit).await;
            }
        }
    }

    fn stop(&mut self, index: Index, grace: std::time::Duration, hook: bool) {
        let Some(container) = self.slots[index].container.clone() else { return };
        let hook = hook.then(|| self.hook(index, grace));
        self.spawn(async move {
            let began = Instant::now();
            if let Some(hook) = hook {
                hook.await;
            }
            container.stop(grace.saturating_sub(began.elapsed())).await;
            Outcome::Nothing
        });
    }

    fn watch_volumes(&mut self, mut sources: Sources) {
        if !sources.is_fixed() || shows_fields(&self.pod) {
            let relabelled = self.relabelled.clone();
            self.spawn(async move {
                tokio::select! {
                    () = sources.changed() => {}
                    () = relabelled.notified() => {}
                }
                Outcome::VolumesChanged(sources)
            });
        }
    }

    fn refresh_volumes(&mut self, mut sources: Sources) {
        let Some(around) = &self.surroundings else { return };
        let (context, pod, ip, volumes) = (self.context.clone(), self.pod.clone(), around.ip, around.volumes.clone());
        self.spawn(async move {
            context.volumes.refresh(&volumes, &mut sources, &context.fields(&pod, ip)).await;
            Outcome::VolumesFresh(sources)
        });
    }

    /// Lets go of all that the pod held but its name and its logs.
    fn release(&mut self) {
        for slot in &mut self.slots {
            let gate = slot.gate.clone();
            *slot = Slot { gate, ..Slot::default() };
        }
        self.entry.usage.clear();
        if self.surroundings.take().is_some() {
            let uid = self.pod.metadata.uid.clone().unwrap_or_default();
            self.context.release_address(&uid);
            let context = self.context.clone();
            self.spawn(async move {
                // What is mounted goes after those who have it.
                context.remove(&uid).await;
                context.volumes.remove(&uid).await;
                Outcome::Nothing
            });
        }
    }

    /// Writes the status if it is time, and deletes the object once all has been told.
    fn write_if_due(&mut self) {
        if self.recovering.is_some() {
            return;
        }
        let now = Instant::now();
        if self.writer.due(self.state.unsettled(now)).is_some_and(|due| due <= now) {
            let wanted = self.picture();
            if !self.over_before && status::differs(self.writer.stored.as_deref(), &wanted) {
                self.writer.begin();
                let (context, pod) = (self.context.clone(), self.pod.clone());
                self.spawn(async move {
                    let written = api::write_status(&context, &pod, &wanted).await;
                    Outcome::Wrote(written, Box::new(wanted))
                });
            } else {
                self.writer.nothing_new();
            }
        }
        if self.removing == Removing::Wanted && self.writer.is_clean() {
            self.removing = Removing::Sent;
            let (context, pod) = (self.context.clone(), self.pod.clone());
            self.spawn(async move { Outcome::Removed(api::remove(&context, &pod).await) });
        }
    }

    fn picture(&self) -> core::PodStatus {
        let known = self.pod.status.as_ref().and_then(|status| status.pod_ip.as_ref());
        let ip = self.surroundings.as_ref().map(|around| around.ip).or_else(|| known?.parse().ok());
        status::build(&Picture {
            pod: &self.pod,
            plan: &self.plan,
            state: &self.state,
            ip,
            host_ip: self.context.config.address,
            runtime: self.runtime,
            previous: self.writer.stored.as_deref(),
            now: Timestamp::now(),
        })
    }

    fn wrote(&mut self, written: api::Written, status: core::PodStatus) {
        match written {
            api::Written::Yes { revision } => self.writer.wrote(status, revision),
            api::Written::NoSuchPod => self.writer.vanished(),
            api::Written::Failed => self.writer.failed(Instant::now()),
        }
    }

    async fn clean_up(mut self: Box<Self>) {
        self.release();
        let uid = self.pod.metadata.uid.clone().unwrap_or_default();
        self.context.register.remove(&ObjectKey::of(&*self.pod), &uid);
        // Nothing is started any more behind what is removed here.
        self.running.clear();
        self.context.remove(&uid).await;
        self.context.volumes.remove(&uid).await;
        self.context.logs.remove(&self.entry.log_dir).await;
    }
}

/// Whether a volume shows fields of the pod, which may change with its labels.
fn shows_fields(pod: &core::Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().any(|volume| payload::is_made_of_files(volume) && payload::shows_fields(volume))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn exit_of(mut state: watch::Receiver<RunState>) -> Exit {
    let ended = state.wait_for(|state| matches!(state, RunState::Exited(_))).await.map(|state| state.clone());
    match ended {
        Ok(RunState::Exited(exit)) => exit,
        Ok(RunState::Running { .. }) | Err(_) => {
            let now = SystemTime::now();
            let message = "the runtime lost the container".to_owned();
            Exit { code: 137, reason: "Error", message, started_at: now, finished_at: now }
        }
    }
}

fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or_default()
}

fn moment() -> Moment {
    Moment { at: Instant::now(), wall: Timestamp::now() }
}

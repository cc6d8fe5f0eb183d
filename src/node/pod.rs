//! One pod's life, as a pure state machine: no clock, no runtime, no API in here.
//!
//! [`step`] takes what happened and what time it is, changes the [`State`] and says what to do next.
//! The worker ([`super::worker`]) does it and comes back with the outcome as another [`Event`].
//! [`State::wake`] says when to come back if nothing happens.
//!
//! Every event about a container carries the number of the life it is about (`run`, the restart
//! count): an answer to a question asked of an earlier life is dropped here, so that the worker need
//! not cancel anything exactly.
//!
//! How a pod ends: hooks run and the endpoints leave the routing tables first, the containers still
//! serving; then the main containers stop, in-flight requests finishing; then the sidecars, last
//! started first; then the status says so; then the object is deleted.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::backoff;
use super::plan::{Index, Plan, Restart, Role};
use super::probes::{Answer, ProbeKind, Tracker};

/// How long a container must run for its failures to be forgotten.
const HEALTHY: Duration = Duration::from_secs(10);
/// A container that failed its liveness probe does not answer: waiting long for it only keeps its
/// callers hanging. A probe's own `terminationGracePeriodSeconds` comes before this.
const UNHEALTHY_GRACE: Duration = Duration::from_secs(2);
/// What a runtime may take beyond the grace before the pod is declared ended without its word.
const OVERTIME: Duration = Duration::from_secs(3);

/// Now, by both clocks: what is counted is monotonic, what is shown is the wall's.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub at: Instant,
    pub wall: Timestamp,
}

/// Everything that is true of a pod on this node.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub stage: Stage,
    pub cells: Vec<Cell>,
    /// `status.startTime`.
    pub started_at: Timestamp,
    /// When `activeDeadlineSeconds` ends.
    deadline: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// The address, the volumes and the sandbox are being made; after a failure, again at `retry`.
    Preparing { retry: Option<Instant>, failures: u32 },
    /// Containers are started, kept up, and counted.
    Active,
    /// On the way to the end.
    Ending(Ending),
    /// Nothing runs and nothing will.
    Finished(Cause),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    pub cause: Cause,
    /// When the grace is over.
    deadline: Instant,
    /// The endpoints have left the routing tables, or had time enough.
    left: bool,
    /// `preStop` hooks still running.
    hooks: usize,
}

/// Why a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its containers have all ended and none is to run again.
    Completed,
    /// An init container failed for good.
    InitFailed,
    /// `activeDeadlineSeconds` have passed.
    Overdue,
    /// Its deletion was asked for.
    Deleted,
    /// The API knows it no longer.
    Gone,
}

/// One container.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    pub life: Life,
    /// How often it was started again: the number of its present life.
    pub restarts: u32,
    /// How its last life but the present one ended.
    pub last: Option<Ended>,
    /// The image's digest, once known.
    pub image_id: String,
    /// Failures in a row, by which the back-off grows.
    streak: u32,
    /// Failures in a row to get it started at all.
    refusals: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Life {
    /// Its turn has not come.
    Waiting,
    /// Being started; `again` after an earlier life.
    Starting {
        again: bool,
    },
    /// Tried again at `until`; `again` counts it as a restart.
    BackOff {
        until: Instant,
        again: bool,
        reason: &'static str,
        message: String,
    },
    Running(Running),
    /// It has ended and will not run again.
    Ended(Ended),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Running {
    since: Instant,
    pub started_at: Timestamp,
    /// Its startup probe, if any, has succeeded.
    pub started: bool,
    pub ready: bool,
    probes: Vec<Tracker>,
    stop: Stop,
}

/// Whether a running container has been told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    /// The restart policy decides what comes then.
    Asked,
    /// It starts again whatever the policy says: its definition changed.
    Replace,
}

/// The end of one life of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub code: i32,
    pub reason: String,
    pub message: String,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    /// Which life it was.
    pub run: u32,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time has passed, or the pod was just made.
    Tick,
    /// Or the reason and the words of the event that tells of it.
    Prepared(Result<(), (&'static str, String)>),
    Started {
        index: Index,
        run: u32,
        image_id: String,
    },
    /// It could not be started.
    Refused {
        index: Index,
        run: u32,
        refusal: Refusal,
    },
    /// `served`: this life has answered a request, so it was not broken from the start.
    Exited {
        index: Index,
        run: u32,
        ended: Ended,
        served: bool,
    },
    Probed {
        index: Index,
        run: u32,
        kind: ProbeKind,
        answer: Answer,
    },
    /// The container's definition has changed.
    Changed {
        index: Index,
    },
    HookDone,
    /// The endpoints have left.
    Left,
    /// Deletion was asked for, with this much grace from now.
    Delete {
        grace: Duration,
    },
    /// The API knows the pod no longer.
    Forgotten,
}

/// Why a container could not be started.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// `ErrImagePull`, `CreateContainerConfigError`, …
    pub reason: &'static str,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The image: shown as `ErrImagePull` first, then as `ImagePullBackOff`.
    Image,
    /// What must change in the API before it can work; looked at again and again.
    Config,
    /// The guest failed in its first step: counts as a life that ended with code 128.
    Run,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Address, volumes, sandbox; answered by [`Event::Prepared`].
    Prepare,
    /// Answered by [`Event::Started`] or [`Event::Refused`], later by [`Event::Exited`].
    Launch {
        index: Index,
        run: u32,
    },
    /// Answered by [`Event::Probed`].
    Probe {
        index: Index,
        run: u32,
        kind: ProbeKind,
    },
    /// Run the `preStop` hook; answered by [`Event::HookDone`].
    Hook {
        index: Index,
        limit: Duration,
    },
    /// Wait until the endpoints have left; answered by [`Event::Left`].
    Leave {
        limit: Duration,
    },
    /// With `hook`, run the `preStop` hook first, within the same grace.
    Stop {
        index: Index,
        run: u32,
        grace: Duration,
        hook: bool,
    },
    /// Let go of the sandbox, and with it of whatever still runs.
    Release,
    /// Write the last status, then delete the object.
    Remove,
    /// The worker's work is done.
    Done,
    Tell(Note),
}

/// A Kubernetes Event about the pod, or about one of its containers.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    pub index: Option<Index>,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

impl State {
    /// A pod that never ran here.
    pub fn new(plan: &Plan, now: Moment) -> State {
        let cell =
            Cell { life: Life::Waiting, restarts: 0, last: None, image_id: String::new(), streak: 0, refusals: 0 };
        State {
            stage: Stage::Preparing { retry: Some(now.at), failures: 0 },
            cells: vec![cell; plan.containers.len()],
            started_at: now.wall,
            deadline: plan.active_deadline.map(|after| now.at + after),
        }
    }

    /// Counts the pod's age from when it really started.
    pub fn started_before(&mut self, plan: &Plan, started_at: Timestamp, now: Moment) {
        self.started_at = started_at;
        let age = Duration::try_from(now.wall.duration_since(started_at)).unwrap_or(Duration::ZERO);
        self.deadline = plan.active_deadline.map(|after| now.at + after.saturating_sub(age));
    }

    /// When to step again although nothing happened.
    pub fn wake(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Preparing { retry, .. } => earliest([*retry, self.deadline]),
            Stage::Active => earliest(self.cells.iter().map(Cell::wake).chain([self.deadline])),
            Stage::Ending(ending) if ending.stopping() => Some(ending.deadline + OVERTIME),
            Stage::Ending(ending) => Some(ending.deadline),
            Stage::Finished(_) => None,
        }
    }

    /// Whether the picture is about to change by itself, so that telling it now would be telling it
    /// twice.
    pub fn unsettled(&self, now: Instant) -> bool {
        match &self.stage {
            Stage::Preparing { failures, .. } => *failures == 0,
            Stage::Active => self.cells.iter().any(|cell| cell.unsettled(now)),
            Stage::Ending(_) | Stage::Finished(_) => false,
        }
    }

    /// Whether calls to a container may be let in, must wait a moment, or go elsewhere.
    pub fn door(&self, index: Index, now: Instant) -> Door {
        /// A caller is kept waiting for a restart this long at most.
        const WORTH_WAITING: Duration = Duration::from_secs(1);
        let back = matches!(self.stage, Stage::Active);
        match self.cells.get(index).map(|cell| &cell.life) {
            Some(Life::Running(running)) if running.stop == Stop::No => Door::Open,
            Some(Life::Running(_) | Life::Starting { again: true }) if back => Door::Held,
            Some(Life::BackOff { until, again: true, .. })
                if back && until.saturating_duration_since(now) < WORTH_WAITING =>
            {
                Door::Held
            }
            _ => Door::Shut,
        }
    }

    /// Whether all init containers are through.
    pub fn initialized(&self, plan: &Plan) -> bool {
        self.cells.iter().zip(&plan.containers).all(|(cell, container)| match container.role {
            Role::Init => cell.succeeded(),
            Role::Sidecar => cell.up() || matches!(&cell.life, Life::Ended(_)),
            Role::Main => true,
        })
    }
}

impl Ending {
    fn stopping(&self) -> bool {
        self.left && self.hooks == 0
    }
}

impl Cell {
    fn wake(&self) -> Option<Instant> {
        match &self.life {
            Life::BackOff { until, .. } => Some(*until),
            Life::Running(running) if running.stop == Stop::No => {
                earliest(running.probes.iter().map(|probe| running.due(probe)))
            }
            Life::Waiting | Life::Starting { .. } | Life::Running(_) | Life::Ended(_) => None,
        }
    }

    fn unsettled(&self, now: Instant) -> bool {
        /// Back-offs shorter than this are over before anyone has seen them.
        const BLINK: Duration = Duration::from_millis(50);
        match &self.life {
            Life::Starting { .. } => true,
            Life::BackOff { until, again, .. } => *again && until.saturating_duration_since(now) < BLINK,
            Life::Running(running) => {
                running.stop != Stop::No
                    || running.probes.iter().any(|probe| running.asks(probe.kind) && probe.pending(now))
            }
            Life::Waiting | Life::Ended(_) => false,
        }
    }

    fn busy(&self) -> bool {
        matches!(self.life, Life::Starting { .. } | Life::Running(_))
    }

    fn up(&self) -> bool {
        matches!(&self.life, Life::Running(running) if running.started)
    }

    fn succeeded(&self) -> bool {
        matches!(&self.life, Life::Ended(ended) if ended.code == 0)
    }
}

/// How a container meets its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Open,
    /// It will be back in a moment.
    Held,
    Shut,
}

impl Running {
    fn due(&self, probe: &Tracker) -> Option<Instant> {
        if self.asks(probe.kind) { probe.next() } else { None }
    }

    /// The startup probe comes alone; the others come after it.
    fn asks(&self, kind: ProbeKind) -> bool {
        (kind == ProbeKind::Startup) != self.started
    }
}

fn earliest(times: impl IntoIterator<Item = Option<Instant>>) -> Option<Instant> {
    times.into_iter().flatten().min()
}

/// What follows from `event`. Changes `state`, returns what to do, in order.
pub fn step(plan: &Plan, state: &mut State, event: Event, now: Moment) -> Vec<Action> {
    let mut step = Step { plan, state, now, actions: Vec::new() };
    step.take(event);
    step.actions
}

struct Step<'a> {
    plan: &'a Plan,
    state: &'a mut State,
    now: Moment,
    actions: Vec<Action>,
}

impl Step<'_> {
    fn take(&mut self, event: Event) {
        match event {
            Event::Tick => self.tick(),
            Event::Prepared(outcome) => self.prepared(outcome),
            Event::Started { index, run, image_id } => self.started(index, run, image_id),
            Event::Refused { index, run, refusal } => self.refused(index, run, refusal),
            Event::Exited { index, run, ended, served } => self.exited(index, run, ended, served),
            Event::Probed { index, run, kind, answer } => self.probed(index, run, kind, &answer),
            Event::Changed { index } => self.changed(index),
            Event::HookDone => self.ending(|ending| ending.hooks = ending.hooks.saturating_sub(1)),
            Event::Left => self.ending(|ending| ending.left = true),
            Event::Delete { grace } => self.end(Cause::Deleted, grace),
            Event::Forgotten => self.end(Cause::Gone, self.plan.grace),
        }
    }

    fn tick(&mut self) {
        let now = self.now.at;
        let overdue = self.state.deadline.is_some_and(|deadline| deadline <= now);
        match &mut self.state.stage {
            Stage::Preparing { .. } | Stage::Active if overdue => self.end(Cause::Overdue, self.plan.grace),
            Stage::Preparing { retry, .. } => {
                if retry.take_if(|retry| *retry <= now).is_some() {
                    self.actions.push(Action::Prepare);
                }
            }
            Stage::Active => self.tick_cells(),
            Stage::Ending(ending) if ending.deadline <= now => {
                let overtime = ending.stopping() && ending.deadline + OVERTIME <= now;
                (ending.left, ending.hooks) = (true, 0);
                if overtime {
                    self.give_up();
                }
                self.stop_next();
            }
            Stage::Ending(_) | Stage::Finished(_) => {}
        }
    }

    fn tick_cells(&mut self) {
        let now = self.now.at;
        for index in 0..self.state.cells.len() {
            let cell = &mut self.state.cells[index];
            match &mut cell.life {
                Life::BackOff { until, again, .. } if *until <= now => {
                    let again = *again;
                    self.launch(index, again);
                }
                Life::Running(running) if running.stop == Stop::No => {
                    let started = running.started;
                    for probe in &mut running.probes {
                        let asked = (probe.kind == ProbeKind::Startup) != started;
                        if asked && probe.take_due(now) {
                            self.actions.push(Action::Probe { index, run: cell.restarts, kind: probe.kind });
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn prepared(&mut self, outcome: Result<(), (&'static str, String)>) {
        let Stage::Preparing { retry, failures } = &mut self.state.stage else {
            // Made after the end had begun: nothing is started in it any more.
            return self.stop_next();
        };
        match outcome {
            Ok(()) => {
                self.state.stage = Stage::Active;
                self.advance();
            }
            Err((reason, message)) => {
                *failures = failures.saturating_add(1);
                *retry = Some(self.now.at + backoff::refused(*failures));
                self.tell(None, true, reason, message);
            }
        }
    }

    /// Starts whatever's turn it is, and notices when all is over.
    fn advance(&mut self) {
        if self.state.stage != Stage::Active {
            return self.stop_next();
        }
        for index in 0..self.state.cells.len() {
            let cell = &self.state.cells[index];
            let role = self.plan.containers[index].role;
            if cell.life == Life::Waiting {
                // A life before this process: the node was restarted under a running container.
                self.launch(index, cell.last.is_some());
            }
            let cell = &self.state.cells[index];
            match role {
                Role::Init if cell.succeeded() => {}
                Role::Init => {
                    if matches!(cell.life, Life::Ended(_)) {
                        self.end(Cause::InitFailed, self.plan.grace);
                    }
                    return;
                }
                Role::Sidecar if cell.up() => {}
                Role::Sidecar => return,
                Role::Main => {}
            }
        }
        if self.mains().all(|cell| matches!(cell.life, Life::Ended(_))) {
            self.end(Cause::Completed, self.plan.grace);
        }
    }

    fn mains(&self) -> impl Iterator<Item = &Cell> {
        let roles = self.plan.containers.iter().map(|container| container.role);
        self.state.cells.iter().zip(roles).filter(|(_, role)| *role == Role::Main).map(|(cell, _)| cell)
    }

    fn launch(&mut self, index: Index, again: bool) {
        let cell = &mut self.state.cells[index];
        if again {
            cell.restarts = cell.restarts.saturating_add(1);
        }
        let again = cell.restarts > 0;
        cell.life = Life::Starting { again };
        self.actions.push(Action::Launch { index, run: cell.restarts });
    }

    /// The cell of `index`, if `run` is its present life.
    fn present(&mut self, index: Index, run: u32) -> Option<&mut Cell> {
        self.state.cells.get_mut(index).filter(|cell| cell.restarts == run)
    }

    fn started(&mut self, index: Index, run: u32, image_id: String) {
        let (now, plan) = (self.now, self.plan);
        let Some(cell) = self.present(index, run).filter(|cell| matches!(cell.life, Life::Starting { .. })) else {
            return;
        };
        let container = &plan.containers[index];
        let probes = [
            (ProbeKind::Startup, &container.startup),
            (ProbeKind::Readiness, &container.readiness),
            (ProbeKind::Liveness, &container.liveness),
        ];
        let tracker = |(kind, probe): (ProbeKind, &Option<_>)| {
            let probe: &super::probes::ProbePlan = probe.as_ref()?;
            // After a restart in place readiness is asked at once: the delay is for the first start, and
            // every moment of it would be a moment out of service.
            let at_once = run > 0 && kind == ProbeKind::Readiness;
            let delay = if at_once { Duration::ZERO } else { probe.initial_delay };
            Some(Tracker::new(kind, probe.clone(), now.at, delay))
        };
        let started = container.startup.is_none();
        cell.image_id = image_id;
        cell.refusals = 0;
        cell.life = Life::Running(Running {
            since: now.at,
            started_at: now.wall,
            started,
            ready: started && container.readiness.is_none(),
            probes: probes.into_iter().filter_map(tracker).collect(),
            stop: Stop::No,
        });
        self.tell(Some(index), false, "Created", "Container created".to_owned());
        self.tell(Some(index), false, "Started", "Container started".to_owned());
        self.advance();
    }

    fn refused(&mut self, index: Index, run: u32, refusal: Refusal) {
        let now = self.now;
        let Some(cell) = self.present(index, run).filter(|cell| matches!(cell.life, Life::Starting { .. })) else {
            return;
        };
        if refusal.kind == RefusalKind::Run {
            let ended = Ended {
                code: 128,
                reason: "StartError".into(),
                message: refusal.message.clone(),
                started_at: now.wall,
                finished_at: now.wall,
                run,
            };
            self.tell(Some(index), true, "Failed", format!("Error: {}", refusal.message));
            return self.over(index, ended, false);
        }
        cell.refusals = cell.refusals.saturating_add(1);
        let until = now.at + backoff::refused(cell.refusals);
        let repeated = refusal.kind == RefusalKind::Image && cell.refusals > 1;
        let (reason, message) = if repeated && refusal.reason == "ErrImagePull" {
            let image = &self.plan.containers[index].image;
            let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", refusal.message);
            self.tell(Some(index), false, "BackOff", format!("Back-off pulling image \"{image}\""));
            self.tell(Some(index), true, "Failed", "Error: ImagePullBackOff".to_owned());
            ("ImagePullBackOff", message)
        } else {
            let told = if refusal.kind == RefusalKind::Image { refusal.reason } else { &refusal.message };
            self.tell(Some(index), true, "Failed", format!("Error: {told}"));
            (refusal.reason, refusal.message)
        };
        self.state.cells[index].life = Life::BackOff { until, again: false, reason, message };
        self.stop_next();
    }

    fn exited(&mut self, index: Index, run: u32, ended: Ended, served: bool) {
        let now = self.now;
        let Some(cell) = self.present(index, run) else { return };
        let Life::Running(running) = &cell.life else { return };
        let healthy = served || now.at.saturating_duration_since(running.since) >= HEALTHY;
        let replace = running.stop == Stop::Replace;
        if healthy || replace {
            cell.streak = 0;
        }
        self.over(index, ended, replace);
    }

    /// A life has ended; `replace`: another follows whatever the policy says.
    fn over(&mut self, index: Index, ended: Ended, replace: bool) {
        let active = self.state.stage == Stage::Active;
        let again = replace || restarts(self.plan.containers[index].role, self.plan.restart, ended.code);
        let cell = &mut self.state.cells[index];
        if !(active && again) {
            cell.life = Life::Ended(ended);
            return self.advance();
        }
        cell.last = Some(ended);
        let delay = backoff::crashed(cell.streak);
        cell.streak = cell.streak.saturating_add(1);
        if delay.is_zero() {
            self.launch(index, true);
        } else {
            self.back_off(index, delay);
        }
    }

    fn back_off(&mut self, index: Index, delay: Duration) {
        let (name, pod) = (&self.plan.containers[index].name, &self.plan.display);
        let shown = backoff::go_duration(delay);
        self.state.cells[index].life = Life::BackOff {
            until: self.now.at + delay,
            again: true,
            reason: "CrashLoopBackOff",
            message: format!("back-off {shown} restarting failed container={name} pod={pod}"),
        };
        let told = format!("Back-off restarting failed container {name} in pod {pod}");
        self.tell(Some(index), true, "BackOff", told);
    }

    fn probed(&mut self, index: Index, run: u32, kind: ProbeKind, answer: &Answer) {
        let now = self.now.at;
        let Some(cell) = self.present(index, run) else { return };
        let Life::Running(running) = &mut cell.life else { return };
        let Some(probe) = running.probes.iter_mut().find(|probe| probe.kind == kind) else { return };
        let verdict = probe.record(answer, now);
        let mut failed = false;
        match (kind, verdict) {
            (ProbeKind::Startup, Some(true)) => {
                running.started = true;
                running.ready = !running.probes.iter().any(|probe| probe.kind == ProbeKind::Readiness);
            }
            (ProbeKind::Readiness, Some(ready)) => running.ready = ready,
            (ProbeKind::Startup | ProbeKind::Liveness, Some(false)) => failed = running.stop == Stop::No,
            (ProbeKind::Liveness, Some(true)) | (_, None) => {}
        }
        match answer {
            Answer::Success => {}
            Answer::Failure(why) => {
                self.tell(Some(index), true, "Unhealthy", format!("{} probe failed: {why}", kind.title()));
            }
            Answer::Unsupported(why) => {
                self.tell(Some(index), true, "ProbeUnsupported", format!("{} probe: {why}", kind.title()));
            }
        }
        if failed && self.state.stage == Stage::Active {
            self.kill_unhealthy(index, kind);
        } else if verdict.is_some() {
            self.advance();
        }
    }

    fn kill_unhealthy(&mut self, index: Index, kind: ProbeKind) {
        let container = &self.plan.containers[index];
        let probe = if kind == ProbeKind::Startup { &container.startup } else { &container.liveness };
        let own = probe.as_ref().and_then(|probe| probe.grace);
        let grace = own.unwrap_or(self.plan.grace.min(UNHEALTHY_GRACE));
        let title = kind.title().to_lowercase();
        let told = format!("Container {} failed {title} probe, will be restarted", container.name);
        self.tell(Some(index), false, "Killing", told);
        self.stop(index, grace, Stop::Asked, container.pre_stop);
    }

    fn changed(&mut self, index: Index) {
        if self.state.stage != Stage::Active {
            return;
        }
        let Some(cell) = self.state.cells.get_mut(index) else { return };
        match &mut cell.life {
            Life::Running(running) if running.stop == Stop::No => {
                let container = &self.plan.containers[index];
                let told = format!("Container {} definition changed, will be restarted", container.name);
                self.tell(Some(index), false, "Killing", told);
                self.stop(index, self.plan.grace, Stop::Replace, container.pre_stop);
            }
            // What kept it from starting may be gone with the change.
            Life::BackOff { until, .. } => {
                *until = self.now.at;
                (cell.streak, cell.refusals) = (0, 0);
            }
            _ => {}
        }
    }

    fn stop(&mut self, index: Index, grace: Duration, how: Stop, hook: bool) {
        let cell = &mut self.state.cells[index];
        if let Life::Running(running) = &mut cell.life {
            running.stop = how;
            // One that is being replaced or was found ill gets no new calls; one of an ending pod is
            // still ready for those that come by an old table.
            running.ready &= self.state.stage != Stage::Active;
            self.actions.push(Action::Stop { index, run: cell.restarts, grace, hook });
        }
    }

    /// Begins the end, or hastens one that has begun.
    fn end(&mut self, cause: Cause, grace: Duration) {
        let deadline = self.now.at + grace;
        match &mut self.state.stage {
            Stage::Finished(was) => {
                if matches!(cause, Cause::Deleted | Cause::Gone) {
                    *was = cause;
                    self.actions.push(if cause == Cause::Deleted { Action::Remove } else { Action::Done });
                }
            }
            Stage::Ending(ending) => {
                if matches!(cause, Cause::Deleted | Cause::Gone) {
                    ending.cause = cause;
                }
                if deadline < ending.deadline {
                    ending.deadline = deadline;
                    self.hasten(grace);
                }
            }
            Stage::Preparing { .. } | Stage::Active => self.begin_end(cause, deadline, grace),
        }
    }

    fn begin_end(&mut self, cause: Cause, deadline: Instant, grace: Duration) {
        let mut ending = Ending { cause, deadline, left: true, hooks: 0 };
        for index in 0..self.state.cells.len() {
            let cell = &mut self.state.cells[index];
            if matches!(cell.life, Life::BackOff { .. }) {
                // It waited to run again, and never will: its last end is its end.
                cell.life = cell.last.take().map_or(Life::Waiting, Life::Ended);
            }
            if !matches!(cell.life, Life::Running(_)) {
                continue;
            }
            let container = &self.plan.containers[index];
            if container.role == Role::Main {
                ending.left = false;
            }
            if container.pre_stop {
                ending.hooks += 1;
                self.actions.push(Action::Hook { index, limit: grace });
            }
            self.tell(Some(index), false, "Killing", format!("Stopping container {}", container.name));
        }
        if !ending.left {
            self.actions.push(Action::Leave { limit: grace });
        }
        self.state.stage = Stage::Ending(ending);
        self.stop_next();
    }

    /// The grace has become shorter: tells those that are stopping already.
    fn hasten(&mut self, grace: Duration) {
        for index in 0..self.state.cells.len() {
            let cell = &self.state.cells[index];
            if matches!(&cell.life, Life::Running(running) if running.stop != Stop::No) {
                self.actions.push(Action::Stop { index, run: cell.restarts, grace, hook: false });
            }
        }
    }

    fn ending(&mut self, change: impl FnOnce(&mut Ending)) {
        if let Stage::Ending(ending) = &mut self.state.stage {
            change(ending);
            self.stop_next();
        }
    }

    /// While ending: stops those whose turn it is; finishes when nothing is left.
    fn stop_next(&mut self) {
        let Stage::Ending(ending) = &self.state.stage else { return };
        if !ending.stopping() {
            return;
        }
        let grace = ending.deadline.saturating_duration_since(self.now.at);
        let roles: Vec<Role> = self.plan.containers.iter().map(|container| container.role).collect();
        let mut others_busy = false;
        for (index, role) in roles.iter().enumerate() {
            if *role != Role::Sidecar && self.state.cells[index].busy() {
                others_busy = true;
                self.stop_unless_told(index, grace);
            }
        }
        if others_busy {
            return;
        }
        let busy = |index: &Index| self.state.cells[*index].busy();
        match (0..roles.len()).rev().find(busy) {
            Some(index) => self.stop_unless_told(index, grace),
            None => self.finish(),
        }
    }

    fn stop_unless_told(&mut self, index: Index, grace: Duration) {
        if matches!(&self.state.cells[index].life, Life::Running(running) if running.stop == Stop::No) {
            self.stop(index, grace, Stop::Asked, false);
        }
    }

    /// The runtime did not keep its word: what still runs ends with the sandbox.
    fn give_up(&mut self) {
        let now = self.now.wall;
        for cell in self.state.cells.iter_mut().filter(|cell| cell.busy()) {
            let started_at = if let Life::Running(running) = &cell.life { running.started_at } else { now };
            cell.life = Life::Ended(Ended {
                code: 137,
                reason: "Error".into(),
                message: "it did not end within its grace and was dropped with the pod".into(),
                started_at,
                finished_at: now,
                run: cell.restarts,
            });
        }
    }

    fn finish(&mut self) {
        let Stage::Ending(ending) = &self.state.stage else { return };
        let cause = ending.cause;
        self.state.stage = Stage::Finished(cause);
        self.actions.push(Action::Release);
        match cause {
            Cause::Deleted => self.actions.push(Action::Remove),
            Cause::Gone => self.actions.push(Action::Done),
            Cause::Completed | Cause::InitFailed | Cause::Overdue => {}
        }
    }

    fn tell(&mut self, index: Option<Index>, warning: bool, reason: &'static str, message: String) {
        self.actions.push(Action::Tell(Note { index, warning, reason, message }));
    }
}

/// Whether a container that ended with `code` runs again.
pub fn restarts(role: Role, policy: Restart, code: i32) -> bool {
    match (role, policy) {
        (Role::Sidecar, _) | (Role::Main, Restart::Always) => true,
        (_, Restart::Never) => false,
        (Role::Init, _) | (Role::Main, Restart::OnFailure) => code != 0,
    }
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;

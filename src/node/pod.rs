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

mod step;

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::plan::{Index, Plan, Restart, Role};
use super::probes::{Answer, ProbeKind, Tracker};
pub use step::step;

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
    /// Why the node let the pod go, if it did.
    pub evicted: Option<Eviction>,
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

/// Why the node lets a pod go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// In upstream's words.
    pub message: String,
    /// The machine is short of something, rather than the pod beyond what it may have.
    pub disruption: bool,
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
    /// The node let it go.
    Evicted,
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
    /// What the runtime calls the present or last life that was started, if it says.
    pub id: Option<String>,
    /// Failures in a row, by which the back-off grows.
    streak: u32,
    /// Failures in a row to get it started at all.
    refusals: u32,
    /// The reason and the words of the last of them, which go on being told while it is tried again.
    pub refused: Option<(&'static str, String)>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Life {
    /// Its turn has not come.
    Waiting,
    /// It was started under another process of the node and runs on, as far as is known: it is to be
    /// found again.
    Outlived {
        started_at: Timestamp,
    },
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
    /// As [`Cell::id`].
    pub id: Option<String>,
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
        id: Option<String>,
        /// Since when it runs, if it was found rather than started.
        found: Option<Timestamp>,
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
    /// The plan has more containers than before, behind the others.
    Added,
    HookDone,
    /// The endpoints have left.
    Left,
    /// Deletion was asked for, with this much grace from now.
    Delete {
        grace: Duration,
    },
    /// The node lets the pod go.
    Evict(Eviction),
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
        State {
            stage: Stage::Preparing { retry: Some(now.at), failures: 0 },
            cells: vec![Cell::new(); plan.containers.len()],
            started_at: now.wall,
            evicted: None,
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
            Role::Main | Role::Ephemeral => true,
        })
    }
}

impl Ending {
    fn stopping(&self) -> bool {
        self.left && self.hooks == 0
    }
}

impl Cell {
    /// One that never ran.
    fn new() -> Cell {
        Cell {
            life: Life::Waiting,
            restarts: 0,
            last: None,
            image_id: String::new(),
            id: None,
            streak: 0,
            refusals: 0,
            refused: None,
        }
    }

    fn wake(&self) -> Option<Instant> {
        match &self.life {
            Life::BackOff { until, .. } => Some(*until),
            Life::Running(running) if running.stop == Stop::No => {
                earliest(running.probes.iter().map(|probe| running.due(probe)))
            }
            Life::Waiting | Life::Outlived { .. } | Life::Starting { .. } | Life::Running(_) | Life::Ended(_) => None,
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
            Life::Waiting | Life::Outlived { .. } | Life::Ended(_) => false,
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

/// Whether a container that ended with `code` runs again.
pub fn restarts(role: Role, policy: Restart, code: i32) -> bool {
    match (role, policy) {
        (Role::Sidecar, _) | (Role::Main, Restart::Always) => true,
        (Role::Ephemeral, _) | (_, Restart::Never) => false,
        (Role::Init, _) | (Role::Main, Restart::OnFailure) => code != 0,
    }
}

#[cfg(test)]
mod tests;

//! The transitions: one method for each event, and what several of them share.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    Action, Cause, Cell, Ended, Ending, Event, Eviction, Life, Moment, Note, OVERTIME, Refusal, RefusalKind, Running,
    Stage, State, Stop, restarts,
};
use crate::node::backoff;
use crate::node::plan::{Index, Plan, Role};
use crate::node::probes::{Answer, ProbeKind, ProbePlan, Tracker};

/// How long a container must run for its failures to be forgotten.
pub(super) const HEALTHY: Duration = Duration::from_secs(10);
/// A container that failed its liveness probe does not answer: waiting long for it only keeps its
/// callers hanging. A probe's own `terminationGracePeriodSeconds` comes before this.
pub(super) const UNHEALTHY_GRACE: Duration = Duration::from_secs(2);

/// Upstream's, for a hard threshold.
pub(super) const EVICTION_GRACE: Duration = Duration::from_secs(1);

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
            Event::Started { index, run, image_id, id, found } => self.started(index, run, (image_id, id), found),
            Event::Refused { index, run, refusal } => self.refused(index, run, refusal),
            Event::Exited { index, run, ended, served } => self.exited(index, run, ended, served),
            Event::Probed { index, run, kind, answer } => self.probed(index, run, kind, &answer),
            Event::Changed { index } => self.changed(index),
            Event::Added => {
                self.state.cells.resize(self.plan.containers.len(), Cell::new());
                self.advance();
            }
            Event::HookDone => self.ending(|ending| ending.hooks = ending.hooks.saturating_sub(1)),
            Event::Left => self.ending(|ending| ending.left = true),
            Event::Delete { grace } => self.end(Cause::Deleted, grace),
            Event::Evict(eviction) => self.evict(eviction),
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
        // Those that look into the pod wait for nobody: what they are to see may be why others do not start.
        for index in 0..self.state.cells.len() {
            if self.plan.containers[index].role == Role::Ephemeral {
                self.begin(index);
            }
        }
        for index in 0..self.state.cells.len() {
            let role = self.plan.containers[index].role;
            self.begin(index);
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
                Role::Main | Role::Ephemeral => {}
            }
        }
        if self.mains().all(|cell| matches!(cell.life, Life::Ended(_))) {
            self.end(Cause::Completed, self.plan.grace);
        }
    }

    /// Starts a container whose turn it is, unless it was started.
    fn begin(&mut self, index: Index) {
        let cell = &self.state.cells[index];
        match cell.life {
            // A life before this process: the node was restarted under a running container.
            Life::Waiting => self.launch(index, cell.last.is_some()),
            // The same life: whoever starts it finds it.
            Life::Outlived { .. } => self.launch(index, false),
            _ => {}
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

    fn started(&mut self, index: Index, run: u32, (image_id, id): (String, Option<String>), found: Option<Timestamp>) {
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
            let probe: &ProbePlan = probe.as_ref()?;
            // After a restart in place readiness is asked at once: the delay is for the first start, and
            // every moment of it would be a moment out of service.
            let at_once = (run > 0 || found.is_some()) && kind == ProbeKind::Readiness;
            let delay = if at_once { Duration::ZERO } else { probe.initial_delay };
            Some(Tracker::new(kind, probe.clone(), now.at, delay))
        };
        let started = container.startup.is_none();
        (cell.image_id, cell.id) = (image_id, id);
        (cell.refusals, cell.refused) = (0, None);
        cell.life = Life::Running(Running {
            since: now.at,
            started_at: found.unwrap_or(now.wall),
            started,
            ready: started && container.readiness.is_none(),
            probes: probes.into_iter().filter_map(tracker).collect(),
            stop: Stop::No,
        });
        if found.is_none() {
            self.tell(Some(index), false, "Created", "Container created".to_owned());
            self.tell(Some(index), false, "Started", "Container started".to_owned());
        }
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
                id: None,
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
        let cell = &mut self.state.cells[index];
        cell.refused = Some((reason, message.clone()));
        cell.life = Life::BackOff { until, again: false, reason, message };
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
            Answer::Unknown(why) => {
                self.tell(Some(index), true, "Unhealthy", format!("{} probe errored: {why}", kind.title()));
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
                (cell.streak, cell.refusals, cell.refused) = (0, 0, None);
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

    /// The pod holds what the node needs, or what is not its: it ends almost at once, unless it is ending anyway.
    fn evict(&mut self, eviction: Eviction) {
        if matches!(self.state.stage, Stage::Preparing { .. } | Stage::Active) {
            self.tell(None, true, "Evicted", eviction.message.clone());
            self.state.evicted = Some(eviction);
            self.end(Cause::Evicted, EVICTION_GRACE);
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
                id: cell.id.clone(),
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
            Cause::Completed | Cause::InitFailed | Cause::Overdue | Cause::Evicted => {}
        }
    }

    fn tell(&mut self, index: Option<Index>, warning: bool, reason: &'static str, message: String) {
        self.actions.push(Action::Tell(Note { index, warning, reason, message }));
    }
}

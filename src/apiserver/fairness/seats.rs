//! The seats of all levels, and the lines before them.
//!
//! A level has its share of the seats for sure, but for what it lends; beyond that it may take what the
//! others lend and do not use. Those who wait stand in several lines: a flow's requests go to the
//! shortest of a few lines that its hash picks, and the lines are served in turn, so that a flow that
//! sends thousands fills its own lines and nobody else's (shuffle sharding).
//!
//! All of it is one lock that is held for a few comparisons. A seat is a guard: dropping it lets the next
//! one sit down.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;

use super::Flow;
use crate::kinds::common::text;

/// Why a request gets no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The lines that it could stand in are full.
    QueueFull,
    /// The level has no lines.
    ConcurrencyLimit,
    /// It has waited for too long.
    TimeOut,
}

const REFUSALS: usize = 3;

/// What one level does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LevelFigures {
    pub name: String,
    pub nominal: usize,
    pub executing: usize,
    pub waiting: usize,
    pub dispatched: u64,
    /// By [`Refusal`].
    pub refused: [(&'static str, u64); REFUSALS],
}

/// Handles on the same seats.
#[derive(Clone)]
pub struct Seats(Arc<Mutex<State>>);

struct State {
    total: usize,
    levels: BTreeMap<Arc<str>, Level>,
}

#[derive(Default)]
struct Level {
    /// Its share.
    nominal: usize,
    /// What of it nobody else gets.
    kept: usize,
    /// The most that it may have with what it borrows.
    most: usize,
    hand: usize,
    line_limit: usize,
    lines: Vec<VecDeque<oneshot::Sender<Seat>>>,
    /// The line that is served next.
    next: usize,
    executing: usize,
    waiting: usize,
    dispatched: u64,
    refused: [u64; REFUSALS],
}

/// The right to be answered; nothing for requests that nothing limits.
#[must_use = "dropping a seat gives it up"]
pub struct Seat(Option<(Seats, Arc<str>)>);

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some((seats, level)) = self.0.take() {
            seats.leave(&level);
        }
    }
}

impl Seats {
    pub fn new(total: usize) -> Self {
        Self(Arc::new(Mutex::new(State { total, levels: BTreeMap::new() })))
    }

    /// The state is whole after each statement, so a panic elsewhere cannot have broken it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the levels as they are configured. Who sits or waits stays.
    pub fn configure(&self, levels: &[Value]) {
        let mut state = self.lock();
        let limited: Vec<&Value> = levels.iter().filter(|level| text(level, "/spec/type") == "Limited").collect();
        let shares = |level: &Value| number(level, "nominalConcurrencyShares");
        let sum: usize = limited.iter().map(|level| shares(level)).sum();
        let total = state.total;
        for level in &limited {
            let nominal = (total * shares(level)).div_ceil(sum.max(1));
            let name: Arc<str> = text(level, "/metadata/name").into();
            state.levels.entry(name).or_default().configure(level, nominal, total);
        }
        let known = |name: &str| limited.iter().any(|level| text(level, "/metadata/name") == name);
        state.levels.retain(|name, level| known(name) || level.executing + level.waiting > 0);
        self.seat_waiting(&mut state);
    }

    /// A seat for a request of this flow, at once or after a while.
    pub async fn take(&self, flow: &Flow, patience: Duration) -> Result<Seat, Refusal> {
        if flow.exempt {
            return Ok(Seat(None));
        }
        let called = {
            let mut state = self.lock();
            if state.may_sit(&flow.level) {
                return Ok(self.sit(&mut state, &flow.level));
            }
            let Some(level) = state.levels.get_mut(&flow.level) else { return Ok(Seat(None)) };
            level.stand_in_line(flow.hash)?
        };
        match tokio::time::timeout(patience, called).await {
            Ok(Ok(seat)) => Ok(seat),
            Ok(Err(_)) | Err(_) => {
                let mut state = self.lock();
                if let Some(level) = state.levels.get_mut(&flow.level) {
                    level.forget_those_gone();
                    level.refused[Refusal::TimeOut as usize] += 1;
                }
                Err(Refusal::TimeOut)
            }
        }
    }

    pub fn figures(&self) -> Vec<LevelFigures> {
        let state = self.lock();
        let reasons = [Refusal::QueueFull, Refusal::ConcurrencyLimit, Refusal::TimeOut];
        let of = |(name, level): (&Arc<str>, &Level)| LevelFigures {
            name: name.to_string(),
            nominal: level.nominal,
            executing: level.executing,
            waiting: level.waiting,
            dispatched: level.dispatched,
            refused: reasons.map(|refusal| (refusal.reason(), level.refused[refusal as usize])),
        };
        state.levels.iter().map(of).collect()
    }

    fn sit(&self, state: &mut State, name: &Arc<str>) -> Seat {
        if let Some(level) = state.levels.get_mut(name) {
            level.executing += 1;
            level.dispatched += 1;
        }
        Seat(Some((self.clone(), name.clone())))
    }

    fn leave(&self, name: &Arc<str>) {
        let mut state = self.lock();
        if let Some(level) = state.levels.get_mut(name) {
            level.executing = level.executing.saturating_sub(1);
        }
        self.seat_waiting(&mut state);
    }

    /// Calls those who wait, as long as there are seats for them.
    fn seat_waiting(&self, state: &mut State) {
        let names: Vec<Arc<str>> =
            state.levels.iter().filter(|(_, level)| level.waiting > 0).map(|(name, _)| name.clone()).collect();
        for name in names {
            while state.may_be_seated(&name) {
                let Some(caller) = state.levels.get_mut(&name).and_then(Level::next_in_line) else { break };
                let seat = self.sit(state, &name);
                // Who has gone away meanwhile gives the seat back, but not through the lock that is held.
                if let Err(mut seat) = caller.send(seat) {
                    seat.0 = None;
                    if let Some(level) = state.levels.get_mut(&name) {
                        level.executing -= 1;
                        level.dispatched -= 1;
                    }
                }
            }
        }
    }
}

fn number(level: &Value, name: &str) -> usize {
    level["spec"]["limited"][name].as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(0)
}

impl State {
    /// Whether a new request may sit down: not before those who wait already.
    fn may_sit(&self, name: &Arc<str>) -> bool {
        self.levels.get(name).is_some_and(|level| level.waiting == 0) && self.may_be_seated(name)
    }

    fn may_be_seated(&self, name: &Arc<str>) -> bool {
        let Some(level) = self.levels.get(name) else { return false };
        if level.executing < level.kept {
            return true;
        }
        // What the others use, or keep for themselves.
        let others = self.levels.iter().filter(|(other, _)| *other != name);
        let taken: usize = others.map(|(_, other)| other.executing.max(other.kept)).sum();
        level.executing < level.most && level.executing + taken < self.total
    }
}

impl Level {
    fn configure(&mut self, object: &Value, nominal: usize, total: usize) {
        self.nominal = nominal;
        self.kept = nominal - nominal * number(object, "lendablePercent").min(100) / 100;
        let borrows = object["spec"]["limited"]["borrowingLimitPercent"].as_u64();
        let borrows = borrows.and_then(|percent| usize::try_from(percent).ok());
        self.most = borrows.map_or(total, |percent| nominal + nominal.saturating_mul(percent) / 100);
        let queuing = &object["spec"]["limited"]["limitResponse"]["queuing"];
        let size = |name: &str, most: usize| {
            let given = queuing[name].as_u64().and_then(|number| usize::try_from(number).ok());
            given.unwrap_or(0).min(most)
        };
        self.hand = size("handSize", MAX_HAND);
        self.line_limit = size("queueLengthLimit", MAX_LINE);
        let lines = size("queues", MAX_LINES);
        if lines != self.lines.len() {
            let waiting: Vec<_> = std::mem::take(&mut self.lines).into_iter().flatten().collect();
            self.lines = (0..lines).map(|_| VecDeque::new()).collect();
            self.next = 0;
            // Without lines there is no waiting: those who do are let go, and are told so.
            self.waiting = if lines == 0 { 0 } else { waiting.len() };
            for (i, caller) in waiting.into_iter().enumerate() {
                if let Some(line) = i.checked_rem(lines) {
                    self.lines[line].push_back(caller);
                }
            }
        }
    }

    fn stand_in_line(&mut self, hash: u64) -> Result<oneshot::Receiver<Seat>, Refusal> {
        if self.lines.is_empty() {
            self.refused[Refusal::ConcurrencyLimit as usize] += 1;
            return Err(Refusal::ConcurrencyLimit);
        }
        let hand = hand(hash, self.lines.len(), self.hand.max(1));
        let shortest = hand.min_by_key(|line| self.lines[*line].len()).unwrap_or(0);
        if self.lines[shortest].len() >= self.line_limit {
            self.refused[Refusal::QueueFull as usize] += 1;
            return Err(Refusal::QueueFull);
        }
        let (caller, called) = oneshot::channel();
        self.lines[shortest].push_back(caller);
        self.waiting += 1;
        Ok(called)
    }

    /// The first of the line whose turn it is.
    fn next_in_line(&mut self) -> Option<oneshot::Sender<Seat>> {
        for _ in 0..self.lines.len() {
            let line = self.next % self.lines.len();
            self.next = line + 1;
            if let Some(caller) = self.lines[line].pop_front() {
                self.waiting -= 1;
                return Some(caller);
            }
        }
        None
    }

    fn forget_those_gone(&mut self) {
        for line in &mut self.lines {
            line.retain(|caller| !caller.is_closed());
        }
        self.waiting = self.lines.iter().map(VecDeque::len).sum();
    }
}

/// The most that is made of what a level asks for.
const MAX_LINES: usize = 1024;
const MAX_HAND: usize = 16;
const MAX_LINE: usize = 1000;

/// The lines that a hash picks; the same one may come twice, which costs a choice and nothing else.
fn hand(hash: u64, lines: usize, size: usize) -> impl Iterator<Item = usize> {
    let mut state = hash;
    (0..size).map(move |_| {
        // One step of the generator of Knuth's MMIX, of which the high bits are good.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or(0) % lines
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn level(name: &str, shares: u64, lent: u64, queuing: Value) -> Value {
        let response = match queuing {
            Value::Null => json!({"type": "Reject"}),
            queuing => json!({"type": "Queue", "queuing": queuing}),
        };
        json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": lent, "limitResponse": response}}})
    }

    fn lines(queues: u64, limit: u64) -> Value {
        json!({"queues": queues, "handSize": 1, "queueLengthLimit": limit})
    }

    fn flow(level: &str, hash: u64) -> Flow {
        Flow {
            schema: "s".into(),
            schema_uid: "".into(),
            level: level.into(),
            level_uid: "".into(),
            exempt: level == "exempt",
            hash,
        }
    }

    async fn at_once(seats: &Seats, level: &str) -> Result<Seat, Refusal> {
        seats.take(&flow(level, 0), Duration::ZERO).await
    }

    #[tokio::test]
    async fn a_level_borrows_what_others_lend_and_gets_back_what_it_keeps() {
        let seats = Seats::new(10);
        seats.configure(&[level("a", 5, 60, Value::Null), level("b", 5, 0, Value::Null)]);
        let mut taken = Vec::new();
        while let Ok(seat) = at_once(&seats, "b").await {
            taken.push(seat);
        }
        assert_eq!(taken.len(), 8, "its own five, and the three that the other lends");
        let mut kept = Vec::new();
        while let Ok(seat) = at_once(&seats, "a").await {
            kept.push(seat);
        }
        assert_eq!(kept.len(), 2, "what it does not lend is there");
        assert!(at_once(&seats, "exempt").await.is_ok(), "and nothing limits the exempt");
        drop(taken.pop());
        assert!(at_once(&seats, "a").await.is_ok());
        let figures = seats.figures();
        assert_eq!((figures[1].executing, figures[1].refused[1]), (7, ("concurrency-limit", 1)));
    }

    #[tokio::test]
    async fn flows_take_turns_however_much_one_of_them_sends() {
        let seats = Seats::new(1);
        seats.configure(&[level("a", 1, 0, lines(64, 100))]);
        let first = at_once(&seats, "a").await.expect("a seat");
        let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
        // One flow sends twenty requests, then another sends one.
        let mut tasks = Vec::new();
        for (who, count) in [(1_u64, 20), (2, 1)] {
            for _ in 0..count {
                let (seats, told) = (seats.clone(), told.clone());
                let before = seats.figures()[0].waiting;
                let watched = seats.clone();
                tasks.push(tokio::spawn(async move {
                    let seat = seats.take(&flow("a", who), LONG).await;
                    let _ = told.send(who);
                    drop(seat);
                }));
                while watched.figures()[0].waiting == before {
                    tokio::task::yield_now().await;
                }
            }
        }
        drop(first);
        let mut served = Vec::new();
        for _ in 0..3 {
            served.push(order.recv().await.expect("one of them"));
        }
        assert!(served.contains(&2), "it waits for one turn, not for twenty: {served:?}");
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!((seats.figures()[0].executing, seats.figures()[0].waiting), (0, 0));
    }

    #[tokio::test]
    async fn lines_are_bounded_and_so_is_patience() {
        let seats = Seats::new(1);
        seats.configure(&[level("a", 1, 0, lines(1, 2))]);
        let held = at_once(&seats, "a").await.expect("a seat");
        assert_eq!(at_once(&seats, "a").await.err(), Some(Refusal::TimeOut));
        assert_eq!(seats.figures()[0].waiting, 0, "who has gone leaves the line");
        let wait = || {
            let seats = seats.clone();
            tokio::spawn(async move { seats.take(&flow("a", 0), LONG).await.map(drop) })
        };
        let waiting = [wait(), wait()];
        while seats.figures()[0].waiting < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(at_once(&seats, "a").await.err(), Some(Refusal::QueueFull));
        drop(held);
        for one in waiting {
            assert_eq!(one.await.expect("no panic"), Ok(()));
        }
        let figures = &seats.figures()[0];
        assert_eq!((figures.executing, figures.waiting, figures.dispatched), (0, 0, 3));
        assert_eq!(figures.refused, [("queue-full", 1), ("concurrency-limit", 0), ("time-out", 1)]);
    }

    #[tokio::test]
    async fn who_gives_up_while_waiting_takes_no_seat() {
        let seats = Seats::new(1);
        seats.configure(&[level("a", 1, 0, lines(4, 10))]);
        let held = at_once(&seats, "a").await.expect("a seat");
        let waiting = tokio::spawn({
            let seats = seats.clone();
            async move { seats.take(&flow("a", 0), LONG).await.map(drop) }
        });
        while seats.figures()[0].waiting == 0 {
            tokio::task::yield_now().await;
        }
        waiting.abort();
        let _ = waiting.await;
        drop(held);
        assert!(at_once(&seats, "a").await.is_ok(), "the seat is free");
    }
}

//! The pods that wait for a node: ready to be tried, backing off, or waiting for the world to change.
//!
//! ```text
//!             add                    no node fits                something relevant changed
//! (new) ─────────────► active ─────────────────► unschedulable ───────────────► active or backoff
//!                        ▲        binding failed        │ a minute passed
//!                        └──────── backoff ◄────────────┴──────────────────────►
//! ```
//!
//! Pure: the clock comes in. It holds one small entry for each unscheduled pod in the cluster, and
//! none else, so the API server's objects bound it: whoever may create pods without end meets that
//! bound first.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::decide::Refusal;
use super::filter::Blocker;
use super::snapshot::Effect;
use crate::reconcile::ObjectKey;

/// The first delay after a failure: short, because what a pod waits for is often a node that is just
/// coming back. It doubles with each failure.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// However quiet the world, a pod is tried again after this: a missed trigger delays and never strands.
const FLUSH_AFTER: Duration = Duration::from_secs(60);

/// What would have to change for a refused pod to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Waits {
    /// For pods to go.
    freed: bool,
    /// For pods to come.
    placed: bool,
}

impl Waits {
    /// Any refusal may end when a node comes or changes; some also when pods come or go.
    fn of(refusal: &Refusal) -> Self {
        let mut waits = Self::default();
        for blocker in refusal.reasons.keys() {
            match blocker {
                Blocker::Cordoned | Blocker::OtherNode | Blocker::Taint { .. } => {}
                Blocker::NodeAffinity | Blocker::NoSpreadLabel => {}
                // Whoever follows the claims tries such pods again.
                Blocker::Claim(_) | Blocker::Volume(_) => {}
                Blocker::Ports | Blocker::Insufficient(_) | Blocker::TooManyPods => waits.freed = true,
                Blocker::PodAntiAffinity | Blocker::ExistingAntiAffinity => waits.freed = true,
                // Labels of others may change both ways.
                Blocker::Spread | Blocker::PodAffinity => (waits.freed, waits.placed) = (true, true),
            }
        }
        waits
    }

    fn end_with(self, effect: Effect) -> bool {
        effect.node || (self.freed && effect.freed) || (self.placed && effect.placed)
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Place {
    Active,
    /// Taken out by `pop`.
    Out,
    Backoff {
        until: Instant,
    },
    Unschedulable {
        since: Instant,
        waits: Waits,
    },
}

#[derive(Debug)]
struct Entry {
    place: Place,
    priority: i32,
    /// The order of arrival among equals; kept for life, so that waiting is not punished.
    number: u64,
    failures: u32,
    /// Before this time it is not tried again, whatever changes.
    not_before: Instant,
}

/// Highest priority first, then the longest waiting.
type Rank = (std::cmp::Reverse<i32>, u64, ObjectKey);

#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<ObjectKey, Entry>,
    active: BTreeSet<Rank>,
    /// Backing off, by the time it ends.
    timed: BTreeSet<(Instant, ObjectKey)>,
    /// Unschedulable ones, by since when.
    parked: BTreeSet<(Instant, ObjectKey)>,
    arrivals: u64,
}

impl Queue {
    /// A pod wants a node. One that is known already stays where it is.
    pub fn add(&mut self, key: &ObjectKey, priority: i32, now: Instant) {
        if self.entries.contains_key(key) {
            return;
        }
        self.arrivals += 1;
        let entry = Entry { place: Place::Out, priority, number: self.arrivals, failures: 0, not_before: now };
        self.entries.insert(key.clone(), entry);
        self.put(key, Place::Active);
    }

    /// The pod itself has changed: try it at once.
    pub fn activate(&mut self, key: &ObjectKey) {
        if self.entries.get(key).is_some_and(|entry| entry.place != Place::Out) {
            self.put(key, Place::Active);
        }
    }

    /// The pod is placed or gone.
    pub fn remove(&mut self, key: &ObjectKey) {
        if self.entries.contains_key(key) {
            self.put(key, Place::Out);
            self.entries.remove(key);
        }
    }

    /// The next pod to try; [`Queue::refused`], [`Queue::failed`] or [`Queue::remove`] must follow.
    pub fn pop(&mut self) -> Option<ObjectKey> {
        let (_, _, key) = self.active.first()?.clone();
        self.put(&key, Place::Out);
        Some(key)
    }

    /// No node fits it: it waits for a change that may help.
    pub fn refused(&mut self, key: &ObjectKey, refusal: &Refusal, now: Instant) {
        if self.count_failure(key, now).is_some() {
            self.put(key, Place::Unschedulable { since: now, waits: Waits::of(refusal) });
        }
    }

    /// Something else went wrong, such as its binding: it is tried again after a delay.
    pub fn failed(&mut self, key: &ObjectKey, now: Instant) {
        if let Some(until) = self.count_failure(key, now) {
            self.put(key, Place::Backoff { until });
        }
    }

    /// A refused pod is tried again when its back-off is over, whatever happens.
    pub fn delay(&mut self, key: &ObjectKey, now: Instant) {
        if let Some(Place::Unschedulable { .. }) = self.entries.get(key).map(|entry| &entry.place) {
            self.resume(key, now);
        }
    }

    /// The world has changed: whom that may help is tried again, when its back-off is over.
    pub fn wake(&mut self, effect: Effect, now: Instant) {
        if effect.is_nothing() {
            return;
        }
        let helped = |key: &&ObjectKey| match self.entries.get(*key).map(|entry| &entry.place) {
            Some(Place::Unschedulable { waits, .. }) => waits.end_with(effect),
            _ => false,
        };
        let keys: Vec<ObjectKey> = self.parked.iter().map(|(_, key)| key).filter(helped).cloned().collect();
        for key in keys {
            self.resume(&key, now);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        while let Some((until, key)) = self.timed.first().cloned()
            && until <= now
        {
            self.put(&key, Place::Active);
        }
        while let Some((since, key)) = self.parked.first().cloned()
            && since + FLUSH_AFTER <= now
        {
            self.resume(&key, now);
        }
    }

    /// When `tick` has something to do again.
    pub fn next_tick(&self) -> Option<Instant> {
        let timed = self.timed.first().map(|(until, _)| *until);
        let parked = self.parked.first().map(|(since, _)| *since + FLUSH_AFTER);
        timed.into_iter().chain(parked).min()
    }

    pub fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    fn resume(&mut self, key: &ObjectKey, now: Instant) {
        let Some(entry) = self.entries.get(key) else { return };
        let until = entry.not_before;
        self.put(key, if until <= now { Place::Active } else { Place::Backoff { until } });
    }

    /// When the pod may be tried again; `None` for one that was removed meanwhile.
    fn count_failure(&mut self, key: &ObjectKey, now: Instant) -> Option<Instant> {
        let entry = self.entries.get_mut(key)?;
        entry.not_before = now + BACKOFF_FIRST.saturating_mul(1 << entry.failures.min(16)).min(BACKOFF_MAX);
        entry.failures = entry.failures.saturating_add(1);
        Some(entry.not_before)
    }

    fn put(&mut self, key: &ObjectKey, place: Place) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let rank = (std::cmp::Reverse(entry.priority), entry.number, key.clone());
        match std::mem::replace(&mut entry.place, place.clone()) {
            Place::Active => self.active.remove(&rank),
            Place::Backoff { until } => self.timed.remove(&(until, key.clone())),
            Place::Unschedulable { since, .. } => self.parked.remove(&(since, key.clone())),
            Place::Out => false,
        };
        match place {
            Place::Active => self.active.insert(rank),
            Place::Backoff { until } => self.timed.insert((until, key.clone())),
            Place::Unschedulable { since, .. } => self.parked.insert((since, key.clone())),
            Place::Out => false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("shop", name)
    }

    fn refusal(blocker: Blocker) -> Refusal {
        Refusal { nodes: 1, reasons: [(blocker, 1)].into() }
    }

    const NODE: Effect = Effect { node: true, freed: false, placed: false };
    const FREED: Effect = Effect { node: false, freed: true, placed: false };
    const PLACED: Effect = Effect { node: false, freed: false, placed: true };

    #[test]
    fn priority_first_then_arrival() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (name, priority) in [("a", 0), ("b", 0), ("c", 10), ("a", 99)] {
            queue.add(&key(name), priority, now);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [key("c"), key("a"), key("b")]);
    }

    #[test]
    fn a_refused_pod_waits_for_what_helps_it() {
        for (blocker, helps) in [
            (Blocker::Insufficient("cpu".to_owned()), [true, true, false]),
            (Blocker::NodeAffinity, [true, false, false]),
            (Blocker::PodAffinity, [true, true, true]),
            (Blocker::Taint { key: "k".to_owned(), value: String::new() }, [true, false, false]),
        ] {
            for (effect, helped) in [NODE, FREED, PLACED].into_iter().zip(helps) {
                let (mut queue, now) = (Queue::default(), Instant::now());
                queue.add(&key("a"), 0, now);
                queue.pop();
                queue.refused(&key("a"), &refusal(blocker.clone()), now);
                queue.wake(effect, now + BACKOFF_FIRST);
                assert_eq!(queue.has_active(), helped, "{blocker:?} {effect:?}");
            }
        }
    }

    #[test]
    fn a_change_during_the_back_off_takes_effect_when_it_ends() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(&key("a"), 0, now);
        queue.pop();
        queue.refused(&key("a"), &refusal(Blocker::TooManyPods), now);
        queue.wake(FREED, now);
        assert!(!queue.has_active());
        assert_eq!(queue.next_tick(), Some(now + BACKOFF_FIRST));
        queue.tick(now + BACKOFF_FIRST);
        assert!(queue.has_active());
    }

    #[test]
    fn delays_double_up_to_a_limit() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(&key("a"), 0, now);
        let mut delays = Vec::new();
        for _ in 0..12 {
            queue.pop();
            queue.failed(&key("a"), now);
            delays.push(queue.next_tick().expect("it backs off") - now);
            queue.tick(now + BACKOFF_MAX);
        }
        assert_eq!(delays[..3], [BACKOFF_FIRST, BACKOFF_FIRST * 2, BACKOFF_FIRST * 4]);
        assert_eq!(delays.last(), Some(&BACKOFF_MAX));
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(&key("a"), 0, now);
        queue.pop();
        queue.refused(&key("a"), &refusal(Blocker::NodeAffinity), now);
        queue.tick(now + FLUSH_AFTER);
        assert_eq!(queue.pop(), Some(key("a")));
    }

    #[test]
    fn a_removed_pod_leaves_nothing_behind() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for name in ["a", "b", "c", "d"] {
            queue.add(&key(name), 0, now);
        }
        queue.pop();
        queue.refused(&key("a"), &Refusal::default(), now);
        queue.pop();
        queue.failed(&key("b"), now);
        queue.pop();
        for name in ["a", "b", "c", "d"] {
            queue.remove(&key(name));
        }
        queue.failed(&key("c"), now);
        assert!(queue.entries.is_empty() && queue.active.is_empty());
        assert!(queue.timed.is_empty() && queue.parked.is_empty());
    }
}

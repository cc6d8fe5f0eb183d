//! Who runs when more guests want the processor than there are cores: CPU requests as weights.
//!
//! A guest that uses up its tick competes from then on. Each container's use is counted in virtual time,
//! real time divided by its weight, and who is ahead of the one furthest behind is held for a moment,
//! so that use comes to stand as the weights do. Nobody is held while that would leave a core without
//! work, and a guest that answers within a tick never comes here at all: its turn costs nothing.
//! As with the kernel's own controller, time in which a container wanted nothing earns it nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ticker::TICK;

/// The weight, in thousandths of a core, of a container that requests nothing. Upstream's is smaller
/// still against a whole core; this one lets such a container end its requests before their deadline.
const LEAST_WEIGHT: u64 = 10;
/// A competitor not seen for so long waits for something else than the processor.
const ABSENT: Duration = Duration::from_millis(50);

/// The competition for this machine's cores.
pub struct Shares {
    cores: usize,
    next: AtomicU64,
    state: Mutex<Competition>,
}

/// The containers that compete, by the number their life was given.
#[derive(Default)]
struct Competition(HashMap<u64, Competitor>);

struct Competitor {
    weight: u64,
    /// Nanoseconds of use, each worth a thousand divided by the weight.
    virtual_nanos: u128,
    /// Guests that used up a tick and have not ended; of them, those that are held.
    guests: usize,
    held: usize,
    seen_at: Instant,
}

impl Shares {
    pub fn new(cores: usize) -> Self {
        Self { cores, next: AtomicU64::new(0), state: Mutex::default() }
    }

    /// A number for a life.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Competition> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guest that competes, until it is dropped.
pub struct Turn {
    shares: Arc<Shares>,
    life: u64,
    held: bool,
}

impl Turn {
    /// Joins the competition for the container of `life`, which requested so much of a core.
    pub fn join(shares: &Arc<Shares>, life: u64, request_millis: Option<u64>) -> Self {
        shares.lock().join(life, request_millis.unwrap_or(0).max(LEAST_WEIGHT), Instant::now());
        Self { shares: shares.clone(), life, held: false }
    }

    /// The guest ran for `used` (nothing, after a hold) and wants to go on. `Some`: not before that.
    pub fn next(&mut self, used: Duration) -> Option<Duration> {
        let was_held = std::mem::replace(&mut self.held, false);
        self.held = self.shares.lock().charge(self.life, used, was_held, self.shares.cores, Instant::now());
        self.held.then_some(TICK)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shares.lock().leave(self.life, self.held);
    }
}

impl Competition {
    fn join(&mut self, life: u64, weight: u64, now: Instant) {
        let least = self.least(now);
        let competitor =
            self.0.entry(life).or_insert(Competitor { weight, virtual_nanos: least, guests: 0, held: 0, seen_at: now });
        competitor.guests += 1;
    }

    fn leave(&mut self, life: u64, held: bool) {
        if let Some(competitor) = self.0.get_mut(&life) {
            competitor.guests -= 1;
            competitor.held -= usize::from(held);
            if competitor.guests == 0 {
                self.0.remove(&life);
            }
        }
    }

    /// Where the one furthest behind stands.
    fn least(&self, now: Instant) -> u128 {
        let present = self.0.values().filter(|competitor| competitor.is_present(now));
        present.map(|competitor| competitor.virtual_nanos).min().unwrap_or(0)
    }

    /// Counts use; whether the guest is to be held now.
    fn charge(&mut self, life: u64, used: Duration, was_held: bool, cores: usize, now: Instant) -> bool {
        let least = self.least(now);
        let Some(own) = self.0.get_mut(&life) else { return false };
        own.held -= usize::from(was_held);
        if !own.is_present(now) {
            own.virtual_nanos = own.virtual_nanos.max(least);
        }
        own.seen_at = now;
        own.virtual_nanos += used.as_nanos() * 1000 / u128::from(own.weight);
        // A slice ahead is what taking turns comes to.
        let slice = TICK.as_nanos() * 1000 / u128::from(own.weight);
        let ahead = own.virtual_nanos > self.least(now) + slice;
        let present = self.0.values().filter(|competitor| competitor.is_present(now));
        let running: usize = present.map(|competitor| competitor.guests - competitor.held).sum();
        let hold = ahead && running > cores;
        if hold && let Some(own) = self.0.get_mut(&life) {
            own.held += 1;
        }
        hold
    }
}

impl Competitor {
    fn is_present(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen_at) <= ABSENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs guests (each of a life, with a weight) on `cores` for `ticks`; the ticks each guest got.
    fn run(guests: &[(u64, u64)], cores: usize, ticks: u32) -> Vec<u32> {
        let mut competition = Competition::default();
        let mut now = Instant::now();
        for (life, weight) in guests {
            competition.join(*life, *weight, now);
        }
        let mut got = vec![0; guests.len()];
        let mut held = vec![false; guests.len()];
        let mut queue: std::collections::VecDeque<usize> = (0..guests.len()).collect();
        for _ in 0..ticks {
            now += TICK;
            let running: Vec<usize> = queue.drain(..cores.min(queue.len())).collect();
            for guest in 0..guests.len() {
                let ran = running.contains(&guest);
                if ran || held[guest] {
                    got[guest] += u32::from(ran);
                    let used = if ran { TICK } else { Duration::ZERO };
                    let again = competition.charge(guests[guest].0, used, held[guest], cores, now);
                    held[guest] = again;
                    if !again {
                        queue.push_back(guest);
                    }
                }
            }
        }
        got
    }

    #[test]
    fn use_comes_to_stand_as_the_weights_do() {
        let got = run(&[(1, 100), (1, 100), (2, 400), (2, 400)], 2, 2000);
        let (light, heavy) = (got[0] + got[1], got[2] + got[3]);
        assert!((35..=45).contains(&(heavy * 10 / light.max(1))), "{got:?}");
        assert!(light + heavy >= 3900, "no core stood idle: {got:?}");
    }

    #[test]
    fn many_guests_of_one_container_get_no_more_than_one_of_another() {
        let mut guests = vec![(1, 100); 8];
        guests.push((2, 100));
        let got = run(&guests, 1, 2000);
        let many: u32 = got[..8].iter().sum();
        assert!((900..=1100).contains(&got[8]) && (900..=1100).contains(&many), "{got:?}");
    }

    #[test]
    fn without_contention_nobody_is_held() {
        assert_eq!(run(&[(1, 10), (2, 1000)], 2, 100), [100, 100]);
    }

    #[test]
    fn who_comes_back_has_saved_nothing_up() {
        let (mut competition, start) = (Competition::default(), Instant::now());
        competition.join(1, 100, start);
        competition.join(2, 100, start);
        let mut now = start;
        for _ in 0..100 {
            now += TICK;
            competition.charge(1, TICK, false, 1, now);
        }
        assert!(!competition.charge(1, TICK, false, 1, now), "the other has been away");
        competition.charge(2, TICK, false, 1, now);
        let apart = competition.0[&1].virtual_nanos.abs_diff(competition.0[&2].virtual_nanos);
        assert!(apart <= TICK.as_nanos() * 10, "{apart}");
        competition.leave(2, false);
        assert_eq!(competition.0.len(), 1);
    }
}

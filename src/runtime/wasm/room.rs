//! Room for one more instance: a host holds only so many, whoever they are of.
//!
//! An instance that waits for its next call is a convenience of its container. When the host is full it
//! gives way to one that has work, the longest idle first: containers that hold such instances stand in a
//! line, by when they got into it, and who has used his since is sorted in anew when his turn comes, so that
//! a call never has to move its container in the line. Instances that a pod keeps ready on purpose are left alone.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How long a call waits for one of the host's instances to end before it is refused: a burst is
/// smoothed, an overload is not hidden.
const PATIENCE: Duration = Duration::from_secs(2);

/// The places of a host.
pub struct Room {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    line: Mutex<BinaryHeap<Reverse<InLine>>>,
}

/// A holder, by since when its longest idle instance has been so, as far as the line knows.
struct InLine {
    since: Instant,
    holder: Weak<dyn Holder>,
}

impl Ord for InLine {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.since.cmp(&other.since)
    }
}

impl PartialOrd for InLine {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for InLine {
    fn eq(&self, other: &Self) -> bool {
        self.since == other.since
    }
}

impl Eq for InLine {}

/// Who holds instances without work.
pub trait Holder: Send + Sync {
    /// Asks for the instance that has been idle longest, if that was before `since`. The holder is in line
    /// for as long as it does not answer [`Asked::Nothing`].
    fn give_way(&self, since: Instant) -> Asked;
}

/// What a holder answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// An instance has gone; the next has been idle since then.
    Gave(Instant),
    /// They have all been idle only since then.
    Fresher(Instant),
    /// It has none to give, or has none any more, and is no longer in line; whether one has gone.
    Nothing { gave: bool },
}

impl Room {
    pub fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0), line: Mutex::default() }
    }

    /// A place now: a free one, or that of an idle instance.
    pub fn now(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return Some(place);
            }
            if !self.reclaim() {
                return None;
            }
        }
    }

    /// A place, waiting a little if all have work.
    pub async fn soon(&self) -> Option<OwnedSemaphorePermit> {
        if let Some(place) = self.now() {
            return Some(place);
        }
        let _waiting = Waiting::begin(&self.waiting);
        tokio::time::timeout(PATIENCE, self.places.clone().acquire_owned()).await.ok()?.ok()
    }

    /// Whether somebody waits: then who ends a call should not keep its instance.
    pub fn is_short(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// Puts a holder into the line. It must not be there already.
    pub fn holds(&self, holder: Weak<dyn Holder>, since: Instant) {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).push(Reverse(InLine { since, holder }));
    }

    /// Makes one idle instance go. Whether there was one.
    fn reclaim(&self) -> bool {
        let next = || self.line.lock().unwrap_or_else(PoisonError::into_inner).pop().map(|Reverse(next)| next);
        // Each is sorted in anew once; who is used all the time shall not keep this going for ever.
        let mut left = 2 * self.line.lock().unwrap_or_else(PoisonError::into_inner).len();
        while left > 0
            && let Some(InLine { since, holder }) = next()
        {
            left -= 1;
            // Not under the lock: an instance that goes takes a while.
            let Some(here) = holder.upgrade() else { continue };
            match here.give_way(since) {
                Asked::Gave(since) => {
                    self.holds(holder, since);
                    return true;
                }
                Asked::Fresher(since) => self.holds(holder, since),
                Asked::Nothing { gave: true } => return true,
                Asked::Nothing { gave: false } => {}
            }
        }
        false
    }
}

/// One who waits, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Idle instances by since when, and the places that they hold.
    #[derive(Default)]
    struct Idle(Mutex<Vec<(Instant, OwnedSemaphorePermit)>>);

    impl Holder for Idle {
        fn give_way(&self, since: Instant) -> Asked {
            let mut idle = self.0.lock().unwrap();
            match idle.first() {
                None => Asked::Nothing { gave: false },
                Some((oldest, _)) if *oldest > since => Asked::Fresher(*oldest),
                Some(_) => {
                    drop(idle.remove(0));
                    idle.first().map_or(Asked::Nothing { gave: true }, |(next, _)| Asked::Gave(*next))
                }
            }
        }
    }

    fn holder(room: &Room, since: &[Instant]) -> Arc<Idle> {
        let idle = Arc::new(Idle::default());
        for since in since {
            idle.0.lock().unwrap().push((*since, room.now().expect("a place")));
        }
        let weak: Weak<dyn Holder> = Arc::downgrade(&(idle.clone() as Arc<dyn Holder>));
        room.holds(weak, since[0]);
        idle
    }

    fn left(holder: &Idle) -> usize {
        holder.0.lock().unwrap().len()
    }

    #[tokio::test]
    async fn the_longest_idle_gives_way_and_who_was_used_meanwhile_does_not() {
        let room = Room::new(3);
        let at = |second| Instant::now() + Duration::from_secs(second);
        let (old, used) = (holder(&room, &[at(1), at(4)]), holder(&room, &[at(2)]));
        used.0.lock().unwrap()[0].0 = at(3);
        let first = room.now().expect("the first of the old one's");
        assert_eq!((left(&old), left(&used)), (1, 1));
        let second = room.now().expect("the one used since, which is idle longer than the old one's other");
        assert_eq!((left(&old), left(&used)), (1, 0));
        let third = room.now().expect("the last");
        assert_eq!(left(&old), 0);
        assert!(room.now().is_none(), "all have work");
        drop(first);
        assert!(room.soon().await.is_some());
        drop((second, third));
        assert!(room.line.lock().unwrap().is_empty(), "who holds nothing is not in line");
    }

    #[tokio::test]
    async fn who_waits_is_told_of() {
        let room = Room::new(1);
        let place = room.now().expect("the one");
        {
            let waits = room.soon();
            tokio::pin!(waits);
            assert!(futures::poll!(&mut waits).is_pending());
            assert!(room.is_short());
            drop(place);
            assert!(waits.await.is_some());
        }
        assert!(!room.is_short());
    }
}

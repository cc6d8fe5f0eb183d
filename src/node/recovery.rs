//! The first moments of a node that comes back to pods which ran here before: they serve first, and are
//! told of afterwards.
//!
//! A thousand pods that start again have some thousands of statuses and events to write. Written as each
//! becomes true, they take from the API server, on the same machine, the very cores that the pods behind
//! need to start, and most would be out of date before they are read. What the API has of the pods
//! meanwhile is what it had while nobody was here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// What hangs (an image that must be pulled anew, a worker that does not come) keeps the others from
/// telling no longer than this.
const LONGEST: Duration = Duration::from_secs(2);

/// Whether the pods that ran here before have been started again.
#[derive(Default)]
pub struct Recovery {
    left: AtomicUsize,
    over: CancellationToken,
}

impl Recovery {
    /// So many pods are to be started again. It is over when each has arrived, or after [`LONGEST`].
    pub fn expect(&self, pods: usize) {
        self.left.store(pods, Ordering::SeqCst);
        if pods == 0 {
            return self.over.cancel();
        }
        let over = self.over.clone();
        tokio::spawn(async move {
            if tokio::time::timeout(LONGEST, over.cancelled()).await.is_err() {
                over.cancel();
            }
        });
    }

    /// One of them has been started, or could not be.
    pub fn arrived(&self) {
        let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if before == Ok(1) {
            self.over.cancel();
        }
    }

    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    pub async fn over(&self) {
        self.over.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_over_when_all_have_arrived() {
        let none = Recovery::default();
        none.expect(0);
        assert!(none.is_over());

        let two = Recovery::default();
        two.expect(2);
        two.arrived();
        assert!(!two.is_over());
        two.arrived();
        assert!(two.is_over());
        two.arrived();
        two.over().await;
    }

    #[tokio::test]
    async fn one_that_hangs_does_not_keep_the_others_for_ever() {
        let recovery = Recovery::default();
        recovery.expect(2);
        recovery.arrived();
        recovery.over().await;
    }
}

//! The search of one call for an endpoint: the next best, and patience when there is none.
//!
//! A Service without a ready endpoint is often one whose only pod restarts, which takes less than a
//! millisecond. So the call waits a little for the table or the local pods to change, rather than
//! telling the client to come back. How many may wait is bounded: a Service that is down for good must
//! not gather requests without end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;

use super::balance::{self, Draw};
use super::local::LocalPods;
use super::policy::{Policies, Refusal};
use super::table::{Endpoint, RouteTable, ServicePort};
use crate::wire::Transport;

/// How long a call waits for an endpoint.
pub(super) const HOLD: Duration = Duration::from_secs(1);
/// How many calls may wait at once; each holds a request's head and perhaps a connection.
const HELD_CALLS: usize = 4_096;
/// Endpoints of other nodes that refused are asked again after this, then twice this, …
const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_millis(160);
/// A pod that is refused may ask again without end: the log has one of its refusals a second.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What calls look at: the table in force, the pods of this process.
pub(super) struct Directory {
    table: ArcSwap<RouteTable>,
    table_changed: watch::Sender<()>,
    pub(super) local: LocalPods,
    policies: ArcSwap<Policies>,
    refusals: Refusals,
    held: Semaphore,
}

/// Counts what policies refuse, and tells of it now and then.
#[derive(Default)]
struct Refusals {
    count: AtomicU64,
    /// On [`balance::clock_ms`].
    told_ms: AtomicU64,
}

/// The search of one call.
pub(super) struct Search<'d> {
    directory: &'d Directory,
    port: Arc<ServicePort>,
    client: Option<IpAddr>,
    tried: Vec<SocketAddr>,
    /// What policies said of endpoints since the search last began with all of them.
    refused: Vec<Refusal>,
    hold: Option<Hold<'d>>,
}

/// A call that waits.
struct Hold<'d> {
    until: Instant,
    retry: Duration,
    table_changed: watch::Receiver<()>,
    local_changed: watch::Receiver<()>,
    _place: SemaphorePermit<'d>,
}

/// Nobody to call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotFound {
    /// None became ready in time.
    NoneReady,
    /// All were tried, again and again, and none took the call.
    AllRefused,
    /// Too many calls wait already.
    TooManyWait,
    /// Policies let the caller go to none of them.
    Forbidden(Refusal),
}

impl Directory {
    pub(super) fn new() -> Self {
        Self {
            table: ArcSwap::default(),
            table_changed: watch::Sender::new(()),
            local: LocalPods::new(),
            policies: ArcSwap::default(),
            refusals: Refusals::default(),
            held: Semaphore::new(HELD_CALLS),
        }
    }

    /// The table in force. Not to be kept across an await.
    pub(super) fn table(&self) -> Guard<Arc<RouteTable>> {
        self.table.load()
    }

    pub(super) fn update(&self, table: Arc<RouteTable>) {
        self.table.store(table);
        self.table_changed.send_replace(());
    }

    /// The policies in force. Not to be kept across an await.
    pub(super) fn policies(&self) -> Guard<Arc<Policies>> {
        self.policies.load()
    }

    pub(super) fn enforce(&self, policies: Policies) {
        self.policies.store(Arc::new(policies));
    }

    /// How many flows were refused.
    pub(super) fn refused(&self) -> u64 {
        self.refusals.count.load(Ordering::Relaxed)
    }

    /// Whether policies let a flow begin; what they refuse is counted.
    pub(super) fn admit(&self, from: IpAddr, to: SocketAddr, transport: Transport) -> Result<(), Refusal> {
        self.policies().check(from, to, transport).inspect_err(|refusal| self.count(refusal))
    }

    /// Takes in that a flow was refused.
    pub(super) fn count(&self, refusal: &Refusal) {
        self.refusals.count(refusal);
    }

    /// Whether policies let `from` ask for names.
    pub(super) fn admit_names(&self, from: IpAddr) -> Result<(), Refusal> {
        self.policies().check_names(from).inspect_err(|refusal| self.count(refusal))
    }

    /// How many calls wait for an endpoint now.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        HELD_CALLS - self.held.available_permits()
    }

    /// Begins the search of a call of `client` to `port`.
    pub(super) fn search(&self, port: Arc<ServicePort>, client: Option<IpAddr>) -> Search<'_> {
        Search { directory: self, port, client, tried: Vec::new(), refused: Vec::new(), hold: None }
    }
}

impl Refusals {
    fn count(&self, refusal: &Refusal) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let (now, told) = (balance::clock_ms(), self.told_ms.load(Ordering::Relaxed));
        let is_due = told == 0 || now.saturating_sub(told) >= TELL_EVERY.as_millis() as u64;
        // Of those who come at the same moment one tells.
        if is_due && self.told_ms.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::info!(count, "refused: {refusal}");
        }
    }
}

impl Search<'_> {
    /// What is searched for.
    pub(super) fn port(&self) -> &ServicePort {
        &self.port
    }

    /// The next endpoint to try.
    pub(super) async fn next(&mut self) -> Result<Endpoint, NotFound> {
        loop {
            let draw = Draw {
                client: self.client.zip(self.port.affinity.as_deref()),
                tried: &self.tried,
                now_ms: balance::clock_ms(),
                chance: balance::chance(),
            };
            if let Some(endpoint) = balance::pick(&self.port.endpoints, &draw) {
                let endpoint = endpoint.clone();
                let policies = self.directory.policies();
                match self.client.map(|client| policies.check(client, endpoint.address, Transport::Tcp)) {
                    Some(Err(refusal)) => {
                        self.tried.push(endpoint.address);
                        self.refused.push(refusal);
                        continue;
                    }
                    Some(Ok(())) | None => return Ok(endpoint),
                }
            }
            // Waiting helps against no policy.
            if self.refused.len() == self.tried.len()
                && let Some(refusal) = self.refused.pop()
            {
                self.directory.count(&refusal);
                return Err(NotFound::Forbidden(refusal));
            }
            self.wait().await?;
            if let Some(port) = self.directory.table().renew(&self.port) {
                self.port = port;
            }
            self.tried.clear();
            self.refused.clear();
        }
    }

    /// `endpoint` did not take the call; this call does not try it again at once.
    pub(super) fn failed(&mut self, endpoint: &Endpoint) {
        self.tried.push(endpoint.address);
    }

    /// Waits for a reason to look again.
    async fn wait(&mut self) -> Result<(), NotFound> {
        let directory = self.directory;
        let Some(hold) = &mut self.hold else {
            // From here on changes are noticed; what changed before is seen by looking once more.
            self.hold = Some(Hold::begin(directory)?);
            return Ok(());
        };
        let some_tried = !self.tried.is_empty();
        let retry = match some_tried {
            true => (Instant::now() + hold.retry).min(hold.until),
            false => hold.until,
        };
        tokio::select! {
            biased;
            _ = hold.table_changed.changed() => return Ok(()),
            _ = hold.local_changed.changed() => return Ok(()),
            () = tokio::time::sleep_until(retry) => {}
        }
        hold.retry = (hold.retry * 2).min(LAST_RETRY);
        match Instant::now() < hold.until {
            true => Ok(()),
            false if some_tried => Err(NotFound::AllRefused),
            false => Err(NotFound::NoneReady),
        }
    }
}

impl<'d> Hold<'d> {
    fn begin(directory: &'d Directory) -> Result<Self, NotFound> {
        let place = directory.held.try_acquire().map_err(|_| NotFound::TooManyWait)?;
        Ok(Self {
            until: Instant::now() + HOLD,
            retry: FIRST_RETRY,
            table_changed: directory.table_changed.subscribe(),
            local_changed: directory.local.changed(),
            _place: place,
        })
    }
}

impl std::fmt::Display for NotFound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NotFound::NoneReady => "it has no ready endpoint",
            NotFound::AllRefused => "none of its endpoints took the request",
            NotFound::TooManyWait => "it has no ready endpoint, and too many requests wait for one already",
            NotFound::Forbidden(refusal) => return refusal.fmt(f),
        })
    }
}

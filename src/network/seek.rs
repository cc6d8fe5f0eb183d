//! The search of one call for an endpoint: the next best, and patience when there is none.
//!
//! A Service without a ready endpoint is often one whose only pod restarts, which takes less than a
//! millisecond. So the call waits a little for the table or the local pods to change, rather than
//! telling the client to come back. How many may wait is bounded: a Service that is down for good must
//! not gather requests without end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;

use super::balance::{self, Draw};
use super::local::LocalPods;
use super::table::{Endpoint, RouteTable, ServicePort};

/// How long a call waits for an endpoint.
pub(super) const HOLD: Duration = Duration::from_secs(1);
/// How many calls may wait at once; each holds a request's head and perhaps a connection.
const HELD_CALLS: usize = 4_096;
/// Endpoints of other nodes that refused are asked again after this, then twice this, …
const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_millis(160);

/// What calls look at: the table in force, the pods of this process.
pub(super) struct Directory {
    table: ArcSwap<RouteTable>,
    table_changed: watch::Sender<()>,
    pub(super) local: LocalPods,
    held: Semaphore,
}

/// The search of one call.
pub(super) struct Search<'d> {
    directory: &'d Directory,
    port: Arc<ServicePort>,
    client: Option<IpAddr>,
    tried: Vec<SocketAddr>,
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
}

impl Directory {
    pub(super) fn new() -> Self {
        Self {
            table: ArcSwap::default(),
            table_changed: watch::Sender::new(()),
            local: LocalPods::new(),
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

    /// How many calls wait for an endpoint now.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        HELD_CALLS - self.held.available_permits()
    }

    /// Begins the search of a call of `client` to `port`.
    pub(super) fn search(&self, port: Arc<ServicePort>, client: Option<IpAddr>) -> Search<'_> {
        let client = client.filter(|_| port.sticky);
        Search { directory: self, port, client, tried: Vec::new(), hold: None }
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
                client: self.client,
                tried: &self.tried,
                now_ms: balance::clock_ms(),
                chance: balance::chance(),
            };
            if let Some(endpoint) = balance::pick(&self.port.endpoints, &draw) {
                return Ok(endpoint.clone());
            }
            self.wait().await?;
            if let Some(port) = self.directory.table().renew(&self.port) {
                self.port = port;
            }
            self.tried.clear();
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
        })
    }
}

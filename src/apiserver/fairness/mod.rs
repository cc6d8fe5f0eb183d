//! Priority and fairness: which requests wait when there are too many, and in what order.
//!
//! A FlowSchema says which requests belong together and to which priority level ([`classify`], pure);
//! a level has seats, each for one request under way, and lines for those that wait ([`seats`]). Levels
//! lend the seats that they do not need; within a level every flow (a user, or a namespace) gets its
//! turn, however many requests another has sent. Beyond its lines a level refuses: 429, with the time
//! after which to ask again.
//!
//! Watches and streams take no seat: they are bounded in number ([`super::limits`]), and cost nothing
//! while nothing happens. The first schemas and levels are upstream's ([`first`]).

mod classify;
pub mod first;
mod seats;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::auth::User;
use super::registry::encoding;
use super::status::ApiError;
use super::target::Target;
use crate::kinds::flow_schema::{self, FlowSchema};
use crate::kinds::priority_level_configuration::PriorityLevelConfiguration;
use crate::kinds::{Kind, KindInfo};
use crate::store::Store;
use classify::Schemas;
pub use seats::{LevelFigures, Seat};
use seats::{Refusal, Seats};

/// How long a request waits for a seat before it is refused: a quarter of what it may take in all.
const PATIENCE: Duration = Duration::from_secs(15);

const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Which flow a request is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    pub schema: Arc<str>,
    pub schema_uid: Arc<str>,
    pub level: Arc<str>,
    pub level_uid: Arc<str>,
    /// Nothing limits it.
    pub exempt: bool,
    /// Tells the flows of a schema apart.
    pub hash: u64,
}

impl Flow {
    /// Tells the client how it was sorted.
    pub fn mark(&self, headers: &mut HeaderMap) {
        for (name, uid) in [(SCHEMA_HEADER, &self.schema_uid), (LEVEL_HEADER, &self.level_uid)] {
            if let Ok(uid) = HeaderValue::from_str(uid) {
                headers.insert(name, uid);
            }
        }
    }
}

/// The schemas and levels as of the last write of one, and the seats.
pub struct Fairness {
    store: Arc<dyn Store>,
    /// Counts the writes of schemas and levels.
    writes: AtomicU64,
    current: ArcSwap<Compiled>,
    compiling: Mutex<()>,
    seats: Seats,
}

struct Compiled {
    writes: u64,
    schemas: Schemas,
}

impl Fairness {
    /// For a server that answers so many requests at a time.
    pub fn new(store: Arc<dyn Store>, seats: usize) -> Self {
        let current = ArcSwap::from_pointee(Compiled { writes: 0, schemas: Schemas::default() });
        Self { store, writes: AtomicU64::new(1), current, compiling: Mutex::new(()), seats: Seats::new(seats) }
    }

    /// Must be called after each write of an object: notes those that this is made of.
    pub fn written(&self, info: &KindInfo) {
        if info.group == flow_schema::GROUP {
            self.writes.fetch_add(1, Ordering::Release);
        }
    }

    /// Which flow a request is of.
    pub fn classify(&self, user: &User, target: &Target) -> Option<Flow> {
        self.refresh();
        self.current.load().schemas.classify(user, target)
    }

    /// Waits for a seat, or says why there is none.
    pub async fn seat(&self, flow: &Flow) -> Result<Seat, ApiError> {
        match self.seats.take(flow, PATIENCE).await {
            Ok(seat) => Ok(seat),
            Err(refusal) => {
                tracing::debug!(schema = %flow.schema, level = %flow.level, ?refusal, "refused a request");
                Err(ApiError::too_many_requests("Too many requests, please try again later."))
            }
        }
    }

    /// What the levels do now.
    pub fn figures(&self) -> Vec<LevelFigures> {
        self.seats.figures()
    }

    fn refresh(&self) {
        if self.current.load().writes == self.writes.load(Ordering::Acquire) {
            return;
        }
        let _one = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        let writes = self.writes.load(Ordering::Acquire);
        if self.current.load().writes == writes {
            return;
        }
        let levels = self.all(&PriorityLevelConfiguration);
        let schemas = Schemas::new(&self.all(&FlowSchema), &levels);
        self.seats.configure(&levels);
        self.current.store(Arc::new(Compiled { writes, schemas }));
    }

    /// A kind's objects, or where there are none yet, those that there will be.
    fn all(&self, kind: &dyn Kind) -> Vec<Value> {
        let prefix = encoding::prefix(kind.info(), "");
        let page = self.store.list(&prefix, None, 0, None).unwrap_or_default();
        let entries = page.entries.iter();
        entries.filter_map(|entry| encoding::decode(kind, &entry.value, entry.mod_revision).ok()).collect()
    }
}

impl Refusal {
    /// As upstream's metrics call it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::ConcurrencyLimit => "concurrency-limit",
            Self::TimeOut => "time-out",
        }
    }
}

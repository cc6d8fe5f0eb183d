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

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::auth::User;
use super::derived::{self, Derived};
use super::status::ApiError;
use super::target::Target;
use crate::kinds::KindInfo;
use crate::kinds::flow_schema::{self, FlowSchema};
use crate::kinds::priority_level_configuration::PriorityLevelConfiguration;
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

/// Whose requests are answered first.
pub struct Fairness {
    plan: Derived<Plan>,
    /// What the seats were last shared out by.
    shared_out: ArcSwap<Plan>,
    seats: Seats,
}

/// The schemas and levels as of the last write of one.
#[derive(Default)]
struct Plan {
    schemas: Schemas,
    levels: Vec<Value>,
}

impl Fairness {
    /// For a server that answers so many requests at a time.
    pub fn new(store: Arc<dyn Store>, seats: usize) -> Self {
        let plan = Derived::new(store, flow_schema::GROUP, |store| {
            let levels = derived::objects(store, &PriorityLevelConfiguration);
            Plan { schemas: Schemas::new(&derived::objects(store, &FlowSchema), &levels), levels }
        });
        Self { plan, shared_out: ArcSwap::default(), seats: Seats::new(seats) }
    }

    /// Must be called after each write of an object.
    pub fn written(&self, info: &KindInfo) {
        self.plan.written(info);
    }

    /// Which flow a request is of.
    pub fn classify(&self, user: &User, target: &Target) -> Option<Flow> {
        let plan = self.plan.current();
        if !Arc::ptr_eq(&plan, &self.shared_out.load()) {
            self.seats.configure(&plan.levels);
            self.shared_out.store(plan.clone());
        }
        plan.schemas.classify(user, target)
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

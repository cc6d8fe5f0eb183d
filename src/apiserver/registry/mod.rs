//! Kinds over a store: every write of an object goes through here, whoever asks.
//!
//! The rules are fixed: default → owners of fields → admission → allocation → prepare → validate →
//! validating admission → one compare-and-swap. What admission adds is owned by nobody, as upstream has it.
//! A write that changes nothing is not made and keeps its version. Retries happen only where the caller
//! stated no version: a patch or an unconditional update is computed anew from the newer object; a
//! stated version that is stale is a conflict at once.

pub mod decoded;
pub mod delete;
pub mod encoding;
pub mod figures;
pub mod meta;
pub mod outline;
pub mod owners;
pub mod update;

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde_json::Value;

use super::admission::author::Author;
use super::admission::in_force::{Registered, registered};
use super::admission::{self, Operation, Request};
use super::allocate::Allocator;
use super::auth::authorize::Rights;
use super::auth::nodes::graph::Graph;
use super::auth::rbac::{Policies, policies};
use super::definitions::Definitions;
use super::fairness::Fairness;
use super::limits::MAX_IN_FLIGHT;
use super::quota::Ledger;
use super::status::ApiError;
use super::webhook::Webhooks;
use crate::kinds::meta as kmeta;
use crate::kinds::{Kind, KindInfo};
use crate::store::{self, Durability, Entry, Expect, Store, Write};
use decoded::{Decoded, Lasting};
use encoding::Stored;
use figures::{Figures, operation};

/// How often a generated name that is taken is drawn again; with 27⁵ names per base even once is rare.
const NAME_ATTEMPTS: usize = 8;

/// The registry of all kinds.
pub struct Registry {
    pub store: Arc<dyn Store>,
    pub allocator: Allocator,
    /// Who may do what, as the stored roles say.
    pub policies: Policies,
    /// What nodes have to do with which objects.
    graph: Arc<Graph>,
    pub quotas: Ledger,
    /// Whose requests are answered first.
    pub fairness: Fairness,
    pub webhooks: Webhooks,
    /// Who else has a say in what is written.
    pub registered: Registered,
    pub decoded: Decoded,
    lasting: Lasting,
    /// What writes cost.
    pub figures: Figures,
    /// The kinds that users have made.
    pub definitions: Definitions,
}

/// One object's place.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub kind: &'static dyn Kind,
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Place<'_> {
    pub fn info(&self) -> &'static KindInfo {
        self.kind.info()
    }

    pub fn key(&self) -> String {
        encoding::key(self.info(), self.namespace, self.name)
    }

    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(self.info(), self.name)
    }

    pub fn stale(&self) -> ApiError {
        ApiError::stale(self.info(), self.name)
    }
}

/// What a write gives back.
#[derive(Debug, Clone)]
pub struct Written {
    pub stored: Stored,
    pub warnings: Vec<String>,
    /// The update has made the object: PUT where there was none.
    pub created: bool,
}

impl Registry {
    pub fn new(store: Arc<dyn Store>, allocator: Allocator) -> Self {
        let policies = policies(store.clone());
        let webhooks = Webhooks::new(store.clone());
        let registered = registered(store.clone());
        let graph = Arc::new(Graph::new(store.clone()));
        let fairness = Fairness::new(store.clone(), MAX_IN_FLIGHT);
        Self {
            store,
            allocator,
            policies,
            graph,
            quotas: Ledger::default(),
            webhooks,
            registered,
            decoded: Decoded::default(),
            lasting: Lasting::default(),
            figures: Figures::default(),
            definitions: Definitions::default(),
            fairness,
        }
    }

    /// Who may do what now.
    pub fn rights(&self) -> Rights {
        Rights { policy: self.policies.current(), graph: Some(self.graph.clone()) }
    }

    pub fn entry(&self, place: Place<'_>) -> Result<Entry, ApiError> {
        self.store.get(&place.key()).ok_or_else(|| place.not_found())
    }

    /// The object at `place`, decoded; `None` where there is none or it cannot be read.
    pub fn find(&self, place: Place<'_>) -> Option<Value> {
        let entry = self.store.get(&place.key())?;
        decode(place, &entry).ok()
    }

    /// The same for an object that many are held against and that seldom changes: shared, not decoded each time.
    /// Not for kinds that users have made, which are shown as their definitions say at the time.
    pub fn known(&self, place: Place<'_>) -> Option<Arc<Value>> {
        let entry = self.store.get(&place.key())?;
        self.lasting.get(place.kind, &entry).ok()
    }

    /// All such objects of a kind, in a namespace ("" is all).
    pub fn all_known(&self, kind: &'static dyn Kind, namespace: &str) -> Result<Vec<Arc<Value>>, ApiError> {
        let page = self.store.list(&encoding::prefix(kind.info(), namespace), None, 0, None).map_err(store_error)?;
        let read = |entry: &Entry| self.lasting.get(kind, entry).map_err(|error| unreadable(entry, error));
        page.entries.iter().map(read).collect()
    }

    /// The object of an entry, shared with others who look at it.
    pub fn read(&self, place: Place<'_>, entry: &Entry) -> Result<Arc<Value>, ApiError> {
        self.decoded.get(place.kind, &entry.value, entry.mod_revision).map_err(|error| unreadable(entry, error))
    }

    /// Creates `object`, whose `metadata.name` may still have to be generated.
    pub async fn create(
        &self,
        kind: &'static dyn Kind,
        namespace: &str,
        mut object: Value,
        author: &Author<'_>,
    ) -> Result<Written, ApiError> {
        place_in_namespace(kind, namespace, &mut object)?;
        kmeta::normalize(&mut object);
        kind.default(&mut object);
        owners::track(kind, None, &mut object, &author.owner);
        let name = kmeta::text(&object, "name").to_owned();
        let place = Place { kind, namespace, name: &name };
        admission::wait_for_prerequisites(self, place, &object).await;
        let request = Request { registry: self, place, operation: Operation::Create, old: None, author };
        admission::mutate(&request, &mut object).await?;
        place_in_namespace(kind, namespace, &mut object)?;
        // Held until the object is stored.
        let _charge = self.quotas.charge(self, place, &object, None)?;
        if !kmeta::text(&object, "resourceVersion").is_empty() {
            return Err(ApiError::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        let reservation = self.allocator.on_create(kind, &mut object)?;
        let warnings = kind.warnings(&object, None);
        let named = !kmeta::text(&object, "name").is_empty();
        let stored = if !named {
            self.create_with_new_name(kind, namespace, &object, author).await?
        } else {
            self.create_once(kind, namespace, &mut object, author).await?
        };
        if !author.dry_run {
            reservation.keep();
            if named {
                self.decoded.written(kind, object, stored.revision);
            }
        }
        Ok(Written { stored, warnings, created: true })
    }

    async fn create_with_new_name(
        &self,
        kind: &'static dyn Kind,
        namespace: &str,
        object: &Value,
        author: &Author<'_>,
    ) -> Result<Stored, ApiError> {
        for _ in 1..NAME_ATTEMPTS {
            match self.create_once(kind, namespace, &mut object.clone(), author).await {
                Err(error) if error.reason() == "AlreadyExists" => {}
                result => return result,
            }
        }
        self.create_once(kind, namespace, &mut object.clone(), author).await
    }

    async fn create_once(
        &self,
        kind: &'static dyn Kind,
        namespace: &str,
        object: &mut Value,
        author: &Author<'_>,
    ) -> Result<Stored, ApiError> {
        let info = kind.info();
        kmeta::prepare_create(object, &stamp());
        kind.prepare_create(object);
        let mut errors = kmeta::validate_create(object, info, kind.name_rule());
        errors.extend(kind.validate(object));
        errors.extend(admission::expressions::validate(info, object));
        let name = kmeta::text(object, "name");
        if !errors.is_empty() {
            return Err(ApiError::invalid(info, name, &errors));
        }
        let place = Place { kind, namespace, name };
        let request = Request { registry: self, place, operation: Operation::Create, old: None, author };
        admission::validate(&request, object).await?;
        let bytes = encoding::encode(kind, object);
        if author.dry_run {
            return match self.store.get(&place.key()) {
                Some(existing) => Err(already_exists(place, Some(&existing))),
                None => Ok(Stored { bytes, revision: 0 }),
            };
        }
        match self.commit(place, Expect::Absent, Some(bytes.clone())).await {
            Ok(revision) => Ok(Stored { bytes, revision }),
            Err(store::Error::Conflict { current }) => Err(already_exists(place, current.as_ref())),
            Err(error) => Err(store_error(error)),
        }
    }

    pub(super) async fn commit(
        &self,
        place: Place<'_>,
        expect: Expect,
        value: Option<bytes::Bytes>,
    ) -> Result<u64, store::Error> {
        let (durability, operation) = (durability(place.info()), operation(expect, value.is_none()));
        let since = Instant::now();
        let result = self.store.commit(Write { key: place.key().into(), expect, value, durability }).await;
        self.figures.count(place.info(), operation, since.elapsed(), &result);
        self.policies.written(place.info());
        self.fairness.written(place.info());
        self.registered.written(place.info());
        result
    }
}

/// Leases and Events cost nothing when lost; everything else is on the disk before it is acknowledged.
fn durability(info: &KindInfo) -> Durability {
    match info.own_plural() {
        "leases" | "events" => Durability::Eventual,
        _ => Durability::Synced,
    }
}

/// The object of an entry, as its kind shows it.
pub fn decode(place: Place<'_>, entry: &Entry) -> Result<Value, ApiError> {
    encoding::decode(place.kind, &entry.value, entry.mod_revision).map_err(|error| unreadable(entry, error))
}

fn unreadable(entry: &Entry, error: serde_json::Error) -> ApiError {
    ApiError::internal(format!("stored object {} cannot be read: {error}", entry.key))
}

/// Checks the body's namespace against the URL's and writes it.
fn place_in_namespace(kind: &dyn Kind, namespace: &str, object: &mut Value) -> Result<(), ApiError> {
    let given = kmeta::text(object, "namespace");
    if !kind.info().namespaced {
        // A namespace given for a cluster-scoped object is refused by validation.
        return Ok(());
    }
    if !given.is_empty() && given != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    kmeta::metadata_mut(object).insert("namespace".into(), namespace.into());
    Ok(())
}

fn stamp() -> kmeta::Stamp {
    kmeta::Stamp { now: Timestamp::now(), uid: uuid::Uuid::new_v4().to_string(), suffix: meta::random_suffix() }
}

fn already_exists(place: Place<'_>, current: Option<&Entry>) -> ApiError {
    let dying = current.and_then(|entry| decode(place, entry).ok()).is_some_and(|object| meta::is_deleting(&object));
    let error = ApiError::already_exists(place.info(), place.name);
    if dying { error.prefixed("object is being deleted: ") } else { error }
}

/// A failure of the store that is nobody's conflict.
pub fn store_error(error: store::Error) -> ApiError {
    match error {
        store::Error::Future { requested, current } => ApiError::future_version(requested, current),
        store::Error::Compacted { .. } => ApiError::expired("The resourceVersion for the provided list is too old."),
        store::Error::Conflict { .. } | store::Error::Lagged | store::Error::Broken(_) => ApiError::internal(error),
    }
}

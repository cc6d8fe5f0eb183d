//! Updates: from the object as it is to the object as it shall be, in one compare-and-swap.

use jiff::Timestamp;
use serde_json::Value;

use super::encoding::{self, Stored};
use super::owners;
use super::{Place, Registry, Written, meta, store_error};
use crate::apiserver::admission::author::Author;
use crate::apiserver::admission::{self, Operation, Request};
use crate::apiserver::allocate::Reservation;
use crate::apiserver::quota::Charge;
use crate::apiserver::status::ApiError;
use crate::kinds::Part;
use crate::kinds::field::{Errors, Reason};
use crate::kinds::meta as kmeta;
use crate::store::{self, Entry, Expect};

/// How often an update that states no version is computed again after losing a race; each loss means
/// that somebody else has made progress.
const ATTEMPTS: usize = 64;

/// Which half of the object is written, and by which rules.
#[derive(Clone, Copy)]
pub enum Lane {
    /// The main endpoint.
    Main,
    /// `/status`.
    Status,
    /// An endpoint for another part of the object: see [`crate::kinds::Kind::parts`].
    Part(&'static Part),
    /// A change that the server makes itself and that no rule of the kind applies to: a binding, a
    /// namespace's finalizers.
    Server,
}

impl Registry {
    /// Writes what `change` makes of the current object. `change` may be asked several times.
    pub async fn update(
        &self,
        place: Place<'_>,
        lane: Lane,
        author: &Author<'_>,
        change: &(dyn Fn(&Value) -> Result<Value, ApiError> + Send + Sync),
    ) -> Result<Written, ApiError> {
        for _ in 0..ATTEMPTS {
            let entry = self.entry(place)?;
            let old = self.read(place, &entry)?;
            let mut new = change(&old)?;
            check_versions(place, &mut new, &old)?;
            let (warnings, reservation, _charge) = self.prepare(place, lane, author, &mut new, &old).await?;
            validate(place, lane, &new, &old)?;
            let request = Request { registry: self, place, operation: Operation::Update, old: Some(&old), author };
            admission::validate(&request, &new).await?;
            owners::keep_times(&mut new, &old);
            let bytes = encoding::encode(place.kind, &new);
            let goes = may_go(place, &new);
            let revision = if (bytes == entry.value && !goes) || author.dry_run {
                entry.mod_revision
            } else {
                match self.write(place, &entry, if goes { None } else { Some(bytes.clone()) }).await? {
                    Some(revision) => {
                        reservation.keep();
                        if goes {
                            self.allocator.on_delete(place.kind, &new);
                        }
                        if goes { entry.mod_revision } else { revision }
                    }
                    None => continue,
                }
            };
            if revision > entry.mod_revision {
                self.decoded.written(place.kind, new, revision);
            }
            return Ok(Written { stored: Stored { bytes, revision }, warnings, created: false });
        }
        Err(place.stale())
    }

    /// One attempt; `None` when somebody else was quicker.
    pub(super) async fn write(
        &self,
        place: Place<'_>,
        entry: &Entry,
        value: Option<bytes::Bytes>,
    ) -> Result<Option<u64>, ApiError> {
        match self.commit(place, Expect::Revision(entry.mod_revision), value).await {
            Ok(revision) => Ok(Some(revision)),
            Err(store::Error::Conflict { .. }) => Ok(None),
            Err(error) => Err(store_error(error)),
        }
    }

    async fn prepare(
        &self,
        place: Place<'_>,
        lane: Lane,
        author: &Author<'_>,
        new: &mut Value,
        old: &Value,
    ) -> Result<(Vec<String>, Reservation, Option<Charge>), ApiError> {
        let nothing = (Vec::new(), self.allocator.nothing(), None);
        let request = Request { registry: self, place, operation: Operation::Update, old: Some(old), author };
        if matches!(lane, Lane::Server) {
            owners::track(place.kind, Some(old), new, &author.owner);
            admission::mutate_without_plugins(&request, new).await?;
            return Ok(nothing);
        }
        kmeta::normalize(new);
        place.kind.default(new);
        owners::track(place.kind, Some(old), new, &author.owner);
        kmeta::prepare_update(new, old);
        match lane {
            Lane::Status => {
                admission::mutate_without_plugins(&request, new).await?;
                place.kind.prepare_status_update(new, old);
                place.kind.date_status(new, old, Timestamp::now());
                return Ok(nothing);
            }
            Lane::Part(part) => {
                admission::mutate_without_plugins(&request, new).await?;
                (part.prepare)(new, old);
                return Ok(nothing);
            }
            Lane::Main | Lane::Server => {}
        }
        admission::mutate(&request, new).await?;
        let charge = self.quotas.charge(self, place, new, Some(old))?;
        let reservation = self.allocator.on_update(place.kind, new, old)?;
        place.kind.prepare_update(new, old);
        Ok((place.kind.warnings(new, Some(old)), reservation, charge))
    }
}

fn validate(place: Place<'_>, lane: Lane, new: &Value, old: &Value) -> Result<(), ApiError> {
    let mut errors = Errors::default();
    match lane {
        Lane::Server => return Ok(()),
        Lane::Main => {
            // Upstream checks the metadata twice, and its causes say so.
            errors.extend(kmeta::validate_update(new, old));
            errors.extend(errors.clone());
            errors.extend(place.kind.validate_update(new, old));
            errors.extend(admission::expressions::validate(place.info(), new));
        }
        Lane::Status => {
            errors.extend(kmeta::validate_update(new, old));
            errors.extend(errors.clone());
            errors.extend(place.kind.validate_status_update(new, old));
        }
        Lane::Part(part) => {
            errors.extend(kmeta::validate_update(new, old));
            errors.extend(errors.clone());
            errors.extend((part.validate)(new, old));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(place.info(), place.name, &errors)) }
}

/// The uid in a whole object that a client sends is a precondition; in a patch it is a change, which
/// validation refuses.
pub fn check_uid(place: Place<'_>, new: &Value, old: &Value) -> Result<(), ApiError> {
    let (given, uid) = (kmeta::text(new, "uid"), kmeta::text(old, "uid"));
    if given.is_empty() || given == uid {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {uid}");
    Err(ApiError::conflict(place.info(), place.name, why))
}

/// Holds the version that a client states against the object's, or fills it in.
fn check_versions(place: Place<'_>, new: &mut Value, old: &Value) -> Result<(), ApiError> {
    let given = kmeta::text(new, "resourceVersion");
    let version = kmeta::text(old, "resourceVersion");
    if given.is_empty() {
        if !allows_unconditional_update(place.info().own_plural()) {
            let mut errors = Errors::default();
            let detail = "must be specified for an update";
            errors.push_text(Reason::Invalid, "metadata.resourceVersion", "0x0".to_owned(), detail);
            return Err(ApiError::invalid(place.info(), place.name, &errors));
        }
        kmeta::metadata_mut(new).insert("resourceVersion".into(), version.into());
    } else if given != version {
        if given.parse::<u64>().is_err() {
            let why = format!("strconv.ParseUint: parsing {given:?}: invalid syntax");
            let mut errors = Errors::default();
            errors.push(Reason::Invalid, "metadata.resourceVersion", Some(given.into()), why);
            return Err(ApiError::invalid(place.info(), place.name, &errors));
        }
        return Err(place.stale());
    }
    Ok(())
}

/// Kinds whose updates must state a version.
fn allows_unconditional_update(plural: &str) -> bool {
    !matches!(plural, "leases" | "runtimeclasses" | "serviceaccounts")
}

/// Kinds that a PUT creates.
pub fn allows_create_on_update(plural: &str) -> bool {
    matches!(plural, "leases" | "services" | "endpoints" | "events")
}

/// Whether the update leaves nothing that holds the deleted object.
fn may_go(place: Place<'_>, new: &Value) -> bool {
    let held_by_spec = place.info().own_plural() == "namespaces"
        && new["spec"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
    meta::may_go(new) && !held_by_spec
}

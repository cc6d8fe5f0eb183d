//! Deletion: at once, after a grace period, or once the last finalizer has gone.
//!
//! What happens is decided by [`decide`], which is pure; the rest carries it out in one
//! compare-and-swap (two where a graceful kind goes at once, as upstream: watchers see the mark first).

use jiff::Timestamp;
use serde_json::Value;

use super::encoding::{self, Stored};
use super::{Place, Registry, meta};
use crate::apiserver::admission::author::Author;
use crate::apiserver::admission::{self, Operation, Request};
use crate::apiserver::options::DeleteOptions;
use crate::apiserver::status::{ApiError, Details};
use crate::kinds::meta as kmeta;
use crate::kinds::{Kind, custom_resource_definition};

/// How often a deletion is decided anew after losing a race.
const ATTEMPTS: usize = 64;

/// What a deletion has come to.
#[derive(Debug)]
pub enum Deleted {
    /// The object is gone; what it was.
    Gone(Stored),
    /// The object is marked, and waits for its grace period or finalizers.
    Pending(Stored),
}

#[derive(Debug, PartialEq)]
enum Step {
    /// Being deleted already; nothing to add.
    Nothing,
    /// Write the marked object; it stays for now.
    Mark(Value),
    /// Write the marked object, then remove it: a kind with grace periods, but the period is 0.
    MarkAndRemove(Value),
    Remove,
}

impl Registry {
    pub async fn delete(
        &self,
        place: Place<'_>,
        options: &DeleteOptions,
        author: &Author<'_>,
    ) -> Result<Deleted, ApiError> {
        let request = Request { registry: self, place, operation: Operation::Delete, old: None, author };
        admission::admit(&request, &mut Value::Null)?;
        for _ in 0..ATTEMPTS {
            let entry = self.entry(place)?;
            let old = self.read(place, &entry).await?;
            check_preconditions(place, options, &old)?;
            let request = Request { old: Some(&old), ..request };
            admission::review(&request, &mut Value::Null).await?;
            let step = match place.info().own_plural() {
                "namespaces" => decide_namespace(&old, options),
                "customresourcedefinitions" => {
                    decide_definition(decide(place.kind, &old, options, Timestamp::now()), &old)
                }
                _ => decide(place.kind, &old, options, Timestamp::now()),
            };
            let was = Stored { bytes: entry.value.clone(), revision: entry.mod_revision };
            if options.dry_run {
                return Ok(foresee(place, step, self.shown_one(place.kind, was).await?));
            }
            let (marked, then_remove) = match step {
                Step::Nothing => return Ok(Deleted::Pending(self.shown_one(place.kind, was).await?)),
                Step::Mark(object) => (Some(object), false),
                Step::MarkAndRemove(object) => (Some(object), true),
                Step::Remove => (None, true),
            };
            let Some(marked) = marked else {
                let Some(revision) = self.write(place, &entry, None).await? else { continue };
                self.allocator.on_delete(place.kind, &old);
                return Ok(Deleted::Gone(Stored { bytes: entry.value, revision }));
            };
            // What is stored in the version asked for stays in it, and its end asks no webhook.
            let bytes = match encoding::version(&entry.value) == Some(place.info().version) {
                true => encoding::encode(place.kind, &marked),
                false => self.stored_form(place.kind, &marked).await?,
            };
            let Some(revision) = self.write(place, &entry, Some(bytes.clone())).await? else { continue };
            if !then_remove {
                return Ok(Deleted::Pending(self.shown_one(place.kind, Stored { bytes, revision }).await?));
            }
            // Somebody may remove it between the two writes; then it is gone as well.
            let mut current = entry;
            current.mod_revision = revision;
            let removed = self.write(place, &current, None).await?;
            return Ok(Deleted::Gone(Stored { bytes, revision: removed.unwrap_or(revision) }));
        }
        Err(place.stale())
    }
}

/// What a dry run answers.
fn foresee(place: Place<'_>, step: Step, was: Stored) -> Deleted {
    let show = |object: &Value| Stored { bytes: encoding::encode(place.kind, object), revision: was.revision };
    match step {
        Step::Nothing => Deleted::Pending(was),
        Step::Mark(object) => Deleted::Pending(show(&object)),
        Step::MarkAndRemove(object) => Deleted::Gone(show(&object)),
        Step::Remove => Deleted::Gone(was),
    }
}

/// Whether the object is the one that the deletion means.
pub fn check_preconditions(place: Place<'_>, options: &DeleteOptions, old: &Value) -> Result<(), ApiError> {
    let info = place.info();
    let refuse = |why: String| {
        // Upstream names the kind here where other conflicts name the resource.
        let what = super::super::status::qualified(info.kind, info.group);
        let details =
            Details { name: place.name.into(), group: info.group.into(), kind: info.kind.into(), ..Details::default() };
        let message = format!("Operation cannot be fulfilled on {what} {:?}: {why}", place.name);
        Err(ApiError::new(409, "Conflict", message).with_details(details))
    };
    let uid = kmeta::text(old, "uid");
    if let Some(wanted) = options.precondition_uid.as_deref().filter(|wanted| *wanted != uid) {
        return refuse(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        ));
    }
    let version = kmeta::text(old, "resourceVersion");
    if let Some(wanted) = options.precondition_version.as_deref().filter(|wanted| *wanted != version) {
        return refuse(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        ));
    }
    Ok(())
}

fn decide(kind: &dyn Kind, old: &Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let mut new = old.clone();
    // Events own nothing and are owned by nothing: no policy applies to them.
    let default = kind.orphans_by_default().then_some(meta::ORPHAN);
    let policy_changes =
        kind.info().own_plural() != "events" && meta::apply_propagation(&mut new, options.propagation, default);
    let held = !meta::finalizers(&new).is_empty();
    if meta::is_deleting(old)
        && let Some(left) = old["metadata"]["deletionGracePeriodSeconds"].as_i64()
        && kind.graceful_delete_seconds(old, options.grace_period_seconds).is_some()
    {
        let Some(wanted) = options.grace_period_seconds.filter(|wanted| *wanted < left) else {
            // Only a shorter period is news.
            return match (policy_changes, left) {
                (true, _) => Step::Mark(new),
                (false, 0) if !held => Step::Remove,
                (false, _) => Step::Nothing,
            };
        };
        let wanted = wanted.max(0);
        shorten(&mut new, left, wanted);
        return if wanted == 0 && !held { Step::MarkAndRemove(new) } else { Step::Mark(new) };
    }
    match kind.graceful_delete_seconds(old, options.grace_period_seconds) {
        Some(grace) if !meta::is_deleting(old) => {
            meta::mark_deleted(&mut new, now, grace);
            if grace == 0 && !held { Step::MarkAndRemove(new) } else { Step::Mark(new) }
        }
        _ if !held => Step::Remove,
        _ if meta::is_deleting(old) && !policy_changes => Step::Nothing,
        _ => {
            if !meta::is_deleting(old) {
                meta::mark_deleted(&mut new, now, 0);
            }
            Step::Mark(new)
        }
    }
}

/// Moves the deletion time forward by what the period has become shorter.
fn shorten(object: &mut Value, left: i64, wanted: i64) {
    let at = crate::kinds::time::parse(&object["metadata"]["deletionTimestamp"]);
    let sooner = at.and_then(|at| at.checked_sub(jiff::SignedDuration::from_secs(left - wanted)).ok());
    let metadata = kmeta::metadata_mut(object);
    if let Some(sooner) = sooner {
        metadata.insert("deletionTimestamp".into(), crate::kinds::time::write(sooner).into());
    }
    metadata.insert("deletionGracePeriodSeconds".into(), wanted.into());
}

/// A definition stays until its objects are gone: the finalizer that sees to it comes with the deletion.
fn decide_definition(step: Step, old: &Value) -> Step {
    let mut new = match step {
        Step::Mark(object) | Step::MarkAndRemove(object) => object,
        Step::Nothing => return Step::Nothing,
        Step::Remove if meta::is_deleting(old) => return Step::Remove,
        Step::Remove => {
            let mut new = old.clone();
            meta::mark_deleted(&mut new, Timestamp::now(), 0);
            new
        }
    };
    custom_resource_definition::begin_deletion(&mut new, Timestamp::now());
    Step::Mark(new)
}

/// A namespace is emptied by its controller first: it stays until `spec.finalizers` is empty.
fn decide_namespace(old: &Value, _options: &DeleteOptions) -> Step {
    let in_spec = old["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    let held = in_spec || !meta::finalizers(old).is_empty();
    match (meta::is_deleting(old), held) {
        (true, true) => Step::Nothing,
        (_, false) => Step::Remove,
        (false, true) => {
            let mut new = old.clone();
            let now = crate::kinds::time::write(Timestamp::now());
            kmeta::metadata_mut(&mut new).insert("deletionTimestamp".into(), now.into());
            kmeta::object_mut(&mut new, "status").insert("phase".into(), "Terminating".into());
            Step::Mark(new)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::options::Propagation;
    use crate::kinds::config_map::ConfigMap;
    use serde_json::json;

    fn step(object: Value, options: DeleteOptions) -> Step {
        decide(&ConfigMap, &object, &options, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn what_nothing_holds_goes_at_once() {
        assert_eq!(step(json!({"metadata": {}}), DeleteOptions::default()), Step::Remove);
        let background = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
        let orphaned = json!({"metadata": {"finalizers": ["orphan"]}});
        assert_eq!(step(orphaned, background), Step::Remove);
    }

    #[test]
    fn finalizers_hold_and_a_second_deletion_is_no_news() {
        let Step::Mark(marked) = step(json!({"metadata": {"finalizers": ["x"]}}), DeleteOptions::default()) else {
            panic!("the finalizer must hold the object");
        };
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        assert_eq!(step(marked, DeleteOptions::default()), Step::Nothing);
    }

    #[test]
    fn foreground_adds_its_finalizer() {
        let options = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
        let Step::Mark(marked) = step(json!({"metadata": {}}), options) else { panic!("must wait for dependents") };
        assert_eq!(meta::finalizers(&marked), [meta::FOREGROUND]);
    }

    #[test]
    fn a_namespace_waits_for_its_controller() {
        let options = DeleteOptions::default();
        let namespace = json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}});
        let Step::Mark(marked) = decide_namespace(&namespace, &options) else { panic!("must stay") };
        assert_eq!(marked["status"]["phase"], "Terminating");
        assert_eq!(decide_namespace(&marked, &options), Step::Nothing);
        assert_eq!(decide_namespace(&json!({"metadata": {}}), &options), Step::Remove);
    }
}

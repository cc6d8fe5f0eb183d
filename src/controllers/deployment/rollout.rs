//! The course of a rollout: one step at a time, each decided from the state it finds.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use kube::Resource;
use serde_json::json;

use super::super::diff::merge_patch;
use super::View;
use super::progress::{self, Conditions, PROGRESSING};
use super::scale::{self, Bounds};
use super::sets::{self, Set};
use super::{revision, scale::DESIRED, scale::MAX};
use crate::reconcile::{EventKind, Note, Plan, Write};

/// Decides what one Deployment needs.
pub(super) fn plan(now: Timestamp, view: &View) -> Plan {
    let mut plan = Plan::nothing();
    let Some(spec) = view.deployment.spec.as_ref() else { return plan };
    let claimed = sets::claim(view, &mut plan);
    let mut rollout = Rollout::new(now, view, spec, claimed, plan);
    rollout.advance();
    rollout.finish()
}

/// How the status is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tell {
    /// Counts and availability.
    Counts,
    /// Also how the rollout goes.
    Progress,
}

struct Rollout<'a> {
    view: &'a View,
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    bounds: Bounds,
    /// Oldest first.
    sets: Vec<Set>,
    /// Which of them has the present template.
    new: Option<usize>,
    conditions: Conditions,
    /// The Deployment's own revision, when it is known.
    revision: Option<String>,
    collided: bool,
    tell: Tell,
    clean_up: bool,
    plan: Plan,
}

impl<'a> Rollout<'a> {
    fn new(now: Timestamp, view: &'a View, spec: &'a DeploymentSpec, sets: Vec<Set>, plan: Plan) -> Self {
        let deployment = &*view.deployment;
        Self {
            view,
            deployment,
            spec,
            bounds: Bounds::of(deployment),
            new: sets::find_new(spec, &sets),
            sets,
            conditions: Conditions::of(deployment, now),
            revision: None,
            collided: false,
            tell: Tell::Counts,
            clean_up: false,
            plan,
        }
    }

    /// The branches; what they decide is in the functions they call.
    fn advance(&mut self) {
        if self.deployment.metadata.deletion_timestamp.is_some() {
            return;
        }
        let paused = self.spec.paused == Some(true);
        progress::note_pause(self.deployment, paused, &mut self.conditions);
        self.sync_new_set();
        if paused {
            self.scale_all();
            self.clean_up = true;
        } else if self.was_scaled() {
            self.scale_all();
        } else if sets::recreates(self.deployment) {
            self.tell = Tell::Progress;
            self.recreate();
        } else {
            self.tell = Tell::Progress;
            self.roll();
        }
    }

    /// Keeps the new set's revision, annotations and minReadySeconds, if there is one.
    fn sync_new_set(&mut self) {
        let Some(new) = self.new else { return };
        let next = revision::next_revision(self.sets.iter().enumerate().filter(|(i, _)| *i != new).map(|(_, s)| s));
        let Some(set) = self.sets.get_mut(new) else { return };
        revision::annotate(set, self.deployment, next);
        set.wanted.spec.get_or_insert_default().min_ready_seconds = self.spec.min_ready_seconds;
        self.revision = set.annotation(revision::REVISION).map(str::to_owned);
        let message = format!("Found new replica set \"{}\"", set.name());
        if progress::deadline(self.deployment).is_some() && self.conditions.get(PROGRESSING).is_none() {
            self.conditions.set(PROGRESSING, "True", "FoundNewReplicaSet", message);
        }
    }

    /// Adds the new set if it is missing. False when it cannot be had yet.
    fn ensure_new_set(&mut self) -> bool {
        if self.new.is_some() {
            return true;
        }
        if self.view.namesake.is_some() {
            // Its template differs, or it belongs to somebody else: the next hash is another one.
            self.collided = true;
            return false;
        }
        let mut set = Set { before: None, wanted: sets::new_set(self.deployment, self.spec) };
        revision::annotate(&mut set, self.deployment, revision::next_revision(self.sets.iter()));
        self.revision = set.annotation(revision::REVISION).map(str::to_owned);
        if progress::deadline(self.deployment).is_some() {
            let name = set.name();
            match &self.view.failure {
                Some(why) => {
                    let message = format!("Failed to create new replica set \"{name}\": {why}");
                    self.conditions.set(PROGRESSING, "False", "ReplicaSetCreateError", message);
                }
                None => {
                    let message = format!("Created new replica set \"{name}\"");
                    self.conditions.set(PROGRESSING, "True", "NewReplicaSetCreated", message);
                }
            }
        }
        self.sets.push(set);
        self.new = Some(self.sets.len() - 1);
        true
    }

    /// The number of replicas was changed since the sets were last sized.
    fn was_scaled(&self) -> bool {
        let differs = |set: &Set| {
            let recorded = set.annotation(DESIRED).and_then(|d| d.parse::<i32>().ok());
            recorded.is_some_and(|d| d != self.bounds.desired)
        };
        self.sets.iter().any(|s| s.replicas() > 0 && differs(s))
    }

    /// Sizes the sets for a changed number of replicas, without moving the rollout.
    fn scale_all(&mut self) {
        let new = self.new;
        let active: Vec<usize> = self.indices(|s| s.replicas() > 0);
        match active.as_slice() {
            [] => {
                if let Some(latest) = self.new.or_else(|| self.sets.len().checked_sub(1)) {
                    self.resize(latest, self.bounds.desired);
                }
            }
            [only] => self.resize(*only, self.bounds.desired),
            several if self.is_saturated() => {
                for &i in several.iter().filter(|&&i| Some(i) != new) {
                    self.resize(i, 0);
                }
            }
            several if !sets::recreates(self.deployment) => {
                let fallback = self.deployment.status.as_ref().and_then(|s| s.replicas).unwrap_or(0);
                let among: Vec<&Set> = several.iter().filter_map(|&i| self.sets.get(i)).collect();
                let sizes = scale::proportional(self.bounds, fallback, &among);
                for (&i, size) in several.iter().zip(sizes) {
                    self.resize(i, size);
                }
            }
            _ => {}
        }
    }

    /// The new set has all the pods that are desired, and they are available.
    fn is_saturated(&self) -> bool {
        let all = self.bounds.desired;
        self.new.and_then(|i| self.sets.get(i)).is_some_and(|set| {
            let recorded = set.annotation(DESIRED).and_then(|d| d.parse().ok());
            set.replicas() == all && recorded == Some(all) && set.available() == all
        })
    }

    fn roll(&mut self) {
        if !self.ensure_new_set() {
            return;
        }
        let Some(new) = self.new else { return };
        if self.grow_new(new) || self.shrink_old() {
            return;
        }
        self.clean_up = self.is_complete();
    }

    /// True when that was the step.
    fn grow_new(&mut self, new: usize) -> bool {
        let old = self.old();
        let Some(set) = self.sets.get(new) else { return false };
        let size = if set.replicas() > self.bounds.desired {
            self.bounds.desired
        } else {
            scale::room_for_new(self.bounds, set, &old)
        };
        let changes = size != set.replicas();
        self.resize(new, size);
        changes
    }

    fn shrink_old(&mut self) -> bool {
        // A set that was made smaller and greater again may still report pods that are gone.
        if !self.sets.iter().all(Set::is_settled) {
            return false;
        }
        let sizes = scale::sizes_of_old(self.bounds, self.new.and_then(|i| self.sets.get(i)), &self.old());
        let new = self.new;
        let old = (0..self.sets.len()).filter(|&i| Some(i) != new);
        let mut changed = false;
        for (i, size) in old.zip(sizes) {
            if self.sets.get(i).is_some_and(|s| s.replicas() != size) {
                self.resize(i, size);
                changed = true;
            }
        }
        changed
    }

    fn recreate(&mut self) {
        let new = self.new;
        let active = self.indices(|s| s.replicas() > 0);
        let old: Vec<usize> = active.into_iter().filter(|&i| Some(i) != new).collect();
        if !old.is_empty() {
            old.into_iter().for_each(|i| self.resize(i, 0));
            return;
        }
        let unfinished = |set: &&Set| {
            let uid = set.wanted.metadata.uid.as_deref().unwrap_or_default();
            self.view.unfinished.get(uid).copied().unwrap_or(0) > 0
        };
        if self.old().iter().any(unfinished) || !self.ensure_new_set() {
            return;
        }
        if let Some(new) = self.new {
            self.resize(new, self.bounds.desired);
        }
        self.clean_up = self.is_complete();
    }

    fn is_complete(&self) -> bool {
        let counts = progress::counts(self.deployment, &self.sets, self.new);
        progress::is_complete(self.deployment, self.bounds, &counts)
    }

    fn indices(&self, which: impl Fn(&Set) -> bool) -> Vec<usize> {
        self.sets.iter().enumerate().filter(|(_, s)| which(s)).map(|(i, _)| i).collect()
    }

    fn old(&self) -> Vec<&Set> {
        let new = self.new;
        self.sets.iter().enumerate().filter(|(i, _)| Some(*i) != new).map(|(_, s)| s).collect()
    }

    /// Sets the size, and records what it was derived from.
    fn resize(&mut self, index: usize, replicas: i32) {
        let bounds = self.bounds;
        if let Some(set) = self.sets.get_mut(index) {
            // Within a rollout what keeps its size is left alone, its record of older bounds included.
            if self.tell == Tell::Progress && set.before.is_some() && set.replicas() == replicas {
                return;
            }
            set.set_replicas(replicas);
            set.set_annotation(DESIRED, bounds.desired.to_string());
            set.set_annotation(MAX, bounds.most().to_string());
        }
    }

    fn finish(mut self) -> Plan {
        let status = self.status_write();
        let writes: Vec<Write> = self.sets.iter().filter_map(|set| self.write_of(set)).collect();
        // Creation may fail again as it did before: then the reason is shown first.
        let (first, last) = if self.view.failure.is_some() { (status, None) } else { (None, status) };
        first.into_iter().for_each(|w| self.plan.write(w));
        writes.into_iter().for_each(|w| self.plan.write(w));
        if self.clean_up {
            let gone = revision::clean_up(self.deployment, &self.old());
            gone.into_iter().for_each(|w| self.plan.write(w));
        }
        last.into_iter().for_each(|w| self.plan.write(w));
        self.plan
    }

    fn write_of(&self, set: &Set) -> Option<Write> {
        let write = set.write()?;
        let (from, to) = (set.replicas_before(), set.replicas());
        if from == to {
            return Some(write);
        }
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {from} to {to}", set.name());
        let about = self.deployment.object_ref(&());
        Some(write.on_success(Note { about, kind: EventKind::Normal, reason: "ScalingReplicaSet", message }))
    }

    /// The write of the status and the revision, if they differ.
    fn status_write(&mut self) -> Option<Write> {
        let mut status = progress::counts(self.deployment, &self.sets, self.new);
        progress::note_availability(self.bounds, &status, &mut self.conditions);
        if self.tell == Tell::Progress {
            let new = self.new.and_then(|i| self.sets.get(i));
            let again = progress::note_progress(self.deployment, self.bounds, &status, new, &mut self.conditions);
            again.into_iter().for_each(|after| self.plan.look_again(after));
            progress::note_failures(&self.sets, self.new, &mut self.conditions);
        }
        if self.collided {
            status.collision_count = Some(status.collision_count.unwrap_or(0).wrapping_add(1));
        }
        status.conditions = self.conditions.clone().into_list();
        let mut body = json!({});
        let old = self.deployment.status.clone().unwrap_or_default();
        if let Some(patch) = merge_patch(&old, &status) {
            body["status"] = patch;
        }
        let told = self.deployment.metadata.annotations.as_ref().and_then(|a| a.get(revision::REVISION));
        if let Some(revision) = self.revision.take().filter(|r| Some(r) != told) {
            // With the status: a change of annotations elsewhere would count as a new generation.
            body["metadata"]["annotations"][revision::REVISION] = json!(revision);
        }
        let changed = body.as_object().is_some_and(|b| !b.is_empty());
        changed.then(|| Write::patch(self.deployment, "status", body))
    }
}

//! StatefulSet: pods with names that stay, an order, and claims of their own.
//!
//! A pod's name is the set's and an ordinal; its claims outlive it. With `OrderedReady` there is one
//! change at a time: a pod is made when the one before it is ready, and goes when none after it is
//! left; `Parallel` does not wait. A new template goes from the highest ordinal down, to the partition.
//! Whatever is wrong with one pod holds the others back, as upstream: an order that is given up under
//! trouble is none.

mod claims;
mod identity;
mod rollout;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use serde_json::json;

use super::claim::{self, Claim};
use super::diff::merge_patch;
use super::history::{self, History};
use super::pods::{self, Availability};
use crate::reconcile::{Cluster, EventKind, ObjectKey, Plan, Queue, Reconciler, Shared, Step, Write, note};

/// Label of a pod: the name of the revision that it was made from.
const REVISION: &str = "controller-revision-hash";
/// Label of a revision: its hash.
const HASH: &str = "controller.kubernetes.io/hash";

/// The controller.
pub(super) struct StatefulSets {
    sets: Shared<StatefulSet>,
    pods: Shared<Pod>,
    claims: Shared<PersistentVolumeClaim>,
    revisions: Shared<ControllerRevision>,
}

/// All that concerns one StatefulSet.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub set: Arc<StatefulSet>,
    /// The pods that it controls.
    pub pods: Vec<Arc<Pod>>,
    /// Pods of its namespace that nobody controls.
    pub orphans: Vec<Arc<Pod>>,
    /// The claims of its namespace that are named like its own.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// The revisions that it controls.
    pub revisions: Vec<Arc<ControllerRevision>>,
}

impl StatefulSets {
    pub(super) fn new(cluster: &Cluster) -> Self {
        let pods = cluster.watch::<Pod>();
        claim::index_orphans(&pods);
        Self { sets: cluster.watch(), pods, claims: cluster.watch(), revisions: cluster.watch() }
    }

    /// A pod that nobody controls, or a claim, may concern the sets of its namespace that it is named after.
    fn follow_names(&self, queue: &Queue) {
        let look = |sets: &Shared<StatefulSet>, queue: &Queue, namespace: Option<&str>, name: Option<&str>| {
            for set in sets.list_in(namespace.unwrap_or_default()) {
                let own = set.metadata.name.as_deref().unwrap_or_default();
                if name.is_some_and(|name| name.contains(own)) {
                    queue.add(ObjectKey::of(&*set));
                }
            }
        };
        let (queue_of_pods, sets) = (queue.clone(), self.sets.clone());
        self.pods.on_change(move |old, new| {
            let free = |pod: &&Pod| crate::reconcile::owner_uid(&pod.metadata).is_none();
            if let Some(pod) = new.filter(free).or(old.filter(free)) {
                look(&sets, &queue_of_pods, pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref());
            }
            true
        });
        let (queue, sets) = (queue.clone(), self.sets.clone());
        self.claims.on_change(move |old, new| {
            if let Some(claim) = old.filter(|_| new.is_none()) {
                look(&sets, &queue, claim.metadata.namespace.as_deref(), claim.metadata.name.as_deref());
            }
            true
        });
    }
}

impl Reconciler for StatefulSets {
    type View = View;

    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn subscribe(&self, queue: &Queue) {
        queue.follow(&self.sets);
        queue.follow_children(&self.pods, "StatefulSet");
        queue.follow_children(&self.revisions, "StatefulSet");
        self.follow_names(queue);
    }

    async fn synced(&self) {
        self.sets.synced().await;
        self.pods.synced().await;
        self.claims.synced().await;
        self.revisions.synced().await;
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.sets.keys()
    }

    fn view(&self, key: &ObjectKey) -> Option<View> {
        let set = self.sets.get(key)?;
        let uid = set.metadata.uid.as_deref()?;
        let (pods, revisions) = (self.pods.controlled_by(uid), self.revisions.controlled_by(uid));
        let orphans = claim::orphans(&self.pods, &key.namespace);
        let claims = match spec(&set).volume_claim_templates.as_deref() {
            None | Some([]) => Vec::new(),
            Some(_) => {
                let mut claims = self.claims.list_in(&key.namespace);
                let infix = format!("-{}-", key.name);
                claims.retain(|claim| claim.metadata.name.as_deref().is_some_and(|name| name.contains(&infix)));
                claims
            }
        };
        Some(View { set, pods, orphans, claims, revisions })
    }

    fn plan(&self, now: Timestamp, view: View) -> Plan {
        plan(now, &view)
    }
}

fn spec(set: &StatefulSet) -> &StatefulSetSpec {
    static NONE: std::sync::OnceLock<StatefulSetSpec> = std::sync::OnceLock::new();
    set.spec.as_ref().unwrap_or_else(|| NONE.get_or_init(StatefulSetSpec::default))
}

/// What a plan knows besides the view.
pub(super) struct Context<'a> {
    pub now: Timestamp,
    pub set: &'a StatefulSet,
    pub spec: &'a StatefulSetSpec,
    pub claims: &'a [Arc<PersistentVolumeClaim>],
    /// The name of the present template's revision.
    pub update: String,
    /// The revision that is being left, by name, and its template.
    pub current: (String, PodTemplateSpec),
    /// The ordinals that there shall be.
    pub wanted: std::ops::Range<i32>,
    /// The pods by ordinal.
    pub pods: BTreeMap<i32, &'a Arc<Pod>>,
}

impl Context<'_> {
    fn ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn availability(&self, pod: &Pod) -> Availability {
        if pods::phase(pod) != "Running" {
            return Availability::Unready;
        }
        pods::availability(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    /// It runs, has been ready long enough, and is not about to go.
    fn is_healthy(&self, pod: &Pod) -> bool {
        pod.metadata.deletion_timestamp.is_none() && self.availability(pod) == Availability::Available
    }

    /// Whether a pod of this ordinal is made from the revision that is being left.
    fn keeps_revision(&self, ordinal: i32) -> bool {
        let strategy = self.spec.update_strategy.as_ref();
        let partition = strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.partition).unwrap_or(0);
        strategy.is_none_or(|s| s.type_.as_deref() != Some("OnDelete"))
            && ordinal < self.wanted.start.saturating_add(partition)
    }
}

/// Decides what one StatefulSet needs.
pub(super) fn plan(now: Timestamp, view: &View) -> Plan {
    let mut plan = Plan::nothing();
    let set = &*view.set;
    let Some(spec) = &set.spec else { return plan };
    let claim =
        Claim { owner: set, selector: pods::workload_selector(&spec.selector), adoptable: |_| true, finalizer: None };
    let orphans: Vec<Arc<Pod>> = view.orphans.iter().filter(|p| identity::ordinal(set, p).is_some()).cloned().collect();
    let claimed = claim.pods(&view.pods, &orphans, &mut plan);
    let old = set.status.clone().unwrap_or_default();
    let history = History {
        owner: set,
        template: &spec.template,
        hash_label: HASH,
        collisions: old.collision_count,
        revisions: &view.revisions,
        limit: spec.revision_history_limit,
    };
    let update = history.current(&mut plan).name;
    let context = Context {
        now,
        set,
        spec,
        claims: &view.claims,
        current: current_revision(view, &old, &update),
        update,
        wanted: wanted(spec),
        pods: claimed.iter().filter_map(|pod| Some((identity::ordinal(set, pod)?, *pod))).collect(),
    };
    let used = |revision: &ControllerRevision| {
        let name = revision.metadata.name.as_deref().unwrap_or_default();
        let label = |pod: &Pod| pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION)).cloned();
        name == context.update || name == context.current.0 || claimed.iter().any(|p| label(p).as_deref() == Some(name))
    };
    history.truncate(used, &mut plan);
    claims::own(&context, &mut plan);
    if set.metadata.deletion_timestamp.is_none() {
        change(&context, &mut plan);
    }
    let status = status::of(&context, &old, &mut plan);
    if let Some(patch) = merge_patch(&old, &status) {
        plan.write(Write::patch(set, "status", json!({"status": patch})));
    }
    plan
}

fn wanted(spec: &StatefulSetSpec) -> std::ops::Range<i32> {
    let start = spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0);
    start..start.saturating_add(spec.replicas.unwrap_or(1).max(0))
}

/// The revision that the status names, if it is still known; else the present one.
fn current_revision(view: &View, status: &StatefulSetStatus, update: &str) -> (String, PodTemplateSpec) {
    let named = |name: &str| view.revisions.iter().find(|r| r.metadata.name.as_deref() == Some(name));
    let current = status.current_revision.as_deref().and_then(named);
    match current.and_then(|revision| Some((revision, history::template(revision)?))) {
        Some((revision, template)) => (revision.metadata.name.clone().unwrap_or_default(), template),
        None => (update.to_owned(), spec(&view.set).template.clone()),
    }
}

/// The pods to make and to remove: what is missing first, then what is too much, then what is old.
fn change(context: &Context<'_>, plan: &mut Plan) {
    for ordinal in context.wanted.clone() {
        let waits = match context.pods.get(&ordinal) {
            None => {
                create(context, ordinal, plan);
                true
            }
            Some(pod) => check(context, ordinal, pod, plan),
        };
        if waits && context.ordered() {
            return;
        }
    }
    if !scale_down(context, plan) {
        return;
    }
    rollout::roll(context, plan);
}

/// Looks after one pod that there is; true when its successors have to wait.
fn check(context: &Context<'_>, ordinal: i32, pod: &Pod, plan: &mut Plan) -> bool {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if pods::is_finished(pod) && pod.metadata.deletion_timestamp.is_none() {
        let (namespace, own) = (
            context.set.metadata.namespace.as_deref().unwrap_or_default(),
            context.set.metadata.name.as_deref().unwrap_or_default(),
        );
        let (reason, state) = match pods::phase(pod) {
            "Failed" => ("RecreatingFailedPod", "failed"),
            _ => ("RecreatingTerminatedPod", "terminated"),
        };
        let message = format!("StatefulSet {namespace}/{own} is recreating {state} Pod {name}");
        plan.steps.push(Step::Tell(note(context.set, EventKind::Warning, reason, message)));
        plan.write(delete(context, pod));
        return true;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return true;
    }
    if pods::phase(pod) == "Pending" {
        claims::create(context, ordinal, plan);
    }
    identity::restore(context, ordinal, pod, plan);
    match context.availability(pod) {
        Availability::Available => false,
        Availability::In(left) => {
            plan.look_again(left);
            true
        }
        Availability::Unready => true,
    }
}

/// Removes the pods beyond the wanted ordinals, the highest first; true when none is left.
fn scale_down(context: &Context<'_>, plan: &mut Plan) -> bool {
    let condemned = context.pods.iter().rev().filter(|(ordinal, _)| !context.wanted.contains(ordinal));
    let unhealthy = |(_, pod): &(&i32, &&Arc<Pod>)| !context.is_healthy(pod);
    // The lowest unhealthy pod of all is the one whose trouble ends by going.
    let first_unhealthy = context.pods.iter().find(unhealthy).map(|(ordinal, _)| *ordinal);
    let mut none = true;
    for (ordinal, pod) in condemned {
        none = false;
        if pod.metadata.deletion_timestamp.is_some() {
            if context.ordered() {
                return false;
            }
            continue;
        }
        if context.ordered() && !context.is_healthy(pod) && first_unhealthy != Some(*ordinal) {
            return false;
        }
        plan.write(delete(context, pod));
        if context.ordered() {
            return false;
        }
    }
    none
}

fn create(context: &Context<'_>, ordinal: i32, plan: &mut Plan) {
    claims::create(context, ordinal, plan);
    let (set, pod) = (context.set, identity::new_pod(context, ordinal));
    let own = set.metadata.name.as_deref().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let told = |what: &str| format!("create Pod {name} in StatefulSet {own} {what}");
    plan.write(
        Write::create(&pod)
            .on_success(note(set, EventKind::Normal, "SuccessfulCreate", told("successful")))
            .on_failure(note(set, EventKind::Warning, "FailedCreate", told("failed error: {error}"))),
    );
}

fn delete(context: &Context<'_>, pod: &Pod) -> Write {
    let set = context.set;
    let own = set.metadata.name.as_deref().unwrap_or_default();
    let told = |what: &str| {
        format!("delete Pod {} in StatefulSet {own} {what}", pod.metadata.name.as_deref().unwrap_or_default())
    };
    Write::delete(pod)
        .on_success(note(set, EventKind::Normal, "SuccessfulDelete", told("successful")))
        .on_failure(note(set, EventKind::Warning, "FailedDelete", told("failed error: {error}")))
}

//! What one look at an autoscaler leads to: how many there shall be, and what is said of it.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec,
    MetricStatus, MetricTarget, MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::behavior::{self, Memory, Wish};
use super::gather::{Scale, Sight};
use super::usage::{self, Goal, Proposal, Question, Tolerances};
use crate::kinds::quantity::Quantity;
use crate::reconcile::EventKind;

/// A ratio this near to one is left alone, in thousandths.
const TOLERANCE: i64 = 100;

/// A condition that shall hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub kind: &'static str,
    pub holds: bool,
    pub reason: &'static str,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rescale {
    pub from: i32,
    pub to: i32,
    pub reason: String,
}

/// What is to be done and said.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Decision {
    pub conditions: Vec<Said>,
    pub events: Vec<(EventKind, &'static str, String)>,
    /// How many there are; `None` where that could not be read.
    pub current: Option<i32>,
    /// How many there shall be; `None` where nothing was decided.
    pub desired: Option<i32>,
    pub metrics: Vec<MetricStatus>,
    pub rescale: Option<Rescale>,
}

impl Decision {
    fn say(&mut self, kind: &'static str, holds: bool, reason: &'static str, message: impl Into<String>) {
        self.conditions.push(Said { kind, holds, reason, message: message.into() });
    }

    fn warn(&mut self, reason: &'static str, message: impl Into<String>) {
        self.events.push((EventKind::Warning, reason, message.into()));
    }
}

pub(super) fn decide(
    now: Timestamp,
    autoscaler: &HorizontalPodAutoscaler,
    sight: &Sight,
    memory: &mut Memory,
) -> Decision {
    let mut decision = Decision::default();
    let spec = &autoscaler.spec;
    let scale = match &sight.scale {
        Ok(scale) => scale,
        Err(why) => {
            decision.warn("FailedGetScale", why);
            let message = format!("the HPA controller was unable to get the target's current scale: {why}");
            decision.say("AbleToScale", false, "FailedGetScale", message);
            return decision;
        }
    };
    let message = "the HPA controller was able to get the target's current scale";
    decision.say("AbleToScale", true, "SucceededGetScale", message);
    let (current, least) = (scale.replicas, spec.min_replicas.unwrap_or(1));
    decision.current = Some(current);
    memory.begin(now, &scale.selector, current);
    if current == 0 && least != 0 {
        let message = "scaling is disabled since the replica count of the target is zero";
        decision.say("ScalingActive", false, "ScalingDisabled", message);
        decision.desired = Some(0);
        return decision;
    }
    let bound = if current > spec.max_replicas {
        Some((spec.max_replicas, "Current number of replicas above Spec.MaxReplicas"))
    } else {
        (current < least).then_some((least, "Current number of replicas below Spec.MinReplicas"))
    };
    let (to, reason) = match bound {
        Some((to, reason)) => (to, reason.to_owned()),
        None => match by_metrics(now, spec, scale, sight, memory, &mut decision) {
            Some(found) => found,
            None => return decision,
        },
    };
    decision.desired = Some(to);
    decision.rescale = (to != current).then_some(Rescale { from: current, to, reason });
    decision
}

/// How many the metrics ask for, of what may be granted; `None` where they say nothing.
fn by_metrics(
    now: Timestamp,
    spec: &HorizontalPodAutoscalerSpec,
    scale: &Scale,
    sight: &Sight,
    memory: &mut Memory,
    decision: &mut Decision,
) -> Option<(i32, String)> {
    let (wanted, metric) = match combine(now, spec, scale, sight, decision) {
        Ok(found) => found,
        Err(why) => {
            decision.warn("FailedComputeMetricsReplicas", why);
            return None;
        }
    };
    let (current, least) = (scale.replicas, spec.min_replicas.unwrap_or(1));
    let behavior = spec.behavior.as_ref();
    let wish = Wish { now, current, desired: wanted, least, most: spec.max_replicas, behavior };
    let granted = behavior::grant(&wish, memory);
    let (reason, message) = granted.stabilized.unwrap_or(("ReadyForNewScale", "recommended size matches current size"));
    decision.say("AbleToScale", true, reason, message);
    let (limited, (reason, message)) = granted.limited;
    decision.say("ScalingLimited", limited, reason, message);
    let why = if wanted > current { format!("{metric} above target") } else { "All metrics below target".to_owned() };
    Some((granted.replicas, why))
}

/// The largest proposal of all metrics, and the metric that made it.
fn combine(
    now: Timestamp,
    spec: &HorizontalPodAutoscalerSpec,
    scale: &Scale,
    sight: &Sight,
    decision: &mut Decision,
) -> Result<(i32, String), String> {
    if scale.selector.is_empty() {
        decision.warn("SelectorRequired", "selector is required");
        let message = "the HPA target's scale is missing a selector";
        decision.say("ScalingActive", false, "InvalidSelector", message);
        return Err("selector is required".to_owned());
    }
    if !sight.rivals.is_empty() {
        let rivals: Vec<String> = sight.rivals.iter().map(ToString::to_string).collect();
        let why =
            format!("pods by selector {} are controlled by multiple HPAs: [{}]", scale.selector, rivals.join(" "));
        decision.warn("AmbiguousSelector", &why);
        decision.say("ScalingActive", false, "AmbiguousSelector", &why);
        return Err(why);
    }
    let metrics = spec.metrics.as_deref().unwrap_or_default();
    let mut best: Option<(i32, String)> = None;
    let mut failures: Vec<(&'static str, String)> = Vec::new();
    for metric in metrics {
        let (status, answer) = ask(now, spec, metric, scale.replicas, sight);
        decision.metrics.push(status);
        match answer {
            Ok((replicas, name)) if best.as_ref().is_none_or(|(most, _)| replicas > *most) => {
                best = Some((replicas, name));
            }
            Ok(_) => {}
            Err((reason, why)) => {
                decision.warn(reason, &why);
                failures.push((reason, why));
            }
        }
    }
    match (best, failures.first()) {
        // What is not known may be what would keep the pods that there are.
        (Some((replicas, name)), failure) if failure.is_none() || replicas >= scale.replicas => {
            let message = format!("the HPA was able to successfully calculate a replica count from {name}");
            decision.say("ScalingActive", true, "ValidMetricFound", message);
            Ok((replicas, name))
        }
        (_, Some((reason, why))) => {
            let message = format!("the HPA was unable to compute the replica count: {why}");
            decision.say("ScalingActive", false, reason, message);
            let (bad, all) = (failures.len(), metrics.len());
            Err(format!("invalid metrics ({bad} invalid out of {all}), first error is: {why}"))
        }
        (_, None) => Err("no metrics are specified".to_owned()),
    }
}

type Answer = Result<(i32, String), (&'static str, String)>;

/// Asks one metric. Its status is there even where it has no answer, so that the lists stay side by side.
fn ask(
    now: Timestamp,
    spec: &HorizontalPodAutoscalerSpec,
    metric: &MetricSpec,
    replicas: i32,
    sight: &Sight,
) -> (MetricStatus, Answer) {
    let nothing = MetricStatus::default();
    let (failed, name, container, target) = match metric.type_.as_str() {
        "Resource" => match &metric.resource {
            Some(source) => ("FailedGetResourceMetric", &source.name, None, &source.target),
            None => return (nothing, unserved(metric)),
        },
        "ContainerResource" => match &metric.container_resource {
            Some(source) => {
                ("FailedGetContainerResourceMetric", &source.name, Some(source.container.as_str()), &source.target)
            }
            None => return (nothing, unserved(metric)),
        },
        _ => return (nothing, unserved(metric)),
    };
    let (goal, what) = match goal(target) {
        Some(goal) => goal,
        None => {
            let why = "invalid resource metric source: neither an average utilization target nor an average value \
                       (usage) target was set";
            return (nothing, Err((failed, why.to_owned())));
        }
    };
    let question = Question { resource: name, container, goal, replicas, tolerances: tolerances(spec) };
    let answer = match &sight.usage {
        Ok(usage) => usage::propose(now, &question, &sight.pods, usage),
        Err(why) => Err(format!("unable to get metrics for resource {name}: {why}")),
    };
    match answer {
        Ok(proposal) => {
            let part = if container.is_some() { " container" } else { "" };
            let measured = match goal {
                Goal::Utilization(_) => format!("{name}{part} resource utilization (percentage of request)"),
                Goal::Average(_) => format!("{name}{part} resource"),
            };
            (shown(name, container, &proposal), Ok((proposal.replicas, measured)))
        }
        Err(why) => (nothing, Err((failed, format!("failed to get {name} {what}: {why}")))),
    }
}

fn goal(target: &MetricTarget) -> Option<(Goal, &'static str)> {
    if let Some(average) = &target.average_value {
        let amount: Quantity = average.0.parse().ok()?;
        return Some((Goal::Average(amount.millis()), "usage"));
    }
    Some((Goal::Utilization(target.average_utilization?.into()), "utilization"))
}

fn tolerances(spec: &HorizontalPodAutoscalerSpec) -> Tolerances {
    let of = |rules: Option<&HPAScalingRules>| {
        let given = rules.and_then(|rules| rules.tolerance.as_ref());
        given.and_then(|tolerance| tolerance.0.parse::<Quantity>().ok()).map_or(TOLERANCE, Quantity::millis)
    };
    let behavior = spec.behavior.as_ref();
    Tolerances {
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
    }
}

fn shown(name: &str, container: Option<&str>, proposal: &Proposal) -> MetricStatus {
    let current = MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(Text(Quantity::from_millis(proposal.average).to_string())),
        value: None,
    };
    let name = name.to_owned();
    match container {
        None => MetricStatus {
            type_: "Resource".to_owned(),
            resource: Some(ResourceMetricStatus { name, current }),
            ..MetricStatus::default()
        },
        Some(container) => {
            let container = container.to_owned();
            MetricStatus {
                type_: "ContainerResource".to_owned(),
                container_resource: Some(ContainerResourceMetricStatus { name, container, current }),
                ..MetricStatus::default()
            }
        }
    }
}

/// Metrics that only an API of somebody else could know.
fn unserved(metric: &MetricSpec) -> Answer {
    let named = |name: Option<&String>| name.cloned().unwrap_or_default();
    let (reason, what, api, name) = match metric.type_.as_str() {
        "Pods" => (
            "FailedGetPodsMetric",
            "pods metric value",
            "custom.metrics.k8s.io",
            named(metric.pods.as_ref().map(|source| &source.metric.name)),
        ),
        "Object" => (
            "FailedGetObjectMetric",
            "object metric value",
            "custom.metrics.k8s.io",
            named(metric.object.as_ref().map(|source| &source.metric.name)),
        ),
        "External" => (
            "FailedGetExternalMetric",
            "external metric",
            "external.metrics.k8s.io",
            named(metric.external.as_ref().map(|source| &source.metric.name)),
        ),
        other => return Err(("InvalidMetricSourceType", format!("unknown metric source type {other:?}"))),
    };
    let why = format!("failed to get {what}: unable to get metric {name}: this cluster serves no {api}");
    Err((reason, why))
}

//! From what pods use to how many there should be, after upstream's replica calculator.
//!
//! Ratios are fractions of whole numbers, so that no rounding of floats asks for a pod too many. What is
//! not known errs towards leaving things alone: on the way up, pods without figures count as idle; on
//! the way down, as busy.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::gather::PodUsage;
use crate::controllers::pods;
use crate::kinds::quantity::Quantity;

/// For so long after its start a pod's CPU may be that of its start.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that became unready within this time of its start has never been ready.
const INITIAL_READINESS_DELAY: SignedDuration = SignedDuration::from_secs(30);

/// A fraction; the denominator is positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ratio {
    pub over: i128,
    pub under: i128,
}

impl Ratio {
    pub fn new(over: i64, under: i64) -> Self {
        Self { over: over.into(), under: i128::from(under.max(1)) }
    }

    fn exceeds_one(self) -> bool {
        self.over > self.under
    }

    fn is_below_one(self) -> bool {
        self.over < self.under
    }

    /// The smallest whole number that is not less than so many times this.
    fn times(self, count: usize) -> i32 {
        let product = self.over * i128::try_from(count).unwrap_or(i128::MAX);
        let whole = product.div_euclid(self.under) + i128::from(product.rem_euclid(self.under) != 0);
        i32::try_from(whole).unwrap_or(i32::MAX)
    }
}

/// How far a ratio may be from one without anything being done, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tolerances {
    pub up: i64,
    pub down: i64,
}

impl Tolerances {
    fn hold(self, ratio: Ratio) -> bool {
        let thousandths = ratio.over * 1000;
        thousandths <= ratio.under * i128::from(1000 + self.up)
            && thousandths >= ratio.under * i128::from(1000 - self.down)
    }
}

/// What a resource is to be: its metric's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// In percent of what pods request.
    Utilization(i64),
    /// In thousandths, a pod.
    Average(i64),
}

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Question<'a> {
    pub resource: &'a str,
    /// The container that counts; all of them where none is named.
    pub container: Option<&'a str>,
    pub goal: Goal,
    pub replicas: i32,
    pub tolerances: Tolerances,
}

/// How many there should be, and what they use now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proposal {
    pub replicas: i32,
    /// In percent of what is requested; where that is the goal.
    pub utilization: Option<i32>,
    /// In thousandths, a pod.
    pub average: i64,
}

/// Pods by what is known of them.
#[derive(Debug, Default)]
struct Groups<'a> {
    ready: BTreeMap<&'a str, i64>,
    unready: Vec<&'a str>,
    missing: Vec<&'a str>,
}

pub(super) fn propose(
    now: Timestamp,
    question: &Question<'_>,
    pods: &[Arc<Pod>],
    usage: &BTreeMap<String, PodUsage>,
) -> Result<Proposal, String> {
    let values = values(question, usage)?;
    if values.is_empty() {
        return Err(format!(
            "unable to get metrics for resource {}: no metrics returned from resource metrics API",
            question.resource
        ));
    }
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = group(now, question.resource, pods, usage, &values);
    if groups.ready.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let requests = match question.goal {
        Goal::Utilization(_) => requests(question, pods)?,
        Goal::Average(_) => BTreeMap::new(),
    };
    let (ratio, utilization, average) = compare(question.goal, &groups.ready, &requests)?;
    let replicas = replicas(question, &groups, &requests, ratio)?;
    Ok(Proposal { replicas, utilization, average })
}

/// How many pods this ratio asks for.
fn replicas(
    question: &Question<'_>,
    groups: &Groups<'_>,
    requests: &BTreeMap<&str, i64>,
    ratio: Ratio,
) -> Result<i32, String> {
    let counts_unready = !groups.unready.is_empty() && ratio.exceeds_one();
    if !counts_unready && groups.missing.is_empty() {
        let settled = question.tolerances.hold(ratio);
        return Ok(if settled { question.replicas } else { ratio.times(groups.ready.len()) });
    }
    let mut values = groups.ready.clone();
    for pod in &groups.missing {
        if ratio.is_below_one() {
            values.insert(pod, assumed(question.goal, requests.get(pod).copied().unwrap_or(0)));
        } else if ratio.exceeds_one() || matches!(question.goal, Goal::Average(_)) {
            values.insert(pod, 0);
        }
    }
    if counts_unready {
        values.extend(groups.unready.iter().map(|pod| (*pod, 0)));
    }
    let (again, ..) = compare(question.goal, &values, requests)?;
    let turned = (ratio.is_below_one() && again.exceeds_one()) || (ratio.exceeds_one() && again.is_below_one());
    if turned || question.tolerances.hold(again) {
        return Ok(question.replicas);
    }
    let wanted = again.times(values.len());
    // Pods that are missing must not turn a shrinking into a growth, or the other way.
    let backwards =
        (again.is_below_one() && wanted > question.replicas) || (again.exceeds_one() && wanted < question.replicas);
    Ok(if backwards { question.replicas } else { wanted })
}

/// What a pod without figures is taken to use on the way down.
fn assumed(goal: Goal, request: i64) -> i64 {
    match goal {
        Goal::Utilization(percent) => request.saturating_mul(percent.max(100)) / 100,
        Goal::Average(target) => target,
    }
}

/// The ratio of use to goal; the use in percent of the requests, and a pod.
fn compare(
    goal: Goal,
    values: &BTreeMap<&str, i64>,
    requests: &BTreeMap<&str, i64>,
) -> Result<(Ratio, Option<i32>, i64), String> {
    match goal {
        Goal::Average(target) => {
            let sum: i64 = values.values().fold(0, |sum, value| sum.saturating_add(*value));
            let average = sum / i64::try_from(values.len()).unwrap_or(i64::MAX).max(1);
            Ok((Ratio::new(average, target), None, average))
        }
        Goal::Utilization(target) => {
            let known = values.iter().filter_map(|(pod, value)| Some((*value, *requests.get(pod)?)));
            let add = |(used, asked, count): (i64, i64, i64), (value, request): (i64, i64)| {
                (used.saturating_add(value), asked.saturating_add(request), count + 1)
            };
            let (used, asked, count) = known.fold((0, 0, 0), add);
            if asked == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let percent = i128::from(used) * 100 / i128::from(asked);
            let percent = i64::try_from(percent).unwrap_or(i64::MAX);
            Ok((Ratio::new(percent, target), i32::try_from(percent).ok(), used / count.max(1)))
        }
    }
}

/// What each pod uses of the resource; a pod of which a part is not known is left out.
fn values<'a>(
    question: &Question<'_>,
    usage: &'a BTreeMap<String, PodUsage>,
) -> Result<BTreeMap<&'a str, i64>, String> {
    let mut values = BTreeMap::new();
    for (pod, used) in usage {
        let value = match question.container {
            None => {
                used.containers.values().map(|amounts| amounts.get(question.resource).copied()).sum::<Option<i64>>()
            }
            Some(container) => {
                let amounts = used.containers.get(container).ok_or_else(|| {
                    format!(
                        "failed to get container metrics: container {container} not present in metrics for pod {pod}"
                    )
                })?;
                amounts.get(question.resource).copied()
            }
        };
        if let Some(value) = value {
            values.insert(pod.as_str(), value);
        }
    }
    Ok(values)
}

fn group<'a>(
    now: Timestamp,
    resource: &str,
    pods: &'a [Arc<Pod>],
    usage: &BTreeMap<String, PodUsage>,
    values: &BTreeMap<&str, i64>,
) -> Groups<'a> {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match (pods::phase(pod), values.get(name), usage.get(name)) {
            _ if !pods::is_active(pod) => {}
            ("Pending", ..) => groups.unready.push(name),
            (_, Some(value), Some(used)) => {
                if resource == "cpu" && is_unready(now, pod, used) {
                    groups.unready.push(name);
                } else {
                    groups.ready.insert(name, *value);
                }
            }
            _ => groups.missing.push(name),
        }
    }
    groups
}

/// Whether what a pod uses says nothing yet: it is starting, or has never been ready.
fn is_unready(now: Timestamp, pod: &Pod, used: &PodUsage) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let (Some(ready), Some(started)) = (pods::condition(pod, "Ready"), started) else { return true };
    let since = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let after = |time: Timestamp, by: SignedDuration| time.checked_add(by).unwrap_or(Timestamp::MAX);
    if after(started, CPU_INITIALIZATION) > now {
        return ready.status == "False" || used.at < after(since, used.window);
    }
    ready.status == "False" && after(started, INITIAL_READINESS_DELAY) > since
}

/// What each pod requests of the resource.
fn requests<'a>(question: &Question<'_>, pods: &'a [Arc<Pod>]) -> Result<BTreeMap<&'a str, i64>, String> {
    let mut requests = BTreeMap::new();
    for pod in pods {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        requests.insert(name, request(question, pod, name)?);
    }
    Ok(requests)
}

fn request(question: &Question<'_>, pod: &Pod, name: &str) -> Result<i64, String> {
    let Some(spec) = pod.spec.as_ref() else { return Ok(0) };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let counted: Vec<&Container> = spec
        .containers
        .iter()
        .chain(sidecars)
        .filter(|container| question.container.is_none_or(|named| named == container.name))
        .collect();
    if let Some(named) = question.container.filter(|_| counted.is_empty()) {
        return Err(format!("container {named} not found in Pod {name}"));
    }
    let mut sum = 0_i64;
    for container in counted {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let amount = requests.and_then(|requests| requests.get(question.resource));
        let amount = amount.and_then(|amount| amount.0.parse::<Quantity>().ok()).ok_or_else(|| {
            format!("missing request for {} in container {} of Pod {name}", question.resource, container.name)
        })?;
        sum = sum.saturating_add(amount.millis());
    }
    Ok(sum)
}

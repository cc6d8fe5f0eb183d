//! What a failed pod means by the Job's `podFailurePolicy`, and whether enough have succeeded by its
//! `successPolicy`.

use k8s_openapi::api::batch::v1::{
    Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::{index, spec};
use crate::kinds::job::indexes::Indexes;

/// What a failure leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts towards the limit: no rule says otherwise.
    Count,
    Ignore,
    FailIndex,
    /// The Job fails; what is told about it.
    FailJob(String),
}

impl Verdict {
    pub(super) fn counts(&self) -> bool {
        *self != Self::Ignore
    }
}

/// The first rule that matches decides.
pub(super) fn verdict(job: &Job, pod: &Pod) -> Verdict {
    let rules = spec(job).pod_failure_policy.iter().flat_map(|policy| policy.rules.iter());
    for (i, rule) in rules.enumerate() {
        if let Some(matched) = matching(rule, pod) {
            return match rule.action.as_str() {
                "Ignore" => Verdict::Ignore,
                "FailIndex" if index::limit(job).is_some() => Verdict::FailIndex,
                "FailJob" => Verdict::FailJob(message(pod, &matched, rule, i)),
                _ => Verdict::Count,
            };
        }
    }
    Verdict::Count
}

/// What a rule has found in a pod.
enum Matched<'a> {
    ExitCode { container: &'a str, code: i32 },
    Condition(&'a str),
}

fn message(pod: &Pod, matched: &Matched<'_>, rule: &PodFailurePolicyRule, i: usize) -> String {
    let (namespace, name) =
        (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default());
    let action = &rule.action;
    match matched {
        Matched::ExitCode { container, code } => format!(
            "Container {container} for pod {namespace}/{name} failed with exit code {code} matching {action} rule at index {i}"
        ),
        Matched::Condition(kind) => {
            format!("Pod {namespace}/{name} has condition {kind} matching {action} rule at index {i}")
        }
    }
}

fn matching<'a>(rule: &PodFailurePolicyRule, pod: &'a Pod) -> Option<Matched<'a>> {
    match &rule.on_exit_codes {
        Some(codes) => exit_code(codes, pod),
        None => rule.on_pod_conditions.iter().flatten().find_map(|pattern| pod_condition(pattern, pod)),
    }
}

fn exit_code<'a>(codes: &PodFailurePolicyOnExitCodesRequirement, pod: &'a Pod) -> Option<Matched<'a>> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let named = |c: &&ContainerStatus| codes.container_name.as_ref().is_none_or(|name| *name == c.name);
    containers.filter(named).find_map(|container| {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        let listed = codes.values.contains(&code);
        let matches = code != 0 && if codes.operator == "In" { listed } else { !listed };
        matches.then_some(Matched::ExitCode { container: &container.name, code })
    })
}

fn pod_condition<'a>(pattern: &PodFailurePolicyOnPodConditionsPattern, pod: &'a Pod) -> Option<Matched<'a>> {
    let found = super::pods::condition(pod, &pattern.type_)?;
    let wanted = pattern.status.as_deref().unwrap_or("True");
    (found.status == wanted).then_some(Matched::Condition(&found.type_))
}

/// What is told when a rule of the success policy is met.
pub(super) fn success(job: &Job, succeeded: &Indexes) -> Option<String> {
    let rules = spec(job).success_policy.iter().flat_map(|policy| policy.rules.iter());
    rules.enumerate().find_map(|(i, rule)| {
        let met = match (&rule.succeeded_indexes, rule.succeeded_count) {
            (Some(indexes), count) => {
                let wanted = Indexes::of_status(indexes, index::completions(job));
                succeeded.common(&wanted) >= count.unwrap_or(wanted.len())
            }
            (None, Some(count)) => succeeded.len() >= count,
            (None, None) => false,
        };
        met.then(|| format!("Matched rules at index {i}"))
    })
}

//! Decisions by tables, and a world in which load comes and goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::behavior::Memory;
use super::decide::{Decision, decide};
use super::gather::{PodUsage, Scale, Sight};
use super::status;

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().expect("a time")
}

fn later(seconds: i64) -> Timestamp {
    now().checked_add(SignedDuration::from_secs(seconds)).expect("a time")
}

fn autoscaler(spec: Value) -> HorizontalPodAutoscaler {
    let mut object = json!({"metadata": {"name": "a", "namespace": "ns"}, "spec": {
        "minReplicas": 1, "maxReplicas": 10, "scaleTargetRef": {"kind": "Deployment", "name": "web"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    json_patch::merge(&mut object["spec"], &spec);
    serde_json::from_value(object).expect("an autoscaler")
}

/// A pod that asks for 100m and has been ready for an hour.
fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
        "status": {"phase": "Running", "startTime": "2026-01-01T11:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T11:00:00Z"}]}})
}

fn used(cpu: i64) -> PodUsage {
    let amounts = [("cpu".to_owned(), cpu), ("memory".to_owned(), cpu * 1000)].into();
    PodUsage { at: now(), window: SignedDuration::from_secs(10), containers: [("c".to_owned(), amounts)].into() }
}

/// Pods that use so much CPU each; `None` is a pod without figures.
fn sight(uses: &[Option<i64>]) -> Sight {
    let names: Vec<String> = (0..uses.len()).map(|i| format!("p{i}")).collect();
    let pods = names.iter().map(|name| Arc::new(serde_json::from_value::<Pod>(pod(name)).expect("a pod"))).collect();
    let usage: BTreeMap<String, PodUsage> =
        names.into_iter().zip(uses).filter_map(|(name, cpu)| Some((name, used((*cpu)?)))).collect();
    let replicas = i32::try_from(uses.len()).expect("few pods");
    let scale = Scale { replicas, selector: "app=web".to_owned(), ..Scale::default() };
    Sight { scale: Ok(scale), pods, usage: Ok(usage), rivals: Vec::new() }
}

fn first(autoscaler: &HorizontalPodAutoscaler, sight: &Sight) -> Decision {
    decide(now(), autoscaler, sight, &mut Memory::default())
}

fn condition<'a>(decision: &'a Decision, kind: &str) -> (bool, &'a str) {
    let said = decision.conditions.iter().rev().find(|said| said.kind == kind).expect("the condition");
    (said.holds, said.reason)
}

#[test]
fn use_over_target_makes_replicas() {
    // Uses of pods of 100m each with a target of 50 %, and what is desired; shrinking waits, so that it
    // is looked at without a window.
    let prompt = json!({"behavior": {
        "scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
        "scaleUp": {"policies": [{"type": "Percent", "value": 900, "periodSeconds": 15}]}}});
    let table: &[(&[Option<i64>], i32, &str)] = &[
        (&[Some(50), Some(50)], 2, "as it should be"),
        (&[Some(54), Some(55)], 2, "within the tolerance"),
        (&[Some(60), Some(60)], 3, "a little more rounds up"),
        (&[Some(100), Some(100)], 4, "twice the target"),
        (&[Some(10), Some(10), Some(10)], 1, "hardly used"),
        (&[Some(0), Some(0)], 1, "idle, down to the least"),
        (&[Some(100), None], 2, "on the way up who is missing counts as idle"),
        (&[Some(250), None], 5, "and is counted among the pods"),
        (&[Some(10), None], 2, "on the way down as busy: 110 of 200 is too near"),
        (&[Some(10), Some(10), Some(10), None], 3, "and 130 of 400 asks for 3"),
        (&[Some(500), Some(500), Some(500)], 10, "at most the most"),
    ];
    for (uses, wanted, why) in table {
        let decision = first(&autoscaler(prompt.clone()), &sight(uses));
        assert_eq!(decision.desired, Some(*wanted), "{uses:?}: {why}: {:?}", decision.conditions);
        let there = i32::try_from(uses.len()).expect("few");
        assert_eq!(decision.rescale.map(|rescale| rescale.to), (*wanted != there).then_some(*wanted), "{why}");
    }
}

#[test]
fn averages_are_targets_too() {
    let target = |name: &str, value: &str| {
        json!([{"type": "Resource", "resource": {"name": name,
            "target": {"type": "AverageValue", "averageValue": value}}}])
    };
    let decision = first(&autoscaler(json!({"metrics": target("memory", "50")})), &sight(&[Some(100), Some(100)]));
    assert_eq!(decision.desired, Some(4));
    let status = serde_json::to_value(&decision.metrics).expect("JSON");
    assert_eq!(status[0]["resource"]["current"], json!({"averageValue": "100"}));
    let of_container = json!([{"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
        "target": {"type": "Utilization", "averageUtilization": 50}}}]);
    let decision = first(&autoscaler(json!({"metrics": of_container})), &sight(&[Some(100)]));
    assert_eq!(decision.desired, Some(2));
    let reason = decision.rescale.expect("more").reason;
    assert_eq!(reason, "cpu container resource utilization (percentage of request) above target");
}

#[test]
fn the_most_demanding_metric_wins_and_one_that_fails_only_stops_shrinking() {
    let metrics = json!([
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
        {"type": "External", "external": {"metric": {"name": "queue"},
            "target": {"type": "AverageValue", "averageValue": "1"}}},
    ]);
    let both = autoscaler(json!({"metrics": metrics}));
    let up = first(&both, &sight(&[Some(100), Some(100)]));
    assert_eq!(up.desired, Some(4));
    assert_eq!(condition(&up, "ScalingActive"), (true, "ValidMetricFound"));
    let down = first(&both, &sight(&[Some(1), Some(1)]));
    assert_eq!((down.desired, down.rescale.is_some()), (None, false));
    assert_eq!(condition(&down, "ScalingActive"), (false, "FailedGetExternalMetric"));
    assert_eq!(down.metrics.len(), 2, "statuses stay beside their specs");
    let told = down.events.iter().map(|(_, reason, _)| *reason).collect::<Vec<_>>();
    assert_eq!(told, ["FailedGetExternalMetric", "FailedComputeMetricsReplicas"]);
    assert!(down.events[0].2.contains("this cluster serves no external.metrics.k8s.io"), "{:?}", down.events);
}

#[test]
fn what_cannot_be_scaled_says_why() {
    let mut lost = sight(&[Some(1)]);
    lost.scale = Err("deployments.apps \"web\" not found".to_owned());
    let decision = first(&autoscaler(json!({})), &lost);
    assert_eq!(condition(&decision, "AbleToScale"), (false, "FailedGetScale"));
    assert_eq!((decision.current, decision.desired), (None, None));

    let mut zero = sight(&[]);
    let decision = first(&autoscaler(json!({})), &zero);
    assert_eq!(condition(&decision, "ScalingActive"), (false, "ScalingDisabled"));
    assert!(decision.rescale.is_none());

    zero = sight(&[None, None]);
    let decision = first(&autoscaler(json!({})), &zero);
    assert_eq!(condition(&decision, "ScalingActive"), (false, "FailedGetResourceMetric"));
    assert!(decision.events[0].2.ends_with("no metrics returned from resource metrics API"), "{:?}", decision.events);

    let decision = first(&autoscaler(json!({"minReplicas": 3})), &sight(&[None]));
    let rescale = decision.rescale.expect("a bound needs no metrics");
    assert_eq!((rescale.to, rescale.reason.as_str()), (3, "Current number of replicas below Spec.MinReplicas"));

    let mut pods = sight(&[Some(100)]);
    pods.rivals = vec![crate::reconcile::ObjectKey::new("ns", "b")];
    let decision = first(&autoscaler(json!({})), &pods);
    assert_eq!(condition(&decision, "ScalingActive"), (false, "AmbiguousSelector"));
}

#[test]
fn pods_that_are_starting_do_not_count_as_busy() {
    let mut young = sight(&[Some(100), Some(100)]);
    let mut pod = pod("p1");
    pod["status"]["startTime"] = "2026-01-01T11:59:58Z".into();
    pod["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T11:59:58Z".into();
    young.pods[1] = Arc::new(serde_json::from_value(pod).expect("a pod"));
    // One busy pod of two: 100 of 200 is the target.
    assert_eq!(first(&autoscaler(json!({})), &young).desired, Some(2));
}

#[test]
fn without_a_behavior_growth_at_most_doubles_and_shrinking_waits_five_minutes() {
    let plain = autoscaler(json!({"maxReplicas": 100}));
    let mut memory = Memory::default();
    let busy: Vec<Option<i64>> = vec![Some(1000); 5];
    let decision = decide(now(), &plain, &sight(&busy), &mut memory);
    assert_eq!((decision.desired, condition(&decision, "ScalingLimited")), (Some(10), (true, "ScaleUpLimit")));
    let idle: Vec<Option<i64>> = vec![Some(1); 10];
    let waits = decide(later(5), &plain, &sight(&idle), &mut memory);
    assert_eq!(condition(&waits, "AbleToScale"), (true, "ScaleDownStabilized"));
    assert!(waits.desired >= Some(10), "{:?}", waits.desired);
    let goes = decide(later(301), &plain, &sight(&idle), &mut memory);
    assert_eq!((goes.desired, condition(&goes, "AbleToScale").1), (Some(1), "ReadyForNewScale"));
}

#[test]
fn policies_limit_the_rate() {
    let slow = autoscaler(json!({"behavior": {
        "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Min", "policies": [
            {"type": "Pods", "value": 2, "periodSeconds": 60}, {"type": "Percent", "value": 100, "periodSeconds": 60}]},
        "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
            {"type": "Pods", "value": 1, "periodSeconds": 60}]}}}));
    let mut memory = Memory::default();
    let busy = |count: usize| sight(&vec![Some(1000); count]);
    let decision = decide(now(), &slow, &busy(4), &mut memory);
    assert_eq!(decision.desired, Some(6), "two pods a minute is less than twice");
    memory.rescaled(now(), 4, 6);
    let decision = decide(later(5), &slow, &busy(6), &mut memory);
    assert_eq!((decision.desired, condition(&decision, "ScalingLimited")), (Some(6), (true, "ScaleUpLimit")));
    let decision = decide(later(61), &slow, &busy(6), &mut memory);
    assert_eq!(decision.desired, Some(8));
    let mut memory = Memory::default();
    let decision = decide(now(), &slow, &sight(&[Some(1); 5]), &mut memory);
    assert_eq!((decision.desired, condition(&decision, "ScalingLimited")), (Some(4), (true, "ScaleDownLimit")));
    let frozen = autoscaler(json!({"behavior": {"scaleDown": {"selectPolicy": "Disabled",
        "stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}}));
    assert_eq!(first(&frozen, &sight(&[Some(1); 5])).desired, Some(5));
}

#[test]
fn the_status_tells_how_a_rescale_went() {
    let decision = first(&autoscaler(json!({})), &sight(&[Some(100), Some(100)]));
    let done = status::after(now(), &Default::default(), decision.clone(), Some(Ok(())));
    assert_eq!((done.current_replicas, done.desired_replicas), (Some(2), 4));
    assert!(done.last_scale_time.is_some());
    let conditions = done.conditions.clone().expect("conditions");
    let able = conditions.iter().find(|condition| condition.type_ == "AbleToScale").expect("the condition");
    assert_eq!(able.message.as_deref(), Some("the HPA controller was able to update the target scale to 4"));
    let refused = status::after(later(9), &done, decision, Some(Err("no".to_owned())));
    assert_eq!(refused.desired_replicas, 4, "as it was");
    let able = refused.conditions.expect("conditions").into_iter().find(|c| c.type_ == "AbleToScale").expect("it");
    assert_eq!((able.status.as_str(), able.reason.as_deref()), ("False", Some("FailedUpdateScale")));
    assert_eq!(able.last_transition_time.map(|time| time.0), Some(later(9)));
}

proptest! {
    /// Whatever pods use, the bounds hold, and the same use twice changes nothing after the first.
    #[test]
    fn bounds_hold(uses in prop::collection::vec(prop::option::of(0i64..2000), 1..20), least in 1i32..5, more in 0i32..10) {
        let bounded = autoscaler(json!({"minReplicas": least, "maxReplicas": least + more}));
        let decision = first(&bounded, &sight(&uses));
        if let Some(desired) = decision.desired {
            prop_assert!((least..=least + more).contains(&desired), "{desired}");
        }
        prop_assert_eq!(decision.rescale.is_some(), decision.desired.is_some_and(|d| Some(d) != decision.current));
    }
}

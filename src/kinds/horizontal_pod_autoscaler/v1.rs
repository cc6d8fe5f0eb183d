//! HorizontalPodAutoscaler of `autoscaling/v1`: the older view of the stored `autoscaling/v2` one.
//!
//! Its spec has a CPU target and nothing else. Other metrics, what they are now, conditions and behavior
//! are shown as annotations, and read back from them, so that a client of this version that writes what
//! it has read loses nothing.

use serde_json::{Map, Value, json};

use super::metrics::{self, Half};
use super::{HorizontalPodAutoscaler as Stored, default_metric};
use crate::kinds::common::{list, set_default};
use crate::kinds::field::Errors;
use crate::kinds::meta::{self, metadata_mut, object_mut};
use crate::kinds::schema::{self, conform::conform};
use crate::kinds::{ALL_VERBS, Column, Conversion, Kind, KindInfo, Subresource};

pub struct HorizontalPodAutoscaler;

static INFO: KindInfo = KindInfo {
    group: "autoscaling",
    version: "v1",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("HorizontalPodAutoscaler")],
    schema: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
    storage: "autoscaling/horizontalpodautoscalers",
    storage_version_hash: "qwQve8ut294=",
};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// What both versions have in common of a spec, and of a status.
const SPEC: &[&str] = &["scaleTargetRef", "minReplicas", "maxReplicas"];
const STATUS: &[&str] = &["observedGeneration", "lastScaleTime", "currentReplicas", "desiredReplicas"];

impl Kind for HorizontalPodAutoscaler {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        set_default(&mut object["spec"], "minReplicas", 1);
        object_mut(object, "status");
        for count in ["currentReplicas", "desiredReplicas"] {
            set_default(&mut object["status"], count, 0);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"currentReplicas": 0, "desiredReplicas": 0});
        if let Some(annotations) = metadata_mut(object).get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|name, _| name != CURRENT_METRICS && name != CONDITIONS);
        }
        meta::normalize(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
        take_annotations(new, old, &[CURRENT_METRICS, CONDITIONS]);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
        take_annotations(new, old, &[METRICS, BEHAVIOR]);
    }

    fn validate(&self, object: &Value) -> Errors {
        Stored.validate(&self.to_stored(object.clone()))
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Errors {
        Stored.validate_status_update(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        Stored.columns()
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        Stored.row(&self.to_stored(object.clone()), now)
    }

    fn conversion(&self) -> Option<&dyn Conversion> {
        Some(self)
    }
}

/// The halves of an object that annotations stand for belong to their endpoints, as the fields do.
fn take_annotations(new: &mut Value, old: &Value, names: &[&str]) {
    let annotations = metadata_mut(new).entry("annotations").or_insert_with(|| json!({}));
    let Some(annotations) = annotations.as_object_mut() else { return };
    for name in names {
        match &old["metadata"]["annotations"][*name] {
            Value::Null => annotations.remove(*name),
            kept => annotations.insert((*name).to_owned(), kept.clone()),
        };
    }
    meta::normalize(new);
}

impl Conversion for HorizontalPodAutoscaler {
    fn to_stored(&self, object: Value) -> Value {
        let annotation = |name: &str| read(&object["metadata"]["annotations"][name]);
        let mut spec = picked(&object["spec"], SPEC);
        let mut metrics: Vec<Value> = cpu_target(&object["spec"]).into_iter().collect();
        metrics.extend(annotation(METRICS).as_array().into_iter().flatten().map(|m| metrics::from_v1(Half::Spec, m)));
        if metrics.is_empty() {
            metrics.push(default_metric());
        }
        spec.insert("metrics".to_owned(), metrics.into());
        let behavior = annotation(BEHAVIOR);
        if behavior.is_object() {
            spec.insert("behavior".to_owned(), spelled(behavior, |first| first.to_ascii_lowercase()));
        }
        let mut status = picked(&object["status"], STATUS);
        let current = annotation(CURRENT_METRICS);
        let current: Vec<Value> = match current.as_array() {
            Some(current) => current.iter().map(|metric| metrics::from_v1(Half::Status, metric)).collect(),
            None => cpu_usage(&object["status"]).into_iter().collect(),
        };
        status.insert("currentMetrics".to_owned(), if current.is_empty() { Value::Null } else { current.into() });
        let conditions = annotation(CONDITIONS);
        if conditions.is_array() {
            status.insert("conditions".to_owned(), conditions);
        }
        let mut stored = with_halves(object, spec, status);
        if let Some(annotations) = metadata_mut(&mut stored).get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|name, _| !matches!(name.as_str(), METRICS | CURRENT_METRICS | CONDITIONS | BEHAVIOR));
        }
        meta::normalize(&mut stored);
        shaped(Stored.info().schema, stored)
    }

    fn from_stored(&self, stored: Value) -> Value {
        let mut spec = picked(&stored["spec"], SPEC);
        let mut shown: Vec<(&str, String)> = Vec::new();
        let (cpu, others): (Vec<&Value>, Vec<&Value>) =
            list(&stored, "/spec/metrics").iter().partition(|metric| is_cpu(metric, "target"));
        if let Some(first) = cpu.first() {
            let share = first["resource"]["target"]["averageUtilization"].clone();
            spec.insert("targetCPUUtilizationPercentage".to_owned(), share);
        }
        if !others.is_empty() {
            let others: Vec<Value> = others.into_iter().map(|metric| metrics::to_v1(Half::Spec, metric)).collect();
            shown.push((METRICS, Value::from(others).to_string()));
        }
        let mut status = picked(&stored["status"], STATUS);
        let current = list(&stored, "/status/currentMetrics");
        if let Some(cpu) = current.iter().find(|metric| is_cpu(metric, "current")) {
            let share = cpu["resource"]["current"]["averageUtilization"].clone();
            status.insert("currentCPUUtilizationPercentage".to_owned(), share);
        }
        if !current.is_empty() {
            let current: Vec<Value> = current.iter().map(|metric| metrics::to_v1(Half::Status, metric)).collect();
            shown.push((CURRENT_METRICS, Value::from(current).to_string()));
        }
        let conditions = &stored["status"]["conditions"];
        if !meta::is_empty(conditions) {
            shown.push((CONDITIONS, conditions.to_string()));
        }
        let behavior = &stored["spec"]["behavior"];
        if behavior.is_object() {
            shown.push((BEHAVIOR, spelled(behavior.clone(), |first| first.to_ascii_uppercase()).to_string()));
        }
        let mut object = with_halves(stored, spec, status);
        if !shown.is_empty() {
            let annotations = metadata_mut(&mut object).entry("annotations").or_insert_with(|| json!({}));
            for (name, text) in shown {
                annotations[name] = text.into();
            }
        }
        shaped(INFO.schema, object)
    }
}

/// The JSON in an annotation; what is no JSON says nothing.
fn read(annotation: &Value) -> Value {
    annotation.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn picked(object: &Value, names: &[&str]) -> Map<String, Value> {
    let present = names.iter().filter(|name| !object[**name].is_null());
    present.map(|name| ((*name).to_owned(), object[*name].clone())).collect()
}

fn with_halves(mut object: Value, spec: Map<String, Value>, status: Map<String, Value>) -> Value {
    object["spec"] = spec.into();
    object["status"] = status.into();
    object
}

fn cpu_target(spec: &Value) -> Option<Value> {
    let share = spec["targetCPUUtilizationPercentage"].as_i64()?;
    let target = json!({"type": "Utilization", "averageUtilization": share});
    Some(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}))
}

fn cpu_usage(status: &Value) -> Option<Value> {
    let share = status["currentCPUUtilizationPercentage"].as_i64()?;
    Some(json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": share}}}))
}

/// Whether a metric is the one that this version has a field for; `half` is where its share is.
fn is_cpu(metric: &Value, half: &str) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && !metric["resource"][half]["averageUtilization"].is_null()
}

/// Upstream writes the behavior as its internal type, whose fields begin with capitals.
fn spelled(value: Value, first: fn(&char) -> char) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| {
                let mut letters = name.chars();
                let begin = letters.next().map(|letter| first(&letter));
                (begin.into_iter().chain(letters).collect::<String>(), spelled(value, first))
            });
            Value::Object(fields.collect())
        }
        Value::Array(list) => list.into_iter().map(|value| spelled(value, first)).collect(),
        other => other,
    }
}

/// The object as a struct of its type is written. What annotations said may fit no type: it is left out.
fn shaped(schema: &str, mut object: Value) -> Value {
    if let Some(ty) = schema::lookup(schema)
        && conform(ty, &mut object, &mut Vec::new()).is_err()
    {
        tracing::debug!(schema, "an autoscaler's annotations do not fit its type");
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Value {
        json!({
            "metadata": {"name": "a", "annotations": {"mine": "stays"}},
            "spec": {
                "maxReplicas": 4, "minReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu",
                        "target": {"type": "Utilization", "averageUtilization": 70}}},
                    {"type": "Pods", "pods": {"metric": {"name": "m"},
                        "target": {"type": "AverageValue", "averageValue": "3"}}},
                ],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5, "selectPolicy": "Max",
                    "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}]}},
            },
            "status": {
                "desiredReplicas": 3, "currentReplicas": 2,
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "current": {"averageUtilization": 90, "averageValue": "90m"}}}],
                "conditions": [{"type": "AbleToScale", "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "ReadyForNewScale"}],
            },
        })
    }

    #[test]
    fn nothing_is_lost_by_the_older_view() {
        let shown = HorizontalPodAutoscaler.from_stored(stored());
        assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 70);
        assert_eq!(shown["status"]["currentCPUUtilizationPercentage"], 90);
        let annotations = &shown["metadata"]["annotations"];
        assert!(annotations[BEHAVIOR].as_str().is_some_and(|text| text.contains("\"ScaleDown\"")), "{annotations}");
        assert!(annotations[METRICS].as_str().is_some_and(|text| text.contains("targetAverageValue")));
        assert_eq!(HorizontalPodAutoscaler.to_stored(shown), stored());
    }

    #[test]
    fn annotations_belong_to_the_half_that_they_stand_for() {
        let old = HorizontalPodAutoscaler.from_stored(stored());
        let mut new = old.clone();
        new["metadata"]["annotations"] = json!({"mine": "stays"});
        HorizontalPodAutoscaler.prepare_update(&mut new, &old);
        let after = HorizontalPodAutoscaler.to_stored(new);
        assert_eq!(after["status"], stored()["status"], "the status is not the main endpoint's");
        assert_eq!(after["spec"]["metrics"].as_array().map(Vec::len), Some(1), "the spec is");
    }

    #[test]
    fn nonsense_in_annotations_is_no_metric() {
        let mut object = HorizontalPodAutoscaler.from_stored(stored());
        object["metadata"]["annotations"][METRICS] = "][".into();
        object["metadata"]["annotations"][BEHAVIOR] = "[1]".into();
        let after = HorizontalPodAutoscaler.to_stored(object);
        assert_eq!(after["spec"].get("behavior"), None);
        assert_eq!(after["spec"]["metrics"].as_array().map(Vec::len), Some(1));
    }
}

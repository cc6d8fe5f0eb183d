//! HorizontalPodAutoscaler of `autoscaling/v2`: how many pods a workload has, by what they use.
//!
//! This is the form in which autoscalers are stored. `autoscaling/v1` ([`v1`]) knows a CPU target only
//! and shows the rest as annotations.

mod metrics;
mod targets;
pub mod v1;
mod validate;

use serde_json::{Value, json};

use super::common::{list, set_default, text};
use super::field::{Errors, Field};
use super::meta::{self, object_mut};
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column, time, workload};

pub struct HorizontalPodAutoscaler;

static INFO: KindInfo = KindInfo {
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("HorizontalPodAutoscaler")],
    schema: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    storage: "autoscaling/horizontalpodautoscalers",
    storage_version_hash: "qwQve8ut294=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Reference", "string", "", 0),
    column("Targets", "string", "", 0),
    column("MinPods", "string", "", 0),
    column("MaxPods", "string", "", 0),
    column("Replicas", "string", "", 0),
    column("Age", "string", "", 0),
];

/// What share of their requested CPU pods are to use where nothing is said, in percent.
const DEFAULT_CPU_UTILIZATION: i64 = 80;

impl Kind for HorizontalPodAutoscaler {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        let spec = object_mut(object, "spec");
        if spec.get("minReplicas").is_none_or(Value::is_null) {
            spec.insert("minReplicas".to_owned(), 1.into());
        }
        if spec.get("metrics").is_none_or(meta::is_empty) {
            spec.insert("metrics".to_owned(), json!([default_metric()]));
        }
        if spec.get("behavior").is_some_and(Value::is_object) {
            default_rules(&mut object["spec"]["behavior"]);
        }
        default_status(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({});
        default_status(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
    }

    fn validate(&self, object: &Value) -> Errors {
        validate::spec(&Field::root(object).get("spec"))
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Errors {
        let mut errors = Errors::default();
        let status = Field::root(new).get("status");
        for count in ["currentReplicas", "desiredReplicas"] {
            workload::non_negative(&mut errors, &status.get(count));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let least = spec["minReplicas"].as_i64().map_or_else(|| "<unset>".to_owned(), |least| least.to_string());
        vec![
            text(object, "/metadata/name").into(),
            format!("{}/{}", text(spec, "/scaleTargetRef/kind"), text(spec, "/scaleTargetRef/name")).into(),
            targets::cell(list(spec, "/metrics"), list(status, "/currentMetrics")).into(),
            least.into(),
            spec["maxReplicas"].as_i64().unwrap_or(0).into(),
            status["currentReplicas"].as_i64().unwrap_or(0).into(),
            time::object_age(object, now).into(),
        ]
    }
}

/// The status always says how many are desired, and of which metrics it knows.
fn default_status(object: &mut Value) {
    let status = object_mut(object, "status");
    status.entry("currentMetrics").or_insert(Value::Null);
    status.entry("desiredReplicas").or_insert_with(|| 0.into());
}

/// Pods are to use four fifths of the CPU that they ask for.
fn default_metric() -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": DEFAULT_CPU_UTILIZATION});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

/// Who says anything of the behavior gets the rest of the defaults written down.
fn default_rules(behavior: &mut Value) {
    let twice = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let four = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    let rules = [("scaleUp", json!([four, twice])), ("scaleDown", json!([twice]))];
    for (direction, policies) in rules {
        object_mut(behavior, direction);
        let rules = &mut behavior[direction];
        set_default(rules, "selectPolicy", "Max");
        set_default(rules, "policies", policies);
    }
    set_default(&mut behavior["scaleUp"], "stabilizationWindowSeconds", 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn autoscaler(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
        json_patch::merge(&mut object["spec"], &spec);
        HorizontalPodAutoscaler.default(&mut object);
        object
    }

    #[test]
    fn a_word_of_behavior_gets_the_rest() {
        let object = autoscaler(json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}}));
        let behavior = &object["spec"]["behavior"];
        assert_eq!(behavior["scaleDown"]["stabilizationWindowSeconds"], 5);
        assert_eq!(behavior["scaleDown"]["policies"][0]["type"], "Percent");
        assert_eq!(behavior["scaleUp"]["stabilizationWindowSeconds"], 0);
        assert_eq!(behavior["scaleUp"]["policies"].as_array().map(Vec::len), Some(2));
        assert_eq!(autoscaler(json!({}))["spec"].get("behavior"), None);
    }

    #[test]
    fn what_may_be_wrong() {
        let cases = [
            (json!({"maxReplicas": 0, "minReplicas": 1}), vec!["spec.maxReplicas", "spec.maxReplicas"]),
            (json!({"minReplicas": 0}), vec!["spec.minReplicas", "spec.metrics"]),
            (
                json!({"scaleTargetRef": {"kind": "", "name": "a/b"}}),
                vec!["spec.scaleTargetRef.kind", "spec.scaleTargetRef.name"],
            ),
            (
                json!({"behavior": {"scaleUp": {"stabilizationWindowSeconds": 3601, "selectPolicy": "Odd",
                "policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}]}}}),
                vec![
                    "spec.behavior.scaleUp.stabilizationWindowSeconds",
                    "spec.behavior.scaleUp.selectPolicy",
                    "spec.behavior.scaleUp.policies[0].value",
                    "spec.behavior.scaleUp.policies[0].periodSeconds",
                ],
            ),
            (
                json!({"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}},
                "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}}]}),
                vec!["spec.metrics[0].pods"],
            ),
            (
                json!({"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}]}),
                vec!["spec.metrics[0].resource.target.averageUtilization"],
            ),
        ];
        for (spec, wanted) in cases {
            let errors = HorizontalPodAutoscaler.validate(&autoscaler(spec.clone()));
            let paths: Vec<&str> = errors.0.iter().map(|error| error.path.as_str()).collect();
            assert_eq!(paths, wanted, "{spec}");
        }
    }
}

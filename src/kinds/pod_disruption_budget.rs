//! PodDisruptionBudget of `policy/v1`: how many pods of a sort may be away because somebody wanted it.

use serde_json::{Value, json};

use super::common::text;
use super::field::{Errors, Field, Reason};
use super::meta::{self, object_mut};
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column, selector, time, workload};

pub struct PodDisruptionBudget;

static INFO: KindInfo = KindInfo {
    group: "policy",
    version: "v1",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("PodDisruptionBudget")],
    schema: "io.k8s.api.policy.v1.PodDisruptionBudget",
    storage: "policy/poddisruptionbudgets",
    storage_version_hash: "EVWiDmWqyJw=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Min Available", "string", "", 0),
    column("Max Unavailable", "string", "", 0),
    column("Allowed Disruptions", "integer", "", 0),
    column("Age", "string", "", 0),
];

impl Kind for PodDisruptionBudget {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        object_mut(object, "status");
        for count in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            super::common::set_default(&mut object["status"], count, 0);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] =
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::update_spec(new, old);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::update_status(new, old);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let spec = Field::root(object).get("spec");
        let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
        if least.exists() && most.exists() {
            let shown = format!(
                "{{\"MinAvailable\":{},\"Selector\":{},\"MaxUnavailable\":{},\"UnhealthyPodEvictionPolicy\":{}}}",
                least.value,
                super::pod_template::selector_text(spec.get("selector").value),
                most.value,
                spec.get("unhealthyPodEvictionPolicy").value,
            );
            errors.push_text(Reason::Invalid, &spec.path, shown, "minAvailable and maxUnavailable cannot be both set");
        }
        for bound in [&least, &most] {
            workload::count_or_percent(&mut errors, bound);
            workload::at_most_all(&mut errors, bound);
        }
        selector::validate(&mut errors, &spec.get("selector"));
        let policy = spec.get("unhealthyPodEvictionPolicy");
        if policy.exists() && !matches!(policy.str(), "AlwaysAllow" | "IfHealthyBudget") {
            errors.not_supported(&policy, &["AlwaysAllow", "IfHealthyBudget"]);
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Errors {
        let mut errors = Errors::default();
        let status = Field::root(new).get("status");
        for count in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            workload::non_negative(&mut errors, &status.get(count));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let bound = |name: &str| match &object["spec"][name] {
            Value::Null => "N/A".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        vec![
            text(object, "/metadata/name").into(),
            bound("minAvailable").into(),
            bound("maxUnavailable").into(),
            object["status"]["disruptionsAllowed"].as_i64().unwrap_or(0).into(),
            time::object_age(object, now).into(),
        ]
    }
}

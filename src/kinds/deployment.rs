//! Deployment of `apps/v1`.

use serde_json::{Value, json};

use super::field::{Errors, Field, Reason, supported_values};
use super::fill::{object, set_default, set_default_zero};
use super::meta::{self, object_mut};
use super::pod::defaults;
use super::{ALL_VERBS, Column, Kind, KindInfo, ScalePaths, Subresource, column};
use super::{pod_template, time, workload};

pub struct Deployment;

static INFO: KindInfo = KindInfo {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource::SCALE, Subresource::status("Deployment")],
    schema: "io.k8s.api.apps.v1.Deployment",
    storage: "apps/deployments",
    storage_version_hash: "8aSe+NMegvE=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Ready", "string", "", 0),
    column("Up-to-date", "string", "", 0),
    column("Available", "string", "", 0),
    column("Age", "string", "", 0),
    column("Containers", "string", "", 1),
    column("Images", "string", "", 1),
    column("Selector", "string", "", 1),
];

impl Kind for Deployment {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, deployment: &mut Value) {
        object_mut(deployment, "spec");
        defaults::template(&mut deployment["spec"]);
        let spec = object_mut(deployment, "spec");
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "progressDeadlineSeconds", 600);
        set_default(spec, "strategy", json!({}));
        if let Some(strategy) = object(spec, "strategy") {
            set_default_zero(strategy, "type", "RollingUpdate");
            if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
                set_default(strategy, "rollingUpdate", json!({}));
                if let Some(rolling) = object(strategy, "rollingUpdate") {
                    set_default(rolling, "maxUnavailable", "25%");
                    set_default(rolling, "maxSurge", "25%");
                }
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({});
        meta::start_generation(object);
    }

    /// Annotations count as a change: the rollout copies them to its ReplicaSets.
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
        let changed = !meta::same(&new["spec"], &old["spec"])
            || !meta::same(&new["metadata"]["annotations"], &old["metadata"]["annotations"]);
        meta::carry_generation(new, old, changed);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::update_status(new, old);
        let labels = &old["metadata"]["labels"];
        let metadata = meta::metadata_mut(new);
        match labels.is_null() {
            true => metadata.remove("labels"),
            false => metadata.insert("labels".to_owned(), labels.clone()),
        };
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let spec = Field::root(object).get("spec");
        workload::non_negative(&mut errors, &spec.get("replicas"));
        pod_template::validate(&mut errors, &spec);
        validate_strategy(&mut errors, &spec.get("strategy"));
        let ready = spec.get("minReadySeconds");
        workload::non_negative(&mut errors, &ready);
        workload::non_negative(&mut errors, &spec.get("revisionHistoryLimit"));
        let deadline = spec.get("progressDeadlineSeconds");
        workload::non_negative(&mut errors, &deadline);
        if deadline.int().is_some_and(|seconds| seconds <= ready.int().unwrap_or(0)) {
            errors.invalid(&deadline, "must be greater than minReadySeconds");
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = self.validate(new);
        pod_template::validate_selector_update(&mut errors, new, old);
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        let status = Field::root(new).get("status");
        let counts = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ];
        for count in counts {
            workload::non_negative(&mut errors, &status.get(count));
        }
        workload::not_more_than_replicas(
            &mut errors,
            &status,
            &["updatedReplicas", "readyReplicas", "availableReplicas"],
        );
        workload::no_fewer_collisions(&mut errors, &status, old);
        errors
    }

    fn scale(&self) -> Option<ScalePaths> {
        Some(ScalePaths::WORKLOAD)
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match subresource {
            "" => &[&["status"]],
            "status" => &[&["spec"], &["metadata", "labels"]],
            _ => &[],
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        pod_template::warnings(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let count = |value: &Value| value.as_i64().unwrap_or(0);
        let (containers, images) = workload::containers_text(&spec["template"]["spec"]);
        vec![
            object["metadata"]["name"].clone(),
            format!("{}/{}", count(&status["readyReplicas"]), count(&spec["replicas"])).into(),
            count(&status["updatedReplicas"]).into(),
            count(&status["availableReplicas"]).into(),
            time::object_age(object, now).into(),
            containers.into(),
            images.into(),
            workload::selector_text(&spec["selector"]).into(),
        ]
    }
}

/// How old pods make way for new ones.
fn validate_strategy(errors: &mut Errors, strategy: &Field<'_>) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").str() {
        "Recreate" if rolling.exists() => {
            errors.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if !rolling.exists() => errors.required(&rolling, "this should be defaulted and never be nil"),
        "RollingUpdate" => validate_rolling(errors, &rolling),
        other => {
            let shown = workload::strategy_text(other, rolling.value);
            let detail = supported_values(&["Recreate", "RollingUpdate"]);
            errors.push_text(Reason::NotSupported, &strategy.path, shown, detail);
        }
    }
}

fn validate_rolling(errors: &mut Errors, rolling: &Field<'_>) {
    let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    for field in [&unavailable, &surge] {
        workload::count_or_percent(errors, field);
    }
    if workload::int_or_percent(unavailable.value) == 0 && workload::int_or_percent(surge.value) == 0 {
        errors.invalid(&unavailable, "may not be 0 when `maxSurge` is 0");
    }
    workload::at_most_all(errors, &unavailable);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_count_as_a_change() {
        let old = json!({"metadata": {"generation": 3}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let mut new = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"replicas": 1}});
        Deployment.prepare_update(&mut new, &old);
        assert_eq!(meta::generation(&new), 4);
        assert_eq!(new["status"], old["status"]);
        let mut new = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}});
        Deployment.prepare_update(&mut new, &old);
        assert_eq!(meta::generation(&new), 3);
    }
}

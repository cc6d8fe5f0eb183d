//! StatefulSet of `apps/v1`: pods with names, an order, and storage of their own.

use serde_json::{Value, json};

use super::common::{set_default, set_default_text};
use super::field::{Errors, Field, Reason};
use super::meta::{self, object_mut};
use super::pod::defaults;
use super::{ALL_VERBS, Column, Kind, KindInfo, ScalePaths, Subresource, column};
use super::{names, persistent_volume_claim, pod_template, selector, time, workload};

pub struct StatefulSet;

static INFO: KindInfo = KindInfo {
    group: "apps",
    version: "v1",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    short_names: &["sts"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource::SCALE, Subresource::status("StatefulSet")],
    schema: "io.k8s.api.apps.v1.StatefulSet",
    storage: "apps/statefulsets",
    storage_version_hash: "H+vl74LkKdo=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Ready", "string", "", 0),
    column("Age", "string", "", 0),
    column("Containers", "string", "", 1),
    column("Images", "string", "", 1),
];

/// What may change after the creation; upstream's words for everything else.
const MUTABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];
const IMMUTABLE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

impl Kind for StatefulSet {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        let spec = &mut object["spec"];
        defaults::template(spec);
        set_default_text(spec, "podManagementPolicy", "OrderedReady");
        object_mut(spec, "updateStrategy");
        let strategy = &mut spec["updateStrategy"];
        set_default_text(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            object_mut(strategy, "rollingUpdate");
            set_default(&mut strategy["rollingUpdate"], "partition", 0);
        }
        object_mut(spec, "persistentVolumeClaimRetentionPolicy");
        for when in ["whenDeleted", "whenScaled"] {
            set_default_text(&mut spec["persistentVolumeClaimRetentionPolicy"], when, "Retain");
        }
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        for claim in spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten() {
            claim["apiVersion"] = "v1".into();
            claim["kind"] = "PersistentVolumeClaim".into();
            object_mut(claim, "metadata");
            persistent_volume_claim::default_claim(claim);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"availableReplicas": 0, "replicas": 0});
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
        let policy = spec.get("podManagementPolicy");
        match policy.str() {
            "OrderedReady" | "Parallel" => {}
            "" => errors.required(&policy, ""),
            _ => errors.invalid(&policy, "must be 'OrderedReady' or 'Parallel'"),
        }
        validate_strategy(&mut errors, &spec.get("updateStrategy"));
        validate_retention(&mut errors, &spec.get("persistentVolumeClaimRetentionPolicy"));
        for count in ["replicas", "minReadySeconds"] {
            workload::non_negative(&mut errors, &spec.get(count));
        }
        workload::non_negative(&mut errors, &spec.get("ordinals").get("start"));
        let service = spec.get("serviceName");
        if !service.is_empty() {
            errors.invalid_each(&service, names::dns1123_label(service.str()));
        }
        validate_template(&mut errors, &spec);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = self.validate(new);
        let fixed = |object: &Value| {
            let mut spec = object["spec"].as_object().cloned().unwrap_or_default();
            spec.retain(|name, _| !MUTABLE.contains(&name.as_str()));
            Value::Object(spec)
        };
        if !meta::same(&fixed(new), &fixed(old)) {
            errors.forbidden(&Field::root(new).get("spec"), IMMUTABLE);
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        let status = Field::root(new).get("status");
        let counts =
            ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "observedGeneration", "collisionCount"];
        for count in counts {
            workload::non_negative(&mut errors, &status.get(count));
        }
        let parts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        workload::not_more_than_replicas(&mut errors, &status, &parts);
        workload::no_fewer_collisions(&mut errors, &status, old);
        errors
    }

    fn scale(&self) -> Option<ScalePaths> {
        Some(ScalePaths::WORKLOAD)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let named = workload::name_warning(new, old).into_iter();
        let mut warnings: Vec<String> = named.chain(pod_template::warnings(new, old)).collect();
        if new["spec"]["revisionHistoryLimit"].as_i64().is_some_and(|limit| limit < 0) {
            let text = "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended";
            warnings.push(text.to_owned());
        }
        warnings
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
            time::object_age(object, now).into(),
            containers.into(),
            images.into(),
        ]
    }
}

fn validate_strategy(errors: &mut Errors, strategy: &Field<'_>) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").str() {
        "" => errors.required(strategy, ""),
        "OnDelete" if rolling.exists() => {
            errors.invalid(&rolling, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            workload::non_negative(errors, &rolling.get("partition"));
            max_unavailable(errors, &rolling.get("maxUnavailable"));
        }
        other => {
            let shown = workload::strategy_text(other, &Value::Null);
            errors.push_text(Reason::Invalid, &strategy.path, shown, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

fn max_unavailable(errors: &mut Errors, at: &Field<'_>) {
    if !at.exists() {
        return;
    }
    workload::count_or_percent(errors, at);
    if workload::int_or_percent(at.value) == 0 {
        errors.invalid(at, "cannot be 0");
    }
    workload::at_most_all(errors, at);
}

fn validate_retention(errors: &mut Errors, policy: &Field<'_>) {
    for when in ["whenDeleted", "whenScaled"] {
        let at = policy.get(when);
        if policy.exists() && !matches!(at.str(), "Retain" | "Delete") {
            errors.not_supported(&at, &["Retain", "Delete"]);
        }
    }
}

fn validate_template(errors: &mut Errors, spec: &Field<'_>) {
    let (at, template) = (spec.get("selector"), spec.get("template"));
    if at.exists() {
        selector::validate(errors, &at);
        pod_template::validate_selects_some(errors, &at, "statefulset");
    } else {
        errors.required(&at, "");
    }
    if pod_template::is_well_formed(at.value) {
        let labels = template.get("metadata").get("labels");
        if !at.exists() || !workload::selects(at.value, labels.value) {
            errors.invalid(&labels, pod_template::NO_MATCH);
        }
        // The pod's spec is left to its pods: mounts name volumes that only they have.
        let metadata = template.get("metadata");
        let at = |name: &str| Field::new(template.get(name).path, metadata.get(name).value);
        meta::validate_labels(errors, &at("labels"));
        meta::validate_annotations(errors, &at("annotations"));
    } else {
        errors.push_text(Reason::Invalid, &at.path, pod_template::selector_text(at.value), "");
    }
    pod_template::validate_runs_for_ever(errors, &template.get("spec"), "StatefulSet");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_fields_change() {
        let mut old = json!({"metadata": {"name": "s"}, "spec": {"serviceName": "s", "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}]}});
        StatefulSet.default(&mut old);
        assert_eq!(old["spec"]["volumeClaimTemplates"][0]["spec"]["volumeMode"], "Filesystem");
        assert!(StatefulSet.validate(&old).is_empty(), "{:?}", StatefulSet.validate(&old));
        for (change, allowed) in [
            (json!({"replicas": 3, "minReadySeconds": 5, "ordinals": {"start": 2}}), true),
            (json!({"updateStrategy": {"rollingUpdate": {"partition": 2, "maxUnavailable": "50%"}}}), true),
            (json!({"serviceName": "t"}), false),
            (json!({"volumeClaimTemplates": null}), false),
        ] {
            let mut new = old.clone();
            json_patch::merge(&mut new["spec"], &change);
            assert_eq!(StatefulSet.validate_update(&new, &old).is_empty(), allowed, "{change}");
        }
    }

    #[test]
    fn a_rolling_update_needs_room() {
        for (value, good) in [(json!(1), true), (json!("30%"), true), (json!(0), false), (json!("101%"), false)] {
            let mut errors = Errors::default();
            max_unavailable(&mut errors, &Field::new("m", &value));
            assert_eq!(errors.is_empty(), good, "{value}");
        }
    }
}

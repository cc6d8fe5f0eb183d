//! DaemonSet of `apps/v1`: one pod on every node that fits.

use serde_json::{Value, json};

use super::common::{pairs, set_default, set_default_text};
use super::field::{Errors, Field, Reason, supported_values};
use super::meta::{self, metadata_mut, object_mut};
use super::pod::defaults;
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column};
use super::{pod_template, selector, time, workload};

pub struct DaemonSet;

static INFO: KindInfo = KindInfo {
    group: "apps",
    version: "v1",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("DaemonSet")],
    schema: "io.k8s.api.apps.v1.DaemonSet",
    storage: "apps/daemonsets",
    storage_version_hash: "dd7pWHUlMKQ=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Desired", "integer", "", 0),
    column("Current", "integer", "", 0),
    column("Ready", "integer", "", 0),
    column("Up-to-date", "integer", "", 0),
    column("Available", "integer", "", 0),
    column("Node Selector", "string", "", 0),
    column("Age", "string", "", 0),
    column("Containers", "string", "", 1),
    column("Images", "string", "", 1),
    column("Selector", "string", "", 1),
];

/// How often the template has changed. The field has become an annotation, which old clients read.
pub const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

impl Kind for DaemonSet {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        let spec = &mut object["spec"];
        defaults::template(spec);
        object_mut(spec, "updateStrategy");
        let strategy = &mut spec["updateStrategy"];
        set_default_text(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            object_mut(strategy, "rollingUpdate");
            set_default(&mut strategy["rollingUpdate"], "maxUnavailable", 1);
            set_default(&mut strategy["rollingUpdate"], "maxSurge", 0);
        }
        set_default(spec, "revisionHistoryLimit", 10);
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({
            "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
        });
        meta::start_generation(object);
        if template_generation(object) <= 0 {
            set_template_generation(object, 1);
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
        let redone = !meta::same(&new["spec"]["template"], &old["spec"]["template"]);
        set_template_generation(new, template_generation(old) + i64::from(redone));
        meta::count_spec(new, old);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::update_status(new, old);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let spec = Field::root(object).get("spec");
        validate_template(&mut errors, &spec);
        workload::non_negative(&mut errors, &spec.get("minReadySeconds"));
        validate_strategy(&mut errors, &spec.get("updateStrategy"));
        workload::non_negative(&mut errors, &spec.get("revisionHistoryLimit"));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        pod_template::validate_selector_update(&mut errors, new, old);
        errors.extend(self.validate(new));
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Errors {
        let mut errors = Errors::default();
        let status = Field::root(new).get("status");
        let counts = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        for count in counts {
            workload::non_negative(&mut errors, &status.get(count));
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        workload::name_warning(new, old).into_iter().chain(pod_template::warnings(new, old)).collect()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let count = |name: &str| Value::from(status[name].as_i64().unwrap_or(0));
        let (containers, images) = workload::containers_text(&spec["template"]["spec"]);
        vec![
            object["metadata"]["name"].clone(),
            count("desiredNumberScheduled"),
            count("currentNumberScheduled"),
            count("numberReady"),
            count("updatedNumberScheduled"),
            count("numberAvailable"),
            pairs(spec.pointer("/template/spec/nodeSelector")).into(),
            time::object_age(object, now).into(),
            containers.into(),
            images.into(),
            workload::selector_text(&spec["selector"]).into(),
        ]
    }
}

fn template_generation(object: &Value) -> i64 {
    object["metadata"]["annotations"][TEMPLATE_GENERATION].as_str().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn set_template_generation(object: &mut Value, generation: i64) {
    metadata_mut(object);
    object_mut(&mut object["metadata"], "annotations")
        .insert(TEMPLATE_GENERATION.into(), generation.to_string().into());
}

fn validate_template(errors: &mut Errors, spec: &Field<'_>) {
    let (at, template) = (spec.get("selector"), spec.get("template"));
    selector::validate(errors, &at);
    let labels = template.get("metadata").get("labels");
    if pod_template::is_well_formed(at.value) && (!at.exists() || !workload::selects(at.value, labels.value)) {
        errors.invalid(&labels, pod_template::NO_MATCH);
    }
    pod_template::validate_selects_some(errors, &at, "daemonset");
    pod_template::validate_template(errors, &template);
    pod_template::validate_runs_for_ever(errors, &template.get("spec"), "DaemonSet");
}

/// How old pods make way for new ones.
fn validate_strategy(errors: &mut Errors, strategy: &Field<'_>) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").str() {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.exists() => errors.required(&rolling, ""),
        "RollingUpdate" => validate_rolling(errors, &rolling),
        other => {
            let shown = workload::strategy_text(other, rolling.value);
            let detail = supported_values(&["RollingUpdate", "OnDelete"]);
            errors.push_text(Reason::NotSupported, &strategy.path, shown, detail);
        }
    }
}

fn validate_rolling(errors: &mut Errors, rolling: &Field<'_>) {
    let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    for field in [&unavailable, &surge] {
        workload::count_or_percent(errors, field);
    }
    let (gone, extra) = (workload::int_or_percent(unavailable.value), workload::int_or_percent(surge.value));
    match (gone != 0, extra != 0) {
        (true, true) => errors.invalid(&surge, "may not be set when maxUnavailable is non-zero"),
        (false, false) => errors.required(&unavailable, "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
    for field in [&unavailable, &surge] {
        workload::at_most_all(errors, field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_template_is_counted() {
        let mut old = json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {"a": 1}}}});
        DaemonSet.prepare_create(&mut old);
        assert_eq!(old["metadata"]["annotations"][TEMPLATE_GENERATION], "1");
        let mut new = json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {"a": 2}}}});
        DaemonSet.prepare_update(&mut new, &old);
        assert_eq!((&new["metadata"]["annotations"][TEMPLATE_GENERATION], meta::generation(&new)), (&json!("2"), 2));
        let mut same = new.clone();
        same["spec"]["minReadySeconds"] = json!(3);
        DaemonSet.prepare_update(&mut same, &new);
        assert_eq!((&same["metadata"]["annotations"][TEMPLATE_GENERATION], meta::generation(&same)), (&json!("2"), 3));
    }

    #[test]
    fn either_fewer_or_more_while_rolling() {
        let strategy = |rolling: Value| {
            let strategy = json!({"type": "RollingUpdate", "rollingUpdate": rolling});
            let mut errors = Errors::default();
            validate_strategy(&mut errors, &Field::new("s", &strategy));
            errors.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(strategy(json!({"maxUnavailable": 0, "maxSurge": "10%"})), Vec::<String>::new());
        let both = strategy(json!({"maxUnavailable": 1, "maxSurge": 1}));
        assert_eq!(
            both,
            ["s.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"]
        );
        assert_eq!(strategy(json!({"maxUnavailable": "120%", "maxSurge": 0})).len(), 1);
    }
}

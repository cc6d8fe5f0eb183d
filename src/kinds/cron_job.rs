//! CronJob of `batch/v1`: a Job at each moment that a schedule names.

use serde_json::{Value, json};

use super::common::{set_default, set_default_text, text};
use super::cron::{self, Schedule};
use super::field::{Errors, Field};
use super::meta::{self, object_mut};
use super::pod::defaults;
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column};
use super::{job, time, workload};

pub struct CronJob;

static INFO: KindInfo = KindInfo {
    group: "batch",
    version: "v1",
    kind: "CronJob",
    plural: "cronjobs",
    singular: "cronjob",
    short_names: &["cj"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("CronJob")],
    schema: "io.k8s.api.batch.v1.CronJob",
    storage: "batch/cronjobs",
    storage_version_hash: "sd5LIXh4Fjs=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Schedule", "string", "", 0),
    column("Timezone", "string", "", 0),
    column("Suspend", "boolean", "", 0),
    column("Active", "integer", "", 0),
    column("Last Schedule", "string", "", 0),
    column("Age", "string", "", 0),
    column("Containers", "string", "", 1),
    column("Images", "string", "", 1),
    column("Selector", "string", "", 1),
];

/// A Job is named after its CronJob, a hyphen and ten digits.
const MAX_NAME: usize = 63 - 11;

impl Kind for CronJob {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        let spec = &mut object["spec"];
        set_default_text(spec, "concurrencyPolicy", "Allow");
        set_default(spec, "suspend", false);
        set_default(spec, "successfulJobsHistoryLimit", 3);
        set_default(spec, "failedJobsHistoryLimit", 1);
        object_mut(spec, "jobTemplate");
        object_mut(&mut spec["jobTemplate"], "metadata");
        object_mut(&mut spec["jobTemplate"], "spec");
        defaults::template(&mut spec["jobTemplate"]["spec"]);
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({});
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::update_spec(new, old);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::update_status(new, old);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = validate_spec(object, true);
        let name = Field::root(object).get("metadata").get("name");
        if name.str().len() > MAX_NAME {
            errors.invalid(&name, format!("must be no more than {MAX_NAME} characters"));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let allows_zone = text(old, "/spec/schedule").contains("TZ");
        validate_spec(new, !allows_zone)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings: Vec<String> = workload::name_warning(new, old).into_iter().collect();
        if text(new, "/spec/schedule").contains("TZ") {
            let note = "spec.schedule: cannot use TZ or CRON_TZ in schedule, use timeZone instead; see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#unsupported-timezone-specification";
            warnings.push(note.to_owned());
        }
        let spec = Field::root(new).get("spec").get("jobTemplate").get("spec");
        warnings.extend(job::warnings_of(&spec, old.map(|old| &old["spec"]["jobTemplate"]["spec"])));
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let job = &spec["jobTemplate"]["spec"];
        let (containers, images) = workload::containers_text(&job["template"]["spec"]);
        let last = &status["lastScheduleTime"];
        let last = if last.is_null() { "<none>".to_owned() } else { time::age(last, now) };
        vec![
            object["metadata"]["name"].clone(),
            spec["schedule"].clone(),
            spec["timeZone"].as_str().unwrap_or("<none>").into(),
            if spec["suspend"] == true { "True" } else { "False" }.into(),
            status["active"].as_array().map_or(0, Vec::len).into(),
            last.into(),
            time::object_age(object, now).into(),
            containers.into(),
            images.into(),
            workload::selector_text(&job["selector"]).into(),
        ]
    }
}

fn validate_spec(object: &Value, refuse_zone: bool) -> Errors {
    let mut errors = Errors::default();
    let spec = Field::root(object).get("spec");
    let schedule = spec.get("schedule");
    if schedule.is_empty() {
        errors.required(&schedule, "");
    } else {
        validate_schedule(&mut errors, &schedule, &spec.get("timeZone"), refuse_zone);
    }
    workload::non_negative(&mut errors, &spec.get("startingDeadlineSeconds"));
    validate_zone(&mut errors, &spec.get("timeZone"));
    let policy = spec.get("concurrencyPolicy");
    match policy.str() {
        "Allow" | "Forbid" | "Replace" => {}
        "" => errors.required(&policy, ""),
        _ => errors.not_supported(&policy, &["Allow", "Forbid", "Replace"]),
    }
    let template = spec.get("jobTemplate");
    job::validate_template_spec(&mut errors, &template.get("spec"));
    for limit in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        workload::non_negative(&mut errors, &spec.get(limit));
    }
    errors
}

fn validate_schedule(errors: &mut Errors, schedule: &Field<'_>, zone: &Field<'_>, refuse_zone: bool) {
    if let Err(why) = Schedule::parse(schedule.str()) {
        errors.invalid(schedule, why);
    }
    if schedule.str().contains("TZ") {
        if refuse_zone {
            errors.invalid(schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        } else if zone.exists() {
            errors.invalid(schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        }
    }
}

fn validate_zone(errors: &mut Errors, zone: &Field<'_>) {
    if !zone.exists() {
        return;
    }
    if zone.is_empty() {
        errors.invalid(zone, "timeZone must be nil or non-empty string");
    } else if zone.str().eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(zone, detail);
    } else if cron::time_zone(zone.str()).is_none() {
        errors.invalid(zone, format!("unknown time zone {}", zone.str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_in_the_schedule_is_only_kept() {
        let spec = |schedule: &str| {
            let mut object = json!({"metadata": {"name": "c"}, "spec": {"schedule": schedule, "jobTemplate": {"spec": {
                "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}});
            CronJob.default(&mut object);
            object
        };
        let (plain, zoned) = (spec("0 0 * * *"), spec("TZ=UTC 0 0 * * *"));
        assert!(CronJob.validate(&plain).is_empty());
        assert!(!CronJob.validate(&zoned).is_empty());
        assert!(CronJob.validate_update(&zoned, &zoned).is_empty());
        assert!(!CronJob.validate_update(&zoned, &plain).is_empty());
        assert_eq!((CronJob.warnings(&plain, None).len(), CronJob.warnings(&zoned, Some(&zoned)).len()), (0, 1));
    }
}

//! Job of `batch/v1`: pods that run to an end.
//!
//! The selector of a Job is made by the server unless the user says otherwise: it names the Job's uid,
//! so that no two Jobs ever select each other's pods.

pub mod indexes;
mod spec;
mod status;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use super::common::{set_default, set_default_text};
use super::field::{Errors, Field};
use super::meta::{self, metadata_mut, object_mut};
use super::pod::defaults;
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column};
use super::{names, pod_template, time, workload};

pub use spec::{validate_template_spec, warnings_of};

pub struct Job;

static INFO: KindInfo = KindInfo {
    group: "batch",
    version: "v1",
    kind: "Job",
    plural: "jobs",
    singular: "job",
    short_names: &[],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("Job")],
    schema: "io.k8s.api.batch.v1.Job",
    storage: "batch/jobs",
    storage_version_hash: "mudhfqk/qZY=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Status", "string", "", 0),
    column("Completions", "string", "", 0),
    column("Duration", "string", "", 0),
    column("Age", "string", "", 0),
    column("Containers", "string", "", 1),
    column("Images", "string", "", 1),
    column("Selector", "string", "", 1),
];

/// Labels that the server writes into a Job's template: the uid and the name, each under its name of
/// today and under the one from before there were prefixes.
pub const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
pub const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const OLD_UID_LABEL: &str = "controller-uid";
const OLD_NAME_LABEL: &str = "job-name";

/// Who looks after a Job whose `spec.managedBy` says nothing else.
pub const OWN_MANAGER: &str = "kubernetes.io/job-controller";

/// Retries of a Job that counts them by index: no limit of its own.
const UNLIMITED: i64 = i32::MAX as i64;

impl Kind for Job {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, job: &mut Value) {
        object_mut(job, "spec");
        let spec = &mut job["spec"];
        defaults::template(spec);
        if spec["completions"].is_null() && spec["parallelism"].is_null() {
            set_default(spec, "completions", 1);
        }
        set_default(spec, "parallelism", 1);
        let retries = if spec["backoffLimitPerIndex"].is_null() { 6 } else { UNLIMITED };
        set_default(spec, "backoffLimit", retries);
        set_default_text(spec, "completionMode", "NonIndexed");
        set_default(spec, "suspend", false);
        set_default(spec, "manualSelector", false);
        let replacement = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
        set_default(spec, "podReplacementPolicy", replacement);
        for rule in spec.pointer_mut("/podFailurePolicy/rules").and_then(Value::as_array_mut).into_iter().flatten() {
            for pattern in rule.get_mut("onPodConditions").and_then(Value::as_array_mut).into_iter().flatten() {
                set_default_text(pattern, "status", "True");
            }
        }
        label_like_template(job);
    }

    fn prepare_create(&self, job: &mut Value) {
        if job["spec"]["manualSelector"] != true {
            generate_selector(job);
        }
        label_like_template(job);
        job["status"] = json!({});
        meta::start_generation(job);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::update_spec(new, old);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::update_status(new, old);
    }

    fn validate(&self, job: &Value) -> Errors {
        let mut errors = validate_generated(job);
        spec::validate(&mut errors, &Field::root(job).get("spec"));
        validate_hostname(&mut errors, job);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        spec::validate(&mut errors, &Field::root(new).get("spec"));
        spec::validate_update(&mut errors, new, old);
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Errors {
        status::validate_update(new, old)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings: Vec<String> = workload::name_warning(new, old).into_iter().collect();
        warnings.extend(warnings_of(&Field::root(new).get("spec"), old.map(|old| &old["spec"])));
        warnings
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn deletion_warning(&self) -> Option<&'static str> {
        Some(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
        )
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, job: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let (spec, status) = (&job["spec"], &job["status"]);
        let (containers, images) = workload::containers_text(&spec["template"]["spec"]);
        vec![
            job["metadata"]["name"].clone(),
            state(job).into(),
            completions(spec, status).into(),
            duration(status, now).into(),
            time::object_age(job, now).into(),
            containers.into(),
            images.into(),
            workload::selector_text(&spec["selector"]).into(),
        ]
    }

    fn selectable(&self, job: &Value) -> Vec<(&'static str, String)> {
        let succeeded = job["status"]["succeeded"].as_i64().unwrap_or(0);
        vec![("status.successful", succeeded.to_string())]
    }

    fn selectable_names(&self) -> &'static [&'static str] {
        &["status.successful"]
    }
}

/// A Job without labels has those of its template.
fn label_like_template(job: &mut Value) {
    let labels = job.pointer("/spec/template/metadata/labels").filter(|labels| !meta::is_empty(labels)).cloned();
    if let Some(labels) = labels
        && meta::is_empty(&job["metadata"]["labels"])
    {
        metadata_mut(job).insert("labels".to_owned(), labels);
    }
}

/// Writes the labels by which the Job's pods are known, and the selector that names one of them. What
/// the user wrote there stays; validation refuses it when it says otherwise.
fn generate_selector(job: &mut Value) {
    let (uid, name) = (meta::text(job, "uid").to_owned(), meta::text(job, "name").to_owned());
    let spec = &mut job["spec"];
    {
        object_mut(spec, "template");
        let labels = object_mut(object_mut_value(&mut spec["template"], "metadata"), "labels");
        for (label, value) in [(NAME_LABEL, &name), (OLD_NAME_LABEL, &name), (UID_LABEL, &uid), (OLD_UID_LABEL, &uid)] {
            labels.entry(label).or_insert_with(|| value.as_str().into());
        }
    }
    let selected = object_mut(object_mut_value(spec, "selector"), "matchLabels");
    selected.entry(UID_LABEL).or_insert_with(|| uid.into());
}

/// The child `name` as a value that is an object.
fn object_mut_value<'a>(parent: &'a mut Value, name: &str) -> &'a mut Value {
    object_mut(parent, name);
    &mut parent[name]
}

/// Whether the generated labels are what the server generated.
fn validate_generated(job: &Value) -> Errors {
    let mut errors = Errors::default();
    let spec = Field::root(job).get("spec");
    let selector = spec.get("selector");
    if spec.get("manualSelector").bool() || !selector.exists() {
        return errors;
    }
    let (uid, name) = (meta::text(job, "uid"), meta::text(job, "name"));
    let labels = spec.get("template").get("metadata").get("labels");
    for (label, wanted) in [(UID_LABEL, uid), (NAME_LABEL, name), (OLD_UID_LABEL, uid), (OLD_NAME_LABEL, name)] {
        let found = labels.key(label);
        match found.value.as_str() {
            None => errors.required(&found, format!("must be '{wanted}'")),
            Some(value) if value != wanted => {
                errors.invalid_value(&found, labels.value.clone(), format!("must be '{wanted}'"));
            }
            Some(_) => {}
        }
    }
    let generated = json!({UID_LABEL: uid, NAME_LABEL: name, OLD_UID_LABEL: uid, OLD_NAME_LABEL: name});
    if pod_template::is_well_formed(selector.value) && !workload::selects(selector.value, &generated) {
        errors.push_text(
            super::field::Reason::Invalid,
            &selector.path,
            pod_template::selector_text(selector.value),
            "`selector` not auto-generated",
        );
    }
    errors
}

/// The last pod's host name is the longest.
fn validate_hostname(errors: &mut Errors, job: &Value) {
    let completions = job["spec"]["completions"].as_i64().unwrap_or(0);
    if job["spec"]["completionMode"] != "Indexed" || completions <= 0 {
        return;
    }
    let name = Field::root(job).get("metadata").get("name");
    let hostname = format!("{}-{}", name.str(), completions - 1);
    if !names::dns1123_label(&hostname).is_empty() {
        errors.invalid(&name, format!("will not able to create pod with invalid DNS label: {hostname}"));
    }
}

/// What is told about a name that cannot be a host name, as a workload's pods are named after it.
pub fn name_warning(name: &str) -> Option<String> {
    let wrong = names::dns1123_label(name);
    (!name.is_empty() && !wrong.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        )
    })
}

/// Whether a condition of a Job is true.
pub fn has_condition(job: &Value, kind: &str) -> bool {
    let conditions = job["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn state(job: &Value) -> &'static str {
    let states = [("Complete", "Complete"), ("Failed", "Failed")];
    let ended = states.into_iter().find(|(condition, _)| has_condition(job, condition));
    if let Some((_, state)) = ended {
        return state;
    }
    if !job["metadata"]["deletionTimestamp"].is_null() {
        return "Terminating";
    }
    let states =
        [("Suspended", "Suspended"), ("FailureTarget", "FailureTarget"), ("SuccessCriteriaMet", "SuccessCriteriaMet")];
    states.into_iter().find(|(condition, _)| has_condition(job, condition)).map_or("Running", |(_, state)| state)
}

fn completions(spec: &Value, status: &Value) -> String {
    let succeeded = status["succeeded"].as_i64().unwrap_or(0);
    match (spec["completions"].as_i64(), spec["parallelism"].as_i64().unwrap_or(0)) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

/// From the start to the end, or to now while there is none; a failed Job ends when it failed.
fn duration(status: &Value, now: jiff::Timestamp) -> String {
    let Some(start) = time::parse(&status["startTime"]) else { return String::new() };
    let failed = status["conditions"].as_array().into_iter().flatten();
    let failed = failed.filter(|c| c["type"] == "Failed" && c["status"] == "True").map(|c| &c["lastTransitionTime"]);
    let end = time::parse(&status["completionTime"]).or_else(|| failed.filter_map(time::parse).next());
    time::human_duration(end.unwrap_or(now).as_second() - start.as_second())
}

//! What a Job's status may say, and how it may change: who counts wrongly is told before anybody acts on it.

use serde_json::Value;

use super::has_condition;
use super::indexes::Indexes;
use crate::kinds::field::{Errors, Field};
use crate::kinds::{time, workload};

const ENDS: [&str; 2] = ["Complete", "Failed"];

pub fn validate_update(new: &Value, old: &Value) -> Errors {
    let mut errors = Errors::default();
    let status = Field::root(new).get("status");
    for count in ["active", "succeeded", "failed", "ready", "terminating"] {
        workload::non_negative(&mut errors, &status.get(count));
    }
    uncounted(&mut errors, &status.get("uncountedTerminatedPods"));
    if let (Some(start), Some(end)) =
        (time::parse(status.get("startTime").value), time::parse(status.get("completionTime").value))
        && end < start
    {
        errors.invalid(&status.get("completionTime"), "completionTime cannot be set before startTime");
    }
    ends(&mut errors, new, &status);
    ends_stay(&mut errors, new, old, &status);
    indexes(&mut errors, new, &status);
    errors
}

fn uncounted(errors: &mut Errors, uncounted: &Field<'_>) {
    let mut seen = Vec::new();
    for list in ["succeeded", "failed"] {
        for uid in uncounted.get(list).items() {
            if uid.is_empty() {
                errors.invalid(&uid, "must not be empty");
            } else if seen.contains(&uid.str()) {
                errors.duplicate(&uid);
            }
            seen.push(uid.str());
        }
    }
}

/// A Job ends once, in one way, with nothing left to run or to count.
fn ends(errors: &mut Errors, job: &Value, status: &Field<'_>) {
    let (complete, failed) = (has_condition(job, "Complete"), has_condition(job, "Failed"));
    let conditions = status.get("conditions");
    if complete && failed {
        errors.invalid(&conditions, "cannot set Complete=True and Failed=true conditions");
    }
    if has_condition(job, "SuccessCriteriaMet") && failed {
        errors.invalid(&conditions, "cannot set Failed=True and SuccessCriteriaMet=true conditions");
    }
    let end = status.get("completionTime");
    if end.exists() && !complete {
        errors.invalid(&end, "cannot set completionTime when there is no Complete=True condition");
    }
    if complete && !end.exists() {
        errors.required(&end, "completionTime is required for Complete jobs");
    }
    if !complete && !failed {
        return;
    }
    let active = status.get("active");
    if active.int().unwrap_or(0) > 0 {
        errors.invalid(&active, "active>0 is invalid for finished job");
    }
    let terminating = status.get("terminating");
    if terminating.int().unwrap_or(0) > 0 {
        errors.invalid(&terminating, "terminating>0 is invalid for finished job");
    }
    let left = status.get("uncountedTerminatedPods");
    if !left.get("succeeded").is_empty() || !left.get("failed").is_empty() {
        errors.invalid(&left, "uncountedTerminatedPods needs to be empty for finished job");
    }
}

fn ends_stay(errors: &mut Errors, new: &Value, old: &Value, status: &Field<'_>) {
    let conditions = status.get("conditions");
    for kind in ENDS.into_iter().chain(["FailureTarget", "SuccessCriteriaMet"]) {
        if has_condition(old, kind) && !has_condition(new, kind) {
            errors.invalid(&conditions, format!("cannot disable the terminal Job {kind}=True condition"));
        }
    }
    let finished = ENDS.into_iter().any(|kind| has_condition(old, kind));
    for name in ["startTime", "completionTime"] {
        let (field, before) = (status.get(name), &old["status"][name]);
        if finished && !before.is_null() && field.value != before {
            errors.invalid(&field, "field is immutable");
        }
    }
}

fn indexes(errors: &mut Errors, job: &Value, status: &Field<'_>) {
    let indexed = job["spec"]["completionMode"] == "Indexed";
    let completions = job["spec"]["completions"].as_i64().unwrap_or(0);
    let (completed, failed) = (status.get("completedIndexes"), status.get("failedIndexes"));
    for field in [&completed, &failed] {
        if !field.is_empty() && !indexed {
            errors.invalid(field, "cannot set when completion mode is not Indexed");
        }
        if indexed && let Err(why) = Indexes::parse(field.str(), completions) {
            errors.invalid(field, format!("error parsing {}: {why}", field.path.trim_start_matches("status.")));
        }
    }
    if let (Ok((done, _)), Ok((lost, _))) =
        (Indexes::parse(completed.str(), completions), Indexes::parse(failed.str(), completions))
        && done.common(&lost) > 0
    {
        errors.invalid(&failed, "failedIndexes and completedIndexes overlap");
    }
}

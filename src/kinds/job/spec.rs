//! What a JobSpec may say, in a Job and in a CronJob's template.

use serde_json::{Map, Value};

use super::indexes::Indexes;
use crate::kinds::field::{Errors, Field, Reason, quote};
use crate::kinds::pod::{dump, warnings};
use crate::kinds::{meta, names, pod_template, selector, workload};

const MAX_INDEXED_PARALLELISM: i64 = 100_000;
const MAX_FAILED_INDEXES: i64 = 100_000;
/// Beyond this many completions, limits by index must be tighter.
const MANY_COMPLETIONS: i64 = 100_000;
const MAX_PARALLELISM_OF_MANY: i64 = 10_000;
const MAX_FAILED_INDEXES_OF_MANY: i64 = 10_000;
const MAX_MANAGED_BY: usize = 63;
const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_PATTERNS: usize = 20;
const MAX_SUCCEEDED_INDEXES_BYTES: usize = 64 * 1024;

const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];

/// A Job's spec.
pub fn validate(errors: &mut Errors, spec: &Field<'_>) {
    validate_common(errors, spec);
    let at = spec.get("selector");
    if at.exists() {
        selector::validate(errors, &at);
    } else {
        errors.required(&at, "");
    }
    if pod_template::is_well_formed(at.value) {
        let labels = spec.get("template").get("metadata").get("labels");
        // No selector selects nothing.
        if !at.exists() || !workload::selects(at.value, labels.value) {
            errors.invalid(&labels, pod_template::NO_MATCH);
        }
    }
}

/// The spec in a CronJob's `jobTemplate`, whose selector every Job gets for itself.
pub fn validate_template_spec(errors: &mut Errors, spec: &Field<'_>) {
    validate_common(errors, spec);
    let selector = spec.get("selector");
    if selector.exists() {
        let shown = pod_template::selector_text(selector.value);
        errors.push_text(Reason::Invalid, &selector.path, shown, "`selector` will be auto-generated");
    }
    let manual = spec.get("manualSelector");
    if manual.bool() {
        errors.not_supported(&manual, &["nil", "false"]);
    }
}

fn validate_common(errors: &mut Errors, spec: &Field<'_>) {
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    for count in counts {
        workload::non_negative(errors, &spec.get(count));
    }
    if spec.get("maxFailedIndexes").exists() && !spec.get("backoffLimitPerIndex").exists() {
        errors.required(&spec.get("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    let manager = spec.get("managedBy");
    if manager.exists() {
        domain_prefixed_path(errors, &manager);
        if manager.str().len() > MAX_MANAGED_BY {
            errors.too_long(&manager, MAX_MANAGED_BY);
        }
    }
    completion_mode(errors, spec);
    pod_failure_policy(errors, spec);
    success_policy(errors, spec);
    pod_replacement_policy(errors, spec);
    let template = spec.get("template");
    pod_template::validate_template(errors, &template);
    let restart = template.get("spec").get("restartPolicy");
    match restart.str() {
        "Always" => errors.required(&restart, "valid values: \"OnFailure\", \"Never\""),
        "Never" => {}
        "OnFailure" if spec.get("podFailurePolicy").exists() => {
            errors.invalid(&restart, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" => {}
        _ => errors.not_supported(&restart, &["OnFailure", "Never"]),
    }
}

/// `domain/path`.
fn domain_prefixed_path(errors: &mut Errors, at: &Field<'_>) {
    if at.is_empty() {
        return errors.required(at, "");
    }
    let Some((host, path)) = at.str().split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty())
    else {
        return errors.invalid(at, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    errors.invalid_each(&Field::new(at.path.clone(), &Value::from(host)), names::dns1123_subdomain(host));
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        let value = Value::from(path);
        errors.invalid(
            &Field::new(at.path.clone(), &value),
            "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')",
        );
    }
}

fn completion_mode(errors: &mut Errors, spec: &Field<'_>) {
    let mode = spec.get("completionMode");
    if mode.exists() && !matches!(mode.str(), "NonIndexed" | "Indexed") {
        errors.not_supported(&mode, &["NonIndexed", "Indexed"]);
    }
    let (per_index, max_failed) = (spec.get("backoffLimitPerIndex"), spec.get("maxFailedIndexes"));
    let (completions, parallelism) = (spec.get("completions"), spec.get("parallelism"));
    if !mode.exists() || mode.str() == "NonIndexed" {
        for field in [&per_index, &max_failed] {
            if field.exists() {
                errors.invalid(field, "requires indexed completion mode");
            }
        }
    }
    if mode.str() != "Indexed" {
        return;
    }
    if !completions.exists() {
        errors.required(&completions, "when completion mode is Indexed");
    }
    if parallelism.int().is_some_and(|n| n > MAX_INDEXED_PARALLELISM) {
        let detail = format!("must be less than or equal to {MAX_INDEXED_PARALLELISM} when completion mode is Indexed");
        errors.invalid(&parallelism, detail);
    }
    if completions.int().zip(max_failed.int()).is_some_and(|(completions, failed)| failed > completions) {
        errors.invalid(&max_failed, "must be less than or equal to completions");
    }
    if max_failed.int().is_some_and(|n| n > MAX_FAILED_INDEXES) {
        errors.invalid(&max_failed, format!("must be less than or equal to {MAX_FAILED_INDEXES}"));
    }
    if completions.int().is_some_and(|n| n > MANY_COMPLETIONS) && per_index.exists() {
        many_completions(errors, &max_failed, &parallelism);
    }
}

fn many_completions(errors: &mut Errors, max_failed: &Field<'_>, parallelism: &Field<'_>) {
    if !max_failed.exists() {
        errors.required(max_failed, format!("must be specified when completions is above {MANY_COMPLETIONS}"));
    }
    for (field, most) in [(parallelism, MAX_PARALLELISM_OF_MANY), (max_failed, MAX_FAILED_INDEXES_OF_MANY)] {
        if field.int().is_some_and(|n| n > most) {
            let detail = format!(
                "must be less than or equal to {most} when completions are above {MANY_COMPLETIONS} and used with backoff limit per index"
            );
            errors.invalid(field, detail);
        }
    }
}

/// `["a" "b"]`, as upstream lists the values that a missing one could have.
fn valid_values(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| quote(value)).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

fn one_of(errors: &mut Errors, at: &Field<'_>, values: &[&str]) {
    if at.is_empty() {
        errors.required(at, valid_values(values));
    } else if !values.contains(&at.str()) {
        errors.not_supported(at, values);
    }
}

fn pod_failure_policy(errors: &mut Errors, spec: &Field<'_>) {
    let rules = spec.get("podFailurePolicy").get("rules");
    if rules.len() > MAX_RULES {
        errors.too_many(&rules, rules.len(), MAX_RULES);
    }
    let pod = spec.get("template").get("spec");
    let containers = pod.get("initContainers").items().chain(pod.get("containers").items());
    let containers: Vec<&str> = containers.map(|container| container.get("name").str()).collect();
    for rule in rules.items() {
        let action = rule.get("action");
        if action.str() == "FailIndex" && !spec.get("backoffLimitPerIndex").exists() {
            errors.invalid(&action, "requires the backoffLimitPerIndex to be set");
        } else {
            one_of(errors, &action, ACTIONS);
        }
        let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
        if codes.exists() {
            exit_codes(errors, &codes, &containers);
        }
        pod_conditions(errors, &conditions);
        match (codes.exists(), !conditions.is_empty()) {
            (true, true) => omitted(errors, &rule, "specifying both OnExitCodes and OnPodConditions is not supported"),
            (false, false) => omitted(errors, &rule, "specifying one of OnExitCodes and OnPodConditions is required"),
            _ => {}
        }
    }
}

/// An invalid value that is not shown.
fn omitted(errors: &mut Errors, at: &Field<'_>, detail: &str) {
    errors.push_text(Reason::Invalid, &at.path, "", detail);
}

fn exit_codes(errors: &mut Errors, codes: &Field<'_>, containers: &[&str]) {
    one_of(errors, &codes.get("operator"), OPERATORS);
    let container = codes.get("containerName");
    if container.exists() && !containers.contains(&container.str()) {
        errors.invalid(&container, "must be one of the container or initContainer names in the pod template");
    }
    let values = codes.get("values");
    if values.is_empty() {
        errors.invalid(&values, "at least one value is required");
    } else if values.len() > MAX_EXIT_CODES {
        errors.too_many(&values, values.len(), MAX_EXIT_CODES);
    }
    let (mut seen, mut ordered) = (Vec::new(), true);
    for value in values.items() {
        let code = value.int().unwrap_or(0);
        if codes.get("operator").str() == "In" && code == 0 {
            errors.invalid(&value, "must not be 0 for the In operator");
        }
        if seen.contains(&code) {
            errors.duplicate(&value);
        }
        ordered &= seen.last().is_none_or(|last| *last <= code);
        seen.push(code);
    }
    if !ordered {
        errors.invalid(&values, "must be ordered");
    }
}

fn pod_conditions(errors: &mut Errors, patterns: &Field<'_>) {
    if patterns.len() > MAX_PATTERNS {
        errors.too_many(patterns, patterns.len(), MAX_PATTERNS);
    }
    for pattern in patterns.items() {
        let kind = pattern.get("type");
        for message in names::qualified_name(kind.str()) {
            errors.invalid_str(&kind, message);
        }
        one_of(errors, &pattern.get("status"), STATUSES);
    }
}

fn success_policy(errors: &mut Errors, spec: &Field<'_>) {
    let policy = spec.get("successPolicy");
    if !policy.exists() {
        return;
    }
    if spec.get("completionMode").str() != "Indexed" {
        return errors.invalid(&policy, "requires indexed completion mode");
    }
    let rules = policy.get("rules");
    if rules.is_empty() {
        errors.required(&rules, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > MAX_RULES {
        errors.too_many(&rules, rules.len(), MAX_RULES);
    }
    let completions = spec.get("completions").int().unwrap_or(0);
    for rule in rules.items() {
        success_rule(errors, &rule, completions);
    }
}

fn success_rule(errors: &mut Errors, rule: &Field<'_>, completions: i64) {
    let (count, indexes) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
    if !count.exists() && !indexes.exists() {
        errors.required(rule, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut selected = 0;
    if indexes.exists() {
        if indexes.str().len() > MAX_SUCCEEDED_INDEXES_BYTES {
            errors.too_long(&indexes, MAX_SUCCEEDED_INDEXES_BYTES);
        }
        match Indexes::parse(indexes.str(), completions) {
            Ok((_, total)) => selected = total,
            Err(why) => errors.invalid(&indexes, format!("error parsing succeededIndexes: {why}")),
        }
    }
    workload::non_negative(errors, &count);
    let Some(wanted) = count.int() else { return };
    if wanted > completions {
        let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.invalid(&count, detail);
    }
    if indexes.exists() && wanted > selected {
        let detail = format!(
            "must be less than or equal to {selected} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.invalid(&count, detail);
    }
}

fn pod_replacement_policy(errors: &mut Errors, spec: &Field<'_>) {
    let policy = spec.get("podReplacementPolicy");
    let allowed: &[&str] =
        if spec.get("podFailurePolicy").exists() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if policy.exists() && !allowed.contains(&policy.str()) {
        errors.not_supported(&policy, allowed);
    }
}

/// What of a Job's spec never changes.
pub fn validate_update(errors: &mut Errors, new: &Value, old: &Value) {
    let (spec, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
    completions_update(errors, &spec, &before);
    pod_template::validate_selector_update(errors, new, old);
    template_update(errors, &spec, old);
    for name in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        meta::immutable(errors, &spec.get(name), &before.get(name));
    }
}

/// The completions of an Indexed Job change together with its parallelism.
fn completions_update(errors: &mut Errors, new: &Field<'_>, old: &Field<'_>) {
    let (completions, before) = (new.get("completions"), old.get("completions"));
    if new.get("completionMode").str() != "Indexed" {
        return meta::immutable(errors, &completions, &before);
    }
    if completions.value != before.value && completions.exists() && completions.int() != new.get("parallelism").int() {
        errors.invalid(&completions, "can only be modified in tandem with spec.parallelism");
    }
}

/// A template stays as it is; while the Job is suspended and has not begun, where its pods may run and
/// what they ask for may still be decided.
fn template_update(errors: &mut Errors, new: &Field<'_>, old: &Value) {
    let template = new.get("template");
    let mut before = old["spec"]["template"].clone();
    let suspended = old["spec"]["suspend"] == true && old["status"]["startTime"].is_null();
    if suspended {
        let (wanted, pod) = (template.value, &mut before);
        for part in ["labels", "annotations"] {
            take(&mut pod["metadata"], &wanted["metadata"], part);
        }
        for part in ["nodeSelector", "tolerations", "schedulingGates"] {
            take(&mut pod["spec"], &wanted["spec"], part);
        }
        let node_affinity = wanted.pointer("/spec/affinity/nodeAffinity");
        if node_affinity.is_some() || !before["spec"]["affinity"].is_null() {
            let affinity = meta::object_mut(&mut before["spec"], "affinity");
            match node_affinity {
                Some(value) => affinity.insert("nodeAffinity".to_owned(), value.clone()),
                None => affinity.remove("nodeAffinity"),
            };
        }
        for list in ["containers", "initContainers"] {
            let wanted = wanted["spec"][list].as_array().into_iter().flatten();
            for (old, new) in
                before["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().zip(wanted)
            {
                take(old, new, "resources");
            }
        }
    }
    let metadata = template.get("metadata");
    if !meta::same(metadata.value, &before["metadata"]) {
        errors.invalid(&metadata, "field is immutable");
    }
    let spec = template.get("spec");
    if !meta::same(spec.value, &before["spec"]) {
        errors.push_text(Reason::Invalid, &spec.path, dump::compact(spec.value), "field is immutable");
    }
}

fn take(to: &mut Value, from: &Value, name: &str) {
    if to.is_null() {
        *to = Value::Object(Map::new());
    }
    meta::take_from(to, from, name);
}

/// The warnings of a Job's spec, unless its template is what it was.
pub fn warnings_of(spec: &Field<'_>, old: Option<&Value>) -> Vec<String> {
    let mut found = Vec::new();
    let number = |name: &str| spec.get(name).int().unwrap_or(0);
    if spec.get("completionMode").str() == "Indexed"
        && number("completions") > MANY_COMPLETIONS
        && number("parallelism") > MAX_PARALLELISM_OF_MANY
    {
        found.push("In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail".to_owned());
    }
    if old.is_none_or(|old| !meta::same(spec.get("template").value, &old["template"])) {
        found.extend(warnings::of(&spec.get("template").get("spec")));
    }
    found
}

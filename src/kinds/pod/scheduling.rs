//! Tolerations, taints, topology spread, gates: what a pod says about where it may run.

use std::collections::BTreeSet;

use crate::kinds::field::{Errors, Field, Reason};
use crate::kinds::{names, selector};

pub const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub fn tolerations(errors: &mut Errors, list: &Field<'_>) {
    for toleration in list.items() {
        let (key, operator) = (toleration.get("key"), toleration.get("operator"));
        let (value, effect) = (toleration.get("value"), toleration.get("effect"));
        if !key.is_empty() {
            errors.invalid_each(&key, names::qualified_name(key.str()));
        }
        if key.is_empty() && operator.str() != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid_str(&operator, detail);
        }
        if toleration.get("tolerationSeconds").exists() && effect.str() != "NoExecute" {
            errors.invalid_str(&effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.str() {
            "Equal" | "" => {
                let messages = names::label_value(value.str());
                if !messages.is_empty() {
                    errors.invalid_value(&operator, value.str(), messages.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.invalid_value(&operator, value.str(), "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            _ => errors.not_supported(&operator, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            taint_effect(errors, &effect);
        }
    }
}

pub fn taint_effect(errors: &mut Errors, at: &Field<'_>) {
    if !TAINT_EFFECTS.contains(&at.str()) {
        errors.not_supported(at, &TAINT_EFFECTS);
    }
}

pub fn topology_spread(errors: &mut Errors, list: &Field<'_>) {
    let mut seen = BTreeSet::new();
    for constraint in list.items() {
        let skew = constraint.get("maxSkew");
        if skew.int().unwrap_or(0) <= 0 {
            errors.invalid_value(&skew, skew.int().unwrap_or(0), "must be greater than zero");
        }
        let key = constraint.get("topologyKey");
        if key.is_empty() {
            errors.required(&key, "can not be empty");
        } else {
            errors.invalid_each(&key, names::qualified_name(key.str()));
        }
        let unsatisfiable = constraint.get("whenUnsatisfiable");
        if !matches!(unsatisfiable.str(), "DoNotSchedule" | "ScheduleAnyway") {
            errors.not_supported(&unsatisfiable, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        if !seen.insert((key.str(), unsatisfiable.str())) {
            let pair = format!("{{{}, {}}}", key.str(), unsatisfiable.str());
            let path = format!("{}.{{topologyKey, whenUnsatisfiable}}", constraint.path);
            errors.push(Reason::Duplicate, path, Some(pair.into()), "");
        }
        min_domains(errors, &constraint);
        for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = constraint.get(name);
            if policy.exists() && !matches!(policy.str(), "Honor" | "Ignore") {
                errors.not_supported(&policy, &["Honor", "Ignore"]);
            }
        }
        match_label_keys(errors, &constraint);
        selector::validate(errors, &constraint.get("labelSelector"));
    }
}

fn min_domains(errors: &mut Errors, constraint: &Field<'_>) {
    let domains = constraint.get("minDomains");
    let Some(count) = domains.int() else { return };
    if count <= 0 {
        errors.invalid(&domains, "must be greater than zero");
    }
    let unsatisfiable = constraint.get("whenUnsatisfiable").str();
    if unsatisfiable != "DoNotSchedule" {
        let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {unsatisfiable}");
        errors.invalid(&domains, detail);
    }
}

fn match_label_keys(errors: &mut Errors, constraint: &Field<'_>) {
    let keys = constraint.get("matchLabelKeys");
    if keys.is_empty() {
        return;
    }
    if !constraint.get("labelSelector").exists() {
        errors.forbidden(&keys, "must not be specified when labelSelector is not set");
        return;
    }
    for key in keys.items() {
        errors.invalid_each(&key, names::qualified_name(key.str()));
    }
}

pub fn gates(errors: &mut Errors, list: &Field<'_>) {
    let mut seen = BTreeSet::new();
    for gate in list.items() {
        let name = Field::new(&gate.path, gate.get("name").value);
        for message in names::qualified_name(name.str()) {
            errors.invalid_str(&name, message);
        }
        if !seen.insert(name.str()) {
            errors.duplicate(&name);
        }
    }
}

//! What workloads have in common: a selector, a template, a count, a strategy.

use serde_json::{Map, Value};

use super::common::text;
use super::field::{Errors, Field};
use super::{job, names};

/// `matchLabels` and `matchExpressions` as one selector string; `<none>` for no selector at all.
///
/// Requirements come sorted by key, as upstream's parser sorts them.
pub fn selector_text(selector: &Value) -> String {
    let Some(_) = selector.as_object() else { return "<none>".to_owned() };
    let mut parts: Vec<(String, String)> = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        parts.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or(""))));
    }
    for requirement in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = requirement["key"].as_str().unwrap_or("").to_owned();
        let mut values: Vec<&str> =
            requirement["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let text = match requirement["operator"].as_str().unwrap_or("") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.clone(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".to_owned(),
        };
        parts.push((key, text));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    if parts.is_empty() {
        return "<none>".to_owned();
    }
    parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

/// Names and images of a template's containers, each joined by commas.
pub fn containers_text(pod_spec: &Value) -> (String, String) {
    let joined = |field: &str| {
        let containers = pod_spec["containers"].as_array().into_iter().flatten();
        containers.map(|container| container[field].as_str().unwrap_or("")).collect::<Vec<_>>().join(",")
    };
    (joined("name"), joined("image"))
}

/// Whether a LabelSelector selects these labels. An invalid requirement selects nothing.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let empty = Map::new();
    let labels = labels.as_object().unwrap_or(&empty);
    let equal = |(key, value): (&String, &Value)| labels.get(key) == Some(value);
    let matches = |requirement: &Value| {
        let found = labels.get(requirement["key"].as_str().unwrap_or(""));
        let values = requirement["values"].as_array().map(Vec::as_slice).unwrap_or_default();
        match requirement["operator"].as_str().unwrap_or("") {
            "In" => found.is_some_and(|value| values.contains(value)),
            "NotIn" => found.is_none_or(|value| !values.contains(value)),
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            _ => false,
        }
    };
    selector["matchLabels"].as_object().into_iter().flatten().all(equal)
        && selector["matchExpressions"].as_array().into_iter().flatten().all(matches)
}

/// `0 <= field`, in upstream's words.
pub fn non_negative(errors: &mut Errors, field: &Field<'_>) {
    if field.int().is_some_and(|number| number < 0) {
        errors.invalid(field, "must be greater than or equal to 0");
    }
}

/// A number of replicas, or the number in a percentage: `25%` is 25. Zero for what is neither.
pub fn int_or_percent(value: &Value) -> i64 {
    let percent = || value.as_str()?.strip_suffix('%')?.parse().ok();
    value.as_i64().or_else(percent).unwrap_or(0)
}

/// What [`int_or_percent`] reads is a number that is not negative, or a percentage.
pub fn count_or_percent(errors: &mut Errors, field: &Field<'_>) {
    match field.value.as_str() {
        Some(percent) => errors.invalid_each(field, names::percent(percent)),
        None => non_negative(errors, field),
    }
}

/// A percentage is at most all.
pub fn at_most_all(errors: &mut Errors, field: &Field<'_>) {
    if field.value.is_string() && int_or_percent(field.value) > 100 {
        errors.invalid(field, "must not be greater than 100%");
    }
}

/// A strategy of an unknown type, as upstream's struct writes it.
pub fn strategy_text(kind: &str, rolling: &Value) -> String {
    let inner = match rolling {
        Value::Null => "null".to_owned(),
        value => format!("{{\"MaxUnavailable\":{},\"MaxSurge\":{}}}", value["maxUnavailable"], value["maxSurge"]),
    };
    format!("{{\"Type\":{},\"RollingUpdate\":{inner}}}", Value::from(kind))
}

/// `status.collisionCount` only rises.
pub fn no_fewer_collisions(errors: &mut Errors, status: &Field<'_>, old: &Value) {
    let collisions = status.get("collisionCount");
    let count = collisions.int().unwrap_or(0);
    if count < old["status"]["collisionCount"].as_i64().unwrap_or(0) {
        errors.invalid_value(&collisions, count, "cannot be decremented");
    }
}

/// What is told at the creation of a workload whose name cannot be a host name, as its pods are named after it.
pub fn name_warning(new: &Value, old: Option<&Value>) -> Option<String> {
    old.is_none().then(|| job::name_warning(text(new, "/metadata/name"))).flatten()
}

/// Parts of `status.replicas` cannot be more than the whole, nor available ones more than ready ones.
pub fn not_more_than_replicas(errors: &mut Errors, status: &Field<'_>, parts: &[&str]) {
    let count = |name: &str| status.get(name).int().unwrap_or(0);
    for part in parts {
        if count(part) > count("replicas") {
            errors.invalid_value(&status.get(part), count(part), "cannot be greater than status.replicas");
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let available = status.get("availableReplicas");
        errors.invalid_value(&available, count("availableReplicas"), "cannot be greater than readyReplicas");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_as_text() {
        assert_eq!(selector_text(&Value::Null), "<none>");
        assert_eq!(selector_text(&json!({})), "<none>");
        let selector = json!({"matchLabels": {"b": "1"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]});
        assert_eq!(selector_text(&selector), "a in (x,y),b=1,!c");
    }

    #[test]
    fn selectors_select() {
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "NotIn", "values": ["x"]}]});
        assert!(selects(&selector, &json!({"a": "1"})));
        assert!(!selects(&selector, &json!({"a": "1", "b": "x"})));
        assert!(!selects(&selector, &json!({})));
        assert!(selects(&json!({}), &Value::Null));
    }
}

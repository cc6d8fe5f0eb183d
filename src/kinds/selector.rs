//! Label selectors: their errors, in upstream's order.

use serde_json::Value;

use super::field::{Errors, Field};
use super::names;

/// A LabelSelector; nothing to say of an absent one.
pub fn validate(errors: &mut Errors, at: &Field<'_>) {
    if !at.exists() {
        return;
    }
    super::meta::validate_labels(errors, &at.get("matchLabels"));
    for requirement in at.get("matchExpressions").items() {
        validate_requirement(errors, &requirement);
    }
}

fn validate_requirement(errors: &mut Errors, at: &Field<'_>) {
    let (operator, values, key) = (at.get("operator"), at.get("values"), at.get("key"));
    match operator.str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => errors.invalid_str(&operator, "not a valid selector operator"),
    }
    for message in names::qualified_name(key.str()) {
        errors.invalid_str(&key, message);
    }
    for value in values.items() {
        errors.invalid_each(&value, names::label_value(value.str()));
    }
}

/// Whether a LabelSelector that passes [`validate`] chooses an object with these labels. An empty one
/// chooses all.
pub fn matches(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object().into_iter().flatten();
    let terms = selector["matchExpressions"].as_array().into_iter().flatten();
    wanted.into_iter().all(|(key, value)| labels.get(key) == Some(value))
        && terms.into_iter().all(|term| {
            let label = labels.get(term["key"].as_str().unwrap_or_default());
            let listed = label.is_some_and(|label| term["values"].as_array().is_some_and(|list| list.contains(label)));
            match term["operator"].as_str() {
                Some("In") => listed,
                Some("NotIn") => !listed,
                Some("Exists") => label.is_some(),
                Some("DoesNotExist") => label.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_choose_by_labels_and_expressions() {
        let labels = json!({"app": "web", "tier": "front"});
        for (selector, wanted) in [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "db"}}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["db", "web"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}), false),
            (json!({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["web"]}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), true),
            (json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), false),
        ] {
            assert_eq!(matches(&selector, &labels), wanted, "{selector}");
        }
    }
}

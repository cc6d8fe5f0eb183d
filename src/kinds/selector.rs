//! Label selectors: their errors, in upstream's order.

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

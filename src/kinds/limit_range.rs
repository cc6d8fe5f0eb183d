//! LimitRange of `v1`: what each pod, container or claim of a namespace may ask for, and what it gets
//! when it asks for nothing.

use serde_json::{Map, Value};

use super::common::text;
use super::field::{Errors, Field};
use super::meta::object_mut;
use super::quantity::{self, Quantity};
use super::{ALL_VERBS, Column, Kind, KindInfo, column, names, pod::resources};

pub struct LimitRange;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.core.v1.LimitRange",
    storage: "limitranges",
    storage_version_hash: "EBKMFVe6cwo=",
};

static COLUMNS: &[Column] = &[column("Name", "string", "name", 0), column("Created At", "date", "", 0)];

impl Kind for LimitRange {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    /// A container's default limit is its maximum, its default request that limit or else its minimum.
    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        for item in object["spec"].get_mut("limits").and_then(Value::as_array_mut).into_iter().flatten() {
            for list in ["default", "defaultRequest", "max", "min", "maxLimitRequestRatio"] {
                if !item[list].is_null() {
                    quantity::normalize_list(&mut item[list]);
                }
            }
            if item["type"] == "Container" {
                let item = item.as_object_mut().expect("indexed by name just above");
                fill(item, "default", "max");
                fill(item, "defaultRequest", "default");
                fill(item, "defaultRequest", "min");
                item.retain(|_, value| !value.is_null());
            }
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let mut seen: Vec<&str> = Vec::new();
        for item in Field::root(object).get("spec").get("limits").items() {
            let kind = item.get("type");
            validate_kind(&mut errors, &kind);
            if seen.contains(&kind.str()) {
                errors.duplicate(&kind);
            }
            seen.push(kind.str());
            validate_item(&mut errors, &item);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, _now: jiff::Timestamp) -> Vec<Value> {
        vec![text(object, "/metadata/name").into(), text(object, "/metadata/creationTimestamp").into()]
    }
}

/// Takes over into `to` what it lacks and `from` has.
fn fill(item: &mut Map<String, Value>, to: &str, from: &str) {
    let Some(source) = item.get(from).and_then(Value::as_object).cloned() else { return };
    let target = item.entry(to).or_insert(Value::Null);
    if target.is_null() {
        *target = Value::Object(Map::new());
    }
    if let Some(target) = target.as_object_mut() {
        for (name, amount) in source {
            target.entry(name).or_insert(amount);
        }
    }
}

fn validate_kind(errors: &mut Errors, kind: &Field<'_>) {
    let wrong = names::qualified_name(kind.str());
    let qualified = wrong.is_empty();
    for message in wrong {
        errors.invalid_str(kind, message);
    }
    let standard = ["Pod", "Container", "PersistentVolumeClaim"];
    if qualified && !kind.str().contains('/') && !standard.contains(&kind.str()) {
        errors.invalid(kind, "must be a standard limit type or fully qualified");
    }
}

fn validate_item(errors: &mut Errors, item: &Field<'_>) {
    let lists = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"].map(|name| item.get(name));
    let [max, min, default, request, ratio] = &lists;
    let kind = item.get("type");
    if kind.str() == "Pod" {
        for list in [default, request] {
            if !list.is_empty() {
                errors.forbidden(list, "may not be specified when `type` is 'Pod'");
            }
        }
    }
    if kind.str() == "PersistentVolumeClaim" && !min.get("storage").exists() && !max.get("storage").exists() {
        errors.required(
            &item.get("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        );
    }
    let mut resources: Vec<&str> = lists.iter().flat_map(|list| list.entries().map(|(name, _)| name)).collect();
    resources.sort_unstable();
    resources.dedup();
    for list in &lists {
        for (name, amount) in list.entries() {
            resources::amount(errors, &amount, name);
        }
    }
    for name in resources {
        order(errors, name, &lists);
        let at = ratio.key(name);
        if let Ok(ratio) = Quantity::from_json(at.value)
            && ratio < Quantity::from_units(1)
        {
            errors.invalid_value(&at, ratio.to_string(), format!("ratio {ratio} is less than 1"));
        }
    }
}

/// Minimum ≤ default request ≤ default ≤ maximum. Upstream shows the request where it means the
/// minimum, and so on; its answers are what they are.
fn order(errors: &mut Errors, name: &str, lists: &[Field<'_>; 5]) {
    let [max, min, default, request, _] = lists;
    let amount = |list: &Field<'_>| Quantity::from_json(list.key(name).value).ok();
    let (max_amount, min_amount) = (amount(max), amount(min));
    let (default_amount, request_amount) = (amount(default), amount(request));
    let mut above = |at: &Field<'_>, shown: Quantity, low: (&str, Option<Quantity>), high: (&str, Option<Quantity>)| {
        if let (Some(low_amount), Some(high_amount)) = (low.1, high.1)
            && low_amount > high_amount
        {
            let detail = format!("{} value {low_amount} is greater than {} value {high_amount}", low.0, high.0);
            errors.invalid_value(&at.key(name), shown.to_string(), detail);
        }
    };
    let zero = Quantity::ZERO;
    above(min, min_amount.unwrap_or(zero), ("min", min_amount), ("max", max_amount));
    above(request, request_amount.unwrap_or(zero), ("min", min_amount), ("default request", request_amount));
    above(request, request_amount.unwrap_or(zero), ("default request", request_amount), ("max", max_amount));
    above(request, request_amount.unwrap_or(zero), ("default request", request_amount), ("default", default_amount));
    above(default, min_amount.unwrap_or(zero), ("min", min_amount), ("default", default_amount));
    above(default, max_amount.unwrap_or(zero), ("default", default_amount), ("max", max_amount));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_gets_its_limits_from_each_other() {
        let mut range = json!({"spec": {"limits": [
            {"type": "Container", "max": {"cpu": "2", "memory": "1Gi"}, "default": {"cpu": "500m"}, "min": {"memory": "1Mi"}},
            {"type": "Pod", "max": {"cpu": "4"}}]}});
        LimitRange.default(&mut range);
        let container = &range["spec"]["limits"][0];
        assert_eq!(container["default"], json!({"cpu": "500m", "memory": "1Gi"}));
        assert_eq!(container["defaultRequest"], json!({"cpu": "500m", "memory": "1Gi"}));
        assert_eq!(range["spec"]["limits"][1], json!({"type": "Pod", "max": {"cpu": "4"}}));
        assert!(LimitRange.validate(&range).is_empty());
    }
}

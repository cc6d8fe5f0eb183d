//! PriorityLevelConfiguration of `flowcontrol.apiserver.k8s.io/v1`: how many requests of a sort the API
//! server answers at a time, and how the others wait.

use serde_json::{Value, json};

use super::common::{set_default, text};
use super::field::{Errors, Field};
use super::meta::{self, object_mut};
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column, flow_schema, time};

pub struct PriorityLevelConfiguration;

static INFO: KindInfo = KindInfo {
    group: flow_schema::GROUP,
    version: "v1",
    kind: "PriorityLevelConfiguration",
    plural: "prioritylevelconfigurations",
    singular: "prioritylevelconfiguration",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("PriorityLevelConfiguration")],
    schema: "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration",
    storage: "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations",
    storage_version_hash: "Kir5PVfvNeI=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Type", "string", "", 0),
    column("NominalConcurrencyShares", "string", "", 0),
    column("Queues", "string", "", 0),
    column("HandSize", "string", "", 0),
    column("QueueLengthLimit", "string", "", 0),
    column("Age", "string", "", 0),
];

const DEFAULT_SHARES: i64 = 30;

impl Kind for PriorityLevelConfiguration {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        object_mut(object, "status");
        let spec = &mut object["spec"];
        for (part, shares) in [("exempt", 0), ("limited", DEFAULT_SHARES)] {
            if spec[part].is_object() {
                set_default(&mut spec[part], "nominalConcurrencyShares", shares);
                set_default(&mut spec[part], "lendablePercent", 0);
            }
        }
        let queuing = spec.pointer_mut("/limited/limitResponse/queuing").filter(|queuing| queuing.is_object());
        if let Some(queuing) = queuing {
            for (name, number) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                if queuing[name].as_i64().unwrap_or(0) == 0 {
                    queuing[name] = json!(number);
                }
            }
        }
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
        let mut errors = Errors::default();
        let spec = Field::root(object).get("spec");
        let (kind, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
        match kind.str() {
            "Exempt" if limited.exists() => errors.forbidden(&limited, "must be nil if the type is not Limited"),
            "Exempt" => {}
            "Limited" => {
                if exempt.exists() {
                    errors.forbidden(&exempt, "must be nil if the type is Limited");
                }
                if limited.exists() {
                    check_limited(&mut errors, &limited);
                } else {
                    errors.required(&limited, "must not be empty when type is Limited");
                }
            }
            _ => errors.not_supported(&kind, &["Exempt", "Limited"]),
        }
        for part in [&exempt, &limited] {
            share(&mut errors, part);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let spec = &object["spec"];
        let number = |pointer: &str| match spec.pointer(pointer).and_then(Value::as_i64) {
            Some(number) => Value::from(number),
            None => "<none>".into(),
        };
        let part = if text(spec, "/type") == "Exempt" { "/exempt" } else { "/limited" };
        let queuing = |name: &str| number(&format!("/limited/limitResponse/queuing/{name}"));
        vec![
            text(object, "/metadata/name").into(),
            text(spec, "/type").into(),
            number(&format!("{part}/nominalConcurrencyShares")),
            queuing("queues"),
            queuing("handSize"),
            queuing("queueLengthLimit"),
            time::object_age(object, now).into(),
        ]
    }
}

fn share(errors: &mut Errors, part: &Field<'_>) {
    let (shares, lent) = (part.get("nominalConcurrencyShares"), part.get("lendablePercent"));
    if shares.int().is_some_and(|shares| shares < 0) {
        errors.invalid(&shares, "must be a non-negative integer");
    }
    if lent.int().is_some_and(|percent| !(0..=100).contains(&percent)) {
        errors.invalid(&lent, "must be between 0 and 100, inclusive");
    }
}

fn check_limited(errors: &mut Errors, limited: &Field<'_>) {
    let borrowed = limited.get("borrowingLimitPercent");
    if borrowed.int().is_some_and(|percent| percent < 0) {
        errors.invalid(&borrowed, "if specified, must be a non-negative integer");
    }
    let response = limited.get("limitResponse");
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.str() {
        "Reject" if queuing.exists() => {
            errors.forbidden(&queuing, "must be nil if limited.limitResponse.type is not Limited");
        }
        "Reject" => {}
        "Queue" if !queuing.exists() => {
            errors.required(&queuing, "must not be empty if limited.limitResponse.type is Limited");
        }
        "Queue" => {
            for name in ["queues", "handSize", "queueLengthLimit"] {
                if queuing.get(name).int().unwrap_or(0) <= 0 {
                    errors.invalid(&queuing.get(name), "must be positive");
                }
            }
            let queues = queuing.get("queues").int().unwrap_or(0);
            if queuing.get("handSize").int().is_some_and(|hand| hand > queues) {
                errors.invalid(&queuing.get("handSize"), format!("should not be greater than queues ({queues})"));
            }
        }
        _ => errors.not_supported(&kind, &["Queue", "Reject"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_make_a_level_whole() {
        let mut object =
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}});
        PriorityLevelConfiguration.default(&mut object);
        assert_eq!(
            object["spec"]["limited"],
            json!({"nominalConcurrencyShares": 30, "lendablePercent": 0,
                "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}}})
        );
        assert!(PriorityLevelConfiguration.validate(&object).is_empty());
    }

    #[test]
    fn a_limit_needs_its_numbers() {
        let errors = |spec: Value| {
            let errors = PriorityLevelConfiguration.validate(&json!({"spec": spec}));
            errors.0.iter().map(|error| error.path.clone()).collect::<Vec<_>>()
        };
        assert_eq!(errors(json!({"type": "Odd"})), ["spec.type"]);
        assert_eq!(errors(json!({"type": "Limited"})), ["spec.limited"]);
        assert_eq!(errors(json!({"type": "Exempt", "limited": {}})), ["spec.limited"]);
        let response = |response: Value| json!({"type": "Limited", "limited": {"limitResponse": response}});
        let at = "spec.limited.limitResponse";
        assert_eq!(errors(response(json!({"type": "Reject", "queuing": {}}))), [format!("{at}.queuing")]);
        let queuing = json!({"queues": 2, "handSize": 3, "queueLengthLimit": 0});
        assert_eq!(
            errors(response(json!({"type": "Queue", "queuing": queuing}))),
            [format!("{at}.queuing.queueLengthLimit"), format!("{at}.queuing.handSize")]
        );
    }
}

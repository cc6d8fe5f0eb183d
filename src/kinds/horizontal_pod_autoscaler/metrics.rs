//! Metrics in the spelling of `autoscaling/v1`, which its annotations hold: targets and values lie flat
//! beside the metric's name.
//!
//! One table says which field is which; both directions read it.

use serde_json::{Map, Value, json};

/// Where a field is in the `autoscaling/v1` spelling of a source, and where in the `autoscaling/v2` one.
type Fields = &'static [(&'static str, &'static str)];

/// A source: its `type`, the field it is in, and its fields in a spec and in a status.
struct Source {
    kind: &'static str,
    field: &'static str,
    spec: Fields,
    status: Fields,
}

const RESOURCE_SPEC: Fields = &[
    ("name", "/name"),
    ("container", "/container"),
    ("targetAverageUtilization", "/target/averageUtilization"),
    ("targetAverageValue", "/target/averageValue"),
];
const RESOURCE_STATUS: Fields = &[
    ("name", "/name"),
    ("container", "/container"),
    ("currentAverageUtilization", "/current/averageUtilization"),
    ("currentAverageValue", "/current/averageValue"),
];

const SOURCES: &[Source] = &[
    Source { kind: "Resource", field: "resource", spec: RESOURCE_SPEC, status: RESOURCE_STATUS },
    Source { kind: "ContainerResource", field: "containerResource", spec: RESOURCE_SPEC, status: RESOURCE_STATUS },
    Source {
        kind: "Pods",
        field: "pods",
        spec: &[
            ("metricName", "/metric/name"),
            ("selector", "/metric/selector"),
            ("targetAverageValue", "/target/averageValue"),
        ],
        status: &[
            ("metricName", "/metric/name"),
            ("selector", "/metric/selector"),
            ("currentAverageValue", "/current/averageValue"),
        ],
    },
    Source {
        kind: "Object",
        field: "object",
        spec: &[
            ("target", "/describedObject"),
            ("metricName", "/metric/name"),
            ("selector", "/metric/selector"),
            ("targetValue", "/target/value"),
            ("averageValue", "/target/averageValue"),
        ],
        status: &[
            ("target", "/describedObject"),
            ("metricName", "/metric/name"),
            ("selector", "/metric/selector"),
            ("currentValue", "/current/value"),
            ("averageValue", "/current/averageValue"),
        ],
    },
    Source {
        kind: "External",
        field: "external",
        spec: &[
            ("metricName", "/metric/name"),
            ("metricSelector", "/metric/selector"),
            ("targetValue", "/target/value"),
            ("targetAverageValue", "/target/averageValue"),
        ],
        status: &[
            ("metricName", "/metric/name"),
            ("metricSelector", "/metric/selector"),
            ("currentValue", "/current/value"),
            ("currentAverageValue", "/current/averageValue"),
        ],
    },
];

/// Whether a list is of a spec's metrics or of a status's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    Spec,
    Status,
}

impl Half {
    fn fields(self, source: &Source) -> Fields {
        match self {
            Self::Spec => source.spec,
            Self::Status => source.status,
        }
    }
}

/// A metric of `autoscaling/v2` as `autoscaling/v1` spells it.
pub fn to_v1(half: Half, metric: &Value) -> Value {
    let mut flat = json!({"type": metric["type"]});
    for source in SOURCES.iter().filter(|source| metric[source.field].is_object()) {
        let mut fields = Map::new();
        for (name, path) in half.fields(source) {
            if let Some(value) = metric[source.field].pointer(path).filter(|value| !value.is_null()) {
                fields.insert((*name).to_owned(), value.clone());
            }
        }
        flat[source.field] = Value::Object(fields);
    }
    flat
}

/// The metric of `autoscaling/v2` that `autoscaling/v1` spells so.
pub fn from_v1(half: Half, flat: &Value) -> Value {
    let mut metric = json!({"type": flat["type"]});
    for source in SOURCES.iter().filter(|source| flat[source.field].is_object()) {
        let mut fields = match half {
            Half::Spec => json!({"target": {}}),
            Half::Status => json!({"current": {}}),
        };
        for (name, path) in half.fields(source) {
            let value = &flat[source.field][*name];
            if !value.is_null() {
                put(&mut fields, path, value.clone());
            }
        }
        if half == Half::Spec {
            fields["target"]["type"] = target_type(source.kind, &fields["target"]).into();
        }
        metric[source.field] = fields;
    }
    metric
}

/// `autoscaling/v1` does not say what sort a target is: which of its values is there does.
fn target_type(source: &str, target: &Value) -> &'static str {
    match source {
        "Resource" | "ContainerResource" if !target["averageUtilization"].is_null() => "Utilization",
        "Object" | "External" if !target["value"].is_null() && target["averageValue"].is_null() => "Value",
        _ => "AverageValue",
    }
}

/// Writes a value at a JSON pointer of names, making the objects on the way.
fn put(object: &mut Value, path: &str, value: Value) {
    let place = path.split('/').skip(1).fold(object, |at, name| &mut at[name]);
    *place = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sort_of_metric_comes_back() {
        let selector = json!({"matchLabels": {"a": "b"}});
        let metrics = [
            json!({"type": "Resource", "resource": {"name": "memory",
                "target": {"type": "AverageValue", "averageValue": "8Mi"}}}),
            json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                "target": {"type": "Utilization", "averageUtilization": 50}}}),
            json!({"type": "Pods", "pods": {"metric": {"name": "m", "selector": selector},
                "target": {"type": "AverageValue", "averageValue": "3"}}}),
            json!({"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"},
                "metric": {"name": "m"}, "target": {"type": "Value", "value": "3"}}}),
            json!({"type": "External", "external": {"metric": {"name": "m", "selector": selector},
                "target": {"type": "AverageValue", "averageValue": "3"}}}),
        ];
        for metric in metrics {
            let flat = to_v1(Half::Spec, &metric);
            assert_eq!(from_v1(Half::Spec, &flat), metric, "{flat}");
        }
        let status = json!({"type": "Resource", "resource": {"name": "cpu",
            "current": {"averageUtilization": 7, "averageValue": "7m"}}});
        let flat = to_v1(Half::Status, &status);
        assert_eq!(
            flat["resource"],
            json!({"name": "cpu", "currentAverageUtilization": 7, "currentAverageValue": "7m"})
        );
        assert_eq!(from_v1(Half::Status, &flat), status);
    }
}

//! The cell `TARGETS`: what each metric is, and what it is to be.

use serde_json::Value;

use crate::kinds::common::text;

/// How many metrics the cell shows before it counts the rest.
const SHOWN: usize = 2;
const UNKNOWN: &str = "<unknown>";

pub fn cell(specs: &[Value], statuses: &[Value]) -> String {
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let empty = Value::Null;
    let shown = specs.iter().enumerate().take(SHOWN).map(|(i, spec)| metric(spec, statuses.get(i).unwrap_or(&empty)));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match specs.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

fn metric(spec: &Value, status: &Value) -> String {
    let field = match text(spec, "/type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) = (&spec[field]["target"], &status[field]["current"]);
    let amount = |of: &Value, name: &str| of[name].as_str().unwrap_or(UNKNOWN).to_owned();
    let pair = |name: &str| format!("{}/{}", amount(current, name), amount(target, name));
    let averages = !target["averageValue"].is_null();
    match field {
        "pods" => pair("averageValue"),
        "external" | "object" if averages => format!("{} (avg)", pair("averageValue")),
        "external" | "object" => pair("value"),
        _ => {
            let share = |of: &Value, none: &str| {
                of["averageUtilization"].as_i64().map_or_else(|| none.to_owned(), |percent| format!("{percent}%"))
            };
            let values = if averages {
                pair("averageValue")
            } else {
                format!("{}/{}", share(current, UNKNOWN), share(target, "<auto>"))
            };
            format!("{}: {values}", text(spec, &format!("/{field}/name")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_sort_of_metric_has_its_form() {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}});
        let now = json!({"type": "Resource", "resource": {"name": "cpu",
            "current": {"averageUtilization": 42, "averageValue": "42m"}}});
        let memory = json!({"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c",
            "target": {"averageValue": "8Mi"}}});
        let queue = json!({"type": "External", "external": {"metric": {"name": "q"}, "target": {"averageValue": "3"}}});
        let hits = json!({"type": "Object", "object": {"metric": {"name": "h"}, "target": {"value": "3"}}});
        assert_eq!(cell(&[], &[]), "<none>");
        assert_eq!(cell(std::slice::from_ref(&cpu), &[]), "cpu: <unknown>/80%");
        assert_eq!(cell(&[cpu.clone(), memory.clone()], &[now]), "cpu: 42%/80%, memory: <unknown>/8Mi");
        assert_eq!(cell(&[queue, hits, cpu, memory], &[]), "<unknown>/3 (avg), <unknown>/3 + 2 more...");
    }
}

//! How a namespace that is going away tells what still holds it: upstream's five conditions.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::Left;

/// A condition: its type; the reason and message when all is well; the reason when it is not.
struct Row {
    kind: &'static str,
    well: (&'static str, &'static str),
    ill: &'static str,
}

const ROWS: [Row; 5] = [
    Row {
        kind: "NamespaceDeletionDiscoveryFailure",
        well: ("ResourcesDiscovered", "All resources successfully discovered"),
        ill: "DiscoveryFailed",
    },
    Row {
        kind: "NamespaceDeletionGroupVersionParsingFailure",
        well: ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ill: "GroupVersionParsingFailed",
    },
    Row {
        kind: "NamespaceDeletionContentFailure",
        well: ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ill: "ContentDeletionFailed",
    },
    Row {
        kind: "NamespaceContentRemaining",
        well: ("ContentRemoved", "All content successfully removed"),
        ill: "SomeResourcesRemain",
    },
    Row {
        kind: "NamespaceFinalizersRemaining",
        well: ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ill: "SomeFinalizersRemain",
    },
];

/// The status patch that tells what is left; `None` when it is told already.
pub(super) fn patch(namespace: &Namespace, left: &Left, now: Timestamp) -> Option<Value> {
    let told = namespace.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut conditions = told.clone();
    for (row, trouble) in ROWS.iter().zip(troubles(left)) {
        set(&mut conditions, row, trouble, now);
    }
    (conditions != told).then(|| json!({"status": {"conditions": conditions}}))
}

/// What is wrong, in the order of the rows.
fn troubles(left: &Left) -> [Option<String>; 5] {
    let list = |lines: &[String], prefix: &str| (!lines.is_empty()).then(|| format!("{prefix}{}", lines.join(", ")));
    let counted = |counts: &BTreeMap<String, usize>, verb: &str| {
        counts.iter().map(|(what, n)| format!("{what} {verb} {n} resource instances")).collect::<Vec<_>>()
    };
    [
        list(&left.discovery, "Discovery failed for some groups, "),
        None,
        list(&left.failures, "Failed to delete all resource types, "),
        list(&counted(&left.objects, "has"), "Some resources are remaining: "),
        list(&counted(&left.finalizers, "in"), "Some content in the namespace has finalizers remaining: "),
    ]
}

fn set(conditions: &mut Vec<NamespaceCondition>, row: &Row, trouble: Option<String>, now: Timestamp) {
    let (status, reason, message) = match trouble {
        Some(message) => ("True", row.ill, message),
        None => ("False", row.well.0, row.well.1.to_owned()),
    };
    let wanted = NamespaceCondition {
        type_: row.kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|c| c.type_ == row.kind) {
        Some(c) if c.status == wanted.status => (c.reason, c.message) = (wanted.reason, wanted.message),
        Some(c) => *c = wanted,
        None => conditions.push(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conditions_say_what_is_left_in_upstream_words() {
        let mut left = Left::default();
        left.objects.insert("configmaps.".into(), 1);
        left.finalizers.insert("example.com/f".into(), 1);
        let patch = patch(&Namespace::default(), &left, Timestamp::UNIX_EPOCH).expect("there is something to tell");
        let conditions = patch["status"]["conditions"].as_array().expect("a list");
        assert_eq!(conditions.len(), 5);
        assert_eq!(conditions[3]["message"], "Some resources are remaining: configmaps. has 1 resource instances");
        let held = "Some content in the namespace has finalizers remaining: example.com/f in 1 resource instances";
        assert_eq!(conditions[4]["message"], held);
        assert_eq!(conditions[0]["status"], "False");
    }

    #[test]
    fn what_is_told_is_not_told_again() {
        let left = Left::default();
        let now = Timestamp::UNIX_EPOCH;
        let told = patch(&Namespace::default(), &left, now).expect("nothing was told before");
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {}, "status": told["status"]})).expect("valid");
        assert_eq!(patch(&namespace, &left, "2030-01-01T00:00:00Z".parse().expect("a time")), None);
    }
}

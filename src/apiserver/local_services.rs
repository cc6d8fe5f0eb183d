//! The APIServices of what this server serves itself: one a group version, with upstream's priorities.

use serde_json::{Value, json};

use super::discovery::Discovery;
use super::target::built_in;
use crate::kinds::api_service::GROUP;

/// (group, version, priority of the group, priority of the version). What is not here comes last.
const PRIORITIES: &[(&str, &str, i64, i64)] = &[
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 5),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
];

/// Of a group that upstream leaves to others.
const OTHERS: (i64, i64) = (100, 100);

/// Every local APIService. The group of APIServices itself has none, as upstream has it.
pub fn objects() -> Vec<Value> {
    let discovery = Discovery::new(built_in().map(|kind| kind.info()));
    let versions = discovery.group_versions().into_iter().filter(|(group, _)| *group != GROUP);
    versions.map(|(group, version)| object(group, version)).collect()
}

fn object(group: &str, version: &str) -> Value {
    let known = PRIORITIES.iter().find(|(known, of, ..)| *known == group && *of == version);
    let (of_group, of_version) = known.map_or(OTHERS, |(_, _, group, version)| (*group, *version));
    json!({
        "metadata": {
            "name": format!("{version}.{group}"),
            "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"},
        },
        "spec": {
            "group": group, "version": version, "groupPriorityMinimum": of_group, "versionPriority": of_version,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kind;
    use crate::kinds::api_service::APIService;

    #[test]
    fn every_group_version_has_a_valid_one() {
        let objects = objects();
        let names: Vec<&str> = objects.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect();
        assert!(names.contains(&"v1.") && names.contains(&"v2.autoscaling"), "{names:?}");
        assert!(!names.iter().any(|name| name.ends_with(GROUP)));
        for object in &objects {
            let errors = APIService.validate(object);
            assert!(errors.is_empty(), "{errors:?}");
        }
    }
}

//! The schemas and levels that a cluster begins with: upstream's.

use serde_json::{Value, json};

use crate::apiserver::codec::yaml;

const SOURCE: &str = include_str!("first.yaml");
/// Says that the object is kept as it is here, until somebody sets it to "false".
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// The FlowSchemas and the PriorityLevelConfigurations.
pub fn objects() -> (Vec<Value>, Vec<Value>) {
    let documents = yaml::documents(SOURCE.as_bytes()).expect("the schemas are part of the program and tested");
    let (schemas, levels): (Vec<Value>, Vec<Value>) =
        documents.into_iter().partition(|document| document["level"].is_string());
    (schemas.iter().map(schema).collect(), levels.iter().map(level).collect())
}

fn metadata(document: &Value) -> Value {
    json!({"name": document["name"], "annotations": {AUTOUPDATE: "true"}})
}

fn level(document: &Value) -> Value {
    json!({"metadata": metadata(document), "spec": document["spec"]})
}

fn schema(document: &Value) -> Value {
    let subjects = document["to"].as_array().into_iter().flatten().map(|subject| {
        let word = subject.as_str().unwrap_or_default();
        match word.split_once('=') {
            Some(("user", name)) => json!({"kind": "User", "user": {"name": name}}),
            Some(("group", name)) => json!({"kind": "Group", "group": {"name": name}}),
            _ => json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system",
                "name": word.strip_prefix("account=").unwrap_or(word)}}),
        }
    });
    let mut rule = json!({"subjects": subjects.collect::<Vec<_>>()});
    for part in ["resourceRules", "nonResourceRules"] {
        if !document[part].is_null() {
            rule[part] = document[part].clone();
        }
    }
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": document["level"]},
        "matchingPrecedence": document["precedence"],
        "rules": [rule],
    });
    if !document["by"].is_null() {
        spec["distinguisherMethod"] = json!({"type": document["by"]});
    }
    json!({"metadata": metadata(document), "spec": spec})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kind;
    use crate::kinds::flow_schema::FlowSchema;
    use crate::kinds::priority_level_configuration::PriorityLevelConfiguration;

    #[test]
    fn what_a_cluster_begins_with_is_valid() {
        let (schemas, levels) = objects();
        assert_eq!((schemas.len(), levels.len()), (13, 8));
        let all = schemas.into_iter().map(|object| (&FlowSchema as &dyn Kind, object));
        let all = all.chain(levels.into_iter().map(|object| (&PriorityLevelConfiguration as &dyn Kind, object)));
        for (kind, mut object) in all {
            kind.default(&mut object);
            let errors = kind.validate(&object);
            assert!(errors.is_empty(), "{}: {errors:?}", object["metadata"]["name"]);
        }
    }
}

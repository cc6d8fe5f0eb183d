use serde_json::{Value, json};

use super::*;
use crate::kinds::schema::lookup;

fn run(name: &str, mut value: Value) -> (Value, Vec<String>, Result<(), String>) {
    let mut strict = Vec::new();
    let answer = conform(lookup(name).unwrap(), &mut value, &mut strict).map_err(|error| error.to_string());
    (value, strict, answer)
}

const POD: &str = "io.k8s.api.core.v1.Pod";
const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";
const CONFIG_MAP: &str = "io.k8s.api.core.v1.ConfigMap";

#[test]
fn the_decoders_words_for_wrong_types() {
    for (name, value, wanted) in [
        (
            CONFIG_MAP,
            json!({"metadata": {"name": true}}),
            "bool into Go struct field ObjectMeta.metadata.name of type string",
        ),
        (CONFIG_MAP, json!({"data": {"a": 1}}), "number into Go struct field ConfigMap.data of type string"),
        (CONFIG_MAP, json!({"data": "text"}), "string into Go struct field ConfigMap.data of type map[string]string"),
        (POD, json!({"spec": "text"}), "string into Go struct field Pod.spec of type v1.PodSpec"),
        (
            POD,
            json!({"spec": {"containers": "text"}}),
            "string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            POD,
            json!({"spec": {"containers": [{"ports": [{"containerPort": "80"}]}]}}),
            "string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            DEPLOYMENT,
            json!({"spec": {"replicas": "two"}}),
            "string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            DEPLOYMENT,
            json!({"spec": {"replicas": 1.5}}),
            "number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            DEPLOYMENT,
            json!({"spec": {"replicas": 4294967296u64}}),
            "number 4294967296 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (POD, json!([]), "array into Go value of type v1.Pod"),
    ] {
        let (_, _, answer) = run(name, value);
        assert_eq!(answer.unwrap_err(), format!("json: cannot unmarshal {wanted}"));
    }
}

#[test]
fn the_words_of_a_fields_own_parser() {
    for (name, value, wanted) in [
        (
            POD,
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "abc"}}}]}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (CONFIG_MAP, json!({"binaryData": {"b": "not base64!"}}), "illegal base64 data at input byte 3"),
        (CONFIG_MAP, json!({"binaryData": {"b": "1"}}), "illegal base64 data at input byte 0"),
        (CONFIG_MAP, json!({"binaryData": {"b": "MTIzMQ="}}), "illegal base64 data at input byte 7"),
        ("io.k8s.api.core.v1.Secret", json!({"data": {"x": "***"}}), "illegal base64 data at input byte 0"),
        (
            CONFIG_MAP,
            json!({"metadata": {"creationTimestamp": 5}}),
            "json: cannot unmarshal number into Go value of type string",
        ),
    ] {
        let (_, _, answer) = run(name, value);
        assert_eq!(answer.unwrap_err(), wanted);
    }
}

#[test]
fn a_parsers_refusal_outranks_an_earlier_wrong_type() {
    let (_, _, answer) = run(POD, json!({"metadata": {"name": 1}, "status": {"startTime": "x"}}));
    assert!(answer.unwrap_err().starts_with("parsing time"));
}

#[test]
fn unknown_fields_are_dropped_and_named_by_path() {
    let (value, strict, answer) =
        run(POD, json!({"bogus": 1, "spec": {"containers": [{"name": "a"}, {"name": "b", "imge": "x"}], "zz": {}}}));
    assert_eq!(answer, Ok(()));
    let wanted =
        [r#"unknown field "bogus""#, r#"unknown field "spec.zz""#, r#"unknown field "spec.containers[1].imge""#];
    assert_eq!(strict, wanted);
    assert!(value.get("bogus").is_none());
}

#[test]
fn values_are_written_as_go_writes_them() {
    let (value, _, answer) = run(
        DEPLOYMENT,
        json!({
            "metadata": {"name": "d", "labels": {}, "creationTimestamp": null},
            "spec": {
                "replicas": 0, "paused": false, "minReadySeconds": 0,
                "template": {"spec": {
                    "hostNetwork": false, "securityContext": {}, "nodeSelector": null,
                    "containers": [{"name": "c", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}],
                    "volumes": [{"name": "v", "emptyDir": {}}],
                }},
            },
        }),
    );
    assert_eq!(answer, Ok(()));
    let wanted = json!({
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 0, "selector": null, "strategy": {},
            "template": {
                "metadata": {},
                "spec": {
                    "securityContext": {},
                    "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}],
                    "volumes": [{"name": "v", "emptyDir": {}}],
                },
            },
        },
        "status": {},
    });
    assert_eq!(value, wanted);
}

#[test]
fn times_by_value_are_written_as_null() {
    let (value, ..) = run(POD, json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
    let wanted = json!({"type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": null});
    assert_eq!(value.pointer("/status/conditions/0"), Some(&wanted));
}

#[test]
fn null_elements_become_zero_values() {
    let (value, ..) = run(CONFIG_MAP, json!({"data": {"a": null}}));
    assert_eq!(value["data"], json!({"a": ""}));
    let (value, ..) = run(POD, json!({"metadata": {"finalizers": [null]}}));
    assert_eq!(value["metadata"]["finalizers"], json!([""]));
}

#[test]
fn conforming_twice_changes_nothing_for_every_type() {
    for ty in crate::kinds::schema::types() {
        let mut once = json!({});
        conform(ty, &mut once, &mut Vec::new()).unwrap();
        let mut twice = once.clone();
        conform(ty, &mut twice, &mut Vec::new()).unwrap();
        assert_eq!(once, twice, "{}", ty.name);
    }
}

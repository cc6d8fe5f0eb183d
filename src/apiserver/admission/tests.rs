//! The plugins, each by what it does to a pod or refuses.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::apiserver::allocate::Allocator;
use crate::kinds::Kind;
use crate::kinds::ingress::Ingress;
use crate::kinds::ingress_class::IngressClass;
use crate::kinds::namespace::Namespace;
use crate::kinds::node::Node;
use crate::kinds::pod::Pod;
use crate::kinds::runtime_class::RuntimeClass;
use crate::kinds::service_account::ServiceAccount;
use crate::kinds::service_cidr::Ranges;
use crate::store::MemoryStore;

fn admit_own(registry: &Registry, place: Place<'_>, operation: Operation, object: &mut Value) -> Result<(), ApiError> {
    admit(&Request { registry, place, operation, old: None, author: &Author::own() }, object)
}

async fn registry() -> Registry {
    let store = Arc::new(MemoryStore::new());
    let ranges = Ranges { services: "127.96.0.0/16".parse().expect("a CIDR"), pods: None };
    let registry = Registry::new(store.clone(), Allocator::new(ranges, 30000..=32767, store));
    let objects: [(&'static dyn Kind, &str, Value); 3] = [
        (&Namespace, "", json!({"metadata": {"name": "shop"}})),
        (&ServiceAccount, "shop", json!({"metadata": {"name": "default"}})),
        (
            &RuntimeClass,
            "",
            json!({
                "metadata": {"name": "heavy"}, "handler": "h", "overhead": {"podFixed": {"cpu": "1"}},
                "scheduling": {"nodeSelector": {"kind": "big"}},
            }),
        ),
    ];
    for (kind, namespace, object) in objects {
        registry.create(kind, namespace, object, &Author::own()).await.expect("made");
    }
    registry
}

fn admitted(registry: &Registry, spec: Value) -> Result<Value, String> {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
    let place = Place { kind: &Pod, namespace: "shop", name: "p" };
    let result = admit_own(registry, place, Operation::Create, &mut pod);
    result.map(|()| pod).map_err(|error| error.message().to_owned())
}

#[tokio::test]
async fn a_pod_gets_its_account_token_tolerations_and_priority() {
    let registry = registry().await;
    let pod = admitted(&registry, json!({"containers": [{"name": "c"}]})).expect("admitted");
    let spec = &pod["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["priority"]), (&json!("default"), &json!(0)));
    assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(2));
    assert_eq!(spec["volumes"][0]["name"], spec["containers"][0]["volumeMounts"][0]["name"]);
    assert!(spec.get("initContainers").is_none(), "nothing is invented");
}

#[tokio::test]
async fn who_wants_no_token_gets_none() {
    let registry = registry().await;
    let spec = json!({"automountServiceAccountToken": false, "containers": [{"name": "c"}]});
    let pod = admitted(&registry, spec).expect("admitted");
    assert!(pod["spec"].get("volumes").is_none());
}

#[tokio::test]
async fn what_is_not_there_is_refused_by_name() {
    let registry = registry().await;
    let cases = [
        ("serviceAccountName", "x", "error looking up service account shop/x: serviceaccount \"x\" not found"),
        ("runtimeClassName", "x", "pod rejected: RuntimeClass \"x\" not found"),
        ("priorityClassName", "x", "no PriorityClass with name x was found"),
    ];
    for (field, value, why) in cases {
        let refusal = admitted(&registry, json!({field: value, "containers": []})).err();
        assert_eq!(refusal, Some(format!("pods \"p\" is forbidden: {why}")));
    }
}

#[tokio::test]
async fn a_runtime_class_brings_its_overhead_and_place() {
    let registry = registry().await;
    let pod = admitted(&registry, json!({"runtimeClassName": "heavy", "containers": []})).expect("admitted");
    assert_eq!(pod["spec"]["overhead"], json!({"cpu": "1"}));
    assert_eq!(pod["spec"]["nodeSelector"], json!({"kind": "big"}));
    let clash = json!({"runtimeClassName": "heavy", "nodeSelector": {"kind": "small"}, "containers": []});
    assert!(admitted(&registry, clash).is_err_and(|why| why.contains("conflict")));
}

#[tokio::test]
async fn an_ingress_without_a_class_gets_the_newest_default() {
    let registry = registry().await;
    let ingress = |metadata: Value, spec: Value| {
        let mut object = json!({"metadata": metadata, "spec": spec});
        let place = Place { kind: &Ingress, namespace: "shop", name: "i" };
        admit_own(&registry, place, Operation::Create, &mut object).expect("admitted");
        object["spec"]["ingressClassName"].clone()
    };
    assert_eq!(ingress(json!({}), json!({})), Value::Null, "there is no default yet");
    let class = |name: &str, default: &str| {
        let annotations = json!({"ingressclass.kubernetes.io/is-default-class": default});
        json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"controller": "x.example/y"}})
    };
    for object in [class("a", "false"), class("b", "true"), class("c", "true")] {
        registry.create(&IngressClass, "", object, &Author::own()).await.expect("made");
    }
    assert_eq!(ingress(json!({}), json!({})), "b");
    assert_eq!(ingress(json!({}), json!({"ingressClassName": "a"})), "a");
    let old = json!({"annotations": {"kubernetes.io/ingress.class": "nginx"}});
    assert_eq!(ingress(old, json!({})), Value::Null);
}

#[tokio::test]
async fn a_new_node_is_tainted_once() {
    let registry = registry().await;
    let place = Place { kind: &Node, namespace: "", name: "n" };
    let mut node = json!({"metadata": {"name": "n"}});
    for _ in 0..2 {
        admit_own(&registry, place, Operation::Create, &mut node).expect("admitted");
    }
    assert_eq!(node["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
}

#[tokio::test]
async fn namespaces_guard_their_door() {
    let registry = registry().await;
    let nowhere = Place { kind: &Pod, namespace: "none", name: "p" };
    let error = admit_own(&registry, nowhere, Operation::Create, &mut json!({})).err();
    assert_eq!(error.map(|e| e.message().to_owned()).as_deref(), Some("namespaces \"none\" not found"));
    let immortal = Place { kind: &Namespace, namespace: "", name: "default" };
    assert!(admit_own(&registry, immortal, Operation::Delete, &mut Value::Null).is_err());
}

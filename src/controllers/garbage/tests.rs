//! The graph's decisions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::graph::{Decision, Graph, Standing};
use crate::reconcile::{Action, ResourceType, Write};

fn kind(kind: &'static str) -> Arc<ResourceType> {
    Arc::new(ResourceType { group: "".into(), version: "v1".into(), plural: "things".into(), kind: kind.into() })
}

fn meta(uid: &str, owners: &[&str], change: Value) -> ObjectMeta {
    let owners: Vec<Value> = owners
        .iter()
        .map(|o| json!({"apiVersion": "v1", "kind": "Thing", "name": o, "uid": o, "blockOwnerDeletion": true}))
        .collect();
    let mut object =
        json!({"name": uid, "namespace": "ns", "uid": uid, "resourceVersion": "5", "ownerReferences": owners});
    json_patch::merge(&mut object, &change);
    serde_json::from_value(object).expect("metadata")
}

fn going(finalizer: &str) -> Value {
    json!({"resourceVersion": "6", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer]})
}

fn graph(objects: &[ObjectMeta]) -> Graph {
    let mut graph = Graph::default();
    objects.iter().for_each(|meta| drop(graph.seen(&kind("Thing"), meta)));
    graph
}

fn decide(graph: &Graph, uid: &str, absent: &[&str]) -> Decision {
    let asked: HashMap<String, Standing> = absent.iter().map(|uid| ((*uid).to_owned(), Standing::Absent)).collect();
    graph.decide(uid, &asked)
}

fn writes(decision: Decision) -> Vec<Write> {
    match decision {
        Decision::Write(writes) => writes,
        other => panic!("{other:?}"),
    }
}

fn propagation(write: &Write) -> Option<&'static str> {
    match &write.action {
        Action::Delete { propagation, .. } => *propagation,
        other => panic!("{other:?}"),
    }
}

fn metadata(write: &Write) -> &Value {
    match &write.action {
        Action::Patch { body, .. } => &body["metadata"],
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_dependent_goes_when_its_only_owner_is_gone() {
    let mut graph = graph(&[meta("o", &[], json!({})), meta("d", &["o"], json!({}))]);
    assert_eq!(decide(&graph, "d", &[]), Decision::Nothing);
    assert_eq!(graph.ended("o"), ["d"]);
    assert_eq!(graph.strangers("d").len(), 1, "the owner's absence is to be proved");
    assert_eq!(decide(&graph, "d", &[]), Decision::Nothing, "nothing without a proof");
    let deletion = writes(decide(&graph, "d", &["o"]));
    assert_eq!(propagation(&deletion[0]), Some("Background"));
}

#[test]
fn of_two_owners_the_one_that_is_gone_is_struck_out() {
    let mut graph = graph(&[meta("a", &[], json!({})), meta("b", &[], json!({})), meta("d", &["a", "b"], json!({}))]);
    graph.ended("a");
    let patch = writes(decide(&graph, "d", &["a"]));
    let left = metadata(&patch[0])["ownerReferences"].as_array().cloned().unwrap_or_default();
    assert_eq!((left.len(), &left[0]["uid"]), (1, &json!("b")));
    assert_eq!(metadata(&patch[0])["resourceVersion"], "5");
}

#[test]
fn orphaning_frees_the_dependents_before_the_owner_goes() {
    let mut graph = graph(&[meta("o", &[], json!({})), meta("d", &["o"], json!({}))]);
    assert_eq!(graph.seen(&kind("Thing"), &meta("o", &[], going("orphan"))), ["o"]);
    let both = writes(decide(&graph, "o", &[]));
    assert_eq!((&*both[0].key.name, &metadata(&both[0])["ownerReferences"]), ("d", &Value::Null));
    assert_eq!((&*both[1].key.name, &metadata(&both[1])["finalizers"]), ("o", &Value::Null));
}

#[test]
fn foreground_deletion_waits_for_blocking_dependents_all_the_way_down() {
    let mut graph = graph(&[meta("o", &[], json!({})), meta("d", &["o"], json!({})), meta("leaf", &["d"], json!({}))]);
    graph.seen(&kind("Thing"), &meta("o", &[], going("foregroundDeletion")));
    assert_eq!(decide(&graph, "o", &[]), Decision::Look(vec!["d".into()]));
    assert_eq!(propagation(&writes(decide(&graph, "d", &[]))[0]), Some("Foreground"));
    graph.seen(&kind("Thing"), &meta("d", &["o"], going("foregroundDeletion")));
    assert_eq!(decide(&graph, "d", &[]), Decision::Look(vec!["leaf".into()]));
    assert_eq!(propagation(&writes(decide(&graph, "leaf", &[]))[0]), Some("Background"));
    assert_eq!(graph.ended("leaf"), ["d"], "who waits is looked at");
    assert_eq!(metadata(&writes(decide(&graph, "d", &[]))[0])["finalizers"], Value::Null);
    assert_eq!(graph.ended("d"), ["o"]);
    assert_eq!(metadata(&writes(decide(&graph, "o", &[]))[0])["finalizers"], Value::Null);
}

#[test]
fn a_uid_of_another_name_or_namespace_is_not_the_owner() {
    let other = meta("o", &[], json!({"namespace": "elsewhere"}));
    let graph = graph(&[other, meta("d", &["o"], json!({}))]);
    assert_eq!(graph.strangers("d").len(), 1);
    let cluster = meta("o", &[], json!({"namespace": null}));
    let graph = self::graph(&[cluster, meta("d", &["o"], json!({}))]);
    assert!(graph.strangers("d").is_empty(), "a cluster-scoped owner may own anything");
}

#[test]
fn what_a_fresh_list_lacks_is_gone() {
    let mut graph = graph(&[meta("o", &[], json!({})), meta("d", &["o"], json!({}))]);
    let listed = HashSet::from(["d".to_owned()]);
    assert_eq!(graph.retain(&kind("Thing"), &listed), ["d"]);
    assert_eq!(graph.retain(&kind("Other"), &HashSet::new()), Vec::<String>::new(), "lists are per kind");
}

#[test]
fn a_late_event_changes_nothing() {
    let mut graph = graph(&[meta("o", &[], json!({}))]);
    graph.seen(&kind("Thing"), &meta("d", &["o"], json!({"resourceVersion": "9"})));
    graph.seen(&kind("Thing"), &meta("d", &["x"], json!({"resourceVersion": "8"})));
    assert!(graph.strangers("d").is_empty());
}

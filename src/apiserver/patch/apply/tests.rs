use proptest::prelude::*;
use serde_json::{Map, json};

use super::compare::compare;
use super::set::Step;
use super::*;
use crate::kinds::schema::{Type, conform::conform, lookup};

fn ty(name: &str) -> &'static Type {
    lookup(&format!("io.k8s.api.{name}")).unwrap()
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, api_version: "v1", subresource: "", reset: &[&["status"]], now: "2026-01-01T00:00:00Z" }
}

fn empty(ty: &'static Type) -> Value {
    let mut object = json!({});
    conform(ty, &mut object, &mut Vec::new()).unwrap();
    object
}

/// Applies as a request would: what is made gets an identity.
fn run(kind: &str, live: &Value, config: Value, manager: &str, force: bool) -> Result<Value, ApplyError> {
    let ty = ty(kind);
    let live = if live.is_null() { empty(ty) } else { live.clone() };
    let mut new = apply(&ty.into(), &live, &config, &writer(manager), force)?;
    new["metadata"]["uid"] = "u".into();
    Ok(new)
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

/// `manager operation: fields`, one a manager.
fn owners(object: &Value) -> Vec<String> {
    let list = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    list.map(|entry| {
        let set = FieldSet::trusted(entry["fieldsV1"].clone());
        let fields: Vec<String> = set.paths().iter().map(|path| set::show(path)).collect();
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        format!("{} {}: {}", text("manager"), text("operation"), fields.join(" "))
    })
    .collect()
}

#[test]
fn a_field_goes_when_its_last_owner_lets_go() {
    let c = run("core.v1.ConfigMap", &Value::Null, config_map(json!({"a": "1", "b": "2"})), "one", false).unwrap();
    assert_eq!(owners(&c), ["one Apply: .data.a .data.b"]);
    let c = run("core.v1.ConfigMap", &c, config_map(json!({"a": "1", "c": "3"})), "two", false).unwrap();
    assert_eq!(owners(&c), ["one Apply: .data.a .data.b", "two Apply: .data.a .data.c"]);
    let c = run("core.v1.ConfigMap", &c, config_map(json!({})), "one", false).unwrap();
    assert_eq!(c["data"], json!({"a": "1", "c": "3"}));
    let c = run("core.v1.ConfigMap", &c, config_map(json!({})), "two", false).unwrap();
    assert!(c.get("data").is_none(), "{c}");
}

#[test]
fn what_another_manager_owns_is_a_conflict_unless_forced() {
    let c = run("core.v1.ConfigMap", &Value::Null, config_map(json!({"a": "1", "b": "2"})), "one", false).unwrap();
    let error = run("core.v1.ConfigMap", &c, config_map(json!({"a": "x", "b": "y"})), "two", false).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.a\n- .data.b");
    let c = run("core.v1.ConfigMap", &c, config_map(json!({"a": "x"})), "two", true).unwrap();
    assert_eq!(owners(&c), ["one Apply: .data.b", "two Apply: .data.a"]);
}

#[test]
fn an_update_takes_what_it_changes() {
    let ty = ty("core.v1.ConfigMap");
    let c = run("core.v1.ConfigMap", &Value::Null, config_map(json!({"a": "1", "b": "2"})), "one", false).unwrap();
    let mut new = c.clone();
    new["metadata"].as_object_mut().unwrap().remove("managedFields");
    new["data"] = json!({"a": "1", "b": "3", "z": "0"});
    track_update(ty, &c, &mut new, &writer("edit"));
    assert_eq!(owners(&new), ["one Apply: .data.a", "edit Update: .data.b .data.z"]);
    let error = run("core.v1.ConfigMap", &new, config_map(json!({"b": "2"})), "one", false).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"edit\" using v1: .data.b");
}

#[test]
fn the_list_of_managers_is_the_clients_to_write_or_clear() {
    let ty = ty("core.v1.ConfigMap");
    let c = run("core.v1.ConfigMap", &Value::Null, config_map(json!({"a": "1"})), "one", false).unwrap();
    for (sent, wanted) in [
        (json!([{}]), vec![]),
        (json!([]), vec!["one Apply: .data.a"]),
        (json!([{"manager": "x", "operation": "Fly", "apiVersion": "v1"}]), vec!["one Apply: .data.a"]),
        (
            json!([{"manager": "x", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}}}]),
            vec!["x Apply: .data.a"],
        ),
    ] {
        let mut new = c.clone();
        new["metadata"]["managedFields"] = sent;
        track_update(ty, &c, &mut new, &writer("edit"));
        assert_eq!(owners(&new), wanted);
    }
    // Once cleared, only an apply brings owners back.
    let mut cleared = c.clone();
    cleared["metadata"].as_object_mut().unwrap().remove("managedFields");
    let mut new = cleared.clone();
    new["data"]["b"] = "2".into();
    track_update(ty, &cleared, &mut new, &writer("edit"));
    assert!(owners(&new).is_empty());
    let c = run("core.v1.ConfigMap", &new, config_map(json!({"c": "3"})), "one", false).unwrap();
    assert_eq!(owners(&c), ["one Apply: .data.c", "before-first-apply Update: .data .data.a .data.b"]);
}

#[test]
fn a_created_object_is_owned_by_its_creator_but_for_what_nobody_owns() {
    let ty = ty("apps.v1.Deployment");
    let mut new = json!({"metadata": {"name": "web", "labels": {"a": "b"}}, "spec": {
        "replicas": 1, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": {"a": "b"}},
        "template": {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}},
    }, "status": {"replicas": 3}});
    conform(ty, &mut new, &mut Vec::new()).unwrap();
    track_update(ty, &empty(ty), &mut new, &writer("kubectl-create"));
    assert_eq!(
        new["metadata"]["managedFields"][0]["fieldsV1"],
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {
                "f:replicas": {}, "f:selector": {}, "f:strategy": {"f:type": {}},
                "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:name": {}, "f:resources": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                        ".": {}, "f:containerPort": {}, "f:protocol": {}}},
                }}}},
            },
        })
    );
}

#[test]
fn lists_merge_by_key_and_keep_an_order() {
    let pod = |containers: &[&str]| {
        let containers: Vec<Value> = containers.iter().map(|name| json!({"name": name})).collect();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}})
    };
    for (live, config, wanted) in [
        (vec!["a", "b"], vec!["c"], "abc"),
        (vec!["a", "b"], vec!["b", "a"], "ba"),
        (vec!["a", "b"], vec!["c", "b"], "acb"),
        (vec!["a", "b", "c"], vec!["c", "x", "a"], "bcxa"),
        (vec![], vec!["b", "a"], "ba"),
    ] {
        let live = if live.is_empty() {
            Value::Null
        } else {
            run("core.v1.Pod", &Value::Null, pod(&live), "one", false).unwrap()
        };
        let merged = run("core.v1.Pod", &live, pod(&config), "two", false).unwrap();
        let names: String =
            merged["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(names, wanted, "{config:?}");
    }
}

#[test]
fn configurations_that_do_not_fit_are_refused_in_upstreams_words() {
    for (kind, config, wanted) in [
        (
            "core.v1.ConfigMap",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "bogus": 1}),
            "failed to create typed patch object (/c; /v1, Kind=ConfigMap): .bogus: field not declared in schema",
        ),
        (
            "core.v1.Pod",
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "c"}, {"name": "c"}]}}),
            "failed to create typed patch object (/; /v1, Kind=Pod): .spec.containers: duplicate entries for key [name=\"c\"]",
        ),
        (
            "core.v1.Pod",
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"image": "c"}]}}),
            "failed to create typed patch object (/; /v1, Kind=Pod): .spec.containers: element 0: associative list with keys has an element that omits key field \"name\" (and doesn't have default value)",
        ),
        (
            "apps.v1.Deployment",
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": "two", "paused": []}}),
            "failed to create typed patch object (/; apps/v1, Kind=Deployment): errors:\n  .spec.paused: expected boolean, got &value.valueUnstructured{Value:[]}\n  .spec.replicas: expected numeric (int or float), got string",
        ),
        (
            "core.v1.ConfigMap",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"managedFields": []}}),
            "metadata.managedFields must be nil",
        ),
    ] {
        assert_eq!(run(kind, &Value::Null, config, "one", false).unwrap_err().to_string(), wanted);
    }
}

#[test]
fn kubectl_takes_over_what_it_applied_from_its_own_side() {
    let ty = ty("core.v1.ConfigMap");
    let mut c = config_map(json!({"a": "1", "b": "2"}));
    c["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": config_map(json!({"a": "1"})).to_string()});
    c["metadata"]["uid"] = "u".into();
    track_update(ty, &empty(ty), &mut c, &writer("kubectl-client-side-apply"));
    let own = run("core.v1.ConfigMap", &c, config_map(json!({"a": "9"})), "kubectl", false).unwrap();
    assert_eq!(own["data"]["a"], "9");
    let annotation =
        own["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(annotation).unwrap(), config_map(json!({"a": "9"})));
    // What the annotation does not name is somebody else's, and another manager has no such way.
    assert!(run("core.v1.ConfigMap", &c, config_map(json!({"b": "9"})), "kubectl", false).is_err());
    assert!(run("core.v1.ConfigMap", &c, config_map(json!({"a": "9"})), "flux", false).is_err());
}

#[test]
fn replicas_written_through_the_scale_are_owned_in_the_object() {
    let replicas = [Step::Field("spec"), Step::Field("replicas")];
    let deployment = json!([{"manager": "one", "operation": "Apply", "apiVersion": "apps/v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:paused": {}, "f:replicas": {}}}, "time": "2025-01-01T00:00:00Z"}]);
    let object = Managers::stored(deployment);
    let mut live = json!({"metadata": {"uid": "u"}, "spec": {"replicas": 1}});
    live["metadata"]["managedFields"] = scale::to_scale(&object, &replicas).into_value().unwrap();
    let mut new = json!({"metadata": {"uid": "u"}, "spec": {"replicas": 2}});
    let writer = Writer { api_version: "autoscaling/v1", subresource: "scale", ..writer("hpa") };
    track_update(ty("autoscaling.v1.Scale"), &live, &mut new, &writer);
    let after =
        scale::to_object(&object, Managers::stored(new["metadata"]["managedFields"].take()), &replicas, "apps/v1");
    let list = json!({"metadata": {"managedFields": after.into_value()}});
    assert_eq!(owners(&list), ["one Apply: .spec.paused", "hpa Update: .spec.replicas"]);
    assert_eq!(list["metadata"]["managedFields"][1]["apiVersion"], "apps/v1");
    assert_eq!(list["metadata"]["managedFields"][1]["subresource"], "scale");
}

#[test]
fn the_oldest_updaters_become_one() {
    let ty = ty("core.v1.ConfigMap");
    let mut object = config_map(json!({"k": "0"}));
    track_update(ty, &empty(ty), &mut object, &writer("first"));
    object["metadata"]["uid"] = "u".into();
    for n in 0..15 {
        let mut new = object.clone();
        new["data"][format!("k{n}")] = "v".into();
        let (name, now) = (format!("m{n}"), format!("2026-01-01T00:00:{n:02}Z"));
        track_update(ty, &object, &mut new, &Writer { now: &now, ..writer(&name) });
        object = new;
    }
    let owners = owners(&object);
    assert_eq!(owners.len(), 10, "{owners:?}");
    assert!(owners[0].starts_with("ancient-changes Update: .data .data.k .data.k0"), "{owners:?}");
}

#[test]
fn long_names_and_many_fields_are_no_way_to_keep_a_server_busy() {
    let ty = ty("core.v1.ConfigMap");
    // Any JSON is allowed in here, so names may be long and many.
    let revision = lookup("io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry").unwrap();
    let many: Map<String, Value> = (0..20_000).map(|n| (format!("k{n}"), json!("1"))).collect();
    let deep = json!({"fieldsV1": {"x".repeat(200_000): {"y".repeat(200_000): many}}});
    assert!(check(revision, &deep).is_ok());
    let fields = fields_of(revision, &deep).unwrap();
    assert!(!compare(revision, &json!({"fieldsV1": {}}), &deep).unwrap().added.is_empty());
    assert_eq!(merge::merge(revision, &deep, &deep), Ok(deep));
    assert!(Conflicts::new(&[("m".to_owned(), fields)]).more > 19_000);
    let faults: Map<String, Value> = (0..200_000).map(|n| (format!("k{n}"), json!(1))).collect();
    let faults = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": faults});
    assert!(check(ty, &faults).unwrap_err().len() < 256 << 10);
}

/// Configurations of a pod that exercise maps, sets, keyed lists and atoms.
fn configs() -> impl Strategy<Value = Value> {
    let word = prop_oneof![Just("a"), Just("b"), Just("c")];
    let labels = prop::collection::btree_map(word.clone(), word.clone(), 0..3);
    let containers = prop::collection::btree_map(word.clone(), prop::option::of(word.clone()), 0..3);
    let finalizers = prop::collection::btree_set(word.clone(), 0..3);
    let node_selector = prop::option::of(prop::collection::btree_map(word.clone(), word, 1..3));
    (labels, containers, finalizers, node_selector).prop_map(|(labels, containers, finalizers, node_selector)| {
        let containers: Vec<Value> = containers
            .into_iter()
            .map(|(name, image)| match image {
                Some(image) => json!({"name": name, "image": image}),
                None => json!({"name": name}),
            })
            .collect();
        let mut config = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}});
        // An empty map is not written, so to apply one is news every time; upstream has it so too.
        if !labels.is_empty() {
            config["metadata"]["labels"] = json!(labels);
        }
        config["metadata"]["finalizers"] = json!(finalizers);
        config["spec"]["containers"] = json!(containers);
        if let Some(selector) = node_selector {
            config["spec"]["nodeSelector"] = json!(selector);
        }
        config
    })
}

/// A configuration that asserts something in any case: an object without managers starts anew.
fn signed(mut config: Value, manager: &str) -> Value {
    config["metadata"]["annotations"] = json!({manager: "was here"});
    config
}

/// The leaves of an object, as the fields that a set would name.
fn leaves(object: &Value) -> std::collections::BTreeSet<String> {
    let mut plain = object.clone();
    plain["metadata"].as_object_mut().unwrap().remove("managedFields");
    let mut set = fields_of(ty("core.v1.Pod"), &plain).unwrap();
    strip(&mut set);
    set.paths().iter().map(|path| set::show(path)).collect()
}

proptest! {
    #[test]
    fn applying_again_changes_nothing(first in configs(), second in configs()) {
        let second = signed(second, "two");
        let one = run("core.v1.Pod", &Value::Null, first, "one", true).unwrap();
        let two = run("core.v1.Pod", &one, second.clone(), "two", true).unwrap();
        prop_assert_eq!(&run("core.v1.Pod", &two, second, "two", false).unwrap(), &two);
    }

    #[test]
    fn only_what_somebody_applies_is_there(all in prop::collection::vec((configs(), 0usize..3), 1..6)) {
        let names = ["one", "two", "three"];
        let mut object = Value::Null;
        let mut last: [Option<Value>; 3] = [None, None, None];
        for (config, who) in all {
            let config = signed(config, names[who]);
            object = run("core.v1.Pod", &object, config.clone(), names[who], true).unwrap();
            last[who] = Some(config);
        }
        // Every field comes from somebody's last configuration.
        let asserted: std::collections::BTreeSet<String> =
            last.iter().flatten().flat_map(leaves).collect();
        let here = leaves(&object);
        let own: std::collections::BTreeSet<String> = leaves(&empty(ty("core.v1.Pod")));
        // A container that a later one forced out of nobody's hands still needs its name and resources.
        let extra: Vec<_> = here.iter().filter(|f| !asserted.contains(*f) && !own.contains(*f) && !f.ends_with(".resources")).collect();
        prop_assert!(extra.is_empty(), "{extra:?} in {object}");
        // And everything that has an owner is there.
        for owner in owners(&object) {
            for field in owner.split(": ").nth(1).unwrap().split(' ') {
                prop_assert!(here.contains(field) || field.is_empty(), "{field} of {owner} is not in {object}");
            }
        }
    }

    #[test]
    fn the_order_of_those_who_share_nothing_does_not_matter(a in configs(), b in configs()) {
        let mut b = b;
        // Rename all that b asserts, so that the two have nothing in common.
        b = serde_json::from_str(&b.to_string().replace("\"a\"", "\"x\"").replace("\"b\"", "\"y\"").replace("\"c\"", "\"z\"")).unwrap();
        b["spec"].as_object_mut().unwrap().remove("nodeSelector");
        let (a, b) = (signed(a, "one"), signed(b, "two"));
        let both = |first: &Value, second: &Value, names: [&str; 2]| {
            let one = run("core.v1.Pod", &Value::Null, first.clone(), names[0], false).unwrap();
            run("core.v1.Pod", &one, second.clone(), names[1], false).unwrap()
        };
        let (left, right) = (both(&a, &b, ["one", "two"]), both(&b, &a, ["two", "one"]));
        prop_assert_eq!(owners(&left), owners(&right));
        prop_assert_eq!(leaves(&left), leaves(&right));
    }

    #[test]
    fn any_list_of_managers_is_safe(text in "[\\[\\]{}\":,fkvi.a-c0-9]{0,60}", operation in "Apply|Update|x") {
        let set = serde_json::from_str(&text).unwrap_or(Value::from(text));
        let sent = json!([{"manager": "m", "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": set}]);
        let live = config_map(json!({"a": "1"}));
        let mut new = live.clone();
        new["metadata"]["managedFields"] = sent;
        track_update(ty("core.v1.ConfigMap"), &live, &mut new, &writer("w"));
    }
}

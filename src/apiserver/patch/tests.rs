use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::kinds::KINDS;
use crate::kinds::schema::conform::conform;

fn info(kind: &str) -> &'static KindInfo {
    KINDS.iter().map(|kind| kind.info()).find(|info| info.kind == kind).unwrap()
}

fn strategic(kind: &str, current: Value, patch: Value) -> Result<Value, PatchError> {
    let patched =
        apply(info(kind), &current, PatchType::Strategic, patch.to_string().as_bytes(), FieldValidation::Strict)?;
    Ok(patched.object)
}

/// Patches the containers of a pod and shows them as `name=image` in order.
fn containers(patch: Value) -> Result<String, PatchError> {
    let current = json!({"spec": {"containers": [
        {"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"},
    ]}});
    let object = strategic("Pod", current, json!({"spec": patch}))?;
    let list = object["spec"]["containers"].as_array().unwrap().iter();
    Ok(list
        .map(|c| format!("{}={}", c["name"].as_str().unwrap(), c["image"].as_str().unwrap_or("-")))
        .collect::<Vec<_>>()
        .join(" "))
}

#[test]
fn lists_of_objects_merge_by_key() {
    for (patch, wanted) in [
        (json!({"containers": [{"name": "b", "image": "9"}]}), "a=1 b=9 c=3"),
        (json!({"containers": [{"name": "z", "image": "9"}]}), "z=9 a=1 b=2 c=3"),
        (json!({"containers": [{"name": "b"}, {"name": "z", "image": "9"}]}), "a=1 b=2 z=9 c=3"),
        (json!({"containers": [{"name": "a", "$patch": "delete"}]}), "b=2 c=3"),
        (json!({"containers": [{"name": "z", "image": "9"}, {"$patch": "replace"}]}), "z=9"),
        (json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}), "b=2 c=3 a=1"),
        (
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}], "containers": [{"name": "c", "image": "9"}]}),
            "c=9 a=1 b=2",
        ),
        (json!({"containers": [{"name": "b", "$retainKeys": ["name"]}]}), "a=1 b=- c=3"),
    ] {
        assert_eq!(containers(patch.clone()).as_deref(), Ok(wanted), "{patch}");
    }
}

#[test]
fn contradictions_are_named_in_upstreams_words() {
    for (patch, wanted) in [
        (json!({"containers": [{"image": "x"}]}), "map: map[image:x] does not contain declared merge key: name"),
        (json!({"$patch": "destroy"}), "unknown patch type: destroy in map: map[$patch:destroy]"),
        (json!({"$retainKeys": "x"}), "invalid patch format of retainKeys"),
        (json!({"$retainKeys": ["a"], "hostNetwork": true}), "invalid patch format of retainKeys"),
        (json!({"$setElementOrder": []}), "invalid patch format of setElementOrder list"),
        (
            json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "z"}]}),
            "The order in patch list:\n[map[name:z]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n",
        ),
    ] {
        assert_eq!(containers(patch).unwrap_err().to_string(), wanted);
    }
    let error = strategic("Deployment", json!({"spec": {}}), json!({"spec": {"replicas": "two"}})).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#" "" is invalid: patch: Invalid value: "map[spec:map[replicas:two]]": unrecognized type: int32"#
    );
}

#[test]
fn sets_of_scalars() {
    let current = || json!({"metadata": {"finalizers": ["x/a", "x/b", "x/c"]}});
    for (patch, wanted) in [
        (json!({"finalizers": ["x/d"]}), json!(["x/d", "x/a", "x/b", "x/c"])),
        (json!({"$deleteFromPrimitiveList/finalizers": ["x/b"]}), json!(["x/a", "x/c"])),
        (json!({"$setElementOrder/finalizers": ["x/c", "x/a"], "finalizers": ["x/c"]}), json!(["x/b", "x/c", "x/a"])),
        (json!({"finalizers": null}), Value::Null),
    ] {
        let object = strategic("ConfigMap", current(), json!({"metadata": patch})).unwrap();
        assert_eq!(object["metadata"]["finalizers"], wanted, "{patch}");
    }
}

#[test]
fn maps_merge_replace_and_delete() {
    let current = || json!({"data": {"a": "1", "b": "2"}});
    for (patch, wanted) in [
        (json!({"data": {"a": null, "c": "3"}}), json!({"b": "2", "c": "3"})),
        (json!({"data": {"$patch": "replace", "z": "y"}}), json!({"z": "y"})),
        (json!({"data": {"$patch": "delete"}}), Value::Null),
    ] {
        assert_eq!(strategic("ConfigMap", current(), patch).unwrap()["data"], wanted);
    }
}

#[test]
fn content_types() {
    let of = |text: &str, strategic| PatchType::from_content_type(Some(text), strategic);
    assert_eq!(of("application/json-patch+json; charset=utf-8", true), Ok(PatchType::Json));
    assert_eq!(of("application/strategic-merge-patch+json", true), Ok(PatchType::Strategic));
    assert_eq!(
        of("application/strategic-merge-patch+json", false).unwrap_err().to_string(),
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    );
    assert_eq!(of("application/json", true).unwrap_err().to_string(), "415: Unsupported Media Type");
    assert!(is_apply(Some("application/apply-patch+yaml; charset=utf-8")) && !is_apply(Some("application/yaml")));
}

#[test]
fn the_result_is_typed_like_a_body() {
    let current = json!({"data": {"a": "1"}});
    let run = |patch_type, patch: Value, validation| {
        apply(info("ConfigMap"), &current, patch_type, patch.to_string().as_bytes(), validation)
    };
    let patched = run(PatchType::Merge, json!({"bogus": {"x": 1}}), FieldValidation::Warn).unwrap();
    assert_eq!(patched.warnings, [r#"unknown field "bogus""#]);
    let error = run(PatchType::Merge, json!({"data": "text"}), FieldValidation::Warn).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with(": json: cannot unmarshal string into Go struct field ConfigMap.data of type map[string]string")
    );
    assert_eq!((error.code(), error.reason(), error.has_details()), (422, "Invalid", true));
    let error = run(PatchType::Merge, json!({"bogus": 1}), FieldValidation::Strict).unwrap_err();
    assert!(error.to_string().ends_with(r#"strict decoding error: unknown field "bogus""#), "{error}");
    let error = run(PatchType::Json, json!({"a": "b"}), FieldValidation::Warn).unwrap_err();
    assert_eq!(
        error.to_string(),
        "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
    );
    assert!(run(PatchType::Merge, json!({"kind": "Pod"}), FieldValidation::Warn).is_err());
    let error = apply(info("ConfigMap"), &current, PatchType::Strategic, b"[]", FieldValidation::Warn).unwrap_err();
    assert_eq!(error.to_string(), "json: cannot unmarshal array into Go value of type map[string]interface {}");
}

/// A pod's containers as a patch or an object may hold them, under few names so that they meet.
fn some_containers() -> impl Strategy<Value = Vec<Value>> {
    let container = ("[a-d]", prop::option::of("[x-z]")).prop_map(|(name, image)| match image {
        Some(image) => json!({"name": name, "image": image}),
        None => json!({"name": name}),
    });
    prop::collection::vec(container, 1..5).prop_map(|mut list| {
        let mut seen = std::collections::HashSet::new();
        list.retain(|c| seen.insert(c["name"].as_str().unwrap_or_default().to_owned()));
        list
    })
}

proptest! {
    #[test]
    fn an_empty_patch_changes_nothing(list in some_containers()) {
        let current = json!({"spec": {"containers": list}});
        let before = strategic("Pod", current.clone(), json!({})).unwrap();
        prop_assert_eq!(strategic("Pod", before.clone(), json!({})).unwrap(), before);
    }

    #[test]
    fn a_patch_applies_twice_like_once(list in some_containers(), patch in some_containers()) {
        let patch = json!({"spec": {"containers": patch}});
        let once = strategic("Pod", json!({"spec": {"containers": list}}), patch.clone()).unwrap();
        prop_assert_eq!(strategic("Pod", once.clone(), patch).unwrap(), once);
    }

    #[test]
    fn merging_loses_no_element_and_doubles_none(list in some_containers(), patch in some_containers()) {
        let names = |list: &[Value]| list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect::<std::collections::BTreeSet<_>>();
        let object = strategic("Pod", json!({"spec": {"containers": &list}}), json!({"spec": {"containers": &patch}})).unwrap();
        let merged = object["spec"]["containers"].as_array().unwrap();
        let all: std::collections::BTreeSet<_> = names(&list).union(&names(&patch)).cloned().collect();
        prop_assert_eq!(merged.len(), all.len());
        prop_assert_eq!(names(merged), all);
    }

    #[test]
    fn the_given_order_is_the_order(list in some_containers(), by in some_containers()) {
        let order: Vec<_> = by.iter().map(|c| json!({"name": c["name"]})).collect();
        let object = strategic("Pod", json!({"spec": {"containers": &list}}), json!({"spec": {"$setElementOrder/containers": order}})).unwrap();
        let place = |name: &Value| by.iter().position(|c| c["name"] == *name);
        let places: Vec<_> = object["spec"]["containers"].as_array().unwrap().iter().filter_map(|c| place(&c["name"])).collect();
        prop_assert!(places.is_sorted());
    }

    #[test]
    fn any_text_is_safe(patch in "[\\[\\]{}\":,$a-e/0-9 ]{0,60}") {
        let current = json!({"data": {"a": "1"}});
        for patch_type in [PatchType::Json, PatchType::Merge, PatchType::Strategic] {
            let _ = apply(info("ConfigMap"), &current, patch_type, patch.as_bytes(), FieldValidation::Warn);
        }
    }
}

/// The objects of recorded answers, whatever their kind: `metadata` but the name left out, since the
/// recording has placeholders there.
fn recorded_objects() -> Vec<(&'static KindInfo, Value)> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/golden/defaulting");
    let mut objects = Vec::new();
    for file in std::fs::read_dir(dir).unwrap() {
        let steps: Value = serde_json::from_slice(&std::fs::read(file.unwrap().path()).unwrap()).unwrap();
        for mut body in steps.as_array().unwrap().iter().map(|step| step["body"].clone()) {
            let of = |info: &&KindInfo| {
                body["kind"] == info.kind && body["apiVersion"] == join_group(info.group, info.version).as_str()
            };
            let Some(info) = KINDS.iter().map(|kind| kind.info()).find(of) else { continue };
            body["metadata"] = json!({"name": "one"});
            let mut typed = body.clone();
            let expected = Expected::of(info).unwrap();
            // Some have placeholders in their spec, too.
            if conform(expected.model.table().unwrap(), &mut typed, &mut Vec::new()).is_ok() {
                objects.push((info, body));
            }
        }
    }
    objects
}

#[test]
fn every_recorded_object_can_be_applied_as_it_is_and_let_go() {
    let objects = recorded_objects();
    assert!(objects.len() > 20, "only {}", objects.len());
    for (info, config) in objects {
        let ty = Expected::of(info).unwrap().model.table().unwrap();
        let api_version = join_group(info.group, info.version);
        let writer = |manager| super::apply::Writer {
            manager,
            api_version: &api_version,
            subresource: "",
            reset: &[&["status"]],
            now: "2026-01-01T00:00:00Z",
        };
        let mut nothing = json!({});
        conform(ty, &mut nothing, &mut Vec::new()).unwrap();
        let mut live = config.clone();
        conform(ty, &mut live, &mut Vec::new()).unwrap();
        super::apply::track_update(ty, &nothing, &mut live, &writer("one"));
        live["metadata"]["uid"] = "u".into();
        let plain = |object: &Value| {
            let mut object = object.clone();
            object["metadata"].as_object_mut().unwrap().remove("managedFields");
            object
        };
        let both = super::apply::apply(&ty.into(), &live, &config, &writer("two"), false);
        let both = both.unwrap_or_else(|error| panic!("{} cannot be applied: {error}", info.kind));
        assert_eq!(plain(&both), plain(&live), "{}", info.kind);
        let bare = json!({"apiVersion": api_version, "kind": info.kind, "metadata": {"name": "one"}});
        let one = super::apply::apply(&ty.into(), &both, &bare, &writer("two"), false).unwrap();
        assert_eq!(one, live, "{}: the other still owns all of it", info.kind);
    }
}

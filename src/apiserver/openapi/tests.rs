use serde_json::Value;

use super::*;

fn value(document: &Document) -> Value {
    serde_json::from_slice(&document.body).unwrap()
}

fn of(info: &KindInfo) -> Value {
    value(&group_version(&Table::default(), &path_of(info.group, info.version)).unwrap())
}

/// Calls `visit` with every `$ref` of a document.
fn references(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref") {
                visit(target);
            }
            map.values().for_each(|value| references(value, visit));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, visit)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let mut all: Vec<Value> = documents().values().map(value).collect();
    all.push(value(&v2(&Table::default())));
    for document in all {
        references(&document, &mut |target| {
            let pointer = target.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some_and(Value::is_object), "{target}");
        });
    }
}

#[test]
fn every_kind_is_described_and_patchable() {
    for kind in KINDS {
        let info = kind.info();
        let document = of(info);
        let schema = &document["components"]["schemas"][info.schema];
        assert!(schema["description"].is_string(), "{} has no description", info.schema);
        let gvk = &schema["x-kubernetes-group-version-kind"][0];
        assert_eq!((&gvk["group"], &gvk["kind"]), (&Value::from(info.group), &Value::from(info.kind)));
        let patch = document["paths"].as_object().unwrap().values().map(|path| &path["patch"]);
        let own = patch.into_iter().find(|patch| patch["x-kubernetes-group-version-kind"]["kind"] == info.kind);
        let own = own.unwrap_or_else(|| panic!("{} cannot be patched", info.kind));
        let parameters = own["parameters"].as_array().unwrap();
        for name in ["fieldValidation", "dryRun"] {
            assert!(parameters.iter().any(|parameter| parameter["name"] == name), "{} {name}", info.kind);
        }
        assert!(own["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    }
}

#[test]
fn properties_carry_merge_rules_and_descriptions() {
    let document = value(&group_version(&Table::default(), "apis/apps/v1").unwrap());
    let schemas = &document["components"]["schemas"];
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert!(containers["description"].as_str().unwrap().starts_with("List of containers"));
    assert_eq!(schemas["io.k8s.api.core.v1.PodSpec"]["required"], serde_json::json!(["containers"]));
    let volume = &schemas["io.k8s.api.core.v1.Volume"]["properties"]["hostPath"];
    assert!(volume["description"].is_string() && volume["allOf"].is_array());
    assert!(schemas.get("io.k8s.api.core.v1.VolumeSource").is_none());
}

#[test]
fn the_index_names_each_document_with_its_hash() {
    let index = value(&index(&Table::default()));
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = group_version(&Table::default(), "apis/apps/v1").unwrap();
    assert_eq!(url, format!("/openapi/v3/apis/apps/v1?hash={}", document.hash()));
    assert!(group_version(&Table::default(), "apis/none/v1").is_none());
}

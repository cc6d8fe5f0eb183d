//! Custom resources through the API's public face: a definition is written, and its objects are served.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::tests::Api;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn definition() -> Value {
    json!({"metadata": {"name": "widgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wi"], "categories": ["all"]},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
            "selectableFields": [{"jsonPath": ".spec.color"}],
            "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "required": ["size"],
                    "x-kubernetes-validations": [{"rule": "self.size >= oldSelf.size", "message": "may only grow"}],
                    "properties": {
                        "size": {"type": "integer", "maximum": 10},
                        "color": {"type": "string", "default": "red"},
                        "replicas": {"type": "integer"},
                        "parts": {"type": "array", "x-kubernetes-list-type": "map",
                            "x-kubernetes-list-map-keys": ["id"], "items": {"type": "object", "required": ["id"],
                                "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}}},
                    }},
                "status": {"type": "object", "properties": {
                    "replicas": {"type": "integer"}, "selector": {"type": "string"}}},
            }}},
        }],
    }})
}

/// Asks until the answer is as wanted.
async fn until(api: &Api, path: &str, wanted: impl Fn(StatusCode, &Value) -> bool) -> Value {
    let asking = async {
        loop {
            let (code, answer) = api.get(path).await;
            if wanted(code, &answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{path} does not become as wanted"))
}

async fn with_widgets() -> Api {
    let api = Api::start().await;
    let (code, made) = api.post(DEFINITIONS, definition()).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    until(&api, WIDGETS, |code, _| code == StatusCode::OK).await;
    api
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_definition_makes_a_kind_and_its_end_takes_all_objects_along() {
    let api = with_widgets().await;
    let own = format!("{DEFINITIONS}/widgets.example.com");
    let established = until(&api, &own, |_, answer| answer["status"]["conditions"][1]["status"] == "True").await;
    assert_eq!(established["status"]["acceptedNames"]["listKind"], "WidgetList");
    let (_, made) = api.post(WIDGETS, widget("a", json!({"size": 3, "bogus": 1}))).await;
    assert_eq!((&made["spec"], &made["metadata"]["generation"]), (&json!({"size": 3, "color": "red"}), &json!(1)));
    let events = api.watch(&format!("{WIDGETS}?watch=1"), 1).await;
    assert_eq!(events[0], json!({"type": "ADDED", "object": made}));
    let (_, list) = api.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dblue")).await;
    assert_eq!((&list["kind"], &list["items"]), (&json!("WidgetList"), &json!([])));
    assert_eq!(api.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D3")).await.0, StatusCode::BAD_REQUEST);
    let (code, deleted) = api.delete(&format!("{DEFINITIONS}/widgets.example.com")).await;
    assert_eq!(code, StatusCode::OK, "{deleted}");
    assert_eq!(deleted["status"]["conditions"][2]["reason"], "InstanceDeletionPending");
    until(&api, &format!("{DEFINITIONS}/widgets.example.com"), |code, _| code == StatusCode::NOT_FOUND).await;
    until(&api, WIDGETS, |code, _| code == StatusCode::NOT_FOUND).await;
    // Made again, it begins without objects.
    api.post(DEFINITIONS, definition()).await;
    let list = until(&api, WIDGETS, |code, _| code == StatusCode::OK).await;
    assert_eq!(list["items"], json!([]));
}

#[tokio::test]
async fn discovery_and_openapi_show_custom_kinds() {
    let api = with_widgets().await;
    let (_, group) = api.get("/apis/example.com").await;
    assert_eq!(group["preferredVersion"]["groupVersion"], "example.com/v1");
    let (_, list) = api.get("/apis/example.com/v1").await;
    let names: Vec<&Value> = list["resources"].as_array().into_iter().flatten().map(|one| &one["name"]).collect();
    assert_eq!(names, ["widgets", "widgets/scale", "widgets/status"]);
    let (_, index) = api.get("/openapi/v3").await;
    assert!(index["paths"]["apis/example.com/v1"].is_object() && index["paths"]["api/v1"].is_object());
    let (_, document) = api.get("/openapi/v3/apis/example.com/v1").await;
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["color"]["default"], "red");
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    let (_, all) = api.get("/openapi/v2").await;
    assert!(all["definitions"]["com.example.v1.Widget"].is_object());
}

#[tokio::test]
async fn updates_follow_the_schema_and_subresources_their_paths() {
    let api = with_widgets().await;
    api.post(WIDGETS, widget("a", json!({"size": 3}))).await;
    let one = format!("{WIDGETS}/a");
    let (code, refused) = api.merge(&one, json!({"spec": {"size": 2}})).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("spec")));
    let (_, kept) = api.merge(&one, json!({"status": {"replicas": 9}})).await;
    assert_eq!((&kept["status"], &kept["metadata"]["generation"]), (&Value::Null, &json!(1)));
    let status = json!({"status": {"replicas": 1, "selector": "app=a"}, "spec": {"size": 9}});
    let (_, told) = api.merge(&format!("{one}/status"), status).await;
    assert_eq!((&told["status"]["replicas"], &told["spec"]["size"]), (&json!(1), &json!(3)));
    let (code, scaled) = api.merge(&format!("{one}/scale"), json!({"spec": {"replicas": 4}})).await;
    assert_eq!((code, &scaled["status"]["selector"]), (StatusCode::OK, &json!("app=a")), "{scaled}");
    let (_, after) = api.get(&one).await;
    assert_eq!((&after["spec"]["replicas"], &after["metadata"]["generation"]), (&json!(4), &json!(2)));
    let strategic = "application/strategic-merge-patch+json";
    assert_eq!(api.send(http::Method::PATCH, &one, strategic, "{}".into()).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let protobuf = "application/vnd.kubernetes.protobuf";
    let (code, _) = api.send(http::Method::POST, WIDGETS, protobuf, "k8s\0".into()).await;
    assert_eq!(code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn apply_tells_the_elements_of_lists_by_their_keys() {
    let api = with_widgets().await;
    let apply = async |manager: &str, spec: Value| {
        let path = format!("{WIDGETS}/a?fieldManager={manager}");
        let body = widget("a", spec).to_string();
        api.send(http::Method::PATCH, &path, "application/apply-patch+yaml", body).await
    };
    let (code, made) = apply("one", json!({"size": 1, "parts": [{"id": "a", "n": 1}]})).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let (_, both) = apply("two", json!({"parts": [{"id": "b", "n": 2}]})).await;
    assert_eq!(both["spec"]["parts"], json!([{"id": "a", "n": 1}, {"id": "b", "n": 2}]), "{both}");
    let (code, conflict) = apply("two", json!({"parts": [{"id": "a", "n": 3}]})).await;
    assert_eq!((code, &conflict["reason"]), (StatusCode::CONFLICT, &json!("Conflict")));
    let (_, left) = apply("one", json!({"size": 1})).await;
    assert_eq!(left["spec"]["parts"], json!([{"id": "b", "n": 2}]));
}

#[tokio::test]
async fn a_new_schema_holds_at_once_for_reading_and_ends_watches() {
    let api = with_widgets().await;
    api.post(WIDGETS, widget("a", json!({"size": 3, "color": "blue"}))).await;
    let all = format!("{WIDGETS}?watch=1");
    let watching = api.watch(&all, usize::MAX);
    let change = async {
        let mut new = definition();
        let properties =
            &mut new["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        properties["weight"] = json!({"type": "integer", "default": 5});
        properties.as_object_mut().map(|map| map.remove("color"));
        new["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.weight"}]);
        let path = format!("{DEFINITIONS}/widgets.example.com");
        let body = json!([{"op": "replace", "path": "/spec/versions", "value": new["spec"]["versions"]}]);
        let (code, answer) =
            api.send(http::Method::PATCH, &path, "application/json-patch+json", body.to_string()).await;
        assert_eq!(code, StatusCode::OK, "{answer}");
    };
    let (events, ()) = tokio::join!(watching, change);
    assert_eq!(events.len(), 1, "the watch ends: {events:?}");
    let read = until(&api, &format!("{WIDGETS}/a"), |_, answer| answer["spec"]["weight"] == 5).await;
    assert_eq!(read["spec"], json!({"size": 3, "weight": 5}));
    let (_, list) = api.get(WIDGETS).await;
    assert_eq!(list["items"][0]["spec"], read["spec"]);
    let (_, heavy) = api.get(&format!("{WIDGETS}?fieldSelector=spec.weight%3D5")).await;
    assert_eq!(heavy["items"][0]["spec"], read["spec"], "a default is selected by, too");
}

#[tokio::test]
async fn versions_are_views_of_one_object() {
    let api = Api::start().await;
    let mut two = definition();
    let mut older = two["spec"]["versions"][0].clone();
    older["name"] = "v1beta1".into();
    older["storage"] = false.into();
    older["deprecated"] = true.into();
    two["spec"]["versions"].as_array_mut().expect("a list").push(older);
    assert_eq!(api.post(DEFINITIONS, two).await.0, StatusCode::CREATED);
    until(&api, WIDGETS, |code, _| code == StatusCode::OK).await;
    api.post(WIDGETS, widget("a", json!({"size": 3}))).await;
    let (code, old) = api.get("/apis/example.com/v1beta1/namespaces/default/widgets/a").await;
    assert_eq!(
        (code, &old["apiVersion"], &old["spec"]["size"]),
        (StatusCode::OK, &json!("example.com/v1beta1"), &json!(3))
    );
    let (_, group) = api.get("/apis/example.com").await;
    assert_eq!(group["versions"][1]["version"], "v1beta1");
}

#[tokio::test]
async fn a_custom_kind_that_is_called_like_a_built_in_one_has_none_of_its_rules() {
    let api = Api::start().await;
    let mut services = definition();
    services["metadata"]["name"] = "services.example.com".into();
    services["spec"]["names"] = json!({"plural": "services", "kind": "Service"});
    assert_eq!(api.post(DEFINITIONS, services).await.0, StatusCode::CREATED);
    let all = "/apis/example.com/v1/namespaces/default/services";
    until(&api, all, |code, _| code == StatusCode::OK).await;
    let object =
        json!({"apiVersion": "example.com/v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"size": 1}});
    let (_, made) = api.post(all, object).await;
    assert_eq!(made["spec"], json!({"size": 1, "color": "red"}), "{made}");
    let (_, deleted) = api.delete(&format!("{all}/s")).await;
    assert_eq!(deleted["status"], "Success");
}

#[tokio::test]
async fn definitions_come_back_after_a_restart() {
    let store = std::sync::Arc::new(crate::store::MemoryStore::new());
    let start = async || {
        let server = super::ApiServer::start(super::ApiConfig::new(store.clone())).await.expect("the server starts");
        Api { server }
    };
    let api = start().await;
    api.post(DEFINITIONS, definition()).await;
    until(&api, WIDGETS, |code, _| code == StatusCode::OK).await;
    api.post(WIDGETS, widget("a", json!({"size": 3}))).await;
    api.server.shutdown();
    let again = start().await;
    let (code, found) = again.get(&format!("{WIDGETS}/a")).await;
    assert_eq!((code, &found["spec"]["color"]), (StatusCode::OK, &json!("red")));
}

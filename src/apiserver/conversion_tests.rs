//! Custom resources in versions that a webhook converts, through the API's public face and a real webhook.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::reply::ANY_VERSION;
use super::tests::Api;
use super::webhook::tests::Server;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DEFINITION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/boats.sea.example.com";
const V1: &str = "/apis/sea.example.com/v1/namespaces/default/boats";
const V2: &str = "/apis/sea.example.com/v2/namespaces/default/boats";

/// What the webhook was asked, and how it is.
#[derive(Default)]
struct Log {
    /// How many objects each question had.
    questions: Mutex<Vec<usize>>,
    away: AtomicBool,
    /// Spoils its answers.
    lies: AtomicBool,
}

impl Log {
    fn take(&self) -> Vec<usize> {
        std::mem::take(&mut *self.questions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Version 1 has `spec.length`, a number of metres; version 2 has `spec.size.metres`, the same as a text, and
/// keeps the crew, which version 1 does not know, in an annotation.
fn convert(object: &Value, to: &str) -> Value {
    let mut new = object.clone();
    new["apiVersion"] = to.into();
    if to.ends_with("/v2") {
        let annotations = new["metadata"]["annotations"].as_object_mut();
        let crew = annotations.and_then(|map| map.remove("crew"));
        new["spec"] = json!({});
        if let Some(length) = object["spec"]["length"].as_i64() {
            new["spec"]["size"] = json!({"metres": length.to_string()});
        }
        if let Some(crew) = crew {
            new["spec"]["crew"] = crew;
        }
    } else {
        new["spec"] = json!({});
        if let Some(metres) = object["spec"]["size"]["metres"].as_str() {
            new["spec"]["length"] = metres.parse::<i64>().unwrap_or(0).into();
        }
        if let Some(crew) = object["spec"]["crew"].as_str() {
            if !new["metadata"]["annotations"].is_object() {
                new["metadata"]["annotations"] = json!({});
            }
            new["metadata"]["annotations"]["crew"] = crew.into();
        }
    }
    for field in ["replicas", "color"] {
        if !object["spec"][field].is_null() {
            new["spec"][field] = object["spec"][field].clone();
        }
    }
    new
}

fn answer(log: &Log, question: &Value) -> (u16, Value) {
    if log.away.load(Ordering::SeqCst) {
        return (503, Value::Null);
    }
    let request = &question["request"];
    let to = request["desiredAPIVersion"].as_str().unwrap_or_default();
    let objects = request["objects"].as_array().map_or(&[][..], Vec::as_slice);
    log.questions.lock().unwrap_or_else(PoisonError::into_inner).push(objects.len());
    let mut converted: Vec<Value> = objects.iter().map(|object| convert(object, to)).collect();
    if log.lies.load(Ordering::SeqCst) {
        converted.iter_mut().for_each(|object| object["metadata"]["uid"] = "another".into());
    }
    let response = json!({"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": converted});
    (200, json!({"apiVersion": question["apiVersion"], "kind": "ConversionReview", "response": response}))
}

fn version(name: &str, storage: bool, spec: Value, selectable: &str) -> Value {
    let mut spec = spec;
    spec["replicas"] = json!({"type": "integer"});
    spec["color"] = json!({"type": "string", "default": "red"});
    json!({"name": name, "served": true, "storage": storage,
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas"}},
        "selectableFields": [{"jsonPath": selectable}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": spec},
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}}})
}

fn versions(stored: &str) -> Value {
    let metres = json!({"type": "object", "properties": {"metres": {"type": "string"}}});
    json!([
        version("v1", stored == "v1", json!({"length": {"type": "integer"}}), ".spec.length"),
        version("v2", stored == "v2", json!({"size": metres, "crew": {"type": "string"}}), ".spec.size.metres"),
    ])
}

struct Sea {
    api: Api,
    log: Arc<Log>,
}

impl Sea {
    /// A cluster whose boats are stored in version 2.
    async fn start() -> Self {
        let log = Arc::<Log>::default();
        let told = log.clone();
        let server = Server::start("boats", false, Arc::new(move |_, question| answer(&told, &question))).await;
        let sea = Self { api: Api::start().await, log };
        let definition = json!({"metadata": {"name": "boats.sea.example.com"}, "spec": {
            "group": "sea.example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat", "listKind": "Fleet"},
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1"], "clientConfig": server.config("/convert")}},
            "versions": versions("v2"),
        }});
        let (code, made) = sea.api.post(DEFINITIONS, definition).await;
        assert_eq!(code, StatusCode::CREATED, "{made}");
        sea.until(V1, |code, _| code == StatusCode::OK).await;
        sea
    }

    async fn until(&self, path: &str, wanted: impl Fn(StatusCode, &Value) -> bool) -> Value {
        let asking = async {
            loop {
                let (code, answer) = self.api.get(path).await;
                if wanted(code, &answer) {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{path} does not become as wanted"))
    }

    async fn make(&self, name: &str, length: i64) -> Value {
        let boat = json!({"metadata": {"name": name, "labels": {"name": name}}, "spec": {"length": length}});
        let (code, made) = self.api.post(V1, boat).await;
        assert_eq!(code, StatusCode::CREATED, "{made}");
        made
    }

    /// Asks as the server's own controllers do: for metadata, in any version.
    async fn ask_in_any_version(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, \
                      application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json";
        let request = Request::builder()
            .header(
                "content-type",
                if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" },
            )
            .method(method)
            .uri(path)
            .header("accept", accept)
            .header(ANY_VERSION, "true")
            .body(Body::from(body.to_string()))
            .expect("a request");
        let response = self.api.router().oneshot(request).await.expect("a router never fails");
        let code = response.status();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn apply(&self, path: &str, manager: &str, spec: Value) -> (StatusCode, Value) {
        let version = if path == V1 { "v1" } else { "v2" };
        let config = json!({"apiVersion": format!("sea.example.com/{version}"), "kind": "Boat",
            "metadata": {"name": "a"}, "spec": spec});
        let path = format!("{path}/a?fieldManager={manager}");
        self.api.send(Method::PATCH, &path, "application/apply-patch+yaml", config.to_string()).await
    }
}

#[tokio::test]
async fn each_version_is_read_written_listed_and_selected_as_itself() {
    let sea = Sea::start().await;
    let made = sea.make("a", 3).await;
    assert_eq!(
        (&made["apiVersion"], &made["spec"]),
        (&json!("sea.example.com/v1"), &json!({"length": 3, "color": "red"}))
    );
    let (_, two) = sea.api.get(&format!("{V2}/a")).await;
    assert_eq!((&two["apiVersion"], &two["spec"]["size"]), (&json!("sea.example.com/v2"), &json!({"metres": "3"})));
    assert_eq!(two["metadata"]["uid"], made["metadata"]["uid"]);
    // What version 1 cannot say comes back by an annotation.
    let (code, manned) = sea.api.merge(&format!("{V2}/a"), json!({"spec": {"crew": "three"}})).await;
    assert_eq!((code, &manned["spec"]["crew"]), (StatusCode::OK, &json!("three")));
    let (_, one) = sea.api.merge(&format!("{V1}/a"), json!({"spec": {"length": 4}})).await;
    assert_eq!((&one["spec"]["length"], &one["metadata"]["annotations"]["crew"]), (&json!(4), &json!("three")));
    let (_, two) = sea.api.get(&format!("{V2}/a")).await;
    assert_eq!(two["spec"], json!({"size": {"metres": "4"}, "crew": "three", "color": "red"}));
    // Lists, and the fields of each version.
    sea.make("b", 5).await;
    let (_, list) = sea.api.get(V1).await;
    let lengths: Vec<&Value> =
        list["items"].as_array().into_iter().flatten().map(|boat| &boat["spec"]["length"]).collect();
    assert_eq!((&list["kind"], lengths), (&json!("Fleet"), vec![&json!(4), &json!(5)]));
    for selected in [format!("{V1}?fieldSelector=spec.length%3D5"), format!("{V2}?fieldSelector=spec.size.metres%3D5")]
    {
        let (_, list) = sea.api.get(&selected).await;
        assert_eq!(
            (&list["items"][0]["metadata"]["name"], &list["items"][1]),
            (&json!("b"), &Value::Null),
            "{selected}"
        );
    }
    assert_eq!(sea.api.get(&format!("{V1}?fieldSelector=spec.size.metres%3D5")).await.0, StatusCode::BAD_REQUEST);
    // Subresources, and a write that changes nothing.
    let (code, scaled) = sea.api.merge(&format!("{V1}/a/scale"), json!({"spec": {"replicas": 2}})).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (StatusCode::OK, &json!(2)), "{scaled}");
    let (_, told) = sea.api.merge(&format!("{V1}/a/status"), json!({"status": {"replicas": 2}})).await;
    assert_eq!((&told["status"]["replicas"], &told["spec"]["replicas"]), (&json!(2), &json!(2)), "{told}");
    let (_, before) = sea.api.get(&format!("{V1}/a")).await;
    let (_, same) = sea.api.merge(&format!("{V1}/a"), json!({"spec": {"length": 4}})).await;
    assert_eq!(same["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn lists_are_converted_together_and_a_change_once_for_all_watchers() {
    let sea = Sea::start().await;
    for number in 0..10 {
        let boat = json!({"metadata": {"name": format!("boat-{number}")}, "spec": {"size": {"metres": "1"}}});
        assert_eq!(sea.api.post(V2, boat).await.0, StatusCode::CREATED);
    }
    assert_eq!(sea.log.take(), [0; 0], "what is stored as it is asks nobody");
    let (_, list) = sea.api.get(V1).await;
    assert_eq!((sea.log.take(), list["items"].as_array().map(Vec::len)), (vec![10], Some(10)));
    sea.api.get(V1).await;
    assert_eq!(sea.log.take(), [0; 0], "what has not changed is known");
    let since = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let (_, changed) = sea.api.merge(&format!("{V2}/boat-3"), json!({"spec": {"size": {"metres": "7"}}})).await;
    assert_eq!(changed["spec"]["size"]["metres"], "7", "{changed}");
    let path = format!("{V1}?watch=1&resourceVersion={since}");
    for events in futures::future::join_all((0..20).map(|_| sea.api.watch(&path, 1))).await {
        assert_eq!((&events[0]["type"], &events[0]["object"]["spec"]["length"]), (&json!("MODIFIED"), &json!(7)));
    }
    assert_eq!(sea.log.take(), [1]);
}

#[tokio::test]
async fn while_the_webhook_is_away_what_is_stored_can_be_read_and_goes() {
    let sea = Sea::start().await;
    sea.make("a", 3).await;
    sea.make("b", 4).await;
    let (_, held) = sea.api.merge(&format!("{V2}/b"), json!({"metadata": {"finalizers": ["example.com/x"]}})).await;
    assert_eq!(held["metadata"]["finalizers"][0], "example.com/x", "{held}");
    sea.log.away.store(true, Ordering::SeqCst);
    let (code, refused) = sea.api.get(&format!("{V1}/b")).await;
    assert_eq!((code, &refused["status"]), (StatusCode::INTERNAL_SERVER_ERROR, &json!("Failure")));
    let wanted = "conversion webhook for sea.example.com/v2, Kind=Boat failed: an error on the server";
    assert!(refused["message"].as_str().is_some_and(|message| message.starts_with(wanted)), "{refused}");
    assert_eq!(sea.api.get(V1).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(sea.api.post(V1, json!({"metadata": {"name": "c"}})).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(sea.api.delete(&format!("{V1}/b")).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    let (code, two) = sea.api.get(&format!("{V2}/b")).await;
    assert_eq!((code, &two["spec"]["size"]["metres"]), (StatusCode::OK, &json!("4")));
    // The server's own parts see metadata, take owners away and delete.
    let (code, list) = sea.ask_in_any_version(Method::GET, V1, Value::Null).await;
    assert_eq!((code, list["items"].as_array().map(Vec::len)), (StatusCode::OK, Some(2)), "{list}");
    let held = json!({"metadata": {"finalizers": ["example.com/x", "example.com/y"]}});
    let (code, seen) = sea.ask_in_any_version(Method::PATCH, &format!("{V1}/b"), held).await;
    assert_eq!((code, &seen["metadata"]["finalizers"][1]), (StatusCode::OK, &json!("example.com/y")), "{seen}");
    let (code, gone) = sea.ask_in_any_version(Method::DELETE, V1, json!({})).await;
    assert_eq!(code, StatusCode::OK, "{gone}");
    assert_eq!(sea.api.get(&format!("{V2}/a")).await.0, StatusCode::NOT_FOUND);
    let (_, marked) = sea.api.get(&format!("{V2}/b")).await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    // The definition's end needs no webhook either.
    sea.api.merge(&format!("{V2}/b"), json!({"metadata": {"finalizers": null}})).await;
    sea.api.post(V2, json!({"metadata": {"name": "d"}})).await;
    assert_eq!(sea.api.delete(DEFINITION).await.0, StatusCode::OK);
    sea.until(DEFINITION, |code, _| code == StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn an_answer_that_is_false_is_refused() {
    let sea = Sea::start().await;
    let made = sea.make("a", 3).await;
    sea.api.merge(&format!("{V2}/a"), json!({"spec": {"size": {"metres": "9"}}})).await;
    sea.log.lies.store(true, Ordering::SeqCst);
    let (code, refused) = sea.api.get(&format!("{V1}/a")).await;
    let uid = made["metadata"]["uid"].as_str().unwrap_or_default();
    assert_eq!(
        (code, refused["message"].as_str().unwrap_or_default()),
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("conversion webhook for sea.example.com/v2, Kind=Boat returned invalid object: must have the same UID: {uid} != another").as_str()
        )
    );
    // A failure is not kept.
    sea.log.lies.store(false, Ordering::SeqCst);
    assert_eq!(sea.api.get(&format!("{V1}/a")).await.1["spec"]["length"], 9);
}

#[tokio::test]
async fn another_version_to_store_holds_for_what_is_written_from_then_on() {
    let sea = Sea::start().await;
    sea.make("old", 3).await;
    let change = json!([{"op": "replace", "path": "/spec/versions", "value": versions("v1")}]);
    let (code, changed) =
        sea.api.send(Method::PATCH, DEFINITION, "application/json-patch+json", change.to_string()).await;
    assert_eq!((code, &changed["status"]["storedVersions"]), (StatusCode::OK, &json!(["v2", "v1"])), "{changed}");
    let found = changed["metadata"]["generation"].clone();
    sea.until(DEFINITION, |_, definition| definition["metadata"]["generation"] == found).await;
    let stored = |name: &str| {
        let key = format!("/registry/sea.example.com/boats/default/{name}");
        let entry = sea.api.server.registry.store.get(&key).expect("an entry");
        super::registry::encoding::version(&entry.value).map(str::to_owned)
    };
    let written = async {
        loop {
            sea.api.delete(&format!("{V1}/new")).await;
            sea.make("new", 5).await;
            if stored("new").as_deref() == Some("v1") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("new objects are stored in the new version");
    assert_eq!(stored("old").as_deref(), Some("v2"));
    for path in [V1, V2] {
        let (_, list) = sea.api.get(path).await;
        assert_eq!(list["items"].as_array().map(Vec::len), Some(2), "{list}");
    }
    // A write that changes nothing moves an object to the new version, which is how storage is migrated.
    let (_, old) = sea.api.get(&format!("{V2}/old")).await;
    assert_eq!(
        sea.api.send(Method::PUT, &format!("{V2}/old"), "application/json", old.to_string()).await.0,
        StatusCode::OK
    );
    assert_eq!(stored("old").as_deref(), Some("v1"));
    let (code, _) = sea.api.merge(&format!("{DEFINITION}/status"), json!({"status": {"storedVersions": ["v1"]}})).await;
    assert_eq!(code, StatusCode::OK);
}

#[tokio::test]
async fn managers_of_fields_are_held_to_the_version_that_they_wrote_in() {
    let sea = Sea::start().await;
    let (code, made) = sea.apply(V1, "one", json!({"length": 3})).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    // The same field has another name and place in version 2.
    let (code, conflict) = sea.apply(V2, "two", json!({"size": {"metres": "4"}})).await;
    assert_eq!(code, StatusCode::CONFLICT, "{conflict}");
    assert_eq!(conflict["details"]["causes"][0]["field"], ".spec.length");
    let (code, both) = sea.apply(V2, "two", json!({"size": {"metres": "3"}, "crew": "two"})).await;
    assert_eq!(code, StatusCode::OK, "{both}");
    // Applied no more by one, but owned by two, in its own version: it stays.
    let (code, kept) = sea.apply(V1, "one", json!({})).await;
    assert_eq!((code, &kept["spec"]["length"]), (StatusCode::OK, &json!(3)), "{kept}");
    // Owned by nobody else: it goes, though it was applied in the other version.
    let (code, gone) = sea.apply(V2, "two", json!({"crew": "two"})).await;
    assert_eq!((code, &gone["spec"]), (StatusCode::OK, &json!({"crew": "two", "color": "red"})), "{gone}");
    // An update by version 1 takes what it changes from who owns it in version 2.
    sea.apply(V2, "two", json!({"crew": "two", "size": {"metres": "5"}})).await;
    let (_, updated) = sea.api.merge(&format!("{V1}/a?fieldManager=three"), json!({"spec": {"length": 6}})).await;
    let owners = updated["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let of = |manager: &str| {
        let owner = owners.iter().find(|owner| owner["manager"] == manager).cloned().unwrap_or_default();
        (owner["apiVersion"].clone(), owner["fieldsV1"]["f:spec"].clone())
    };
    assert_eq!(of("two"), (json!("sea.example.com/v2"), json!({"f:crew": {}})), "{owners:?}");
    assert_eq!(of("three"), (json!("sea.example.com/v1"), json!({"f:length": {}})), "{owners:?}");
}

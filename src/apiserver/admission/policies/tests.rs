//! Policies in force, through the router.

use http::StatusCode;
use serde_json::{Value, json};

use crate::apiserver::tests::Api;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn policy(api: &Api, name: &str, more: Value) {
    let mut spec = json!({"matchConstraints": {"resourceRules": [{"operations": ["CREATE", "UPDATE"],
        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]}});
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    let object = json!({"metadata": {"name": name}, "spec": spec});
    let (code, made) = api.post(&format!("{GROUP}/validatingadmissionpolicies"), object).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
}

async fn bind(api: &Api, policy: &str, more: Value) {
    let mut spec = json!({"policyName": policy, "validationActions": ["Deny"]});
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    let object = json!({"metadata": {"name": format!("{policy}-binding")}, "spec": spec});
    let (code, made) = api.post(&format!("{GROUP}/validatingadmissionpolicybindings"), object).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
}

async fn create(api: &Api, name: &str, data: Value) -> (StatusCode, Value) {
    api.post(MAPS, json!({"metadata": {"name": name}, "data": data})).await
}

#[tokio::test]
async fn a_policy_is_in_force_once_it_is_bound() {
    let api = Api::start().await;
    policy(&api, "short", json!({"validations": [{"expression": "size(object.data.k) < 4", "message": "too long"}]}))
        .await;
    assert_eq!(create(&api, "a", json!({"k": "long enough"})).await.0, StatusCode::CREATED, "nothing binds it");
    bind(&api, "short", json!({})).await;
    let (code, status) = create(&api, "b", json!({"k": "long enough"})).await;
    assert_eq!((code, &status["reason"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("Invalid")));
    let why = "ValidatingAdmissionPolicy 'short' with binding 'short-binding' denied request: too long";
    assert_eq!(status["message"], format!("configmaps \"b\" is forbidden: {why}"));
    assert_eq!(status["details"], json!({"name": "b", "kind": "configmaps", "causes": [{"message": why}]}));
    assert_eq!(create(&api, "b", json!({"k": "ok"})).await.0, StatusCode::CREATED);
    let (code, _) = api.merge(&format!("{MAPS}/b"), json!({"data": {"k": "much longer"}})).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let gone = api.delete(&format!("{GROUP}/validatingadmissionpolicybindings/short-binding")).await;
    assert_eq!(gone.0, StatusCode::OK);
    assert_eq!(create(&api, "c", json!({"k": "long enough"})).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn parameters_come_from_objects_that_the_binding_chooses() {
    let api = Api::start().await;
    let params = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "not-params", "expression": "!has(object.data.max)"}],
        "variables": [{"name": "max", "expression": "int(params.data.max)"}],
        "validations": [{"expression": "size(object.data.k) <= variables.max",
            "messageExpression": "'at most ' + string(variables.max)", "reason": "Forbidden"}]});
    policy(&api, "limit", params).await;
    bind(&api, "limit", json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}})).await;
    let (code, status) = create(&api, "a", json!({"k": "12"})).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let why = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert!(status["message"].as_str().is_some_and(|message| message.ends_with(why)), "{status}");
    // What cannot be configured holds up even its own parameters; so the binding is put aside.
    let binding = format!("{GROUP}/validatingadmissionpolicybindings/limit-binding");
    api.delete(&binding).await;
    assert_eq!(create(&api, "limits", json!({"max": "3"})).await.0, StatusCode::CREATED);
    bind(&api, "limit", json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}})).await;
    assert_eq!(create(&api, "a", json!({"k": "123"})).await.0, StatusCode::CREATED);
    let (code, status) = create(&api, "b", json!({"k": "1234"})).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert!(
        status["message"].as_str().is_some_and(|message| message.ends_with("denied request: at most 3")),
        "{status}"
    );
}

#[tokio::test]
async fn a_binding_narrows_its_policy_down() {
    let api = Api::start().await;
    policy(&api, "never", json!({"validations": [{"expression": "namespaceObject.metadata.name != 'default'"}]})).await;
    let labelled = json!({"matchResources": {"objectSelector": {"matchLabels": {"guarded": "yes"}}}});
    bind(&api, "never", labelled).await;
    assert_eq!(create(&api, "free", json!({})).await.0, StatusCode::CREATED);
    let guarded = json!({"metadata": {"name": "g", "labels": {"guarded": "yes"}}});
    let (code, status) = api.post(MAPS, guarded).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{status}");
    let why = "denied request: failed expression: namespaceObject.metadata.name != 'default'";
    assert!(status["message"].as_str().is_some_and(|message| message.ends_with(why)), "{status}");
}

#[tokio::test]
async fn what_is_no_expression_is_refused() {
    let api = Api::start().await;
    let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
    let object = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "object.spec. <"}]}});
    let (code, status) = api.post(&format!("{GROUP}/validatingadmissionpolicies"), object).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(status["details"]["causes"][0]["field"], "spec.validations[0].expression", "{status}");
}

#[tokio::test]
async fn a_policy_changes_what_is_written() {
    let api = Api::start().await;
    let rule = json!({"operations": ["CREATE"], "apiGroups": ["", "apps"], "apiVersions": ["v1"],
        "resources": ["configmaps", "deployments"]});
    let put = async |plural: &str, name: &str, spec: Value| {
        let (code, made) =
            api.post(&format!("{GROUP}/{plural}"), json!({"metadata": {"name": name}, "spec": spec})).await;
        assert_eq!(code, StatusCode::CREATED, "{made}");
    };
    let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "reinvocationPolicy": "Never", "failurePolicy": "Fail",
    "matchConditions": [{"name": "free", "expression": "!has(object.metadata.labels) || !('keep' in object.metadata.labels)"}],
    "variables": [{"name": "team", "expression": "namespaceObject.metadata.name + '-team'"}],
    "mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{metadata: Object.metadata{labels: {'team': variables.team}}}"}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression":
            "object.kind == 'Deployment' ? [JSONPatch{op: 'replace', path: '/spec/replicas', value: 3}] : []"}},
    ]});
    put("mutatingadmissionpolicies", "team", spec).await;
    put("mutatingadmissionpolicybindings", "team", json!({"policyName": "team"})).await;
    let (code, made) = create(&api, "a", json!({"k": "v"})).await;
    assert_eq!((code, &made["metadata"]["labels"]), (StatusCode::CREATED, &json!({"team": "default-team"})), "{made}");
    assert_eq!(made["data"], json!({"k": "v"}));
    let owners = made["metadata"]["managedFields"].to_string();
    assert!(!owners.contains("admission") && !owners.contains("f:team"), "nobody owns what a policy adds: {owners}");
    let (_, kept) = api.post(MAPS, json!({"metadata": {"name": "b", "labels": {"keep": "x"}}})).await;
    assert_eq!(kept["metadata"]["labels"], json!({"keep": "x"}));
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "hello:1"}]}}}});
    let (code, made) = api.post("/apis/apps/v1/namespaces/default/deployments", deployment).await;
    assert_eq!((code, &made["spec"]["replicas"]), (StatusCode::CREATED, &json!(3)), "{made}");
    // What cannot be applied is a refusal.
    let broken = json!({"matchConstraints": {"resourceRules": [rule]}, "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'test', path: '/data/k', value: 'w'}]"}}]});
    put("mutatingadmissionpolicies", "broken", broken).await;
    put("mutatingadmissionpolicybindings", "broken", json!({"policyName": "broken"})).await;
    let (code, status) = create(&api, "e", json!({"k": "v"})).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{status}");
    let why = "MutatingAdmissionPolicy 'broken' with binding 'broken' denied request: JSON Patch: ";
    assert!(status["message"].as_str().is_some_and(|message| message.contains(why)), "{status}");
}

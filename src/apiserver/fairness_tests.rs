//! Priority and fairness, and the figures of them, through the router.

use axum::body::Body;
use axum::extract::Request;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::auth::User;
use super::tests::Api;

const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";

/// What a user's GET is answered, without the body.
async fn get(api: &Api, user: &User, path: &str) -> (StatusCode, HeaderMap) {
    let router = api.server.router().layer(axum::Extension(user.clone()));
    let request = Request::builder().method(Method::GET).uri(path).body(Body::empty()).expect("a request");
    let response = router.oneshot(request).await.expect("a router never fails");
    (response.status(), response.headers().clone())
}

#[tokio::test]
async fn answers_tell_how_the_request_was_sorted() {
    let api = Api::start().await;
    let (code, headers) = get(&api, &User::server(), "/api/v1/namespaces/default").await;
    let uid = |object: Value| object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let schema = uid(api.get(&format!("{SCHEMAS}/exempt")).await.1);
    let level = uid(api.get(&format!("{LEVELS}/exempt")).await.1);
    assert_eq!(code, StatusCode::OK);
    assert_eq!(headers["x-kubernetes-pf-flowschema-uid"], schema.as_str());
    assert_eq!(headers["x-kubernetes-pf-prioritylevel-uid"], level.as_str());
}

#[tokio::test]
async fn a_level_without_seats_refuses_its_own_and_nobody_else() {
    let api = Api::start().await;
    let binding = json!({"metadata": {"name": "all"}, "subjects": [{"kind": "Group", "name": "system:authenticated"}],
        "roleRef": {"kind": "ClusterRole", "name": "view"}});
    assert_eq!(
        api.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.0,
        StatusCode::CREATED
    );
    let limited =
        json!({"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}});
    let level = json!({"metadata": {"name": "closed"}, "spec": {"type": "Limited", "limited": limited}});
    assert_eq!(api.post(LEVELS, level).await.0, StatusCode::CREATED);
    let rule = json!({"subjects": [{"kind": "User", "user": {"name": "jo"}}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}]});
    let schema = json!({"metadata": {"name": "jo"}, "spec": {"matchingPrecedence": 50,
        "priorityLevelConfiguration": {"name": "closed"}, "rules": [rule]}});
    assert_eq!(api.post(SCHEMAS, schema).await.0, StatusCode::CREATED);
    let (jo, max, path) = (User::new("jo", &[]), User::new("max", &[]), "/api/v1/namespaces/default/configmaps");
    let (code, headers) = get(&api, &jo, path).await;
    assert_eq!((code, &headers[header::RETRY_AFTER]), (StatusCode::TOO_MANY_REQUESTS, &"1".parse().expect("a value")));
    assert!(headers.contains_key("x-kubernetes-pf-flowschema-uid"));
    assert_eq!(get(&api, &max, path).await.0, StatusCode::OK);
    let (_, page) = api.get("/metrics").await;
    let page = page.as_str().unwrap_or_default();
    let wanted = [
        "apiserver_flowcontrol_rejected_requests_total{priority_level=\"closed\",reason=\"concurrency-limit\"} 1",
        "apiserver_flowcontrol_dispatched_requests_total{priority_level=\"global-default\"} 1",
        "apiserver_storage_objects{resource=\"prioritylevelconfigurations.flowcontrol.apiserver.k8s.io\"} 9",
    ];
    for line in wanted {
        assert!(page.lines().any(|known| known == line), "{line}\n{page}");
    }
    // Where the schema goes, so does the limit.
    api.delete(&format!("{SCHEMAS}/jo")).await;
    assert_eq!(get(&api, &jo, path).await.0, StatusCode::OK);
}

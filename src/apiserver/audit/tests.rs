//! What the log has to say of requests through the router.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::log::{Log, LogConfig};
use super::policy::Policy;
use super::*;
use crate::apiserver::tests::Api;
use crate::apiserver::{ApiConfig, ApiServer};
use crate::store::MemoryStore;

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  verbs: [get]
  resources: [{group: '', resources: [configmaps]}]
- level: Metadata
  resources: [{group: '', resources: [secrets]}]
- level: RequestResponse
  resources: [{group: '', resources: [configmaps]}]
  omitManagedFields: true
- level: Metadata
";

#[tokio::test]
async fn the_log_tells_what_the_policy_wants_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit.log");
    let log = Log::open(LogConfig { path: path.clone(), max_bytes: 0, max_backups: 0 }).expect("opened");
    let mut config = ApiConfig::new(Arc::new(MemoryStore::new()));
    let audit = Arc::new(Audit::new(Policy::parse(POLICY).expect("a policy"), log));
    config.audit = Some(audit.clone());
    let api = Api { server: ApiServer::start(config).await.expect("the server starts") };
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(api.post(maps, json!({"metadata": {"name": "c"}, "data": {"a": "b"}})).await.0, StatusCode::CREATED);
    api.get(&format!("{maps}/c")).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(
        api.post(secrets, json!({"metadata": {"name": "s"}, "data": {"k": "aGk="}})).await.0,
        StatusCode::CREATED
    );
    assert_eq!(api.delete(&format!("{maps}/none")).await.0, StatusCode::NOT_FOUND);
    api.send(Method::GET, "/version", "", String::new()).await;
    audit.flush().await;
    let text = std::fs::read_to_string(&path).expect("a log");
    assert!(!text.contains("aGk="), "no secret is told");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [made, secret, gone, version] = lines.as_slice() else { panic!("{} lines: {text}", lines.len()) };
    assert_eq!(
        (&made["verb"], &made["level"], &made["stage"]),
        (&json!("create"), &json!("RequestResponse"), &json!("ResponseComplete"))
    );
    assert_eq!(made["user"]["username"], "system:coracle");
    assert_eq!(
        made["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "name": "c", "apiVersion": "v1"})
    );
    assert_eq!((&made["requestObject"]["data"]["a"], &made["responseStatus"]["code"]), (&json!("b"), &json!(201)));
    assert!(
        made["responseObject"]["metadata"]["uid"].is_string()
            && made["responseObject"]["metadata"]["managedFields"].is_null()
    );
    assert_eq!(made["annotations"]["authorization.k8s.io/decision"], "allow");
    assert!(secret["requestObject"].is_null() && secret["responseObject"].is_null());
    assert_eq!(secret["objectRef"]["name"], "s");
    assert_eq!((&gone["responseStatus"]["code"], &gone["responseStatus"]["reason"]), (&json!(404), &json!("NotFound")));
    assert_eq!((&version["requestURI"], &version["objectRef"]), (&json!("/version"), &Value::Null));
}

#[tokio::test]
async fn who_is_not_believed_is_told_of() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit.log");
    let log = Log::open(LogConfig { path: path.clone(), max_bytes: 0, max_backups: 0 }).expect("opened");
    let audit = Audit::new(Policy::parse(POLICY).expect("a policy"), log);
    let request = Request::get("/api/v1/namespaces/shop/secrets/s").header("user-agent", "burglar").body(());
    let (mut parts, ()) = request.expect("a request").into_parts();
    parts.extensions.insert(Peer(([127, 0, 0, 1], 1).into()));
    audit.refused(&Table::default(), &parts).await;
    audit.flush().await;
    let text = std::fs::read_to_string(&path).expect("a log");
    let event: Value = serde_json::from_str(&text).expect("one line");
    assert_eq!((&event["stage"], &event["user"]), (&json!("ResponseStarted"), &json!({})));
    assert_eq!(
        event["responseStatus"],
        json!({"metadata": {}, "code": 401, "message": "Authentication failed, attempted: bearer"})
    );
    assert_eq!((&event["verb"], &event["objectRef"]["name"]), (&json!("get"), &json!("s")));
    assert_eq!((&event["sourceIPs"], &event["userAgent"]), (&json!(["127.0.0.1"]), &json!("burglar")));
}

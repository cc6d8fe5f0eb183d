//! ComponentStatus of `v1`, which upstream has deprecated and old tools still ask for: that the store,
//! the controllers and the scheduler are well.
//!
//! They are one process with this server, and end with it: who gets an answer has it from a process in
//! which all of them run.

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::reply::Look;
use super::selector::Selector;
use super::status::ApiError;
use super::verbs::Call;
use crate::kinds::common::{list, text};
use crate::kinds::{Column, Kind, KindInfo, column};

/// What is served beside the kinds that are stored.
pub static KINDS: &[&dyn Kind] = &[&ComponentStatus];

/// As upstream calls them.
const COMPONENTS: &[&str] = &["controller-manager", "etcd-0", "scheduler"];

struct ComponentStatus;

static INFO: KindInfo = KindInfo {
    group: "",
    version: "v1",
    kind: "ComponentStatus",
    plural: "componentstatuses",
    singular: "componentstatus",
    short_names: &["cs"],
    categories: &[],
    namespaced: false,
    verbs: &["get", "list"],
    subresources: &[],
    schema: "io.k8s.api.core.v1.ComponentStatus",
    storage: "",
    storage_version_hash: "",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Status", "string", "", 0),
    column("Message", "string", "", 0),
    column("Error", "string", "", 0),
];

impl Kind for ComponentStatus {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, _: Timestamp) -> Vec<Value> {
        let healthy = list(object, "/conditions").iter().find(|condition| condition["type"] == "Healthy");
        let (status, message, error) = match healthy {
            Some(condition) => {
                let word = if condition["status"] == "True" { "Healthy" } else { "Unhealthy" };
                (word, text(condition, "/message"), text(condition, "/error"))
            }
            None => ("Unknown", "", ""),
        };
        vec![text(object, "/metadata/name").into(), status.into(), message.into(), error.into()]
    }
}

/// Whether `kind` is this.
pub fn serves(kind: &dyn Kind) -> bool {
    kind.info() == &INFO
}

/// GET of one or of all.
pub fn answer(call: &Call) -> Result<Response, ApiError> {
    let look = Look::of_objects(&call.headers, &call.query)?;
    let name = &call.target.name;
    if call.target.verb == "get" {
        let known = COMPONENTS.iter().find(|component| *component == name);
        let component = known.ok_or_else(|| ApiError::not_found(&INFO, name))?;
        return Ok(look.value(StatusCode::OK, &look.view(call.kind).object(status(component))));
    }
    let (labels, fields) = (call.query.get("labelSelector"), call.query.get("fieldSelector"));
    let selector = Selector::parse(call.kind, labels, fields)?;
    let all = COMPONENTS.iter().map(|component| status(component));
    let items: Vec<Value> = all.filter(|object| selector.matches(call.kind, object)).collect();
    let list = json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items});
    Ok(look.value(StatusCode::OK, &look.view(call.kind).list(list)))
}

fn status(name: &str) -> Value {
    json!({
        "kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name, "creationTimestamp": null},
        "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}],
    })
}

//! APIService of `apiregistration.k8s.io/v1`: that a group's version is served, and by whom.

use serde_json::Value;

use super::common::{list, set_default, text};
use super::field::{Errors, Field};
use super::meta::{self, object_mut};
use super::{ALL_VERBS, Column, Kind, KindInfo, NameRule, Subresource, column, names, time};

pub struct APIService;

pub const GROUP: &str = "apiregistration.k8s.io";

static INFO: KindInfo = KindInfo {
    group: GROUP,
    version: "v1",
    kind: "APIService",
    plural: "apiservices",
    singular: "apiservice",
    short_names: &[],
    categories: &["api-extensions"],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("APIService")],
    schema: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
    storage: "apiregistration.k8s.io/apiservices",
    storage_version_hash: "InPBPD7+PqM=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Service", "string", "", 0),
    column("Available", "string", "", 0),
    column("Age", "string", "", 0),
];

const MAX_GROUP_PRIORITY: i64 = 20_000;
const MAX_VERSION_PRIORITY: i64 = 1000;

impl Kind for APIService {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        object_mut(object, "status");
        if object["spec"]["service"].is_object() {
            set_default(&mut object["spec"]["service"], "port", 443);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = Value::Object(Default::default());
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "status");
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let root = Field::root(object);
        let spec = root.get("spec");
        let (group, version) = (spec.get("group"), spec.get("version"));
        let wanted = format!("{}.{}", version.str(), group.str());
        let name = root.get("metadata").get("name");
        if name.str() != wanted {
            errors.invalid_str(&name, format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"));
        }
        if group.is_empty() {
            if version.str() != "v1" {
                errors.required(&group, "only v1 may have an empty group and it better be legacy kube");
            }
        } else {
            for message in names::dns1123_subdomain(group.str()) {
                errors.invalid_str(&group, message);
            }
        }
        for message in names::dns1035_label(version.str()) {
            errors.invalid_str(&version, message);
        }
        priority(&mut errors, &spec.get("groupPriorityMinimum"), MAX_GROUP_PRIORITY);
        priority(&mut errors, &spec.get("versionPriority"), MAX_VERSION_PRIORITY);
        served_by(&mut errors, &spec);
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let service = &object["spec"]["service"];
        let by = match service {
            Value::Null => "Local".to_owned(),
            service => format!("{}/{}", text(service, "/namespace"), text(service, "/name")),
        };
        let available = list(object, "/status/conditions").iter().find(|condition| condition["type"] == "Available");
        let available = match available {
            None => "Unknown".to_owned(),
            Some(condition) if condition["status"] == "True" => "True".to_owned(),
            Some(condition) => format!("{} ({})", text(condition, "/status"), text(condition, "/reason")),
        };
        vec![text(object, "/metadata/name").into(), by.into(), available.into(), time::object_age(object, now).into()]
    }
}

fn priority(errors: &mut Errors, at: &Field<'_>, most: i64) {
    let number = at.int().unwrap_or(0);
    if number <= 0 || number > most {
        errors.invalid_value(at, number, format!("must be positive and less than {most}"));
    }
}

fn served_by(errors: &mut Errors, spec: &Field<'_>) {
    let (service, bundle, insecure) = (spec.get("service"), spec.get("caBundle"), spec.get("insecureSkipTLSVerify"));
    if !service.exists() {
        if !bundle.is_empty() {
            errors.invalid(&bundle, "local APIServices may not have a caBundle");
        }
        if insecure.bool() {
            errors.invalid(&insecure, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    for name in ["namespace", "name"] {
        if service.get(name).is_empty() {
            errors.required(&service.get(name), "");
        }
    }
    let port = service.get("port");
    if let Some(number) = port.int() {
        errors.invalid_each(&port, names::port_number(number));
    }
    if insecure.bool() && !bundle.is_empty() {
        errors.invalid(&insecure, "may not be true if caBundle is present");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn its_name_says_what_it_serves() {
        let object = |name: &str, spec: Value| {
            let mut object = json!({"metadata": {"name": name}, "spec": {"group": "example.com", "version": "v1",
                "groupPriorityMinimum": 100, "versionPriority": 15}});
            json_patch::merge(&mut object["spec"], &spec);
            APIService.default(&mut object);
            object
        };
        let paths =
            |object: &Value| APIService.validate(object).0.iter().map(|error| error.path.clone()).collect::<Vec<_>>();
        assert!(paths(&object("v1.example.com", json!({}))).is_empty());
        assert_eq!(paths(&object("v2.example.com", json!({}))), ["metadata.name"]);
        let local = json!({"caBundle": "eA==", "insecureSkipTLSVerify": true, "versionPriority": 0});
        assert_eq!(
            paths(&object("v1.example.com", local)),
            ["spec.versionPriority", "spec.caBundle", "spec.insecureSkipTLSVerify"]
        );
        let remote = object("v1.example.com", json!({"service": {"namespace": "a", "name": "b"}}));
        assert_eq!(remote["spec"]["service"]["port"], 443);
        assert!(paths(&remote).is_empty());
        let row = APIService.row(&remote, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!((&row[1], &row[2]), (&json!("a/b"), &json!("Unknown")));
    }
}

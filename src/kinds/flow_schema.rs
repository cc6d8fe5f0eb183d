//! FlowSchema of `flowcontrol.apiserver.k8s.io/v1`: which requests belong together, and to which
//! priority level.

use serde_json::Value;

use super::common::{list, text};
use super::field::{Errors, Field};
use super::meta::{self, object_mut};
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column, names, time};

pub struct FlowSchema;

pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";

static INFO: KindInfo = KindInfo {
    group: GROUP,
    version: "v1",
    kind: "FlowSchema",
    plural: "flowschemas",
    singular: "flowschema",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("FlowSchema")],
    schema: "io.k8s.api.flowcontrol.v1.FlowSchema",
    storage: "flowcontrol.apiserver.k8s.io/flowschemas",
    storage_version_hash: "GJVAJZSZBIw=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("PriorityLevel", "string", "", 0),
    column("MatchingPrecedence", "string", "", 0),
    column("DistinguisherMethod", "string", "", 0),
    column("Age", "string", "", 0),
    column("MissingPL", "string", "", 0),
];

const DEFAULT_PRECEDENCE: i64 = 1000;
const MAX_PRECEDENCE: i64 = 10_000;
/// The schema of those whom nothing limits; nobody else comes first.
const EXEMPT: &str = "exempt";

/// Sorted, as the errors list them.
const VERBS: &[&str] =
    &["*", "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

impl Kind for FlowSchema {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        let spec = object_mut(object, "spec");
        if spec.get("matchingPrecedence").and_then(Value::as_i64).unwrap_or(0) == 0 {
            spec.insert("matchingPrecedence".to_owned(), DEFAULT_PRECEDENCE.into());
        }
        object_mut(object, "status");
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = Value::Object(Default::default());
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::update_spec(new, old);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::update_status(new, old);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let spec = Field::root(object).get("spec");
        precedence(&mut errors, &spec.get("matchingPrecedence"), text(object, "/metadata/name"));
        let level = spec.get("priorityLevelConfiguration").get("name");
        if level.is_empty() {
            errors.required(&level, "must reference a priority level");
        } else {
            errors.invalid_each(&level, names::dns1123_subdomain(level.str()));
        }
        let method = spec.get("distinguisherMethod");
        if method.exists() && !matches!(method.get("type").str(), "ByUser" | "ByNamespace") {
            errors.not_supported(&method.get("type"), &["ByNamespace", "ByUser"]);
        }
        for rule in spec.get("rules").items() {
            self::rule(&mut errors, &rule);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let spec = &object["spec"];
        let method = match text(spec, "/distinguisherMethod/type") {
            "" => "<none>",
            method => method,
        };
        let dangling = list(object, "/status/conditions").iter().find(|condition| condition["type"] == "Dangling");
        vec![
            text(object, "/metadata/name").into(),
            text(spec, "/priorityLevelConfiguration/name").into(),
            spec["matchingPrecedence"].as_i64().unwrap_or(0).into(),
            method.into(),
            time::object_age(object, now).into(),
            dangling.map_or("?", |condition| text(condition, "/status")).into(),
        ]
    }
}

fn precedence(errors: &mut Errors, at: &Field<'_>, name: &str) {
    let number = at.int().unwrap_or(0);
    if number <= 0 {
        errors.invalid_value(at, number, "must be a positive value");
    }
    if number > MAX_PRECEDENCE {
        errors.invalid(at, format!("must not be greater than {MAX_PRECEDENCE}"));
    }
    if number == 1 && name != EXEMPT {
        errors.invalid(at, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
}

fn rule(errors: &mut Errors, at: &Field<'_>) {
    let (resources, paths) = (at.get("resourceRules"), at.get("nonResourceRules"));
    if at.get("subjects").is_empty() {
        errors.required(&at.get("subjects"), "subjects must contain at least one value");
    }
    for subject in at.get("subjects").items() {
        self::subject(errors, &subject);
    }
    if resources.is_empty() && paths.is_empty() {
        errors.required(at, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for rule in resources.items() {
        verbs(errors, &rule.get("verbs"));
        let wanted = [
            ("apiGroups", "resource rules must supply at least one api group"),
            ("resources", "resource rules must supply at least one resource"),
        ];
        for (name, why) in wanted {
            some(errors, &rule.get(name), why);
        }
        if !rule.get("clusterScope").bool() {
            let why = "resource rules that are not cluster scoped must supply at least one namespace";
            some(errors, &rule.get("namespaces"), why);
        }
    }
    for rule in paths.items() {
        verbs(errors, &rule.get("verbs"));
        some(errors, &rule.get("nonResourceURLs"), "nonResourceURLs must contain at least one value");
    }
}

fn some(errors: &mut Errors, list: &Field<'_>, why: &str) {
    if list.is_empty() {
        errors.required(list, why);
    }
    if list.len() > 1 && list.items().any(|item| item.str() == "*") {
        let name = list.path.rsplit('.').next().unwrap_or_default();
        errors.invalid(list, format!("if '*' is present, must not specify other {name}"));
    }
}

fn verbs(errors: &mut Errors, list: &Field<'_>) {
    some(errors, list, "verbs must contain at least one value");
    for verb in list.items().filter(|verb| !VERBS.contains(&verb.str())) {
        errors.not_supported(&verb, VERBS);
    }
}

fn subject(errors: &mut Errors, at: &Field<'_>) {
    let sorts = [("User", "user"), ("Group", "group"), ("ServiceAccount", "serviceAccount")];
    let kind = at.get("kind");
    if !sorts.iter().any(|(known, _)| *known == kind.str()) {
        return errors.not_supported(&kind, &["Group", "ServiceAccount", "User"]);
    }
    for (sort, field) in sorts {
        let part = at.get(field);
        if sort == kind.str() && !part.exists() {
            errors.required(&part, format!("{field} is required when subject kind is '{sort}'"));
        } else if sort == kind.str() && part.get("name").is_empty() {
            errors.required(&part.get("name"), "");
        } else if sort != kind.str() && part.exists() {
            errors.forbidden(&part, format!("{field} is forbidden when subject kind is not '{sort}'"));
        }
    }
    if kind.str() == "ServiceAccount" && at.get("serviceAccount").get("namespace").is_empty() {
        errors.required(&at.get("serviceAccount").get("namespace"), "must specify namespace for service account");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_say_who_and_what() {
        let good = json!({"metadata": {"name": "a"}, "spec": {"matchingPrecedence": 1000,
            "priorityLevelConfiguration": {"name": "p"}, "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "jo"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}]}]}});
        assert!(FlowSchema.validate(&good).is_empty());
        let bad = json!({"metadata": {"name": "a"}, "spec": {"matchingPrecedence": 1,
            "distinguisherMethod": {"type": "ByMood"}, "rules": [{"subjects": [{"kind": "User", "group": {"name": "g"}}],
                "resourceRules": [{"verbs": ["*", "get"], "apiGroups": ["a"], "resources": ["r"]}]}, {}]}});
        let told: Vec<String> = FlowSchema.validate(&bad).0.iter().map(|error| error.path.clone()).collect();
        assert_eq!(
            told,
            [
                "spec.matchingPrecedence",
                "spec.priorityLevelConfiguration.name",
                "spec.distinguisherMethod.type",
                "spec.rules[0].subjects[0].user",
                "spec.rules[0].subjects[0].group",
                "spec.rules[0].resourceRules[0].verbs",
                "spec.rules[0].resourceRules[0].namespaces",
                "spec.rules[1].subjects",
                "spec.rules[1]",
            ]
        );
    }
}

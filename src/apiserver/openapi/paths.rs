//! Paths and operations, from the kinds' verbs and subresources.

use serde_json::{Map, Value, json};

use super::schemas::{gvk, of_subresource};
use super::{Dialect, path_of};
use crate::kinds::KindInfo;

const PATCH_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const BODY_TYPES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCH_SCHEMA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const STATUS_SCHEMA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS_SCHEMA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// The paths of the given kinds.
pub fn of(infos: &[&KindInfo], dialect: Dialect) -> Map<String, Value> {
    let mut paths = Map::new();
    for info in infos {
        Resource { info, dialect }.add(&mut paths);
    }
    paths
}

struct Resource<'a> {
    info: &'a KindInfo,
    dialect: Dialect,
}

/// One operation, before it is written in a dialect.
struct Operation<'a> {
    method: &'static str,
    /// As upstream names it in `x-kubernetes-action`.
    action: &'static str,
    id: String,
    /// What is answered, by schema name.
    answer: &'a str,
    body: Option<&'a str>,
    query: &'static [Query],
    gvk: Value,
}

/// Name, type and meaning of a query parameter.
type Query = (&'static str, &'static str, &'static str);

const PRETTY: Query = ("pretty", "string", "If 'true', the answer is indented.");
const DRY_RUN: Query = ("dryRun", "string", "With 'All' the request is processed but nothing is stored.");
const FIELD_MANAGER: Query = ("fieldManager", "string", "The name of who makes the change, up to 128 bytes.");
const FIELD_VALIDATION: Query = (
    "fieldValidation",
    "string",
    "What happens to unknown and duplicate fields: 'Ignore' drops them, 'Warn' drops and warns of them, 'Strict' refuses the request.",
);
const FORCE: Query = ("force", "boolean", "For apply patches: take fields over from other managers.");
const GRACE: Query = ("gracePeriodSeconds", "integer", "The seconds that the object may take to go.");
const PROPAGATION: Query =
    ("propagationPolicy", "string", "What happens to dependents: Orphan, Background or Foreground.");
const LABELS: Query = ("labelSelector", "string", "Restricts the objects by their labels.");
const FIELDS: Query = ("fieldSelector", "string", "Restricts the objects by their fields.");
const LIMIT: Query = ("limit", "integer", "The most objects in one answer.");
const CONTINUE: Query = ("continue", "string", "The token of the answer before, to go on with.");
const VERSION: Query = ("resourceVersion", "string", "The version to read at or watch from.");
const MATCH: Query = ("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan.");
const INITIAL: Query = ("sendInitialEvents", "boolean", "A watch begins with what there is.");
const BOOKMARKS: Query = ("allowWatchBookmarks", "boolean", "A watch may send bookmarks.");
const TIMEOUT: Query = ("timeoutSeconds", "integer", "Ends a list or watch after that time.");
const WATCH: Query = ("watch", "boolean", "Watch for changes instead of listing.");

const READ: &[Query] = &[PRETTY];
const WRITE: &[Query] = &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const PATCH: &[Query] = &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
const DELETE: &[Query] = &[PRETTY, DRY_RUN, GRACE, PROPAGATION];
const LIST: &[Query] = &[PRETTY, LABELS, FIELDS, LIMIT, CONTINUE, VERSION, MATCH, INITIAL, BOOKMARKS, TIMEOUT, WATCH];

impl<'a> Resource<'a> {
    fn add(&self, paths: &mut Map<String, Value>) {
        let info = self.info;
        let root = format!("/{}", path_of(info.group, info.version));
        let (scope, inside) = if info.namespaced {
            (format!("{root}/namespaces/{{namespace}}"), "Namespaced")
        } else {
            (root.clone(), "")
        };
        let list_schema = format!("{}List", info.schema);
        let collection = format!("{scope}/{}", info.plural);
        let operations = self.collection_operations(inside, &list_schema);
        self.insert(paths, &collection, &operations, info.namespaced, false);
        let item = format!("{collection}/{{name}}");
        let operations = self.item_operations(inside);
        self.insert(paths, &item, &operations, info.namespaced, true);
        if info.namespaced {
            let all = Operation {
                id: self.id("list", "", "ForAllNamespaces"),
                ..self.operation("get", "list", &list_schema, None, LIST)
            };
            self.insert(paths, &format!("{root}/{}", info.plural), &[all], false, false);
        }
        for subresource in info.subresources.iter().filter(|subresource| !subresource.is_proxy()) {
            let stream = subresource.is_stream();
            let schema = if stream { String::new() } else { of_subresource(info, subresource) };
            let gvk = match subresource.version {
                "" => gvk(info.group, info.version, subresource.kind),
                version => gvk(subresource.group, version, subresource.kind),
            };
            let verbs = subresource.verbs.iter();
            let operations: Vec<Operation<'_>> = verbs
                .filter_map(|verb| self.verb(verb, &schema))
                .map(|operation| match stream {
                    true => self.connect(operation, inside, subresource.name),
                    false => Operation { id: self.id(operation.action, inside, &upper(subresource.name)), ..operation },
                })
                .map(|operation| Operation { gvk: gvk.clone(), ..operation })
                .collect();
            self.insert(paths, &format!("{item}/{}", subresource.name), &operations, info.namespaced, true);
        }
    }

    /// An operation of a stream: what comes back is no object.
    fn connect<'b>(&self, operation: Operation<'b>, inside: &str, name: &str) -> Operation<'b> {
        let method = upper(operation.method);
        let id = format!("connect{}{method}{inside}{}{}", self.tag(true), self.info.kind, upper(name));
        Operation { id, action: "connect", answer: "", body: None, query: &[], ..operation }
    }

    fn collection_operations<'b>(&'b self, inside: &str, list_schema: &'b str) -> Vec<Operation<'b>> {
        let schema = self.info.schema;
        [
            ("list", self.operation("get", "list", list_schema, None, LIST)),
            ("create", self.operation("post", "post", schema, Some(schema), WRITE)),
            (
                "deletecollection",
                self.operation("delete", "deletecollection", STATUS_SCHEMA, Some(DELETE_OPTIONS_SCHEMA), LIST),
            ),
        ]
        .into_iter()
        .filter(|(verb, _)| self.info.verbs.contains(verb))
        .map(|(_, operation)| Operation { id: self.id(operation.action, inside, ""), ..operation })
        .collect()
    }

    fn item_operations(&self, inside: &str) -> Vec<Operation<'_>> {
        let verbs = ["get", "update", "patch", "delete"].into_iter().filter(|verb| self.info.verbs.contains(verb));
        verbs
            .filter_map(|verb| self.verb(verb, self.info.schema))
            .map(|operation| Operation { id: self.id(operation.action, inside, ""), ..operation })
            .collect()
    }

    fn verb<'b>(&self, verb: &str, schema: &'b str) -> Option<Operation<'b>> {
        Some(match verb {
            "get" => self.operation("get", "get", schema, None, READ),
            "create" => self.operation("post", "post", schema, Some(schema), WRITE),
            "update" => self.operation("put", "put", schema, Some(schema), WRITE),
            "patch" => self.operation("patch", "patch", schema, Some(PATCH_SCHEMA), PATCH),
            "delete" => self.operation("delete", "delete", STATUS_SCHEMA, Some(DELETE_OPTIONS_SCHEMA), DELETE),
            _ => return None,
        })
    }

    fn operation<'b>(
        &self,
        method: &'static str,
        action: &'static str,
        answer: &'b str,
        body: Option<&'b str>,
        query: &'static [Query],
    ) -> Operation<'b> {
        let info = self.info;
        Operation {
            method,
            action,
            id: String::new(),
            answer,
            body,
            query,
            gvk: gvk(info.group, info.version, info.kind),
        }
    }

    /// `readAppsV1NamespacedDeploymentScale`
    fn id(&self, action: &str, inside: &str, rest: &str) -> String {
        let action = match action {
            "get" => "read",
            "post" => "create",
            "put" => "replace",
            other => other,
        };
        format!("{action}{}{inside}{}{rest}", self.tag(true), self.info.kind)
    }

    /// `AppsV1`, or `apps_v1` as a tag.
    fn tag(&self, in_id: bool) -> String {
        let group = match self.info.group.split('.').next() {
            None | Some("") => "core",
            Some(group) => group,
        };
        if in_id {
            format!("{}{}", upper(group), upper(self.info.version))
        } else {
            format!("{group}_{}", self.info.version)
        }
    }

    fn insert(
        &self,
        paths: &mut Map<String, Value>,
        path: &str,
        operations: &[Operation<'_>],
        namespaced: bool,
        named: bool,
    ) {
        if operations.is_empty() {
            return;
        }
        let mut item = Map::new();
        let mut parameters = Vec::new();
        if named {
            parameters.push(self.parameter("name", "path", "string", &format!("name of the {}", self.info.kind)));
        }
        if namespaced {
            parameters.push(self.parameter("namespace", "path", "string", "the namespace of the object"));
        }
        item.insert("parameters".to_owned(), Value::Array(parameters));
        for operation in operations {
            item.insert(operation.method.to_owned(), self.write(operation));
        }
        paths.insert(path.to_owned(), Value::Object(item));
    }

    fn write(&self, operation: &Operation<'_>) -> Value {
        let query = operation.query.iter();
        let mut parameters: Vec<Value> =
            query.map(|(name, kind, text)| self.parameter(name, "query", kind, text)).collect();
        let reference = |name: &str| match name {
            "" => json!({"type": "string"}),
            name => json!({"$ref": self.dialect.reference(name)}),
        };
        let custom = self.info.own_plural().is_empty();
        let types = match operation.method {
            // Custom resources have neither strategies to merge by nor numbers for their fields.
            "patch" if custom => &PATCH_TYPES[..PATCH_TYPES.len() - 1],
            "patch" => PATCH_TYPES,
            _ if custom => &BODY_TYPES[..BODY_TYPES.len() - 1],
            _ => BODY_TYPES,
        };
        let answer_types =
            if operation.answer.is_empty() { &["*/*"][..] } else { &["application/json", "application/yaml"] };
        let ok = match operation.method {
            "post" if operation.action != "connect" => "201",
            _ => "200",
        };
        let mut written = json!({
            "operationId": operation.id,
            "description": format!("{} {}", operation.action, self.info.plural),
            "tags": [self.tag(false)],
            "x-kubernetes-action": operation.action,
            "x-kubernetes-group-version-kind": operation.gvk,
        });
        match self.dialect {
            Dialect::V3 => {
                let content = |types: &[&str], name: &str| -> Map<String, Value> {
                    types.iter().map(|media| ((*media).to_owned(), json!({"schema": reference(name)}))).collect()
                };
                if let Some(body) = operation.body {
                    written["requestBody"] = json!({"content": content(types, body)});
                }
                let answer = content(answer_types, operation.answer);
                written["responses"] = json!({ok: {"description": "OK", "content": answer}});
            }
            Dialect::V2 => {
                if let Some(body) = operation.body {
                    parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": reference(body)}));
                }
                written["consumes"] = json!(types);
                written["produces"] = json!(answer_types);
                written["responses"] = json!({ok: {"description": "OK", "schema": reference(operation.answer)}});
            }
        }
        written["parameters"] = Value::Array(parameters);
        written
    }

    fn parameter(&self, name: &str, place: &str, kind: &str, text: &str) -> Value {
        let mut parameter = json!({"name": name, "in": place, "description": text, "uniqueItems": true});
        if place == "path" {
            parameter["required"] = Value::Bool(true);
        }
        match self.dialect {
            Dialect::V2 => parameter["type"] = Value::from(kind),
            Dialect::V3 => {
                parameter["schema"] = json!({"type": kind, "uniqueItems": true});
                if let Some(map) = parameter.as_object_mut() {
                    map.remove("uniqueItems");
                }
            }
        }
        parameter
    }
}

fn upper(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

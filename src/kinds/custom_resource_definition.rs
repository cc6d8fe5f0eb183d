//! CustomResourceDefinition of `apiextensions.k8s.io/v1`: a kind that a user makes.
//!
//! What the schema of a version may be is [`structural::check`](super::structural::check)'s to say; here
//! is the rest. Upstream keeps what all versions have alike in one place, and its errors name that place:
//! a definition with one version has `spec.validation`, one with several different has `spec.versions[0].schema`.

pub mod approval;

use serde_json::{Value, json};

use super::common::text;
use super::field::{Errors, Field, Reason};
use super::schema::{self, conform::conform};
use super::structural::{Schema, Type, check, paths::JsonPath};
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column, meta, names};

pub struct CustomResourceDefinition;

static INFO: KindInfo = KindInfo {
    group: "apiextensions.k8s.io",
    version: "v1",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("CustomResourceDefinition")],
    schema: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    storage: "apiextensions.k8s.io/customresourcedefinitions",
    storage_version_hash: "M5uH+AlWATY=",
};

static COLUMNS: &[Column] = &[column("Name", "string", "name", 0), column("Created At", "date", "", 0)];

/// Holds a deleted definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
const WEBHOOK_PORT: i64 = 443;
const MAX_SELECTABLE: usize = 8;

impl Kind for CustomResourceDefinition {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        let spec = meta::object_mut(object, "spec");
        let names = spec.entry("names").or_insert_with(|| json!({}));
        let kind = text(names, "/kind").to_owned();
        if let Some(names) = names.as_object_mut()
            && !kind.is_empty()
        {
            let mut fill = |name: &str, value: String| {
                if names.get(name).is_none_or(meta::is_empty) {
                    names.insert(name.to_owned(), value.into());
                }
            };
            fill("singular", kind.to_lowercase());
            fill("listKind", format!("{kind}List"));
        }
        if spec.get("conversion").is_none_or(Value::is_null) {
            spec.insert("conversion".to_owned(), json!({"strategy": "None"}));
        }
        if let Some(service) = object.pointer_mut("/spec/conversion/webhook/clientConfig/service")
            && service.is_object()
            && service["port"].is_null()
        {
            service["port"] = WEBHOOK_PORT.into();
        }
        for version in object["spec"]["versions"].as_array_mut().into_iter().flatten() {
            if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
                type_nested(schema);
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] =
            json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": null, "storedVersions": null});
        note_storage(object);
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::update_spec(new, old);
        note_storage(new);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::update_status(new, old);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = validate_whole(object, true);
        let root = Field::root(object);
        let group = root.get("spec").get("group");
        let approved = root.get("metadata").get("annotations").key(approval::ANNOTATION);
        approval::check(&mut errors, group.str(), &approved, None);
        if object["spec"]["preserveUnknownFields"] == true {
            let detail = "must be false in order to use defaults in the schema";
            errors.invalid(&root.get("spec").get("preserveUnknownFields"), detail);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        // A schema that stays as it is is not judged again: it may be older than a rule.
        let schemas = new["spec"]["versions"] != old["spec"]["versions"];
        let mut errors = validate_whole(new, schemas);
        let (spec, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
        fn approved(object: &Value) -> Field<'_> {
            Field::root(object).get("metadata").get("annotations").key(approval::ANNOTATION)
        }
        approval::check(&mut errors, spec.get("group").str(), &approved(new), Some(approved(old).str()));
        let mut immutable = |path: &[&str]| {
            let at = |field: &Field<'_>| -> Value { path.iter().fold(field.value, |at, name| &at[*name]).clone() };
            if at(&spec) != at(&before) {
                let path = format!("spec.{}", path.join("."));
                errors.push(Reason::Invalid, path, Some(at(&spec)), "field is immutable");
            }
        };
        immutable(&["group"]);
        immutable(&["names", "plural"]);
        if is_established(old) {
            immutable(&["scope"]);
            immutable(&["names", "kind"]);
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Errors {
        let mut errors = Errors::default();
        stored_versions(&mut errors, new);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, _now: jiff::Timestamp) -> Vec<Value> {
        vec![text(object, "/metadata/name").into(), text(object, "/metadata/creationTimestamp").into()]
    }
}

/// Marks a definition that is being deleted: nothing may be made of it any more, and it stays until all
/// that has been made is gone.
pub fn begin_deletion(definition: &mut Value, now: jiff::Timestamp) {
    let finalizers = meta::metadata_mut(definition).entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !list.iter().any(|known| known == CLEANUP)
    {
        list.push(CLEANUP.into());
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set_condition(definition, ("Terminating", true), "InstanceDeletionPending", message, now);
}

/// Sets a condition; its time changes with its status only.
pub fn set_condition(
    definition: &mut Value,
    (name, status): (&str, bool),
    reason: &str,
    message: &str,
    now: jiff::Timestamp,
) {
    let status = if status { "True" } else { "False" };
    let conditions = meta::object_mut(definition, "status").entry("conditions").or_insert(Value::Null);
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    let known = list.iter().position(|condition| condition["type"] == name);
    let since = known.map(|at| &list[at]).filter(|condition| condition["status"] == status);
    let since =
        since.map_or_else(|| super::time::write(now).into(), |condition| condition["lastTransitionTime"].clone());
    let condition =
        json!({"type": name, "status": status, "reason": reason, "message": message, "lastTransitionTime": since});
    match known {
        Some(at) => list[at] = condition,
        None => list.push(condition),
    }
}

/// Whether a definition's names are accepted and its objects served.
pub fn is_established(definition: &Value) -> bool {
    holds(definition, "Established")
}

/// Whether a condition of a definition is `True`.
pub fn holds(definition: &Value, condition: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|known| known["type"] == condition && known["status"] == "True")
}

/// Schemas inside of `items` and its like may be something else than schemas, so the field table leaves
/// them untyped; those that are schemas get their types here.
fn type_nested(schema: &mut Value) {
    let Some(ty) = schema::lookup("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps") else {
        return;
    };
    let Some(map) = schema.as_object_mut() else { return };
    for (name, value) in map {
        match (name.as_str(), value) {
            ("items" | "additionalProperties" | "not", value @ Value::Object(_)) => {
                // What is of a wrong type stays, for validation to refuse.
                let _ = conform(ty, value, &mut Vec::new());
                type_nested(value);
            }
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(type_nested),
            ("allOf" | "anyOf" | "oneOf", Value::Array(several)) => several.iter_mut().for_each(type_nested),
            _ => {}
        }
    }
}

/// Remembers that objects may be stored in the version that is for storing.
fn note_storage(object: &mut Value) {
    let versions = object["spec"]["versions"].as_array().into_iter().flatten();
    let storage = versions.into_iter().find(|version| version["storage"] == true);
    let Some(name) = storage.map(|version| version["name"].clone()) else { return };
    let status = meta::object_mut(object, "status");
    let stored = status.entry("storedVersions").or_insert(Value::Null);
    match stored {
        Value::Array(known) if known.contains(&name) => {}
        Value::Array(known) => known.push(name),
        other => *other = json!([name]),
    }
}

fn validate_whole(object: &Value, schemas: bool) -> Errors {
    let mut errors = Errors::default();
    let root = Field::root(object);
    let spec = root.get("spec");
    let wanted = format!("{}.{}", text(object, "/spec/names/plural"), text(object, "/spec/group"));
    let name = root.get("metadata").get("name");
    if name.str() != wanted {
        errors.invalid(&name, "must be spec.names.plural+\".\"+spec.group");
    }
    group(&mut errors, &spec.get("group"));
    let scope = spec.get("scope");
    if scope.is_empty() {
        errors.required(&scope, "");
    } else if !matches!(scope.str(), "Cluster" | "Namespaced") {
        errors.not_supported(&scope, &["Cluster", "Namespaced"]);
    }
    versions(&mut errors, &spec, schemas);
    all_names(&mut errors, &spec.get("names"));
    conversion(&mut errors, &spec.get("conversion"));
    stored_versions(&mut errors, object);
    errors
}

fn group(errors: &mut Errors, group: &Field<'_>) {
    if group.is_empty() {
        errors.required(group, "");
        return;
    }
    let wrong = names::dns1123_subdomain(group.str());
    if !wrong.is_empty() {
        errors.invalid(group, wrong.join(","));
    } else if !group.str().contains('.') {
        errors.invalid(group, "should be a domain with at least one dot");
    }
}

fn versions(errors: &mut Errors, spec: &Field<'_>, schemas: bool) {
    let all = spec.get("versions");
    let alike = |name: &str| {
        let mut said = all.items().map(|version| version.get(name).value.clone());
        let first = said.next();
        said.all(|other| Some(&other) == first.as_ref())
    };
    // Upstream moves what is alike out of the versions, and names the place where it then is.
    let mut named = Vec::new();
    for (i, version) in all.items().enumerate() {
        let name = version.get("name");
        let wrong = names::dns1035_label(name.str());
        if !wrong.is_empty() {
            errors.invalid_str(&name, wrong.join(","));
        }
        if named.contains(&name.str()) {
            errors.push_text(Reason::Invalid, &all.path, go_versions(&all), "must contain unique version names");
        }
        named.push(name.str());
        if version.get("deprecationWarning").exists() && !version.get("deprecated").bool() {
            errors.invalid(&version.get("deprecationWarning"), "can only be set for deprecated versions");
        }
        let place = |name: &str, top: &str| {
            let value = version.get(name).value;
            if alike(name) {
                (i == 0).then(|| Field::new(format!("{}.{top}", spec.path), value))
            } else {
                Some(Field::new(format!("{}.{name}", version.path), value))
            }
        };
        if schemas && let Some(at) = place("schema", "validation") {
            let schema = at.get("openAPIV3Schema");
            if schema.exists() {
                errors.extend(check::check(&schema));
            } else {
                errors.required(
                    &Field::new(format!("{}.schema.openAPIV3Schema", version.path), &Value::Null),
                    "schemas are required",
                );
            }
        }
        if let Some(at) = place("subresources", "subresources") {
            scale(errors, &at.get("scale"));
        }
        if let Some(at) = place("selectableFields", "selectableFields") {
            let schema = Schema::parse(&version.value["schema"]["openAPIV3Schema"]);
            selectable(errors, &at, &schema);
        }
        if let Some(at) = place("additionalPrinterColumns", "additionalPrinterColumns") {
            at.items().for_each(|column| printer(errors, &column));
        }
    }
    if all.items().filter(|version| version.get("storage").bool()).count() != 1 {
        errors.push_text(
            Reason::Invalid,
            &all.path,
            go_versions(&all),
            "must have exactly one version marked as storage version",
        );
    }
}

/// The versions as upstream's structs are written.
fn go_versions(all: &Field<'_>) -> String {
    let one = |version: Field<'_>| {
        let warning = &version.value["deprecationWarning"];
        format!(
            "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{warning},\"Schema\":null,\"Subresources\":null,\"AdditionalPrinterColumns\":null,\"SelectableFields\":null}}",
            version.get("name").str_value(),
            version.get("served").bool(),
            version.get("storage").bool(),
            version.get("deprecated").bool(),
        )
    };
    format!("[{}]", all.items().map(one).collect::<Vec<_>>().join(","))
}

fn scale(errors: &mut Errors, scale: &Field<'_>) {
    if !scale.exists() {
        return;
    }
    check::simple_path(errors, &scale.get("specReplicasPath"), ".spec");
    check::simple_path(errors, &scale.get("statusReplicasPath"), ".status");
    let selector = scale.get("labelSelectorPath");
    if !selector.is_empty() && !selector.str().starts_with(".spec.") {
        check::simple_path(errors, &selector, ".status");
    }
}

fn selectable(errors: &mut Errors, fields: &Field<'_>, schema: &Schema) {
    if fields.len() > MAX_SELECTABLE {
        errors.too_many(fields, fields.len(), MAX_SELECTABLE);
    }
    let mut seen = Vec::new();
    for field in fields.items() {
        let path = field.get("jsonPath");
        if path.is_empty() {
            errors.required(&path, "");
            continue;
        }
        if seen.contains(&path.str()) {
            errors.duplicate(&path);
        }
        seen.push(path.str());
        match check::type_at(schema, path.str()) {
            Some(Type::String | Type::Boolean | Type::Integer) => {}
            Some(_) => errors.invalid(&path, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."),
            None => errors.invalid(&path, "is an invalid path: does not refer to a valid field"),
        }
    }
}

const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] =
    &["binary", "bool", "byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

fn printer(errors: &mut Errors, column: &Field<'_>) {
    let (ty, format) = (column.get("type"), column.get("format"));
    if column.get("name").is_empty() {
        errors.required(&column.get("name"), "");
    }
    if ty.is_empty() {
        errors.required(&ty, format!("must be one of {}", COLUMN_TYPES.join(",")));
    } else if !COLUMN_TYPES.contains(&ty.str()) {
        errors.invalid(&ty, format!("must be one of {}", COLUMN_TYPES.join(",")));
    }
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format.str()) {
        errors.invalid(&format, format!("must be one of {}", COLUMN_FORMATS.join(",")));
    }
    let path = Field::new(format!("{}.JSONPath", column.path), column.get("jsonPath").value);
    if path.is_empty() {
        errors.required(&path, "");
    } else if !path.str().starts_with('.') {
        errors.invalid(&path, "must be a simple json path starting with .");
    } else if JsonPath::parse(path.str()).is_none() {
        errors.invalid(&path, "must be a json path in the dot notation");
    }
}

fn all_names(errors: &mut Errors, at: &Field<'_>) {
    let label = |errors: &mut Errors, field: &Field<'_>, mixed: bool| {
        let lower = field.str().to_lowercase();
        let wrong = names::dns1035_label(if mixed { &lower } else { field.str() });
        if !wrong.is_empty() {
            let prefix = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.invalid(field, format!("{prefix}{}", wrong.join(",")));
        }
    };
    for (name, mixed) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        let field = at.get(name);
        if field.is_empty() {
            errors.required(&field, "");
        } else {
            label(errors, &field, mixed);
        }
    }
    for name in ["shortNames", "categories"] {
        at.get(name).items().for_each(|field| label(errors, &field, false));
    }
    let (kind, list) = (at.get("kind"), at.get("listKind"));
    if !kind.is_empty() && kind.str() == list.str() {
        errors.invalid(&list, "kind and listKind may not be the same");
    }
}

fn conversion(errors: &mut Errors, conversion: &Field<'_>) {
    let (strategy, webhook) = (conversion.get("strategy"), conversion.get("webhook"));
    match strategy.str() {
        "None" => {
            if webhook.exists() {
                errors.forbidden(&webhook, "should not be set when strategy is not set to Webhook");
            }
        }
        "Webhook" => {
            let config = webhook.get("clientConfig");
            if !webhook.exists() || !config.exists() {
                errors.required(
                    &Field::new(format!("{}.webhookClientConfig", conversion.path), &Value::Null),
                    "required when strategy is set to Webhook",
                );
            } else if config.get("url").exists() == config.get("service").exists() {
                errors.required(
                    &Field::new(format!("{}.webhookClientConfig", conversion.path), &Value::Null),
                    "exactly one of url or service is required",
                );
            }
            let known = webhook.get("conversionReviewVersions");
            let shown = Field::new(format!("{}.conversionReviewVersions", conversion.path), known.value);
            if known.is_empty() {
                errors.required(&shown, "");
            } else if !known.items().any(|version| matches!(version.str(), "v1" | "v1beta1")) {
                errors.invalid(&shown, "must include at least one of v1, v1beta1");
            }
        }
        "" => errors.required(&strategy, ""),
        _ => errors.not_supported(&strategy, &["None", "Webhook"]),
    }
}

fn stored_versions(errors: &mut Errors, object: &Value) {
    let root = Field::root(object);
    let stored = root.get("status").get("storedVersions");
    if stored.is_empty() {
        errors.invalid(&stored, "must have at least one stored version");
    }
    let versions = root.get("spec").get("versions");
    for (i, known) in stored.items().enumerate() {
        if !versions.items().any(|version| version.get("name").str() == known.str()) {
            let name = known.str();
            errors.invalid(
                &stored.index(i),
                format!("missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"),
            );
        }
    }
}

//! Whether a schema is one that may be served: structural, with lists, defaults and rules that make sense.
//!
//! The sentences are upstream's. Upstream sorts the errors of a schema's structure, because its maps have
//! no order; so does this.

use serde_json::Value;

use super::{Schema, defaults, is_meta, paths::JsonPath, prune, validate};
use crate::cel::check::Type as Of;
use crate::cel::pattern;
use crate::kinds::field::{Errors, Field};

/// Where in a schema a node stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What is wrong with a schema; `at` is its `openAPIV3Schema`.
pub fn check(at: &Field<'_>) -> Errors {
    let mut errors = Errors::default();
    supported(&mut errors, at, true);
    let mut structure = Errors::default();
    structural(&mut structure, at, Level::Root);
    structure.0.sort_by_key(ToString::to_string);
    errors.extend(structure);
    if errors.is_empty() {
        default_values(&mut errors, at, true);
        rules(&mut errors, at);
    }
    errors
}

/// Keys of JSON schema that custom resources do not have.
const UNSUPPORTED: &[&str] = &["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"];

fn supported(errors: &mut Errors, at: &Field<'_>, structural: bool) {
    for name in UNSUPPORTED {
        let there = at.get(name);
        if there.exists() {
            errors.forbidden(&there, format!("{name} is not supported"));
        }
    }
    if at.get("type").str() == "null" {
        errors.forbidden(&at.get("type"), "type cannot be set to null, use nullable as an alternative");
    }
    if at.get("items").value.is_array() {
        errors.forbidden(&at.get("items"), "items must be a schema object and not an array");
    }
    if at.get("uniqueItems").bool() {
        errors.forbidden(
            &at.get("uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
    if at.get("additionalProperties").exists() && !at.get("properties").is_empty() {
        let additional = at.get("additionalProperties");
        if additional.value != &Value::Bool(true) {
            errors.forbidden(&additional, "additionalProperties and properties are mutual exclusive");
        }
    }
    if structural {
        list_type(errors, at);
        map_type(errors, at);
    }
    let text = at.get("pattern");
    if !text.is_empty()
        && let Err(error) = pattern::compile(text.str())
    {
        errors.invalid(&text, format!("must be a valid regular expression, but isn't: {error}"));
    }
    for child in structure_of(at) {
        supported(errors, &child, structural);
    }
    for child in junctors_of(at) {
        supported(errors, &child, false);
    }
}

/// The schemas of an object's parts.
fn structure_of<'a>(at: &Field<'a>) -> Vec<Field<'a>> {
    let parts = [at.get("additionalProperties"), at.get("items")].into_iter().filter(|part| part.value.is_object());
    at.get("properties").entries().map(|(_, inner)| inner).chain(parts).collect()
}

/// The schemas that are only about values.
fn junctors_of<'a>(at: &Field<'a>) -> Vec<Field<'a>> {
    let not = Some(at.get("not")).filter(|not| not.value.is_object());
    ["allOf", "anyOf", "oneOf"].into_iter().flat_map(|name| at.get(name).items()).chain(not).collect()
}

fn list_type(errors: &mut Errors, at: &Field<'_>) {
    let (list, keys, items) = (at.get("x-kubernetes-list-type"), at.get("x-kubernetes-list-map-keys"), at.get("items"));
    let ty = at.get("type");
    if list.exists() && ty.str() != "array" {
        if ty.is_empty() {
            errors.required(&ty, "must be array if x-kubernetes-list-type is specified");
        } else {
            errors.invalid(&ty, "must be array if x-kubernetes-list-type is specified");
        }
    }
    match list.str() {
        "" if !list.exists() => {
            if !keys.is_empty() {
                errors.required(&list, "must be map if x-kubernetes-list-map-keys is non-empty");
            }
        }
        "atomic" | "set" => {
            if !keys.is_empty() {
                errors.invalid(&list, "must be map if x-kubernetes-list-map-keys is non-empty");
            }
            if list.str() == "set" {
                set_items(errors, &items);
            }
        }
        "map" => {
            if keys.is_empty() {
                errors.required(&keys, "must not be empty if x-kubernetes-list-type is map");
            }
            map_items(errors, &keys, &items);
        }
        _ => errors.not_supported(&list, &["atomic", "map", "set"]),
    }
}

fn set_items(errors: &mut Errors, items: &Field<'_>) {
    if items.get("nullable").bool() {
        errors.forbidden(&items.get("nullable"), "cannot be nullable when x-kubernetes-list-type is set");
    }
    match items.get("type").str() {
        "array" if items.get("x-kubernetes-list-type").str() != "atomic" => {
            errors.invalid_str(
                &items.get("x-kubernetes-list-type"),
                "must be atomic as item of a list with x-kubernetes-list-type=set",
            );
        }
        "object" if items.get("x-kubernetes-map-type").str() != "atomic" => {
            errors.invalid_str(
                &items.get("x-kubernetes-map-type"),
                "must be atomic as item of a list with x-kubernetes-list-type=set",
            );
        }
        _ => {}
    }
}

fn map_items(errors: &mut Errors, keys: &Field<'_>, items: &Field<'_>) {
    if !items.exists() {
        errors.required(items, "must have a schema if x-kubernetes-list-type is map");
        return;
    }
    let ty = items.get("type");
    if ty.str() != "object" {
        errors.invalid_str(&ty, "must be object if parent array's x-kubernetes-list-type is map");
    }
    let mut seen: Vec<&str> = Vec::new();
    for key in keys.items() {
        if seen.contains(&key.str()) {
            errors.duplicate(&key);
        }
        seen.push(key.str());
        let property = items.get("properties").key(key.str());
        if !property.exists() {
            errors.invalid(&key, "entries must all be names of item properties");
            continue;
        }
        if matches!(property.get("type").str(), "object" | "array") {
            errors.invalid(
                &property.get("type"),
                "must be a scalar type if parent array's x-kubernetes-list-type is map",
            );
        }
        let required = items.get("required").items().any(|name| name.str() == key.str());
        if !required && !property.get("default").exists() {
            errors.required(
                &property.get("default"),
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            );
        }
        if property.get("nullable").bool() {
            errors.forbidden(
                &property.get("nullable"),
                "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            );
        }
    }
}

fn map_type(errors: &mut Errors, at: &Field<'_>) {
    let (map, ty) = (at.get("x-kubernetes-map-type"), at.get("type"));
    if !map.exists() {
        return;
    }
    if ty.str() != "object" {
        if ty.is_empty() {
            errors.required(&ty, "must be object if x-kubernetes-map-type is specified");
        } else {
            errors.invalid(&ty, "must be object if x-kubernetes-map-type is specified");
        }
    }
    if !matches!(map.str(), "atomic" | "granular") {
        errors.not_supported(&map, &["atomic", "granular"]);
    }
}

fn structural(errors: &mut Errors, at: &Field<'_>, level: Level) {
    let flag = |name: &str| at.get(name).bool();
    let (embedded, free) = (flag("x-kubernetes-embedded-resource"), flag("x-kubernetes-preserve-unknown-fields"));
    let int_or_string = flag("x-kubernetes-int-or-string");
    let (ty, items, additional) = (at.get("type"), at.get("items"), at.get("additionalProperties"));
    if ty.str() == "array" && !items.exists() {
        errors.required(&items, "must be specified");
    }
    if items.value.is_object() {
        structural(errors, &items, Level::Item);
    }
    for (_, property) in at.get("properties").entries() {
        structural(errors, &property, Level::Field);
    }
    if additional.exists() {
        if level == Level::Root {
            errors.forbidden(&additional, "must not be used at the root");
        }
        if embedded {
            errors.forbidden(&additional, "must not be used if x-kubernetes-embedded-resource is set");
        }
        if additional.value.is_object() {
            structural(errors, &additional, Level::Field);
        }
    }
    if int_or_string && free {
        errors.invalid(
            &at.get("x-kubernetes-preserve-unknown-fields"),
            "must be false if x-kubernetes-int-or-string is true",
        );
    }
    if int_or_string && embedded {
        errors
            .invalid(&at.get("x-kubernetes-embedded-resource"), "must be false if x-kubernetes-int-or-string is true");
    }
    let alternatives = int_or_string && is_int_or_string(&at.get("anyOf"));
    for junctor in ["anyOf", "allOf", "oneOf"] {
        if junctor == "anyOf" && alternatives {
            continue;
        }
        for (i, inner) in at.get(junctor).items().enumerate() {
            let first = junctor == "allOf" && i == 0 && int_or_string && is_int_or_string(&inner.get("anyOf"));
            nested(errors, &inner, first, junctor == "allOf");
        }
    }
    if at.get("not").exists() {
        nested(errors, &at.get("not"), false, false);
    }
    own_type(errors, &ty, level, embedded, int_or_string || free);
    if level == Level::Root || embedded {
        metadata(errors, at, level);
    }
    if embedded && !free && at.get("properties").is_empty() {
        errors.required(
            &at.get("properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        );
    }
}

fn own_type(errors: &mut Errors, ty: &Field<'_>, level: Level, embedded: bool, any: bool) {
    let why = "must be object if x-kubernetes-embedded-resource is true";
    match (ty.str(), level) {
        ("", _) if embedded => errors.required(ty, why),
        (name, _) if embedded && name != "object" => errors.invalid(ty, why),
        ("", _) if any => {}
        ("", Level::Root) => errors.required(ty, "must not be empty at the root"),
        ("", Level::Item) => errors.required(ty, "must not be empty for specified array items"),
        ("", Level::Field) => errors.required(ty, "must not be empty for specified object fields"),
        ("object", _) => {}
        (_, Level::Root) => errors.invalid(ty, "must be object at the root"),
        (name, _) if !super::Type::NAMES.contains(&name) => {
            errors.not_supported(ty, super::Type::NAMES);
        }
        _ => {}
    }
}

fn metadata(errors: &mut Errors, at: &Field<'_>, level: Level) {
    for name in ["apiVersion", "kind"] {
        let property = at.get("properties").key(name);
        if property.exists() && property.get("type").str() != "string" {
            errors.invalid_str(&property.get("type"), "must be string");
        }
    }
    let property = at.get("properties").key("metadata");
    if !property.exists() {
        return;
    }
    if property.get("type").str() != "object" {
        errors.invalid_str(&property.get("type"), "must be object");
    }
    let said = property.value.as_object().into_iter().flatten();
    let only_names = said.into_iter().all(|(name, value)| match name.as_str() {
        "type" | "description" => true,
        "properties" => {
            value.as_object().is_none_or(|map| map.keys().all(|key| key == "name" || key == "generateName"))
        }
        _ => false,
    });
    if level == Level::Root && !only_names {
        errors.forbidden(
            &property,
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        );
    }
}

fn is_int_or_string(any_of: &Field<'_>) -> bool {
    any_of.value == &serde_json::json!([{"type": "integer"}, {"type": "string"}])
}

/// Keys that only the structure of a schema may have, and what they must be elsewhere.
const STRUCTURE: &[(&str, &str)] = &[
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("externalDocs", "must be undefined to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
];

/// A schema below `anyOf` and its like, which may speak of values only.
fn nested(errors: &mut Errors, at: &Field<'_>, int_or_string: bool, rules_allowed: bool) {
    for (name, why) in STRUCTURE {
        let there = at.get(name);
        if there.exists() && there.value != &Value::Bool(false) {
            errors.forbidden(&there, *why);
        }
    }
    if !at.get("x-kubernetes-validations").is_empty() && !rules_allowed {
        errors.forbidden(&at.get("x-kubernetes-validations"), "must be empty to be structural");
    }
    let properties = at.get("properties");
    if properties.key("metadata").exists() {
        errors.forbidden(&properties.key("metadata"), "must not be specified in a nested context");
    }
    for (_, property) in properties.entries() {
        nested(errors, &property, false, rules_allowed);
    }
    if at.get("items").exists() {
        nested(errors, &at.get("items"), false, rules_allowed);
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        if junctor == "anyOf" && int_or_string {
            continue;
        }
        for inner in at.get(junctor).items() {
            nested(errors, &inner, false, junctor == "allOf" && rules_allowed);
        }
    }
    if at.get("not").exists() {
        nested(errors, &at.get("not"), false, false);
    }
}

/// Defaults must be values of their schema, and pruned.
fn default_values(errors: &mut Errors, at: &Field<'_>, root: bool) {
    let default = at.get("default");
    if default.exists() {
        if root {
            errors.forbidden(&default, "must not be set at the root");
            return;
        }
        let schema = Schema::parse(at.value);
        let mut value = default.value.clone();
        prune::prune(&schema, &mut value, &mut Vec::new());
        if &value != default.value {
            errors.invalid(&default, "must be pruned");
        }
        defaults::default(&schema, &mut value);
        for mut error in validate::validate_value(&schema, &value).0 {
            error.path = if error.path.is_empty() || error.path == "<nil>" {
                default.path.clone()
            } else {
                format!("{}.{}", default.path, error.path)
            };
            errors.0.push(error);
        }
    }
    for child in structure_of(at) {
        let metadata = root && child.path.ends_with("properties[metadata]");
        if !metadata {
            default_values(errors, &child, false);
        }
    }
}

/// What a rule may give as its reason.
const REASONS: &[&str] = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
const MAX_MESSAGE: usize = 2048;

fn rules(errors: &mut Errors, at: &Field<'_>) {
    let all = at.get("x-kubernetes-validations");
    if !all.is_empty() {
        let schema = Schema::parse(at.value);
        all.items().for_each(|rule| one_rule(errors, &rule, &schema));
    }
    for child in structure_of(at) {
        rules(errors, &child);
    }
}

fn one_rule(errors: &mut Errors, rule: &Field<'_>, schema: &Schema) {
    let (source, message, expression) = (rule.get("rule"), rule.get("message"), rule.get("messageExpression"));
    if source.str().trim().is_empty() {
        errors.required(&source, "rule is not specified");
        return;
    }
    if message.exists() && message.str().trim().is_empty() {
        errors.invalid(&message, "message must be non-empty if specified");
    }
    if message.str().contains('\n') {
        errors.invalid(&message, "message must not contain line breaks");
    }
    if message.str().len() > MAX_MESSAGE {
        errors.too_long(&message, MAX_MESSAGE);
    }
    if source.str().contains('\n') && message.is_empty() {
        errors.required(&message, "message must be specified if rule contains line breaks");
    }
    if expression.exists() && expression.str().trim().is_empty() {
        errors.required(&expression, "messageExpression must be non-empty if specified");
    }
    let reason = rule.get("reason");
    if reason.exists() && !REASONS.contains(&reason.str()) {
        errors.not_supported(&reason, REASONS);
    }
    let below = rule.get("fieldPath");
    if below.exists() {
        let names = JsonPath::parse(below.str());
        let names = names.as_ref().and_then(JsonPath::names);
        let end = names.and_then(|names| names.into_iter().try_fold(schema, |at, name| at.entry(name)));
        if end.is_none() {
            errors.invalid(&below, "fieldPath must be a valid path: does not refer to a valid field");
        }
    }
    // An optional has functions of its own.
    let optional = rule.get("optionalOldSelf").bool();
    let old = || if optional { Of::Dyn } else { super::rules::type_of(schema) };
    compiles(errors, &source, old(), schema, false);
    if !expression.is_empty() {
        compiles(errors, &expression, old(), schema, true);
    }
}

/// The variables that rules see.
const VARIABLES: &[&str] = &["self", "oldSelf"];

fn compiles(errors: &mut Errors, source: &Field<'_>, old: Of<'_>, schema: &Schema, message: bool) {
    let refused = crate::cel::Program::compile(source.str()).and_then(|program| {
        let own = super::rules::type_of(schema);
        let checked = match program.undeclared(VARIABLES) {
            Some(undeclared) => Err(undeclared),
            None => program.check(&[("self", own), ("oldSelf", old)]),
        };
        checked.map_err(|why| format!("ERROR: <input>:1:1: {why}"))
    });
    match refused {
        Err(why) => errors.invalid(source, format!("compilation failed: {why}")),
        Ok(Of::Dyn) => {}
        Ok(Of::Bool) if !message => {}
        Ok(Of::String) if message => {}
        Ok(_) if message => errors.invalid(source, "messageExpression must evaluate to a string"),
        Ok(_) => errors.invalid(source, "cel expression must evaluate to a bool"),
    }
}

/// Whether a path names only fields and begins below `under` (`.spec`), with upstream's sentence.
pub fn simple_path(errors: &mut Errors, at: &Field<'_>, under: &str) {
    if at.is_empty() {
        errors.required(at, "");
    } else if !at.str().starts_with('.') {
        errors.invalid(at, "must be a simple json path starting with .");
    } else if !at.str().starts_with(&format!("{under}.")) {
        errors.invalid(at, format!("should be a json path under {under}"));
    } else if JsonPath::parse(at.str()).is_none_or(|path| path.names().is_none()) {
        errors.invalid(at, "must be a json path in the dot notation");
    }
}

/// The type at a simple path; `None` where the schema has nothing there.
pub fn type_at(schema: &Schema, path: &str) -> Option<super::Type> {
    let path = JsonPath::parse(path)?;
    let names = path.names()?;
    if names.first().is_some_and(|name| is_meta(name)) {
        return None;
    }
    names.into_iter().try_fold(schema, |at, name| at.properties.get(name))?.ty
}

//! Structural schemas: what a CustomResourceDefinition says about its objects.
//!
//! A [`Schema`] is the parsed form of `openAPIV3Schema`. Everything that happens to a custom resource on
//! its way in follows from it, in this order: unknown fields are dropped ([`prune`]), defaults filled in
//! ([`defaults`]), values checked ([`validate`]) and the author's own rules evaluated ([`rules`]). Whether
//! a schema is one that may be served is decided before, when its definition is written ([`check`]).
//!
//! Parsing never fails: what `check` would refuse is read as if it were not there, so that a definition
//! from an older time can still be served. The depth of a schema is that of JSON that the server takes.

pub mod check;
pub mod defaults;
pub mod formats;
pub mod paths;
pub mod prune;
pub mod rules;
pub mod validate;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

use crate::cel::pattern;
use rules::Rule;

/// The JSON type that a schema demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub const NAMES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// What a map may hold besides its declared properties.
#[derive(Debug, Clone, Default)]
pub enum Additional {
    /// Nothing: it is pruned.
    #[default]
    Nothing,
    Anything,
    Values(Box<Schema>),
}

/// What tells the elements of a list apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ListType {
    /// Nothing: the list is one value.
    #[default]
    Atomic,
    /// The elements themselves.
    Set,
    /// These fields of theirs.
    Map(Vec<String>),
}

/// One node of a structural schema.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    /// `None` where any type will do.
    pub ty: Option<Type>,
    pub nullable: bool,
    pub int_or_string: bool,
    pub preserve_unknown: bool,
    /// An object with `apiVersion`, `kind` and `metadata`.
    pub embedded: bool,
    pub properties: BTreeMap<String, Schema>,
    pub additional: Additional,
    pub items: Option<Box<Schema>>,
    pub default: Option<Value>,
    pub list_type: ListType,
    /// A map that apply replaces as a whole.
    pub atomic: bool,
    pub required: Vec<String>,
    pub limits: Limits,
    pub format: String,
    pub pattern: Option<(String, Arc<Regex>)>,
    /// Empty means that any value will do.
    pub choices: Vec<Value>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
    pub rules: Vec<Arc<Rule>>,
    /// Whether this node or one below has rules.
    pub has_rules: bool,
    /// Whether this node or one below has a default.
    pub has_defaults: bool,
}

/// Bounds of numbers and lengths.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub exclusive_minimum: bool,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
}

impl Schema {
    /// Reads a schema as it stands in a definition.
    pub fn parse(json: &Value) -> Self {
        let text = |name: &str| json[name].as_str().unwrap_or_default();
        let flag = |name: &str| json[name].as_bool().unwrap_or(false);
        let number = |name: &str| json[name].as_f64();
        let count = |name: &str| json[name].as_u64();
        let several =
            |name: &str| -> Vec<Self> { json[name].as_array().into_iter().flatten().map(Self::parse).collect() };
        let strings = |name: &str| -> Vec<String> {
            json[name].as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        let properties = json["properties"].as_object().into_iter().flatten();
        let list_type = match text("x-kubernetes-list-type") {
            "set" => ListType::Set,
            "map" => ListType::Map(strings("x-kubernetes-list-map-keys")),
            _ => ListType::Atomic,
        };
        let rules = json["x-kubernetes-validations"].as_array().into_iter().flatten();
        let mut schema = Self {
            ty: Type::parse(text("type")),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            properties: properties.map(|(name, inner)| (name.clone(), Self::parse(inner))).collect(),
            additional: match &json["additionalProperties"] {
                Value::Bool(true) => Additional::Anything,
                inner @ Value::Object(_) => Additional::Values(Box::new(Self::parse(inner))),
                _ => Additional::Nothing,
            },
            items: json["items"].is_object().then(|| Box::new(Self::parse(&json["items"]))),
            default: json.get("default").filter(|value| !value.is_null()).cloned(),
            list_type,
            atomic: text("x-kubernetes-map-type") == "atomic",
            required: strings("required"),
            limits: Limits {
                minimum: number("minimum"),
                maximum: number("maximum"),
                exclusive_minimum: flag("exclusiveMinimum"),
                exclusive_maximum: flag("exclusiveMaximum"),
                multiple_of: number("multipleOf"),
                min_length: count("minLength"),
                max_length: count("maxLength"),
                min_items: count("minItems"),
                max_items: count("maxItems"),
                min_properties: count("minProperties"),
                max_properties: count("maxProperties"),
            },
            format: text("format").to_owned(),
            pattern: pattern::compile(text("pattern"))
                .ok()
                .filter(|_| !text("pattern").is_empty())
                .map(|compiled| (text("pattern").to_owned(), compiled)),
            choices: json["enum"].as_array().cloned().unwrap_or_default(),
            all_of: several("allOf"),
            any_of: several("anyOf"),
            one_of: several("oneOf"),
            not: json["not"].is_object().then(|| Box::new(Self::parse(&json["not"]))),
            rules: rules.filter_map(|rule| Rule::parse(rule).ok()).map(Arc::new).collect(),
            has_rules: false,
            has_defaults: false,
        };
        schema.has_rules = !schema.rules.is_empty() || schema.children().any(|child| child.has_rules);
        schema.has_defaults = schema.default.is_some() || schema.children().any(|child| child.has_defaults);
        schema
    }

    /// A schema that says nothing and keeps everything.
    pub fn anything() -> Self {
        Self { preserve_unknown: true, ..Self::default() }
    }

    /// The schemas of what an object of this one holds.
    pub fn children(&self) -> impl Iterator<Item = &Schema> {
        let additional = match &self.additional {
            Additional::Values(inner) => Some(&**inner),
            Additional::Nothing | Additional::Anything => None,
        };
        self.properties.values().chain(additional).chain(self.items.as_deref())
    }

    /// The schema of the entry `name` of an object.
    pub fn entry(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(match &self.additional {
            Additional::Values(inner) => Some(&**inner),
            Additional::Nothing | Additional::Anything => None,
        })
    }

    /// Whether the entry `name` may stay.
    fn keeps(&self, name: &str) -> bool {
        self.preserve_unknown || !matches!(self.additional, Additional::Nothing) || self.properties.contains_key(name)
    }
}

/// `metadata`, `apiVersion` and `kind` are every object's, whatever its schema says.
pub fn is_meta(name: &str) -> bool {
    matches!(name, "metadata" | "apiVersion" | "kind")
}

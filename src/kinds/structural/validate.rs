//! The check of values against a schema, with upstream's sentences.
//!
//! On an update, what has not changed is not held against the author: a schema may have become stricter
//! than the objects that are there, and they must stay editable. Old and new values are put side by side
//! where it is known which belongs to which: fields by name, elements of `map` lists by their keys.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{ListType, Schema, Type, formats, is_meta};
use crate::kinds::common::equal;
use crate::kinds::field::{Errors, Reason, quote};

/// How many errors are told of one object.
const MAX_ERRORS: usize = 100;

/// What is wrong with a whole object; `old` is what it was before an update.
pub fn validate(schema: &Schema, object: &Value, old: Option<&Value>) -> Errors {
    let mut run = Run { errors: Errors::default(), path: String::new(), whole: true };
    run.value(schema, object, old);
    run.errors
}

/// What is wrong with a value that is no object of a kind: a default, at the root path.
pub fn validate_value(schema: &Schema, value: &Value) -> Errors {
    let mut run = Run { errors: Errors::default(), path: String::new(), whole: false };
    run.value(schema, value, None);
    run.errors
}

/// Elements of `set` and `map` lists that are there twice.
pub fn validate_lists(schema: &Schema, object: &Value, old: Option<&Value>) -> Errors {
    let mut run = Run { errors: Errors::default(), path: String::new(), whole: true };
    run.lists(schema, object, old);
    run.errors
}

struct Run {
    errors: Errors,
    path: String,
    /// The value is an object of a kind: its metadata is others' to check.
    whole: bool,
}

impl Run {
    fn full(&self) -> bool {
        self.errors.0.len() >= MAX_ERRORS
    }

    /// An error whose sentence begins with the place.
    fn body(&mut self, reason: Reason, value: Value, rest: &str) {
        let detail = format!("{} in body {rest}", self.path);
        self.errors.push(reason, self.shown_path(), Some(value), detail);
    }

    fn shown_path(&self) -> String {
        self.path.clone()
    }

    fn below<T>(&mut self, name: &str, run: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
        let done = run(self);
        self.path.truncate(length);
        done
    }

    fn at<T>(&mut self, at: usize, run: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.push_str(&format!("[{at}]"));
        let done = run(self);
        self.path.truncate(length);
        done
    }

    fn value(&mut self, schema: &Schema, value: &Value, old: Option<&Value>) {
        if self.full() || old.is_some_and(|old| equal(old, value)) {
            return;
        }
        if value.is_null() && schema.nullable {
            return;
        }
        let before = self.errors.0.len();
        self.own_type(schema, value);
        if self.errors.0.len() > before {
            return;
        }
        self.junctors(schema, value);
        match value {
            Value::String(text) => self.text(schema, text),
            Value::Number(_) => self.number(schema, value),
            Value::Array(items) => self.items(schema, items, old),
            Value::Object(map) => self.object(schema, map, old),
            Value::Null | Value::Bool(_) => {}
        }
        if !schema.choices.is_empty() && !schema.choices.iter().any(|choice| equal(choice, value)) {
            let choices: Vec<String> = schema
                .choices
                .iter()
                .map(|choice| choice.as_str().map_or_else(|| quote(&choice.to_string()), quote))
                .collect();
            let detail = format!("supported values: {}", choices.join(", "));
            self.errors.push(Reason::NotSupported, self.shown_path(), Some(value.clone()), detail);
        }
    }

    fn own_type(&mut self, schema: &Schema, value: &Value) {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if is_whole(number) => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let wanted = match schema.ty {
            None if schema.int_or_string => {
                if matches!(found, "integer" | "string") {
                    return;
                }
                "integer,string"
            }
            None => return,
            Some(Type::Number) if found == "integer" => return,
            Some(ty) if ty.name() == found => return,
            Some(ty) => ty.name(),
        };
        self.body(Reason::TypeInvalid, found.into(), &format!("must be of type {wanted}: {found:?}"));
        let limits = &schema.limits;
        let bounded = limits.minimum.is_some() || limits.maximum.is_some() || limits.multiple_of.is_some();
        if wanted == "integer" && found == "number" && bounded {
            let detail = format!("Checked value must be of type integer (default format) in {}", self.path);
            self.errors.push(Reason::Invalid, "<nil>", Some("".into()), detail);
        }
    }

    fn junctors(&mut self, schema: &Schema, value: &Value) {
        let tried = |schema: &Schema, run: &Run| {
            let mut inner = Run { errors: Errors::default(), path: run.path.clone(), whole: run.whole };
            inner.value(schema, value, None);
            inner.errors
        };
        if !schema.any_of.is_empty() {
            let outcomes: Vec<Errors> = schema.any_of.iter().map(|inner| tried(inner, self)).collect();
            if !outcomes.iter().any(Errors::is_empty) {
                self.composite("must validate at least one schema (anyOf)");
                self.errors.extend(best(outcomes));
            }
        }
        if !schema.one_of.is_empty() {
            let outcomes: Vec<Errors> = schema.one_of.iter().map(|inner| tried(inner, self)).collect();
            match outcomes.iter().filter(|errors| errors.is_empty()).count() {
                1 => {}
                0 => {
                    self.composite("must validate one and only one schema (oneOf). Found none valid");
                    self.errors.extend(best(outcomes));
                }
                many => {
                    self.composite(&format!(
                        "must validate one and only one schema (oneOf). Found {many} valid alternatives"
                    ));
                }
            }
        }
        if !schema.all_of.is_empty() {
            let outcomes: Vec<Errors> = schema.all_of.iter().map(|inner| tried(inner, self)).collect();
            if outcomes.iter().any(|errors| !errors.is_empty()) {
                let none = outcomes.iter().all(|errors| !errors.is_empty());
                let rest = if none { ". None validated" } else { "" };
                self.composite(&format!("must validate all the schemas (allOf){rest}"));
                outcomes.into_iter().for_each(|errors| self.errors.extend(errors));
            }
        }
        if let Some(not) = &schema.not
            && tried(not, self).is_empty()
        {
            self.composite("must not validate the schema (not)");
        }
    }

    /// Upstream's errors about several schemas name the place in their sentence alone.
    fn composite(&mut self, sentence: &str) {
        let name = if self.path.is_empty() { "\"\"".to_owned() } else { format!("{:?}", self.path) };
        let path = if self.path.is_empty() { "<nil>".to_owned() } else { self.shown_path() };
        self.errors.push(Reason::Invalid, path, Some("".into()), format!("{name} {sentence}"));
    }

    fn text(&mut self, schema: &Schema, text: &str) {
        let length = text.chars().count() as u64;
        if let Some(max) = schema.limits.max_length.filter(|max| length > *max) {
            let detail = format!("may not be more than {max} bytes");
            self.errors.push(Reason::TooLong, self.shown_path(), None, detail);
        }
        if let Some(min) = schema.limits.min_length.filter(|min| length < *min) {
            self.body(Reason::Invalid, text.into(), &format!("should be at least {min} chars long"));
        }
        if let Some((source, pattern)) = &schema.pattern
            && !pattern.is_match(text)
        {
            self.body(Reason::Invalid, text.into(), &format!("should match '{source}'"));
        }
        if !schema.format.is_empty() && !formats::matches(&schema.format, text) {
            let rest = format!("must be of type {}: {}", schema.format, quote(text));
            self.body(Reason::TypeInvalid, text.into(), &rest);
        }
    }

    fn number(&mut self, schema: &Schema, value: &Value) {
        let Some(number) = value.as_f64() else { return };
        let limits = &schema.limits;
        if schema.format == "int32" && i32::try_from(value.as_i64().unwrap_or(i64::MAX)).is_err() {
            let detail = format!("Checked value must be of type integer with format int32 in {}", self.path);
            self.errors.push(Reason::Invalid, "<nil>", Some("".into()), detail);
        }
        if let Some(step) = limits.multiple_of
            && step > 0.0
            && (number / step).fract().abs() > 1e-9
        {
            self.body(Reason::Invalid, value.clone(), &format!("should be a multiple of {step}"));
        }
        if let Some(max) = limits.maximum {
            if limits.exclusive_maximum && number >= max {
                self.body(Reason::Invalid, value.clone(), &format!("should be less than {max}"));
            } else if number > max {
                self.body(Reason::Invalid, value.clone(), &format!("should be less than or equal to {max}"));
            }
        }
        if let Some(min) = limits.minimum {
            if limits.exclusive_minimum && number <= min {
                self.body(Reason::Invalid, value.clone(), &format!("should be greater than {min}"));
            } else if number < min {
                self.body(Reason::Invalid, value.clone(), &format!("should be greater than or equal to {min}"));
            }
        }
    }

    fn items(&mut self, schema: &Schema, items: &[Value], old: Option<&Value>) {
        let limits = &schema.limits;
        if let Some(max) = limits.max_items.filter(|max| items.len() as u64 > *max) {
            self.too_many(items.len(), max);
        }
        if let Some(min) = limits.min_items.filter(|min| (items.len() as u64) < *min) {
            self.body(Reason::Invalid, items.len().into(), &format!("should have at least {min} items"));
        }
        let Some(inner) = &schema.items else { return };
        let known = Correlated::new(schema, old);
        for (at, item) in items.iter().enumerate() {
            self.at(at, |run| run.value(inner, item, known.of(item)));
        }
    }

    fn too_many(&mut self, count: usize, max: u64) {
        let detail = format!("must have at most {max} item{}", if max == 1 { "" } else { "s" });
        self.errors.push(Reason::TooMany, self.shown_path(), Some(count.into()), detail);
    }

    fn object(&mut self, schema: &Schema, map: &serde_json::Map<String, Value>, old: Option<&Value>) {
        let root = self.whole && self.path.is_empty();
        let limits = &schema.limits;
        if let Some(max) = limits.max_properties.filter(|max| map.len() as u64 > *max) {
            self.too_many(map.len(), max);
        }
        if let Some(min) = limits.min_properties.filter(|min| (map.len() as u64) < *min) {
            self.body(Reason::Invalid, map.len().into(), &format!("should have at least {min} properties"));
        }
        for name in &schema.required {
            if !map.contains_key(name) {
                self.below(name, |run| run.errors.push(Reason::Required, run.shown_path(), None, ""));
            }
        }
        if schema.embedded && !root {
            self.embedded(map);
        }
        for (name, value) in map {
            if (root || schema.embedded) && is_meta(name) && name != "metadata" {
                continue;
            }
            if let Some(inner) = schema.entry(name) {
                let old = old.and_then(|old| old.get(name));
                self.below(name, |run| run.value(inner, value, old));
            }
        }
    }

    fn embedded(&mut self, map: &serde_json::Map<String, Value>) {
        for name in ["apiVersion", "kind"] {
            match map.get(name) {
                Some(Value::String(text)) if !text.is_empty() => {}
                None | Some(Value::String(_) | Value::Null) => {
                    self.below(name, |run| {
                        run.errors.push(Reason::Required, run.shown_path(), None, "must not be empty")
                    });
                }
                Some(other) => {
                    let other = other.clone();
                    self.below(name, |run| {
                        run.errors.push(Reason::Invalid, run.shown_path(), Some(other), "must be a string");
                    });
                }
            }
        }
    }

    fn lists(&mut self, schema: &Schema, value: &Value, old: Option<&Value>) {
        if self.full() || old.is_some_and(|old| equal(old, value)) {
            return;
        }
        match value {
            Value::Array(items) => {
                self.doubles(schema, items);
                let Some(inner) = &schema.items else { return };
                let known = Correlated::new(schema, old);
                for (at, item) in items.iter().enumerate() {
                    self.at(at, |run| run.lists(inner, item, known.of(item)));
                }
            }
            Value::Object(map) => {
                for (name, value) in map {
                    if let Some(inner) = schema.entry(name) {
                        let old = old.and_then(|old| old.get(name));
                        self.below(name, |run| run.lists(inner, value, old));
                    }
                }
            }
            _ => {}
        }
    }

    fn doubles(&mut self, schema: &Schema, items: &[Value]) {
        let mut seen = HashSet::new();
        for (at, item) in items.iter().enumerate() {
            let key = match &schema.list_type {
                ListType::Atomic => return,
                ListType::Set => item.clone(),
                ListType::Map(keys) => key_of(keys, item),
            };
            if !seen.insert(key.to_string()) {
                self.at(at, |run| run.errors.push(Reason::Duplicate, run.shown_path(), Some(key), ""));
            }
        }
    }
}

/// The errors of the alternative that fails least.
fn best(outcomes: Vec<Errors>) -> Errors {
    outcomes.into_iter().min_by_key(|errors| errors.0.len()).unwrap_or_default()
}

fn is_whole(number: &serde_json::Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|float| float.fract() == 0.0)
}

/// The values of an element's keys.
fn key_of(keys: &[String], item: &Value) -> Value {
    keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone()))).collect::<serde_json::Map<_, _>>().into()
}

/// The elements of the list before an update, found by their keys.
pub struct Correlated<'a> {
    keys: &'a [String],
    by_key: HashMap<String, &'a Value>,
}

impl<'a> Correlated<'a> {
    pub fn new(schema: &'a Schema, old: Option<&'a Value>) -> Self {
        let keys: &[String] = if let ListType::Map(keys) = &schema.list_type { keys } else { &[] };
        let items = old.and_then(Value::as_array).filter(|_| !keys.is_empty());
        let items = items.into_iter().flatten();
        Self { keys, by_key: items.map(|item| (key_of(keys, item).to_string(), item)).collect() }
    }

    /// What `item` was before, where that can be told.
    pub fn of(&self, item: &Value) -> Option<&'a Value> {
        if self.keys.is_empty() {
            return None;
        }
        self.by_key.get(&key_of(self.keys, item).to_string()).copied()
    }
}

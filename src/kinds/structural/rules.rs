//! `x-kubernetes-validations`: rules that the author of a schema writes in CEL.
//!
//! `self` is the value at the rule's node, `oldSelf` what it was before an update; a rule that reads
//! `oldSelf` is about the change and says nothing about a new object, unless it asks for an optional one.
//! Values reach CEL with the types of the schema: times as timestamps, numbers as doubles, and names of
//! fields escaped where CEL could not write them.

use serde_json::Value;

use super::validate::Correlated;
use super::{Additional, Schema, Type, formats, is_meta};
use crate::cel::{self, Budget, Program, Scope, check};
use crate::kinds::common::equal;
use crate::kinds::field::{Errors, Reason};

/// One rule, compiled.
#[derive(Debug)]
pub struct Rule {
    source: String,
    program: Program,
    message: String,
    message_expression: Option<Program>,
    reason: Reason,
    /// Below the node: `.spec.field`, `['a.b']`.
    field_path: String,
    optional_old: bool,
    transition: bool,
}

impl Rule {
    /// Reads a rule; the error is that of the expression.
    pub fn parse(json: &Value) -> Result<Self, String> {
        let text = |name: &str| json[name].as_str().unwrap_or_default();
        let program = Program::compile(text("rule"))?;
        Ok(Self {
            source: text("rule").to_owned(),
            transition: program.reads("oldSelf"),
            program,
            message: text("message").to_owned(),
            message_expression: match text("messageExpression") {
                "" => None,
                expression => Program::compile(expression).ok(),
            },
            reason: match text("reason") {
                "FieldValueForbidden" => Reason::Forbidden,
                "FieldValueRequired" => Reason::Required,
                "FieldValueDuplicate" => Reason::Duplicate,
                _ => Reason::Invalid,
            },
            field_path: text("fieldPath").to_owned(),
            optional_old: json["optionalOldSelf"].as_bool().unwrap_or(false),
        })
    }

    fn own_message(&self) -> String {
        match self.message.trim() {
            "" => format!("failed rule: {}", self.source.trim()),
            message => message.to_owned(),
        }
    }
}

/// What upstream says where the schema's own errors leave the rules unevaluated.
pub const NOT_CHECKED: &str = "some validation rules were not checked because the object was invalid; \
                               correct the existing errors to complete validation";

/// Whether errors leave values of which rules cannot be asked.
pub fn blocked(errors: &Errors) -> bool {
    use Reason::{Duplicate, NotSupported, Required, TooLong, TooMany, TypeInvalid};
    errors
        .0
        .iter()
        .any(|error| matches!(error.reason, NotSupported | Required | TooLong | TooMany | Duplicate | TypeInvalid))
}

/// Evaluates all rules of a whole object.
pub fn validate(schema: &Schema, object: &Value, old: Option<&Value>) -> Errors {
    if !schema.has_rules {
        return Errors::default();
    }
    let mut run = Run { errors: Errors::default(), path: String::new(), budget: Budget::new(Budget::CALL) };
    // One that is spent has said so.
    let _ = run.value(schema, object, old, true);
    run.errors
}

struct Run {
    errors: Errors,
    path: String,
    budget: Budget,
}

/// The budget is spent: no more rules.
struct Spent;

impl Run {
    fn value(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, root: bool) -> Result<(), Spent> {
        if !schema.has_rules || value.is_null() {
            return Ok(());
        }
        let same = old.is_some_and(|old| equal(old, value));
        if !schema.rules.is_empty() {
            self.rules(schema, value, old, same, root)?;
        }
        match value {
            Value::Object(map) => {
                for (name, inner) in map {
                    let Some(child) = schema.entry(name) else { continue };
                    let length = self.path.len();
                    if schema.properties.contains_key(name) {
                        if !self.path.is_empty() {
                            self.path.push('.');
                        }
                        self.path.push_str(name);
                    } else {
                        self.path.push_str(&format!("[{name}]"));
                    }
                    let done = self.value(child, inner, old.and_then(|old| old.get(name)), false);
                    self.path.truncate(length);
                    done?;
                }
            }
            Value::Array(items) => {
                let Some(child) = &schema.items else { return Ok(()) };
                let known = Correlated::new(schema, old);
                for (at, item) in items.iter().enumerate() {
                    let length = self.path.len();
                    self.path.push_str(&format!("[{at}]"));
                    let done = self.value(child, item, known.of(item), false);
                    self.path.truncate(length);
                    done?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn rules(
        &mut self,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        same: bool,
        root: bool,
    ) -> Result<(), Spent> {
        let mut scope = Scope::default();
        scope.set("self", typed(schema, value, root));
        let before = old.map(|old| typed(schema, old, root));
        for rule in &schema.rules {
            // What stays as it was is not judged again, but a rule about changes sees all of them.
            if same && !rule.transition {
                continue;
            }
            if rule.transition {
                match (&before, rule.optional_old) {
                    (Some(before), false) => scope.set("oldSelf", before.clone()),
                    (Some(before), true) => scope.set("oldSelf", cel::value::some(before.clone())),
                    (None, true) => scope.set("oldSelf", cel::value::none()),
                    (None, false) => continue,
                }
            }
            let mut budget = Budget::new(Budget::EXPRESSION.min(self.budget.left()));
            let granted = budget.left();
            let held = rule.program.holds(&scope, &mut budget);
            self.budget = Budget::new(self.budget.left() - (granted - budget.left()));
            match held {
                Ok(true) => {}
                Ok(false) => self.failed(rule, value, &scope),
                Err(error) => self.broken(rule, schema, &error),
            }
            if self.budget.left() == 0 {
                let detail =
                    "validation failed due to running out of cost budget, no further validation rules will be run";
                self.errors.push_text(Reason::Invalid, self.shown_path(""), "", detail);
                return Err(Spent);
            }
        }
        Ok(())
    }

    fn failed(&mut self, rule: &Rule, value: &Value, scope: &Scope) {
        let mut budget = Budget::new(Budget::EXPRESSION.min(self.budget.left()));
        let said = rule.message_expression.as_ref().and_then(|program| {
            let said = cel::value::to_json(&program.eval(scope, &mut budget).ok()?)?;
            let said = said.as_str()?.trim();
            (!said.is_empty() && !said.contains('\n')).then(|| said.to_owned())
        });
        let path = self.shown_path(&rule.field_path);
        let from_expression = said.is_some();
        let message = said.unwrap_or_else(|| rule.own_message());
        let plain = !value.is_object() && !value.is_array() && !from_expression;
        match rule.reason {
            Reason::Invalid if plain => self.errors.push(Reason::Invalid, path, Some(value.clone()), message),
            Reason::Invalid => self.errors.omitted(path, message),
            Reason::Duplicate => self.errors.push(Reason::Duplicate, path, Some(value.clone()), ""),
            reason => self.errors.push(reason, path, None, message),
        }
    }

    fn broken(&mut self, rule: &Rule, schema: &Schema, error: &str) {
        let ty = schema.ty.map_or("", Type::name);
        let detail = if error.contains("cost limit exceeded") {
            "call cost exceeds limit for rule: ".to_owned() + &rule.source
        } else {
            format!("{error} evaluating rule: {}", rule.own_message().trim_start_matches("failed rule: "))
        };
        let path = self.shown_path("");
        self.errors.push(Reason::Invalid, path, Some(ty.into()), detail);
    }

    fn shown_path(&self, below: &str) -> String {
        let path = format!("{}{}", self.path, field_path(below));
        match path.trim_start_matches('.') {
            "" => "<nil>".to_owned(),
            path => path.to_owned(),
        }
    }
}

/// `.a.b['c.d']` in the words of errors: `.a.b[c.d]`.
fn field_path(text: &str) -> String {
    text.replace("['", "[").replace("']", "]")
}

/// A value as CEL sees one of this schema.
pub fn typed(schema: &Schema, value: &Value, root: bool) -> cel::Value {
    use cel::value::{duration, from_json, list, map, string, timestamp};
    match value {
        Value::Object(fields) => {
            let is_map = !matches!(schema.additional, Additional::Nothing) && schema.properties.is_empty();
            let entries = fields.iter().filter_map(|(name, inner)| {
                if is_map {
                    let child = if let Additional::Values(child) = &schema.additional { Some(&**child) } else { None };
                    return Some((
                        name.clone(),
                        child.map_or_else(|| from_json(inner), |child| typed(child, inner, false)),
                    ));
                }
                if (root || schema.embedded) && name == "metadata" {
                    // Rules may know the name of an object, and nothing else of its metadata.
                    let known = ["name", "generateName"].into_iter();
                    let known = known.filter_map(|field| Some((field, from_json(inner.get(field)?))));
                    return Some((name.clone(), map(known)));
                }
                match schema.properties.get(name) {
                    Some(child) => Some((escape(name), typed(child, inner, false))),
                    None if (root || schema.embedded) && is_meta(name) => Some((name.clone(), from_json(inner))),
                    None if schema.preserve_unknown => Some((escape(name), from_json(inner))),
                    None => None,
                }
            });
            let entries: Vec<(String, cel::Value)> = entries.collect();
            map(entries.iter().map(|(name, value)| (name.as_str(), value.clone())))
        }
        Value::Array(items) => match &schema.items {
            Some(child) => list(items.iter().map(|item| typed(child, item, false)).collect()),
            None => from_json(value),
        },
        Value::String(text) if schema.ty == Some(Type::String) => match schema.format.as_str() {
            "date-time" => timestamp(text).unwrap_or_else(|| string(text)),
            "date" => timestamp(&format!("{text}T00:00:00Z")).unwrap_or_else(|| string(text)),
            "duration" => formats::duration(text).map_or_else(|| string(text), duration),
            "byte" => cel::value::bytes(text).unwrap_or_else(|| string(text)),
            _ => string(text),
        },
        Value::Number(number) if schema.ty == Some(Type::Number) => {
            cel::Value::Float(number.as_f64().unwrap_or(f64::NAN))
        }
        // `1.0` is written by some, and is a whole number.
        Value::Number(number) if schema.ty == Some(Type::Integer) && number.is_f64() => {
            cel::Value::Int(number.as_f64().unwrap_or(0.0) as i64)
        }
        other => from_json(other),
    }
}

/// The type of the values of a schema, as far as it is known without one.
pub fn type_of(schema: &Schema) -> check::Type<'_> {
    use check::Type as Of;
    if schema.int_or_string || schema.preserve_unknown || schema.embedded {
        return Of::Dyn;
    }
    match schema.ty {
        Some(Type::Boolean) => Of::Bool,
        Some(Type::Integer) => Of::Int,
        Some(Type::Number) => Of::Double,
        Some(Type::String) => match schema.format.as_str() {
            "date-time" | "date" => Of::Timestamp,
            "duration" => Of::Duration,
            "byte" => Of::Bytes,
            _ => Of::String,
        },
        Some(Type::Array) => Of::List(Box::new(schema.items.as_deref().map_or(Of::Dyn, |items| type_of(items)))),
        Some(Type::Object) => match &schema.additional {
            Additional::Nothing => Of::Object(schema),
            Additional::Values(values) if schema.properties.is_empty() => {
                Of::Map(Box::new(Of::String), Box::new(type_of(values)))
            }
            _ => Of::Dyn,
        },
        None => Of::Dyn,
    }
}

impl check::Fields for Schema {
    fn field(&self, name: &str) -> Option<check::Type<'_>> {
        // Of these every object has its own, whatever its schema says.
        if is_meta(name) {
            return Some(check::Type::Dyn);
        }
        self.properties.iter().find(|(field, _)| escape(field) == name).map(|(_, inner)| type_of(inner))
    }
}

/// The name by which an expression reaches a field.
pub fn escape(name: &str) -> String {
    if cel::RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    if !name.contains(['.', '-', '/']) && !name.contains("__") {
        return name.to_owned();
    }
    name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__")
}

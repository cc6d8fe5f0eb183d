//! What a policy thinks of a request. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::apiserver::admission::conditions::{self, Condition, Outcome};
use crate::cel::{Budget, Program, Scope, Value as Evaluated, value};
use crate::kinds::common::{list, text};

/// More of a message that an expression makes is not believed to be one.
const MAX_MESSAGE_BYTES: usize = 5 * 1024;

/// An expression with its text, which errors show.
#[derive(Debug)]
pub struct Expression {
    source: String,
    program: Result<Program, String>,
}

/// The compiled spec of a policy.
#[derive(Debug)]
pub struct Rules {
    ignore_failure: bool,
    conditions: Vec<Condition>,
    variables: Vec<(String, Expression)>,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

#[derive(Debug)]
struct Validation {
    expression: Expression,
    message: String,
    by_expression: Option<Expression>,
    reason: String,
}

/// Something that the policy objects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Which validation.
    pub index: usize,
    pub message: String,
    pub reason: String,
}

/// All that a policy says.
#[derive(Debug, Default)]
pub struct Opinion {
    pub decisions: Vec<Decision>,
    pub annotations: BTreeMap<String, String>,
}

impl Decision {
    /// The policy cannot be evaluated at all.
    pub fn misconfigured(message: String) -> Self {
        Self { index: 0, message, reason: "Invalid".to_owned() }
    }
}

impl Expression {
    pub fn new(owner: &Value, pointer: &str) -> Self {
        let source = text(owner, pointer).to_owned();
        Self { program: Program::compile(&source), source }
    }

    pub fn eval(&self, at: &mut At) -> Result<Evaluated, String> {
        let program = self.program.as_ref().map_err(Clone::clone);
        program.and_then(|program| program.eval(&at.scope, &mut at.budget)).map_err(|why| at.explain(why))
    }

    /// An error as upstream tells it.
    pub fn failed(&self, why: &str) -> String {
        format!("expression '{}' resulted in error: {why}", self.source)
    }
}

/// Whether there is something to evaluate.
pub enum Begun {
    /// The conditions hold, and the variables are set.
    Ready(At),
    NoConcern,
    Failed(String),
}

/// Where an evaluation stands.
pub struct At {
    scope: Scope,
    budget: Budget,
    /// The variables that have come to nothing, and why: it matters only to who reads them.
    failed: BTreeMap<String, String>,
}

impl At {
    fn explain(&self, why: String) -> String {
        let missing = why.strip_prefix("no such key: ").and_then(|name| self.failed.get_key_value(name));
        match missing {
            Some((name, cause)) => format!("composited variable {name:?} fails to evaluate: {cause}"),
            None => why,
        }
    }
}

impl Rules {
    pub fn new(spec: &Value) -> Self {
        let named = |pointer: &str, name: &str, expression: &str| {
            let items = list(spec, pointer).iter();
            items.map(|item| (text(item, name).to_owned(), Expression::new(item, expression))).collect()
        };
        Self {
            ignore_failure: spec["failurePolicy"] == "Ignore",
            conditions: Condition::all(spec),
            variables: named("/variables", "/name", "/expression"),
            validations: list(spec, "/validations").iter().map(Validation::new).collect(),
            annotations: named("/auditAnnotations", "/key", "/valueExpression"),
        }
    }

    pub fn ignores_failure(&self) -> bool {
        self.ignore_failure
    }

    /// Checks the conditions of a request, whose objects and parameters are in `scope`, and sets the
    /// variables.
    pub fn begin(&self, scope: Scope) -> Begun {
        let mut at = At { scope, budget: Budget::new(Budget::CALL), failed: BTreeMap::new() };
        match conditions::check(&self.conditions, &at.scope, &mut at.budget) {
            Outcome::Holds => {
                self.set_variables(&mut at);
                Begun::Ready(at)
            }
            Outcome::Fails => Begun::NoConcern,
            Outcome::Error(_) if self.ignore_failure => Begun::NoConcern,
            Outcome::Error(why) => Begun::Failed(why),
        }
    }

    /// What is to be said of a request.
    pub fn evaluate(&self, scope: Scope) -> Opinion {
        let mut at = match self.begin(scope) {
            Begun::Ready(at) => at,
            Begun::NoConcern => return Opinion::default(),
            Begun::Failed(why) => {
                return Opinion { decisions: vec![Decision::misconfigured(why)], ..Opinion::default() };
            }
        };
        let mut opinion = Opinion::default();
        for (index, validation) in self.validations.iter().enumerate() {
            opinion.decisions.extend(validation.judge(index, &mut at, self.ignore_failure));
        }
        for (key, expression) in &self.annotations {
            match annotation(expression, &mut at) {
                Ok(Some(value)) => drop(opinion.annotations.insert(key.clone(), value)),
                Ok(None) => {}
                Err(_) if self.ignore_failure => {}
                Err(message) => opinion.decisions.push(Decision::misconfigured(message)),
            }
        }
        opinion
    }

    /// Each variable sees those before it.
    fn set_variables(&self, at: &mut At) {
        let mut known: Vec<(&str, Evaluated)> = Vec::new();
        at.scope.set("variables", value::map(std::iter::empty()));
        for (name, expression) in &self.variables {
            match expression.eval(at) {
                Ok(result) => known.push((name, result)),
                Err(why) => drop(at.failed.insert(name.clone(), why)),
            }
            at.scope.set("variables", value::map(known.iter().cloned()));
        }
    }
}

impl Validation {
    fn new(validation: &Value) -> Self {
        let by_expression = !text(validation, "/messageExpression").trim().is_empty();
        let reason = text(validation, "/reason");
        Self {
            expression: Expression::new(validation, "/expression"),
            message: text(validation, "/message").trim().to_owned(),
            by_expression: by_expression.then(|| Expression::new(validation, "/messageExpression")),
            reason: if reason.is_empty() { "Invalid" } else { reason }.to_owned(),
        }
    }

    fn judge(&self, index: usize, at: &mut At, ignore_failure: bool) -> Option<Decision> {
        let result = self.expression.eval(at).and_then(|result| match value::to_json(&result) {
            Some(Value::Bool(holds)) => Ok(holds),
            _ => Err(format!("cel expression evaluates to {}, not bool", value::type_name(&result))),
        });
        match result {
            Ok(true) => None,
            Ok(false) => Some(Decision { index, message: self.message(at), reason: self.reason.clone() }),
            Err(_) if ignore_failure => None,
            Err(why) => Some(Decision { index, message: self.expression.failed(&why), reason: "Invalid".to_owned() }),
        }
    }

    /// The first of: what an expression makes, if it is one line of some length; what is written; the
    /// expression that has failed.
    fn message(&self, at: &mut At) -> String {
        let made = self.by_expression.as_ref().and_then(|expression| expression.eval(at).ok());
        let made = made.and_then(|result| value::to_json(&result)?.as_str().map(|text| text.trim().to_owned()));
        let good = |text: &String| !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n');
        match (made.filter(good), self.message.as_str()) {
            (Some(made), _) => made,
            (None, "") => format!("failed expression: {}", self.expression.source.trim()),
            (None, written) => written.to_owned(),
        }
    }
}

/// The value of an annotation; `None` for none.
fn annotation(expression: &Expression, at: &mut At) -> Result<Option<String>, String> {
    let result = expression.eval(at).map_err(|why| expression.failed(&why))?;
    match value::to_json(&result) {
        Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        _ => Err(format!(
            "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
            expression.source,
            value::type_name(&result)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn opinion(spec: Value, object: &Value) -> Opinion {
        let mut scope = Scope::default();
        scope.set("object", value::from_json(object));
        Rules::new(&spec).evaluate(scope)
    }

    #[test]
    fn a_policy_says_what_it_objects_to() {
        let object = json!({"spec": {"replicas": 7}, "name": "web"});
        let cases = [
            (
                json!({"expression": "object.spec.replicas <= 5"}),
                vec![("failed expression: object.spec.replicas <= 5", "Invalid")],
            ),
            (
                json!({"expression": "object.spec.replicas <= 5", "message": "too many", "reason": "Forbidden"}),
                vec![("too many", "Forbidden")],
            ),
            (
                json!({"expression": "false", "message": "x", "messageExpression": "object.name + ' has ' + string(object.spec.replicas)"}),
                vec![("web has 7", "Invalid")],
            ),
            (json!({"expression": "false", "message": "x", "messageExpression": "'a\\nb'"}), vec![("x", "Invalid")]),
            (json!({"expression": "object.spec.replicas > 5"}), vec![]),
            (
                json!({"expression": "object.none"}),
                vec![("expression 'object.none' resulted in error: no such key: none", "Invalid")],
            ),
        ];
        for (validation, want) in cases {
            let found = opinion(json!({"validations": [validation]}), &object).decisions;
            let found: Vec<_> = found.iter().map(|one| (one.message.as_str(), one.reason.as_str())).collect();
            assert_eq!(found, want, "{validation}");
        }
    }

    #[test]
    fn variables_are_computed_once_and_fail_who_reads_them() {
        let spec = json!({
            "variables": [{"name": "n", "expression": "object.spec.replicas"}, {"name": "twice", "expression": "variables.n * 2"},
                {"name": "broken", "expression": "object.none"}],
            "validations": [{"expression": "variables.twice == 14"}, {"expression": "variables.broken == 1"}],
            "auditAnnotations": [{"key": "k", "valueExpression": "'n is ' + string(variables.n)"}, {"key": "none", "valueExpression": "null"}],
        });
        let found = opinion(spec, &json!({"spec": {"replicas": 7}}));
        assert_eq!(found.annotations, BTreeMap::from([("k".to_owned(), "n is 7".to_owned())]));
        let messages: Vec<_> = found.decisions.iter().map(|one| (one.index, one.message.as_str())).collect();
        let why = "expression 'variables.broken == 1' resulted in error: composited variable \"broken\" fails to evaluate: no such key: none";
        assert_eq!(messages, [(1, why)]);
    }

    #[test]
    fn failing_counts_as_the_policy_says() {
        let spec = |failure: &str, condition: &str| {
            json!({"failurePolicy": failure, "matchConditions": [{"expression": condition}],
                "validations": [{"expression": "object.none"}]})
        };
        let count = |failure: &str, condition: &str| opinion(spec(failure, condition), &json!({})).decisions.len();
        assert_eq!(count("Fail", "true"), 1);
        assert_eq!(count("Ignore", "true"), 0);
        assert_eq!(count("Fail", "false"), 0);
        assert_eq!(count("Fail", "object.none"), 1);
        assert_eq!(count("Ignore", "object.none"), 0);
    }
}

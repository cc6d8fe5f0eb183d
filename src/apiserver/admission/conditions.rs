//! Conditions in CEL, and what they can see of a request.

use serde_json::Value;

use crate::cel::{Budget, Program, Scope, value};
use crate::kinds::common::{list, text};

/// A named expression that a request must satisfy to be a concern.
#[derive(Debug, Clone)]
pub struct Condition {
    expression: String,
    /// What was stored is compiled again at each start; what no longer compiles fails when it is asked.
    program: Result<Program, String>,
}

/// What all conditions together come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Holds,
    /// One of them is false, whatever happened to the others.
    Fails,
    /// None is false, but not all could be evaluated.
    Error(String),
}

impl Condition {
    /// The `matchConditions` of a webhook or policy.
    pub fn all(owner: &Value) -> Vec<Self> {
        let one = |condition: &Value| {
            let expression = text(condition, "/expression").to_owned();
            Self { program: Program::compile(&expression), expression }
        };
        list(owner, "/matchConditions").iter().map(one).collect()
    }
}

pub fn check(conditions: &[Condition], scope: &Scope, budget: &mut Budget) -> Outcome {
    let mut errors = Vec::new();
    for Condition { expression, program } in conditions {
        let result = program.as_ref().map_err(Clone::clone).and_then(|program| program.holds(scope, budget));
        match result {
            Ok(true) => {}
            Ok(false) => return Outcome::Fails,
            Err(why) => errors.push(format!("expression '{expression}' resulted in error: {why}")),
        }
    }
    match errors.as_slice() {
        [] => Outcome::Holds,
        [one] => Outcome::Error(one.clone()),
        _ => Outcome::Error(format!("[{}]", errors.join(", "))),
    }
}

/// The variables that every expression has: the objects and the request about them.
pub fn scope(request: &Value, object: &Value, old: Option<&Value>) -> Scope {
    let mut scope = Scope::default();
    scope.set("object", value::from_json(object));
    scope.set("oldObject", value::from_json(old.unwrap_or(&Value::Null)));
    scope.set("request", value::from_json(request));
    scope
}

//! CEL: any expression, compiled and evaluated over any value, within its budget.

#![no_main]

use coracle::cel::{Budget, Program, Scope, value};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: (&str, &str)| {
    let (expression, object) = input;
    let Ok(program) = Program::compile(expression) else { return };
    let object: Value = serde_json::from_str(object).unwrap_or(Value::Null);
    let mut scope = Scope::default();
    for name in ["self", "oldSelf", "object", "a"] {
        scope.set(name, value::from_json(&object));
    }
    let mut budget = Budget::new(100_000);
    if let Ok(outcome) = program.eval(&scope, &mut budget) {
        let _ = value::to_json(&outcome);
    }
    let _ = program.undeclared(&["self", "oldSelf"]);
});

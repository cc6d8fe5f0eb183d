//! Whether the expressions of webhooks and policies are CEL, and name what there is: checked when they
//! are written, beside the rules of their kinds, which know texts only.

use crate::cel::Program;
use crate::kinds::KindInfo;
use crate::kinds::admission::GROUP;
use crate::kinds::field::{Errors, Field};

use serde_json::Value;

/// What a condition can name.
const CONDITION: &[&str] = &["object", "oldObject", "request", "authorizer"];
/// What a policy's other expressions can name beside.
const POLICY: &[&str] = &["object", "oldObject", "request", "namespaceObject", "variables", "authorizer"];
/// What a message can name: it does not ask about anybody.
const MESSAGE: &[&str] = &["object", "oldObject", "request", "namespaceObject", "variables"];

/// What is wrong with the expressions of an object of this kind.
pub fn validate(info: &KindInfo, object: &Value) -> Errors {
    let mut errors = Errors::default();
    if info.group != GROUP {
        return errors;
    }
    let root = Field::root(object);
    for hook in root.get("webhooks").items() {
        check_all(&mut errors, &hook.get("matchConditions"), "expression", CONDITION, false);
    }
    let spec = root.get("spec");
    let params = spec.get("paramKind").exists();
    check_all(&mut errors, &spec.get("matchConditions"), "expression", CONDITION, params);
    for (list, expression) in [
        ("variables", "expression"),
        ("validations", "expression"),
        ("validations", "messageExpression"),
        ("auditAnnotations", "valueExpression"),
        ("mutations", "applyConfiguration.expression"),
        ("mutations", "jsonPatch.expression"),
    ] {
        let known = if expression == "messageExpression" { MESSAGE } else { POLICY };
        check_all(&mut errors, &spec.get(list), expression, known, params);
    }
    errors
}

/// Checks the field `name` (a path of names) of each element of a list.
fn check_all(errors: &mut Errors, list: &Field<'_>, name: &str, variables: &[&str], params: bool) {
    for item in list.items() {
        let at = name.split('.').fold(item, |at, name| at.get(name));
        // What is empty is the kind's concern.
        if at.str().trim().is_empty() {
            continue;
        }
        let mut known = variables.to_vec();
        if params {
            known.push("params");
        }
        let wrong = match Program::compile(at.str()) {
            Ok(program) => program.undeclared(&known),
            Err(why) => Some(why),
        };
        if let Some(why) = wrong {
            errors.invalid(&at, format!("compilation failed: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kind;
    use crate::kinds::admission::validating_admission_policy::ValidatingAdmissionPolicy;
    use serde_json::json;

    #[test]
    fn expressions_name_what_there_is() {
        let wrong = |spec: Value| {
            let errors = validate(ValidatingAdmissionPolicy.info(), &json!({"spec": spec}));
            errors.0.iter().map(|error| error.path.clone()).collect::<Vec<_>>()
        };
        let fine = json!({"paramKind": {}, "variables": [{"name": "a", "expression": "object.spec"}],
            "matchConditions": [{"expression": "request.userInfo.username != params.data.admin"}],
            "validations": [{"expression": "variables.a.replicas <= params.max", "messageExpression": "'no ' + object.kind"}],
            "auditAnnotations": [{"valueExpression": "namespaceObject.metadata.name"}]});
        assert_eq!(wrong(fine), [""; 0]);
        assert_eq!(wrong(json!({"validations": [{"expression": "params.x"}]})), ["spec.validations[0].expression"]);
        assert_eq!(wrong(json!({"validations": [{"expression": "1 +"}]})), ["spec.validations[0].expression"]);
        let asks = "authorizer.requestResource.check('x').allowed()";
        assert_eq!(
            wrong(json!({"validations": [{"expression": asks}], "matchConditions": [{"expression": asks}]})),
            [""; 0]
        );
        let message = json!({"validations": [{"expression": "true", "messageExpression": asks}]});
        assert_eq!(wrong(message), ["spec.validations[0].messageExpression"]);
        let condition = json!({"matchConditions": [{"expression": "variables.a"}]});
        assert_eq!(wrong(condition), ["spec.matchConditions[0].expression"]);
    }
}

//! What is refused, in upstream's words, by a table.

use serde_json::{Value, json};

use super::mutating_webhook_configuration::MutatingWebhookConfiguration;
use super::validating_admission_policy::ValidatingAdmissionPolicy;
use super::validating_admission_policy_binding::ValidatingAdmissionPolicyBinding;
use crate::kinds::Kind;

/// `base` with the value at a pointer replaced, defaulted, and what is wrong with it.
fn wrong(kind: &dyn Kind, base: &Value, pointer: &str, value: Value) -> Vec<String> {
    let mut object = base.clone();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = object.pointer_mut(parent).expect("a parent");
    match name.parse::<usize>() {
        Ok(at) if parent.is_array() => parent[at] = value,
        _ => parent[name] = value,
    }
    kind.default(&mut object);
    kind.validate(&object).0.iter().map(ToString::to_string).collect()
}

fn rule() -> Value {
    json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]})
}

#[test]
fn webhooks_are_checked_in_upstreams_words() {
    let base = json!({"metadata": {"name": "c"}, "webhooks": [{
        "name": "a.example.com", "clientConfig": {"url": "https://w.example.com/"}, "rules": [rule()],
        "sideEffects": "None", "admissionReviewVersions": ["v1"],
    }]});
    let service = |path: &str| json!({"service": {"namespace": "a", "name": "b", "path": path}});
    let cases = [
        ("/webhooks/0/name", json!("a.example.com"), vec![]),
        (
            "/webhooks/0/name",
            json!("a.b"),
            vec![
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
            ],
        ),
        (
            "/webhooks/0/sideEffects",
            Value::Null,
            vec!["webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"],
        ),
        (
            "/webhooks/0/sideEffects",
            json!("Some"),
            vec!["webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\""],
        ),
        (
            "/webhooks/0/timeoutSeconds",
            json!(31),
            vec!["webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"],
        ),
        (
            "/webhooks/0/admissionReviewVersions",
            json!(["v2"]),
            vec![
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
            ],
        ),
        (
            "/webhooks/0/reinvocationPolicy",
            json!("Always"),
            vec![
                "webhooks[0].reinvocationPolicy: Unsupported value: \"Always\": supported values: \"IfNeeded\", \"Never\"",
            ],
        ),
        (
            "/webhooks/0/clientConfig",
            json!({}),
            vec!["webhooks[0].clientConfig: Required value: exactly one of url or service is required"],
        ),
        (
            "/webhooks/0/clientConfig",
            json!({"url": "http://u@h/?q#f"}),
            vec![
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not permitted in the URL",
                "webhooks[0].clientConfig.url: Invalid value: \"f\": fragments are not permitted in the URL",
                "webhooks[0].clientConfig.url: Invalid value: \"q\": query parameters are not permitted in the URL",
            ],
        ),
        ("/webhooks/0/clientConfig", service("/v1/check"), vec![]),
        (
            "/webhooks/0/clientConfig",
            service("x//y"),
            vec![
                "webhooks[0].clientConfig.service.path: Invalid value: \"x//y\": must start with a '/'",
                "webhooks[0].clientConfig.service.path: Invalid value: \"x//y\": segment[1] may not be empty",
            ],
        ),
        (
            "/webhooks/0/rules/0/operations",
            json!(["*", "CREATE"]),
            vec![
                "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            ],
        ),
        (
            "/webhooks/0/rules/0/operations",
            json!(["READ"]),
            vec![
                "webhooks[0].rules[0].operations[0]: Unsupported value: \"READ\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
            ],
        ),
        (
            "/webhooks/0/rules/0/resources",
            json!(["pods/*", "pods/log"]),
            vec![
                "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
            ],
        ),
        (
            "/webhooks/0/rules/0/resources",
            json!(["*", "pods"]),
            vec![
                "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
            ],
        ),
        (
            "/webhooks/0/matchConditions",
            json!([{"name": "a", "expression": "true"}, {"name": "a", "expression": " "}]),
            vec![
                "webhooks[0].matchConditions[1].expression: Required value",
                "webhooks[0].matchConditions[1].name: Duplicate value: \"a\"",
            ],
        ),
    ];
    for (pointer, value, want) in cases {
        assert_eq!(wrong(&MutatingWebhookConfiguration, &base, pointer, value.clone()), want, "{pointer} {value}");
    }
}

#[test]
fn policies_and_bindings_are_checked_in_upstreams_words() {
    let base = json!({"metadata": {"name": "p.example.com"}, "spec": {
        "matchConstraints": {"resourceRules": [rule()]}, "validations": [{"expression": "true"}],
    }});
    let cases = [
        (
            "/spec/validations",
            json!([]),
            vec![
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
            ],
        ),
        (
            "/spec/validations/0/reason",
            json!("Gone"),
            vec![
                "spec.validations[0].reason: Unsupported value: \"Gone\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
            ],
        ),
        (
            "/spec/validations/0/message",
            json!("a\nb"),
            vec!["spec.validations[0].message: Invalid value: \"a\\nb\": message must not contain line breaks"],
        ),
        ("/spec/matchConstraints", json!({}), vec!["spec.matchConstraints.resourceRules: Required value"]),
        (
            "/spec/variables",
            json!([{"name": "for", "expression": "1"}]),
            vec!["spec.variables[0].name: Invalid value: \"for\": name is not a valid CEL identifier"],
        ),
        (
            "/spec/paramKind",
            json!({"apiVersion": "a/b/c"}),
            vec![
                "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                "spec.paramKind.kind: Required value",
            ],
        ),
        (
            "/spec/auditAnnotations",
            json!([{"key": "k", "valueExpression": "''"}, {"key": "k", "valueExpression": ""}]),
            vec![
                "spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not specified",
                "spec.auditAnnotations[1].key: Duplicate value: \"k\"",
            ],
        ),
    ];
    for (pointer, value, want) in cases {
        assert_eq!(wrong(&ValidatingAdmissionPolicy, &base, pointer, value.clone()), want, "{pointer} {value}");
    }
    let base = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    let cases = [
        ("/spec/policyName", json!("p.example.com"), vec![]),
        (
            "/spec/validationActions",
            json!([]),
            vec!["spec.validationActions: Required value: at least one validation action is required"],
        ),
        (
            "/spec/validationActions",
            json!(["Deny", "Warn"]),
            vec![
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
            ],
        ),
        (
            "/spec/paramRef",
            json!({"name": "a", "selector": {}}),
            vec![
                "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.parameterNotFoundAction: Required value",
            ],
        ),
    ];
    for (pointer, value, want) in cases {
        assert_eq!(wrong(&ValidatingAdmissionPolicyBinding, &base, pointer, value.clone()), want, "{pointer} {value}");
    }
}

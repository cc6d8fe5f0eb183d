//! Schemas against objects, by tables; pruning and defaulting by their properties.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::kinds::Kind;
use crate::kinds::custom_resource_definition::CustomResourceDefinition;
use crate::kinds::field::{Errors, Field};

fn widget() -> Value {
    json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 10},
            "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
            "tags": {"type": "array", "maxItems": 3, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": {"type": "object", "required": ["id"], "properties": {
                    "id": {"type": "string"}, "n": {"type": "integer", "default": 7}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "port": {"x-kubernetes-int-or-string": true},
            "note": {"type": "string", "nullable": true},
            "ratio": {"type": "number"},
            "until": {"type": "string", "format": "date-time"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "inner": {"type": "object", "x-kubernetes-embedded-resource": true,
                "x-kubernetes-preserve-unknown-fields": true},
        }},
        "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
    }})
}

fn texts(errors: &Errors) -> Vec<String> {
    errors.0.iter().map(ToString::to_string).collect()
}

fn judge(schema: &Value, spec: Value) -> Vec<String> {
    let schema = Schema::parse(schema);
    let mut object = json!({"apiVersion": "a/v1", "kind": "W", "metadata": {"name": "w"}, "spec": spec});
    prune::prune(&schema, &mut object, &mut Vec::new());
    defaults::default(&schema, &mut object);
    let mut errors = validate::validate(&schema, &object, None);
    errors.extend(validate::validate_lists(&schema, &object, None));
    errors.extend(rules::validate(&schema, &object, None));
    texts(&errors)
}

#[test]
fn values_are_refused_in_upstreams_words() {
    let cases = [
        (json!({}), vec!["spec.size: Required value"]),
        (
            json!({"size": 0}),
            vec!["spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"],
        ),
        (
            json!({"size": "3"}),
            vec![r#"spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#],
        ),
        (
            json!({"size": 1.5}),
            vec![
                r#"spec.size: Invalid value: "number": spec.size in body must be of type integer: "number""#,
                r#"<nil>: Invalid value: "": Checked value must be of type integer (default format) in spec.size"#,
            ],
        ),
        (
            json!({"size": 3, "color": "green"}),
            vec![r#"spec.color: Unsupported value: "green": supported values: "red", "blue""#],
        ),
        (json!({"size": 3, "color": null}), vec![]),
        (
            json!({"size": 3, "name": "ABC"}),
            vec![r#"spec.name: Invalid value: "ABC": spec.name in body should match '^[a-z]+$'"#],
        ),
        (json!({"size": 3, "name": "toolong"}), vec!["spec.name: Too long: may not be more than 5 bytes"]),
        (json!({"size": 3, "tags": ["a", "a"]}), vec![r#"spec.tags[1]: Duplicate value: "a""#]),
        (json!({"size": 3, "tags": ["a", "b", "c", "d"]}), vec!["spec.tags: Too many: 4: must have at most 3 items"]),
        (json!({"size": 3, "parts": [{"n": 1}]}), vec!["spec.parts[0].id: Required value"]),
        (
            json!({"size": 3, "parts": [{"id": "a"}, {"id": "a"}]}),
            vec![r#"spec.parts[1]: Duplicate value: {"id":"a"}"#],
        ),
        (json!({"size": 3, "port": "http", "note": null}), vec![]),
        (
            json!({"size": 3, "port": true}),
            vec![r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#],
        ),
        (
            json!({"size": 3, "until": "noon"}),
            vec![r#"spec.until: Invalid value: "noon": spec.until in body must be of type date-time: "noon""#],
        ),
        (
            json!({"size": 3, "labels": {"a": 1}}),
            vec![r#"spec.labels.a: Invalid value: "integer": spec.labels.a in body must be of type string: "integer""#],
        ),
        (json!({"size": 3, "inner": {"kind": "X"}}), vec!["spec.inner.apiVersion: Required value: must not be empty"]),
    ];
    for (spec, want) in cases {
        assert_eq!(judge(&widget(), spec.clone()), want, "{spec}");
    }
}

#[test]
fn what_is_unknown_is_dropped_and_told() {
    let schema = Schema::parse(&widget());
    let mut object = json!({"kind": "W", "metadata": {"any": 1}, "bogus": 1, "spec": {
        "size": 3, "bogus": 1, "free": {"any": {"thing": 1}}, "parts": [{"id": "a", "x": 1}], "labels": {"k": "v"},
        "inner": {"kind": "X", "spec": {"deep": 1}},
    }});
    let mut unknown = Vec::new();
    prune::prune(&schema, &mut object, &mut unknown);
    unknown.sort();
    assert_eq!(unknown, ["bogus", "spec.bogus", "spec.parts[0].x"]);
    assert_eq!(object["spec"]["free"]["any"]["thing"], 1);
    assert_eq!(object["spec"]["inner"]["spec"]["deep"], 1);
    assert_eq!(object["metadata"]["any"], 1);
}

#[test]
fn an_update_is_not_judged_by_what_it_leaves_alone() {
    let schema = Schema::parse(&widget());
    let old = json!({"spec": {"size": 30, "parts": [{"id": "a", "n": "x"}, {"id": "b"}]}});
    let mut new = old.clone();
    new["spec"]["color"] = "blue".into();
    new["spec"]["parts"] = json!([{"id": "b"}, {"id": "a", "n": "x"}]);
    assert_eq!(texts(&validate::validate(&schema, &new, Some(&old))), Vec::<String>::new());
    new["spec"]["size"] = 31.into();
    assert_eq!(texts(&validate::validate(&schema, &new, Some(&old))).len(), 1);
}

#[test]
fn rules_are_evaluated_where_they_stand() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
    "x-kubernetes-validations": [
        {"rule": "self.min <= self.max", "message": "min must not exceed max"},
        {"rule": "self.max < 100", "messageExpression": "'max is ' + string(self.max)", "fieldPath": ".max"},
        {"rule": "self.max >= oldSelf.max", "message": "max may only grow", "reason": "FieldValueForbidden"},
    ],
    "properties": {
        "min": {"type": "integer"}, "max": {"type": "integer"},
        "name-x": {"type": "string", "x-kubernetes-validations": [{"rule": "self != 'bad'"}]},
        "list": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self.size() > 1"}]}},
        "map": {"type": "object", "additionalProperties": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 0"}]}},
    }}}});
    let cases = [
        (json!({"min": 1, "max": 2}), vec![]),
        (json!({"min": 3, "max": 2}), vec!["spec: Invalid value: min must not exceed max"]),
        (json!({"min": 1, "max": 200}), vec!["spec.max: Invalid value: max is 200"]),
        (
            json!({"min": 1, "max": 2, "name-x": "bad"}),
            vec![r#"spec.name-x: Invalid value: "bad": failed rule: self != 'bad'"#],
        ),
        (
            json!({"min": 1, "max": 2, "list": ["ab", "c"]}),
            vec![r#"spec.list[1]: Invalid value: "c": failed rule: self.size() > 1"#],
        ),
        (json!({"min": 1, "max": 2, "map": {"k": 0}}), vec!["spec.map[k]: Invalid value: 0: failed rule: self > 0"]),
        (
            json!({"max": 2}),
            vec![r#"spec: Invalid value: "object": no such key: min evaluating rule: min must not exceed max"#],
        ),
    ];
    for (spec, want) in cases {
        assert_eq!(judge(&schema, spec.clone()), want, "{spec}");
    }
    let parsed = Schema::parse(&schema);
    let (old, new) = (json!({"spec": {"min": 1, "max": 5}}), json!({"spec": {"min": 1, "max": 4}}));
    let errors = rules::validate(&parsed, &new, Some(&old));
    assert_eq!(texts(&errors), ["spec: Forbidden: max may only grow"]);
    assert!(rules::validate(&parsed, &old, Some(&new)).is_empty());
}

#[test]
fn names_reach_rules_escaped() {
    for (name, want) in [
        ("a", "a"),
        ("a_b", "a_b"),
        ("a__b", "a__underscores__b"),
        ("a-b", "a__dash__b"),
        ("a.b/c", "a__dot__b__slash__c"),
        ("namespace", "__namespace__"),
    ] {
        assert_eq!(rules::escape(name), want);
    }
}

fn checked(schema: Value) -> Vec<String> {
    texts(&check::check(&Field::new("s", &schema)))
}

#[test]
fn schemas_that_cannot_be_served_are_refused() {
    let property = |inner: Value| json!({"type": "object", "properties": {"a": inner}});
    let cases = [
        (
            json!({"properties": {"a": {"type": "string"}}}),
            vec!["s.type: Required value: must not be empty at the root"],
        ),
        (
            property(json!({})),
            vec!["s.properties[a].type: Required value: must not be empty for specified object fields"],
        ),
        (
            property(json!({"type": "string", "default": 3})),
            vec![r#"s.properties[a].default: Invalid value: "integer":  in body must be of type string: "integer""#],
        ),
        (
            property(json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "string"}})),
            vec![
                "s.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
                r#"s.properties[a].items.type: Invalid value: "string": must be object if parent array's x-kubernetes-list-type is map"#,
            ],
        ),
        (property(json!({"type": "array"})), vec!["s.properties[a].items: Required value: must be specified"]),
        (
            property(json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]})),
            vec![],
        ),
        (
            property(json!({"type": "integer", "anyOf": [{"type": "integer"}]})),
            vec!["s.properties[a].anyOf[0].type: Forbidden: must be empty to be structural"],
        ),
        (
            property(json!({"type": "string", "x-kubernetes-validations": [{"rule": "self.size( > 1"}]})),
            vec![
                "s.properties[a].x-kubernetes-validations[0].rule: Invalid value: \"self.size( > 1\": compilation failed",
            ],
        ),
        (
            property(json!({"type": "string", "x-kubernetes-validations": [{"rule": "slef == 'x'"}]})),
            vec![
                "s.properties[a].x-kubernetes-validations[0].rule: Invalid value: \"slef == 'x'\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'slef'",
            ],
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.a.b == self.metadata.name"}],
                "properties": {"a": {"type": "object", "properties": {"c": {"type": "string"}}}}}),
            vec![
                "s.x-kubernetes-validations[0].rule: Invalid value: \"self.a.b == self.metadata.name\": compilation failed: ERROR: <input>:1:1: undefined field 'b'",
            ],
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "has(self.a) && self.m.any.thing && self.l.all(x, x.y == self.a__dash__b)"}],
                "properties": {"a": {"type": "string"}, "a-b": {"type": "string"}, "m": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "l": {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}),
            vec![],
        ),
        (
            property(json!({"type": "string", "pattern": "("})),
            vec!["s.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't"],
        ),
        (widget(), vec![]),
    ];
    for (schema, want) in cases {
        let got = checked(schema.clone());
        assert_eq!(got.len(), want.len(), "{schema}: {got:#?}");
        for (got, want) in got.iter().zip(want) {
            assert!(got.starts_with(want), "{got}");
        }
    }
}

#[test]
fn hostile_schemas_are_bounded() {
    let mut deep = json!({"type": "object"});
    for _ in 0..120 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    assert!(checked(deep.clone()).is_empty());
    let mut object = json!(1);
    for _ in 0..120 {
        object = json!({"a": object});
    }
    assert!(!validate::validate(&Schema::parse(&deep), &object, None).is_empty());
    let choices: Vec<Value> = (0..50_000).map(Value::from).collect();
    let large = json!({"type": "object", "properties": {"a": {"type": "integer", "enum": choices}}});
    assert_eq!(validate::validate(&Schema::parse(&large), &json!({"a": -1}), None).0.len(), 1);
    let repeated =
        json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "((a{1,1000}){1,1000}){1,1000}"}}});
    assert_eq!(checked(repeated).len(), 1);
    let many: Vec<Value> = (0..100_000).map(|_| json!("x")).collect();
    let errors = validate::validate(
        &Schema::parse(
            &json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}),
        ),
        &json!({"a": many}),
        None,
    );
    assert!(errors.0.len() <= 101, "{}", errors.0.len());
    let loops = "[1,2,3,4,5,6,7,8,9,0]";
    let rule = (0..9).fold("true".to_owned(), |body, n| format!("{loops}.all(x{n}, {body})"));
    let costly = json!({"type": "object", "properties": {"a": {"type": "string",
        "x-kubernetes-validations": [{"rule": rule}]}}});
    let errors = rules::validate(&Schema::parse(&costly), &json!({"a": "x"}), None);
    assert!(texts(&errors)[0].contains("cost exceeds limit"), "{errors:?}");
}

#[test]
fn paths_find_what_columns_show() {
    let object = json!({"metadata": {"annotations": {"a.b/c": "x"}}, "spec": {"n": [1, 2, 3]}, "status": {"conditions": [
        {"type": "Ready", "status": "True"}, {"type": "Synced", "status": "False"}]}});
    let cases = [
        (".spec.n[1]", Some(json!(2))),
        (".spec.n[-1]", Some(json!(3))),
        (".metadata.annotations['a.b/c']", Some(json!("x"))),
        (r".metadata.annotations.a\.b/c", Some(json!("x"))),
        (r#".status.conditions[?(@.type=="Synced")].status"#, Some(json!("False"))),
        (".status.conditions[*].type", Some(json!("Ready"))),
        (".status.nothing", None),
    ];
    for (path, want) in cases {
        let parsed = paths::JsonPath::parse(path).unwrap_or_else(|| panic!("{path}"));
        assert_eq!(parsed.find(&object), want.as_ref(), "{path}");
    }
    for bad in ["", "spec", ".spec..a", ".a[", ".a[x]", ".."] {
        assert_eq!(paths::JsonPath::parse(bad), None, "{bad}");
    }
}

#[test]
fn a_definition_is_defaulted_and_judged() {
    let mut definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": widget()}}]}});
    CustomResourceDefinition.default(&mut definition);
    CustomResourceDefinition.prepare_create(&mut definition);
    assert_eq!(definition["spec"]["names"]["listKind"], "WidgetList");
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(texts(&CustomResourceDefinition.validate(&definition)), Vec::<String>::new());
    let mut none = definition.clone();
    none["spec"]["versions"][0]["storage"] = false.into();
    CustomResourceDefinition.prepare_create(&mut none);
    let errors = texts(&CustomResourceDefinition.validate(&none));
    assert!(errors[0].contains("must have exactly one version marked as storage version"), "{errors:?}");
    assert_eq!(errors[1], "status.storedVersions: Invalid value: null: must have at least one stored version");
    let mut moved = definition.clone();
    moved["spec"]["names"]["plural"] = "gadgets".into();
    assert!(!CustomResourceDefinition.validate_update(&moved, &definition).is_empty());
}

/// Any JSON of a few levels.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-20i64..20).prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 5, |inner| {
        let name = prop_oneof![
            "[a-c]",
            Just("size".to_owned()),
            Just("color".to_owned()),
            Just("parts".to_owned()),
            Just("id".to_owned()),
            Just("spec".to_owned()),
            Just("free".to_owned()),
            Just("n".to_owned()),
            Just("labels".to_owned()),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Pruning and defaulting settle at once, keep each other's work, and never panic with validation after.
    #[test]
    fn pruning_and_defaulting_are_idempotent(spec in any_json()) {
        let schema = Schema::parse(&widget());
        let mut object = json!({"metadata": {}, "spec": spec});
        prune::prune(&schema, &mut object, &mut Vec::new());
        let pruned = object.clone();
        let mut unknown = Vec::new();
        prune::prune(&schema, &mut object, &mut unknown);
        prop_assert_eq!(&object, &pruned);
        prop_assert!(unknown.is_empty());
        defaults::default(&schema, &mut object);
        let filled = object.clone();
        defaults::default(&schema, &mut object);
        prop_assert_eq!(&object, &filled);
        prune::prune(&schema, &mut object, &mut Vec::new());
        prop_assert_eq!(&object, &filled);
        let _ = validate::validate(&schema, &object, None);
        // What has not changed is never refused.
        prop_assert!(validate::validate(&schema, &object, Some(&filled)).is_empty());
    }
}

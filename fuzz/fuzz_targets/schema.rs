//! CustomResourceDefinitions: any schema, first refused or not, then at work on any object.

#![no_main]

use coracle::kinds::custom_resource_definition::CustomResourceDefinition;
use coracle::kinds::structural::{Schema, defaults, prune, rules, validate};
use coracle::kinds::{Kind, schema};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|input: (&str, &str)| {
    let (text, object) = input;
    let Ok(text) = serde_json::from_str::<Value>(text) else { return };
    let mut definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "as.b.c"},
        "spec": {
            "group": "b.c", "scope": "Namespaced", "names": {"plural": "as", "kind": "A"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": text}}],
        },
    });
    let kind = &CustomResourceDefinition;
    let ty = schema::lookup(kind.info().schema).expect("its type");
    if schema::conform::conform(ty, &mut definition, &mut Vec::new()).is_err() {
        return;
    }
    kind.default(&mut definition);
    let _ = kind.validate(&definition);
    let parsed = Schema::parse(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
    let Ok(mut object) = serde_json::from_str::<Value>(object) else { return };
    let old = object.clone();
    prune::prune(&parsed, &mut object, &mut Vec::new());
    defaults::default(&parsed, &mut object);
    let _ = validate::validate(&parsed, &object, Some(&old));
    let _ = rules::validate(&parsed, &object, Some(&old));
});

//! Custom resources as people use them: stock kubectl, from the definition to its end.

use serde_json::{Value, json};

use crate::harness::both;
use crate::hooks::Hook;
use crate::kubectl::with_each;

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.sea.example.com}
spec:
  group: sea.example.com
  scope: Namespaced
  names: {plural: boats, singular: boat, kind: Boat, shortNames: [bo], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.rowers, statusReplicasPath: .status.rowers}
    additionalPrinterColumns:
    - {name: Length, type: integer, jsonPath: .spec.length}
    - {name: Hull, type: string, jsonPath: .spec.hull}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [length]
            x-kubernetes-validations:
            - {rule: "self.rowers <= self.length", message: "too many rowers for its length"}
            properties:
              length: {type: integer, minimum: 1, description: "From stem to stern, in metres."}
              hull: {type: string, enum: [willow, steel], default: willow}
              rowers: {type: integer, default: 1}
          status:
            type: object
            properties: {rowers: {type: integer}, afloat: {type: boolean}}
"#;

const BOAT: &str = r#"
apiVersion: sea.example.com/v1
kind: Boat
metadata: {name: coracle}
spec: {length: 2}
"#;

#[test]
fn a_kind_is_defined_used_and_removed() {
    with_each(&[], |k| {
        let apply = |text: &str, wanted: &str| {
            let output = k.output("apply -f -", Some(text));
            let text = both(&output);
            assert!(text.contains(wanted), "apply does not say {wanted:?}:\n{text}");
        };
        apply(DEFINITION, "customresourcedefinition.apiextensions.k8s.io/boats.sea.example.com created");
        k.ok("wait --for=condition=Established crd/boats.sea.example.com --timeout=60s");
        k.eventually_says("api-resources --api-group=sea.example.com", &["boats", "bo", "Boat"]);
        apply(BOAT, "boat.sea.example.com/coracle created");
        k.says("get boats", &["LENGTH", "HULL", "coracle", "2", "willow"]);
        k.says("get bo coracle -o jsonpath={.spec.rowers}", &["1"]);
        k.says("get all", &["boat.sea.example.com/coracle"]);
        k.eventually_says("explain boats.spec.length", &["From stem to stern"]);
        apply(BOAT, "boat.sea.example.com/coracle unchanged");
        apply(&BOAT.replace("length: 2", "length: 3"), "boat.sea.example.com/coracle configured");
        apply(&BOAT.replace("length: 2", "length: 2, rowers: 5"), "too many rowers for its length");
        apply(&BOAT.replace("length: 2", "length: 0"), "should be greater than or equal to 1");
        apply(&BOAT.replace("length: 2", "sails: 2"), "unknown field \"spec.sails\"");
        k.ok("scale boat/coracle --replicas=2");
        k.says("get boat coracle -o jsonpath={.spec.rowers}", &["2"]);
        k.says("patch boat coracle --type=merge -p {\"spec\":{\"hull\":\"steel\"}}", &["patched"]);
        k.ok("patch boat coracle --subresource=status --type=merge -p {\"status\":{\"afloat\":true}}");
        k.ok("wait --for=jsonpath={.status.afloat}=true boat/coracle --timeout=60s");
        let output = k.output("apply --server-side --force-conflicts -f -", Some(BOAT));
        assert!(output.status.success(), "{}", both(&output));
        k.says("label boat coracle sea=calm", &["labeled"]);
        k.says("describe boat coracle", &["Hull", "sea=calm"]);
        k.says("auth can-i create boats.sea.example.com", &["yes"]);
        k.says("delete crd boats.sea.example.com --timeout=60s", &["deleted"]);
        k.refused("get --raw /apis/sea.example.com/v1/boats", &["NotFound"]);
    });
}

/// Version 1 has the length of a boat in metres; version 2 in feet, and below `size`.
fn convert(_: &str, review: Value) -> Value {
    let request = &review["request"];
    let to = request["desiredAPIVersion"].as_str().unwrap_or_default();
    let objects = request["objects"].as_array().into_iter().flatten().map(|object| {
        let mut new = object.clone();
        new["apiVersion"] = to.into();
        new["spec"] = match to.ends_with("/v2") {
            true => json!({"size": {"feet": object["spec"]["metres"].as_i64().map(|metres| metres * 3)}}),
            false => json!({"metres": object["spec"]["size"]["feet"].as_i64().map(|feet| feet / 3)}),
        };
        new
    });
    let objects: Vec<Value> = objects.collect();
    json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview",
        "response": {"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects}})
}

fn ferries(hook: &Hook) -> String {
    let version = |name: &str, spec: Value, path: &str| {
        json!({"name": name, "served": true, "storage": name == "v1", "subresources": {"status": {}},
            "additionalPrinterColumns": [{"name": "Length", "type": "integer", "jsonPath": path}],
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": spec},
                "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}})
    };
    let feet = json!({"size": {"type": "object", "properties": {"feet": {"type": "integer"}}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "ferries.sea.example.com"},
        "spec": {"group": "sea.example.com", "scope": "Namespaced",
            "names": {"plural": "ferries", "singular": "ferry", "kind": "Ferry", "listKind": "Fleet"},
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1"], "clientConfig": hook.client_config("convert")}},
            "versions": [version("v1", json!({"metres": {"type": "integer"}}), ".spec.metres"),
                version("v2", feet, ".spec.size.feet")]}})
    .to_string()
}

fn ferry(version: &str, spec: Value, namespace: &str) -> String {
    json!({"apiVersion": format!("sea.example.com/{version}"), "kind": "Ferry",
        "metadata": {"name": "one", "namespace": namespace}, "spec": spec})
    .to_string()
}

#[test]
fn a_webhook_converts_between_versions_and_may_be_away() {
    with_each(&[], |k| {
        let hook = Hook::start(convert);
        let apply = |text: &str, wanted: &str| {
            let text = both(&k.output("apply -f -", Some(text)));
            assert!(text.contains(wanted), "apply does not say {wanted:?}:\n{text}");
        };
        apply(&ferries(&hook), "created");
        let established =
            "get crd ferries.sea.example.com -o jsonpath={.status.conditions[?(@.type==\"Established\")].status}";
        k.eventually_says(established, &["True"]);
        k.ok("create namespace port");
        k.eventually_says("get ferries.v1.sea.example.com -n port", &["No resources found"]);
        apply(&ferry("v1", json!({"metres": 10}), "port"), "ferry.sea.example.com/one created");
        k.says("get ferries.v1.sea.example.com -n port", &["LENGTH", "10"]);
        k.says("get ferries.v2.sea.example.com -n port", &["LENGTH", "30"]);
        k.says("get ferries.v1.sea.example.com -n port -o jsonpath={.kind}{.items[*].spec}", &["{\"metres\":10}"]);
        k.says("get --raw /apis/sea.example.com/v1/namespaces/port/ferries", &["\"kind\":\"Fleet\""]);
        apply(&ferry("v2", json!({"size": {"feet": 60}}), "port"), "ferry.sea.example.com/one configured");
        k.says("get ferries.v1.sea.example.com one -n port -o jsonpath={.spec.metres}", &["20"]);
        let applied = |version: &str, spec: Value| {
            both(&k.output("apply --server-side -f -", Some(&ferry(version, spec, "default"))))
        };
        assert!(applied("v1", json!({"metres": 4})).contains("serverside-applied"));
        assert!(applied("v2", json!({"size": {"feet": 12}})).contains("serverside-applied"));
        k.says("get ferries.v1.sea.example.com one -o jsonpath={.spec}", &["{\"metres\":4}"]);
        let finalizers = |list: &str| format!("{{\"metadata\":{{\"finalizers\":{list}}}}}");
        k.ok(&format!("patch ferries.v1.sea.example.com one --type=merge -p {}", finalizers("[\"example.com/held\"]")));

        hook.set_away(true);
        k.ok("label ferries.v1.sea.example.com one away=yes");
        k.says("get ferries.v1.sea.example.com one", &["4"]);
        k.refused(
            "get ferries.v2.sea.example.com one",
            &["conversion webhook for sea.example.com/v1, Kind=Ferry failed"],
        );
        // What the server does by itself needs no webhook, though it knows kinds by their newest versions.
        k.ok("delete namespace port --timeout=60s");
        let owned = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ticket", "ownerReferences": [
            {"apiVersion": "sea.example.com/v2", "kind": "Ferry", "name": "one",
                "uid": k.ok("get ferries.v1.sea.example.com one -o jsonpath={.metadata.uid}")}]}});
        apply(&owned.to_string(), "configmap/ticket created");
        k.ok("delete ferries.v1.sea.example.com one --wait=false");
        k.says("get configmap ticket", &["ticket"]);
        k.ok(&format!("patch ferries.v1.sea.example.com one --type=merge -p {}", finalizers("null")));
        k.eventually_says("get configmap ticket", &["NotFound"]);
        hook.set_away(false);
        k.ok("delete crd ferries.sea.example.com --timeout=60s");
    });
}

const APPROVED: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: gulls.sea.k8s.io
  annotations: {api-approved.kubernetes.io: "unapproved, a test"}
spec:
  group: sea.k8s.io
  scope: Cluster
  names: {plural: gulls, kind: Gull}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              nests: {type: array, items: {type: object, properties: {eggs: {type: integer}}}}
              homes: {type: object, additionalProperties: {type: object, properties: {cliff: {type: string}}}}
"#;

#[test]
fn protected_groups_tell_of_their_approval_and_nested_fields_are_strict() {
    with_each(&[], |k| {
        let apply = |text: &str, wanted: &[&str]| {
            let text = both(&k.output("apply -f -", Some(text)));
            wanted.iter().for_each(|word| assert!(text.contains(word), "apply does not say {word:?}:\n{text}"));
        };
        let condition = "{.status.conditions[?(@.type==\"KubernetesAPIApprovalPolicyConformant\")]";
        let approved = APPROVED.replace("unapproved, a test", "");
        apply(&approved, &["protected groups must have approval annotation \"api-approved.kubernetes.io\""]);
        apply(APPROVED, &["created"]);
        k.ok("wait --for=condition=Established crd/gulls.sea.k8s.io --timeout=60s");
        let message = format!("get crd gulls.sea.k8s.io -o jsonpath={condition}.message}}");
        k.eventually_says(&message, &["not approved: \"unapproved, a test\""]);
        let url = "https://github.com/kubernetes/kubernetes/pull/1";
        k.ok(&format!("annotate --overwrite crd gulls.sea.k8s.io api-approved.kubernetes.io={url}"));
        let status = format!("get crd gulls.sea.k8s.io -o jsonpath={condition}.status}}");
        k.eventually_says(&status, &["True"]);
        k.eventually_says(&message, &["approved in https://github.com"]);
        let gull =
            |spec: &str| format!("apiVersion: sea.k8s.io/v1\nkind: Gull\nmetadata: {{name: jo}}\nspec: {spec}\n");
        apply(&gull("{nests: [{eggs: 1}, {eggs: 2, twigs: 3}]}"), &["unknown field \"spec.nests[1].twigs\""]);
        apply(&gull("{homes: {a: {sea: far}}}"), &["unknown field \"spec.homes.a.sea\""]);
        apply(&gull("{nests: [{eggs: 1}], homes: {a: {cliff: high}}}"), &["gull.sea.k8s.io/jo created"]);
    });
}

//! Custom resources as people use them: stock kubectl, from the definition to its end.

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
            let text = crate::harness::both(&output);
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
        assert!(output.status.success(), "{}", crate::harness::both(&output));
        k.says("label boat coracle sea=calm", &["labeled"]);
        k.says("describe boat coracle", &["Hull", "sea=calm"]);
        k.says("auth can-i create boats.sea.example.com", &["yes"]);
        k.says("delete crd boats.sea.example.com --timeout=60s", &["deleted"]);
        k.refused("get --raw /apis/sea.example.com/v1/boats", &["NotFound"]);
    });
}

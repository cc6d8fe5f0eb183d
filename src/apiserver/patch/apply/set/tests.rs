use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;

use super::*;

/// A set as the plain model: paths of keys.
type Model = BTreeSet<Vec<String>>;

fn model(set: &FieldSet) -> Model {
    set.paths().into_iter().map(|path| path.into_iter().map(str::to_owned).collect()).collect()
}

fn build(paths: &Model) -> FieldSet {
    let mut set = FieldSet::default();
    for path in paths {
        let steps: Vec<Step<'_>> = path.iter().map(|key| Step::Element(key)).collect();
        set.insert(&steps);
    }
    set
}

fn paths() -> impl Strategy<Value = Model> {
    let key = prop_oneof![Just("f:a"), Just("f:b"), Just("k:{\"name\":\"x\"}"), Just("v:1")];
    let path = prop::collection::vec(key.prop_map(str::to_owned), 1..4);
    prop::collection::btree_set(path, 0..12)
}

proptest! {
    #[test]
    fn a_set_is_the_paths_put_into_it(paths in paths()) {
        prop_assert_eq!(model(&build(&paths)), paths);
    }

    #[test]
    fn the_algebra_is_that_of_sets(a in paths(), b in paths()) {
        let (left, right) = (build(&a), build(&b));
        let mut both = left.clone();
        both.unite(&right);
        prop_assert_eq!(&both, &build(&a.union(&b).cloned().collect()));
        let mut rest = left.clone();
        rest.subtract(&right);
        prop_assert_eq!(&rest, &build(&a.difference(&b).cloned().collect()));
        let shared = left.intersection(&right);
        prop_assert_eq!(&shared, &build(&a.intersection(&b).cloned().collect()));
        let mut outside = left.clone();
        outside.remove_tree(&["a", "b"]);
        let tree = ["f:a".to_owned(), "f:b".to_owned()];
        prop_assert_eq!(&outside, &build(&a.iter().filter(|path| !path.starts_with(&tree)).cloned().collect()));
        let mut outside = left.clone();
        outside.remove_field(&["a", "b"]);
        prop_assert_eq!(&outside, &build(&a.iter().filter(|path| **path != tree).cloned().collect()));
        for path in a.union(&b) {
            let steps: Vec<Step<'_>> = path.iter().map(|key| Step::Element(key)).collect();
            prop_assert_eq!(left.contains(&steps), a.contains(path));
        }
    }

    #[test]
    fn what_is_written_is_read_again(paths in paths()) {
        let set = build(&paths);
        let text = set.clone().into_value().to_string();
        let read = FieldSet::parse(serde_json::from_str(&text).unwrap());
        prop_assert_eq!(read, Ok(set));
    }
}

#[test]
fn the_encoding_is_upstreams() {
    let mut set = FieldSet::default();
    let ports = [Step::Field("spec"), Step::Field("ports"), Step::Element(r#"k:{"port":80,"protocol":"TCP"}"#)];
    set.insert(&ports);
    set.insert(&[ports[0], ports[1], ports[2], Step::Field("port")]);
    set.insert(&[Step::Field("metadata"), Step::Field("finalizers"), Step::Element(r#"v:"a/b""#)]);
    assert_eq!(
        set.clone().into_value(),
        json!({
            "f:metadata": {"f:finalizers": {"v:\"a/b\"": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}},
        })
    );
    let shown: Vec<String> = set.paths().iter().map(|path| show(path)).collect();
    assert_eq!(
        shown,
        [
            r#".metadata.finalizers[="a/b"]"#,
            r#".spec.ports[port=80,protocol="TCP"]"#,
            r#".spec.ports[port=80,protocol="TCP"].port"#
        ]
    );
}

#[test]
fn what_a_client_sends_is_made_canonical_or_refused() {
    let sent = json!({"k:{\"b\":1, \"a\":2}": {}, "k:{\"a\":2,\"b\":1}": {"f:x": {}}, "z:new": {"f:x": {}}});
    assert_eq!(
        FieldSet::parse(sent).map(FieldSet::into_value),
        Ok(json!({"k:{\"a\":2,\"b\":1}": {".": {}, "f:x": {}}}))
    );
    for sent in
        [json!([]), json!({"f": {}}), json!({"k:x": {}}), json!({"v:": {}}), json!({"i:x": {}}), json!({"f:a": 1})]
    {
        assert!(FieldSet::parse(sent.clone()).is_err(), "{sent}");
    }
    assert_eq!(FieldSet::parse(json!({".": {}})).map(|set| set.is_empty()), Ok(true));
}

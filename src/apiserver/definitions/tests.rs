//! Names that are free or taken, and kinds that come, change and go.

use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;

fn definition(name: &str, kind: &str, generation: i64) -> Value {
    json!({
        "metadata": {"name": format!("{name}.example.com"), "uid": name, "generation": generation},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": name, "singular": name.trim_end_matches('s'), "kind": kind, "listKind": format!("{kind}List")},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]},
        "status": {"acceptedNames": {"kind": "", "plural": ""}},
    })
}

fn settled(definition: &Value, others: &[Value]) -> Value {
    names::settle(definition, others, Timestamp::UNIX_EPOCH)
}

#[test]
fn names_are_accepted_unless_another_of_the_group_has_them() {
    let first = settled(&definition("widgets", "Widget", 1), &[]);
    assert!(holds(&first, "NamesAccepted") && holds(&first, "Established"));
    assert_eq!(first["status"]["acceptedNames"]["listKind"], "WidgetList");
    let second = settled(&definition("gadgets", "Widget", 1), std::slice::from_ref(&first));
    assert!(!holds(&second, "NamesAccepted") && !holds(&second, "Established"));
    assert_eq!(second["status"]["conditions"][0]["reason"], "ListKindConflict");
    let third = settled(&definition("gadgets", "Gadget", 1), std::slice::from_ref(&first));
    assert!(holds(&third, "Established"));
    assert_eq!(settled(&first, &[third])["status"], first["status"]);
}

#[test]
fn kinds_come_change_and_go_and_their_watches_end() {
    let (definitions, stop) = (Definitions::default(), CancellationToken::new());
    let one = settled(&definition("widgets", "Widget", 1), &[]);
    definitions.rebuild(std::slice::from_ref(&one), 5, &stop);
    let table = definitions.current();
    let kind = table.find("example.com", "v1", "widgets").expect("it is served").kind;
    let watching = table.retired(kind).expect("a custom kind");
    assert!(!kind.is_current(5) && kind.is_current(6));
    // The same again changes nothing.
    definitions.rebuild(std::slice::from_ref(&one), 9, &stop);
    assert!(!watching.is_cancelled() && kind.is_current(6));
    // Another schema: the same kind, whose watches end.
    let mut other = one.clone();
    other["metadata"]["generation"] = 2.into();
    other["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "properties": {"a": {"type": "string"}}});
    definitions.rebuild(&[other], 12, &stop);
    assert!(watching.is_cancelled() && !kind.is_current(12));
    let again = definitions.current().find("example.com", "v1", "widgets").map(|served| served.kind);
    assert!(again.is_some_and(|again| std::ptr::eq(again, kind)));
    definitions.rebuild(&[], 13, &stop);
    assert!(definitions.current().find("example.com", "v1", "widgets").is_none());
    assert!(definitions.current().retired(kind).is_some_and(|token| token.is_cancelled()));
}

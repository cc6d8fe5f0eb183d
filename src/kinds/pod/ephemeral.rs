//! `pods/ephemeralcontainers`: containers that are added to a pod that runs, to look into it. They are never
//! changed and never taken away again.

use serde_json::Value;

use super::{dump, whole};
use crate::kinds::field::{Errors, Field};
use crate::kinds::{diff, meta};

/// The endpoint, as upstream calls it.
pub const NAME: &str = "ephemeralcontainers";
const LIST: &str = "ephemeralContainers";

/// All that the endpoint takes of `new` is the list, and the version that it was made for.
pub fn prepare(new: &mut Value, old: &Value) {
    let mut written = old.clone();
    meta::object_mut(&mut written, "spec").remove(LIST);
    if let list @ Value::Array(_) = new["spec"][LIST].take() {
        written["spec"][LIST] = list;
    }
    for kept in ["resourceVersion", "managedFields"] {
        meta::take_from(&mut written["metadata"], &new["metadata"], kept);
    }
    meta::count_spec(&mut written, old);
    *new = written;
}

pub fn validate(new: &Value, old: &Value) -> Errors {
    let mut errors = Errors::default();
    if !old["metadata"]["annotations"][super::update::MIRROR_ANNOTATION].is_null() {
        errors.forbidden(&Field::root(new), "static pods do not support ephemeral containers");
        return errors;
    }
    whole(&mut errors, new);
    let (new, old) = (Field::root(new).get("spec").get(LIST), Field::root(old).get("spec").get(LIST));
    for before in old.items() {
        let name = before.get("name");
        match new.items().find(|container| container.get("name").str() == name.str()) {
            None => {
                let why = format!("existing ephemeral containers {:?} may not be removed\n", name.str());
                errors.forbidden(&new, why);
            }
            Some(now) if !meta::same(now.value, before.value) => {
                let (before, now) = (dump::ephemeral_lines(before.value), dump::ephemeral_lines(now.value));
                let difference = diff::unified(&before, &now);
                let why = format!("existing ephemeral containers {:?} may not be changed\n{difference}", name.str());
                errors.forbidden(&new, why);
            }
            Some(_) => {}
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::Kind;
    use crate::kinds::pod::Pod;

    fn pod(ephemeral: &Value) -> Value {
        let mut pod = json!({
            "metadata": { "name": "web", "namespace": "shop", "generation": 1, "resourceVersion": "5" },
            "spec": { "containers": [{ "name": "main", "image": "a:1" }], "ephemeralContainers": ephemeral },
        });
        Pod.default(&mut pod);
        pod
    }

    fn debugger(name: &str, image: &str) -> Value {
        json!({ "name": name, "image": image, "targetContainerName": "main" })
    }

    fn written(old: &Value, new: &Value) -> (Value, Vec<String>) {
        let (old, mut new) = (pod(old), pod(new));
        new["spec"]["containers"][0]["image"] = json!("other:1");
        new["metadata"]["labels"] = json!({ "not": "taken" });
        new["metadata"]["resourceVersion"] = json!("7");
        prepare(&mut new, &old);
        let errors = validate(&new, &old);
        (new, errors.0.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn nothing_but_the_list_is_taken() {
        let (new, errors) = written(&json!([]), &json!([debugger("debug", "b:1")]));
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(new["spec"]["containers"][0]["image"], "a:1");
        assert_eq!(new["metadata"]["labels"], Value::Null);
        assert_eq!((&new["metadata"]["resourceVersion"], &new["metadata"]["generation"]), (&json!("7"), &json!(2)));
        assert_eq!(new["spec"][LIST][0]["name"], "debug");
    }

    #[test]
    fn containers_are_only_added() {
        let first = json!([debugger("a", "b:1")]);
        let more = json!([debugger("b", "b:1"), debugger("a", "b:1")]);
        assert_eq!(written(&first, &more).1, Vec::<String>::new(), "in any order");
        for (new, words) in [
            (
                json!([]),
                "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"a\" may not be removed\n",
            ),
            (json!([debugger("a", "c:1")]), "existing ephemeral containers \"a\" may not be changed\n"),
            (
                json!([debugger("a", "b:1"), debugger("main", "b:1")]),
                "spec.ephemeralContainers[1].name: Duplicate value",
            ),
            (
                json!([debugger("a", "b:1"), { "name": "b", "image": "b:1", "targetContainerName": "none" }]),
                "spec.ephemeralContainers[1].targetContainerName: Not found: \"none\"",
            ),
        ] {
            let errors = written(&first, &new).1;
            assert!(errors.len() == 1 && errors[0].contains(words), "{new}: {errors:?}");
        }
    }
}

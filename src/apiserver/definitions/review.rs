//! What a conversion webhook is asked, and what of its answer is believed.
//!
//! A ConversionReview carries objects there and back. A webhook may change everything of an object but
//! what it is and whose: of the metadata only labels and annotations are taken from it. The checks, their
//! order and their texts are upstream's, so that who writes a webhook finds the same words in both.

use serde_json::{Map, Value, json};

use crate::apiserver::patch::apply::group_version_kind;
use crate::kinds::field::{Errors, Field};
use crate::kinds::meta;

/// The versions of ConversionReview that are spoken.
pub const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// A review: some objects of one kind, none of which is of the version that is wanted.
pub struct Review<'a> {
    /// One of [`VERSIONS`].
    pub version: &'a str,
    pub uid: &'a str,
    /// `example.com/v2`
    pub desired: &'a str,
    pub objects: &'a [Value],
    /// Whether they were asked for together, which the texts of errors tell.
    pub is_list: bool,
}

impl Review<'_> {
    pub fn question(&self) -> Value {
        json!({
            "kind": "ConversionReview",
            "apiVersion": format!("apiextensions.k8s.io/{}", self.version),
            "request": {"uid": self.uid, "desiredAPIVersion": self.desired, "objects": self.objects},
        })
    }

    /// What is being converted, as messages name it.
    pub fn subject(&self) -> String {
        let kind = self.objects.first().map(group_version_kind).unwrap_or_default();
        if self.is_list { format!("{kind}List") } else { kind }
    }

    /// The converted objects, in the order of those that were sent; or the whole message of why not.
    pub fn converted(&self, answer: Value) -> Result<Vec<Value>, String> {
        let subject = self.subject();
        let said = self.objects_of(answer).map_err(|why| format!("conversion webhook for {subject} failed: {why}"))?;
        let (got, wanted) = (said.len(), self.objects.len());
        if got != wanted {
            return Err(format!("conversion webhook for {subject} returned {got} objects, expected {wanted}"));
        }
        let pairs = self.objects.iter().zip(said).enumerate();
        pairs
            .map(|(at, (original, converted))| {
                self.checked(at, original, converted)
                    .map_err(|why| format!("conversion webhook for {subject} returned invalid {why}"))
            })
            .collect()
    }

    /// The objects that a successful answer to this very question carries.
    fn objects_of(&self, mut answer: Value) -> Result<Vec<Value>, String> {
        let kind = group_version_kind(&answer);
        let expected = format!("apiextensions.k8s.io/{}, Kind=ConversionReview", self.version);
        // Answers of the older version were never looked at so closely.
        let strict = self.version != "v1beta1";
        if strict && kind != expected {
            return Err(format!("expected webhook response of {expected}, got {kind}"));
        }
        let mut response = answer["response"].take();
        if response.is_null() {
            return Err("no response provided".to_owned());
        }
        let uid = response["uid"].as_str().unwrap_or_default();
        if strict && uid != self.uid {
            return Err(format!("expected response.uid={:?}, got {uid:?}", self.uid));
        }
        let result = &response["result"];
        let status = result["status"].as_str().unwrap_or_default();
        if status != "Success" {
            return Err(match result["message"].as_str().unwrap_or_default() {
                "" => format!("response.result.status was '{status}', not 'Success'"),
                message => message.to_owned(),
            });
        }
        match response["convertedObjects"].take() {
            Value::Array(objects) => Ok(objects),
            _ => Ok(Vec::new()),
        }
    }

    /// One converted object, with the original's metadata; or what is invalid about it.
    fn checked(&self, at: usize, original: &Value, mut converted: Value) -> Result<Value, String> {
        let (object, metadata) = if self.is_list {
            // Upstream counts these from one.
            let at = at + 1;
            (format!("converted object at index {at}"), format!("metadata in object at index {at}"))
        } else {
            ("object".to_owned(), "metadata".to_owned())
        };
        let identity = if self.is_list { object.clone() } else { format!("{object} at index {at}") };
        let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
        for (what, wanted, got) in [
            ("groupVersion", self.desired.to_owned(), text(&converted, "apiVersion")),
            ("kind", text(original, "kind"), text(&converted, "kind")),
        ] {
            if wanted != got {
                return Err(format!("{identity}: invalid {what} (expected {wanted}, received {got})"));
            }
        }
        for (what, field) in [("name", "name"), ("namespace", "namespace"), ("UID", "uid")] {
            let (wanted, got) = (meta::text(original, field), meta::text(&converted, field));
            if wanted != got {
                return Err(format!("{object}: must have the same {what}: {wanted} != {got}"));
            }
        }
        restore_metadata(original, &mut converted).map_err(|why| format!("{metadata}: {why}"))?;
        Ok(converted)
    }
}

/// Puts the original's metadata back, but for the labels and annotations.
fn restore_metadata(original: &Value, converted: &mut Value) -> Result<(), String> {
    let Some(answered) = converted.get_mut("metadata") else {
        return Err("missing metadata in converted object".to_owned());
    };
    let Value::Object(answered) = answered else {
        return Err(format!("invalid metadata of type {} in converted object", go_type(answered)));
    };
    let mut restored = original["metadata"].as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match answered.remove(field) {
            None | Some(Value::Null) => drop(restored.remove(field)),
            Some(Value::Object(new)) => {
                check_texts(field, &new, restored.get(field))?;
                restored.insert(field.to_owned(), Value::Object(new));
            }
            Some(other) => {
                return Err(format!("invalid metadata.{field} of type {} in converted object", go_type(&other)));
            }
        }
    }
    *answered = restored;
    Ok(())
}

/// What is new in a map of labels or annotations must be good ones.
fn check_texts(field: &str, new: &Map<String, Value>, old: Option<&Value>) -> Result<(), String> {
    if let Some((key, value)) = new.iter().find(|(_, value)| !value.is_string()) {
        let found = go_type(value);
        return Err(format!("metadata.{field}[{key}] must be a string, but is {found} in converted object"));
    }
    if old.and_then(Value::as_object) == Some(new) {
        return Ok(());
    }
    let (mut errors, value) = (Errors::default(), Value::Object(new.clone()));
    match field {
        "labels" => meta::validate_labels(&mut errors, &Field::new("metadata.labels", &value)),
        // The singular is upstream's.
        _ => meta::validate_annotations(&mut errors, &Field::new("metadata.annotation", &value)),
    }
    let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        several => Err(format!("[{}]", several.join(", "))),
    }
}

/// What Go calls the type that a JSON value is read into.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str) -> Value {
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Boat", "spec": {},
            "metadata": {"name": "a", "namespace": "sea", "uid": "u", "labels": {"a": "b"}, "finalizers": ["x"]}})
    }

    fn review(objects: &[Value]) -> Review<'_> {
        Review { version: "v1", uid: "7", desired: "example.com/v2", objects, is_list: objects.len() > 1 }
    }

    fn success(objects: &[Value]) -> Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
            "response": {"uid": "7", "result": {"status": "Success"}, "convertedObjects": objects}})
    }

    /// What is said of the answer that `change` makes of a good one.
    fn refused(change: &dyn Fn(&mut Value)) -> String {
        let mut answer = success(&[object("v2")]);
        change(&mut answer);
        review(&[object("v1")]).converted(answer).expect_err("it should be refused")
    }

    #[test]
    fn only_labels_and_annotations_come_from_the_webhook() {
        let mut answer = object("v2");
        answer["metadata"] = json!({"name": "a", "namespace": "sea", "uid": "u", "annotations": {"kept": "yes"},
            "finalizers": [], "generation": 9});
        let converted = review(&[object("v1")]).converted(success(&[answer])).expect("it is good");
        assert_eq!(
            converted[0]["metadata"],
            json!({"name": "a", "namespace": "sea", "uid": "u", "finalizers": ["x"], "annotations": {"kept": "yes"}})
        );
    }

    #[test]
    fn an_answer_that_is_not_one_to_the_question_is_refused_in_upstreams_words() {
        type Case<'a> = (&'a dyn Fn(&mut Value), &'a str);
        let cases: &[Case] = &[
            (
                &|a| a["kind"] = json!("Status"),
                "failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got apiextensions.k8s.io/v1, Kind=Status",
            ),
            (&|a| a["response"] = Value::Null, "failed: no response provided"),
            (&|a| a["response"]["uid"] = json!("8"), "failed: expected response.uid=\"7\", got \"8\""),
            (
                &|a| a["response"]["result"] = json!({"status": "Failure"}),
                "failed: response.result.status was 'Failure', not 'Success'",
            ),
            (&|a| a["response"]["result"] = json!({"message": "no idea"}), "failed: no idea"),
            (&|a| a["response"]["convertedObjects"] = json!([]), "returned 0 objects, expected 1"),
        ];
        for (change, wanted) in cases {
            assert_eq!(refused(change), format!("conversion webhook for example.com/v1, Kind=Boat {wanted}"));
        }
    }

    #[test]
    fn an_object_that_is_another_one_is_refused_in_upstreams_words() {
        let cases: &[(&str, Value, &str)] = &[
            (
                "/apiVersion",
                json!("example.com/v1"),
                "object at index 0: invalid groupVersion (expected example.com/v2, received example.com/v1)",
            ),
            ("/kind", json!("Ship"), "object at index 0: invalid kind (expected Boat, received Ship)"),
            ("/metadata/name", json!("b"), "object: must have the same name: a != b"),
            ("/metadata/namespace", json!("land"), "object: must have the same namespace: sea != land"),
            ("/metadata/uid", json!("v"), "object: must have the same UID: u != v"),
            (
                "/metadata/labels",
                json!([]),
                "metadata: invalid metadata.labels of type []interface {} in converted object",
            ),
            (
                "/metadata/labels/a",
                json!(1),
                "metadata: metadata.labels[a] must be a string, but is int64 in converted object",
            ),
            (
                "/metadata/labels/a",
                json!("-"),
                "metadata: metadata.labels: Invalid value: \"-\": a valid label must be",
            ),
        ];
        for (path, value, wanted) in cases {
            let said = refused(&|answer| {
                *answer.pointer_mut(&format!("/response/convertedObjects/0{path}")).expect("it is there") =
                    value.clone();
            });
            let whole = format!("conversion webhook for example.com/v1, Kind=Boat returned invalid {wanted}");
            assert!(said.starts_with(&whole), "{said}\n{whole}");
        }
    }

    #[test]
    fn of_several_the_one_at_fault_is_named() {
        let (sent, mut other) = ([object("v1"), object("v1")], object("v2"));
        other["metadata"]["uid"] = json!("v");
        let said = review(&sent).converted(success(&[object("v2"), other])).expect_err("one is another");
        assert_eq!(
            said,
            "conversion webhook for example.com/v1, Kind=BoatList returned invalid converted object at index 2: must have the same UID: u != v"
        );
    }

    #[test]
    fn the_older_review_is_not_held_to_its_uid() {
        let objects = [object("v1")];
        let review = Review { version: "v1beta1", ..review(&objects) };
        let answer = json!({"response": {"result": {"status": "Success"}, "convertedObjects": [object("v2")]}});
        assert!(review.converted(answer).is_ok());
        assert_eq!(review.question()["apiVersion"], "apiextensions.k8s.io/v1beta1");
    }
}

//! AdmissionReview, `admission.k8s.io/v1`: the question, and what an answer means. Pure.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::apiserver::admission::author::Through;
use crate::apiserver::admission::{Asker, Request};
use crate::apiserver::auth::User;
use crate::apiserver::status::ApiError;
use crate::kinds::common::{list, text};
use crate::kinds::{Kind, KindInfo};

/// The request of a review, without its objects: what expressions know as `request`, too. `kind` is the
/// one that the rule names, which may be another view of the object than the client's.
pub fn request(request: &Request<'_>, asker: &Asker<'_>, kind: &dyn Kind, uid: &str) -> Value {
    let own = request.place.info();
    let gvk = |info: &KindInfo| match asker.through {
        Through::Itself => json!({"group": info.group, "version": info.version, "kind": info.kind}),
        Through::Instead(expected) => gvk_of(expected.group, expected.version, expected.kind),
        Through::Part(view) => gvk_of(view.expected().group, view.expected().version, view.expected().kind),
    };
    let gvr = |info: &KindInfo| json!({"group": info.group, "version": info.version, "resource": info.plural});
    let mut fields = Map::from_iter([
        ("uid".to_owned(), uid.into()),
        ("kind".to_owned(), gvk(kind.info())),
        ("resource".to_owned(), gvr(kind.info())),
        ("requestKind".to_owned(), gvk(own)),
        ("requestResource".to_owned(), gvr(own)),
        ("operation".to_owned(), request.operation.as_str().into()),
        ("userInfo".to_owned(), user_info(asker.user)),
        ("dryRun".to_owned(), request.author.dry_run.into()),
        ("options".to_owned(), asker.options.to_value(request.operation, request.author.dry_run)),
    ]);
    let texts = [
        ("subResource", asker.subresource),
        ("requestSubResource", asker.subresource),
        ("name", request.place.name),
        ("namespace", request.namespace()),
    ];
    for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        fields.insert(name.to_owned(), text.into());
    }
    fields.into()
}

fn gvk_of(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// Upstream's UserInfo.
pub fn user_info(user: &User) -> Value {
    let groups: Vec<&str> = user.groups.iter().map(|group| &**group).collect();
    let mut info = json!({"username": &*user.name, "groups": groups});
    if !user.uid.is_empty() {
        info["uid"] = (&*user.uid).into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// The review to send.
pub fn question(version: &str, mut request: Value, object: Value, old: Option<Value>) -> Value {
    request["object"] = object;
    request["oldObject"] = old.unwrap_or_default();
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request})
}

/// What a webhook has to say.
#[derive(Debug)]
pub struct Verdict {
    /// The refusal, if it is one, still without the webhook's name.
    pub denial: Option<Value>,
    /// A JSON patch.
    pub patch: Option<Vec<u8>>,
    pub warnings: Vec<String>,
    pub annotations: Vec<(String, String)>,
}

/// Reads the answer to the question with `uid`, or says what is wrong with it.
pub fn verdict(answer: &Value, version: &str, uid: &str, mutating: bool) -> Result<Verdict, String> {
    let response = &answer["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let told = text(response, "/uid");
    if version == "v1" {
        if told != uid {
            return Err(format!("expected response.uid={uid:?}, got {told:?}"));
        }
        let (api, kind) = (text(answer, "/apiVersion"), text(answer, "/kind"));
        if (api, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {api}, Kind={kind}"
            ));
        }
    }
    let texts = |name: &str| list(response, name).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    Ok(Verdict {
        denial: (response["allowed"] != true).then(|| response["status"].clone()),
        patch: patch(response, version, mutating)?,
        warnings: texts("/warnings"),
        annotations: annotations.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
    })
}

fn patch(response: &Value, version: &str, mutating: bool) -> Result<Option<Vec<u8>>, String> {
    let (patch, kind) = (text(response, "/patch"), response["patchType"].as_str());
    if !mutating {
        return match (patch, kind) {
            ("", None) => Ok(None),
            ("", _) => Err("validating webhook may not return response.patchType".to_owned()),
            _ => Err("validating webhook may not return response.patch".to_owned()),
        };
    }
    match (patch, kind) {
        ("", None) => Ok(None),
        ("", Some(_)) if version == "v1" => {
            Err("webhook returned response.patchType but not response.patch".to_owned())
        }
        ("", Some(_)) => Ok(None),
        (_, None) if version == "v1" => Err("webhook returned response.patch but not response.patchType".to_owned()),
        (_, Some(other)) if other != "JSONPatch" => {
            Err(format!("webhook returned invalid response.patchType of {other:?}"))
        }
        _ => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(patch);
            decoded.map(Some).map_err(|error| format!("response.patch is not base64: {error}"))
        }
    }
}

/// A webhook's refusal as an answer to the client. `status` is a Status, or null.
pub fn denial(webhook: &str, status: &Value) -> ApiError {
    let (message, reason) = (text(status, "/message"), text(status, "/reason"));
    let why = match (message, reason) {
        ("", "") => " without explanation".to_owned(),
        ("", reason) => format!(": {reason}"),
        (message, _) => format!(": {message}"),
    };
    let code =
        status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
    let message = format!("admission webhook {webhook:?} denied the request{why}");
    ApiError::told(code.unwrap_or(400), reason, message, &status["details"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    #[test]
    fn what_an_answer_means() {
        let read = |response: Value, mutating| {
            verdict(&answer(response), "v1", "u", mutating).map(|v| (v.denial.is_some(), v.patch))
        };
        let patch = base64::engine::general_purpose::STANDARD.encode("[]");
        let cases = [
            (json!({"uid": "u", "allowed": true}), true, Ok((false, None))),
            (json!({"uid": "u"}), true, Ok((true, None))),
            (
                json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch"}),
                true,
                Ok((false, Some(b"[]".to_vec()))),
            ),
            (
                json!({"uid": "u", "allowed": true, "patch": patch}),
                true,
                Err("webhook returned response.patch but not response.patchType"),
            ),
            (
                json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "x"}),
                true,
                Err("webhook returned invalid response.patchType of \"x\""),
            ),
            (
                json!({"uid": "u", "allowed": true, "patch": patch}),
                false,
                Err("validating webhook may not return response.patch"),
            ),
            (json!({"uid": "v", "allowed": true}), false, Err("expected response.uid=\"u\", got \"v\"")),
            (json!(null), false, Err("webhook response was absent")),
        ];
        for (response, mutating, want) in cases {
            assert_eq!(read(response.clone(), mutating), want.map_err(str::to_owned), "{response}");
        }
    }

    #[test]
    fn a_refusal_names_the_webhook_and_keeps_its_reason() {
        let cases = [
            (Value::Null, 400, "", " without explanation"),
            (json!({"message": "no", "code": 200}), 400, "", ": no"),
            (json!({"reason": "Forbidden", "code": 403}), 403, "Forbidden", ": Forbidden"),
            (json!({"message": "later", "reason": "MyReason", "code": 429}), 429, "MyReason", ": later"),
        ];
        for (status, code, reason, why) in cases {
            let error = denial("w.example.com", &status);
            assert_eq!((error.code(), error.reason()), (code, reason), "{status}");
            assert_eq!(error.message(), format!("admission webhook \"w.example.com\" denied the request{why}"));
        }
    }
}

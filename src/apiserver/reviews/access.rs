//! May somebody do something? SubjectAccessReview and its local and self-addressed sisters.

use serde_json::{Value, json};

use super::kinds::AUTHORIZATION;
use super::refuse;
use crate::apiserver::auth::User;
use crate::apiserver::auth::authorize::decide;
use crate::apiserver::status::ApiError;
use crate::apiserver::target::Target;
use crate::apiserver::verbs::Call;
use crate::kinds::common::{list, text};
use crate::kinds::field::{Errors, Field, Reason};
use crate::kinds::meta;

pub fn review(call: &Call, kind: &str, review: &Value) -> Result<Value, ApiError> {
    let own = kind == "SelfSubjectAccessReview";
    let namespace = (kind == "LocalSubjectAccessReview").then_some(call.target.namespace.as_str());
    refuse(AUTHORIZATION, &validate(review, own, namespace))?;
    let spec = &review["spec"];
    let user = if own { call.user.clone() } else { subject(spec) };
    let decision = decide(&call.server.registry.rights(), &user, &target(spec));
    let mut status = json!({"allowed": decision.is_some()});
    if let Some(reason) = decision.filter(|reason| !reason.is_empty()) {
        status["reason"] = reason.into();
    }
    Ok(status)
}

fn validate(review: &Value, own: bool, namespace: Option<&str>) -> Errors {
    let mut errors = Errors::default();
    let spec = Field::root(review).get("spec");
    let (resource, path) = (spec.get("resourceAttributes"), spec.get("nonResourceAttributes"));
    match (resource.exists(), path.exists()) {
        (true, true) => {
            let shown =
                format!("{{\"Path\":{},\"Verb\":{}}}", path.get("path").str_value(), path.get("verb").str_value());
            let detail = "cannot be specified in combination with resourceAttributes";
            errors.push_text(Reason::Invalid, &path.path, shown, detail);
        }
        (false, false) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid(&resource, detail);
        }
        _ => {}
    }
    if !own && spec.get("user").is_empty() && spec.get("groups").is_empty() {
        errors.invalid_str(&spec.get("user"), "at least one of user or group must be specified");
    }
    if let Some(namespace) = namespace {
        if !meta::text(review, "namespace").is_empty() && meta::text(review, "namespace") != namespace {
            let at = Field::root(review).get("metadata").get("namespace");
            errors.invalid_str(&at, format!("must match {namespace}"));
        }
        let asked = resource.get("namespace");
        if resource.exists() && asked.str() != namespace {
            errors.invalid_str(&asked, "must match metadata.namespace");
        }
        if path.exists() {
            errors.invalid(&path, "disallowed on this kind of request");
        }
    }
    errors
}

/// Whom the question is about. Only the groups that it names count: nobody has shown a credential.
fn subject(spec: &Value) -> User {
    let mut user = User::new(text(spec, "/user"), &[]);
    user.groups = list(spec, "/groups").iter().filter_map(Value::as_str).map(Into::into).collect();
    user.uid = text(spec, "/uid").into();
    user
}

fn target(spec: &Value) -> Target {
    let path = &spec["nonResourceAttributes"];
    if !path.is_null() {
        let verb = text(path, "/verb").to_owned().into();
        return Target { verb, path: text(path, "/path").to_owned(), ..Target::default() };
    }
    let text = |field: &str| spec["resourceAttributes"][field].as_str().unwrap_or_default().to_owned();
    Target {
        verb: text("verb").into(),
        group: text("group"),
        version: text("version"),
        // Even without a resource this is no path.
        resource: Some(text("resource")).filter(|resource| !resource.is_empty()).unwrap_or_else(|| "*".to_owned()),
        subresource: text("subresource"),
        namespace: text("namespace"),
        name: text("name"),
        ..Target::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_about_one_thing_and_somebody() {
        let texts = |review: Value, own: bool, namespace: Option<&str>| {
            let errors = validate(&review, own, namespace);
            errors.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let pods = json!({"verb": "get", "resource": "pods", "namespace": "shop"});
        assert_eq!(texts(json!({"spec": {"user": "jo", "resourceAttributes": pods}}), false, Some("shop")), "");
        assert_eq!(
            texts(json!({"spec": {"user": "jo", "resourceAttributes": pods}}), false, Some("x")),
            "spec.resourceAttributes.namespace: Invalid value: \"shop\": must match metadata.namespace"
        );
        assert_eq!(
            texts(json!({"spec": {"resourceAttributes": pods}}), false, None),
            "spec.user: Invalid value: \"\": at least one of user or group must be specified"
        );
        assert_eq!(texts(json!({"spec": {"resourceAttributes": pods}}), true, None), "");
    }
}

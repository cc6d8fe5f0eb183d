//! IngressClass of `networking.k8s.io/v1`: which controller serves an Ingress.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::{Ingress, IngressClass as Class};
use serde_json::Value;

use super::common::{same, set_default, text};
use super::field::{Errors, Field};
use super::{ALL_VERBS, Column, Kind, KindInfo, column, meta, names, time};

/// What `spec.controller` of an IngressClass says when its Ingresses are ours.
pub const CONTROLLER: &str = "coracle.dev/ingress";
/// The class that the cluster comes with.
pub const OWN_CLASS: &str = "coracle";
/// Marks the class of Ingresses that name none.
pub const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
/// How an Ingress named its class before there was a field for it.
pub const OLD_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// Whether the cluster's own router serves `ingress`.
pub fn is_ours(ingress: &Ingress, classes: &[Arc<Class>]) -> bool {
    let annotation = ingress.metadata.annotations.as_ref().and_then(|all| all.get(OLD_ANNOTATION));
    let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref()).or(annotation);
    match named {
        Some(name) => {
            let class = classes.iter().find(|class| class.metadata.name.as_ref() == Some(name));
            name == OWN_CLASS || class.is_some_and(|class| has_our_controller(class))
        }
        // Admission writes the default class into new Ingresses; this one is older than the class.
        None => {
            let mut defaults = classes.iter().filter(|class| is_default(class));
            classes.is_empty() || defaults.any(|class| has_our_controller(class))
        }
    }
}

fn has_our_controller(class: &Class) -> bool {
    let controller = class.spec.as_ref().and_then(|spec| spec.controller.as_deref());
    controller == Some(CONTROLLER) || class.metadata.name.as_deref() == Some(OWN_CLASS)
}

fn is_default(class: &Class) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(DEFAULT_ANNOTATION)).is_some_and(|value| value == "true")
}

/// Upstream's limit on `spec.controller`.
const MAX_CONTROLLER_BYTES: usize = 250;

pub struct IngressClass;

static INFO: KindInfo = KindInfo {
    group: "networking.k8s.io",
    version: "v1",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    short_names: &[],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "io.k8s.api.networking.v1.IngressClass",
    storage: "networking.k8s.io/ingressclasses",
    storage_version_hash: "l/iqIbDgFyQ=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Controller", "string", "", 0),
    column("Parameters", "string", "", 0),
    column("Age", "string", "", 0),
];

impl Kind for IngressClass {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        set_default(object, "spec", serde_json::json!({}));
        if let Some(parameters) = object.pointer_mut("/spec/parameters") {
            set_default(parameters, "scope", "Cluster");
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        let changed = !same(new, old, "spec");
        meta::carry_generation(new, old, changed);
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        let spec = Field::root(object).get("spec");
        let controller = spec.get("controller");
        if controller.len() > MAX_CONTROLLER_BYTES {
            errors.too_long(&controller, MAX_CONTROLLER_BYTES);
        }
        check_controller(&mut errors, &controller);
        check_parameters(&mut errors, &spec.get("parameters"));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Errors {
        let mut errors = Errors::default();
        let spec = Field::root(new).get("spec");
        meta::immutable(&mut errors, &spec.get("controller"), &Field::root(old).get("spec").get("controller"));
        check_parameters(&mut errors, &spec.get("parameters"));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let spec = Field::root(object).get("spec");
        let parameters = spec.get("parameters");
        let shown = match (parameters.exists(), parameters.get("apiGroup").str()) {
            (false, _) => "<none>".to_owned(),
            (true, "") => format!("{}/{}", parameters.get("kind").str(), parameters.get("name").str()),
            (true, group) => format!("{}.{group}/{}", parameters.get("kind").str(), parameters.get("name").str()),
        };
        vec![
            text(object, "/metadata/name").into(),
            spec.get("controller").str().into(),
            shown.into(),
            time::object_age(object, now).into(),
        ]
    }
}

/// A path under a domain: `example.com/ingress-controller`.
fn check_controller(errors: &mut Errors, controller: &Field<'_>) {
    let value = controller.str();
    if value.is_empty() {
        errors.required(controller, "");
        return;
    }
    let (domain, path) = match value.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => (domain, path),
        _ => {
            errors.invalid(controller, "must be a domain-prefixed path (such as \"acme.io/foo\")");
            return;
        }
    };
    for message in names::dns1123_subdomain(domain) {
        errors.invalid_value(controller, domain, message);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || r"/\-._~%!$&'()*+,;=:".contains(c);
    if !path.chars().all(plain) {
        let detail = r"Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')";
        errors.invalid_value(controller, path, detail);
    }
}

fn check_parameters(errors: &mut Errors, parameters: &Field<'_>) {
    if !parameters.exists() {
        return;
    }
    let (group, kind, name) = (parameters.get("apiGroup"), parameters.get("kind"), parameters.get("name"));
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    if !group.is_empty() {
        errors.invalid_each(&group, names::dns1123_subdomain(group.str()));
    }
    for part in [&kind, &name] {
        if part.is_empty() {
            errors.required(part, "");
        } else {
            errors.invalid_each(part, names::path_segment(part.str(), false));
        }
    }
    match scope.str() {
        "Cluster" if namespace.exists() => {
            errors.forbidden(&namespace, "`parameters.scope` is set to 'Cluster'");
        }
        "Cluster" => {}
        "Namespace" if namespace.is_empty() => {
            errors.required(&namespace, "`parameters.scope` is set to 'Namespace'");
        }
        "Namespace" => errors.invalid_each(&namespace, names::dns1123_label(namespace.str())),
        "" => errors.required(&scope, ""),
        _ => errors.not_supported(&scope, &["Cluster", "Namespace"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_controller_is_a_path_under_a_domain() {
        for (controller, error) in [
            ("example.com/c", ""),
            ("", "spec.controller: Required value"),
            ("nodomain", "must be a domain-prefixed path"),
            ("Bad/x", "a lowercase RFC 1123 subdomain"),
            ("a.b/x y", "Invalid path"),
        ] {
            let found = IngressClass.validate(&json!({"spec": {"controller": controller}}));
            match found.0.as_slice() {
                [] => assert_eq!(error, "", "{controller}"),
                [one] => assert!(!error.is_empty() && one.to_string().contains(error), "{one}"),
                more => panic!("{controller}: {more:?}"),
            }
        }
    }

    #[test]
    fn parameters_are_shown_with_their_group() {
        let mut object = json!({"metadata": {"name": "n"}, "spec": {"controller": "a.b/c",
            "parameters": {"apiGroup": "k.example.com", "kind": "P", "name": "x"}}});
        IngressClass.default(&mut object);
        assert!(IngressClass.validate(&object).is_empty());
        assert_eq!(IngressClass.row(&object, jiff::Timestamp::UNIX_EPOCH)[2], "P.k.example.com/x");
    }
}

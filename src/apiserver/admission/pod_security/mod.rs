//! PodSecurity: pods keep the standard that the labels of their namespace demand.
//!
//! What falls short of what is enforced is refused; what falls short of the rest is warned of and noted.
//! Workloads are only warned of: it is their pods that are refused. A namespace whose labels become
//! stricter says which of the pods that are there would be refused now.

mod checks;
mod levels;

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Asker, Operation, Request};
use crate::apiserver::registry::{self, Place, encoding};
use crate::apiserver::status::ApiError;
use crate::kinds::common::{list, text};
use crate::kinds::namespace::Namespace;
use crate::kinds::pod::Pod as PodKind;
use crate::kinds::{Kind, KindInfo, meta as kmeta};
use checks::Pod;
use levels::{Demand, Level, Standard};

const PREFIX: &str = "pod-security.kubernetes.io/";
/// As many of a namespace's pods are looked at when its labels change.
const MAX_PODS_TO_CHECK: usize = 3000;

/// Refuses what falls short of what is enforced, and says what falls short of the rest.
pub fn validate(request: &Request<'_>, asker: &Asker<'_>, object: &Value) -> Result<(), ApiError> {
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let info = request.place.info();
    match (info.group, info.plural, asker.subresource) {
        ("", "namespaces", "") => namespace(request, asker, object),
        ("", "pods", "" | "ephemeralcontainers" | "resize") => pod(request, asker, object),
        (.., "") => {
            workload(request, asker, object, template(info));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Where a workload has the template of its pods.
fn template(info: &KindInfo) -> Option<&'static str> {
    match (info.group, info.plural) {
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some("/spec/template"),
        ("", "podtemplates") => Some("/template"),
        ("batch", "cronjobs") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// What the object's namespace demands. Labels that are wrong were refused; older ones are noted.
fn demanded(request: &Request<'_>, asker: &Asker<'_>) -> Option<Demand> {
    let home = Place { kind: &Namespace, namespace: "", name: request.place.namespace };
    let namespace = request.registry.known(home)?;
    let (demand, errors) = levels::demand(&namespace["metadata"]["labels"]);
    if let Some(error) = errors.0.first() {
        asker.said.annotate(format!("{PREFIX}error"), format!("Failed to parse policy: {error}"));
    }
    (!demand.is_nothing()).then_some(demand)
}

fn pod(request: &Request<'_>, asker: &Asker<'_>, object: &Value) -> Result<(), ApiError> {
    if request.old.is_some_and(|old| !changes_what_matters(object, old)) {
        return Ok(());
    }
    let Some(demand) = demanded(request, asker) else { return Ok(()) };
    let pod = Pod { metadata: &object["metadata"], spec: &object["spec"] };
    let enforced = checks::violations(demand.enforce, pod);
    note(asker, demand, pod, enforced.is_empty());
    asker.said.annotate(format!("{PREFIX}enforce-policy"), demand.enforce.to_string());
    if enforced.is_empty() {
        return Ok(());
    }
    let why = checks::told(&enforced);
    Err(request.forbidden(format!("violates PodSecurity \"{}\": {why}", demand.enforce)))
}

fn workload(request: &Request<'_>, asker: &Asker<'_>, object: &Value, template: Option<&str>) {
    let Some(template) = template.and_then(|at| object.pointer(at)).filter(|template| template.is_object()) else {
        return;
    };
    if let Some(demand) = demanded(request, asker) {
        note(asker, demand, Pod { metadata: &template["metadata"], spec: &template["spec"] }, true);
    }
}

/// Notes for the audit log what falls short, and warns of it unless it is refused anyway.
fn note(asker: &Asker<'_>, demand: Demand, pod: Pod<'_>, warn: bool) {
    let would = |standard: Standard| {
        let found = checks::violations(standard, pod);
        let why = checks::told(&found);
        (!found.is_empty()).then(|| format!("would violate PodSecurity \"{standard}\": {why}"))
    };
    if let Some(text) = would(demand.audit) {
        asker.said.annotate(format!("{PREFIX}audit-violations"), text);
    }
    if let Some(text) = would(demand.warn).filter(|_| warn) {
        asker.said.warn(text);
    }
}

/// Whether an update changes anything of a pod that a standard is about.
fn changes_what_matters(new: &Value, old: &Value) -> bool {
    let images = |pod: &Value| {
        let lists = ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"];
        let containers = lists.iter().flat_map(|at| list(pod, at));
        containers.map(|c| (text(c, "/name").to_owned(), text(c, "/image").to_owned())).collect::<Vec<_>>()
    };
    let annotations = |pod: &Value| -> Vec<(String, Value)> {
        let all = pod["metadata"]["annotations"].as_object().into_iter().flatten();
        let ours = all.filter(|(key, _)| key.contains("seccomp.security.alpha.kubernetes.io/"));
        ours.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    images(new) != images(old) || annotations(new) != annotations(old)
}

fn namespace(request: &Request<'_>, asker: &Asker<'_>, object: &Value) -> Result<(), ApiError> {
    let (demand, errors) = levels::demand(&object["metadata"]["labels"]);
    let before = request.old.map(|old| levels::demand(&old["metadata"]["labels"]));
    if !errors.is_empty() && before.as_ref().is_none_or(|(_, known)| *known != errors) {
        return Err(ApiError::invalid(request.place.info(), request.place.name, &errors));
    }
    if let Some((before, _)) = before
        && before.enforce != demand.enforce
        && !demand.enforce.is_no_stricter_than(before.enforce)
    {
        for warning in of_pods(request, demand.enforce)? {
            asker.said.warn(warning);
        }
    }
    Ok(())
}

/// Which of the namespace's pods fall short of what is to be enforced.
fn of_pods(request: &Request<'_>, enforce: Standard) -> Result<Vec<String>, ApiError> {
    debug_assert!(enforce.level > Level::Privileged);
    let name = request.place.name;
    let prefix = encoding::prefix(PodKind.info(), name);
    let page = request.registry.store.list(&prefix, None, MAX_PODS_TO_CHECK, None).map_err(registry::store_error)?;
    let place = Place { kind: &PodKind, namespace: name, name: "" };
    // By what is wrong: the first pod, and how many there are.
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for entry in &page.entries {
        let pod = registry::decode(place, entry)?;
        let violations = checks::violations(enforce, Pod { metadata: &pod["metadata"], spec: &pod["spec"] });
        if violations.is_empty() {
            continue;
        }
        let reasons: Vec<&str> = violations.iter().map(|violation| violation.reason.as_str()).collect();
        let pod = kmeta::text(&pod, "name").to_owned();
        found.entry(reasons.join(", ")).or_insert((pod, 0)).1 += 1;
    }
    let mut warnings = Vec::new();
    if page.remaining > 0 {
        let (checked, all) = (page.entries.len(), page.entries.len() + page.remaining);
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {all} existing pods"
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {name:?} violate the new PodSecurity enforce level \"{enforce}\""
        ));
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(why, (pod, count))| match count {
            1 => format!("{pod}: {why}"),
            2 => format!("{pod} (and 1 other pod): {why}"),
            more => format!("{pod} (and {} other pods): {why}", more - 1),
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    Ok(warnings)
}

#[cfg(test)]
mod tests;

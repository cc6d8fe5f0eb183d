//! Ingress of `networking.k8s.io/v1`: which Service answers for which host and path.

use serde_json::{Map, Value, json};

use super::common::{list, set_default, some_of, text};
use super::field::{Errors, Field};
use super::{ALL_VERBS, Column, Kind, KindInfo, Subresource, column, meta, names, time};

/// What named the class before `spec.ingressClassName` did.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// Parts of a path that routers would disagree about.
const BAD_SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const BAD_ENDINGS: &[&str] = &["/..", "/."];

pub struct Ingress;

static INFO: KindInfo = KindInfo {
    group: "networking.k8s.io",
    version: "v1",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("Ingress")],
    schema: "io.k8s.api.networking.v1.Ingress",
    storage: "networking.k8s.io/ingresses",
    storage_version_hash: "39NQlfNR+bo=",
};

static COLUMNS: &[Column] = &[
    column("Name", "string", "name", 0),
    column("Class", "string", "", 0),
    column("Hosts", "string", "", 0),
    column("Address", "string", "", 0),
    column("Ports", "string", "", 0),
    column("Age", "string", "", 0),
];

impl Kind for Ingress {
    fn info(&self) -> &'static KindInfo {
        &INFO
    }

    fn default(&self, object: &mut Value) {
        set_default(object, "spec", Map::new());
        set_default(object, "status", json!({"loadBalancer": {}}));
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"loadBalancer": {}});
        meta::start_generation(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        meta::update_spec(new, old);
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        meta::take_from(new, old, "spec");
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Errors::default();
        check_spec(&mut errors, &Field::root(object).get("spec"));
        check_annotation(&mut errors, object);
        errors
    }

    /// The old annotation and the new field may disagree on objects that are already stored.
    fn validate_update(&self, new: &Value, _old: &Value) -> Errors {
        let mut errors = Errors::default();
        check_spec(&mut errors, &Field::root(new).get("spec"));
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Errors {
        let mut errors = Errors::default();
        for ingress in Field::root(new).get("status").get("loadBalancer").get("ingress").items() {
            let (ip, hostname) = (ingress.get("ip"), ingress.get("hostname"));
            if !ip.is_empty() {
                errors.invalid_each(&ip, names::ip_legacy(ip.str()));
            }
            if !hostname.is_empty() {
                errors.invalid_each(&hostname, names::dns1123_subdomain(hostname.str()));
                if names::parse_ip(hostname.str()).is_some() {
                    errors.invalid(&hostname, "must be a DNS name, not an IP address");
                }
            }
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let annotated = new["metadata"]["annotations"].get(CLASS_ANNOTATION).is_some();
        if annotated && old.is_none() {
            return vec![format!(
                "annotation \"{CLASS_ANNOTATION}\" is deprecated, please use 'spec.ingressClassName' instead"
            )];
        }
        Vec::new()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        let class = match text(object, "/spec/ingressClassName") {
            "" => "<none>",
            class => class,
        };
        let hosts: Vec<String> = list(object, "/spec/rules")
            .iter()
            .map(|rule| text(rule, "/host").to_owned())
            .filter(|host| !host.is_empty())
            .collect();
        let ports = if list(object, "/spec/tls").is_empty() { "80" } else { "80, 443" };
        vec![
            text(object, "/metadata/name").into(),
            class.into(),
            some_of(&hosts, "*").into(),
            load_balancer_addresses(object).join(",").into(),
            ports.into(),
            time::object_age(object, now).into(),
        ]
    }
}

/// The addresses in `status.loadBalancer`, which Services have too.
pub(super) fn load_balancer_addresses(object: &Value) -> Vec<&str> {
    let entries = list(object, "/status/loadBalancer/ingress").iter();
    entries
        .map(|entry| match text(entry, "/ip") {
            "" => text(entry, "/hostname"),
            ip => ip,
        })
        .filter(|address| !address.is_empty())
        .collect()
}

fn check_annotation(errors: &mut Errors, object: &Value) {
    let annotation = Field::root(object).get("annotations").get(CLASS_ANNOTATION);
    let class = &object["spec"]["ingressClassName"];
    if let Some(value) = object["metadata"]["annotations"].get(CLASS_ANNOTATION)
        && !class.is_null()
        && value != class
    {
        errors.invalid_value(&annotation, value.clone(), "must match `ingressClassName` when both are specified");
    }
}

fn check_spec(errors: &mut Errors, spec: &Field<'_>) {
    let (rules, fallback) = (spec.get("rules"), spec.get("defaultBackend"));
    if rules.is_empty() && !fallback.exists() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.invalid_value(spec, rules.value.clone(), detail);
    }
    if fallback.exists() {
        check_backend(errors, &fallback);
    }
    for rule in rules.items() {
        check_rule(errors, &rule);
    }
    for tls in spec.get("tls").items() {
        for host in tls.get("hosts").items() {
            check_host(errors, &host);
        }
        let secret = tls.get("secretName");
        if !secret.is_empty() {
            errors.invalid_each(&secret, names::dns1123_subdomain(secret.str()));
        }
    }
    let class = spec.get("ingressClassName");
    if class.exists() {
        errors.invalid_each(&class, names::dns1123_subdomain(class.str()));
    }
}

fn check_host(errors: &mut Errors, host: &Field<'_>) {
    let problems = match host.str().contains('*') {
        true => names::wildcard_dns1123_subdomain(host.str()),
        false => names::dns1123_subdomain(host.str()),
    };
    errors.invalid_each(host, problems);
}

fn check_rule(errors: &mut Errors, rule: &Field<'_>) {
    let host = rule.get("host");
    if !host.is_empty() {
        if host.str().parse::<std::net::IpAddr>().is_ok() {
            errors.invalid(&host, "must be a DNS name, not an IP address");
        }
        check_host(errors, &host);
    }
    let http = rule.get("http");
    if !http.exists() {
        return;
    }
    let paths = http.get("paths");
    if paths.is_empty() {
        errors.required(&paths, "");
    }
    for path in paths.items() {
        check_path(errors, &path);
    }
}

fn check_path(errors: &mut Errors, entry: &Field<'_>) {
    let (path, path_type) = (entry.get("path"), entry.get("pathType"));
    if !path_type.exists() {
        errors.required(&path_type, "pathType must be specified");
        return;
    }
    let absolute = path.str().starts_with('/');
    match path_type.str() {
        "Exact" | "Prefix" => {
            if !absolute {
                errors.invalid_str(&path, "must be an absolute path");
            }
            for bad in BAD_SEQUENCES.iter().filter(|bad| path.str().contains(**bad)) {
                errors.invalid(&path, format!("must not contain '{bad}'"));
            }
            for bad in BAD_ENDINGS.iter().filter(|bad| path.str().ends_with(**bad)) {
                errors.invalid(&path, format!("cannot end with '{bad}'"));
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !absolute {
                errors.invalid(&path, "must be an absolute path");
            }
        }
        _ => errors.not_supported(&path_type, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    check_backend(errors, &entry.get("backend"));
}

fn check_backend(errors: &mut Errors, backend: &Field<'_>) {
    let (resource, service) = (backend.get("resource"), backend.get("service"));
    match (resource.exists(), service.exists()) {
        (true, true) => errors.invalid_value(backend, "", "cannot set both resource and service backends"),
        (true, false) => check_resource(errors, &resource),
        (false, true) => check_service(errors, backend, &service),
        (false, false) => errors.invalid_value(backend, "", "resource or service backend is required"),
    }
}

fn check_resource(errors: &mut Errors, resource: &Field<'_>) {
    let group = resource.get("apiGroup");
    if !group.is_empty() {
        errors.invalid_each(&group, names::dns1123_subdomain(group.str()));
    }
    for part in ["kind", "name"] {
        let part = resource.get(part);
        if part.is_empty() {
            errors.required(&part, "");
        } else {
            errors.invalid_each(&part, names::path_segment(part.str(), false));
        }
    }
}

fn check_service(errors: &mut Errors, backend: &Field<'_>, service: &Field<'_>) {
    let name = service.get("name");
    if name.is_empty() {
        errors.required(&name, "");
    } else {
        errors.invalid_each(&name, names::dns1123_label(name.str()));
    }
    let port = service.get("port");
    let (port_name, number) = (port.get("name"), port.get("number"));
    match (!port_name.is_empty(), number.int().unwrap_or(0)) {
        (true, 1..) => errors.invalid_value(backend, "", "cannot set both port name & port number"),
        (true, _) => errors.invalid_each(&port_name, names::port_name(port_name.str())),
        (false, 0) => errors.required(backend, "port name or number is required"),
        (false, value) => errors.invalid_each(&number, names::port_number(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(spec: Value) -> Vec<String> {
        Ingress.validate(&json!({"spec": spec})).0.iter().map(ToString::to_string).collect()
    }

    fn path(path: &str, path_type: &str) -> Value {
        let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
        json!({"rules": [{"http": {"paths": [{"path": path, "pathType": path_type, "backend": backend}]}}]})
    }

    #[test]
    fn something_must_answer() {
        assert_eq!(
            texts(json!({})),
            ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]
        );
        assert_eq!(
            texts(json!({"defaultBackend": {}})),
            ["spec.defaultBackend: Invalid value: \"\": resource or service backend is required"]
        );
        assert_eq!(
            texts(json!({"defaultBackend": {"service": {"name": "s", "port": {}}}})),
            ["spec.defaultBackend: Required value: port name or number is required"]
        );
        assert!(texts(json!({"defaultBackend": {"service": {"name": "s", "port": {"name": "http"}}}})).is_empty());
    }

    #[test]
    fn paths_are_absolute_and_unambiguous() {
        let at = "spec.rules[0].http.paths[0].path: Invalid value";
        for (value, path_type, expected) in [
            ("/a", "Prefix", vec![]),
            ("/a", "Exact", vec![]),
            ("", "ImplementationSpecific", vec![]),
            ("a", "Exact", vec![format!("{at}: \"a\": must be an absolute path")]),
            ("/a//b", "Prefix", vec![format!("{at}: \"/a//b\": must not contain '//'")]),
            ("/a/..", "Prefix", vec![format!("{at}: \"/a/..\": cannot end with '/..'")]),
        ] {
            assert_eq!(texts(path(value, path_type)), expected, "{value} {path_type}");
        }
    }

    #[test]
    fn hosts_may_start_with_a_star() {
        let host = |host: &str| {
            let mut spec = path("/", "Prefix");
            spec["rules"][0]["host"] = host.into();
            texts(spec)
        };
        assert!(host("a.example.com").is_empty());
        assert!(host("*.example.com").is_empty());
        assert_eq!(host("Bad Host").len(), 1);
        assert_eq!(
            host("10.1.2.3"),
            ["spec.rules[0].host: Invalid value: \"10.1.2.3\": must be a DNS name, not an IP address"]
        );
    }

    #[test]
    fn the_row_shows_hosts_and_addresses() {
        let object = json!({"metadata": {"name": "i"}, "spec": {"ingressClassName": "coracle", "tls": [{}],
            "rules": [{"host": "a"}, {"host": "b"}, {"host": "c"}, {"host": "d"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}, {"hostname": "h"}]}}});
        let row = Ingress.row(&object, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[..5],
            [json!("i"), json!("coracle"), json!("a,b,c + 1 more..."), json!("127.0.0.1,h"), json!("80, 443")]
        );
    }

    #[test]
    fn a_changed_spec_counts_as_a_generation_and_the_status_is_kept() {
        let old = json!({"metadata": {"generation": 3}, "spec": {}, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}});
        let mut new = json!({"metadata": {}, "spec": {"ingressClassName": "c"}, "status": {"loadBalancer": {}}});
        Ingress.prepare_update(&mut new, &old);
        assert_eq!(new["metadata"]["generation"], 4);
        assert_eq!(new["status"], old["status"]);
    }
}

//! A pod spec as a whole, in a pod or in a template.

use serde_json::Value;

use super::container::{self, Around};
use super::{affinity, resources, scheduling, security, volume};
use crate::kinds::field::{Errors, Field};
use crate::kinds::{meta, names};

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCH_PATHS: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;
const MAX_DEADLINE_SECONDS: i64 = i32::MAX as i64;

/// Where the spec stands.
pub struct Context<'a> {
    /// In a pod, not a template: some things must then be decided.
    pub is_pod: bool,
    /// The pod's name, where it has one already; claims of ephemeral volumes are named after it.
    pub pod_name: &'a str,
}

pub fn validate(errors: &mut Errors, spec: &Field<'_>, context: &Context<'_>) {
    let grace = spec.get("terminationGracePeriodSeconds");
    if !grace.exists() {
        errors.required(&grace, "");
    }
    let volumes = volume::validate(errors, &spec.get("volumes"), context);
    let around = Around {
        volumes,
        claims: spec.get("resourceClaims").items().map(|claim| claim.get("name").str()).collect(),
        grace_seconds: grace.int(),
        restart_policy: spec.get("restartPolicy").str(),
        host_users: spec.get("hostUsers").value != &Value::Bool(false),
    };
    resource_claims(errors, &spec.get("resourceClaims"));
    let containers = spec.get("containers");
    container::regular(errors, &containers, &around);
    container::init(errors, &spec.get("initContainers"), &containers, &around);
    container::ephemeral(errors, spec, &around);
    pod_resources(errors, spec);
    host_network_ports(errors, spec, context);
    policies(errors, spec);
    meta::validate_labels(errors, &spec.get("nodeSelector"));
    security::pod(errors, spec);
    affinity::validate(errors, &spec.get("affinity"));
    dns_config(errors, &spec.get("dnsConfig"), spec.get("dnsPolicy").str());
    for gate in spec.get("readinessGates").items() {
        let kind = gate.get("conditionType");
        for message in names::qualified_name(kind.str()) {
            errors.invalid_str(&kind, message);
        }
    }
    scheduling::gates(errors, &spec.get("schedulingGates"));
    scheduling::topology_spread(errors, &spec.get("topologySpreadConstraints"));
    host_users(errors, spec, around.host_users);
    names_and_numbers(errors, spec);
}

fn policies(errors: &mut Errors, spec: &Field<'_>) {
    let restart = spec.get("restartPolicy");
    match restart.str() {
        "Always" | "OnFailure" | "Never" => {}
        "" => errors.required(&restart, ""),
        _ => errors.not_supported(&restart, &["Always", "OnFailure", "Never"]),
    }
    let dns = spec.get("dnsPolicy");
    let supported = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    if dns.is_empty() {
        errors.required(&dns, "");
    } else if !supported.contains(&dns.str()) {
        errors.not_supported(&dns, &supported);
    }
}

fn resource_claims(errors: &mut Errors, list: &Field<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for claim in list.items() {
        let name = claim.get("name");
        if name.is_empty() {
            errors.required(&name, "");
        } else if seen.contains(&name.str()) {
            errors.duplicate(&name);
        } else {
            errors.invalid_each(&name, names::dns1123_label(name.str()));
            seen.push(name.str());
        }
        let (direct, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        match (direct.exists(), template.exists()) {
            (true, true) => errors
                .invalid(&claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
            (false, false) => {
                errors.invalid(&claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`");
            }
            _ => {}
        }
        for field in [direct, template] {
            if field.exists() {
                errors.invalid_each(&field, names::dns1123_subdomain(field.str()));
            }
        }
    }
}

/// Resources of the pod as a whole.
fn pod_resources(errors: &mut Errors, spec: &Field<'_>) {
    let at = spec.get("resources");
    if !at.exists() {
        return;
    }
    let claims = at.get("claims");
    if claims.exists() {
        errors.forbidden(&claims, "claims cannot be set for Resources at pod-level");
    }
    resources::container(errors, &at, &[]);
}

fn host_network_ports(errors: &mut Errors, spec: &Field<'_>, context: &Context<'_>) {
    if !spec.get("hostNetwork").bool() {
        return;
    }
    for port in spec.get("containers").items().flat_map(|container| container.get("ports").items()) {
        let host = port.get("hostPort");
        let number = host.int().unwrap_or(0);
        if (context.is_pod || number != 0) && number != port.get("containerPort").int().unwrap_or(0) {
            errors.invalid_value(&host, number, "must match `containerPort` when `hostNetwork` is true");
        }
    }
}

fn host_users(errors: &mut Errors, spec: &Field<'_>, shared: bool) {
    if shared {
        return;
    }
    for (name, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.get(name).bool() {
            errors.forbidden(&spec.get(shown), "when `pod.Spec.HostUsers` is false");
        }
    }
}

fn dns_config(errors: &mut Errors, at: &Field<'_>, policy: &str) {
    let servers = at.get("nameservers");
    if policy == "None" {
        if !at.exists() {
            errors.required(at, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            errors.required(&servers, "must provide at least one DNS nameserver when `dnsPolicy` is None");
            return;
        }
    }
    if servers.len() > MAX_NAMESERVERS {
        errors.invalid(&servers, format!("must not have more than {MAX_NAMESERVERS} nameservers"));
    }
    for server in servers.items() {
        errors.invalid_each(&server, names::ip_legacy(server.str()));
    }
    let searches = at.get("searches");
    if searches.len() > MAX_SEARCH_PATHS {
        errors.invalid(&searches, format!("must not have more than {MAX_SEARCH_PATHS} search paths"));
    }
    let characters: usize = searches.items().map(|search| search.len() + 1).sum();
    if characters.saturating_sub(1) > MAX_SEARCH_CHARACTERS {
        let detail =
            format!("must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list");
        errors.invalid(&searches, detail);
    }
    for search in searches.items().filter(|search| search.str() != ".") {
        let name = search.str().strip_suffix('.').unwrap_or(search.str());
        for message in names::dns1123_subdomain_with_underscore(name) {
            errors.invalid_value(&search, name, message);
        }
    }
    for option in at.get("options").items() {
        if option.get("name").is_empty() {
            errors.required(&option, "must not be empty");
        }
    }
}

/// The scalars at the end, in upstream's order.
fn names_and_numbers(errors: &mut Errors, spec: &Field<'_>) {
    subdomain_name(errors, &spec.get("serviceAccountName"));
    subdomain_name(errors, &spec.get("nodeName"));
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.int().is_some_and(|seconds| !(1..=MAX_DEADLINE_SECONDS).contains(&seconds)) {
        errors.invalid(&deadline, names::range(1, MAX_DEADLINE_SECONDS));
    }
    for name in ["hostname", "subdomain"] {
        let at = spec.get(name);
        if !at.is_empty() {
            errors.invalid_each(&at, names::dns1123_label(at.str()));
        }
    }
    scheduling::tolerations(errors, &spec.get("tolerations"));
    for alias in spec.get("hostAliases").items() {
        let ip = alias.get("ip");
        for message in names::ip_legacy(ip.str()) {
            errors.invalid_str(&ip, message);
        }
        for host in alias.get("hostnames").items() {
            errors.invalid_each(&host, names::dns1123_subdomain(host.str()));
        }
    }
    subdomain_name(errors, &spec.get("priorityClassName"));
    subdomain_name(errors, &spec.get("runtimeClassName"));
    let preemption = spec.get("preemptionPolicy");
    if preemption.exists() && !matches!(preemption.str(), "PreemptLowerPriority" | "Never") {
        errors.not_supported(&preemption, &["PreemptLowerPriority", "Never"]);
    }
    let overhead = spec.get("overhead");
    for (name, amount) in overhead.entries() {
        resources::amount(errors, &amount, name);
    }
    let os = spec.get("os").get("name");
    if spec.get("os").exists() && !matches!(os.str(), "linux" | "windows") {
        match os.is_empty() {
            true => errors.required(&os, "cannot be empty"),
            false => errors.not_supported(&os, &["linux", "windows"]),
        }
    }
}

fn subdomain_name(errors: &mut Errors, at: &Field<'_>) {
    if !at.is_empty() {
        errors.invalid_each(at, names::dns1123_subdomain(at.str()));
    }
}

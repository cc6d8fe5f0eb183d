//! The checks of the Pod Security Standards, a row each. Pure.
//!
//! Upstream's names, order and texts: people search for them. A check holds from a minor version on, and
//! some that a stricter one includes are left out where that one is made.

use std::collections::BTreeSet;

use serde_json::Value;

use super::levels::{Level, Standard};
use crate::kinds::common::{list, text};
use crate::kinds::meta as kmeta;

/// A pod, or the template of pods.
#[derive(Clone, Copy)]
pub struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
}

/// What is wrong, in short and at length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub reason: String,
    detail: String,
}

type Check = fn(Pod<'_>, u32) -> Option<Violation>;

struct Row {
    level: Level,
    /// Included in a check of the next level.
    included: bool,
    since: u32,
    check: Check,
}

const fn baseline(since: u32, check: Check) -> Row {
    Row { level: Level::Baseline, included: false, since, check }
}

const fn included(check: Check) -> Row {
    Row { level: Level::Baseline, included: true, since: 0, check }
}

const fn restricted(since: u32, check: Check) -> Row {
    Row { level: Level::Restricted, included: false, since, check }
}

const CHECKS: &[Row] = &[
    baseline(0, app_armor_profile),
    baseline(0, host_namespaces),
    baseline(0, host_ports),
    baseline(34, host_of_handlers),
    baseline(0, privileged),
    baseline(0, proc_mount),
    baseline(0, se_linux_options),
    baseline(0, sysctls),
    baseline(0, windows_host_process),
    included(capabilities_baseline),
    included(host_path_volumes),
    included(seccomp_baseline),
    restricted(8, allow_privilege_escalation),
    restricted(22, capabilities_restricted),
    restricted(0, restricted_volumes),
    restricted(0, run_as_non_root),
    restricted(23, run_as_user),
    restricted(19, seccomp_restricted),
];

/// Everything by which the pod falls short of the standard.
pub fn violations(standard: Standard, pod: Pod<'_>) -> Vec<Violation> {
    let minor = standard.minor();
    let rows = CHECKS.iter().filter(|row| row.level <= standard.level && row.since <= minor);
    let rows = rows.filter(|row| !row.included || standard.level == row.level);
    rows.filter_map(|row| (row.check)(pod, minor)).collect()
}

/// `a (b), c (d)`
pub fn told(violations: &[Violation]) -> String {
    let one = |violation: &Violation| match violation.detail.as_str() {
        "" => violation.reason.clone(),
        detail => format!("{} ({detail})", violation.reason),
    };
    violations.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation { reason: reason.to_owned(), detail })
}

impl<'a> Pod<'a> {
    fn containers(self) -> impl Iterator<Item = &'a Value> {
        ["/initContainers", "/containers", "/ephemeralContainers"].into_iter().flat_map(move |of| list(self.spec, of))
    }

    /// The names of the containers of which `bad` is true.
    fn bad(self, bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|container| bad(container)).map(|container| text(container, "/name")).collect()
    }

    fn is_windows(self) -> bool {
        text(self.spec, "/os/name") == "windows"
    }

    /// Its users are not the machine's.
    fn has_own_users(self) -> bool {
        self.spec["hostUsers"] == false
    }
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| format!("{:?}", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `container "a"`, `containers "a", "b"`
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and container "a"`: who has set something; empty for nobody.
fn setters(pod: bool, names: &[&str]) -> String {
    let pod = pod.then(|| "pod".to_owned());
    let named = (!names.is_empty()).then(|| containers(names));
    pod.into_iter().chain(named).collect::<Vec<_>>().join(" and ")
}

/// Who sets `pointer` of a security context to a value that is not good, and to which.
fn set_badly(pod: Pod<'_>, pointer: &str, good: impl Fn(&Value) -> bool) -> Option<(String, BTreeSet<String>)> {
    let mut values = BTreeSet::new();
    let mut bad = |owner: &Value| {
        let value = owner["securityContext"].pointer(pointer).unwrap_or(&Value::Null);
        let bad = !value.is_null() && !good(value);
        if bad {
            values.insert(value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
        bad
    };
    let own = bad(pod.spec);
    let names: Vec<&str> =
        pod.containers().filter(|container| bad(container)).map(|container| text(container, "/name")).collect();
    let who = setters(own, &names);
    (!who.is_empty()).then_some((who, values))
}

fn app_armor_profile(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let mut details = Vec::new();
    let mut count = 0;
    if let Some((who, types)) = set_badly(pod, "/appArmorProfile/type", is_confined) {
        count += types.len();
        details.push(format!("{who} must not set AppArmor profile type to {}", quoted(&types)));
    }
    let annotations = pod.metadata["annotations"].as_object().into_iter().flatten();
    for (key, value) in
        annotations.filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
    {
        let value = value.as_str().unwrap_or_default();
        if !value.is_empty() && value != "runtime/default" && !value.starts_with("localhost/") {
            count += 1;
            details.push(format!("{key}={value:?}"));
        }
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", count);
    if details.is_empty() { None } else { violation(reason, details.join(", ")) }
}

/// A profile of seccomp or AppArmor that keeps something from somebody.
fn is_confined(kind: &Value) -> bool {
    matches!(kind.as_str(), Some("RuntimeDefault" | "Localhost"))
}

fn host_namespaces(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let shared: Vec<&str> =
        ["hostIPC", "hostNetwork", "hostPID"].into_iter().filter(|of| pod.spec[of] == true).collect();
    if shared.is_empty() { None } else { violation("host namespaces", shared.join(", ")) }
}

fn host_ports(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let of = |container: &Value| -> Vec<String> {
        let ports = list(container, "/ports").iter().filter_map(|port| port["hostPort"].as_i64());
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let names = pod.bad(|container| !of(container).is_empty());
    let ports: BTreeSet<String> = pod.containers().flat_map(of).collect();
    if names.is_empty() {
        return None;
    }
    let (uses, what) = (plural("uses", "use", names.len()), plural("hostPort", "hostPorts", ports.len()));
    let list = ports.into_iter().collect::<Vec<_>>().join(", ");
    violation("hostPort", format!("{} {uses} {what} {list}", containers(&names)))
}

fn host_of_handlers(pod: Pod<'_>, _: u32) -> Option<Violation> {
    const HANDLERS: [&str; 5] =
        ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    let of = |container: &Value| -> Vec<String> {
        let handlers = HANDLERS.iter().filter_map(|handler| container.pointer(handler));
        let hosts = handlers.flat_map(|handler| [text(handler, "/httpGet/host"), text(handler, "/tcpSocket/host")]);
        hosts.filter(|host| !host.is_empty()).map(str::to_owned).collect()
    };
    let names: BTreeSet<&str> = pod.bad(|container| !of(container).is_empty()).into_iter().collect();
    let hosts: BTreeSet<String> = pod.containers().flat_map(of).collect();
    if names.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.into_iter().collect();
    let what = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    let uses = plural("uses", "use", names.len());
    violation("probe or lifecycle host", format!("{} {uses} {what} {}", containers(&names), quoted(&hosts)))
}

fn privileged(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let names = pod.bad(|container| container["securityContext"]["privileged"] == true);
    let detail = || format!("{} must not set securityContext.privileged=true", containers(&names));
    if names.is_empty() { None } else { violation("privileged", detail()) }
}

fn proc_mount(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= OWN_USERS_SINCE && pod.has_own_users() {
        return None;
    }
    let bad = |container: &Value| !matches!(text(container, "/securityContext/procMount"), "" | "Default");
    let names = pod.bad(bad);
    let types: BTreeSet<&str> =
        pod.containers().filter(|c| bad(c)).map(|c| text(c, "/securityContext/procMount")).collect();
    let detail = || format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(&types));
    if names.is_empty() { None } else { violation("procMount", detail()) }
}

fn se_linux_options(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    let allowed = |kind: &str| match kind {
        "" | "container_t" | "container_init_t" | "container_kvm_t" => true,
        "container_engine_t" => minor >= 31,
        _ => false,
    };
    let options = |owner: &Value| owner["securityContext"]["seLinuxOptions"].clone();
    let set = |options: &Value, name: &str| !kmeta::is_empty(&options[name]);
    let bad = |owner: &Value| {
        let options = options(owner);
        !allowed(text(&options, "/type")) || set(&options, "user") || set(&options, "role")
    };
    let names = pod.bad(bad);
    let who = setters(bad(pod.spec), &names);
    if who.is_empty() {
        return None;
    }
    let all: Vec<Value> = std::iter::once(pod.spec).chain(pod.containers()).map(options).collect();
    let types: BTreeSet<&str> = all.iter().map(|o| text(o, "/type")).filter(|kind| !allowed(kind)).collect();
    let mut wrong = Vec::new();
    if !types.is_empty() {
        wrong.push(format!("{} {}", plural("type", "types", types.len()), quoted(&types)));
    }
    for name in ["user", "role"] {
        if all.iter().any(|options| set(options, name)) {
            wrong.push(format!("{name} may not be set"));
        }
    }
    violation("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", wrong.join("; ")))
}

/// Sysctls that touch nobody else, and since which version they are known to.
const SAFE_SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    let safe = |name: &str| SAFE_SYSCTLS.iter().any(|(known, since)| *known == name && *since <= minor);
    let set = list(pod.spec, "/securityContext/sysctls").iter().map(|sysctl| text(sysctl, "/name"));
    let bad: Vec<&str> = set.filter(|name| !safe(name)).collect();
    if bad.is_empty() { None } else { violation("forbidden sysctls", bad.join(", ")) }
}

fn windows_host_process(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let (who, _) = set_badly(pod, "/windowsOptions/hostProcess", |value| value != true)?;
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Who adds a capability that is not among `allowed`, and which.
fn added<'a>(pod: Pod<'a>, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let of = |container: &'a Value| -> Vec<&'a str> {
        let add = list(container, "/securityContext/capabilities/add").iter().filter_map(Value::as_str);
        add.filter(|capability| !allowed.contains(capability)).collect()
    };
    let names = pod.containers().filter(|c| !of(c).is_empty()).map(|c| text(c, "/name")).collect();
    (names, pod.containers().flat_map(of).collect())
}

fn must_not_add(names: &[&str], capabilities: &BTreeSet<&str>) -> String {
    let list = quoted(capabilities);
    format!("{} must not include {list} in securityContext.capabilities.add", containers(names))
}

fn capabilities_baseline(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let (names, capabilities) = added(pod, DEFAULT_CAPABILITIES);
    if names.is_empty() { None } else { violation("non-default capabilities", must_not_add(&names, &capabilities)) }
}

fn capabilities_restricted(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    let keeps = pod.bad(|container| {
        !list(container, "/securityContext/capabilities/drop").iter().any(|capability| capability == "ALL")
    });
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeps)));
    }
    let (names, capabilities) = added(pod, &["NET_BIND_SERVICE"]);
    if !names.is_empty() {
        details.push(must_not_add(&names, &capabilities));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn host_path_volumes(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let volumes = list(pod.spec, "/volumes").iter().filter(|volume| !volume["hostPath"].is_null());
    let names: Vec<&str> = volumes.map(|volume| text(volume, "/name")).collect();
    let detail = || format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names));
    if names.is_empty() { None } else { violation("hostPath volumes", detail()) }
}

const VOLUME_TYPES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn restricted_volumes(pod: Pod<'_>, _: u32) -> Option<Violation> {
    let kind = |volume: &Value| {
        let fields = volume.as_object().into_iter().flatten();
        let mut sources = fields.filter(|(name, value)| name.as_str() != "name" && !value.is_null());
        sources.next().map_or_else(|| "unknown".to_owned(), |(name, _)| name.clone())
    };
    let bad: Vec<(&str, String)> = list(pod.spec, "/volumes")
        .iter()
        .map(|volume| (text(volume, "/name"), kind(volume)))
        .filter(|(_, kind)| !VOLUME_TYPES.contains(&kind.as_str()))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let types: BTreeSet<&str> = bad.iter().map(|(_, kind)| kind.as_str()).collect();
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let what = plural("restricted volume type", "restricted volume types", types.len());
    let (volumes, use_) = (plural("volume", "volumes", names.len()), plural("uses", "use", names.len()));
    violation("restricted volume types", format!("{volumes} {} {use_} {what} {}", quoted(&names), quoted(&types)))
}

fn allow_privilege_escalation(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    let names = pod.bad(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    let detail = || format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    if names.is_empty() { None } else { violation("allowPrivilegeEscalation != false", detail()) }
}

/// Since when users of the pod's own count as no users of the machine.
const OWN_USERS_SINCE: u32 = 35;

fn run_as_non_root(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= OWN_USERS_SINCE && pod.has_own_users() {
        return None;
    }
    let reason = "runAsNonRoot != true";
    if let Some((who, _)) = set_badly(pod, "/runAsNonRoot", |value| value == true) {
        return violation(reason, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    if pod.spec["securityContext"]["runAsNonRoot"] == true {
        return None;
    }
    let names = pod.bad(|container| container["securityContext"]["runAsNonRoot"].is_null());
    let detail = || format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&names));
    if names.is_empty() { None } else { violation(reason, detail()) }
}

fn run_as_user(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= OWN_USERS_SINCE && pod.has_own_users() {
        return None;
    }
    let (who, _) = set_badly(pod, "/runAsUser", |value| value != 0)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn seccomp_baseline(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 19 {
        let (who, types) = set_badly(pod, "/seccompProfile/type", is_confined)?;
        return bad_seccomp(&who, &types);
    }
    let good = |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
    let own = std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_owned());
    let named =
        pod.containers().map(|c| format!("container.seccomp.security.alpha.kubernetes.io/{}", text(c, "/name")));
    let set = own.chain(named).filter_map(|key| {
        let value = pod.metadata["annotations"][&key].as_str()?;
        (!good(value)).then(|| format!("{key}={value:?}"))
    });
    let bad: BTreeSet<String> = set.collect();
    let what = plural("annotation", "annotations", bad.len());
    let list = bad.iter().cloned().collect::<Vec<_>>().join(", ");
    if bad.is_empty() { None } else { violation("seccompProfile", format!("forbidden {what} {list}")) }
}

fn seccomp_restricted(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    if let Some((who, types)) = set_badly(pod, "/seccompProfile/type", is_confined) {
        return bad_seccomp(&who, &types);
    }
    if !pod.spec["securityContext"]["seccompProfile"].is_null() {
        return None;
    }
    let names = pod.bad(|container| container["securityContext"]["seccompProfile"].is_null());
    let detail = || {
        let who = containers(&names);
        format!("pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"")
    };
    if names.is_empty() { None } else { violation("seccompProfile", detail()) }
}

fn bad_seccomp(who: &str, types: &BTreeSet<String>) -> Option<Violation> {
    violation("seccompProfile", format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(types)))
}

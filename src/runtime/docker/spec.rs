//! What the engine is asked to make, from what a pod asks for. Pure.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigLogConfig, Mount as EngineMount,
    MountBindOptions, MountBindOptionsPropagationEnum, MountType, NetworkingConfig, PortBinding,
};

use super::super::{ContainerSpec, LinuxContainer, Mount, Profile, Propagation, SandboxSpec};
use super::engine::OWNER;

/// The names of the Kubernetes objects, as other runtimes label them.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Which life of the container it is.
pub const RUN: &str = "coracle.dev/run";
/// What the infrastructure container is called among its pod's.
pub const INFRA: &str = "POD";

/// The kubelet's, per container and period.
const CPU_PERIOD_MICROS: i64 = 100_000;
const LEAST_CPU_QUOTA: i64 = 1_000;
const LEAST_CPU_SHARES: i64 = 2;
/// Processes and threads of one container: one that forks without end must not take the machine's.
const PIDS: i64 = 4_096;
/// What the engine keeps of a container's output: read at once, kept only for a node that is away.
const LOG_BYTES: &str = "10m";
const LOG_FILES: &str = "2";

/// What is made for one node.
pub struct Naming<'a> {
    pub owner: &'a str,
    pub network: &'a str,
    pub pause: &'a str,
    /// The control group around the pod's containers, if it has one of its own.
    pub group: Option<&'a str>,
}

/// The name of one life of a container, for people and for finding it again.
pub fn name(pod: &SandboxSpec, container: &str, run: u32) -> String {
    format!("coracle_{container}_{}_{}_{}_{run}", pod.name, pod.namespace, pod.uid)
}

pub fn labels(naming: &Naming<'_>, pod: &SandboxSpec, container: &str, run: u32) -> HashMap<String, String> {
    HashMap::from([
        (OWNER.to_owned(), naming.owner.to_owned()),
        (POD_UID.to_owned(), pod.uid.clone()),
        (POD_NAME.to_owned(), pod.name.clone()),
        (POD_NAMESPACE.to_owned(), pod.namespace.clone()),
        (CONTAINER_NAME.to_owned(), container.to_owned()),
        (RUN.to_owned(), run.to_string()),
    ])
}

/// The container that has the pod's namespaces and address, and runs nothing.
pub fn infra(naming: &Naming<'_>, pod: &SandboxSpec, files: &Path) -> ContainerCreateBody {
    let linux = &pod.linux;
    let own_network = !linux.host_network;
    let mut ports = HashMap::new();
    for port in linux.ports.iter().filter(|_| own_network) {
        let binding = PortBinding {
            host_ip: Some(port.host_ip.clone()).filter(|ip| !ip.is_empty()),
            host_port: Some(port.host_port.to_string()),
        };
        let list =
            ports.entry(format!("{}/{}", port.container_port, port.protocol)).or_insert_with(|| Some(Vec::new()));
        list.get_or_insert_default().push(binding);
    }
    let exposed: Vec<String> = ports.keys().cloned().collect();
    let endpoint = EndpointSettings {
        ipam_config: Some(EndpointIpamConfig { ipv4_address: Some(pod.ip.to_string()), ..Default::default() }),
        ..Default::default()
    };
    let host = HostConfig {
        network_mode: Some(if own_network { naming.network.to_owned() } else { "host".to_owned() }),
        port_bindings: (!ports.is_empty()).then_some(ports),
        ipc_mode: Some(if linux.host_ipc { "host" } else { "shareable" }.to_owned()),
        pid_mode: linux.host_pid.then(|| "host".to_owned()),
        sysctls: (!linux.sysctls.is_empty()).then(|| linux.sysctls.iter().cloned().collect()),
        mounts: Some(files_of(pod, files)),
        cpu_shares: Some(LEAST_CPU_SHARES),
        cgroup_parent: naming.group.map(str::to_owned),
        readonly_rootfs: Some(true),
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
        ..Default::default()
    };
    ContainerCreateBody {
        image: Some(naming.pause.to_owned()),
        // A pod of the machine's network has the machine's name.
        hostname: own_network.then(|| pod.hostname.clone()),
        entrypoint: Some(vec!["/pause".to_owned()]),
        // Without them the engine publishes nothing.
        exposed_ports: (!exposed.is_empty()).then_some(exposed),
        labels: Some(labels(naming, pod, INFRA, 0)),
        host_config: Some(host),
        networking_config: own_network.then(|| NetworkingConfig {
            endpoints_config: Some(HashMap::from([(naming.network.to_owned(), endpoint)])),
        }),
        ..Default::default()
    }
}

/// What the image says that a container's body must know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    pub id: String,
    /// `user[:group]`, by name or number; empty: root.
    pub user: String,
    /// Empty: SIGTERM.
    pub stop_signal: String,
}

/// What a container of a pod joins.
pub struct Joined<'a> {
    /// The id of the pod's infrastructure container.
    pub infra: &'a str,
    /// That of the container whose processes it is to see.
    pub target: Option<&'a str>,
    /// Where the pod's own files are.
    pub files: &'a Path,
}

/// One life of a container, or why there can be none.
pub fn container(
    naming: &Naming<'_>,
    pod: &SandboxSpec,
    spec: &ContainerSpec,
    image: &ImageFacts,
    joined: &Joined<'_>,
) -> Result<ContainerCreateBody, String> {
    let linux = &spec.linux;
    let Some((program, args)) = spec.args.split_first() else {
        return Err("no command specified: the image names none, and neither does the pod".to_owned());
    };
    check_user(linux, image)?;
    let Joined { infra, target, files } = joined;
    let joined = format!("container:{infra}");
    let mut mounts = files_of(pod, files);
    mounts.extend(spec.mounts.iter().map(bind));
    // A container without limits has its pod's.
    let memory = spec.memory_limit.or(pod.memory_limit).map(signed);
    let cpu = spec.cpu_limit_millis.or(pod.cpu_limit_millis).map(signed);
    let host = HostConfig {
        network_mode: Some(if pod.linux.host_network { "host".to_owned() } else { joined.clone() }),
        ipc_mode: Some(if pod.linux.host_ipc { "host".to_owned() } else { joined.clone() }),
        pid_mode: match (pod.linux.host_pid, pod.linux.shared_processes, target) {
            (true, ..) => Some("host".to_owned()),
            (false, true, _) => Some(joined),
            (false, false, target) => target.map(|target| format!("container:{target}")),
        },
        mounts: Some(mounts),
        cgroup_parent: naming.group.map(str::to_owned),
        memory,
        // No swap beyond the limit.
        memory_swap: memory,
        cpu_period: cpu.map(|_| CPU_PERIOD_MICROS),
        cpu_quota: cpu.map(|millis| (millis * CPU_PERIOD_MICROS / 1000).max(LEAST_CPU_QUOTA)),
        cpu_shares: Some((signed(spec.cpu_request_millis.unwrap_or(0)) * 1024 / 1000).max(LEAST_CPU_SHARES)),
        pids_limit: Some(PIDS),
        oom_score_adj: Some(linux.oom_score_adj),
        privileged: Some(linux.privileged),
        readonly_rootfs: Some(linux.read_only_root),
        cap_add: list(&linux.add_capabilities),
        cap_drop: list(&linux.drop_capabilities),
        group_add: list(&linux.groups.iter().map(ToString::to_string).collect::<Vec<_>>()),
        security_opt: list(&security(linux)),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), LOG_BYTES.to_owned()),
                ("max-file".to_owned(), LOG_FILES.to_owned()),
            ])),
        }),
        ..Default::default()
    };
    Ok(ContainerCreateBody {
        image: Some(image.id.clone()),
        user: user(linux, image),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        entrypoint: Some(vec![program.clone()]),
        cmd: Some(args.to_vec()),
        working_dir: linux.working_dir.clone(),
        tty: Some(linux.tty),
        open_stdin: Some(linux.stdin),
        // The engine ends the input with whoever is attached, which is the node alone.
        stdin_once: Some(linux.stdin && linux.stdin_once),
        labels: Some(labels(naming, pod, &spec.name, spec.run)),
        host_config: Some(host),
        // The image's own would be a second opinion beside the pod's probes.
        healthcheck: Some(bollard::models::HealthConfig { test: Some(vec!["NONE".to_owned()]), ..Default::default() }),
        ..Default::default()
    })
}

/// `/etc/resolv.conf` and `/etc/hosts` of the pod, where it has them of its own.
fn files_of(pod: &SandboxSpec, files: &Path) -> Vec<EngineMount> {
    let resolver = Mount::new(files.join("resolv.conf"), "/etc/resolv.conf", false);
    let hosts = Mount::new(files.join("hosts"), "/etc/hosts", false);
    let own_hosts = !pod.linux.host_network || !pod.linux.hosts.is_empty();
    let hosts = own_hosts.then_some(hosts);
    [Some(resolver), hosts].iter().flatten().map(bind).collect()
}

/// The text of the pod's `/etc/hosts`; `machine`: that of the machine, for pods of its network.
pub fn hosts(pod: &SandboxSpec, machine: &str) -> String {
    let mut text = if pod.linux.host_network {
        machine.to_owned()
    } else {
        format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{}\t{}\n", pod.ip, pod.hostname)
    };
    for (ip, names) in &pod.linux.hosts {
        text.push_str(&format!("{ip}\t{}\n", names.join("\t")));
    }
    text
}

pub fn bind(mount: &Mount) -> EngineMount {
    EngineMount {
        target: Some(mount.guest.clone()),
        source: Some(mount.host.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(mount.read_only),
        bind_options: propagation(mount.propagation)
            .map(|propagation| MountBindOptions { propagation: Some(propagation), ..Default::default() }),
        ..Default::default()
    }
}

/// `None`: the engine's own, which is none.
fn propagation(propagation: Propagation) -> Option<MountBindOptionsPropagationEnum> {
    match propagation {
        Propagation::None => None,
        Propagation::HostToContainer => Some(MountBindOptionsPropagationEnum::RSLAVE),
        Propagation::Bidirectional => Some(MountBindOptionsPropagationEnum::RSHARED),
    }
}

/// A pod that must not run as root is not started as one, nor as somebody whose number is not known.
fn check_user(linux: &LinuxContainer, image: &ImageFacts) -> Result<(), String> {
    if !linux.non_root {
        return Ok(());
    }
    let said = image.user.split(':').next().unwrap_or_default();
    match (linux.user, said.parse::<i64>()) {
        (Some(0), _) => Err("container's runAsUser breaks non-root policy".to_owned()),
        (Some(_), _) => Ok(()),
        (None, Ok(0)) => Err("container has runAsNonRoot and image will run as root".to_owned()),
        (None, Ok(_)) => Ok(()),
        (None, Err(_)) if said.is_empty() || said == "root" => {
            Err("container has runAsNonRoot and image will run as root".to_owned())
        }
        (None, Err(_)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({said}), cannot verify user is non-root"
        )),
    }
}

fn user(linux: &LinuxContainer, image: &ImageFacts) -> Option<String> {
    match (linux.user, linux.group) {
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (Some(user), None) => Some(user.to_string()),
        (None, Some(group)) => {
            let said = image.user.split(':').next().filter(|user| !user.is_empty()).unwrap_or("0");
            Some(format!("{said}:{group}"))
        }
        (None, None) => None,
    }
}

fn security(linux: &LinuxContainer) -> Vec<String> {
    let profile = |name: &str, profile: &Profile| match profile {
        Profile::Runtime => None,
        Profile::Unconfined => Some(format!("{name}=unconfined")),
        Profile::Local(which) => Some(format!("{name}={which}")),
    };
    let privileges = linux.no_new_privileges.then(|| "no-new-privileges".to_owned());
    let profiles = [profile("seccomp", &linux.seccomp), profile("apparmor", &linux.apparmor)];
    profiles.into_iter().flatten().chain(privileges).collect()
}

fn list(values: &[String]) -> Option<Vec<String>> {
    (!values.is_empty()).then(|| values.to_vec())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;

//! What a pod's spec asks of Linux, for runtimes whose containers are processes. Pure.

use k8s_openapi::api::core::v1 as core;

use super::fields::request_units;
use crate::runtime::{Dns, HostPort, LinuxContainer, LinuxSandbox, Profile};

/// What all containers of the pod share.
pub fn sandbox(pod: &core::Pod, dns: Dns) -> LinuxSandbox {
    let Some(spec) = &pod.spec else { return LinuxSandbox::default() };
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    let hosts = spec.host_aliases.iter().flatten();
    LinuxSandbox {
        host_network: spec.host_network == Some(true),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        shared_processes: spec.share_process_namespace == Some(true),
        dns,
        hosts: hosts.map(|alias| (alias.ip.clone(), alias.hostnames.clone().unwrap_or_default())).collect(),
        ports: containers(spec).flat_map(host_ports).collect(),
        sysctls: sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
    }
}

/// Those that may run at the same time as the pod serves: its containers and sidecars.
pub fn containers(spec: &core::PodSpec) -> impl Iterator<Item = &core::Container> {
    let init = spec.init_containers.iter().flatten();
    let sidecars = init.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars)
}

pub fn host_ports(container: &core::Container) -> Vec<HostPort> {
    let ports = container.ports.iter().flatten();
    let mapped = ports.filter_map(|port| {
        Some(HostPort {
            host_ip: port.host_ip.clone().unwrap_or_default(),
            host_port: port.host_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)?,
            container_port: u16::try_from(port.container_port).ok()?,
            protocol: port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
        })
    });
    mapped.collect()
}

/// One container's own; `memory` is the machine's, in bytes.
pub fn container(pod: &core::Pod, container: &core::Container, memory: u64) -> LinuxContainer {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let groups = of_pod.supplemental_groups.iter().flatten().copied().chain(of_pod.fs_group);
    let capabilities = own.capabilities.unwrap_or_default();
    let seccomp = own.seccomp_profile.or(of_pod.seccomp_profile);
    let apparmor = own.app_armor_profile.or(of_pod.app_armor_profile);
    LinuxContainer {
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        user: own.run_as_user.or(of_pod.run_as_user),
        group: own.run_as_group.or(of_pod.run_as_group),
        groups: groups.collect(),
        non_root: own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true),
        privileged: own.privileged == Some(true),
        read_only_root: own.read_only_root_filesystem == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        seccomp: seccomp.map(|profile| named(&profile.type_, profile.localhost_profile)).unwrap_or_default(),
        apparmor: apparmor.map(|profile| named(&profile.type_, profile.localhost_profile)).unwrap_or_default(),
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        oom_score_adj: oom_score_adj(pod, container, memory),
    }
}

fn named(kind: &str, local: Option<String>) -> Profile {
    match (kind, local) {
        ("Unconfined", _) => Profile::Unconfined,
        ("Localhost", Some(local)) => Profile::Local(local),
        _ => Profile::Runtime,
    }
}

/// Upstream's arithmetic: who asked for more of the machine's memory is killed for want of it later.
fn oom_score_adj(pod: &core::Pod, container: &core::Container, memory: u64) -> i64 {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => -997,
        Some("Burstable") => {
            let asked = request_units(container, "memory").unwrap_or(0);
            let share = u128::from(asked) * 1000 / u128::from(memory.max(1));
            (1000 - i64::try_from(share).unwrap_or(1000)).clamp(3, 999)
        }
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> core::Pod {
        serde_json::from_value(json!({ "metadata": {}, "spec": spec })).expect("a pod")
    }

    #[test]
    fn the_containers_context_stands_before_the_pods() {
        let pod = pod(json!({
            "securityContext": {
                "runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4], "runAsNonRoot": true,
                "seccompProfile": { "type": "Unconfined" },
            },
            "containers": [
                { "name": "a" },
                { "name": "b", "workingDir": "/w", "tty": true, "securityContext": {
                    "runAsUser": 9, "runAsNonRoot": false, "privileged": true, "readOnlyRootFilesystem": true,
                    "allowPrivilegeEscalation": false, "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] },
                    "seccompProfile": { "type": "Localhost", "localhostProfile": "p.json" },
                } },
            ],
        }));
        let containers = &pod.spec.as_ref().expect("a spec").containers;
        let plain = LinuxContainer {
            user: Some(1),
            group: Some(2),
            groups: vec![4, 3],
            non_root: true,
            seccomp: Profile::Unconfined,
            oom_score_adj: 1000,
            ..LinuxContainer::default()
        };
        assert_eq!(container(&pod, &containers[0], 1), plain);
        let own = LinuxContainer {
            working_dir: Some("/w".into()),
            user: Some(9),
            non_root: false,
            privileged: true,
            read_only_root: true,
            no_new_privileges: true,
            add_capabilities: vec!["NET_ADMIN".into()],
            drop_capabilities: vec!["ALL".into()],
            seccomp: Profile::Local("p.json".into()),
            tty: true,
            ..plain
        };
        assert_eq!(container(&pod, &containers[1], 1), own);
    }

    #[test]
    fn namespaces_ports_and_names_are_the_pods() {
        let pod = pod(json!({
            "hostPID": true, "shareProcessNamespace": true,
            "hostAliases": [{ "ip": "192.0.2.1", "hostnames": ["a", "b"] }],
            "securityContext": { "sysctls": [{ "name": "net.core.somaxconn", "value": "9" }] },
            "containers": [{ "name": "a", "ports": [
                { "containerPort": 80, "hostPort": 8080 }, { "containerPort": 53, "protocol": "UDP", "hostPort": 53,
                  "hostIP": "127.0.0.1" }, { "containerPort": 81 },
            ] }],
        }));
        let made = sandbox(&pod, Dns::default());
        assert!(made.host_pid && made.shared_processes && !made.host_network && !made.host_ipc);
        assert_eq!(made.hosts, [("192.0.2.1".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
        assert_eq!(made.sysctls, [("net.core.somaxconn".to_owned(), "9".to_owned())]);
        let port = |ip: &str, host_port, container_port, protocol: &str| HostPort {
            host_ip: ip.into(),
            host_port,
            container_port,
            protocol: protocol.into(),
        };
        assert_eq!(made.ports, [port("", 8080, 80, "tcp"), port("127.0.0.1", 53, 53, "udp")]);
    }

    #[test]
    fn who_asked_for_memory_is_killed_later() {
        let score = |class: &str, request: &str| {
            let mut pod = pod(json!({ "containers": [
                { "name": "a", "resources": { "requests": { "memory": request } } } ] }));
            pod.status = Some(core::PodStatus { qos_class: Some(class.into()), ..Default::default() });
            let own = pod.spec.as_ref().expect("a spec").containers[0].clone();
            container(&pod, &own, 1 << 30).oom_score_adj
        };
        for (class, request, wanted) in [
            ("Guaranteed", "512Mi", -997),
            ("BestEffort", "0", 1000),
            ("Burstable", "512Mi", 500),
            ("Burstable", "1Gi", 3),
            ("Burstable", "0", 999),
        ] {
            assert_eq!(score(class, request), wanted, "{class} {request}");
        }
    }
}

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::runtime::{
    Dns, Grants, HostPort, InstancePolicy, Isolation, LinuxSandbox, Output, Stream, fake::FakeRuntime,
};
use crate::wire::{CallTimeouts, Caller, HttpBody, Outbound, OutboundError};

struct Nothing;

impl Output for Nothing {
    fn write(&self, _: Stream, _: &[u8]) {}
}

#[async_trait::async_trait]
impl Outbound for Nothing {
    async fn send(
        &self,
        _: &Caller,
        _: http::Request<HttpBody>,
        _: CallTimeouts,
    ) -> Result<http::Response<HttpBody>, OutboundError> {
        Err(OutboundError::UnknownHost(String::new()))
    }
}

const NAMING: Naming<'static> = Naming { owner: "me", network: "coracle-me", pause: "pause:1", group: None };

fn pod(linux: LinuxSandbox) -> SandboxSpec {
    SandboxSpec {
        uid: "u".into(),
        namespace: "shop".into(),
        name: "cart-0".into(),
        hostname: "cart".into(),
        ip: [100, 96, 32, 2].into(),
        memory_limit: None,
        cpu_limit_millis: None,
        isolation: Isolation::Shared,
        outbound: Arc::new(Nothing),
        linux,
    }
}

async fn spec(linux: LinuxContainer) -> ContainerSpec {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x");
    let source =
        crate::runtime::ImageSource { reference: "x:1".into(), path, digest: "sha256:0".into(), snapshot: false };
    ContainerSpec {
        name: "main".into(),
        image: crate::runtime::Runtime::prepare(&FakeRuntime::serving(), &source).await.expect("a fake image"),
        args: vec!["/bin/serve".into(), "--port=80".into()],
        env: vec![("A".into(), "b".into())],
        deferred: None,
        mounts: vec![Mount::new("/host/data", "/data", true)],
        memory_limit: Some(64 << 20),
        cpu_limit_millis: Some(250),
        cpu_request_millis: Some(100),
        output: Arc::new(Nothing),
        grants: Grants::default(),
        instances: InstancePolicy::default(),
        run: 3,
        linux,
        target: None,
    }
}

fn joined<'a>(infra: &'a str, files: &'a str) -> Joined<'a> {
    Joined { infra, target: None, files: Path::new(files) }
}

/// What is asked for, without what is left out.
fn made(body: &ContainerCreateBody) -> Value {
    fn clean(value: &mut Value) {
        if let Value::Object(fields) = value {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(clean);
        }
    }
    let mut value = serde_json::to_value(body).expect("JSON");
    clean(&mut value);
    value
}

#[test]
fn the_infrastructure_container_has_the_pods_address_name_and_ports() {
    let ports = vec![HostPort { host_ip: String::new(), host_port: 8080, container_port: 80, protocol: "tcp".into() }];
    let own = made(&infra(&NAMING, &pod(LinuxSandbox { ports, ..LinuxSandbox::default() }), Path::new("/files")));
    let host = &own["HostConfig"];
    assert_eq!(own["Image"], "pause:1");
    assert_eq!(own["Hostname"], "cart");
    assert_eq!(own["Labels"]["coracle.dev/owner"], "me");
    assert_eq!(own["Labels"]["io.kubernetes.pod.uid"], "u");
    let endpoint = &own["NetworkingConfig"]["EndpointsConfig"]["coracle-me"];
    assert_eq!(endpoint["IPAMConfig"]["IPv4Address"], "100.96.32.2");
    assert_eq!(host["NetworkMode"], "coracle-me");
    assert_eq!(host["PortBindings"], json!({ "80/tcp": [{ "HostPort": "8080" }] }));
    assert!(own["ExposedPorts"].get("80/tcp").is_some(), "{own}");
    assert_eq!(host["IpcMode"], "shareable");
    let mounts: Vec<&str> =
        host["Mounts"].as_array().expect("mounts").iter().filter_map(|m| m["Target"].as_str()).collect();
    assert_eq!(mounts, ["/etc/resolv.conf", "/etc/hosts"]);
}

#[test]
fn a_pod_of_the_machines_network_has_its_name_and_files() {
    let linux = LinuxSandbox { host_network: true, host_ipc: true, host_pid: true, ..LinuxSandbox::default() };
    let own = made(&infra(&NAMING, &pod(linux), Path::new("/files")));
    assert_eq!(own["HostConfig"]["NetworkMode"], "host");
    assert_eq!((&own["HostConfig"]["IpcMode"], &own["HostConfig"]["PidMode"]), (&json!("host"), &json!("host")));
    assert!(own.get("Hostname").is_none() && own.get("NetworkingConfig").is_none(), "{own}");
    assert_eq!(own["HostConfig"]["Mounts"].as_array().map(Vec::len), Some(1), "its resolver alone");
}

#[tokio::test]
async fn a_container_joins_its_pod_and_has_its_limits() {
    let shared = LinuxSandbox { shared_processes: true, ..LinuxSandbox::default() };
    let image = ImageFacts { id: "sha256:1".into(), ..ImageFacts::default() };
    let spec = spec(LinuxContainer { oom_score_adj: 1000, ..LinuxContainer::default() }).await;
    let own = made(&container(&NAMING, &pod(shared), &spec, &image, &joined("infra", "/files")).expect("made"));
    let host = &own["HostConfig"];
    assert_eq!((&own["Entrypoint"], &own["Cmd"]), (&json!(["/bin/serve"]), &json!(["--port=80"])));
    assert_eq!((&own["Image"], &own["Env"]), (&json!("sha256:1"), &json!(["A=b"])));
    assert_eq!(
        (&own["Labels"]["coracle.dev/run"], &own["Labels"]["io.kubernetes.container.name"]),
        (&json!("3"), &json!("main"))
    );
    for mode in ["NetworkMode", "IpcMode", "PidMode"] {
        assert_eq!(host[mode], "container:infra", "{mode}");
    }
    assert_eq!((&host["Memory"], &host["MemorySwap"]), (&json!(64 << 20), &json!(64 << 20)));
    assert_eq!(
        (&host["CpuPeriod"], &host["CpuQuota"], &host["CpuShares"]),
        (&json!(100_000), &json!(25_000), &json!(102))
    );
    assert_eq!((&host["PidsLimit"], &host["OomScoreAdj"]), (&json!(4096), &json!(1000)));
    let data = json!({ "Target": "/data", "Source": "/host/data", "Type": "bind", "ReadOnly": true });
    assert_eq!(host["Mounts"][2], data);
    assert!(own.get("User").is_none() && host.get("SecurityOpt").is_none(), "{own}");
}

#[tokio::test]
async fn a_security_context_is_what_the_engine_calls_it() {
    let linux = LinuxContainer {
        user: Some(7),
        group: Some(8),
        groups: vec![9],
        working_dir: Some("/w".into()),
        privileged: true,
        read_only_root: true,
        no_new_privileges: true,
        add_capabilities: vec!["NET_ADMIN".into()],
        drop_capabilities: vec!["ALL".into()],
        seccomp: Profile::Unconfined,
        apparmor: Profile::Local("mine".into()),
        tty: true,
        stdin: true,
        stdin_once: true,
        ..LinuxContainer::default()
    };
    let spec = spec(linux).await;
    let body = container(&NAMING, &pod(LinuxSandbox::default()), &spec, &ImageFacts::default(), &joined("i", "/f"));
    let own = made(&body.expect("made"));
    let host = &own["HostConfig"];
    assert_eq!(
        (&own["User"], &own["WorkingDir"], &own["Tty"], &own["OpenStdin"]),
        (&json!("7:8"), &json!("/w"), &json!(true), &json!(true))
    );
    assert_eq!(
        (&host["GroupAdd"], &host["CapAdd"], &host["CapDrop"]),
        (&json!(["9"]), &json!(["NET_ADMIN"]), &json!(["ALL"]))
    );
    assert_eq!(host["SecurityOpt"], json!(["seccomp=unconfined", "apparmor=mine", "no-new-privileges"]));
    assert_eq!((&host["Privileged"], &host["ReadonlyRootfs"]), (&json!(true), &json!(true)));
}

#[test]
fn users_are_of_the_pod_or_the_image_and_root_only_where_it_may_be() {
    let who = |user, group, said: &str| {
        let linux = LinuxContainer { user, group, ..LinuxContainer::default() };
        super::user(&linux, &ImageFacts { user: said.into(), ..ImageFacts::default() })
    };
    assert_eq!(who(None, None, "app"), None);
    assert_eq!(who(Some(5), None, "app").as_deref(), Some("5"));
    assert_eq!(who(None, Some(6), "app:app").as_deref(), Some("app:6"));
    assert_eq!(who(None, Some(6), "").as_deref(), Some("0:6"));
    let may = |user, said: &str| {
        let linux = LinuxContainer { user, non_root: true, ..LinuxContainer::default() };
        check_user(&linux, &ImageFacts { user: said.into(), ..ImageFacts::default() }).is_ok()
    };
    for (user, said, ok) in [
        (None, "", false),
        (None, "0:5", false),
        (None, "root", false),
        (None, "app", false),
        (None, "1000:1000", true),
        (Some(0), "1000", false),
        (Some(1), "", true),
    ] {
        assert_eq!(may(user, said), ok, "{user:?} {said:?}");
    }
}

#[tokio::test]
async fn without_a_command_there_is_nothing_to_run() {
    let spec = ContainerSpec { args: Vec::new(), ..spec(LinuxContainer::default()).await };
    let body = container(&NAMING, &pod(LinuxSandbox::default()), &spec, &ImageFacts::default(), &joined("i", "/f"));
    assert!(body.is_err_and(|why| why.starts_with("no command specified")));
}

#[test]
fn names_in_the_hosts_file() {
    let hosts_of = |host_network| {
        let more = vec![("192.0.2.1".to_owned(), vec!["a".to_owned(), "b".to_owned()])];
        let linux = LinuxSandbox { host_network, hosts: more, dns: Dns::default(), ..LinuxSandbox::default() };
        hosts(&pod(linux), "127.0.0.1 me\n")
    };
    let own = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n100.96.32.2\tcart\n192.0.2.1\ta\tb\n";
    assert_eq!(hosts_of(false), own);
    assert_eq!(hosts_of(true), "127.0.0.1 me\n192.0.2.1\ta\tb\n");
}

#[tokio::test]
async fn one_that_looks_into_another_sees_its_processes_unless_it_sees_more() {
    let spec = spec(LinuxContainer::default()).await;
    let mode = |linux: LinuxSandbox| {
        let joined = Joined { target: Some("main"), ..joined("infra", "/f") };
        let body = container(&NAMING, &pod(linux), &spec, &ImageFacts::default(), &joined).expect("made");
        body.host_config.and_then(|host| host.pid_mode)
    };
    let shared = LinuxSandbox { shared_processes: true, ..LinuxSandbox::default() };
    let machine = LinuxSandbox { host_pid: true, ..LinuxSandbox::default() };
    assert_eq!(mode(LinuxSandbox::default()).as_deref(), Some("container:main"));
    assert_eq!(mode(shared).as_deref(), Some("container:infra"));
    assert_eq!(mode(machine).as_deref(), Some("host"));
}

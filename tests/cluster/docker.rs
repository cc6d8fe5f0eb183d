//! Pods of ordinary images, on a real Docker Engine of the test's own: Debian's dockerd, started here as
//! root, with images made on the spot from Debian's static busybox.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};

use crate::harness::{
    Cluster, Options, PATIENCE, both, eventually, http, kubectls, missing, repository, run_with_input,
};
use crate::registry::Registry;

mod debug;
mod faults;
mod linux;
mod mix;
mod policies;
mod volumes;

/// The image of all these pods.
const BUSYBOX: &str = "bb:1";
/// The programs of busybox that tests use.
const PROGRAMS: &str = "cat dd echo env false hostname httpd id kill ls mkdir mount nc nslookup rm sh sleep stat sync tar timeout \
                        touch true tr wget";
/// Of private ranges, so that engines side by side do not meet.
static NEXT: AtomicU8 = AtomicU8::new(0);

/// A running engine. Dropping it ends it and all that it runs.
struct Engine {
    process: Option<Child>,
    dir: tempfile::TempDir,
    number: u8,
    flags: Vec<&'static str>,
}

impl Engine {
    /// `None`, said aloud, where none can be run.
    fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// One with more flags.
    fn start_with(flags: &[&'static str]) -> Option<Self> {
        let mut engine = Self::prepare()?;
        engine.flags = flags.to_vec();
        engine.begin();
        engine.make_image();
        Some(engine)
    }

    /// One that has so much room.
    fn start_on_tmpfs(size: &str) -> Option<Self> {
        let mut engine = Self::prepare()?;
        let data = engine.dir.path().join("data");
        std::fs::create_dir(&data).expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&data);
        let mounted = mount.output().expect("mount runs");
        assert!(mounted.status.success(), "{}", both(&mounted));
        engine.begin();
        engine.make_image();
        Some(engine)
    }

    fn prepare() -> Option<Self> {
        if kubectls().is_empty() {
            return None;
        }
        let runs = |program: &str| Command::new(program).arg("--version").output().is_ok();
        for tool in ["dockerd", "docker"] {
            if !runs(tool) {
                missing(tool);
                return None;
            }
        }
        if !rustix::process::getuid().is_root() {
            missing("root, for a Docker Engine of its own");
            return None;
        }
        if !Path::new("/usr/bin/busybox").exists() {
            missing("busybox-static");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("docker").tempdir_in("/tmp").expect("a directory");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Some(Self { process: None, dir, number, flags: Vec::new() })
    }

    /// Starts the engine; again, after [`Engine::end`].
    fn begin(&mut self) {
        let path = |name: &str| self.dir.path().join(name);
        let log = File::options().create(true).append(true).open(path("log")).expect("a log");
        let mut command = Command::new("dockerd");
        command.arg("--data-root").arg(path("data")).arg("--exec-root").arg(path("exec"));
        command.arg("--pidfile").arg(path("pid")).arg("-H").arg(self.address());
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none"]).args(&self.flags);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        self.process = Some(command.spawn().expect("dockerd starts"));
        eventually("the engine to answer", PATIENCE, || {
            let output = self.try_docker(&["version"]);
            if output.status.success() { Ok(()) } else { Err(self.log()) }
        });
    }

    /// Stops the engine, and with it its containers.
    fn end(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        if let Some(mut process) = self.process.take() {
            let _ = process.wait();
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let Some(process) = &self.process else { return };
        let pid = rustix::process::Pid::from_raw(process.id().cast_signed()).expect("a process id");
        let _ = rustix::process::kill_process(pid, signal);
    }

    fn address(&self) -> String {
        format!("unix://{}", self.dir.path().join("docker.sock").display())
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn try_docker(&self, args: &[&str]) -> Output {
        Command::new("docker").arg("-H").arg(self.address()).args(args).output().expect("docker runs")
    }

    fn docker(&self, args: &[&str]) -> String {
        let output = self.try_docker(args);
        assert!(output.status.success(), "docker {args:?}: {}", both(&output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn make_image(&self) {
        self.import(BUSYBOX, &[], |root| {
            for dir in ["bin", "tmp", "etc"] {
                std::fs::create_dir_all(root.join(dir)).expect("a directory");
            }
            std::fs::copy("/usr/bin/busybox", root.join("bin/busybox")).expect("copied");
            for program in PROGRAMS.split_whitespace() {
                std::os::unix::fs::symlink("busybox", root.join("bin").join(program)).expect("a link");
            }
        });
    }

    /// Makes an image of what `fill` puts into a directory; `flags` are those of `docker import`.
    fn import(&self, name: &str, flags: &[&str], fill: impl FnOnce(&Path)) {
        let work = tempfile::tempdir().expect("a directory");
        let (root, tar) = (work.path().join("root"), work.path().join("root.tar"));
        std::fs::create_dir(&root).expect("a directory");
        fill(&root);
        let packed = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status();
        assert!(packed.is_ok_and(|status| status.success()), "tar packs");
        let tar = tar.display().to_string();
        self.docker(&["import"].iter().chain(flags).copied().chain([tar.as_str(), name]).collect::<Vec<_>>());
    }

    /// A cluster that uses this engine.
    fn cluster(&self) -> Cluster {
        self.cluster_with(&[])
    }

    fn cluster_with(&self, more: &[&str]) -> Cluster {
        // Each engine, and each process of this test, has ranges of its own: 100.64/10 in quarters of a /16.
        let place = (u32::from(self.number) + std::process::id() * 7) % 120;
        let mut args = vec![format!("--docker={}", self.address())];
        args.extend(["--service-cidr".to_owned(), format!("100.{}.{}.0/24", 64 + place % 60, place / 60)]);
        args.extend(["--pod-cidr".to_owned(), format!("100.{}.128.0/17", 64 + place % 60)]);
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        Cluster::with(Options { args, ..Options::default() })
    }

    /// The names and states of containers, of all owners.
    fn containers(&self) -> String {
        self.docker(&["ps", "-a", "--format", "{{.Names}} {{.State}}"])
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.signal(rustix::process::Signal::CONT);
        if std::thread::panicking() {
            eprintln!("--- the end of the engine's log:\n{}", self.log());
        }
        let all = self.try_docker(&["ps", "-aq"]);
        for id in String::from_utf8_lossy(&all.stdout).split_whitespace() {
            let _ = self.try_docker(&["rm", "-f", id]);
        }
        let networks = self.try_docker(&["network", "ls", "--filter", "label=coracle.dev/owner", "-q"]);
        for id in String::from_utf8_lossy(&networks.stdout).split_whitespace() {
            let _ = self.try_docker(&["network", "rm", id]);
        }
        self.end();
        // Where it had a disk of its own.
        let _ = Command::new("umount").arg("--lazy").arg(self.dir.path().join("data")).output();
    }
}

/// A pod of one container that runs a script, with more of its spec and of its container.
fn pod(name: &str, script: &str, spec: Value, container: Value) -> String {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "runtimeClassName": "docker", "terminationGracePeriodSeconds": 3, "containers": [
            { "name": "main", "image": BUSYBOX, "command": ["/bin/sh", "-c", script] },
        ] },
    });
    for (key, value) in container.as_object().into_iter().flatten() {
        pod["spec"]["containers"][0][key] = value.clone();
    }
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod.to_string()
}

/// One that waits, and ends when it is told to.
const WAITS: &str = "trap 'echo told to end; exit 0' TERM; echo up; while :; do sleep 0.1; done";

fn ready(cluster: &Cluster, name: &str) -> Value {
    eventually("the pod to be ready", PATIENCE, || {
        let pod = cluster.get(&["pod", name]);
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_ready = conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
        if is_ready { Ok(pod) } else { Err(format!("{} {}", pod["status"], events(cluster, name))) }
    })
}

fn events(cluster: &Cluster, name: &str) -> String {
    cluster.kubectl(&["get", "events", "--field-selector", &format!("involvedObject.name={name}")])
}

/// The first container's state, once it is what is waited for.
fn state(cluster: &Cluster, name: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually("the container's state", PATIENCE, || {
        let pod = cluster.get(&["pod", name]);
        let state = pod["status"]["containerStatuses"][0].clone();
        if is(&state) { Ok(state) } else { Err(format!("{state} {}", events(cluster, name))) }
    })
}

fn exec(cluster: &Cluster, pod: &str, words: &[&str]) -> Output {
    let args: Vec<&str> = ["exec", pod, "-c", "main", "--"].iter().chain(words).copied().collect();
    cluster.try_kubectl(&args)
}

fn said(cluster: &Cluster, pod: &str, words: &[&str]) -> String {
    let output = exec(cluster, pod, words);
    assert!(output.status.success(), "{words:?}: {}", both(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_pod_of_an_ordinary_image_is_a_pod_like_any_other() {
    let Some(engine) = Engine::start() else { return };
    let foreign = engine.docker(&["run", "-d", "--name", "foreign", "--net=none", BUSYBOX, "/bin/sleep", "1000"]);
    let mut cluster = engine.cluster();
    cluster.kubectl(&[
        "create",
        "configmap",
        "settings",
        "--from-literal=greeting=hello",
        "--from-literal=other=world",
    ]);
    let serve = "cat /data/made; cat /etc/settings/greeting; echo; echo $OTHER $POD; id -u; id -G; hostname; pwd; \
                 touch /root-file 2> /dev/null && echo wrote; trap 'echo told to end > /dev/termination-log; kill $!; exit 0' TERM; \
                 httpd -f -p 8080 -h /data & wait";
    let spec = json!({
        "securityContext": { "runAsUser": 1000, "runAsGroup": 2000, "supplementalGroups": [3000], "fsGroup": 4000 },
        "initContainers": [{
            "name": "init", "image": BUSYBOX, "command": ["/bin/sh", "-c", "echo made by init > /data/made"],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        }],
        "volumes": [
            { "name": "data", "emptyDir": {} },
            { "name": "settings", "configMap": { "name": "settings", "defaultMode": 292 } },
        ],
    });
    let container = json!({
        "workingDir": "/data",
        "securityContext": { "readOnlyRootFilesystem": true },
        "env": [
            { "name": "OTHER", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "other" } } },
            { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
        ],
        "ports": [{ "name": "web", "containerPort": 8080 }],
        "resources": { "limits": { "memory": "64Mi", "cpu": "500m" } },
        "volumeMounts": [
            { "name": "data", "mountPath": "/data" },
            { "name": "settings", "mountPath": "/etc/settings" },
            { "name": "settings", "mountPath": "/etc/one", "subPath": "other" },
        ],
        "startupProbe": { "tcpSocket": { "port": "web" }, "periodSeconds": 1, "failureThreshold": 30 },
        "readinessProbe": { "httpGet": { "path": "/made", "port": "web" }, "periodSeconds": 1 },
        "livenessProbe": { "exec": { "command": ["/bin/cat", "/data/made"] }, "periodSeconds": 1 },
        "lifecycle": { "postStart": { "exec": { "command": ["/bin/touch", "/data/post-start"] } } },
    });
    let mut whole: Value = serde_json::from_str(&pod("web", serve, spec, container)).expect("JSON");
    let side = json!({ "name": "side", "image": BUSYBOX, "command": ["/bin/sh", "-c", WAITS] });
    whole["spec"]["containers"].as_array_mut().expect("containers").push(side);
    cluster.apply(&whole.to_string());
    let web = ready(&cluster, "web");

    // What it is told, and what it says.
    let lines = cluster.kubectl(&["logs", "web", "-c", "main"]);
    assert_eq!(
        lines, "made by init\nhello\nworld web\n1000\n2000 3000 4000\nweb\n/data\n",
        "and nothing was written to /"
    );
    assert_eq!(cluster.kubectl(&["logs", "web", "-c", "side"]), "up\n");
    let id = web["status"]["containerStatuses"][0]["containerID"].as_str().expect("an id").to_owned();
    let inspected = engine.docker(&["inspect", id.strip_prefix("docker://").expect("Docker's"), "-f", "{{json .}}"]);
    let inspected: Value = serde_json::from_str(&inspected).expect("JSON");
    assert_eq!(inspected["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(inspected["HostConfig"]["CpuQuota"], 50_000);
    let ip = web["status"]["podIP"].as_str().expect("an address").to_owned();
    let answer = http(format!("{ip}:8080").parse().expect("an address"), "web", "/made").expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, "made by init\n"));

    // Commands, in both ways and with their codes; files, in both ways.
    assert_eq!(said(&cluster, "web", &["/bin/cat", "/etc/one", "/data/post-start"]), "world");
    assert_eq!(exec(&cluster, "web", &["/bin/sh", "-c", "echo oops >&2; exit 7"]).status.code(), Some(7));
    let kubectl = kubectls().remove(0);
    let args = ["exec", "-i", "web", "-c", "main", "--", "/bin/cat"];
    let echoed = cluster.with_kubectl(&kubectl, &args, Some("there and back"));
    assert_eq!(String::from_utf8_lossy(&echoed.stdout), "there and back");
    let (there, back) = (cluster.dir.path().join("there"), cluster.dir.path().join("back"));
    std::fs::write(&there, "carried").expect("written");
    let text = |path: &PathBuf| path.display().to_string();
    cluster.kubectl(&["cp", &text(&there), "web:/data/carried", "-c", "main"]);
    cluster.kubectl(&["cp", "web:/data/carried", &text(&back), "-c", "main"]);
    assert_eq!(std::fs::read_to_string(&back).expect("read"), "carried");

    // A ConfigMap that changes is seen to change.
    let change = r#"{"data": {"greeting": "changed"}}"#;
    cluster.kubectl(&["patch", "configmap", "settings", "-p", change]);
    eventually("the volume to follow", PATIENCE, || {
        let seen = said(&cluster, "web", &["/bin/cat", "/etc/settings/greeting"]);
        if seen == "changed" { Ok(()) } else { Err(seen) }
    });
    eventually("figures", PATIENCE, || {
        let top = cluster.try_kubectl(&["top", "pod", "web", "--containers"]);
        let text = both(&top);
        // Its probes' commands are counted with it: it is never idle for long.
        let used = text.lines().any(|line| line.contains(" main ") && !line.contains(" 0m "));
        if used { Ok(()) } else { Err(text) }
    });

    // It is told to end, has its last words, and leaves nothing.
    cluster.kubectl(&["delete", "pod", "web"]);
    eventually("its containers to go", PATIENCE, || {
        let left = engine.containers();
        if left == "foreign running" { Ok(()) } else { Err(left) }
    });
    cluster.apply(&pod("waits", WAITS, json!({}), json!({})));
    ready(&cluster, "waits");
    cluster.stop();
    assert_eq!(engine.containers(), "foreign running", "what others run is left alone");
    assert_eq!(engine.docker(&["ps", "-q", "--no-trunc"]), foreign);
    assert_eq!(engine.docker(&["network", "ls", "--filter", "label=coracle.dev/owner", "-q"]), "");
}

#[test]
fn what_goes_wrong_is_a_state_that_kubernetes_users_know() {
    let Some(engine) = Engine::start() else { return };
    let cluster = engine.cluster();
    let never = json!({ "restartPolicy": "Never" });
    let limited = json!({ "command": ["/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"],
        "resources": { "limits": { "memory": "16Mi" } } });
    for manifest in [
        pod("completes", "echo done", never.clone(), json!({})),
        pod("fails", "echo goodbye > /dev/termination-log; exit 3", never.clone(), json!({})),
        pod(
            "falls-back",
            "echo the end of the log; exit 4",
            never.clone(),
            json!({ "terminationMessagePolicy": "FallbackToLogsOnError" }),
        ),
        pod("hungry", "", never.clone(), limited),
        pod("loops", "exit 1", json!({}), json!({})),
        pod("no-program", "", never.clone(), json!({ "command": ["/nope"] })),
        pod("no-command", "", json!({}), json!({ "command": null })),
        pod("no-image", "", json!({}), json!({ "image": "127.0.0.1:9/nope:1" })),
        pod("never", "", json!({}), json!({ "image": "nope:1", "imagePullPolicy": "Never" })),
        pod("root", "", json!({ "securityContext": { "runAsNonRoot": true } }), json!({})),
        pod("no-secret", "", json!({}), json!({ "envFrom": [{ "secretRef": { "name": "none" } }] })),
    ] {
        cluster.apply(&manifest);
    }
    for (name, code, reason, message) in [
        ("completes", 0, "Completed", ""),
        ("fails", 3, "Error", "goodbye\n"),
        ("falls-back", 4, "Error", "the end of the log"),
        ("hungry", 137, "OOMKilled", ""),
        ("no-program", 128, "StartError", "no such file or directory"),
    ] {
        let ended = state(&cluster, name, |state| state["state"]["terminated"].is_object());
        let ended = &ended["state"]["terminated"];
        assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(code), &json!(reason)), "{name}: {ended}");
        assert!(ended["message"].as_str().unwrap_or_default().contains(message), "{name}: {ended}");
        assert!(ended["containerID"].as_str().is_some_and(|id| id.starts_with("docker://")), "{name}: {ended}");
    }
    for (name, reason, message) in [
        ("loops", "CrashLoopBackOff", "restarting failed container=main"),
        ("no-command", "CreateContainerError", "no command specified"),
        ("no-image", "ImagePullBackOff", "connection refused"),
        ("never", "ErrImageNeverPull", "is not present with pull policy of Never"),
        ("root", "CreateContainerError", "container has runAsNonRoot and image will run as root"),
        ("no-secret", "CreateContainerConfigError", "secret \"none\" not found"),
    ] {
        let waiting = state(&cluster, name, |state| state["state"]["waiting"]["reason"] == reason);
        let said = waiting["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains(message), "{name}: {said}");
    }
}

#[test]
fn services_and_names_lead_to_both_kinds_of_pods() {
    let Some(engine) = Engine::start() else { return };
    let cluster = engine.cluster();
    let service = |name: &str, app: &str, target: u16| {
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "selector": { "app": app }, "ports": [{ "port": 80, "targetPort": target }] } })
        .to_string()
    };
    let script = "mkdir -p /tmp/www; echo from a container > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www";
    let mut linux: Value = serde_json::from_str(&pod("linux", script, json!({}), json!({}))).expect("JSON");
    linux["metadata"]["labels"] = json!({ "app": "both" });
    linux["spec"]["containers"][0]["readinessProbe"] = json!({ "httpGet": { "port": 8080 }, "periodSeconds": 1 });
    let wasm = |name: &str, image: &str, app: &str| {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": app } },
            "spec": { "containers": [{ "name": "main", "image": image }] } })
        .to_string()
    };
    for manifest in [
        linux.to_string(),
        wasm("wasm", "hello:1", "both"),
        wasm("relay", "relay:1", "relay"),
        service("both", "both", 8080),
        service("relay", "relay", 8080),
        pod("client", "exec sleep 1000", json!({}), json!({})),
    ] {
        cluster.apply(&manifest);
    }
    for name in ["linux", "wasm", "relay", "client"] {
        ready(&cluster, name);
    }
    let ip = cluster.get(&["service", "both"])["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let urls = [format!("http://{ip}/"), "http://both/".into(), "http://both.default.svc.cluster.local/".into()];
    // From a container, by address and by names; from the machine's shell.
    for url in &urls {
        eventually("both kinds to answer a container", PATIENCE, || {
            let heard: Vec<String> = (0..8).map(|_| said(&cluster, "client", &["/bin/wget", "-qO-", url])).collect();
            let (some, others): (Vec<_>, Vec<_>) = heard.iter().partition(|text| text.contains("from a container"));
            if some.is_empty() || others.is_empty() { Err(format!("{url}: {heard:?}")) } else { Ok(()) }
        });
    }
    let pods = ["linux", "wasm"].map(|name| cluster.get(&["pod", name])["status"]["podIP"].as_str().map(str::to_owned));
    for address in pods.into_iter().flatten() {
        let answer = said(&cluster, "client", &["/bin/wget", "-qO-", &format!("http://{address}:8080/")]);
        assert!(!answer.is_empty(), "{address}");
    }
    // From a Wasm pod.
    let relay = cluster.get(&["service", "relay"])["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let relay = format!("{relay}:80").parse().expect("an address");
    eventually("a container to answer a Wasm pod", PATIENCE, || {
        let answer = http(relay, "relay", "/both/both/both").map_err(|error| error.to_string())?;
        if answer.body.contains("from a container") { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    let resolver = said(&cluster, "client", &["/bin/cat", "/etc/resolv.conf"]);
    assert!(resolver.contains("search default.svc.cluster.local svc.cluster.local cluster.local"), "{resolver}");
}

#[test]
fn containers_outlive_the_node_and_are_found_again() {
    let Some(engine) = Engine::start() else { return };
    let cluster = engine.cluster();
    let count = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done";
    cluster.apply(&pod("count", count, json!({}), json!({})));
    cluster.apply(&pod("leaves", WAITS, json!({}), json!({})));
    let before = ready(&cluster, "count");
    ready(&cluster, "leaves");
    let status = |pod: &Value| {
        let status = pod["status"]["containerStatuses"][0].clone();
        (status["containerID"].clone(), status["restartCount"].clone(), status["state"].clone())
    };
    let lines = || cluster.kubectl(&["logs", "count"]).lines().map(str::to_owned).collect::<Vec<_>>();
    eventually("some lines", PATIENCE, || if lines().len() > 10 { Ok(()) } else { Err(lines().len()) });
    cluster.kill("node-1");
    // While nobody is there, one of them ends.
    engine.docker(&["kill", "--signal", "KILL", &leaves_id(&engine)]);
    let heard = lines_after(&cluster, "count");
    for (index, line) in heard.iter().enumerate() {
        assert_eq!(line, &format!("line {}", index + 1), "no line is missing, and none comes twice");
    }
    assert_eq!(status(&ready(&cluster, "count")), status(&before), "the same container, started when it was");
    let ended = state(&cluster, "leaves", |state| state["restartCount"] == 1 && state["ready"] == true);
    assert_eq!(ended["lastState"]["terminated"]["exitCode"], 137, "{ended}");
    // It is the node's again: it ends as any other.
    cluster.kubectl(&["delete", "pod", "count", "leaves"]);
    eventually("its containers to go", PATIENCE, || {
        let left = engine.containers();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

fn leaves_id(engine: &Engine) -> String {
    engine.docker(&["ps", "-q", "--filter", "name=coracle_main_leaves_"])
}

/// The pod's log once the node that came back has gone on with it.
fn lines_after(cluster: &Cluster, name: &str) -> Vec<String> {
    let lines = || {
        let output = cluster.try_kubectl(&["logs", name]);
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut longest = 0;
    eventually("the log to go on", PATIENCE, || {
        let now = lines();
        // Grown twice since the node was killed: it is followed.
        let grown = longest > 0 && now.len() > longest + 5;
        longest = if longest == 0 { now.len() } else { longest };
        if grown { Ok(now) } else { Err(now.len()) }
    })
}

/// A pod that needs no engine.
fn module() -> String {
    let spec = json!({ "containers": [{ "name": "main", "image": "hello:1" }] });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "wasm" }, "spec": spec }).to_string()
}

#[test]
fn an_engine_that_stops_takes_its_containers_and_brings_them_back() {
    let Some(mut engine) = Engine::start() else { return };
    let cluster = engine.cluster();
    cluster.apply(&pod("stays", WAITS, json!({}), json!({})));
    let before = ready(&cluster, "stays");
    engine.end();
    cluster.apply(&pod("late", WAITS, json!({}), json!({})));
    cluster.apply(&module());
    ready(&cluster, "wasm");
    eventually("what is wrong to be told", PATIENCE, || {
        let told = events(&cluster, "late");
        if told.contains("cannot reach the Docker Engine") { Ok(()) } else { Err(told) }
    });
    engine.begin();
    ready(&cluster, "late");
    let after = state(&cluster, "stays", |state| state["restartCount"] == 1 && state["ready"] == true);
    assert!(after["lastState"]["terminated"]["containerID"].is_string(), "{after}");
    assert_eq!(ready(&cluster, "stays")["status"]["podIP"], before["status"]["podIP"], "its address is its own");
}

#[test]
fn a_cluster_without_an_engine_says_so_and_is_healthy() {
    if kubectls().is_empty() {
        return;
    }
    let absent = "unix:///nowhere/docker.sock";
    let ranges = ["--service-cidr", "127.250.0.0/16", "--pod-cidr", "127.251.0.0/16"].map(str::to_owned);
    for (args, words) in [
        (Vec::new(), "start the node with --docker"),
        ([vec![format!("--docker={absent}")], ranges.to_vec()].concat(), "cannot have addresses of 127.251"),
    ] {
        let cluster = Cluster::with(Options { args, ..Options::default() });
        cluster.apply(&pod("waits", WAITS, json!({}), json!({})));
        cluster.apply(&module());
        ready(&cluster, "wasm");
        eventually("what is wrong to be told", PATIENCE, || {
            let told = events(&cluster, "waits");
            if told.contains(words) { Ok(()) } else { Err(told) }
        });
        assert_eq!(cluster.get(&["pod", "waits"])["status"]["phase"], "Pending");
    }
}

/// A pod that names an image and nothing else, with annotations.
fn plain(name: &str, image: &str, annotations: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "annotations": annotations },
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "main", "image": image, "args": ["/bin/sleep", "1000"], "imagePullPolicy": "IfNotPresent" }] } })
}

fn runs_as(cluster: &Cluster, name: &str) -> String {
    let pod = ready(cluster, name);
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
    id.split(':').next().unwrap_or_default().to_owned()
}

#[test]
fn images_come_from_a_registry_and_say_what_runs_them() {
    let Some(engine) = Engine::start() else { return };
    let Some(registry) = Registry::private() else { return };
    let image = registry.image("shop/bb:1");
    let config = engine.dir.path().join("client").display().to_string();
    let host = registry.image("");
    engine.docker(&["--config", &config, "login", "-u", "puller", "-p", "secret", host.trim_end_matches('/')]);
    engine.docker(&["tag", BUSYBOX, &image]);
    engine.docker(&["--config", &config, "push", &image]);
    engine.docker(&["rmi", &image]);
    let cluster = engine.cluster();

    // Without an account: refused, in the words of both kinds.
    let mut refused = plain("refused", &image, &json!({}));
    refused["spec"]["runtimeClassName"] = json!("docker");
    cluster.apply(&refused.to_string());
    let waiting = state(&cluster, "refused", |state| state["state"]["waiting"]["reason"] == "ImagePullBackOff");
    let words = waiting["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(words.contains("no basic auth credentials") || words.contains("unauthorized"), "{words}");

    // With one, and no RuntimeClass: the image says that it is one of Linux.
    cluster.kubectl(&[
        "create",
        "secret",
        "docker-registry",
        "account",
        "--docker-username=puller",
        "--docker-password=secret",
        &format!("--docker-server={}", host.trim_end_matches('/')),
    ]);
    let mut chosen = plain("chosen", &image, &json!({}));
    chosen["spec"]["imagePullSecrets"] = json!([{ "name": "account" }]);
    cluster.apply(&chosen.to_string());
    assert_eq!(runs_as(&cluster, "chosen"), "docker");
    let pod = cluster.get(&["pod", "chosen"]);
    let id = pod["status"]["containerStatuses"][0]["imageID"].as_str().unwrap_or_default().to_owned();
    assert!(id.starts_with(&format!("{}@sha256:", registry.image("shop/bb"))), "{id}");
    let told = events(&cluster, "chosen");
    assert!(told.contains("Successfully pulled image"), "{told}");
    cluster.apply(&plain("module", "hello:1", &json!({})).to_string());
    assert_eq!(runs_as(&cluster, "module"), "wasm");
}

#[test]
fn a_module_that_cannot_be_run_falls_back_to_a_container() {
    let Some(engine) = Engine::start() else { return };
    let images = tempfile::tempdir().expect("a directory");
    for name in ["bad", "hello"] {
        std::fs::create_dir(images.path().join(name)).expect("made");
    }
    std::fs::write(images.path().join("bad/1.wasm"), b"\0asm not a module").expect("written");
    std::fs::copy(repository().join("workloads/prebuilt/hello/1.wasm"), images.path().join("hello/1.wasm"))
        .expect("copied");
    let cluster = engine.cluster_with(&["--images", &images.path().display().to_string()]);
    let image = json!({ "coracle.dev/fallback-image": BUSYBOX });
    let drawn = json!({ "coracle.dev/fallback-image": BUSYBOX, "coracle.dev/fallback-percent": "100" });
    cluster.apply(&plain("bad", "bad:1", &image).to_string());
    cluster.apply(&plain("good", "hello:1", &image).to_string());
    cluster.apply(&plain("drawn", "hello:1", &drawn).to_string());
    for (name, runtime) in [("bad", "docker"), ("good", "wasm"), ("drawn", "docker")] {
        assert_eq!(runs_as(&cluster, name), runtime, "{name}");
    }
    let told = events(&cluster, "bad");
    assert!(told.contains("FallbackImage") && told.contains("runs in its place"), "{told}");
}

#[test]
fn a_terminal_is_a_real_one() {
    let Some(engine) = Engine::start() else { return };
    let cluster = engine.cluster();
    cluster.apply(&pod("shell", "exec cat", json!({}), json!({ "stdin": true, "stdinOnce": true })));
    ready(&cluster, "shell");
    let kubectl = kubectls().remove(0);
    let output = cluster.with_kubectl(&kubectl, &["attach", "-i", "shell"], Some("said to it\n"));
    assert!(both(&output).contains("said to it"), "{}", both(&output));
    let ended = state(&cluster, "shell", |state| state["restartCount"] == 1);
    assert_eq!(ended["lastState"]["terminated"]["exitCode"], 0, "its input has ended: {ended}");
    // `script` gives kubectl the terminal that it passes on.
    let mut command = Command::new("script");
    let words = format!(
        "{} --kubeconfig {} exec -it shell -- /bin/sh -c 'test -t 0 && echo a terminal of $(ls -l /dev/fd/0)'",
        kubectl.display(),
        cluster.kubeconfig().display()
    );
    command.args(["-qec", &words, "/dev/null"]);
    let output = run_with_input(command, None);
    assert!(both(&output).contains("a terminal of"), "{}", both(&output));
}

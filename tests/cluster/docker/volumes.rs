//! Volumes of pods of ordinary images beyond a directory on the disk, and the limits of a pod as a whole.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{Engine, WAITS, events, exec, pod, ready, said, state};
use crate::harness::{Cluster, PATIENCE, both, eventually};

/// A pod of two containers, `main` and `side`, that have the same volumes.
fn two(name: &str, scripts: [&str; 2], volumes: &Value, mounts: &Value, spec: Value) -> String {
    let container = json!({ "volumeMounts": mounts });
    let mut whole: Value = serde_json::from_str(&pod(name, scripts[0], spec, container)).expect("JSON");
    whole["spec"]["volumes"] = volumes.clone();
    let mut side = whole["spec"]["containers"][0].clone();
    side["name"] = json!("side");
    side["command"][2] = json!(scripts[1]);
    whole["spec"]["containers"].as_array_mut().expect("containers").push(side);
    whole.to_string()
}

/// Where this machine has something mounted below a cluster's directory.
fn mounts_of(cluster: &Cluster) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let dir = cluster.dir.path().display().to_string();
    mounts.lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect()
}

fn evicted(cluster: &Cluster, name: &str) -> Value {
    eventually("the pod to be let go", PATIENCE, || {
        let pod = cluster.get(&["pod", name]);
        if pod["status"]["reason"] == "Evicted" { Ok(pod) } else { Err(pod["status"].clone()) }
    })
}

#[test]
fn a_volume_in_memory_is_a_tmpfs_that_the_containers_share_and_that_has_an_end() {
    let Some(engine) = Engine::start() else { return };
    let mut cluster = engine.cluster();
    let volumes = json!([{ "name": "cache", "emptyDir": { "medium": "Memory", "sizeLimit": "8Mi" } }]);
    let mounts = json!([{ "name": "cache", "mountPath": "/cache" }]);
    cluster.apply(&two("fast", [WAITS, WAITS], &volumes, &mounts, json!({})));
    ready(&cluster, "fast");
    assert_eq!(said(&cluster, "fast", &["/bin/stat", "-f", "-c", "%T", "/cache"]), "tmpfs\n");
    said(&cluster, "fast", &["/bin/sh", "-c", "echo shared > /cache/word"]);
    assert_eq!(cluster.kubectl(&["exec", "fast", "-c", "side", "--", "/bin/cat", "/cache/word"]), "shared\n");
    let full = exec(&cluster, "fast", &["/bin/dd", "if=/dev/zero", "of=/cache/much", "bs=1M", "count=16"]);
    assert!(both(&full).contains("No space left on device"), "{}", both(&full));
    assert_eq!(said(&cluster, "fast", &["/bin/rm", "/cache/much"]), "");
    // It outlives a container's life, and the node's process.
    cluster.kill("node-1");
    said_after(&cluster, &["/bin/kill", "1"]);
    let again = state(&cluster, "fast", |state| state["restartCount"] == 1 && state["ready"] == true);
    assert!(again["lastState"]["terminated"].is_object(), "{again}");
    assert_eq!(said(&cluster, "fast", &["/bin/cat", "/cache/word"]), "shared\n");
    // It goes with the pod, and with the cluster.
    cluster.kubectl(&["delete", "pod", "fast"]);
    eventually("its memory to be let go", PATIENCE, || match mounts_of(&cluster) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
    cluster.apply(&two("left", [WAITS, WAITS], &volumes, &mounts, json!({})));
    ready(&cluster, "left");
    assert_eq!(mounts_of(&cluster).len(), 1);
    cluster.stop();
    assert_eq!(mounts_of(&cluster), Vec::<String>::new());
}

/// A command in the pod, as soon as the node that came back takes it.
fn said_after(cluster: &Cluster, words: &[&str]) {
    eventually("the node to take a command", PATIENCE, || {
        let output = exec(cluster, "fast", words);
        if output.status.success() { Ok(()) } else { Err(both(&output)) }
    });
}

#[test]
fn who_writes_more_than_he_may_is_let_go() {
    let Some(engine) = Engine::start() else { return };
    let cluster = engine.cluster();
    let fill = |path: &str| format!("dd if=/dev/zero of={path} bs=1M count=3; {WAITS}");
    let volumes = json!([{ "name": "data", "emptyDir": { "sizeLimit": "1Mi" } }]);
    let mounts = json!([{ "name": "data", "mountPath": "/data" }]);
    cluster.apply(&two("volume", [&fill("/data/much"), WAITS], &volumes, &mounts, json!({})));
    let limited = json!({ "resources": { "limits": { "ephemeral-storage": "1Mi" } } });
    cluster.apply(&pod("layer", &fill("/tmp/much"), json!({}), limited));
    for (name, words) in [
        ("volume", "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". "),
        ("layer", "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "),
    ] {
        let pod = evicted(&cluster, name);
        assert_eq!((&pod["status"]["phase"], &pod["status"]["message"]), (&json!("Failed"), &json!(words)), "{pod}");
        let conditions = pod["status"]["conditions"].to_string();
        assert!(!conditions.contains("DisruptionTarget"), "nobody disrupts it: {conditions}");
        assert!(events(&cluster, name).contains("Evicted"));
    }
}

/// A directory with a tmpfs of its own, through which mounts are seen or not. Dropping it unmounts all.
struct Mounted(PathBuf);

impl Mounted {
    fn at(dir: &Path, how: &str) -> Self {
        std::fs::create_dir_all(dir).expect("a directory");
        run("mount", &["-t", "tmpfs", "tmpfs", &dir.display().to_string()]);
        run("mount", &[how, &dir.display().to_string()]);
        Self(dir.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-R", "-l"]).arg(&self.0).output();
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().expect("it runs");
    assert!(output.status.success(), "{program} {args:?}: {}", both(&output));
}

#[test]
fn later_mounts_are_seen_through_volumes_that_let_them() {
    let Some(engine) = Engine::start() else { return };
    let cluster = engine.cluster();
    let (open, closed) = (engine.dir.path().join("open"), engine.dir.path().join("closed"));
    let _mounted = [Mounted::at(&open, "--make-shared"), Mounted::at(&closed, "--make-private")];
    let looks = |name: &str, dir: &Path, how: &str, container: Value| {
        let mut container = container;
        container["volumeMounts"] = json!([{ "name": "host", "mountPath": "/host", "mountPropagation": how }]);
        let spec = json!({ "volumes": [{ "name": "host", "hostPath": { "path": dir } }] });
        pod(name, WAITS, spec, container)
    };
    cluster.apply(&looks("sees", &open, "HostToContainer", json!({})));
    cluster.apply(&looks("blind", &open, "None", json!({})));
    cluster.apply(&looks("shows", &open, "Bidirectional", json!({ "securityContext": { "privileged": true } })));
    cluster.apply(&looks("refused", &closed, "HostToContainer", json!({})));
    for name in ["sees", "blind"] {
        ready(&cluster, name);
    }
    std::fs::create_dir(open.join("later")).expect("a directory");
    run("mount", &["-t", "tmpfs", "tmpfs", &open.join("later").display().to_string()]);
    std::fs::write(open.join("later/file"), "seen").expect("written");
    assert_eq!(said(&cluster, "sees", &["/bin/cat", "/host/later/file"]), "seen");
    assert!(!exec(&cluster, "blind", &["/bin/cat", "/host/later/file"]).status.success());
    if has_all_capabilities() {
        ready(&cluster, "shows");
        let mounts = "mkdir /host/own && mount -t tmpfs tmpfs /host/own && echo -n shown > /host/own/file";
        said(&cluster, "shows", &["/bin/sh", "-c", mounts]);
        assert_eq!(std::fs::read_to_string(open.join("own/file")).expect("the container's mount"), "shown");
        assert_eq!(said(&cluster, "sees", &["/bin/cat", "/host/own/file"]), "shown");
    } else {
        // A machine that keeps capabilities back runs no privileged container, by whomever it is asked to.
        let why = state(&cluster, "shows", |state| state["lastState"]["terminated"]["reason"] == "StartError");
        let words = why["lastState"]["terminated"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(words.contains("unable to apply caps: operation not permitted"), "{words}");
    }
    let waiting = state(&cluster, "refused", |state| state["state"]["waiting"]["reason"] == "CreateContainerError");
    let words = waiting["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(words.contains("is mounted on") && words.contains("but it is not a shared or slave mount"), "{words}");
    assert!(events(&cluster, "refused").contains("is not a shared or slave mount"));
}

/// Whether this process may have, and so give, every capability that the kernel knows.
fn has_all_capabilities() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).expect("a file of the kernel");
    let last: u32 = read("/proc/sys/kernel/cap_last_cap").trim().parse().expect("a number");
    let status = read("/proc/self/status");
    let bound = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("a bound").trim();
    u64::from_str_radix(bound, 16).expect("a number") == u64::MAX >> (63 - last)
}

#[test]
fn the_containers_of_a_pod_have_its_limits_together() {
    let Some(engine) = Engine::start() else { return };
    let cluster = engine.cluster();
    let volumes = json!([
        { "name": "a", "emptyDir": { "medium": "Memory" } }, { "name": "b", "emptyDir": { "medium": "Memory" } },
    ]);
    let mounts = json!([{ "name": "a", "mountPath": "/a" }, { "name": "b", "mountPath": "/b" }]);
    let fill = |path: &str| format!("dd if=/dev/zero of={path}/much bs=1M count=40 && echo filled; sleep 1000");
    let spec = json!({
        "restartPolicy": "Never", "resources": { "limits": { "memory": "64Mi", "cpu": "500m" } },
    });
    cluster.apply(&two("together", [&fill("/a"), &fill("/b")], &volumes, &mounts, spec));
    // Each has room for its own, and both have not.
    eventually("one of them to have too little", PATIENCE, || {
        let pod = cluster.get(&["pod", "together"]);
        let logs = ["main", "side"].map(|name| both(&cluster.try_kubectl(&["logs", "together", "-c", name])));
        let filled = logs.iter().filter(|log| log.contains("filled")).count();
        let killed = logs.iter().any(|log| log.contains("Killed"))
            || pod["status"]["containerStatuses"].to_string().contains("OOMKilled");
        if killed && filled < 2 { Ok(()) } else { Err(format!("{logs:?} {}", pod["status"])) }
    });
    let pod = cluster.get(&["pod", "together"]);
    let ids = engine.docker(&["ps", "-aq", "--filter", "name=together"]);
    let first = ids.lines().next().expect("a container").to_owned();
    let parent = engine.docker(&["inspect", &first, "-f", "{{.HostConfig.CgroupParent}}"]);
    let uid = pod["metadata"]["uid"].as_str().expect("a uid").to_owned();
    assert!(parent.contains(&uid) || parent.contains(&uid.replace('-', "_")), "{parent}");
    let group = |files: [&str; 2]| {
        let found = files.iter().find_map(|file| std::fs::read_to_string(file.replace("GROUP", &parent)).ok());
        found.map(|text| text.trim().to_owned())
    };
    let memory = group(["/sys/fs/cgroup/memory/GROUP/memory.limit_in_bytes", "/sys/fs/cgroup/GROUP/memory.max"]);
    let cpu = group(["/sys/fs/cgroup/cpu/GROUP/cpu.cfs_quota_us", "/sys/fs/cgroup/GROUP/cpu.max"]);
    assert_eq!(memory.as_deref(), Some("67108864"));
    assert!(cpu.as_deref().is_some_and(|quota| quota.starts_with("50000")), "{cpu:?}");
    cluster.kubectl(&["delete", "pod", "together"]);
    eventually("its group to go", PATIENCE, || {
        let left = Path::new("/sys/fs/cgroup/memory").join(parent.trim_start_matches('/'));
        if left.exists() { Err(left) } else { Ok(()) }
    });
}

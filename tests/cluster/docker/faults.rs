//! What can go wrong with an engine and its images, and how pods come through it.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{Engine, WAITS, events, pod, ready, state};
use crate::harness::{Cluster, PATIENCE, both, eventually};
use crate::registry::Registry;

/// What the Node says of its engine.
fn health(cluster: &Cluster) -> String {
    let node = cluster.get(&["nodes"])["items"][0].clone();
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let told = conditions.into_iter().find(|one| one["type"] == "ContainerRuntimeUnhealthy").unwrap_or_default();
    format!("{} {} {}", told["status"], told["reason"], told["message"]).replace('"', "")
}

fn becomes(cluster: &Cluster, start: &str) -> String {
    eventually("the Node to tell of its engine", PATIENCE, || {
        let told = health(cluster);
        if told.starts_with(start) { Ok(told) } else { Err(told) }
    })
}

/// A pod that is asked every second whether it lives, and dies of the first no.
fn probed(name: &str) -> String {
    let liveness = json!({ "exec": { "command": ["/bin/true"] }, "periodSeconds": 1, "failureThreshold": 1 });
    pod(name, WAITS, json!({}), json!({ "livenessProbe": liveness }))
}

fn same_life(cluster: &Cluster, name: &str, before: &Value) {
    let status = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        (status["containerID"].clone(), status["restartCount"].clone())
    };
    assert_eq!(status(&cluster.get(&["pod", name])), status(before), "{}", events(cluster, name));
}

#[test]
fn an_engine_that_stands_still_is_told_of_and_nobody_is_killed_for_it() {
    let Some(engine) = Engine::start() else { return };
    let cluster = engine.cluster();
    cluster.apply(&probed("lives"));
    let before = ready(&cluster, "lives");
    becomes(&cluster, "False ContainerRuntimeIsHealthy");
    engine.signal(rustix::process::Signal::STOP);
    let told = becomes(&cluster, "True DockerUnhealthy");
    assert!(told.contains("does not answer within") && told.contains("cannot reach the Docker Engine"), "{told}");
    assert_eq!(ready_of_node(&cluster), "True", "modules run as before");
    // What is asked of it meanwhile waits, and comes.
    cluster.apply(&pod("late", WAITS, json!({}), json!({})));
    eventually("the question to be told as none", PATIENCE, || {
        let told = events(&cluster, "lives");
        if told.contains("Liveness probe errored") { Ok(()) } else { Err(told) }
    });
    engine.signal(rustix::process::Signal::CONT);
    becomes(&cluster, "False ContainerRuntimeIsHealthy");
    ready(&cluster, "late");
    same_life(&cluster, "lives", &before);
    let nodes = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.kind=Node"]);
    assert!(nodes.contains("DockerUnhealthy") && nodes.contains("ContainerRuntimeIsHealthy"), "{nodes}");
}

fn ready_of_node(cluster: &Cluster) -> String {
    cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].status.conditions[?(@.type=='Ready')].status}"])
}

#[test]
fn containers_that_an_engine_leaves_running_are_not_killed_while_it_is_away() {
    let Some(mut engine) = Engine::start_with(&["--live-restore"]) else { return };
    let cluster = engine.cluster();
    cluster.apply(&probed("lives"));
    let before = ready(&cluster, "lives");
    engine.end();
    becomes(&cluster, "True DockerUnhealthy");
    eventually("the question to be told as none", PATIENCE, || {
        let told = events(&cluster, "lives");
        if told.contains("Liveness probe errored") { Ok(()) } else { Err(told) }
    });
    engine.begin();
    becomes(&cluster, "False ContainerRuntimeIsHealthy");
    ready(&cluster, "lives");
    same_life(&cluster, "lives", &before);
    // It is watched as before.
    super::said(&cluster, "lives", &["/bin/kill", "1"]);
    state(&cluster, "lives", |state| state["restartCount"] == 1 && state["ready"] == true);
}

#[test]
fn a_full_disk_of_the_engine_is_told_and_pods_start_once_there_is_room() {
    let Some(engine) = Engine::start_on_tmpfs("24M") else { return };
    let cluster = engine.cluster();
    // The bridge is there: an engine that has half made one when its disk was full keeps it until it is restarted.
    cluster.apply(&pod("first", WAITS, json!({}), json!({})));
    ready(&cluster, "first");
    let filler = engine.dir.path().join("data/filler");
    fill(&filler);
    cluster.apply(&pod("waits", WAITS, json!({}), json!({})));
    let told = eventually("what is wrong to be told", PATIENCE, || {
        let told = events(&cluster, "waits");
        if told.contains("no space left on device") { Ok(told) } else { Err(told) }
    });
    assert!(told.contains("FailedCreatePodSandBox") || told.contains("Failed"), "{told}");
    assert_eq!(cluster.get(&["pod", "waits"])["status"]["phase"], "Pending");
    std::fs::remove_file(&filler).expect("removed");
    ready(&cluster, "waits");
}

/// Takes what room there is.
fn fill(file: &Path) {
    let output = Command::new("dd").arg("if=/dev/zero").arg(format!("of={}", file.display())).arg("bs=4k").output();
    let output = output.expect("dd runs");
    assert!(both(&output).contains("No space left"), "{}", both(&output));
}

/// A program of another machine: an ELF file of one that is not this one's.
fn foreign_program() -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "x86_64") { 183 } else { 62 };
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2_u16.to_le_bytes(), machine.to_le_bytes()].concat());
    elf.extend(1_u32.to_le_bytes());
    for word in [0x40_0078_u64, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend([1_u32.to_le_bytes(), 5_u32.to_le_bytes()].concat());
    for word in [0_u64, 0x40_0000, 0x40_0000, 0x80, 0x80, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.resize(0x80, 0);
    elf
}

#[test]
fn programs_that_cannot_be_run_end_as_kubernetes_users_know_it() {
    let Some(engine) = Engine::start() else { return };
    engine.import("odd:1", &[], |root| {
        std::fs::create_dir(root.join("bin")).expect("a directory");
        std::fs::write(root.join("bin/foreign"), foreign_program()).expect("written");
        std::fs::write(root.join("bin/plain"), "no program").expect("written");
        run_chmod(&root.join("bin/foreign"));
    });
    let cluster = engine.cluster();
    let never = json!({ "restartPolicy": "Never" });
    for (name, command) in [("foreign", "/bin/foreign"), ("plain", "/bin/plain"), ("absent", "/bin/absent")] {
        let container = json!({ "image": "odd:1", "command": [command] });
        cluster.apply(&pod(name, "", never.clone(), container));
    }
    for (name, code, reason, message) in [
        ("foreign", 1, "Error", ""),
        ("plain", 128, "StartError", "permission denied"),
        ("absent", 128, "StartError", "no such file or directory"),
    ] {
        let ended = state(&cluster, name, |state| state["state"]["terminated"].is_object());
        let ended = &ended["state"]["terminated"];
        assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(code), &json!(reason)), "{name}: {ended}");
        assert!(ended["message"].as_str().unwrap_or_default().contains(message), "{name}: {ended}");
    }
    assert!(cluster.kubectl(&["logs", "foreign"]).contains("exec format error"));
    let told = events(&cluster, "plain");
    assert!(told.contains("Failed") && told.contains("permission denied"), "{told}");
}

fn run_chmod(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).expect("made executable");
}

#[test]
fn an_image_for_other_machines_is_an_image_that_cannot_be_pulled() {
    let Some(engine) = Engine::start() else { return };
    let Some(registry) = Registry::start() else { return };
    registry.put_image_for("odd/machine", "s390x");
    let cluster = engine.cluster();
    cluster.apply(&pod("odd", "", json!({}), json!({ "image": registry.image("odd/machine:1") })));
    let waiting = state(&cluster, "odd", |state| state["state"]["waiting"]["reason"] == "ImagePullBackOff");
    let words = waiting["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(words.contains("no matching manifest for linux/"), "{words}");
    assert!(events(&cluster, "odd").contains("Error: ErrImagePull"));
}

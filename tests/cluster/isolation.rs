//! Pods in worker processes of their own.

use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Cluster, Load, Options, PATIENCE, eventually, kubectls, repository};
use crate::limits::{faults, served};

/// The worker processes of a node, with whose they are.
fn workers(cluster: &Cluster) -> Vec<(i32, String)> {
    let node = cluster.pid("node-1").to_string();
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let of = |entry: std::fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let read = |file: &str| std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/{file}"))).ok();
        let stat = read("stat")?;
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.to_owned();
        let command = read("cmdline")?;
        let mut arguments = command.split('\0').skip(1);
        let is_worker = arguments.next() == Some("guest-worker") && parent == node;
        is_worker.then(|| (pid, arguments.next().unwrap_or_default().to_owned()))
    };
    processes.filter_map(of).collect()
}

fn worker_of(cluster: &Cluster, whose: &str) -> i32 {
    eventually("the worker", PATIENCE, || {
        let all = workers(cluster);
        all.iter().find(|(_, of)| of.starts_with(whose)).map(|(pid, _)| *pid).ok_or(all)
    })
}

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("killed");
}

fn container(cluster: &Cluster, app: &str) -> Value {
    let pods = cluster.get(&["pods", "-l", &format!("app={app}")]);
    pods["items"][0]["status"]["containerStatuses"][0].clone()
}

/// How often the container of `app` was started again, once its last end says `words`.
fn ended_and_back(cluster: &Cluster, app: &str, code: i32, words: &str) -> u64 {
    eventually("the container to be back", PATIENCE, || {
        let status = container(cluster, app);
        let last = &status["lastState"]["terminated"];
        let told = last["exitCode"] == code && last["message"].as_str().unwrap_or_default().contains(words);
        let back = status["state"]["running"].is_object() && status["ready"] == true;
        (told && back).then(|| status["restartCount"].as_u64().unwrap_or(0)).ok_or(status)
    })
}

#[test]
fn a_worker_that_crashes_takes_its_own_pods_and_no_others_and_they_come_back() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with(Options::default());
    cluster.apply(&faults("hello", "", "").replace("faults:1", "hello:1"));
    cluster.apply(&faults("alone", "coracle.dev/isolation: pod", ""));
    cluster.apply(&faults("one", "coracle.dev/isolation: namespace", ""));
    cluster.apply(&faults("two", "coracle.dev/isolation: namespace", ""));
    for name in ["hello", "alone", "one", "two"] {
        served(&cluster, &format!("{name}.example"));
    }
    let (alone, shared) = (worker_of(&cluster, "pod/default/alone-"), worker_of(&cluster, "namespace/default"));
    assert_eq!(workers(&cluster).len(), 2, "one for the pod, one for the two of the namespace");

    let neighbour = Load::start(cluster.ingress, "hello.example", "/", 2);
    let other = Load::start(cluster.ingress, "one.example", "/", 1);
    let own = Load::start(cluster.ingress, "alone.example", "/", 1);
    kill(alone, Signal::KILL);
    assert_eq!(ended_and_back(&cluster, "alone", 137, "worker process was killed by signal 9 (SIGKILL)"), 1);
    served(&cluster, "alone.example");
    let alone = worker_of(&cluster, "pod/default/alone-");
    // One that hangs is as good as gone, and is made so.
    kill(alone, Signal::STOP);
    assert_eq!(ended_and_back(&cluster, "alone", 137, "stopped answering"), 2);
    served(&cluster, "alone.example");
    assert_ne!(worker_of(&cluster, "pod/default/alone-"), alone);
    let (done, failed) = other.stop();
    assert!(failed.is_empty() && done > 0, "{failed:?}");

    // A SIGSEGV from outside would be taken for a fault that comes again.
    kill(shared, Signal::ABORT);
    for name in ["one", "two"] {
        assert_eq!(ended_and_back(&cluster, name, 134, "signal 6 (SIGABRT)"), 1, "{name}");
        served(&cluster, &format!("{name}.example"));
    }
    let (done, failed) = neighbour.stop();
    assert!(failed.is_empty() && done > 0, "{failed:?}");
    let (done, _) = own.stop();
    assert!(done > 0);
    assert_eq!(container(&cluster, "hello")["restartCount"], 0);

    cluster.kubectl(&["delete", "deployments", "--all"]);
    eventually("the workers to end with their pods", PATIENCE, || {
        let left = workers(&cluster);
        left.is_empty().then_some(()).ok_or(left)
    });
}

#[test]
fn in_a_worker_all_is_as_ever() {
    if kubectls().is_empty() {
        return;
    }
    let cluster = Cluster::with_manifests(&["manifests/shop.yaml"]);
    let annotate = r#"{"spec":{"template":{"metadata":{"annotations":{"coracle.dev/isolation":"pod"}}}}}"#;
    for name in ["storefront", "cart", "payment"] {
        cluster.kubectl(&["-n", "shop", "patch", "deployment", name, "-p", annotate]);
        cluster.kubectl(&["-n", "shop", "rollout", "status", "deployment", name, "--timeout=60s"]);
    }
    // Each calls the next by its Service's name: out of one worker, through the node, into another.
    let page = eventually("the page", PATIENCE, || {
        let page = cluster.request_host("shop.example", "/");
        (page.status == 200).then_some(page.clone()).ok_or(page)
    });
    assert!(!page.body.is_empty());

    cluster.apply(&faults("limited", "coracle.dev/isolation: pod", "resources: {limits: {memory: 32Mi}}"));
    served(&cluster, "limited.example");
    assert_eq!(cluster.request_host("limited.example", "/oom").status, 502);
    eventually("the limit to be told", PATIENCE, || {
        let last = container(&cluster, "limited")["lastState"]["terminated"].clone();
        let told = last["reason"] == "OOMKilled" && last["message"].as_str().unwrap_or_default().contains("limit 32Mi");
        told.then_some(()).ok_or(last)
    });
    served(&cluster, "limited.example");
    assert_eq!(cluster.request_host("limited.example", "/trap").status, 502);
    eventually("the trap and the log", PATIENCE, || {
        let last = container(&cluster, "limited")["lastState"]["terminated"].clone();
        let log = cluster.kubectl(&["logs", "-l", "app=limited", "--previous"]);
        let told = last["exitCode"] == 134 && last["message"].as_str().unwrap_or_default().contains("wasm backtrace");
        (told && log.contains("trapped on request")).then_some(()).ok_or((last, log))
    });
    served(&cluster, "limited.example");
    assert_eq!(cluster.kubectl(&["exec", "deploy/limited", "--", "echo", "inside"]).trim(), "inside");
}

#[test]
fn a_program_in_a_worker_reads_its_input_and_its_files() {
    if kubectls().is_empty() {
        return;
    }
    let images = tempfile::tempdir().expect("a directory");
    // Says what it is told until that ends.
    let cat = r#"(module
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (i32.store (i32.const 0) (i32.const 64))
        (loop $more
          (i32.store (i32.const 4) (i32.const 1024))
          (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
          (if (i32.load (i32.const 8)) (then
            (i32.store (i32.const 4) (i32.load (i32.const 8)))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
            (br $more))))))"#;
    std::fs::write(images.path().join("parrot.wat"), cat).expect("written");
    let cluster = Cluster::with(Options { images: Some(images.path().to_owned()), ..Options::default() });
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: cat, annotations: {coracle.dev/isolation: pod}}\nspec:\n  restartPolicy: Never\n  \
         volumes: [{name: v, emptyDir: {}}]\n  containers:\n  - {name: c, image: parrot, stdin: true, stdinOnce: true, \
         volumeMounts: [{name: v, mountPath: /v}]}\n",
    );
    eventually("the pod to run", PATIENCE, || {
        let phase = cluster.get(&["pod", "cat"])["status"]["phase"].clone();
        (phase == "Running").then_some(()).ok_or(phase)
    });
    let mut command = std::process::Command::new(kubectls().into_iter().next().expect("a kubectl"));
    command
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .args(["exec", "-i", "cat", "--", "tar", "-xf", "-", "-C", "/v"]);
    command.env("HOME", cluster.dir.path()).current_dir(repository());
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    archive.append_data(&mut header, "note", &b"noted"[..]).expect("an archive");
    let bytes = archive.into_inner().expect("an archive");
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().expect("kubectl starts");
    std::io::Write::write_all(child.stdin.as_mut().expect("stdin"), &bytes).expect("written");
    drop(child.stdin.take());
    assert!(child.wait().expect("kubectl ends").success());
    assert_eq!(cluster.kubectl(&["exec", "cat", "--", "cat", "/v/note"]), "noted");

    let kubectl = kubectls().into_iter().next().expect("a kubectl");
    let output = cluster.with_kubectl(&kubectl, &["attach", "-i", "cat"], Some("said and heard\n"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("said and heard"), "{output:?}");
    eventually("the program to end with its input", PATIENCE, || {
        let pod = cluster.get(&["pod", "cat"]);
        (pod["status"]["phase"] == "Succeeded").then_some(()).ok_or(pod)
    });
    assert_eq!(cluster.kubectl(&["logs", "cat"]), "said and heard\n");
}

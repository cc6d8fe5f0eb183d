//! Streams between a client and a container, with kubectl as people use it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Cluster, Options, PATIENCE, both, eventually, http, kubectls, repository};

/// A command of the first WASI: by its argument's first letter it waits (`s`), copies its input to its
/// output (`c`), complains and fails with 3 (`x`), or says what it was called with.
const TOOL: &str = r#"(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 3000) "oops\n")
  (data (i32.const 3010) "up\n")
  (func $say (param $fd i32) (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $wait
    (i32.store8 (i32.const 40) (i32.const 0))
    (i32.store (i32.const 48) (i32.const 1))
    (i64.store (i32.const 56) (i64.const 1000000000))
    (loop $again
      (drop (call $poll (i32.const 32) (i32.const 96) (i32.const 1) (i32.const 128)))
      (br $again)))
  (func $copy
    (loop $again
      (i32.store (i32.const 0) (i32.const 4096))
      (i32.store (i32.const 4) (i32.const 4096))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (i32.load (i32.const 8))
        (then
          (call $say (i32.const 1) (i32.const 4096) (i32.load (i32.const 8)))
          (br $again)))))
  (func (export "_start") (local $letter i32)
    (drop (call $sizes (i32.const 16) (i32.const 20)))
    (drop (call $args (i32.const 256) (i32.const 512)))
    (if (i32.ge_u (i32.load (i32.const 16)) (i32.const 2))
      (then (local.set $letter (i32.load8_u (i32.load (i32.const 260))))))
    (if (i32.eq (local.get $letter) (i32.const 115))
      (then (call $say (i32.const 1) (i32.const 3010) (i32.const 3)) (call $wait)))
    (if (i32.eq (local.get $letter) (i32.const 99)) (then (call $copy) (return)))
    (if (i32.eq (local.get $letter) (i32.const 120))
      (then (call $say (i32.const 2) (i32.const 3000) (i32.const 5)) (call $exit (i32.const 3))))
    (call $say (i32.const 1) (i32.const 512) (i32.load (i32.const 20)))))
"#;

/// A command with a volume to write to and one to read, and a server of HTTP.
const PODS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: "blue\n"}
---
apiVersion: v1
kind: Pod
metadata: {name: tool, labels: {app: tool}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: tool:1
    args: [serve]
    env: [{name: COLOUR, value: blue}]
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: settings, mountPath: /etc/settings}
  volumes:
  - {name: data, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: hello:1
    ports: [{containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"#;

/// A cluster whose images are the above.
pub fn cluster() -> (Cluster, tempfile::TempDir) {
    let images = tempfile::tempdir().expect("a directory");
    for name in ["tool", "hello"] {
        fs::create_dir(images.path().join(name)).expect("a directory");
    }
    fs::write(images.path().join("tool/1.wat"), TOOL).expect("an image");
    fs::copy(repository().join("workloads/prebuilt/hello/1.wasm"), images.path().join("hello/1.wasm")).expect("a copy");
    let cluster = Cluster::with(Options { images: Some(images.path().to_owned()), ..Options::default() });
    (cluster, images)
}

pub fn with_pods() -> (Cluster, tempfile::TempDir) {
    let (cluster, images) = cluster();
    cluster.apply(PODS);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/tool", "pod/web", "--timeout=60s"]);
    (cluster, images)
}

/// Every kubectl there is to test with: the named ones and the machine's own, each as it comes, and as it
/// speaks SPDY alone, like those before 1.31.
pub struct Speakers {
    pub all: Vec<std::path::PathBuf>,
    _scripts: tempfile::TempDir,
}

pub fn speakers() -> Speakers {
    let mut all = kubectls();
    let own = std::path::PathBuf::from("/usr/bin/kubectl");
    if own.exists() && !all.is_empty() && !all.contains(&own) {
        all.push(own);
    }
    let scripts = tempfile::tempdir().expect("a directory");
    for at in 0..all.len() {
        let script = scripts.path().join(format!("kubectl-{at}-spdy"));
        let off = "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false KUBECTL_PORT_FORWARD_WEBSOCKETS=false";
        let text = format!("#!/bin/sh\n{off} exec {} \"$@\"\n", all[at].display());
        fs::write(&script, text).expect("a script");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a program");
        all.push(script);
    }
    Speakers { all, _scripts: scripts }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Exit code, standard output, standard error.
fn parts(output: &Output) -> (Option<i32>, String, String) {
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn exec_runs_tools_and_the_images_own_program() {
    if kubectls().is_empty() {
        return;
    }
    let (cluster, _images) = with_pods();
    let speakers = speakers();
    for kubectl in &speakers.all {
        let exec = |args: &[&str], input: Option<&str>| {
            let args: Vec<&str> = ["exec"].iter().chain(args).copied().collect();
            parts(&cluster.with_kubectl(kubectl, &args, input))
        };
        let ok = |out: &str| (Some(0), out.to_owned(), String::new());
        assert_eq!(exec(&["tool", "--", "ls", "/"], None), ok("data\netc\nvar\n"));
        assert_eq!(exec(&["tool", "-c", "main", "--", "cat", "/etc/settings/colour"], None), ok("blue\n"));
        assert!(exec(&["tool", "--", "env"], None).1.contains("COLOUR=blue\n"));
        assert_eq!(exec(&["-i", "tool", "--", "cat"], Some("from here\n")), ok("from here\n"));
        // The image's own program, by the image's name and by the container's.
        assert_eq!(exec(&["-i", "tool", "--", "tool", "copy"], Some("through the guest\n")), ok("through the guest\n"));
        assert_eq!(exec(&["tool", "--", "main", "one", "two"], None).1, "main\0one\0two\0");
        let failed = exec(&["tool", "--", "tool", "x"], None);
        assert_eq!((failed.0, failed.1.as_str()), (Some(3), ""));
        assert!(failed.2.starts_with("oops\n") && failed.2.contains("exit code 3"), "{}", failed.2);
        // What cannot be done is explained.
        let shell = exec(&["tool", "--", "sh", "-c", "ls"], None);
        assert!(shell.0 == Some(127) && shell.2.contains("has no shell") && shell.2.contains("tar"), "{shell:?}");
        let unknown = exec(&["web", "--", "vim"], None);
        assert!(unknown.0 == Some(127) && unknown.2.contains("vim: not found"), "{unknown:?}");
        let outside = exec(&["tool", "--", "cat", "/etc/passwd"], None);
        assert!(outside.0 == Some(1) && outside.2.contains("this container sees /data"), "{outside:?}");
        // An HTTP pod has the tools and its own way out.
        let page = exec(&["web", "--", "wget", "-qO-", "http://web/"], None);
        assert!(page.0 == Some(0) && page.1.contains("Hello from web"), "{page:?}");
        let missing = exec(&["tool", "-c", "none", "--", "ls"], None);
        assert!(missing.0 == Some(1) && missing.2.contains("container none is not valid for pod tool"), "{missing:?}");
        let none = exec(&["nobody", "--", "ls"], None);
        assert!(none.0 == Some(1) && none.2.contains("\"nobody\" not found"), "{none:?}");
    }
}

#[test]
fn exec_carries_much_and_many() {
    if kubectls().is_empty() {
        return;
    }
    let (cluster, _images) = with_pods();
    let speakers = speakers();
    let much: String = (0..200_000).map(|n| format!("line {n}\n")).collect();
    for kubectl in &speakers.all {
        for command in [&["cat"][..], &["tool", "copy"]] {
            let args: Vec<&str> = ["exec", "-i", "tool", "--"].iter().chain(command).copied().collect();
            let output = cluster.with_kubectl(kubectl, &args, Some(&much));
            assert!(
                output.status.success() && output.stdout == much.as_bytes(),
                "{} {command:?}: {} bytes, {}",
                kubectl.display(),
                output.stdout.len(),
                text(&output.stderr)
            );
        }
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let output = cluster.with_kubectl(kubectl, &["exec", "tool", "--", "echo", "here"], None);
                    assert_eq!(parts(&output), (Some(0), "here\n".to_owned(), String::new()));
                });
            }
        });
    }
    let kubectl = kubectls().remove(0);
    // A client that goes away takes its command with it, and the pod's end those that are left.
    let mut left = Command::new(&kubectl);
    left.arg("--kubeconfig").arg(cluster.kubeconfig()).args(["exec", "tool", "--", "sleep", "600"]);
    let mut left = left.stderr(std::process::Stdio::piped()).spawn().expect("kubectl starts");
    assert_eq!(cluster.kubectl(&["exec", "tool", "--", "true"]), "");
    cluster.kubectl(&["delete", "pod", "tool"]);
    let code =
        eventually("the command's end with its pod", PATIENCE, || left.try_wait().ok().flatten().ok_or("it runs"));
    assert!(!code.success());
}

#[test]
fn cp_copies_trees_both_ways() {
    if kubectls().is_empty() {
        return;
    }
    let (cluster, _images) = with_pods();
    let speakers = speakers();
    for kubectl in &speakers.all {
        let here = tempfile::tempdir().expect("a directory");
        let tree = here.path().join("tree");
        fs::create_dir_all(tree.join("deep/er")).expect("directories");
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        fs::write(tree.join("deep/big"), &bytes).expect("a file");
        fs::write(tree.join("deep/er/small"), "small").expect("a file");
        let cp = |from: &str, to: &str| {
            let output = cluster.with_kubectl(kubectl, &["cp", from, to], None);
            assert!(output.status.success(), "cp {from} {to}: {}", both(&output));
        };
        let local = |name: &str| here.path().join(name).to_string_lossy().into_owned();
        cp(&local("tree"), "tool:/data/");
        cp("tool:/data/tree", &local("back"));
        assert_eq!(fs::read(here.path().join("back/deep/big")).expect("a file"), bytes);
        assert_eq!(fs::read_to_string(here.path().join("back/deep/er/small")).expect("a file"), "small");
        cp(&local("tree/deep/er/small"), "tool:/data/renamed");
        assert_eq!(cluster.kubectl(&["exec", "tool", "--", "cat", "/data/renamed"]), "small");
        cp("default/tool:/etc/settings/colour", &local("colour"));
        assert_eq!(fs::read_to_string(here.path().join("colour")).expect("a file"), "blue\n");
        let refused = cluster.with_kubectl(kubectl, &["cp", &local("colour"), "tool:/etc/settings/other"], None);
        assert!(!refused.status.success() && both(&refused).contains("Read-only file system"), "{}", both(&refused));
    }
}

#[test]
fn exec_probes_and_hooks_run_in_the_pods_sandbox() {
    if kubectls().is_empty() {
        return;
    }
    let (cluster, _images) = with_pods();
    cluster.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: main
    image: tool:1
    args: [serve]
    lifecycle:
      postStart: {exec: {command: [wget, -O, /data/started, "http://web/"]}}
      preStop: {exec: {command: [test, -f, /data/none]}}
    readinessProbe: {periodSeconds: 1, exec: {command: [cat, /data/ready]}}
    livenessProbe: {periodSeconds: 1, exec: {command: [tool, again]}}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: sick}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: tool:1
    args: [serve]
    livenessProbe: {periodSeconds: 1, failureThreshold: 1, exec: {command: [tool, x]}}
"#,
    );
    let event = |pod: &str, words: &str| {
        eventually("the event", PATIENCE, || {
            let selector = format!("involvedObject.name={pod}");
            let text = cluster.kubectl(&["get", "events", "--field-selector", &selector, "-o", "wide"]);
            if text.contains(words) { Ok(()) } else { Err(text) }
        });
    };
    event("probed", "cat: /data/ready: No such file or directory");
    assert!(cluster.kubectl(&["exec", "probed", "--", "cat", "/data/started"]).contains("Hello from web"));
    let here = tempfile::tempdir().expect("a directory");
    let ready = here.path().join("ready");
    fs::write(&ready, "yes").expect("a file");
    cluster.kubectl(&["cp", &ready.to_string_lossy(), "probed:/data/ready"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/probed", "--timeout=60s"]);
    event("sick", "oops");
    eventually("the restart", PATIENCE, || {
        let pod = cluster.get(&["pod", "sick"]);
        let count = pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
        if count > Some(0) { Ok(()) } else { Err(count) }
    });
    assert_eq!(cluster.get(&["pod", "probed"])["status"]["containerStatuses"][0]["restartCount"], 0);
    cluster.kubectl(&["delete", "pod", "probed"]);
    event("probed", "PreStopHook failed");
}

/// A kubectl that runs on, and what it says: it ends when that is read by nobody, or with the test.
pub struct Running(pub Child, #[allow(dead_code)] pub BufReader<ChildStdout>);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `kubectl port-forward WHAT :PORT`, and where it listens.
pub fn forward(cluster: &Cluster, kubectl: &Path, what: &str, port: u16) -> (Running, SocketAddr) {
    let mut command = Command::new(kubectl);
    command.arg("--kubeconfig").arg(cluster.kubeconfig()).args(["port-forward", what, &format!(":{port}")]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl starts");
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().expect("stdout"));
    output.read_line(&mut line).expect("a line");
    let address = line.split(' ').nth(2).and_then(|address| address.parse().ok());
    let address = address.unwrap_or_else(|| {
        let mut errors = String::new();
        let _ = child.kill();
        let _ = child.stderr.take().expect("stderr").read_to_string(&mut errors);
        panic!("kubectl port-forward {what}: {line:?} {errors}")
    });
    (Running(child, output), address)
}

#[test]
fn port_forward_reaches_pods_in_memory_and_by_socket() {
    if kubectls().is_empty() {
        return;
    }
    let (cluster, _images) = with_pods();
    let ip = cluster.get(&["pod", "tool"])["status"]["podIP"].as_str().expect("an address").to_owned();
    // A server of TCP at the pod's address: it says everything back once all has come.
    let socket = TcpListener::bind(format!("{ip}:9000")).expect("the pod's address");
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            let mut stream = stream.expect("a connection");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("read");
            stream.write_all(&bytes).expect("written");
        }
    });
    // A server that never stops talking; it says when a client has gone.
    let endless = TcpListener::bind(format!("{ip}:9002")).expect("the pod's address");
    let (gone, left) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in endless.incoming() {
            let mut stream = stream.expect("a connection");
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
            gone.send(()).expect("the test");
        }
    });
    let speakers = speakers();
    for kubectl in &speakers.all {
        for what in ["pod/web", "service/web"] {
            let port = if what == "pod/web" { 8080 } else { 80 };
            let (_running, address) = forward(&cluster, kubectl, what, port);
            std::thread::scope(|scope| {
                for number in 0..8 {
                    scope.spawn(move || {
                        let answer = http(address, "web.example", &format!("/{number}")).expect("an answer");
                        assert!(answer.status == 200 && answer.body.contains("Hello from web"), "{answer:?}");
                    });
                }
            });
        }
        let (_running, address) = forward(&cluster, kubectl, "pod/tool", 9000);
        for size in [5, 3_000_000] {
            let sent: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
            let mut stream = TcpStream::connect(address).expect("a connection");
            stream.write_all(&sent).expect("written");
            stream.shutdown(Shutdown::Write).expect("half closed");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("read");
            assert!(bytes == sent, "{} of {size} bytes", bytes.len());
        }
        let (running, address) = forward(&cluster, kubectl, "pod/tool", 9002);
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.read_exact(&mut [0; 10_000]).expect("read");
        // A client that closes first tells SPDY only of the end of its input; what goes on ends with kubectl.
        drop((stream, running));
        left.recv_timeout(PATIENCE).expect("the server to see that its client has gone");
        // Nobody listens: the connection ends, and kubectl says why.
        let (mut running, address) = forward(&cluster, kubectl, "pod/tool", 9001);
        let mut stream = TcpStream::connect(address).expect("a connection");
        let _ = stream.write_all(b"anybody?");
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        assert_eq!(bytes, b"");
        let mut errors = BufReader::new(running.0.stderr.take().expect("stderr"));
        let mut line = String::new();
        errors.read_line(&mut line).expect("a line");
        assert!(line.contains("error forwarding port 9001 to pod default/tool") && line.contains("refused"), "{line}");
    }
}

/// kube-rs speaks the other protocols: raw channels for ports, and exec with input that is closed.
#[test]
fn other_clients_stream_too() {
    if kubectls().is_empty() {
        return;
    }
    let (cluster, _images) = with_pods();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let config = kube::config::Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await.expect("a config");
        let pods: Api<Pod> = Api::namespaced(kube::Client::try_from(config).expect("a client"), "default");

        let mut forwarder = pods.portforward("web", &[8080]).await.expect("a port-forward");
        let mut stream = forwarder.take_stream(8080).expect("a stream");
        stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Hello from web"), "{answer}");

        let mut refused = pods.portforward("tool", &[9001]).await.expect("a port-forward");
        let error = refused.take_error(9001).expect("errors").await;
        assert!(error.as_ref().is_some_and(|why| why.contains("refused")), "{error:?}");

        let params = AttachParams::default().stdin(true).stderr(false);
        let mut exec = pods.exec("tool", ["tool", "copy"], &params).await.expect("an exec");
        let (mut input, mut output) = (exec.stdin().expect("stdin"), exec.stdout().expect("stdout"));
        input.write_all(b"to the guest and back").await.expect("written");
        input.shutdown().await.expect("closed");
        drop(input);
        let mut text = String::new();
        output.read_to_string(&mut text).await.expect("read");
        assert_eq!(text, "to the guest and back");
        let status = exec.take_status().expect("a status").await.expect("the end");
        assert_eq!(status.status.as_deref(), Some("Success"));
    });
}

#[test]
fn attach_shows_what_is_said_and_types_what_is_typed() {
    if kubectls().is_empty() {
        return;
    }
    let (cluster, _images) = cluster();
    let speakers = speakers();
    for (number, kubectl) in speakers.all.iter().enumerate() {
        let pod = format!("talk-{number}");
        cluster.apply(&format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {pod}}}
spec:
  restartPolicy: Never
  containers:
  - {{name: main, image: "tool:1", args: [copy], stdin: true, stdinOnce: true}}
"#
        ));
        cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"]);
        let attached = cluster.with_kubectl(kubectl, &["attach", "-i", &pod], Some("one\ntwo\n"));
        assert_eq!(
            (attached.status.code(), text(&attached.stdout).as_str()),
            (Some(0), "one\ntwo\n"),
            "{}",
            both(&attached)
        );
        // Its input has ended with its first client, and so has the program.
        cluster.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", &format!("pod/{pod}"), "--timeout=60s"]);
        assert_eq!(cluster.kubectl(&["logs", &pod]), "one\ntwo\n");
        let over = cluster.with_kubectl(kubectl, &["exec", &pod, "--", "ls"], None);
        assert!(both(&over).contains("completed pod; current phase is Succeeded"), "{}", both(&over));
        let run = ["run", "once", "--image=tool:1", "--restart=Never", "-i", "--rm", "--", "copy"];
        let run = cluster.with_kubectl(kubectl, &run, Some("through a pod of its own\n"));
        assert!(text(&run.stdout).starts_with("through a pod of its own\n"), "{}", both(&run));
    }
}

#[test]
fn a_containers_last_words_are_its_file_or_the_end_of_its_log() {
    if kubectls().is_empty() {
        return;
    }
    let (cluster, _images) = with_pods();
    cluster.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: failing}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: "tool:1", args: [x], terminationMessagePolicy: FallbackToLogsOnError}
---
apiVersion: v1
kind: Pod
metadata: {name: parting}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: tool:1
    args: [serve]
    terminationMessagePath: /run/said
    terminationMessagePolicy: FallbackToLogsOnError
    lifecycle: {postStart: {exec: {command: [wget, -O, /run/said, "http://web/"]}}}
    livenessProbe: {periodSeconds: 1, failureThreshold: 1, exec: {command: [test, -f, /run/none]}}
"#,
    );
    let message = |pod: &str, state: &str| {
        eventually("the message", PATIENCE, || {
            let status = cluster.get(&["pod", pod])["status"]["containerStatuses"][0].clone();
            status[state]["terminated"]["message"].as_str().map(ToOwned::to_owned).ok_or(status)
        })
    };
    assert!(message("failing", "state").starts_with("oops"));
    assert!(message("parting", "lastState").contains("Hello from web"));
}

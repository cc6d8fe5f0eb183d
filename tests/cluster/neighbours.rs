//! Guests that do their worst beside one that serves.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::harness::{Cluster, Load, Options, PATIENCE, eventually, http, kubectls, repository};
use crate::limits::{faults, served};

/// Loops for ever.
const SPIN: &str = r#"(module (func (export "_start") (loop br 0)) (memory (export "memory") 1))"#;
/// Grows a table until it is ended.
const TABLES: &str = r#"(module (table $t 1 funcref) (memory (export "memory") 1)
  (func (export "_start") (loop (drop (table.grow $t (ref.null func) (i32.const 1000))) (br 0))))"#;
/// Writes lines for ever, a hundred at a time: so it floods the log with whatever share of a core it gets.
const LOGS: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\e4\0c\00\00")
  (data (i32.const 16) "a line of a flood of lines......\n")
  (func (export "_start") (local $at i32)
    (local.set $at (i32.const 49))
    (loop $more
      (memory.copy (local.get $at) (i32.const 16) (i32.const 33))
      (local.set $at (i32.add (local.get $at) (i32.const 33)))
      (br_if $more (i32.lt_u (local.get $at) (i32.const 3316))))
    (loop (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br 0))))"#;

/// Opens a file again and again and closes none; ends well if two thousand can be held.
const HANDLES: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "file")
  (func (export "_start") (local $held i32)
    (loop $more
      (if (i32.eqz (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 4) (i32.const 1)
          (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 0)))
        (then
          (local.set $held (i32.add (local.get $held) (i32.const 1)))
          (if (i32.gt_u (local.get $held) (i32.const 2000)) (then (return)))))
      (br $more))))"#;

/// How often each hostile path is asked for.
const ROUNDS: usize = 12;

fn pod(name: &str, memory: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - {{name: c, image: {name}, \
         resources: {{limits: {{memory: {memory}}}}}, volumeMounts: [{{name: v, mountPath: /v}}]}}\n  volumes: [{{name: v, \
         emptyDir: {{}}}}]\n"
    )
}

fn images() -> tempfile::TempDir {
    let images = tempfile::tempdir().expect("a directory");
    for (name, text) in [("spin", SPIN), ("tables", TABLES), ("logs", LOGS), ("handles", HANDLES)] {
        std::fs::write(images.path().join(format!("{name}.wat")), text).expect("written");
    }
    for name in ["hello", "faults"] {
        std::fs::create_dir(images.path().join(name)).expect("a directory");
        let prebuilt = repository().join(format!("workloads/prebuilt/{name}/1.wasm"));
        std::fs::copy(prebuilt, images.path().join(name).join("1.wasm")).expect("copied");
    }
    images
}

/// A request whose body never ends, and one whose head is far too long.
fn hostile_clients(ingress: SocketAddr) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..ROUNDS {
        let mut slow = TcpStream::connect(ingress).expect("a connection");
        let _ = slow.write_all(b"POST /echo HTTP/1.1\r\nHost: hello.example\r\nContent-Length: 1000000\r\n\r\nbit");
        held.push(slow);
        let mut long = TcpStream::connect(ingress).expect("a connection");
        let _ = long.write_all(
            format!("GET / HTTP/1.1\r\nHost: hello.example\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)).as_bytes(),
        );
        held.push(long);
    }
    held
}

#[test]
fn nine_hostile_guests_fail_no_request_of_their_neighbour() {
    if kubectls().is_empty() {
        return;
    }
    let images = images();
    let cluster = Cluster::with(Options { images: Some(images.path().to_owned()), ..Options::default() });
    let hello = faults("hello", "", "").replace("faults:1", "hello:1");
    cluster.apply(&hello);
    served(&cluster, "hello.example");
    const HOSTILE: [(&str, &str, &str); 5] = [
        ("loop", "loop.example", "/loop"),
        ("oom", "oom.example", "/oom"),
        ("recurse", "recurse.example", "/recurse"),
        ("flood", "flood.example", "/flood"),
        ("trap", "trap.example", "/trap"),
    ];
    for (name, host, _) in HOSTILE {
        cluster.apply(&faults(name, "coracle.dev/request-timeout: 1s", "resources: {limits: {memory: 32Mi}}"));
        served(&cluster, host);
    }
    // The host bounds each table by itself; this limit is met before that.
    for (name, memory) in [("spin", "16Mi"), ("tables", "192Ki"), ("logs", "16Mi"), ("handles", "16Mi")] {
        cluster.apply(&pod(name, memory));
    }
    eventually("the commands to run", PATIENCE, || {
        let pods = cluster.kubectl(&["get", "pods"]);
        let oom = cluster.get(&["pod", "tables"])["status"]["containerStatuses"][0]["restartCount"].as_u64();
        (oom > Some(0)).then_some(()).ok_or((pods, oom))
    });

    let ingress = cluster.ingress;
    let load = Load::start(ingress, "hello.example", "/", 2);
    let _held = hostile_clients(ingress);
    let attacks: Vec<_> = HOSTILE
        .iter()
        .map(|(_, host, path)| thread::spawn(move || (0..ROUNDS).filter(|_| http(ingress, host, path).is_ok()).count()))
        .collect();
    let made: usize = attacks.into_iter().map(|attack| attack.join().expect("a thread")).sum();
    let (done, failed) = load.stop();
    assert_eq!(made, HOSTILE.len() * ROUNDS, "every attack got an answer of some kind");
    assert!(
        failed.is_empty(),
        "{} of {} requests failed, e.g. {:?}",
        failed.len(),
        done + failed.len(),
        failed.first()
    );
    assert!(done > ROUNDS, "only {done} requests were made");

    let handles = cluster.get(&["pod", "handles"])["status"]["containerStatuses"][0]["lastState"].clone();
    let message = handles["terminated"]["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("resource table has no free keys"), "it holds as many as it wants: {handles}");
    eventually("the flood to be told", Duration::from_secs(30), || {
        let log = cluster.kubectl(&["logs", "logs", "--tail=30000"]);
        let told = log.contains("bytes of output in") && log.contains("lines were dropped here]");
        told.then_some(()).ok_or(log.len())
    });
}

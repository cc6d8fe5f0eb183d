//! Programs that run by themselves.

use super::*;

#[tokio::test]
async fn commands_run_to_their_exit_code() {
    let bench = Bench::prebuilt("job").await.args(&["job", "100", "0"]);
    let exit = exit_of(&bench.start().await).await;
    assert_eq!((exit.code, exit.reason), (0, "Completed"));
    assert_eq!(bench.output.text(), "25 primes below 100\n");

    let bench = Bench::prebuilt("job").await.args(&["job", "100", "7"]);
    let exit = exit_of(&bench.start().await).await;
    assert_eq!(exit.reason, "Error");
    assert_ne!(exit.code, 0);
    assert!(bench.output.text().contains("E:ending with exit code 7, as asked\n"), "{}", bench.output.text());
}

#[tokio::test]
async fn core_modules_run_and_are_interrupted() {
    let bench = Bench::prebuilt("worker").await.args(&["worker", "1", "3"]);
    let container = bench.start().await;
    assert!(container.http().is_none());
    assert_eq!(exit_of(&container).await.code, 0);
    assert_eq!(bench.output.text(), "tick 1\ntick 2\ntick 3\n");

    for (grace, code) in [(Duration::from_secs(30), 143), (Duration::ZERO, 137)] {
        let bench = Bench::prebuilt("worker").await.args(&["worker", "10"]);
        let container = bench.start().await;
        until("it ticks", || !bench.output.text().is_empty()).await;
        assert_eq!(container.usage().instances, 1);
        assert!(container.usage().memory_bytes > 0);
        container.stop(grace).await;
        assert_eq!(exit_of(&container).await.code, code);
        until("its memory is free", || container.usage().memory_bytes == 0).await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_looping_command_yields_and_can_be_stopped() {
    let bench = Bench::wat(r#"(module (func (export "_start") (loop br 0)))"#).await;
    let container = bench.start().await;
    until("it runs", || container.usage().cpu > Duration::from_millis(5)).await;
    container.stop(Duration::ZERO).await;
    assert_eq!(exit_of(&container).await.code, 137);
}

#[tokio::test]
async fn removing_the_pod_ends_what_runs_in_it() {
    let mut bench = Bench::wat(r#"(module (func (export "_start") (loop br 0)))"#).await;
    let container = bench.start().await;
    bench.sandbox = HOST.sandbox(pod(None)).await.unwrap();
    assert_eq!(exit_of(&container).await.message, "the pod was removed");
}

#[tokio::test]
async fn traps_and_stack_overflow_of_commands_are_told() {
    let cases = [
        (r#"(module (func $boom unreachable) (func (export "_start") call $boom))"#, "boom"),
        (r#"(module (func $deep (export "_start") call $deep))"#, "call stack exhausted"),
        (r#"(module (func (export "_start") (drop (i32.div_s (i32.const 1) (i32.const 0)))))"#, "divide by zero"),
    ];
    for (wat, part) in cases {
        let bench = Bench::wat(wat).await;
        let exit = exit_of(&bench.start().await).await;
        assert_eq!(exit.code, 134);
        assert!(exit.message.contains(part), "{part}: {}", exit.message);
    }
}

/// What comes back of a line sent to the pod's port.
async fn echoed(port: u16) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.64.0.9", port)).await?;
    stream.write_all(b"hello").await?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn a_server_listens_on_its_pods_address_until_it_is_stopped() {
    for (family, port) in [("4", 7104), ("6", 7106)] {
        let mut bench = Bench::prebuilt("echo").await.args(&["echo", &port.to_string()]);
        bench.spec.env.push(("ECHO_FAMILY".to_owned(), family.to_owned()));
        // A second life finds the port free.
        for _ in 0..2 {
            let container = bench.start().await;
            until("it listens", || bench.output.text().contains("listening on") || !running(&container)).await;
            assert_eq!(echoed(port).await.unwrap(), "hello", "{}", bench.output.text());
            assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err());
            container.stop(Duration::ZERO).await;
            assert!(echoed(port).await.is_err(), "its sockets are closed when it has exited");
            let seen = if family == "4" { "connected: 127." } else { "connected: [::ffff:127." };
            let text = std::mem::take(&mut *bench.output.0.lock().unwrap());
            assert!(text.contains(seen), "{text}");
        }
    }
}

#[tokio::test]
async fn a_guest_connects_nowhere_without_the_nodes_leave() {
    let bench = Bench::prebuilt("echo").await.args(&["echo", "127.0.0.1", "22"]);
    let exit = exit_of(&bench.start().await).await;
    assert_eq!(exit.code, 1);
    let said = bench.output.text().to_lowercase();
    assert!(said.contains("e:echo: access") && said.contains("denied"), "{said}");
}

#[tokio::test]
async fn a_reactor_is_initialised_and_asked_what_the_command_names() {
    let wat = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\10\00\00\00\05\00\00\00\18\00\00\00\05\00\00\00")
        (data (i32.const 16) "init\n   tick\n")
        (func (export "_initialize") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64))))
        (func (export "tick") (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 64))))
        (func (export "takes") (param i32) unreachable))"#;
    for (command, printed) in
        [("tick", "init\ntick\n"), ("main", "init\n"), ("takes", "init\n"), ("_initialize", "init\n")]
    {
        let bench = Bench::wat(wat).await.args(&[command]);
        let exit = exit_of(&bench.start().await).await;
        assert_eq!((exit.code, bench.output.text().as_str()), (0, printed), "{command}");
    }
}

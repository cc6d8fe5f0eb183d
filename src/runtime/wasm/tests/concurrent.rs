//! Programs of WASI 0.3: `wasi:http/handler`, and `wasi:cli/run` of the same version.

use super::*;

fn post(path: &str, chunks: &[&'static str]) -> Request<HttpBody> {
    let frames = chunks.iter().map(|chunk| Ok(http_body::Frame::data(Bytes::from_static(chunk.as_bytes()))));
    let frames: Vec<Result<_, crate::wire::BoxError>> = frames.collect();
    let body = http_body_util::StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
    Request::post(format!("http://test{path}")).body(body).unwrap()
}

#[tokio::test]
async fn a_handler_answers_with_an_instance_each() {
    let bench = Bench::prebuilt("relay").await;
    let (container, http) = bench.start_http().await;
    for _ in 0..2 {
        assert_eq!(text(http.call(get("/")).await.unwrap()).await, "Hello from WASI 0.3 at pod-1\n");
    }
    let usage = container.usage();
    assert_eq!((usage.calls, usage.instances, usage.memory_bytes), (2, 0, 0), "nothing is left of a call");
    assert!(usage.cpu > Duration::ZERO);
    container.stop(Duration::from_secs(5)).await;
    assert_eq!(exit_of(&container).await.reason, "Completed");
}

#[tokio::test]
async fn bodies_flow_both_ways() {
    let bench = Bench::prebuilt("relay").await;
    let (container, http) = bench.start_http().await;
    let chunks = ["one ", "two ", "three"];
    assert_eq!(text(http.call(post("/upper", &chunks)).await.unwrap()).await, "ONE TWO THREE");
    assert_eq!(text(http.call(post("/back", &chunks)).await.unwrap()).await, "one two three");
    assert_eq!(text(http.call(get("/ticks/3")).await.unwrap()).await, "tick 1\ntick 2\ntick 3\n");
    until("no instance is left", || container.usage().instances == 0).await;
}

#[tokio::test]
async fn a_body_that_is_passed_back_outlives_its_guest_and_holds_the_container() {
    let bench = Bench::prebuilt("relay").await;
    let (container, http) = bench.start_http().await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let stream = futures::stream::unfold(receiver, |mut receiver| async {
        Some((Ok::<_, crate::wire::BoxError>(http_body::Frame::data(receiver.recv().await?)), receiver))
    });
    let body = http_body_util::StreamBody::new(stream).boxed_unsync();
    let response = http.call(Request::post("http://test/back").body(body).unwrap()).await.unwrap();
    assert_eq!(container.usage().instances, 0, "the guest has ended");
    let stopped = tokio::spawn({
        let container = container.clone();
        async move { container.stop(PATIENCE).await }
    });
    let read = tokio::spawn(text(response));
    for part in ["still ", "here"] {
        sender.send(Bytes::from_static(part.as_bytes())).await.unwrap();
    }
    assert!(running(&container), "its answer is not over");
    drop(sender);
    assert_eq!(read.await.unwrap(), "still here");
    stopped.await.unwrap();
    assert_eq!(exit_of(&container).await.code, 0);
}

#[tokio::test]
async fn a_guest_waits_for_several_calls_at_a_time_and_goes_on_after_its_answer() {
    let bench = Bench::prebuilt("relay").await;
    let (container, http) = bench.start_http().await;
    let both = text(http.call(get("/both/cart/payment")).await.unwrap()).await;
    assert_eq!(both, "pod-1 asked GET http://cart/pod-1 asked GET http://payment/");
    assert!(
        matches!(http.call(get("/both/nowhere/cart")).await, Err(CallError::Failed(why)) if why.contains("DnsError"))
    );
    assert_eq!(text(http.call(get("/late")).await.unwrap()).await, "at once\n");
    until("the rest of its work", || bench.output.text() == "done with what was left\n").await;
    until("its end", || container.usage().instances == 0).await;
    assert!(running(&container));
}

/// Every host is one container of this node.
struct Near(std::sync::OnceLock<Arc<dyn HttpService>>);

#[async_trait::async_trait]
impl Outbound for Near {
    async fn send(
        &self,
        _: &Caller,
        request: Request<HttpBody>,
        _: CallTimeouts,
    ) -> Result<Response<HttpBody>, OutboundError> {
        let near = self.0.get().expect("it has started");
        near.call(request).await.map_err(|error| OutboundError::Failed(error.to_string()))
    }
}

#[tokio::test]
async fn guests_of_wasi_3_call_each_other_on_one_node() {
    let near = Arc::new(Near(std::sync::OnceLock::new()));
    let mut bench = Bench::prebuilt("relay").await;
    bench.sandbox = HOST.sandbox(SandboxSpec { outbound: near.clone(), ..pod(None) }).await.unwrap();
    let (container, http) = bench.start_http().await;
    assert!(near.0.set(http.clone()).is_ok());
    let both = text(http.call(get("/both/one/two")).await.unwrap()).await;
    assert_eq!(both, "Hello from WASI 0.3 at pod-1\n".repeat(2));
    until("no instance is left", || container.usage().instances == 0).await;
    assert!(running(&container));
}

#[tokio::test]
async fn limits_hold_for_handlers_of_wasi_3_too() {
    let mut bench = Bench::prebuilt("relay").await;
    bench.spec.memory_limit = Some(16 << 20);
    bench.spec.instances.request_timeout = Duration::from_millis(400);
    let (container, http) = bench.start_http().await;
    let spinning = tokio::spawn({
        let http = http.clone();
        async move { http.call(get("/spin")).await.map(|response| response.status()) }
    });
    until("the loop runs", || container.usage().instances == 1).await;
    assert_eq!(text(http.call(get("/")).await.unwrap()).await, "Hello from WASI 0.3 at pod-1\n", "nobody starves");
    assert!(matches!(spinning.await.unwrap(), Err(CallError::Timeout(_))));
    let failed = http.call(get("/hog")).await.unwrap_err();
    assert!(matches!(&failed, CallError::Failed(why) if why.contains("limit 16Mi")), "{failed}");
    assert_eq!(exit_of(&container).await.reason, "OOMKilled");

    bench.spec.cpu_limit_millis = Some(100);
    bench.spec.instances.request_timeout = PATIENCE;
    let (container, http) = bench.start_http().await;
    let spinning = tokio::spawn(async move { http.call(get("/spin")).await.map(|response| response.status()) });
    until("it is held back", || container.usage().throttled > Duration::ZERO).await;
    container.stop(Duration::ZERO).await;
    assert!(matches!(spinning.await.unwrap(), Err(CallError::Failed(_))));

    let (container, http) = bench.start_http().await;
    assert!(matches!(http.call(get("/trap")).await, Err(CallError::Failed(_))));
    assert_eq!(exit_of(&container).await.code, 134);
}

#[tokio::test]
async fn sockets_of_wasi_3_are_the_pods() {
    let bench = Bench::prebuilt("relay").await;
    let (_container, http) = bench.start_http().await;
    for (path, answer) in [
        ("/bind/0.0.0.0", "tcp 127.64.0.9, udp 127.64.0.9\n"),
        ("/bind/127.64.0.9", "tcp 127.64.0.9, udp 127.64.0.9\n"),
        ("/bind/127.0.0.1", "tcp ErrorCode::AccessDenied, udp ErrorCode::AccessDenied\n"),
        ("/line/127.64.0.8/80", "ErrorCode::AccessDenied\n"),
        ("/line/nowhere/80", "ErrorCode::NameUnresolvable\n"),
    ] {
        assert_eq!(text(http.call(get(path)).await.unwrap()).await, answer, "{path}");
    }
}

#[tokio::test]
async fn a_program_of_wasi_3_is_a_server_on_sockets() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let bench = Bench::prebuilt("herald").await.args(&["herald", "listen", "0"]);
    let container = bench.start().await;
    until("it listens", || bench.output.text().contains('\n')).await;
    let port: u16 = bench.output.text().trim().rsplit(' ').next().unwrap().parse().unwrap();
    let connect = || tokio::net::TcpStream::connect(("127.64.0.9", port));
    let (mut one, mut two) = (connect().await.unwrap(), connect().await.unwrap());
    for (stream, line) in [(&mut two, b"second"), (&mut one, b"first!")] {
        stream.write_all(line).await.unwrap();
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, line);
    }
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err(), "it is the pod's, not the machine's");
    container.stop(Duration::ZERO).await;
    assert_eq!(exit_of(&container).await.code, 137);
    until("nobody listens", || std::net::TcpStream::connect(("127.64.0.9", port)).is_err()).await;
}

#[tokio::test]
async fn instances_of_wasi_3_are_reused_when_asked() {
    let mut bench = Bench::prebuilt("relay").await;
    bench.spec.instances.max_requests_per_instance = 10;
    bench.spec.instances.idle_timeout = PATIENCE;
    let (container, http) = bench.start_http().await;
    for _ in 0..3 {
        text(http.call(get("/ticks/1")).await.unwrap()).await;
        assert_eq!(container.usage().instances, 1, "one is kept, and used again");
    }
    assert_eq!(text(http.call(post("/back", &["x"])).await.unwrap()).await, "x");
    container.stop(Duration::from_secs(5)).await;
    until("no instance is left", || container.usage().instances == 0).await;
}

/// `wasi:cli/run@0.3.0` with this body, which leaves 0 for success.
fn command(body: &str) -> String {
    format!(
        r#"(component
            (core module $m (func (export "run") (result i32) {body}))
            (core instance $i (instantiate $m))
            (func $run async (result (result)) (canon lift (core func $i "run")))
            (instance $r (export "run" (func $run)))
            (export "wasi:cli/run@0.3.0" (instance $r)))"#
    )
}

#[tokio::test]
async fn commands_of_wasi_3_run_to_their_end() {
    for (body, code, words) in [("i32.const 0", 0, ""), ("i32.const 1", 1, ""), ("unreachable", 134, "wasm trap")] {
        let bench = Bench::wat(&command(body)).await;
        let exit = exit_of(&bench.start().await).await;
        assert_eq!(exit.code, code, "{}", exit.message);
        assert!(exit.message.contains(words), "{}", exit.message);
    }
    let bench = Bench::wat(&command("(loop br 0) unreachable")).await;
    let container = bench.start().await;
    until("it runs", || container.usage().cpu > Duration::ZERO).await;
    container.stop(Duration::ZERO).await;
    assert_eq!(exit_of(&container).await.code, 137);
}

//! Programs that answer by CGI: C, and a few written out here.

use super::*;

impl Bench {
    fn wagi(mut self) -> Self {
        self.spec.grants.wagi = true;
        self
    }
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<HttpBody> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    Request::post(format!("http://test{path}")).body(body).unwrap()
}

/// A program of WASI 0.1 whose `_start` is this; `$print` prints what begins at 16.
fn program(printed: &str, start: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 2)
            (data (i32.const 16) "{printed}")
            (func $print
              (i32.store (i32.const 0) (i32.const 16))
              (i32.store (i32.const 4) (i32.const {}))
              (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
            (func (export "_start") {start}))"#,
        printed.replace("\\n", "n").len()
    )
}

#[tokio::test]
async fn a_program_in_c_answers_calls() {
    let bench = Bench::prebuilt("greet").await.wagi();
    let (container, http) = bench.start_http().await;
    let response = http.call(get("/?x=1")).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["content-type"].to_str().unwrap()), (200, "text/plain"));
    assert_eq!(text(response).await, "Hello from C on pod-1\nGET /?x=1 for test\n");
    let long = "shout ".repeat(50_000);
    assert_eq!(text(http.call(post("/shout", long.clone())).await.unwrap()).await, long.to_uppercase());
    let response = http.call(get("/nothing")).await.unwrap();
    assert_eq!(response.status(), 404);
    assert!(bench.output.text().contains("E:nothing at /nothing"));
    assert!(text(http.call(get("/old")).await.unwrap()).await.contains("GET /?from=old for test"));
    assert!(running(&container));
    assert_eq!((container.usage().instances, container.usage().memory_bytes), (0, 0), "nothing is left of a call");
    container.stop(Duration::from_secs(5)).await;
    assert_eq!(exit_of(&container).await.code, 0);
    assert!(matches!(http.call(get("/")).await, Err(CallError::Undelivered { .. })));
}

#[tokio::test]
async fn a_program_of_wasi_3_answers_calls_too() {
    let bench = Bench::prebuilt("herald").await.wagi();
    let (container, http) = bench.start_http().await;
    assert_eq!(text(http.call(get("/a?x=1")).await.unwrap()).await, "GET /a?x=1 for test\n");
    let long = "shout ".repeat(50_000);
    let answer = text(http.call(post("/b", long.clone())).await.unwrap()).await;
    assert_eq!(answer, format!("POST /b? for test\n{}", long.to_uppercase()));
    assert!(running(&container));
    until("nothing is left of a call", || container.usage().instances == 0).await;
}

#[tokio::test]
async fn a_program_that_fails_fails_its_call_alone() {
    let page = "Content-Type: text/plain\\n\\nhi";
    let cases = [
        (program(page, "call $print"), 200, ""),
        (program(page, "call $print (call $exit (i32.const 0))"), 200, ""),
        (program(page, "call $print (call $exit (i32.const 3))"), 500, "wagi: GET /p: it ended with exit code 3"),
        (program(page, "call $print unreachable"), 500, "unreachable"),
        (program("hello", "call $print"), 502, "what it printed is no answer: no empty line ends its headers"),
        (program("", ""), 502, "it printed nothing"),
        (program("Location: /p\\n\\n", "call $print"), 502, "more than 5 local redirects"),
        (program(&"x".repeat(60_000), "(loop call $print br 0)"), 500, "it printed more than 33554432 bytes"),
    ];
    for (wat, status, logged) in cases {
        let bench = Bench::wat(&wat).await.wagi();
        let (container, http) = bench.start_http().await;
        assert_eq!(http.call(get("/p")).await.unwrap().status(), status, "{}", bench.output.text());
        assert!(bench.output.text().contains(logged), "{logged}: {}", bench.output.text());
        assert!(running(&container), "{logged}");
    }
}

#[tokio::test]
async fn what_a_call_holds_is_the_containers_memory() {
    let endless = program(&"x".repeat(60_000), "(loop call $print br 0)");
    let mut bench = Bench::wat(&endless).await.wagi();
    bench.spec.memory_limit = Some(1 << 20);
    let (container, http) = bench.start_http().await;
    assert!(matches!(http.call(get("/")).await, Err(CallError::Failed(why)) if why.contains("limit 1Mi")));
    assert_eq!(exit_of(&container).await.reason, "OOMKilled");

    let (container, http) = bench.start_http().await;
    assert_eq!(http.call(post("/", vec![b'x'; 2 << 20])).await.unwrap().status(), 413);
    assert!(running(&container), "a body that is too large is the caller's fault");
}

#[tokio::test]
async fn an_endless_program_is_timed_out() {
    let mut bench = Bench::wat(&program("", "(loop br 0)")).await.wagi();
    bench.spec.instances.request_timeout = Duration::from_millis(50);
    let (container, http) = bench.start_http().await;
    assert!(matches!(http.call(get("/")).await, Err(CallError::Timeout(_))));
    assert!(bench.output.text().contains("wagi: GET /: no answer within 50ms"));
    assert!(running(&container));
    until("the instance is gone", || container.usage().instances == 0).await;
}

#[tokio::test]
async fn a_command_component_answers_by_cgi_too() {
    // It counts primes and says so: no answer by CGI, which shows that it ran with the call's streams.
    let bench = Bench::prebuilt("job").await.args(&["job", "100"]).wagi();
    let (_container, http) = bench.start_http().await;
    assert_eq!(http.call(get("/")).await.unwrap().status(), 502);
    assert!(!bench.output.text().contains("primes"), "{}", bench.output.text());
}

//! What a container may use, and what happens beyond it.

use super::*;

#[tokio::test]
async fn memory_beyond_the_limit_is_oom_killed() {
    let mut bench = Bench::prebuilt("faults").await;
    bench.spec.memory_limit = Some(16 << 20);
    let (container, http) = bench.start_http().await;
    let failed = http.call(get("/oom")).await.unwrap_err();
    assert!(matches!(&failed, CallError::Failed(why) if why.contains("limit 16Mi")), "{failed}");
    let exit = exit_of(&container).await;
    assert_eq!((exit.code, exit.reason), (137, "OOMKilled"));
    assert!(exit.message.starts_with("memory limit of the container exceeded"), "{}", exit.message);
    assert_eq!(container.usage().memory_bytes, 0, "the dead instance gave back what it held");
}

#[tokio::test]
async fn the_pods_limit_holds_over_its_containers() {
    let mut bench = Bench::prebuilt("faults").await;
    bench.sandbox = HOST.sandbox(pod(Some(8 << 20))).await.unwrap();
    let (container, http) = bench.start_http().await;
    http.call(get("/oom")).await.unwrap_err();
    let exit = exit_of(&container).await;
    assert!(exit.message.starts_with("memory limit of the pod exceeded"), "{}", exit.message);
}

#[tokio::test]
async fn a_limit_below_the_first_page_is_seen_at_the_start() {
    let mut bench = Bench::prebuilt("hello").await;
    bench.spec.memory_limit = Some(1000);
    let container = bench.start().await;
    assert_eq!(exit_of(&container).await.reason, "OOMKilled");
}

#[tokio::test]
async fn deep_recursion_is_a_trap() {
    let bench = Bench::prebuilt("faults").await;
    let (container, http) = bench.start_http().await;
    http.call(get("/recurse")).await.unwrap_err();
    let exit = exit_of(&container).await;
    assert_eq!(exit.code, 134);
    assert!(exit.message.len() <= 4096);
}

/// One thread: whoever does not yield would starve everyone.
#[tokio::test(flavor = "current_thread")]
async fn an_endless_loop_starves_nobody_and_is_timed_out() {
    let mut bench = Bench::prebuilt("faults").await;
    bench.spec.instances.request_timeout = Duration::from_millis(400);
    let (container, http) = bench.start_http().await;
    let looping = tokio::spawn({
        let http = http.clone();
        async move { http.call(get("/loop")).await.map(|response| response.status()) }
    });
    until("the loop runs", || container.usage().instances == 1).await;
    assert_eq!(text(http.call(get("/")).await.unwrap()).await, "ok\n");
    assert!(matches!(looping.await.unwrap(), Err(CallError::Timeout(_))));
    assert!(running(&container), "a slow answer is no crash");
    until("the instance is gone", || container.usage().instances == 0).await;
}

#[tokio::test]
async fn a_cpu_limit_throttles() {
    let mut bench = Bench::prebuilt("faults").await;
    bench.spec.cpu_limit_millis = Some(100);
    bench.spec.instances.request_timeout = PATIENCE;
    let (container, http) = bench.start_http().await;
    let looping = tokio::spawn(async move { http.call(get("/loop")).await.map(|response| response.status()) });
    until("it is held back", || container.usage().throttled > Duration::ZERO).await;
    assert!(container.usage().cpu >= Duration::from_millis(10), "the burst is free");
    container.stop(Duration::ZERO).await;
    assert!(matches!(looping.await.unwrap(), Err(CallError::Failed(_))));
}

#[tokio::test]
async fn requests_are_shares_when_the_cores_do_not_suffice() {
    // Each wants every core, and more.
    let loops = std::thread::available_parallelism().unwrap().get() * 2;
    let mut containers = Vec::new();
    for request in [100, 400] {
        let mut bench =
            Bench::wat(r#"(module (func (export "_start") (loop br 0)) (memory (export "memory") 1))"#).await;
        bench.spec.cpu_request_millis = Some(request);
        let same = futures::future::join_all((0..loops).map(|_| bench.sandbox.start(&bench.spec))).await;
        containers.push((bench, same.into_iter().map(Result::unwrap).collect::<Vec<_>>()));
    }
    let used = |of: usize| containers[of].1.iter().map(|container| container.usage().cpu).sum::<Duration>();
    let enough = Duration::from_secs(1);
    until("the heavy ones had a second", || used(1) > enough).await;
    let ratio = used(1).as_secs_f64() / used(0).as_secs_f64();
    assert!((2.5..6.0).contains(&ratio), "{ratio} instead of 4");
    for container in containers.iter().flat_map(|(_, same)| same) {
        container.stop(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn calls_beyond_the_bound_stand_in_line_and_beyond_that_are_refused() {
    let mut bench = Bench::prebuilt("faults").await;
    (bench.spec.instances.max_concurrent, bench.spec.instances.max_queued) = (1, 1);
    let (container, http) = bench.start_http().await;
    let slow = |ms: u32| {
        let (http, path) = (http.clone(), format!("/slow?ms={ms}"));
        tokio::spawn(async move { http.call(get(&path)).await.map(|response| response.status()) })
    };
    let first = slow(300);
    until("the call is in flight", || container.usage().instances == 1).await;
    // Whichever of these two comes first stands in line; the other is refused at once.
    let (one, two) = tokio::join!(slow(1), slow(1));
    let refused = |call: &Result<_, CallError>| matches!(call, Err(CallError::Overloaded { .. }));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert!(refused(&one) != refused(&two), "{one:?} {two:?}");
    assert_eq!(first.await.unwrap().unwrap(), 200);
    assert_eq!(container.usage().calls, 2, "what was refused never ran");
}

#[tokio::test]
async fn those_in_line_are_handed_back_when_the_container_ends() {
    let mut bench = Bench::prebuilt("faults").await;
    bench.spec.instances.max_concurrent = 1;
    let (container, http) = bench.start_http().await;
    let call = |path: &'static str| {
        let http = http.clone();
        tokio::spawn(async move { http.call(get(path)).await })
    };
    let endless = call("/loop");
    until("the call is in flight", || container.usage().instances == 1).await;
    let waiting = call("/");
    tokio::task::yield_now().await;
    container.stop(Duration::from_millis(20)).await;
    assert!(matches!(waiting.await.unwrap(), Err(CallError::Undelivered { .. })));
    assert!(endless.await.unwrap().is_err());
}

#[tokio::test]
async fn a_request_that_takes_too_long_ends_with_its_instance_and_nothing_else() {
    let mut bench = Bench::prebuilt("faults").await;
    bench.spec.instances.request_timeout = Duration::from_millis(50);
    let (container, http) = bench.start_http().await;
    for path in ["/loop", "/slow?ms=60000"] {
        let answer = http.call(get(path)).await.map(|response| response.status());
        assert!(matches!(answer, Err(CallError::Timeout(after)) if after == bench.spec.instances.request_timeout));
        until(path, || container.usage().instances == 0).await;
    }
    assert_eq!(http.call(get("/")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_flood_of_output_arrives_in_whole_lines() {
    let bench = Bench::prebuilt("faults").await;
    let (_container, http) = bench.start_http().await;
    assert_eq!(text(http.call(get("/flood")).await.unwrap()).await, "flooded\n");
    let output = bench.output.text();
    assert_eq!(output.lines().count(), 10_000);
    assert!(output.lines().enumerate().all(|(n, line)| line.starts_with(&format!("flood {n} "))));
}

#[tokio::test]
async fn tables_and_memories_are_charged() {
    let grow = r#"(module (memory 1) (func (export "_start") (loop (drop (memory.grow (i32.const 16))) br 0)))"#;
    let table = r#"(module (table 0 funcref)
        (func (export "_start") (loop (drop (table.grow (ref.null func) (i32.const 1000))) br 0)))"#;
    for (wat, limit) in [(grow, 4 << 20), (table, 100_000)] {
        let mut bench = Bench::wat(wat).await;
        bench.spec.memory_limit = Some(limit);
        assert_eq!(exit_of(&bench.start().await).await.reason, "OOMKilled", "{wat}");
    }
}

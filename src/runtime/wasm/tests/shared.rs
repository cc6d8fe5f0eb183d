//! Instances of WASI 0.3 that answer several calls at a time.

use tokio::sync::mpsc;

use super::*;

/// A call whose body comes when the test says so: the guest sends back in capitals what it reads.
struct Open {
    sender: mpsc::Sender<Bytes>,
    response: Response<HttpBody>,
}

impl Open {
    async fn begin(http: &Arc<dyn HttpService>) -> Self {
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        let stream = futures::stream::unfold(receiver, |mut receiver| async {
            Some((Ok::<_, crate::wire::BoxError>(http_body::Frame::data(receiver.recv().await?)), receiver))
        });
        let body = http_body_util::StreamBody::new(stream).boxed_unsync();
        let response = http.call(Request::post("http://test/upper").body(body).unwrap()).await.unwrap();
        Self { sender, response }
    }

    async fn end(self, said: &'static str) -> String {
        let Self { sender, response } = self;
        let read = tokio::spawn(text(response));
        sender.send(Bytes::from_static(said.as_bytes())).await.unwrap();
        drop(sender);
        read.await.unwrap()
    }
}

async fn relay(at_a_time: usize, in_all: u32) -> Bench {
    let mut bench = Bench::prebuilt("relay").await;
    bench.spec.instances.max_requests_per_instance = in_all;
    bench.spec.instances.max_concurrent_per_instance = at_a_time;
    bench.spec.instances.idle_timeout = PATIENCE;
    bench
}

#[tokio::test]
async fn calls_share_an_instance_up_to_its_seats_and_it_is_used_again() {
    let bench = relay(3, 100).await;
    let (container, http) = bench.start_http().await;
    let mut open = Vec::new();
    for (number, instances) in [1, 1, 1, 2].into_iter().enumerate() {
        open.push(Open::begin(&http).await);
        assert_eq!(container.usage().instances, instances, "with {} calls", number + 1);
    }
    let said = ["one", "two", "three", "four"];
    for (call, said) in open.into_iter().zip(said).rev() {
        assert_eq!(call.end(said).await, said.to_uppercase());
    }
    assert_eq!(text(http.call(get("/ticks/2")).await.unwrap()).await, "tick 1\ntick 2\n");
    assert_eq!(container.usage().instances, 2, "they wait for more");
    container.stop(PATIENCE).await;
    assert_eq!(exit_of(&container).await.reason, "Completed");
    until("no instance is left", || container.usage().instances == 0).await;
}

#[tokio::test]
async fn an_instance_gets_no_more_calls_in_all_than_it_may() {
    let bench = relay(8, 2).await;
    let (container, http) = bench.start_http().await;
    let calls = [Open::begin(&http).await, Open::begin(&http).await, Open::begin(&http).await];
    assert_eq!(container.usage().instances, 2);
    for call in calls {
        assert_eq!(call.end("x").await, "X");
    }
    until("the first has gone", || container.usage().instances == 1).await;
}

#[tokio::test]
async fn what_ends_an_instance_ends_all_calls_in_it_and_is_told() {
    let bench = relay(8, 100).await;
    let (container, http) = bench.start_http().await;
    let Open { sender, response } = Open::begin(&http).await;
    let failed = http.call(get("/trap")).await.unwrap_err();
    assert!(matches!(&failed, CallError::Failed(why) if why.contains("unreachable")), "{failed}");
    drop(sender);
    let why = response.into_body().collect().await.unwrap_err().to_string();
    assert!(why.contains("unreachable"), "a body that was cut is no whole one: {why}");
    assert_eq!(exit_of(&container).await.code, 134);
    until("no instance is left", || container.usage().instances == 0).await;
}

#[tokio::test]
async fn a_call_that_computes_keeps_none_waiting_and_times_out_alone() {
    let mut bench = relay(8, 100).await;
    bench.spec.instances.request_timeout = Duration::from_millis(600);
    let (container, http) = bench.start_http().await;
    let spinning = tokio::spawn({
        let http = http.clone();
        async move { http.call(get("/spin")).await.map(|response| response.status()) }
    });
    until("the loop runs", || container.usage().instances == 1).await;
    // It gets no seat beside the loop, which would hold it up.
    assert_eq!(text(http.call(get("/")).await.unwrap()).await, "Hello from WASI 0.3 at pod-1\n");
    assert!(matches!(spinning.await.unwrap(), Err(CallError::Timeout(_))));
    until("the loop has gone", || container.usage().instances <= 1).await;
    assert_eq!(text(http.call(get("/")).await.unwrap()).await, "Hello from WASI 0.3 at pod-1\n");
    assert!(running(&container));
}

#[tokio::test]
async fn who_stops_a_container_waits_for_those_who_read_and_cuts_the_others() {
    let bench = relay(8, 100).await;
    let (container, http) = bench.start_http().await;
    let open = Open::begin(&http).await;
    let stopped = tokio::spawn({
        let container = container.clone();
        async move { container.stop(PATIENCE).await }
    });
    let refused = async { while !matches!(http.call(get("/")).await, Err(CallError::Undelivered { .. })) {} };
    tokio::time::timeout(PATIENCE, refused).await.expect("no more is taken");
    assert_eq!(open.end("x").await, "X");
    stopped.await.unwrap();
    assert_eq!(exit_of(&container).await.reason, "Completed");

    let bench = relay(8, 100).await;
    let (container, http) = bench.start_http().await;
    let open = Open::begin(&http).await;
    container.stop(Duration::ZERO).await;
    let why = open.response.into_body().collect().await.unwrap_err().to_string();
    assert!(why.contains("the container was stopped"), "{why}");
    assert_eq!(exit_of(&container).await.code, 137);
}

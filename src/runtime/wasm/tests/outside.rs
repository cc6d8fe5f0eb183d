//! Guests that call others, and answers that stream.

use super::*;

#[tokio::test]
async fn calls_of_guests_go_out_through_the_node() {
    let bench = Bench::prebuilt("storefront").await;
    let (_container, http) = bench.start_http().await;
    let page = text(http.call(get("/")).await.unwrap()).await;
    assert!(page.contains("pod-1 asked GET http://cart/"), "{page}");
}

/// What the outside makes of a guest's calls.
struct Outside<F>(F);

#[async_trait::async_trait]
impl<F> Outbound for Outside<F>
where
    F: Fn() -> Result<Response<HttpBody>, OutboundError> + Send + Sync + 'static,
{
    async fn send(
        &self,
        _: &Caller,
        _: Request<HttpBody>,
        _: CallTimeouts,
    ) -> Result<Response<HttpBody>, OutboundError> {
        (self.0)()
    }
}

async fn storefront_with(
    outside: impl Fn() -> Result<Response<HttpBody>, OutboundError> + Send + Sync + 'static,
) -> Bench {
    let mut bench = Bench::prebuilt("storefront").await;
    let spec = SandboxSpec { outbound: Arc::new(Outside(outside)), ..pod(None) };
    bench.sandbox = HOST.sandbox(spec).await.unwrap();
    bench
}

#[tokio::test]
async fn a_guest_is_told_why_its_call_failed() {
    let bench = storefront_with(|| Err(OutboundError::UnknownHost("cart".to_owned()))).await;
    let (_container, http) = bench.start_http().await;
    let response = http.call(get("/")).await.unwrap();
    assert_eq!(response.status(), 502);
    let page = text(response).await;
    assert!(page.contains("DnsError"), "{page}");
}

/// More than the host buffers of a response: the guest writes while it is read.
const LONG: usize = 2 << 20;

fn long_answer() -> Result<Response<HttpBody>, OutboundError> {
    let body = Full::new(Bytes::from(vec![b'x'; LONG])).map_err(|never| match never {}).boxed_unsync();
    Ok(Response::new(body))
}

#[tokio::test]
async fn a_long_response_streams_and_then_nothing_is_left() {
    let bench = storefront_with(long_answer).await;
    let (container, http) = bench.start_http().await;
    let response = http.call(get("/")).await.unwrap();
    assert_eq!(container.usage().instances, 1, "the guest is still writing");
    let page = text(response).await;
    assert_eq!(page.bytes().filter(|&byte| byte == b'x').count(), LONG);
    assert!(page.ends_with("buy: /buy?items=apple,pear\n"));
    until("the instance is gone", || container.usage().instances == 0).await;
}

#[tokio::test]
async fn a_streaming_instance_is_reused_too() {
    let mut bench = storefront_with(long_answer).await;
    bench.spec.instances.max_requests_per_instance = 10;
    bench.spec.instances.idle_timeout = PATIENCE;
    // One that takes longer than a tick may end after its reader: the next call waits for it.
    bench.spec.instances.max_concurrent = 1;
    let (container, http) = bench.start_http().await;
    for _ in 0..3 {
        assert!(text(http.call(get("/")).await.unwrap()).await.len() > LONG);
        assert_eq!(container.usage().instances, 1);
    }
    container.stop(PATIENCE).await;
    until("no instance is left", || container.usage().instances == 0).await;
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_its_guest_with_it() {
    let bench = storefront_with(long_answer).await;
    let (container, http) = bench.start_http().await;
    drop(http.call(get("/")).await.unwrap());
    until("its instance is gone", || container.usage().instances == 0).await;
    assert!(running(&container));
}

#[tokio::test]
async fn stopping_waits_for_a_response_that_streams() {
    let bench = storefront_with(long_answer).await;
    let (container, http) = bench.start_http().await;
    let response = http.call(get("/")).await.unwrap();
    let stopping = tokio::spawn({
        let container = container.clone();
        async move { container.stop(PATIENCE).await }
    });
    assert!(text(response).await.len() > LONG);
    stopping.await.unwrap();
    assert_eq!(exit_of(&container).await.code, 0);
}

#[tokio::test]
async fn a_panic_of_the_host_ends_that_container_alone() {
    let hit = storefront_with(|| panic!("a bug in the host")).await;
    let other = Bench::prebuilt("hello").await;
    let ((container, http), (beside, beside_http)) = (hit.start_http().await, other.start_http().await);
    let failed = http.call(get("/")).await.unwrap_err();
    assert!(matches!(&failed, CallError::Failed(why) if why.contains("the host failed")), "{failed}");
    assert_eq!(exit_of(&container).await.code, 134);
    assert_eq!(beside_http.call(get("/")).await.unwrap().status(), 200);
    assert!(running(&beside));
}

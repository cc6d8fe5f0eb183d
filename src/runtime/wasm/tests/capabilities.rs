//! What a pod has to ask for: a key-value store; and what it need not: its configuration, its log.

use super::super::super::KeyValue;
use super::*;

async fn visits(keyvalue: Option<KeyValue>) -> Bench {
    let mut bench = Bench::prebuilt("visits").await;
    bench.spec.grants.keyvalue = keyvalue;
    bench
}

async fn page(http: &Arc<dyn HttpService>, path: &str) -> String {
    let response = http.call(get(path)).await.unwrap();
    let status = response.status();
    let body = text(response).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

#[tokio::test]
async fn a_store_that_the_pod_does_not_ask_for_is_denied() {
    let bench = visits(None).await;
    match bench.sandbox.start(&bench.spec).await {
        Err(StartError::MissingImport(why)) => {
            assert!(why.contains("import `wasi:keyvalue/") && why.contains("coracle.dev/keyvalue"), "{why}");
        }
        other => panic!("{:?}", other.err()),
    }
}

#[tokio::test]
async fn a_store_in_memory_lives_as_long_as_the_pod() {
    let mut bench = visits(Some(KeyValue::Memory)).await;
    bench.spec.grants.config = vec![("GREETING".to_owned(), "Ahoy".to_owned())];
    let (container, http) = bench.start_http().await;
    assert_eq!(page(&http, "/?who=ann").await, "Ahoy, visit 1\nann: 1\n");
    assert_eq!(page(&http, "/").await, "Ahoy, visit 2\n");
    assert!(bench.output.text().contains("E:INFO visits: ann came for the 1. time\n"), "{}", bench.output.text());
    container.stop(PATIENCE).await;

    // The next life, whose environment counts before the pod's ConfigMaps.
    bench.spec.env.push(("GREETING".to_owned(), "Moin".to_owned()));
    let (_container, http) = bench.start_http().await;
    assert_eq!(page(&http, "/?who=bob").await, "Moin, visit 3\nbob: 1\n");
    assert_eq!(page(&http, "/all").await, "all=3\nann=1\nbob=1\nlast=bob\n");
    assert_eq!(page(&http, "/forget").await, "forgotten: true\n");

    bench.sandbox = HOST.sandbox(pod(None)).await.unwrap();
    let (_container, http) = bench.start_http().await;
    assert_eq!(page(&http, "/").await, "Moin, visit 1\n", "another pod has a store of its own");
}

#[tokio::test]
async fn a_store_on_a_volume_outlives_the_pod() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = visits(Some(KeyValue::Directory("/data/kv".to_owned()))).await;
    match bench.sandbox.start(&bench.spec).await {
        Err(StartError::Other(why)) => assert!(why.contains("is on none of the container's volumes"), "{why}"),
        other => panic!("{:?}", other.err()),
    }
    bench.spec.mounts = vec![Mount { host: dir.path().to_owned(), guest: "/data".to_owned(), read_only: false }];
    for visit in 1..=3 {
        bench.sandbox = HOST.sandbox(pod(None)).await.unwrap();
        let (container, http) = bench.start_http().await;
        assert_eq!(page(&http, "/").await, format!("Hello, visit {visit}\n"));
        container.stop(PATIENCE).await;
        drop((container, http));
    }
    assert!(dir.path().join("kv/keyvalue.redb").is_file());
}

#[tokio::test]
async fn increments_of_many_calls_are_all_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = visits(Some(KeyValue::Directory("/data".to_owned()))).await;
    bench.spec.mounts = vec![Mount { host: dir.path().to_owned(), guest: "/data".to_owned(), read_only: false }];
    let (_container, http) = bench.start_http().await;
    futures::future::join_all((0..20).map(|_| page(&http, "/"))).await;
    assert_eq!(page(&http, "/all").await, "all=20\n");
}

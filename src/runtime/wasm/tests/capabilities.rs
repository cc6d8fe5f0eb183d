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
    bench.spec.mounts = vec![Mount::new(dir.path(), "/data", false)];
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
    bench.spec.mounts = vec![Mount::new(dir.path(), "/data", false)];
    let (_container, http) = bench.start_http().await;
    futures::future::join_all((0..20).map(|_| page(&http, "/"))).await;
    assert_eq!(page(&http, "/all").await, "all=20\n");
}

#[tokio::test]
async fn objects_are_files_of_a_volume() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::prebuilt("album").await;
    match bench.sandbox.start(&bench.spec).await {
        Err(StartError::MissingImport(why)) => {
            assert!(why.contains("import `wasi:blobstore/") && why.contains("coracle.dev/blobstore"), "{why}");
        }
        other => panic!("{:?}", other.err()),
    }
    bench.spec.grants.blobstore = Some("/data/blobs".to_owned());
    bench.spec.mounts = vec![Mount::new(dir.path(), "/data", false)];
    bench.spec.memory_limit = Some(16 << 20);
    let (container, http) = bench.start_http().await;
    let post = |name: &str, bytes: Vec<u8>| {
        let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
        http.call(Request::post(format!("http://test/{name}")).body(body).unwrap())
    };
    assert_eq!(text(post("a%2Fb.txt", b"hello there".to_vec()).await.unwrap()).await, "kept 11 bytes\n");
    assert_eq!(page(&http, "/a%2Fb.txt").await, "hello there");
    assert_eq!(page(&http, "/a%2Fb.txt?from=6").await, "there");
    assert_eq!(page(&http, "/").await, "a%2Fb.txt 11\nlast 11\n");
    assert_eq!(std::fs::read(dir.path().join("blobs/album/last")).unwrap(), b"hello there");
    assert_eq!(http.call(get("/none")).await.unwrap().status(), 404);
    assert_eq!(container.usage().memory_bytes, 0, "what was held of them is given back");
    // A file of that size fits on the volume, and not into the container.
    std::fs::write(dir.path().join("blobs/album/large"), vec![0; 20 << 20]).unwrap();
    http.call(get("/large")).await.unwrap_err();
    assert_eq!(exit_of(&container).await.reason, "OOMKilled");

    let (_container, http) = bench.start_http().await;
    let delete = Request::delete("http://test/").body(get("/").into_body()).unwrap();
    assert_eq!(http.call(delete).await.unwrap().status(), 200);
    assert_eq!(page(&http, "/").await, "");
}

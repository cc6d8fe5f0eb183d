//! What containers share of a host, and do not take from each other: instances, threads, files.

use super::super::cpu::thread_time;
use super::*;
use crate::runtime::DeferredMounts;

#[tokio::test]
async fn idle_instances_give_way_when_the_host_is_full() {
    let host = WasmRuntime::new(WasmConfig { max_instances: Some(2), ..WasmConfig::default() }).unwrap();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("workloads/prebuilt/hello/1.wasm");
    let digest = digest_of(&std::fs::read(&path).unwrap());
    let source = ImageSource { reference: "hello:1".to_owned(), path, digest, snapshot: false };
    let image = host.prepare(&source).await.unwrap();
    let mut spec = Bench::prebuilt("hello").await.spec;
    spec.image = image;
    spec.instances.max_requests_per_instance = 100;
    spec.instances.idle_timeout = Duration::from_secs(3600);
    let sandbox = host.sandbox(pod(None)).await.unwrap();
    let mut kept = Vec::new();
    for number in 0..5 {
        let container = sandbox.start(&spec).await.unwrap();
        let http = container.http().unwrap();
        assert_eq!(text(http.call(get("/version")).await.unwrap()).await, "1\n", "container {number}");
        kept.push((container, http));
    }
    let live: Vec<u64> = kept.iter().map(|(container, _)| container.usage().instances).collect();
    assert_eq!(live, [0, 0, 0, 1, 1], "the longest idle went first");
    // Those that one keeps ready on purpose stay.
    spec.instances.min_instances = 2;
    let ready = sandbox.start(&spec).await.unwrap();
    until("two are ready", || ready.usage().instances == 2).await;
    let refused = kept[0].1.call(get("/version")).await;
    assert!(matches!(refused, Err(CallError::Overloaded { .. })), "nobody gives way");
    assert_eq!(ready.usage().instances, 2);
}

#[tokio::test]
async fn a_guest_that_computes_leaves_the_thread_that_serves() {
    let bench = Bench::prebuilt("faults").await;
    let (container, http) = bench.start_http().await;
    let before = thread_time();
    let looping = tokio::spawn(async move { http.call(get("/loop")).await.map(|response| response.status()) });
    let quick = Bench::prebuilt("hello").await;
    let (neighbour, its) = quick.start_http().await;
    while container.usage().cpu < Duration::from_millis(300) {
        assert_eq!(its.call(get("/")).await.unwrap().status(), 200);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let own = thread_time().saturating_sub(before).saturating_sub(neighbour.usage().cpu);
    assert!(own < container.usage().cpu, "this thread used {own:?}, the loop {:?}", container.usage().cpu);
    container.stop(Duration::ZERO).await;
    looping.await.unwrap().unwrap_err();
    until("its instance is gone", || container.usage().instances == 0).await;
}

/// Makes a file in the one mount, but for the first time.
struct Later {
    dir: PathBuf,
    made: std::sync::atomic::AtomicU32,
}

#[async_trait::async_trait]
impl DeferredMounts for Later {
    fn has(&self, mount: &Mount) -> bool {
        mount.host == self.dir
    }

    async fn make(&self) -> Result<(), String> {
        if self.made.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            return Err("no token yet".to_owned());
        }
        std::fs::create_dir_all(&self.dir).map_err(|error| error.to_string())?;
        std::fs::write(self.dir.join("prices"), "apple=30\n").map_err(|error| error.to_string())
    }
}

#[tokio::test]
async fn a_mount_may_be_made_when_the_guest_first_looks() {
    let dir = tempfile::tempdir().unwrap();
    let later = Arc::new(Later { dir: dir.path().join("later"), made: Default::default() });
    let made = || later.made.load(std::sync::atomic::Ordering::SeqCst);
    let mut bench = Bench::prebuilt("cart").await;
    bench.spec.mounts = vec![Mount::new(later.dir.clone(), "/etc/shop", true)];
    bench.spec.deferred = Some(later.clone());
    let (container, http) = bench.start_http().await;
    assert_eq!(made(), 0, "nobody has looked");
    let failed = http.call(get("/total?items=apple")).await.unwrap_err();
    assert!(failed.to_string().contains("no token yet"), "{failed}");
    assert!(exit_of(&container).await.message.contains("no token yet"));

    let (_container, http) = bench.start_http().await;
    assert_eq!(text(http.call(get("/total?items=apple")).await.unwrap()).await, "30\n");
    assert!(made() > 1, "by the instance that looked");
}

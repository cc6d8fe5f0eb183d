//! What a durable write costs: alone, and when many share a sync; how long a start takes to load.
//!
//! `cargo bench --bench store`. A peer to hold it against: `etcd` with `benchmark put --clients=64`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle::store::{Durability, Expect, RedbStore, Store, Write};
use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;

/// About what a pod is as JSON.
const VALUE_BYTES: usize = 2_048;

fn write(key: String, durability: Durability) -> Write {
    Write { key: key.into(), expect: Expect::Absent, value: Some(Bytes::from(vec![b'x'; VALUE_BYTES])), durability }
}

/// `writers` tasks, each with one write at a time; the time that `writes` of them take together.
async fn concurrent(store: &Arc<RedbStore>, writers: u64, writes: u64) -> Duration {
    let first = store.revision();
    let started = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in (writer..writes).step_by(writers as usize) {
                store.commit(write(format!("/bench/{first}/{n}"), Durability::Synced)).await.expect("a new key");
            }
        })
    });
    futures::future::join_all(tasks).await;
    started.elapsed()
}

fn writes(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let directory = tempfile::tempdir_in(".").expect("a temporary directory");
    let store = Arc::new(RedbStore::open(&directory.path().join("state.redb")).expect("the store opens"));
    for writers in [1, 16, 64] {
        c.bench_function(&format!("durable write, {writers} writers"), |bench| {
            bench.iter_custom(|writes| runtime.block_on(concurrent(&store, writers, writes)));
        });
    }
    // A watcher each in its own namespace, as kubelets and controllers have them: only one is concerned.
    let watches: Vec<_> = (0..1_000).map(|n| store.watch(&format!("/ns-{n}/"), store.revision())).collect();
    c.bench_function("durable write, 64 writers, 1,000 watches elsewhere", |bench| {
        bench.iter_custom(|writes| runtime.block_on(concurrent(&store, 64, writes)));
    });
    drop(watches);
    runtime.block_on(store.close());
}

fn fill(path: &Path, entries: u64) {
    let runtime = Runtime::new().expect("a runtime starts");
    let store = Arc::new(RedbStore::open(path).expect("the store opens"));
    runtime.block_on(concurrent(&store, 256, entries));
    runtime.block_on(store.close());
}

fn load(c: &mut Criterion) {
    let directory = tempfile::tempdir_in(".").expect("a temporary directory");
    let path = directory.path().join("state.redb");
    fill(&path, 10_000);
    c.bench_function("open with 10,000 objects", |bench| bench.iter(|| RedbStore::open(&path).expect("it opens")));
}

criterion_group!(benches, writes, load);
criterion_main!(benches);

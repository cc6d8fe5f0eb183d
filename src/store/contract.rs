//! The suite that every backend passes: what [`super::Store`] promises, as tests.
//!
//! A backend gives a maker of empty stores; `backend_contract!` makes one test of each promise for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::{Change, Durability, Entry, Error, Expect, MemoryStore, Page, RedbStore, Retention, Store, Watch, Write};

/// Longer than any of this takes; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(20);

type Make = fn(Retention) -> Arc<dyn Store>;

fn memory(retention: Retention) -> Arc<dyn Store> {
    Arc::new(MemoryStore::with_retention(retention))
}

fn redb(retention: Retention) -> Arc<dyn Store> {
    let storage = ::redb::backends::InMemoryBackend::new();
    Arc::new(RedbStore::open_backend(storage, retention).expect("an empty storage opens"))
}

macro_rules! backend_contract {
    ($($promise:ident),* $(,)?) => {
        mod memory_store { $( #[tokio::test] async fn $promise() { super::$promise(super::memory).await; } )* }
        mod redb_store { $( #[tokio::test] async fn $promise() { super::$promise(super::redb).await; } )* }
    };
}

backend_contract!(
    a_write_is_seen_by_its_writer,
    an_expectation_that_does_not_hold_is_a_conflict_with_the_entry_as_it_is,
    lists_page_by_key_and_stay_at_one_revision,
    the_past_is_readable_as_far_as_the_history_goes,
    revisions_outside_the_history_are_refused,
    a_watch_replays_and_then_follows,
    a_watch_sees_its_prefix_only,
    a_slow_watch_is_cut_off_and_blocks_nobody,
    an_idle_watch_is_not_cut_off_by_the_changes_of_others,
    a_watch_says_how_far_it_has_come,
    a_watch_ends_when_the_store_closes,
    of_concurrent_writers_of_one_revision_one_wins,
    counters_lose_no_increment,
    eventual_and_synced_writes_keep_one_order,
    a_closed_store_refuses_writes,
    list_and_replay_equal_a_later_list,
);

fn put(key: &str, expect: Expect, value: &str) -> Write {
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    Write { key: key.into(), expect, value, durability: Durability::Synced }
}

fn eventual(write: Write) -> Write {
    Write { durability: Durability::Eventual, ..write }
}

fn delete(key: &str, revision: u64) -> Write {
    Write { key: key.into(), expect: Expect::Revision(revision), value: None, durability: Durability::Synced }
}

async fn create(store: &Arc<dyn Store>, key: &str, value: &str) -> u64 {
    store.commit(put(key, Expect::Absent, value)).await.expect("the key is new")
}

async fn next(watch: &mut Watch) -> Arc<Change> {
    let next = tokio::time::timeout(DEADLINE, watch.next()).await.expect("a change comes in time");
    next.expect("the store is open").expect("the watch keeps up")
}

fn keys(page: &Page) -> Vec<&str> {
    page.entries.iter().map(|entry| &*entry.key).collect()
}

async fn a_write_is_seen_by_its_writer(make: Make) {
    let store = make(Retention::default());
    assert_eq!(store.revision(), 0);
    let created = create(&store, "/a", "one").await;
    let entry = store.get("/a").expect("it has been written");
    let expected = Entry { key: "/a".into(), value: "one".into(), mod_revision: created, create_revision: created };
    assert_eq!(entry, expected);
    let updated = store.commit(put("/a", Expect::Revision(created), "two")).await.expect("the revision is right");
    assert!(updated > created);
    let entry = store.get("/a").expect("it has been written");
    assert_eq!((entry.mod_revision, entry.create_revision, &*entry.value), (updated, created, &b"two"[..]));
    let deleted = store.commit(delete("/a", updated)).await.expect("the revision is right");
    assert_eq!(store.get("/a"), None);
    assert_eq!(store.revision(), deleted);
    let again = create(&store, "/a", "three").await;
    assert_eq!(store.get("/a").map(|entry| entry.create_revision), Some(again));
}

async fn an_expectation_that_does_not_hold_is_a_conflict_with_the_entry_as_it_is(make: Make) {
    let store = make(Retention::default());
    let revision = create(&store, "/a", "one").await;
    for write in [put("/a", Expect::Absent, "x"), put("/a", Expect::Revision(revision + 1), "x"), delete("/a", 0)] {
        match store.commit(write).await {
            Err(Error::Conflict { current }) => assert_eq!(current.map(|entry| entry.mod_revision), Some(revision)),
            other => panic!("a conflict, not {other:?}"),
        }
    }
    match store.commit(put("/b", Expect::Revision(1), "x")).await {
        Err(Error::Conflict { current: None }) => {}
        other => panic!("a conflict, not {other:?}"),
    }
    assert_eq!(store.revision(), revision, "a refused write uses up no revision");
}

async fn lists_page_by_key_and_stay_at_one_revision(make: Make) {
    let store = make(Retention::default());
    for key in ["/b/3", "/b/1", "/a/1", "/b/2", "/c/1", "/b"] {
        create(&store, key, key).await;
    }
    let all = store.list("/b/", None, 0, None).expect("now is in the history");
    assert_eq!(keys(&all), ["/b/1", "/b/2", "/b/3"]);
    assert_eq!((all.remaining, all.revision), (0, store.revision()));
    assert_eq!(store.count("/b/"), 3);
    assert_eq!(store.count(""), 6);

    let first = store.list("/b/", None, 2, None).expect("now is in the history");
    assert_eq!((keys(&first), first.remaining), (vec!["/b/1", "/b/2"], 1));
    create(&store, "/b/4", "late").await;
    store.commit(delete("/b/3", all.entries[2].mod_revision)).await.expect("the revision is right");
    let rest = store.list("/b/", Some("/b/2"), 2, Some(first.revision)).expect("the history is there");
    assert_eq!((keys(&rest), rest.remaining, rest.revision), (vec!["/b/3"], 0, first.revision));
    let now = store.list("/b/", Some("/b/2"), 2, None).expect("now is in the history");
    assert_eq!(keys(&now), ["/b/4"]);
}

async fn the_past_is_readable_as_far_as_the_history_goes(make: Make) {
    let store = make(Retention::default());
    let one = create(&store, "/a", "one").await;
    let two = store.commit(put("/a", Expect::Revision(one), "two")).await.expect("the revision is right");
    let gone = store.commit(delete("/a", two)).await.expect("the revision is right");
    let value = |revision| {
        let entry = store.get_at("/a", revision).expect("the history is there");
        entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
    };
    assert_eq!(value(0), None);
    assert_eq!(value(one), Some("one".into()));
    assert_eq!(value(two), Some("two".into()));
    assert_eq!(value(gone), None);
}

async fn revisions_outside_the_history_are_refused(make: Make) {
    let store = make(Retention { changes: 3, ..Retention::default() });
    for n in 0..6 {
        create(&store, &format!("/{n}"), "x").await;
    }
    for result in [
        store.get_at("/1", 2).map(|_| ()),
        store.list("/", None, 0, Some(2)).map(|_| ()),
        store.watch("/", 2).map(|_| ()),
    ] {
        assert!(matches!(result, Err(Error::Compacted { requested: 2, oldest: 3 })), "{result:?}");
    }
    assert_eq!(store.list("/", None, 0, Some(3)).map(|page| page.entries.len()).ok(), Some(3));
    for result in [
        store.get_at("/1", 7).map(|_| ()),
        store.list("/", None, 0, Some(7)).map(|_| ()),
        store.watch("/", 7).map(|_| ()),
    ] {
        assert!(matches!(result, Err(Error::Future { requested: 7, current: 6 })), "{result:?}");
    }
}

async fn a_watch_replays_and_then_follows(make: Make) {
    let store = make(Retention::default());
    let one = create(&store, "/p/a", "one").await;
    let two = store.commit(put("/p/a", Expect::Revision(one), "two")).await.expect("the revision is right");
    let mut watch = store.watch("/p/", one).expect("the history is there");
    let change = next(&mut watch).await;
    assert_eq!((change.revision, change.value.as_deref()), (two, Some(&b"two"[..])));
    assert_eq!(change.previous.as_ref().map(|entry| entry.mod_revision), Some(one));
    assert!(watch.try_next().is_none());
    let three = store.commit(delete("/p/a", two)).await.expect("the revision is right");
    let change = next(&mut watch).await;
    assert_eq!((change.revision, &change.value), (three, &None));
    assert_eq!(change.previous.as_ref().map(|entry| &*entry.value), Some(&b"two"[..]));
}

async fn a_watch_sees_its_prefix_only(make: Make) {
    let store = make(Retention::default());
    let mut by_prefix: Vec<(&str, Watch)> = ["", "/", "/p/", "/p/a", "/p/a/", "/q/"]
        .map(|prefix| (prefix, store.watch(prefix, 0).expect("the history is there")))
        .into();
    let keys = ["/p/a", "/p/a/b", "/p/ab", "/q/x", "/p", "other"];
    for key in keys {
        create(&store, key, "x").await;
    }
    for (prefix, watch) in &mut by_prefix {
        let expected: Vec<&str> = keys.into_iter().filter(|key| key.starts_with(*prefix)).collect();
        let mut seen = Vec::new();
        while let Some(change) = watch.try_next() {
            seen.push(change.expect("the watch keeps up").key.to_string());
        }
        assert_eq!(seen, expected, "watch of {prefix:?}");
    }
}

async fn a_slow_watch_is_cut_off_and_blocks_nobody(make: Make) {
    let store = make(Retention { changes: 8, ..Retention::default() });
    let mut slow = store.watch("/", 0).expect("the history is there");
    for n in 0..20 {
        create(&store, &format!("/{n}"), "x").await;
    }
    assert!(matches!(slow.next().await, Some(Err(Error::Lagged))));
    assert!(slow.next().await.is_none(), "nothing follows the last error");
    let mut quick = store.watch("/", store.revision()).expect("now is in the history");
    create(&store, "/last", "x").await;
    assert_eq!(&*next(&mut quick).await.key, "/last");
}

async fn an_idle_watch_is_not_cut_off_by_the_changes_of_others(make: Make) {
    let store = make(Retention { changes: 8, ..Retention::default() });
    let mut idle = store.watch("/idle/", 0).expect("the history is there");
    for n in 0..50 {
        create(&store, &format!("/busy/{n}"), "x").await;
    }
    assert!(idle.try_next().is_none());
    create(&store, "/idle/a", "x").await;
    assert_eq!(&*next(&mut idle).await.key, "/idle/a");
}

async fn a_watch_says_how_far_it_has_come(make: Make) {
    let store = make(Retention::default());
    let mut watch = store.watch("/p/", 0).expect("the history is there");
    create(&store, "/q/a", "x").await;
    assert_eq!(watch.progress(), 1);
    create(&store, "/p/a", "x").await;
    create(&store, "/p/b", "x").await;
    assert_eq!(watch.progress(), 1);
    next(&mut watch).await;
    assert_eq!(watch.progress(), 2);
    next(&mut watch).await;
    create(&store, "/q/b", "x").await;
    assert_eq!(watch.progress(), 4);
}

async fn a_watch_ends_when_the_store_closes(make: Make) {
    let store = make(Retention::default());
    let mut watch = store.watch("/", 0).expect("the history is there");
    let end = tokio::spawn(async move { watch.next().await.is_none() });
    store.close().await;
    assert!(tokio::time::timeout(DEADLINE, end).await.expect("it ends in time").expect("it does not panic"));
}

async fn of_concurrent_writers_of_one_revision_one_wins(make: Make) {
    let store = make(Retention::default());
    let revision = create(&store, "/a", "start").await;
    let writers = (0..32).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.commit(put("/a", Expect::Revision(revision), &format!("{n}"))).await })
    });
    let mut winners = 0;
    for writer in futures::future::join_all(writers).await {
        match writer.expect("no writer panics") {
            Ok(_) => winners += 1,
            // The loser is told of the winner, not of a value that is about to be replaced.
            Err(Error::Conflict { current: Some(entry) }) => assert!(entry.mod_revision > revision),
            Err(other) => panic!("a conflict, not {other}"),
        }
    }
    assert_eq!(winners, 1);
}

async fn counters_lose_no_increment(make: Make) {
    let store = make(Retention::default());
    create(&store, "/n", "0").await;
    let workers = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                while let Err(error) = increment(&store, "/n").await {
                    assert!(matches!(error, Error::Conflict { .. }), "{error}");
                }
            }
        })
    });
    for worker in futures::future::join_all(workers).await {
        worker.expect("no worker panics");
    }
    assert_eq!(store.get("/n").map(|entry| entry.value), Some("80".into()));
}

async fn increment(store: &Arc<dyn Store>, key: &str) -> Result<u64, Error> {
    let entry = store.get(key).expect("the counter is there");
    let count: u64 = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok()).expect("a number");
    store.commit(put(key, Expect::Revision(entry.mod_revision), &(count + 1).to_string())).await
}

async fn eventual_and_synced_writes_keep_one_order(make: Make) {
    let store = make(Retention::default());
    let mut watch = store.watch("/", 0).expect("the history is there");
    let writers = (0..200).map(|n| {
        let store = store.clone();
        let write = put(&format!("/{n}"), Expect::Absent, "x");
        let write = if n % 3 == 0 { write } else { eventual(write) };
        tokio::spawn(async move {
            let revision = store.commit(write).await.expect("the key is new");
            assert!(store.revision() >= revision, "what is acknowledged can be read");
            assert_eq!(store.get(&format!("/{n}")).map(|entry| entry.mod_revision), Some(revision));
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.expect("no writer panics");
    }
    for expected in 1..=200 {
        assert_eq!(next(&mut watch).await.revision, expected);
    }
}

async fn a_closed_store_refuses_writes(make: Make) {
    let store = make(Retention::default());
    create(&store, "/a", "x").await;
    store.close().await;
    assert!(matches!(store.commit(put("/b", Expect::Absent, "x")).await, Err(Error::Broken(_))));
    assert!(store.get("/a").is_some(), "reading goes on");
    store.close().await;
}

/// One step of a random history over a few keys.
#[derive(Debug, Clone)]
enum Step {
    Put { key: u8, durable: bool },
    Delete { key: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let put = (0..6u8, any::<bool>()).prop_map(|(key, durable)| Step::Put { key, durable });
    let delete = (0..6u8).prop_map(|key| Step::Delete { key });
    prop::collection::vec(prop_oneof![3 => put, 1 => delete], 1..40)
}

async fn list_and_replay_equal_a_later_list(make: Make) {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 24, ..Default::default() });
    let handle = tokio::runtime::Handle::current();
    let run = tokio::task::spawn_blocking(move || {
        runner.run(&steps(), |steps| handle.block_on(replay(make(Retention::default()), &steps)))
    });
    run.await.expect("the runner does not panic").expect("every list plus replay equals the later list");
}

/// From each revision, the list there plus the changes after it must be the list at the end.
async fn replay(store: Arc<dyn Store>, steps: &[Step]) -> Result<(), TestCaseError> {
    let prefix = "/k/";
    let mut lists = vec![store.list(prefix, None, 0, None).expect("now is in the history")];
    for (n, step) in steps.iter().enumerate() {
        let (Step::Put { key, .. } | Step::Delete { key }) = step;
        let path = format!("/k/{key}");
        let current = store.get(&path);
        let expect = current.as_ref().map_or(Expect::Absent, |entry| Expect::Revision(entry.mod_revision));
        let write = match (step, &current) {
            (Step::Put { durable: true, .. }, _) => put(&path, expect, &n.to_string()),
            (Step::Put { durable: false, .. }, _) => eventual(put(&path, expect, &n.to_string())),
            (Step::Delete { .. }, Some(entry)) => delete(&path, entry.mod_revision),
            (Step::Delete { .. }, None) => continue,
        };
        store.commit(write).await.expect("the expectation holds");
        lists.push(store.list(prefix, None, 0, None).expect("now is in the history"));
    }
    let last = lists.last().cloned().unwrap_or_default();
    for list in &lists {
        let past = store.list(prefix, None, 0, Some(list.revision)).expect("the history is there");
        prop_assert_eq!(&past.entries, &list.entries, "the list at revision {}", list.revision);
        let mut state: BTreeMap<Arc<str>, Entry> =
            list.entries.iter().map(|entry| (entry.key.clone(), entry.clone())).collect();
        let mut watch = store.watch(prefix, list.revision).expect("the history is there");
        let mut revision = list.revision;
        while let Some(change) = watch.try_next() {
            let change = change.expect("the watch keeps up");
            prop_assert!(change.revision > revision, "no duplicate and no reordering");
            revision = change.revision;
            prop_assert_eq!(state.remove(&change.key), change.previous.clone());
            state.extend(change.entry().map(|entry| (change.key.clone(), entry)));
        }
        prop_assert_eq!(state.into_values().collect::<Vec<_>>(), last.entries.clone());
    }
    Ok(())
}

//! A list and its watch always equal a later list: whatever is written meanwhile, however the watcher began, reads,
//! stops and goes on, whatever it selects, and although the history is forgotten behind it.
//!
//! Everything is in one task and one thread, and a watch's body is polled for what it has, so that "all that was
//! written has been told" is a fact and not a time to wait for.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use futures::FutureExt as _;
use http::StatusCode;
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::tests::Api;
use crate::store::{MemoryStore, Retention};

/// So few changes are remembered that watchers who rest are left behind.
const HISTORY: Retention = Retention { age: Duration::from_secs(3600), changes: 14, bytes: 1 << 20 };
const NAMESPACES: [&str; 2] = ["default", "kube-system"];
/// Of what: the path, and the selection.
const VIEWS: [(&str, &str); 6] = [
    ("/api/v1/configmaps", "labelSelector=mine"),
    ("/api/v1/configmaps", "labelSelector=mine%3Da"),
    ("/api/v1/configmaps", "labelSelector=mine+notin+%28a%29%2Cmine"),
    ("/api/v1/namespaces/default/configmaps", "labelSelector=mine"),
    ("/api/v1/namespaces/default/configmaps", "fieldSelector=metadata.name%3Dn1"),
    ("/api/v1/namespaces/kube-system/configmaps", "labelSelector=mine&fieldSelector=metadata.name%21%3Dn0"),
];

#[derive(Debug, Clone)]
enum Step {
    Create {
        namespace: usize,
        name: u8,
        label: char,
    },
    Relabel {
        namespace: usize,
        name: u8,
        label: char,
    },
    /// A write that changes nothing and is no event.
    Nothing {
        namespace: usize,
        name: u8,
    },
    Delete {
        namespace: usize,
        name: u8,
    },
    Open {
        view: usize,
        how: How,
    },
    Read {
        watcher: usize,
    },
    /// The connection is lost; the client watches again from what it last heard.
    Resume {
        watcher: usize,
    },
    /// A list in pages, with a write after each.
    Pages {
        view: usize,
        limit: usize,
    },
}

#[derive(Debug, Clone, Copy)]
enum How {
    List,
    WatchList,
    /// A watch that begins with what is there, without an end to it.
    Anything,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let object = || (0..NAMESPACES.len(), 0u8..4, prop::char::range('a', 'b'));
    let how = prop_oneof![Just(How::List), Just(How::WatchList), Just(How::Anything)];
    let step = prop_oneof![
        4 => object().prop_map(|(namespace, name, label)| Step::Create { namespace, name, label }),
        5 => object().prop_map(|(namespace, name, label)| Step::Relabel { namespace, name, label }),
        1 => object().prop_map(|(namespace, name, _)| Step::Nothing { namespace, name }),
        3 => object().prop_map(|(namespace, name, _)| Step::Delete { namespace, name }),
        3 => (0..VIEWS.len(), how).prop_map(|(view, how)| Step::Open { view, how }),
        4 => (0usize..8).prop_map(|watcher| Step::Read { watcher }),
        2 => (0usize..8).prop_map(|watcher| Step::Resume { watcher }),
        1 => (0..VIEWS.len(), 1usize..4).prop_map(|(view, limit)| Step::Pages { view, limit }),
    ];
    prop::collection::vec(step, 1..70)
}

/// What a client holds: objects by namespace and name.
type Objects = BTreeMap<(String, String), Value>;

fn place(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a version")
}

struct Watcher {
    view: usize,
    body: Body,
    half: Vec<u8>,
    seen: Objects,
    revision: u64,
    /// The initial events are still coming.
    beginning: bool,
}

/// What became of a watcher that has read all there is.
enum Now {
    UpToDate,
    /// 410: the history has gone on without it.
    Expired,
}

impl Watcher {
    /// Reads what has been sent so far.
    fn read(&mut self) -> Now {
        loop {
            match tokio::task::unconstrained(self.body.frame()).now_or_never() {
                None => return Now::UpToDate,
                Some(frame) => {
                    let frame = frame.expect("a watch that goes on").expect("never fails");
                    self.half.extend_from_slice(&frame.into_data().unwrap_or_default());
                }
            }
            while let Some(end) = self.half.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.half.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).expect("a line of JSON");
                if event["type"] == "ERROR" {
                    assert_eq!(
                        (&event["object"]["code"], &event["object"]["reason"]),
                        (&json!(410), &json!("Expired"))
                    );
                    return Now::Expired;
                }
                self.take(&event);
            }
        }
    }

    fn take(&mut self, event: &Value) {
        let (object, at) = (&event["object"], revision(&event["object"]));
        let known = self.seen.contains_key(&place(object));
        match event["type"].as_str() {
            Some("BOOKMARK") => {
                assert!(at >= self.revision, "a bookmark goes back: {event}");
                if object["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true" {
                    self.beginning = false;
                }
                self.revision = at;
                return;
            }
            Some("ADDED") => assert!(!known, "added twice: {event}"),
            Some("MODIFIED") => assert!(known, "modified and not there: {event}"),
            Some("DELETED") => assert!(known, "deleted and not there: {event}"),
            other => panic!("{other:?}: {event}"),
        }
        // Initial events come by name; then each is newer than all before.
        assert!(self.beginning || at > self.revision, "{at} after {}: {event}", self.revision);
        self.revision = self.revision.max(at);
        if event["type"] == "DELETED" {
            self.seen.remove(&place(object));
        } else {
            self.seen.insert(place(object), object.clone());
        }
    }
}

struct Run {
    api: Api,
    watchers: Vec<Watcher>,
}

impl Run {
    async fn list(&self, view: usize) -> (Objects, u64) {
        let (path, select) = VIEWS[view];
        let (code, list) = self.api.get(&format!("{path}?{select}")).await;
        assert_eq!(code, StatusCode::OK, "{list}");
        (items(&list), revision(&list))
    }

    async fn watch(&self, view: usize, how: &str) -> Body {
        let (path, select) = VIEWS[view];
        let request = Request::get(format!("{path}?watch=1&allowWatchBookmarks=true&{select}&{how}"));
        let response = self.api.router().oneshot(request.body(Body::empty()).expect("a request")).await;
        let response = response.expect("a router never fails");
        assert_eq!(response.status(), StatusCode::OK, "{how}");
        response.into_body()
    }

    async fn open(&self, view: usize, how: How) -> Watcher {
        let (seen, at) = match how {
            How::List => self.list(view).await,
            How::WatchList | How::Anything => (Objects::new(), 0),
        };
        let query = match how {
            How::List => format!("resourceVersion={at}"),
            How::WatchList => "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
            How::Anything => "resourceVersion=0".to_owned(),
        };
        let body = self.watch(view, &query).await;
        let mut watcher = Watcher { view, body, half: Vec::new(), seen, revision: at, beginning: true };
        match how {
            How::List => watcher.beginning = false,
            How::WatchList | How::Anything => {
                let (there, at) = self.list(view).await;
                assert!(matches!(watcher.read(), Now::UpToDate), "it has just begun");
                assert_eq!(watcher.seen, there, "the initial events are the list");
                match how {
                    How::WatchList => assert_eq!((watcher.beginning, watcher.revision), (false, at)),
                    _ => (watcher.beginning, watcher.revision) = (false, at),
                }
            }
        }
        watcher
    }

    /// Reads a watcher to the end and holds it against a list of now.
    async fn check(&mut self, index: usize) {
        let view = self.watchers[index].view;
        match self.watchers[index].read() {
            Now::UpToDate => {
                let (there, _) = self.list(view).await;
                assert_eq!(self.watchers[index].seen, there, "{:?}", VIEWS[view]);
            }
            // As a client does: it lists and watches anew.
            Now::Expired => self.watchers[index] = self.open(view, How::List).await,
        }
    }

    async fn step(&mut self, step: &Step) {
        let one =
            |namespace: usize, name: u8| format!("/api/v1/namespaces/{}/configmaps/n{name}", NAMESPACES[namespace]);
        match *step {
            Step::Create { namespace, name, label } => {
                let object = json!({"metadata": {"name": format!("n{name}"), "labels": {"mine": label}}});
                self.api.post(&format!("/api/v1/namespaces/{}/configmaps", NAMESPACES[namespace]), object).await;
            }
            Step::Relabel { namespace, name, label } => {
                let patch = json!({"metadata": {"labels": {"mine": label}}, "data": {"n": label}});
                self.api.merge(&one(namespace, name), patch).await;
            }
            Step::Nothing { namespace, name } => {
                self.api.merge(&one(namespace, name), json!({})).await;
            }
            Step::Delete { namespace, name } => {
                self.api.delete(&one(namespace, name)).await;
            }
            Step::Open { view, how } => {
                if self.watchers.len() < 8 {
                    self.watchers.push(self.open(view, how).await);
                }
            }
            Step::Read { watcher } => {
                if watcher < self.watchers.len() {
                    self.check(watcher).await;
                }
            }
            Step::Resume { watcher } => {
                let Some(view) = self.watchers.get(watcher).map(|watcher| watcher.view) else { return };
                let body = self.watch(view, &format!("resourceVersion={}", self.watchers[watcher].revision)).await;
                let watcher = &mut self.watchers[watcher];
                watcher.body = body;
                watcher.half.clear();
            }
            Step::Pages { view, limit } => self.pages(view, limit).await,
        }
    }

    /// All pages show what the first one did, whatever is written between them.
    async fn pages(&self, view: usize, limit: usize) {
        let (path, select) = VIEWS[view];
        let (there, at) = self.list(view).await;
        let (mut seen, mut token) = (Objects::new(), String::new());
        for page in 0.. {
            let (code, list) = self.api.get(&format!("{path}?{select}&limit={limit}&continue={token}")).await;
            if code == StatusCode::GONE {
                return;
            }
            assert_eq!((code, revision(&list)), (StatusCode::OK, at), "{list}");
            let items = items(&list);
            assert!(items.len() <= limit && items.keys().all(|place| !seen.contains_key(place)), "{list}");
            seen.extend(items);
            token = list["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                break;
            }
            let between = json!({"metadata": {"labels": {"page": page.to_string()}}});
            self.api.merge("/api/v1/namespaces/default/configmaps/n1", between).await;
        }
        assert_eq!(seen, there, "the pages of {:?}", VIEWS[view]);
    }
}

fn items(list: &Value) -> Objects {
    // Items of a list do not say their type, events do.
    let typed = |item: &Value| {
        let mut item = item.clone();
        item["apiVersion"] = "v1".into();
        item["kind"] = "ConfigMap".into();
        item
    };
    list["items"].as_array().expect("a list").iter().map(|item| (place(item), typed(item))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_list_and_its_watch_equal_every_later_list(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut run = Run { api: Api::over(MemoryStore::with_retention(HISTORY)).await, watchers: Vec::new() };
            for step in &steps {
                run.step(step).await;
            }
            for index in 0..run.watchers.len() {
                run.check(index).await;
            }
            run.api.server.shutdown();
            // The end of a watch is the clean end of its body.
            for watcher in &mut run.watchers {
                let end = tokio::task::unconstrained(watcher.body.frame()).now_or_never();
                prop_assert!(matches!(end, Some(None)), "{end:?}");
            }
            Ok(())
        })?;
    }
}

/// Who watches a quiet kind learns just before the end how far it has come, and goes on from there.
#[tokio::test]
async fn a_bookmark_is_a_place_to_go_on_from() {
    let run = Run { api: Api::over(MemoryStore::with_retention(HISTORY)).await, watchers: Vec::new() };
    let (seen, at) = run.list(1).await;
    let body = run.watch(1, &format!("resourceVersion={at}&timeoutSeconds=3")).await;
    let mut watcher = Watcher { view: 1, body, half: Vec::new(), seen, revision: at, beginning: false };
    for number in 0..5 {
        let other = json!({"metadata": {"name": format!("other-{number}"), "labels": {"mine": "b"}}});
        run.api.post("/api/v1/namespaces/default/configmaps", other).await;
    }
    let here = run.list(1).await.1;
    let text = std::mem::take(&mut watcher.body).collect().await.expect("a clean end").to_bytes();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        watcher.take(&serde_json::from_slice(line).expect("a line of JSON"));
    }
    assert_eq!((watcher.revision, watcher.seen.len()), (here, 0), "a bookmark alone has come");
    let mine = json!({"metadata": {"name": "mine", "labels": {"mine": "a"}}});
    run.api.post("/api/v1/namespaces/default/configmaps", mine).await;
    watcher.body = run.watch(1, &format!("resourceVersion={}", watcher.revision)).await;
    assert!(matches!(watcher.read(), Now::UpToDate));
    assert_eq!(watcher.seen, run.list(1).await.0);
}

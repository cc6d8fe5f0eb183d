use proptest::prelude::*;

use super::*;
use crate::node::log_reader::{Query, read};

const POD: &str = "ns_pod_uid";

fn logs() -> (tempfile::TempDir, Logs) {
    let dir = tempfile::tempdir().expect("a directory");
    let logs = Logs::start(dir.path().to_owned()).expect("a writer");
    (dir, logs)
}

async fn written(log: &ContainerLog) {
    log.close();
    let closed = log.progress().wait_for(|progress| progress.closed).await.map(|_| ());
    assert!(closed.is_ok());
}

async fn shown(logs: &Logs, run: u32, query: Query) -> String {
    let mut stream = read(logs.container_dir(POD, "c"), run, query, None);
    let mut text = Vec::new();
    while let Some(chunk) = stream.recv().await {
        text.extend_from_slice(&chunk.expect("readable"));
    }
    String::from_utf8(text).expect("text")
}

#[tokio::test]
async fn lines_are_shown_as_asked_for() {
    let (_dir, logs) = logs();
    let log = logs.open(POD, "c", 0);
    log.write(Stream::Stdout, b"one\ntw");
    log.write(Stream::Stderr, b"err\n");
    log.write(Stream::Stdout, b"o\nthree");
    written(&log).await;
    let all = Query::default();
    assert_eq!(shown(&logs, 0, all.clone()).await, "one\nerr\ntwo\nthree\n");
    assert_eq!(shown(&logs, 0, Query { tail: Some(2), ..all.clone() }).await, "two\nthree\n");
    assert_eq!(shown(&logs, 0, Query { tail: Some(0), ..all.clone() }).await, "");
    assert_eq!(shown(&logs, 0, Query { limit_bytes: Some(5), ..all.clone() }).await, "one\ne");
    let later = Timestamp::now().saturating_add(jiff::SignedDuration::from_secs(60)).expect("a time");
    assert_eq!(shown(&logs, 0, Query { since: Some(later), ..all.clone() }).await, "");
    let stamped = shown(&logs, 0, Query { timestamps: true, ..all }).await;
    assert!(stamped.lines().all(|line| line.split(' ').next().is_some_and(|stamp| stamp.parse::<Timestamp>().is_ok())));
}

#[tokio::test]
async fn a_follower_sees_what_is_written_until_the_end() {
    let (_dir, logs) = logs();
    let log = logs.open(POD, "c", 3);
    let query = Query { follow: true, ..Query::default() };
    let mut stream = read(logs.container_dir(POD, "c"), 3, query, Some(log.progress()));
    log.write(Stream::Stdout, b"first\n");
    assert_eq!(stream.recv().await.and_then(Result::ok).as_deref(), Some(&b"first\n"[..]));
    log.write(Stream::Stdout, b"last\n");
    log.close();
    assert_eq!(stream.recv().await.and_then(Result::ok).as_deref(), Some(&b"last\n"[..]));
    assert!(stream.recv().await.is_none());
}

#[tokio::test]
async fn a_long_line_is_kept_in_parts_and_shown_as_one() {
    let (_dir, logs) = logs();
    let log = logs.open(POD, "c", 0);
    let long = "x".repeat(3 * MAX_LINE + 7);
    log.write(Stream::Stdout, format!("{long}\nshort\n").as_bytes());
    written(&log).await;
    assert_eq!(shown(&logs, 0, Query::default()).await, format!("{long}\nshort\n"));
}

#[tokio::test]
async fn files_are_turned_and_read_through() {
    let (_dir, logs) = logs();
    let log = logs.open(POD, "c", 0);
    let line = [&b"y".repeat(1000)[..], b"\n"].concat();
    let lines = usize::try_from(MAX_FILE).expect("small") / line.len() + 100;
    for _ in 0..lines {
        log.write(Stream::Stdout, &line);
        log.flush();
    }
    written(&log).await;
    assert_eq!(files(&logs.container_dir(POD, "c"), 0).len(), 2);
    assert_eq!(shown(&logs, 0, Query::default()).await.lines().count(), lines);
    let tail = lines - 50;
    assert_eq!(shown(&logs, 0, Query { tail: Some(tail), ..Query::default() }).await.lines().count(), tail);
}

#[test]
fn a_flood_is_dropped_with_a_notice() {
    let mut buffer = Buffer::default();
    let chunk = [b"z".repeat(1023), b"\n".to_vec()].concat();
    for _ in 0..2 * MAX_BUFFERED / chunk.len() {
        buffer.take_in(Timestamp::UNIX_EPOCH, Stream::Stdout, &chunk);
    }
    assert!(buffer.dropped > 0);
    assert!(buffer.records.len() <= MAX_BUFFERED + 2 * chunk.len());
}

#[tokio::test]
async fn only_the_last_life_and_the_one_before_it_are_kept() {
    let (_dir, logs) = logs();
    for run in 0..3 {
        let log = logs.open(POD, "c", run);
        log.write(Stream::Stdout, format!("life {run}\n").as_bytes());
        written(&log).await;
    }
    assert_eq!(shown(&logs, 0, Query::default()).await, "");
    assert_eq!(shown(&logs, 1, Query::default()).await, "life 1\n");
}

proptest! {
    #[test]
    fn however_output_is_cut_the_lines_are_the_same(text in "[a-z\n]{0,200}", cuts in prop::collection::vec(0_usize..200, 0..5)) {
        let mut cut = Buffer::default();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(text.len())).chain([0, text.len()]).collect();
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            cut.take_in(Timestamp::UNIX_EPOCH, Stream::Stdout, &text.as_bytes()[pair[0]..pair[1]]);
        }
        let mut whole = Buffer::default();
        whole.take_in(Timestamp::UNIX_EPOCH, Stream::Stdout, text.as_bytes());
        prop_assert_eq!(cut.records, whole.records);
        prop_assert_eq!(cut.partial, whole.partial);
    }
}

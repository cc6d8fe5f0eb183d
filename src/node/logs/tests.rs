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
    // As slowly as it is allowed to.
    let mut now = Timestamp::now();
    for _ in 0..lines {
        now += jiff::SignedDuration::from_millis(2);
        log.take_in(now, Stream::Stdout, &line);
        log.flush();
    }
    written(&log).await;
    assert_eq!(files(&logs.container_dir(POD, "c"), 0).len(), 2);
    assert_eq!(shown(&logs, 0, Query::default()).await.lines().count(), lines);
    let tail = lines - 50;
    assert_eq!(shown(&logs, 0, Query { tail: Some(tail), ..Query::default() }).await.lines().count(), tail);
}

#[test]
fn a_flood_is_held_to_its_rate_and_the_log_says_what_was_dropped() {
    let mut buffer = Buffer::default();
    let chunk = [b"z".repeat(1023), b"\n".to_vec()].concat();
    let (mut now, mut kept, mut text) = (Timestamp::UNIX_EPOCH, 0, String::new());
    let seconds = 10;
    // Ten times what it may, for ten seconds.
    for _ in 0..seconds * 1000 {
        now += jiff::SignedDuration::from_millis(1);
        for _ in 0..10 {
            buffer.take_in(now, Stream::Stdout, &chunk);
        }
        kept += buffer.records.len();
        text.push_str(&String::from_utf8(std::mem::take(&mut buffer.records)).expect("text"));
    }
    buffer.tell_dropped(now);
    text.push_str(&String::from_utf8(std::mem::take(&mut buffer.records)).expect("text"));
    let most = MAX_BUFFERED + (seconds + 1) * usize::try_from(BYTES_PER_SECOND).expect("small");
    assert!((most / 2..most).contains(&kept), "{kept} of {most}");
    let lines = text.lines().filter(|line| line.ends_with('z')).count();
    let number = |line: &str, before: &str| line.split(before).next()?.rsplit([' ', '[']).next()?.parse::<usize>().ok();
    let notices = text.lines().filter(|line| line.contains(" were dropped here]"));
    let dropped: usize = notices.clone().filter_map(|line| number(line, " lines were dropped")).sum();
    assert_eq!(lines + dropped, seconds * 10_000, "every line is there or told");
    assert!(notices.count() <= seconds + 1);
    assert!(text.contains("[output is dropped from here on: it is more than 1048576 bytes a second]"));
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

//! What containers write, kept in files in the CRI text format.
//!
//! ```text
//! 2026-01-31T12:00:00.000000000Z stdout F a whole line
//! 2026-01-31T12:00:00.000000001Z stderr P the first part of a long one
//! ```
//!
//! A guest's write only fills a buffer in memory; one thread of the node writes the buffers out. So a
//! guest that floods its log is slowed by nothing and slows nobody: what is more than
//! [`BYTES_PER_SECOND`], after a burst of [`MAX_BUFFERED`], is dropped, and the log says from where and
//! how much. A file is opened for each batch rather than kept
//! open, for ten thousand pods are more than a process may have files. A container that writes
//! nothing has no file.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::runtime::{Output, Stream};

/// A file is turned at this size; the kubelet's default.
const MAX_FILE: u64 = 10 * 1024 * 1024;
/// Files of one life of a container, the present one included; the kubelet's default.
const MAX_FILES: usize = 5;
/// What one container may have waiting for the disk: enough for any burst that is not a flood.
const MAX_BUFFERED: usize = 4 * 1024 * 1024;
/// What one container may write for long: its neighbours share the disk and the thread that writes.
const BYTES_PER_SECOND: u64 = 1024 * 1024;
/// What a line costs besides its text: its time and its stream.
const LINE_OVERHEAD: u64 = 40;
/// A line longer than this is kept in parts.
const MAX_LINE: usize = 16 * 1024;

/// The writer of a node's logs. Its thread ends with the last log.
pub struct Logs {
    dir: PathBuf,
    dirty: Sender<Arc<ContainerLog>>,
}

impl Logs {
    /// # Errors
    /// If the directory or the thread cannot be made.
    pub fn start(dir: PathBuf) -> std::io::Result<Logs> {
        std::fs::create_dir_all(&dir)?;
        let (dirty, incoming) = channel();
        std::thread::Builder::new().name("logs".into()).spawn(move || write_out(&incoming))?;
        Ok(Logs { dir, dirty })
    }

    /// Where a container's logs are, one file (and its turned ones) a life.
    pub fn container_dir(&self, pod: &str, container: &str) -> PathBuf {
        self.dir.join(pod).join(container)
    }

    /// Removes the logs of a pod.
    pub async fn remove(&self, pod: &str) {
        let dir = self.dir.join(pod);
        let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dir)).await;
    }

    /// Removes the logs of pods that `known` does not know.
    pub fn sweep(&self, known: impl Fn(&str) -> bool) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|pod| !known(pod)) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    /// The log of one life of a container. Logs older than the life before it are removed.
    pub fn open(&self, pod: &str, container: &str, run: u32) -> Arc<ContainerLog> {
        let dir = self.container_dir(pod, container);
        if run >= 2 {
            remove_life(&dir, run - 2);
        }
        Arc::new_cyclic(|me| ContainerLog {
            path: dir.join(file_name(run)),
            me: me.clone(),
            dirty: self.dirty.clone(),
            buffer: Mutex::default(),
            written: watch::Sender::new(Progress { bytes: 0, closed: false }),
        })
    }
}

/// The file of one life.
pub fn file_name(run: u32) -> String {
    format!("{run}.log")
}

/// The files of one life, the oldest first. They may vanish while they are read.
pub fn files(dir: &Path, run: u32) -> VecDeque<PathBuf> {
    let name = file_name(run);
    let turned = (1..MAX_FILES).rev().map(|n| dir.join(format!("{name}.{n}")));
    turned.chain([dir.join(&name)]).filter(|path| path.exists()).collect()
}

fn remove_life(dir: &Path, run: u32) {
    for path in files(dir, run) {
        let _ = std::fs::remove_file(path);
    }
}

/// The output of one life of a container.
pub struct ContainerLog {
    path: PathBuf,
    me: Weak<ContainerLog>,
    dirty: Sender<Arc<ContainerLog>>,
    buffer: Mutex<Buffer>,
    written: watch::Sender<Progress>,
}

/// How far the file has come; readers that follow wait for a change of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub bytes: u64,
    /// Nothing more will come.
    pub closed: bool,
}

#[derive(Default)]
struct Buffer {
    /// Finished records.
    records: Vec<u8>,
    /// Lines that have not ended: of stdout, of stderr.
    partial: [Vec<u8>; 2],
    flow: Flow,
    queued: bool,
    closed: bool,
}

impl ContainerLog {
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.written.subscribe()
    }

    /// The container has ended: what it left of a line is written out as one.
    pub fn close(&self) {
        let queue = {
            let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Timestamp::now();
            buffer.tell_dropped(now);
            for stream in [Stream::Stdout, Stream::Stderr] {
                let rest = std::mem::take(&mut buffer.partial[slot(stream)]);
                if !rest.is_empty() {
                    buffer.record(now, stream, b'F', &rest);
                }
            }
            buffer.closed = true;
            !std::mem::replace(&mut buffer.queued, true)
        };
        if queue {
            self.enqueue();
        }
    }

    fn enqueue(&self) {
        if let Some(me) = self.me.upgrade() {
            // At most one entry a log is in the queue, so it is bounded by their number.
            let _ = self.dirty.send(me);
        }
    }

    /// Writes out what is buffered. Only the log thread calls it.
    fn flush(&self) {
        let (records, closed) = {
            let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            buffer.queued = false;
            (std::mem::take(&mut buffer.records), buffer.closed)
        };
        let mut bytes = self.written.borrow().bytes;
        if !records.is_empty() {
            match self.append(&records) {
                Ok(written) => bytes += written,
                Err(error) => tracing::warn!(path = %self.path.display(), %error, "cannot write a container's log"),
            }
        }
        self.written.send_replace(Progress { bytes, closed });
    }

    fn append(&self, records: &[u8]) -> std::io::Result<u64> {
        let mut file = self.file()?;
        file.write_all(records)?;
        if file.metadata()?.len() >= MAX_FILE {
            turn(&self.path)?;
        }
        Ok(records.len() as u64)
    }

    fn file(&self) -> std::io::Result<File> {
        let open = || OpenOptions::new().create(true).append(true).open(&self.path);
        match open() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                open()
            }
            opened => opened,
        }
    }
}

/// Moves the file out of the way of a new one, and the older ones on by one.
fn turn(path: &Path) -> std::io::Result<()> {
    let numbered = |n: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    for n in (1..MAX_FILES - 1).rev() {
        match std::fs::rename(numbered(n), numbered(n + 1)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, numbered(1))
}

fn write_out(incoming: &Receiver<Arc<ContainerLog>>) {
    while let Ok(log) = incoming.recv() {
        log.flush();
    }
}

impl Output for ContainerLog {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        self.take_in(Timestamp::now(), stream, bytes);
    }

    fn write_at(&self, stream: Stream, bytes: &[u8], at: SystemTime) {
        self.take_in(Timestamp::try_from(at).unwrap_or_else(|_| Timestamp::now()), stream, bytes);
    }

    /// From the files that a process before this has left.
    fn heard_until(&self) -> Option<SystemTime> {
        let (dir, name) = (self.path.parent()?, self.path.file_name()?.to_str()?);
        let run = name.strip_suffix(".log")?.parse().ok()?;
        files(dir, run).iter().rev().find_map(|path| last_time(path))
    }
}

/// The time of a file's last record.
fn last_time(path: &Path) -> Option<SystemTime> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    // A record is a line of at most so many bytes and what is before it.
    const TAIL: u64 = 2 * MAX_LINE as u64;
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let records = bytes.rsplit(|byte| *byte == b'\n').filter(|record| !record.is_empty());
    let mut times = records.filter_map(|record| {
        let word = record.split(|byte| *byte == b' ').next()?;
        std::str::from_utf8(word).ok()?.parse::<Timestamp>().ok()
    });
    times.next().map(SystemTime::from)
}

impl ContainerLog {
    fn take_in(&self, now: Timestamp, stream: Stream, bytes: &[u8]) {
        let queue = {
            let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            let ready = buffer.take_in(now, stream, bytes);
            ready && !std::mem::replace(&mut buffer.queued, true)
        };
        if queue {
            self.enqueue();
        }
    }
}

/// How much a container may still write: a bucket into which [`BYTES_PER_SECOND`] flow.
#[derive(Debug)]
struct Flow {
    tokens: u64,
    filled_at: Timestamp,
    /// Nothing is taken in until a second's worth has flowed in, so that what is dropped is told once a
    /// second rather than at every other line.
    dry: bool,
    dropped_bytes: u64,
    dropped_lines: u64,
}

impl Default for Flow {
    fn default() -> Self {
        let filled_at = Timestamp::UNIX_EPOCH;
        Self { tokens: MAX_BUFFERED as u64, filled_at, dry: false, dropped_bytes: 0, dropped_lines: 0 }
    }
}

impl Flow {
    /// Whether `bytes` may be taken in, and have been paid for.
    fn admits(&mut self, now: Timestamp, bytes: &[u8], has_room: bool) -> bool {
        let elapsed = now.as_millisecond().saturating_sub(self.filled_at.as_millisecond());
        let flowed_in = u64::try_from(elapsed).unwrap_or(0).saturating_mul(BYTES_PER_SECOND / 1000);
        self.tokens = self.tokens.saturating_add(flowed_in).min(MAX_BUFFERED as u64);
        self.filled_at = now;
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        let cost = bytes.len() as u64 + lines * LINE_OVERHEAD;
        if !has_room || cost > self.tokens || (self.dry && self.tokens < BYTES_PER_SECOND) {
            self.dry = true;
            self.dropped_bytes += bytes.len() as u64;
            self.dropped_lines += lines;
            return false;
        }
        self.tokens -= cost;
        true
    }
}

fn slot(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

impl Buffer {
    /// Takes in output; returns whether there is something to write out.
    fn take_in(&mut self, now: Timestamp, stream: Stream, bytes: &[u8]) -> bool {
        let (was_dry, has_room) = (self.flow.dry, self.records.len() + bytes.len() <= MAX_BUFFERED);
        if !self.flow.admits(now, bytes, has_room) {
            if !was_dry {
                let text =
                    format!("[output is dropped from here on: it is more than {BYTES_PER_SECOND} bytes a second]");
                self.record(now, Stream::Stderr, b'F', text.as_bytes());
            }
            return !self.records.is_empty();
        }
        self.tell_dropped(now);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) => self.end_line(now, stream, end),
                None => self.partial[slot(stream)].extend_from_slice(piece),
            }
            self.split_long(now, stream);
        }
        !self.records.is_empty()
    }

    /// Says how much was dropped, once it is over.
    fn tell_dropped(&mut self, now: Timestamp) {
        if std::mem::replace(&mut self.flow.dry, false) {
            let bytes = std::mem::take(&mut self.flow.dropped_bytes);
            let lines = std::mem::take(&mut self.flow.dropped_lines);
            let text = format!("[{bytes} bytes of output in {lines} lines were dropped here]");
            self.record(now, Stream::Stderr, b'F', text.as_bytes());
        }
    }

    fn end_line(&mut self, now: Timestamp, stream: Stream, end: &[u8]) {
        if self.partial[slot(stream)].is_empty() && end.len() <= MAX_LINE {
            return self.record(now, stream, b'F', end);
        }
        let mut line = std::mem::take(&mut self.partial[slot(stream)]);
        line.extend_from_slice(end);
        let mut rest = line.as_slice();
        while rest.len() > MAX_LINE {
            let (part, tail) = rest.split_at(MAX_LINE);
            self.record(now, stream, b'P', part);
            rest = tail;
        }
        self.record(now, stream, b'F', rest);
    }

    fn split_long(&mut self, now: Timestamp, stream: Stream) {
        while self.partial[slot(stream)].len() > MAX_LINE {
            let tail = self.partial[slot(stream)].split_off(MAX_LINE);
            let part = std::mem::replace(&mut self.partial[slot(stream)], tail);
            self.record(now, stream, b'P', &part);
        }
    }

    fn record(&mut self, now: Timestamp, stream: Stream, tag: u8, content: &[u8]) {
        let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
        // Writing to a vector cannot fail.
        let _ = write!(self.records, "{} {name} {} ", stamp(now), char::from(tag));
        self.records.extend_from_slice(content);
        self.records.push(b'\n');
    }
}

/// As the CRI writes times, always with nine digits.
fn stamp(at: Timestamp) -> String {
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%S.%9fZ", at).unwrap_or_default()
}

#[cfg(test)]
mod tests;

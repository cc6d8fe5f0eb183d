//! What containers write, kept in files in the CRI text format.
//!
//! ```text
//! 2026-01-31T12:00:00.000000000Z stdout F a whole line
//! 2026-01-31T12:00:00.000000001Z stderr P the first part of a long one
//! ```
//!
//! A guest's write only fills a buffer in memory; one thread of the node writes the buffers out. So a
//! guest that floods its log is slowed by nothing and slows nobody: beyond [`MAX_BUFFERED`] its
//! output is dropped, and the log says how much. A file is opened for each batch rather than kept
//! open, for ten thousand pods are more than a process may have files. A container that writes
//! nothing has no file.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::runtime::{Output, Stream};

/// A file is turned at this size; the kubelet's default.
const MAX_FILE: u64 = 10 * 1024 * 1024;
/// Files of one life of a container, the present one included; the kubelet's default.
const MAX_FILES: usize = 5;
/// What one container may have waiting for the disk: enough for any burst that is not a flood.
const MAX_BUFFERED: usize = 4 * 1024 * 1024;
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
    dropped: u64,
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
        let (records, dropped, closed) = {
            let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            buffer.queued = false;
            (std::mem::take(&mut buffer.records), std::mem::take(&mut buffer.dropped), buffer.closed)
        };
        let mut bytes = self.written.borrow().bytes;
        if !records.is_empty() || dropped > 0 {
            match self.append(records, dropped) {
                Ok(written) => bytes += written,
                Err(error) => tracing::warn!(path = %self.path.display(), %error, "cannot write a container's log"),
            }
        }
        self.written.send_replace(Progress { bytes, closed });
    }

    fn append(&self, mut records: Vec<u8>, dropped: u64) -> std::io::Result<u64> {
        if dropped > 0 {
            let mut notice = Buffer::default();
            let text = format!("[{dropped} bytes of output were dropped here: more than the log can take in]");
            notice.record(Timestamp::now(), Stream::Stderr, b'F', text.as_bytes());
            records.append(&mut notice.records);
        }
        let mut file = self.file()?;
        file.write_all(&records)?;
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
        let queue = {
            let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            let ready = buffer.take_in(Timestamp::now(), stream, bytes);
            ready && !std::mem::replace(&mut buffer.queued, true)
        };
        if queue {
            self.enqueue();
        }
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
        if self.records.len() + bytes.len() > MAX_BUFFERED {
            self.dropped += bytes.len() as u64;
            return true;
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) => self.end_line(now, stream, end),
                None => self.partial[slot(stream)].extend_from_slice(piece),
            }
            self.split_long(now, stream);
        }
        !self.records.is_empty()
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

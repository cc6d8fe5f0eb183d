//! Reading a container's log: `kubectl logs` with all its flags.
//!
//! A [`Query`] is answered as a stream of bytes that a slow reader holds back, from the file of the
//! first line wanted through those after it, and then, with `follow`, as more is written. Nothing is
//! held in memory but one line and one chunk.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::{mpsc, watch};

use super::logs::{Progress, file_name, files};

/// Chunks on their way to a reader; a slow one holds the reading back.
const CHUNKS: usize = 4;
/// Lines are gathered into chunks of about this size.
const CHUNK: usize = 32 * 1024;

/// What `PodLogOptions` ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pub follow: bool,
    pub previous: bool,
    /// Only the last lines.
    pub tail: Option<usize>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
}

/// Reads the log of life `run` below `dir`. `progress` is the writer's, if that life goes on.
pub fn read(
    dir: PathBuf,
    run: u32,
    query: Query,
    progress: Option<watch::Receiver<Progress>>,
) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    tokio::spawn(async move {
        let mut reading = Reading { filter: Filter::new(query), chunk: Vec::new(), sender };
        match reading.run(&dir, run, progress).await {
            Ok(()) | Err(Stopped::ReaderGone) => {}
            Err(Stopped::Failed(error)) => {
                let _ = reading.sender.send(Err(error)).await;
            }
        }
    });
    receiver
}

/// Why reading ended early.
enum Stopped {
    ReaderGone,
    Failed(io::Error),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Stopped::Failed(error)
    }
}

struct Reading {
    filter: Filter,
    chunk: Vec<u8>,
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Reading {
    async fn run(&mut self, dir: &Path, run: u32, progress: Option<watch::Receiver<Progress>>) -> Result<(), Stopped> {
        let mut files = files(dir, run);
        let mut skip = 0;
        if let Some(tail) = self.filter.query.tail {
            (files, skip) = last_lines(files, tail).await?;
        }
        let present = dir.join(file_name(run));
        while let Some(path) = files.pop_front() {
            if path == present && self.filter.query.follow {
                break;
            }
            let Some(mut lines) = Lines::open(&path).await? else { continue };
            self.lines(&mut lines, &mut skip).await?;
        }
        match progress {
            Some(progress) if self.filter.query.follow => self.follow(&present, &mut skip, progress).await?,
            _ if self.filter.query.follow => {
                if let Some(mut lines) = Lines::open(&present).await? {
                    self.lines(&mut lines, &mut skip).await?;
                }
            }
            _ => {}
        }
        self.send().await
    }

    /// Reads on as the file grows and is turned, until the container has ended.
    async fn follow(
        &mut self,
        path: &Path,
        skip: &mut usize,
        mut progress: watch::Receiver<Progress>,
    ) -> Result<(), Stopped> {
        let mut lines: Option<Lines> = None;
        loop {
            // Read before the file is: what is written meanwhile wakes this loop again.
            let closed = progress.borrow_and_update().closed;
            if lines.is_none() {
                lines = Lines::open(path).await?;
            }
            if let Some(open) = &mut lines {
                self.lines(open, skip).await?;
                self.send().await?;
                if self.filter.full() {
                    return Ok(());
                }
                if open.turned(path).await? {
                    lines = None;
                    continue;
                }
            }
            if closed {
                return Ok(());
            }
            tokio::select! {
                changed = progress.changed() => if changed.is_err() { return Ok(()) },
                () = self.sender.closed() => return Err(Stopped::ReaderGone),
            }
        }
    }

    async fn lines(&mut self, lines: &mut Lines, skip: &mut usize) -> Result<(), Stopped> {
        while let Some(line) = lines.next().await? {
            if *skip > 0 {
                *skip -= 1;
                continue;
            }
            self.filter.take(&line, &mut self.chunk);
            if self.filter.full() {
                return Ok(());
            }
            if self.chunk.len() >= CHUNK {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Stopped> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        self.sender.send(Ok(chunk)).await.map_err(|_| Stopped::ReaderGone)
    }
}

/// Which records are shown, and how. Pure.
struct Filter {
    query: Query,
    left: u64,
    /// The last record was not the end of its line.
    within_line: bool,
}

impl Filter {
    fn new(query: Query) -> Filter {
        let left = query.limit_bytes.unwrap_or(u64::MAX);
        Filter { query, left, within_line: false }
    }

    fn full(&self) -> bool {
        self.left == 0
    }

    fn take(&mut self, record: &[u8], out: &mut Vec<u8>) {
        let Some(record) = Record::parse(record) else { return };
        if self.query.since.is_some_and(|since| record.time().is_some_and(|time| time < since)) {
            return;
        }
        let start = out.len();
        if self.query.timestamps && !self.within_line {
            out.extend_from_slice(record.stamp);
            out.push(b' ');
        }
        out.extend_from_slice(record.content);
        if record.whole {
            out.push(b'\n');
        }
        self.within_line = !record.whole;
        let room = usize::try_from(self.left).unwrap_or(usize::MAX);
        out.truncate(out.len().min(start.saturating_add(room)));
        self.left = self.left.saturating_sub((out.len() - start) as u64);
    }
}

struct Record<'a> {
    stamp: &'a [u8],
    whole: bool,
    content: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(line: &'a [u8]) -> Option<Record<'a>> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (stamp, _stream, tag, content) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Record { stamp, whole: tag == b"F", content })
    }

    fn time(&self) -> Option<Timestamp> {
        std::str::from_utf8(self.stamp).ok()?.parse().ok()
    }
}

/// The complete records of one file.
struct Lines {
    reader: BufReader<File>,
    id: (u64, u64),
    line: Vec<u8>,
}

impl Lines {
    /// `None` if the file is not there (any more).
    async fn open(path: &Path) -> io::Result<Option<Lines>> {
        let file = match File::open(path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let id = identity(&file.metadata().await?);
        Ok(Some(Lines { reader: BufReader::with_capacity(CHUNK, file), id, line: Vec::new() }))
    }

    /// The next record, without its newline. One that is still being written is left for later.
    async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.reader.read_until(b'\n', &mut self.line).await?;
        if self.line.pop_if(|last| *last == b'\n').is_none() {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.line)))
    }

    /// Whether `path` is another file by now.
    async fn turned(&self, path: &Path) -> io::Result<bool> {
        match tokio::fs::metadata(path).await {
            Ok(meta) => Ok(identity(&meta) != self.id),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn identity(meta: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (meta.dev(), meta.ino())
}

/// The files that hold the last `tail` records, and how many records of the first are too many.
async fn last_lines(mut files: VecDeque<PathBuf>, tail: usize) -> io::Result<(VecDeque<PathBuf>, usize)> {
    let mut kept = VecDeque::new();
    let mut count = 0_usize;
    while let Some(path) = files.pop_back() {
        if let Some(mut lines) = Lines::open(&path).await? {
            while lines.next().await?.is_some() {
                count += 1;
            }
            kept.push_front(path);
        }
        if count >= tail {
            break;
        }
    }
    Ok((kept, count.saturating_sub(tail)))
}

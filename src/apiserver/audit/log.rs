//! The file of the audit log: a line an event, rotated by size.
//!
//! A thread of its own writes, what waits together; the queue to it is bounded, and a request waits for
//! room in it: an event is told late rather than not at all. A line that the disk does not take is lost,
//! and the log of the server says so.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot};

/// Events that wait for the disk.
const MAX_QUEUE: usize = 1024;
/// What is written in one go.
const MAX_BATCH_BYTES: usize = 256 * 1024;

/// Where the log is, and how much is kept of it.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// `-` is the standard output.
    pub path: PathBuf,
    /// The size at which a file is put aside; 0 is never.
    pub max_bytes: u64,
    /// How many files that were put aside are kept; 0 is all.
    pub max_backups: usize,
}

enum Message {
    Line(String),
    /// Answered when all that was sent before is written.
    Flush(oneshot::Sender<()>),
}

/// The way to the writer. Cheap to clone.
#[derive(Clone)]
pub struct Log(mpsc::Sender<Message>);

impl Log {
    /// Opens the file and starts its writer, which ends with the last clone.
    pub fn open(config: LogConfig) -> Result<Self> {
        let mut sink = Sink::open(config)?;
        let (sender, mut lines) = mpsc::channel(MAX_QUEUE);
        let work = move || {
            while let Some(message) = lines.blocking_recv() {
                let mut waiting = Some(message);
                let (mut batch, mut done) = (Vec::new(), Vec::new());
                while let Some(message) = waiting {
                    match message {
                        Message::Line(line) => {
                            batch.extend_from_slice(line.as_bytes());
                            batch.push(b'\n');
                        }
                        Message::Flush(answer) => done.push(answer),
                    }
                    waiting = if batch.len() < MAX_BATCH_BYTES { lines.try_recv().ok() } else { None };
                }
                if let Err(error) = sink.write(&batch) {
                    tracing::error!(%error, bytes = batch.len(), "cannot write the audit log; events are lost");
                }
                for answer in done {
                    let _ = answer.send(());
                }
            }
        };
        std::thread::Builder::new().name("audit-log".to_owned()).spawn(work)?;
        Ok(Self(sender))
    }

    pub async fn line(&self, line: String) {
        let _ = self.0.send(Message::Line(line)).await;
    }

    /// The same from where nobody can wait; `false`: there was no room.
    pub fn try_line(&self, line: String) -> bool {
        self.0.try_send(Message::Line(line)).is_ok()
    }

    /// Waits until all that was told before is written.
    pub async fn flush(&self) {
        let (answer, written) = oneshot::channel();
        if self.0.send(Message::Flush(answer)).await.is_ok() {
            let _ = written.await;
        }
    }
}

struct Sink {
    config: LogConfig,
    file: Option<File>,
    bytes: u64,
}

impl Sink {
    fn open(config: LogConfig) -> Result<Self> {
        let mut sink = Self { config, file: None, bytes: 0 };
        if !sink.is_stdout() {
            sink.reopen().with_context(|| format!("cannot open the audit log {}", sink.config.path.display()))?;
        }
        Ok(sink)
    }

    fn is_stdout(&self) -> bool {
        self.config.path == Path::new("-")
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Some(dir) = self.config.path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::create_dir_all(dir)?;
        }
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        // What is told of requests is nobody else's business.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&self.config.path)?;
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.is_stdout() {
            return io::stdout().lock().write_all(batch);
        }
        let full = self.config.max_bytes > 0 && self.bytes + batch.len() as u64 > self.config.max_bytes;
        if full && self.bytes > 0 {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(batch)?;
            self.bytes += batch.len() as u64;
        }
        Ok(())
    }

    /// Puts the file aside under a name with the time, and removes the oldest ones.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let path = &self.config.path;
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S%.6f").to_string();
        fs::rename(path, aside(path, &now))?;
        self.reopen()?;
        let mut old = backups(&self.config.path)?;
        if self.config.max_backups > 0 && old.len() > self.config.max_backups {
            old.truncate(old.len() - self.config.max_backups);
            old.into_iter().try_for_each(fs::remove_file)?;
        }
        Ok(())
    }
}

/// `audit.log` → `audit-<when>.log`
fn aside(path: &Path, when: &str) -> PathBuf {
    let (stem, extension) = parts(path);
    path.with_file_name(format!("{stem}-{when}{extension}"))
}

fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    (text(path.file_stem()).unwrap_or_default(), text(path.extension()).map(|e| format!(".{e}")).unwrap_or_default())
}

/// The files that were put aside, oldest first.
fn backups(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (stem, extension) = parts(path);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?.path();
        let name = entry.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let when = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
        if when.is_some_and(|when| when.starts_with(|c: char| c.is_ascii_digit())) {
            found.push(entry);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_kept_in_files_of_a_size() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("logs/audit.log");
        let log = Log::open(LogConfig { path: path.clone(), max_bytes: 40, max_backups: 2 }).expect("opened");
        for number in 0..10 {
            log.line(format!("{{\"number\": {number}, \"some\": \"text\"}}")).await;
            log.flush().await;
        }
        assert_eq!(fs::read_to_string(&path).expect("a file"), "{\"number\": 9, \"some\": \"text\"}\n");
        let old: Vec<String> =
            backups(&path).expect("a directory").iter().map(|file| fs::read_to_string(file).expect("a file")).collect();
        assert_eq!(old, ["{\"number\": 7, \"some\": \"text\"}\n", "{\"number\": 8, \"some\": \"text\"}\n"]);
    }
}

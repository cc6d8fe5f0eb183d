//! A container's last words: `terminationMessagePath` and `terminationMessagePolicy`.
//!
//! What the container left in the file is the message of its end. With `FallbackToLogsOnError`, a
//! failure that left nothing is told by the end of the log. Where the runtime itself has something to
//! say (a trap, a limit), it says it when the container did not, and after what the log shows.
//!
//! A Wasm container has only the directories that its pod declares, so the file needs one: a volume that
//! covers the path, or a directory of its own, made when the pod names a path other than the default. A
//! runtime that mounts files is given the file.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

use super::log_reader::{self, Query};
use super::logs::ContainerLog;
use crate::runtime::{Exit, Mount};

/// What Kubernetes keeps of a message, and of a log in its place.
const MAX_MESSAGE: usize = 4096;
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;
/// How long the log's last lines may take to the disk.
const LOG_PATIENCE: Duration = Duration::from_secs(1);
/// What the API server fills in where a pod says nothing.
const DEFAULT_PATH: &str = "/dev/termination-log";

/// The file: below a directory of the host that the container can write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    dir: PathBuf,
    rest: String,
}

/// What is looked at when a container has ended.
pub struct LastWords {
    place: Option<Place>,
    fall_back: bool,
    log: Arc<ContainerLog>,
    log_dir: PathBuf,
    run: u32,
}

/// Where the container may leave its message. Makes room for it at `own`, where no mount covers the path.
/// `files`: the container can be given the file itself.
pub fn place(
    container: &core::Container,
    mounts: &mut Vec<Mount>,
    own: PathBuf,
    files: bool,
) -> Result<Option<Place>, String> {
    let path = container.termination_message_path.as_deref().unwrap_or(DEFAULT_PATH);
    if path.is_empty() || path.split('/').any(|part| part == "..") {
        return Ok(None);
    }
    let below = |mount: &Mount| {
        let rest = path.strip_prefix(mount.guest.trim_end_matches('/'))?.strip_prefix('/')?;
        Some((mount.guest.len(), Place { dir: mount.host.clone(), rest: rest.to_owned() }, mount.read_only))
    };
    let covering = mounts.iter().filter_map(below).max_by_key(|(length, ..)| *length);
    let place = match covering {
        Some((_, _, true)) => return Ok(None),
        Some((_, place, false)) => place,
        None if files => return file_at(path, mounts, own).map(Some),
        None if path == DEFAULT_PATH => return Ok(None),
        None => {
            let (parent, name) = path
                .rsplit_once('/')
                .filter(|(_, name)| !name.is_empty())
                .ok_or_else(|| format!("terminationMessagePath {path:?} is not the absolute path of a file"))?;
            std::fs::create_dir_all(&own).map_err(|error| format!("cannot make {}: {error}", own.display()))?;
            let guest = if parent.is_empty() { "/" } else { parent };
            mounts.push(Mount::new(own.clone(), guest, false));
            Place { dir: own, rest: name.to_owned() }
        }
    };
    place.forget();
    Ok(Some(place))
}

/// An empty file of the host at the path.
fn file_at(path: &str, mounts: &mut Vec<Mount>, own: PathBuf) -> Result<Place, String> {
    let name = "message";
    let made = std::fs::create_dir_all(&own).and_then(|()| {
        let file = File::create(own.join(name))?;
        // Whoever the container's user is.
        file.set_permissions(std::fs::Permissions::from_mode(0o666))
    });
    made.map_err(|error| format!("cannot make a file in {}: {error}", own.display()))?;
    mounts.push(Mount::new(own.join(name), path, false));
    Ok(Place { dir: own, rest: name.to_owned() })
}

impl Place {
    /// What an earlier life has left is not this one's.
    fn forget(&self) {
        let (parent, name) = self.rest.rsplit_once('/').unwrap_or((".", &self.rest));
        if let Ok(parent) = self.open(parent, OFlags::PATH | OFlags::DIRECTORY) {
            let _ = rustix::fs::unlinkat(parent, name, AtFlags::empty());
        }
    }

    fn open(&self, path: &str, flags: OFlags) -> std::io::Result<rustix::fd::OwnedFd> {
        let dir = rustix::fs::open(&self.dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // A guest may have put a link there: it must not make the host read its own files.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    /// The message; empty if there is none.
    fn read(&self) -> String {
        let Ok(file) = self.open(&self.rest, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) else {
            return String::new();
        };
        let regular =
            rustix::fs::fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let mut bytes = Vec::new();
        if regular {
            let _ = File::from(file).take(MAX_MESSAGE as u64).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl LastWords {
    pub fn new(
        container: &core::Container,
        place: Option<Place>,
        log: Arc<ContainerLog>,
        log_dir: PathBuf,
        run: u32,
    ) -> Self {
        let fall_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        Self { place, fall_back, log, log_dir, run }
    }

    /// The end with its message.
    pub async fn of(self, exit: Exit) -> Exit {
        if let Some(place) = self.place.clone() {
            let said = tokio::task::spawn_blocking(move || place.read()).await.unwrap_or_default();
            if !said.is_empty() {
                return Exit { message: said, ..exit };
            }
        }
        if !self.fall_back || exit.code == 0 {
            return exit;
        }
        let log = self.end_of_log().await;
        let parts = [log.trim_end(), exit.message.as_str()];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let mut message = parts.join("\n");
        if message.len() > MAX_MESSAGE {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        }
        Exit { message, ..exit }
    }

    async fn end_of_log(&self) -> String {
        self.log.close();
        let mut progress = self.log.progress();
        let _ = tokio::time::timeout(LOG_PATIENCE, progress.wait_for(|progress| progress.closed)).await;
        let query = Query { tail: Some(MAX_LOG_LINES), ..Query::default() };
        let mut chunks = log_reader::read(self.log_dir.clone(), self.run, query, None);
        let mut bytes = Vec::new();
        while let Some(Ok(chunk)) = chunks.recv().await {
            bytes.extend_from_slice(&chunk);
            let surplus = bytes.len().saturating_sub(MAX_LOG_BYTES);
            bytes.drain(..surplus);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(path: &str) -> core::Container {
        core::Container { termination_message_path: Some(path.into()), ..core::Container::default() }
    }

    #[test]
    fn a_message_has_a_volume_or_a_directory_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (data, own) = (dir.path().join("data"), dir.path().join("own"));
        std::fs::create_dir(&data).unwrap();
        let mut mounts = vec![Mount::new(data.clone(), "/data", false)];
        assert_eq!(place(&container(DEFAULT_PATH), &mut mounts, own.clone(), false), Ok(None));
        assert_eq!(place(&container("/data/../x"), &mut mounts, own.clone(), false), Ok(None));
        assert!(!own.exists());
        let covered = place(&container("/data/said"), &mut mounts, own.clone(), false).unwrap().unwrap();
        assert_eq!((covered.dir.as_path(), covered.rest.as_str(), mounts.len()), (data.as_path(), "said", 1));
        std::fs::write(data.join("said"), "goodbye").unwrap();
        assert_eq!(covered.read(), "goodbye");
        let alone = place(&container("/run/said"), &mut mounts, own.clone(), false).unwrap().unwrap();
        assert_eq!((alone.dir.as_path(), mounts.len(), mounts[1].guest.as_str()), (own.as_path(), 2, "/run"));
        std::fs::write(own.join("said"), "of an earlier life").unwrap();
        alone.forget();
        assert_eq!(alone.read(), "");
    }

    #[test]
    fn a_link_does_not_make_the_host_tell_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "the host's own").unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink("../secret", data.join("said")).unwrap();
        let place = Place { dir: data.clone(), rest: "said".into() };
        assert_eq!(place.read(), "");
        place.forget();
        assert!(dir.path().join("secret").exists() && !data.join("said").exists());
        std::fs::write(data.join("said"), "x".repeat(10_000)).unwrap();
        assert_eq!(place.read().len(), MAX_MESSAGE);
    }
}

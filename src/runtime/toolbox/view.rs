//! The files that a container sees, and nothing else.
//!
//! Between the mounts there is only a skeleton of directories that lead to them. Below a mount, paths
//! are the kernel's business: `openat2` with `RESOLVE_BENEATH` follows a link only as long as it stays
//! inside, whoever renames what meanwhile. The last part of a path that is written, removed or looked at
//! without following is used with its parent's descriptor, for which the same holds.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::super::Mount;

/// Names of one directory that are listed; more would be memory that a guest can make the host use.
const MAX_NAMES: usize = 100_000;
/// How often a path is looked up again that others rename at the same time.
const ATTEMPTS: usize = 16;

/// The mounted directories, opened once.
pub struct View {
    mounts: Vec<Root>,
}

struct Root {
    /// The parts of the path that the guest sees.
    guest: Vec<String>,
    read_only: bool,
    dir: io::Result<OwnedFd>,
}

/// Where a path leads.
enum Place<'a> {
    /// A directory that only leads to mounts.
    Skeleton(BTreeSet<String>),
    /// Beneath a mount; `.` for the mount itself.
    Beneath(&'a Root, String),
}

/// What a path is.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub kind: FileType,
    pub mode: u32,
    pub size: u64,
    /// Seconds since 1970.
    pub modified: i64,
}

impl View {
    pub fn new(mounts: &[Mount]) -> View {
        let open = |mount: &Mount| -> io::Result<OwnedFd> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::open(&mount.host, flags, Mode::empty())?)
        };
        let root = |mount: &Mount| Root { guest: parts(&mount.guest), read_only: mount.read_only, dir: open(mount) };
        View { mounts: mounts.iter().map(root).collect() }
    }

    /// For a path outside all mounts: what there is instead.
    pub fn hint(&self, path: &str) -> Option<String> {
        if matches!(self.place(path), Ok(Place::Beneath(..))) {
            return None;
        }
        let mut seen: Vec<String> = self.mounts.iter().map(|root| format!("/{}", root.guest.join("/"))).collect();
        seen.sort();
        Some(match seen.as_slice() {
            [] => " (no volume is mounted in this container, so it sees no files)".to_owned(),
            seen => format!(" (this container sees {})", seen.join(", ")),
        })
    }

    fn place(&self, path: &str) -> io::Result<Place<'_>> {
        let wanted = parts(path);
        let holds = |root: &&Root| wanted.starts_with(&root.guest);
        // The deepest mount has it.
        if let Some(root) = self.mounts.iter().filter(holds).max_by_key(|root| root.guest.len()) {
            let rest = wanted.get(root.guest.len()..).unwrap_or_default().join("/");
            return Ok(Place::Beneath(root, if rest.is_empty() { ".".to_owned() } else { rest }));
        }
        let below = self.mounts_below(&wanted);
        if below.is_empty() && !wanted.is_empty() {
            return Err(Errno::NOENT.into());
        }
        Ok(Place::Skeleton(below))
    }

    /// The names by which mounts continue a path.
    fn mounts_below(&self, path: &[String]) -> BTreeSet<String> {
        let below = self.mounts.iter().filter(|root| root.guest.starts_with(path));
        below.filter_map(|root| root.guest.get(path.len()).cloned()).collect()
    }

    /// A regular file to read.
    pub fn open(&self, path: &str) -> io::Result<File> {
        let Place::Beneath(root, rest) = self.place(path)? else { return Err(Errno::ISDIR.into()) };
        // Without waiting: a pipe that a guest has put there must not hold the thread.
        let file = root.open(&rest, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(file.into()),
            FileType::Directory => Err(Errno::ISDIR.into()),
            _ => Err(io::Error::other("not a regular file")),
        }
    }

    /// A new file in place of whatever file or link has the name.
    pub fn create(&self, path: &str, mode: u32) -> io::Result<File> {
        let (parent, name) = self.parent(path)?;
        remove_file(&parent, &name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o600))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
        Ok(file.into())
    }

    /// A link in place of whatever file or link has the name. Where it leads is looked at when it is followed.
    pub fn link(&self, path: &str, target: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        remove_file(&parent, &name)?;
        Ok(rustix::fs::symlinkat(target, &parent, &name)?)
    }

    /// A directory and those that lead to it, as far as they are not there.
    pub fn make_dirs(&self, path: &str, mode: u32) -> io::Result<()> {
        let all = parts(path);
        for count in 1..=all.len() {
            let path = format!("/{}", all.get(..count).unwrap_or_default().join("/"));
            match self.facts(&path, true) {
                Ok(facts) if facts.kind == FileType::Directory => continue,
                Ok(_) => return Err(Errno::NOTDIR.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let (parent, name) = self.parent(&path)?;
            match rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(mode & 0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub fn set_modified(&self, path: &str, seconds: i64) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        let at = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: at, last_modification: at };
        Ok(rustix::fs::utimensat(&parent, &name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    pub fn facts(&self, path: &str, follow: bool) -> io::Result<Facts> {
        match self.place(path)? {
            Place::Skeleton(_) => Ok(Facts { kind: FileType::Directory, mode: 0o555, size: 0, modified: 0 }),
            Place::Beneath(root, rest) => {
                let nofollow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
                let found = root.open(&rest, OFlags::PATH | nofollow, Mode::empty())?;
                Ok(facts(&rustix::fs::fstat(&found)?))
            }
        }
    }

    pub fn read_link(&self, path: &str) -> io::Result<String> {
        let Place::Beneath(root, rest) = self.place(path)? else { return Err(Errno::INVAL.into()) };
        let link = root.open(&rest, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(rustix::fs::readlinkat(&link, "", Vec::new())?.to_string_lossy().into_owned())
    }

    /// The names in a directory, sorted; without `.` and `..`.
    pub fn list(&self, path: &str) -> io::Result<BTreeSet<String>> {
        let (root, rest) = match self.place(path)? {
            Place::Skeleton(names) => return Ok(names),
            Place::Beneath(root, rest) => (root, rest),
        };
        let dir = root.open(&rest, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK, Mode::empty())?;
        let mut names = self.mounts_below(&parts(path));
        for entry in Dir::new(dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.insert(name);
            }
            if names.len() > MAX_NAMES {
                return Err(io::Error::other(format!("the directory has more than {MAX_NAMES} entries")));
            }
        }
        Ok(names)
    }

    /// The directory that holds a path's last part, for changes.
    fn parent(&self, path: &str) -> io::Result<(OwnedFd, String)> {
        let Place::Beneath(root, rest) = self.place(path)? else { return Err(Errno::ROFS.into()) };
        if root.read_only {
            return Err(Errno::ROFS.into());
        }
        if rest == "." {
            return Err(Errno::BUSY.into());
        }
        let (parent, name) = rest.rsplit_once('/').unwrap_or((".", &rest));
        Ok((root.open(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?, name.to_owned()))
    }
}

impl Root {
    fn open(&self, path: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let dir = self.dir.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut attempt = 0;
        loop {
            attempt += 1;
            match rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, mode, resolve) {
                // Something on the way was renamed meanwhile, so that the kernel could not be sure.
                Err(Errno::AGAIN) if attempt < ATTEMPTS => {}
                Err(Errno::NOSYS) => {
                    return Err(io::Error::other(
                        "files cannot be looked at safely: the kernel has no openat2 (Linux 5.6)",
                    ));
                }
                opened => return Ok(opened?),
            }
        }
    }
}

fn remove_file(parent: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn facts(stat: &Stat) -> Facts {
    Facts {
        kind: FileType::from_raw_mode(stat.st_mode),
        mode: stat.st_mode & 0o7777,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: stat.st_mtime,
    }
}

/// The parts of a path from the root; `..` takes the one before it away, never more.
pub fn parts(path: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

/// A path below a directory.
pub fn join(dir: &str, name: &str) -> String {
    format!("{}/{name}", dir.trim_end_matches('/'))
}

//! Directories of a pod's volumes that the host itself reads and writes on a guest's behalf.
//!
//! The volume is the guest's: it may put links where the host looks, or write into what it finds there. So
//! every way is walked below the volume without following any link.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};

use super::super::Mount;

/// Below what is opened, and by no link.
const STAY: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A directory of a volume.
#[derive(Debug, Clone)]
pub struct Place {
    volume: PathBuf,
    below: Vec<String>,
}

impl Place {
    /// Finds the volume that a container sees `directory` on; the error says why there is none for `what`.
    pub fn of(what: &str, directory: &str, mounts: &[Mount]) -> Result<Self, String> {
        let wanted = Path::new(directory);
        let under = |mount: &&Mount| wanted.strip_prefix(&mount.guest).is_ok();
        let nearest = mounts.iter().filter(under).max_by_key(|mount| mount.guest.len());
        let Some(mount) = nearest else {
            return Err(format!("the {what}'s directory {directory} is on none of the container's volumes"));
        };
        if mount.read_only {
            return Err(format!("the {what}'s directory {directory} is mounted read-only"));
        }
        let mut below = Vec::new();
        for part in wanted.strip_prefix(&mount.guest).unwrap_or(Path::new("")).components() {
            let Component::Normal(part) = part else {
                return Err(format!("the {what}'s directory {directory} has `..` in it"));
            };
            below.push(part.to_string_lossy().into_owned());
        }
        Ok(Self { volume: mount.host.clone(), below })
    }

    /// As the host calls it.
    pub fn shown(&self) -> PathBuf {
        self.below.iter().fold(self.volume.clone(), |path, part| path.join(part))
    }

    /// The directory, made if need be.
    pub fn directory(&self) -> std::io::Result<Directory> {
        let volume = openat(CWD, &self.volume, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH, Mode::empty())?;
        self.below.iter().try_fold(Directory(volume), |at, part| at.subdirectory(part, true))
    }
}

/// An open directory, within which nothing leads out.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// One of its directories, made if `make` says so.
    pub fn subdirectory(&self, name: &str, make: bool) -> std::io::Result<Self> {
        if make {
            match mkdirat(&self.0, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
        Ok(Self(openat2(&self.0, name, flags, Mode::empty(), STAY)?))
    }

    /// One of its files; no device or pipe that a guest has put there.
    pub fn file(&self, name: &str, how: OFlags) -> std::io::Result<File> {
        let flags = how | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = if how.contains(OFlags::CREATE) { Mode::from_raw_mode(0o600) } else { Mode::empty() };
        let file = File::from(openat2(&self.0, name, flags, mode, STAY)?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(std::io::Error::other(format!("{name} is no file"))),
        }
    }

    /// For the calls that take a directory and a name in it.
    pub fn as_fd(&self) -> impl AsFd + '_ {
        self.0.as_fd()
    }
}

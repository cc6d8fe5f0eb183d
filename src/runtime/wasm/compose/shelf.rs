//! Where composed components lie as files, from which they are compiled like any image.
//!
//! A file's name is its digest. What is wanted again is composed again, which takes less than reading it
//! from a slow disk; so any file here may go, and the oldest do.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::super::artifact::digest_of;

/// Files kept.
const MAX_FILES: usize = 32;

pub struct Shelf {
    dir: PathBuf,
    /// Its own, where nothing is kept on disk.
    _temporary: Option<tempfile::TempDir>,
}

impl Shelf {
    /// In the directory of compiled code, or in one that goes with the process.
    pub fn open(cache_dir: Option<&Path>) -> io::Result<Self> {
        let temporary = if cache_dir.is_some() { None } else { Some(tempfile::tempdir()?) };
        let parent = cache_dir.or(temporary.as_ref().map(tempfile::TempDir::path)).unwrap_or(Path::new("."));
        let dir = parent.join("composed");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir, _temporary: temporary })
    }

    /// Lays a component there; returns its file and its digest.
    pub fn put(&self, bytes: &[u8]) -> io::Result<(PathBuf, String)> {
        let digest = digest_of(bytes);
        let path = self.file_of(&digest).ok_or(io::ErrorKind::InvalidData)?;
        let mut file = tempfile::Builder::new().prefix(".writing-").tempfile_in(&self.dir)?;
        file.write_all(bytes)?;
        file.persist(&path).map_err(|error| error.error)?;
        self.prune(&path)?;
        Ok((path, digest))
    }

    /// Where the component with this digest lies, if it does; `None` for what is no digest.
    pub fn file_of(&self, digest: &str) -> Option<PathBuf> {
        let hex = digest.strip_prefix("sha256:")?;
        let is_hex = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| self.dir.join(format!("{hex}.wasm")))
    }

    fn prune(&self, latest: &Path) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path != latest && path.extension().is_some_and(|extension| extension == "wasm") {
                // Another composition may have removed it just now.
                if let Ok(changed) = fs::metadata(&path).and_then(|about| about.modified()) {
                    files.push((changed, path));
                }
            }
        }
        files.sort();
        let surplus = (files.len() + 1).saturating_sub(MAX_FILES);
        for (_, path) in files.into_iter().take(surplus) {
            let _ = fs::remove_file(path);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_found_under_its_digest_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(Some(dir.path())).unwrap();
        let (path, digest) = shelf.put(b"one").unwrap();
        assert_eq!((fs::read(&path).unwrap(), digest.clone()), (b"one".to_vec(), digest_of(b"one")));
        assert_eq!(shelf.put(b"one").unwrap().0, path);
        assert_eq!(shelf.file_of(&digest), Some(path));
        assert!(shelf.file_of("sha256:../../x").is_none() && shelf.file_of("").is_none());
        for number in 0..=MAX_FILES {
            shelf.put(format!("{number}").as_bytes()).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path().join("composed")).unwrap().count(), MAX_FILES);
        assert!(Shelf::open(None).unwrap().put(b"x").is_ok());
    }
}
